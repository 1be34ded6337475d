"""A clock that stands still while its owner is paused: limits count working time."""

from __future__ import annotations

from collections.abc import Callable


class Stopwatch:
    """Seconds of work on a clock that is given. Pauses may not be nested; a second one does nothing."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self._paused_s = 0.0
        self._paused_at: float | None = None

    @property
    def paused(self) -> bool:
        """True while the clock stands still."""
        return self._paused_at is not None

    def worked_s(self) -> float:
        """Seconds since the start, without pauses."""
        now = self._clock() if self._paused_at is None else self._paused_at
        return now - self._started - self._paused_s

    def pause(self) -> None:
        """Stand still."""
        if self._paused_at is None:
            self._paused_at = self._clock()

    def resume(self) -> float:
        """Go on; how many seconds this pause took."""
        if self._paused_at is None:
            return 0.0
        took, self._paused_at = self._clock() - self._paused_at, None
        self._paused_s += took
        return took
