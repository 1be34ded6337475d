"""Watches one cell to its end: limits of time, what the kernel and the governor report, silence, and the ladder of a stop.

In: a cell, its line, what is wanted of it. Out: None if it ended by itself or as it was asked to, else a reason, a stable word first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from toka_cli.kernel.kernel import Line
from toka_cli.kernel.session import Session
from toka_cli.orchestrator.backend import Cell
from toka_cli.orchestrator.stopwatch import Stopwatch
from toka_cli.protocol import messages as m
from toka_cli.units import format_duration

TERM_GRACE_S: Final = 2.0
# After `agent.finish` is acknowledged, or its door is closed, the cell has nothing left to do but exit.
EXIT_GRACE_S: Final = 10.0
CLOSED_GRACE_S: Final = 1.0


@dataclass(slots=True)
class StopRequest:
    """Somebody wants the agent to end. `resumable`: the run will go on later, so what has not ended stays open instead of becoming `stopped`."""

    reason: str
    grace_s: float
    force: bool
    resumable: bool = False


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds: for a cell's first word, for its next heartbeat, and for anything that shows that it gets on (None: for ever)."""

    spawn_s: float
    heartbeat_s: float
    progress_s: float | None = None


@dataclass(slots=True)
class CellWatch:
    """One cell under watch. `turn` is set whenever what is wanted of it changed."""

    cell: Cell
    line: Line
    patience: Patience
    stopwatch: Stopwatch
    wanted: Callable[[], StopRequest | None]
    turn: asyncio.Event
    rung: str = "already"
    _silence_s: float = field(default=0.0, init=False)
    _beats: int = field(default=0, init=False)
    _began_s: float | None = field(default=None, init=False)
    _progress: int = field(default=0, init=False)
    _progress_s: float = field(default=0.0, init=False)

    def worked_s(self) -> float:
        """Seconds that the cell has worked since its first word, without pauses."""
        return 0.0 if self._began_s is None else self.stopwatch.worked_s() - self._began_s

    async def to_the_end(self, limit_s: float | None, late: str, on_stopping: Callable[[], None]) -> str | None:
        """Wait for the end, the limit (`late` is the reason then) and a stop, whichever is first; then see to it that nothing is left."""
        spawn_s = self.patience.spawn_s
        reason = await self._until(self.line.hello, spawn_s, f"spawn: Agent failed to start: no word from its process in {format_duration(spawn_s)}")
        self._began_s = self._progress_s = self.stopwatch.worked_s()
        if reason is None and self.wanted() is None and not self.cell.ended.done():
            reason = await self._until(self.line.finished, limit_s, late)
        if self.wanted() is not None and not self.cell.ended.done() and not self.line.finished.is_set():
            on_stopping()
            await self._ladder()
        elif reason is not None:
            self.cell.order("kill")
        grace = EXIT_GRACE_S if self.line.finished.is_set() else CLOSED_GRACE_S
        with anyio.move_on_after(grace):
            await asyncio.shield(self.cell.ended)
        if not self.cell.ended.done():
            exited = self.cell.exited
            self.cell.order("kill")
            await asyncio.shield(self.cell.ended)
            if reason is None and not exited and not self.line.finished.is_set() and self.wanted() is None:
                reason = "protocol: closed its door and went on"
        if self.wanted() is None:
            await self.cell.settle()
        if self.cell.breached.done() and self.wanted() is None:
            # The kernel acted between two looks, and what it did looked like a failure of the task.
            return self.cell.breached.result()
        return reason

    async def _until(self, event: asyncio.Event, limit_s: float | None, late: str) -> str | None:
        """Wait for `event`, the cell's end or a stop, at most `limit_s` seconds of work. A reason if the time is over or something broke."""
        began = self.stopwatch.worked_s()
        slice_s = min(self.patience.heartbeat_s, self.patience.progress_s or self.patience.heartbeat_s) / 4
        while True:
            left = None if limit_s is None else max(0.0, limit_s - (self.stopwatch.worked_s() - began))
            bound = slice_s if left is None or self.stopwatch.paused else min(left, slice_s)
            overslept = await self._rest(event, bound)
            if (reason := self._trouble()) is not None:
                return reason
            if event.is_set() or self.cell.ended.done() or self.wanted() is not None or self.line.changed.is_set():
                return None
            if self.stopwatch.paused:
                self._silence_s = 0.0
                continue
            if limit_s is not None and self.stopwatch.worked_s() - began >= limit_s:
                return late
            if (reason := self._silent(bound, overslept) or self._stuck(overslept)) is not None:
                return reason

    async def _rest(self, event: asyncio.Event, bound_s: float) -> bool:
        """Wait for anything to happen. True if this process itself was away (stopped, or the machine slept): then silence proves nothing."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        waits = [asyncio.ensure_future(waitable) for waitable in (event.wait(), self.line.changed.wait(), self.turn.wait())]
        awaited: list[asyncio.Future[Any]] = [*waits, self.cell.ended, self.cell.breached]
        try:
            await asyncio.wait(awaited, timeout=bound_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.wanted() is None:
            self.turn.clear()
        return loop.time() - began > bound_s * 2 + 1.0

    def _trouble(self) -> str | None:
        if self.cell.breached.done():
            return self.cell.breached.result()
        if self.line.breach is not None:
            return self.line.breach
        if self.line.broken is not None:
            return f"protocol: {self.line.broken}"
        return None

    def _silent(self, waited_s: float, overslept: bool) -> str | None:
        session = self.line.session
        if not isinstance(session, Session) or not self.line.hello.is_set():
            return None
        if session.beats != self._beats or overslept:
            self._beats, self._silence_s = session.beats, 0.0
        else:
            self._silence_s += waited_s
        if self._silence_s >= self.patience.heartbeat_s:
            return f"unresponsive: no heartbeat for {format_duration(self.patience.heartbeat_s)}"
        return None

    def _stuck(self, overslept: bool) -> str | None:
        """A reason if nothing but heartbeats came for too long while something was to be done."""
        session, limit_s = self.line.session, self.patience.progress_s
        if limit_s is None or not isinstance(session, Session) or not self.line.hello.is_set():
            return None
        now = self.stopwatch.worked_s()
        if session.progress != self._progress or overslept or session.resting:
            self._progress, self._progress_s = session.progress, now
        if now - self._progress_s >= limit_s:
            return f"no_progress: nothing but heartbeats for {format_duration(limit_s)}"
        return None

    async def _ladder(self) -> None:
        """Ask, then SIGTERM, then SIGKILL; `rung` says which one it took."""
        wanted = self.wanted()
        assert wanted is not None
        # A tree that is held back or frozen could not obey.
        self.cell.release()
        if isinstance(self.line.session, Session):
            # A model call under way is paid for: it has most of the grace to end, the cell the rest to say what came of it.
            wait_s = 0.0 if wanted.force else wanted.grace_s * 0.7
            self.line.session.stop(wanted.reason, resumable=wanted.resumable, wait_s=wait_s)
        if not wanted.force and self.line.peer is not None:
            self.rung = "asked"
            self.line.peer.notify("agent.stop", m.StopAgent(wanted.reason, wanted.grace_s))
            if await self._ended_within(wanted.grace_s):
                return
        if not wanted.force:
            self.rung = "term"
            self.cell.order("term")
            if await self._ended_within(min(wanted.grace_s, TERM_GRACE_S)):
                return
        self.rung = "kill"
        self.cell.order("kill")
        await asyncio.shield(self.cell.ended)

    async def _ended_within(self, limit_s: float) -> bool:
        """Wait for the end; a stricter request cuts the waiting short."""
        self.turn.clear()
        stricter = asyncio.ensure_future(self.turn.wait())
        awaited: list[asyncio.Future[Any]] = [self.cell.ended, stricter]
        try:
            await asyncio.wait(awaited, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stricter.cancel()
        return self.cell.ended.done()
