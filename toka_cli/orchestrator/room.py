"""What this machine has room for: how many agents at once, and whether anything new may start now. Every change is said aloud, once.

In: what the backend, the log and the agents' logs know. Out: `slots`, `held`, and RunWarned, RunHeld, RunReleased. It starts and ends nothing itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio

from toka_cli import events as e
from toka_cli.errors import Refused
from toka_cli.kernel.outputs import AgentLog
from toka_cli.orchestrator.backend import AgentBackend
from toka_cli.state.log import EventLog

LOOK_S: Final = 1.0
# Who found no room on the disk tries again about as often as is looked: so many looks without a word mean that there is some.
FULL_LOOKS: Final = 3


@dataclass(slots=True)
class Room:
    """The room of one run. `slots` agents may run at once; while `held` is set nothing new starts, and it says why.

    Without `degrade` only what cannot be helped holds the run back: a disk that takes nothing any more. `running` says how many agents hold a slot now;
    `on_room` is called when there is room again.
    """

    log: EventLog
    backend: AgentBackend
    places: tuple[Path, ...]
    slots: int
    degrade: bool
    running: Callable[[], int]
    on_room: Callable[[], None]
    held: str | None = None
    _full: tuple[str, float] | None = None
    _said: set[str] = field(default_factory=set)

    def crowded(self, why: str) -> None:
        """The machine refused another process: from now on fewer at once."""
        fewer = max(1, self.running() - 1)
        if self.degrade and fewer < self.slots:
            self.slots = fewer
            self.log.append(e.RunWarned(f"at most {fewer} agents at once from now on: {why}", "crowded", fewer))

    def take_troubles(self) -> None:
        """What the backend did in a weaker way than was planned is said, each kind once. Raises Refused where nothing may be weaker."""
        for code, sentence in self.backend.troubles():
            if not self.degrade:
                raise Refused(sentence, hint="[recovery] enable_graceful_degradation = true goes on with what can be had")
            if code not in self._said:
                self._said.add(code)
                self.log.append(e.RunWarned(sentence, code))

    def disk_full(self, why: str) -> None:
        """Something could not be written: nothing new starts until this was not said for a while."""
        self._full = why, time.monotonic() + FULL_LOOKS * LOOK_S
        self._hold(why)

    def look(self, waiting: bool, logs: Iterable[AgentLog]) -> None:
        """See whether anything new may start. `waiting`: somebody would; `logs` are those of live agents, which are written again if they can be."""
        stalled = [log.stalled for log in logs if not log.retry()]
        if self._full is not None and time.monotonic() > self._full[1]:
            self._full = None
        why = self.log.stalled or (f"outputs cannot be written: {stalled[0]}" if stalled else self._full[0] if self._full is not None else None)
        # While nothing runs nothing will give its memory back: then one is better than none.
        if why is None and self.degrade and waiting and self.running():
            why = self.backend.shortage(self.places)
        if why is not None:
            self._hold(why)
        elif self.held is not None:
            self.held = None
            self.log.append(e.RunReleased())

    async def watch(self, waiting: Callable[[], bool], logs: Callable[[], Iterable[AgentLog]]) -> None:
        """Look again every second, for ever."""
        while True:
            await anyio.sleep(LOOK_S)
            held = self.held
            self.look(waiting(), logs())
            if self.degrade:
                # Else it is for the next start to refuse; what runs is not ended for it.
                self.take_troubles()
            if held is not None and self.held is None:
                self.on_room()

    def _hold(self, why: str) -> None:
        if self.held is None:
            # Once per time: while it lasts the words may differ, but it is the same want of room.
            self.held = why
            self.log.append(e.RunHeld(why))
