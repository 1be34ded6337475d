"""The time that an attempt at a task has: what is over, and what does not count. In: seconds on the scheduler's clock. Out: seconds that are left."""

from __future__ import annotations

from toka_cli.agent.strands import Scheduler


class Deadline:
    """`limit_s` seconds of work from now on, None: not limited. It can stand still."""

    def __init__(self, scheduler: Scheduler, limit_s: float | None) -> None:
        self.limit_s = limit_s
        self._scheduler = scheduler
        self._end = None if limit_s is None else scheduler.now + limit_s
        self._stopped_at: float | None = None

    def left(self) -> float | None:
        """Seconds that are left, None when time is not limited."""
        if self._end is None:
            return None
        return max(0.0, self._end - (self._scheduler.now if self._stopped_at is None else self._stopped_at))

    @property
    def standing(self) -> bool:
        """True while it stands still."""
        return self._stopped_at is not None

    @property
    def over(self) -> bool:
        """True when nothing is left."""
        return self.left() == 0.0

    def stop(self) -> None:
        """Stand still: what is waited for is not the task's doing."""
        if self._stopped_at is None:
            self._stopped_at = self._scheduler.now

    def go_on(self) -> None:
        """Count again."""
        if self._stopped_at is not None and self._end is not None:
            self._end += self._scheduler.now - self._stopped_at
        self._stopped_at = None
