"""Whether an agent whose process broke is started again, and when: by cause, with growing delays, and not in a loop. Counts only; starts nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from toka_cli.plan.plan import PlannedAgent
from toka_cli.retry import delay_s

# Reasons that may pass with a fresh process. What a limit, a refusal or a wrong spec ended would end so again.
RESTARTABLE: Final = ("crashed", "spawn", "unresponsive", "protocol")
# So many bad ends within so many seconds are a loop, whatever the spec allows.
CRASH_LOOP_COUNT: Final = 5
CRASH_LOOP_S: Final = 600.0
# A life this long, in seconds, was healthy: the next delay is the first one again.
HEALTHY_S: Final = 300.0


@dataclass(slots=True)
class Restarts:
    """The account of one agent's bad ends. `clock` is in seconds; without `enabled` nothing is ever started again."""

    planned: PlannedAgent
    enabled: bool
    clock: Callable[[], float]
    _failures: int = 0
    _ends: list[float] = field(default_factory=list)

    def ended(self, life_s: float) -> None:
        """A life ended after so many seconds."""
        self._failures = 1 if life_s >= HEALTHY_S else self._failures + 1

    def allow(self, reason: str) -> bool:
        """True if another life may follow an end for this reason, which is counted."""
        now = self.clock()
        self._ends = [at for at in self._ends if now - at < CRASH_LOOP_S] + [now]
        return (
            self.enabled
            and self.planned.restart != "never"
            and self._failures <= self.planned.restart_attempts
            and reason.startswith(RESTARTABLE)
            and len(self._ends) < CRASH_LOOP_COUNT
        )

    def delay_s(self, rng: random.Random) -> float:
        """Seconds to wait before the next life."""
        return delay_s(self._failures, first_s=self.planned.restart_delay_s, factor=2.0, rng=rng)
