"""One agent's way through a run: start a cell, wait, and say how it ended. In: a planned agent. Out: events, and True if it succeeded.

The states are moved by events only; this file decides which event follows from what was seen.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio

from toka_cli import events as e
from toka_cli.errors import TokaError, Unavailable
from toka_cli.kernel.deliverables import find_deliverables
from toka_cli.kernel.environment import make_private
from toka_cli.kernel.kernel import Kernel, Line
from toka_cli.kernel.session import Session
from toka_cli.lifecycle import AGENT_FINAL, TASK_FINAL, AgentState, TaskState
from toka_cli.orchestrator.backend import AgentBackend, Cell
from toka_cli.plan.plan import Gate, PlannedAgent
from toka_cli.protocol import messages as m
from toka_cli.retry import delay_s
from toka_cli.state.log import EventLog
from toka_cli.state.snapshot import AgentView, TaskView
from toka_cli.units import format_duration

SPAWN_TRIES: Final = 5
TERM_GRACE_S: Final = 2.0
# After `agent.finish` is acknowledged the cell has nothing left to do but exit.
EXIT_GRACE_S: Final = 10.0
LOG_TAIL_CHARS: Final = 2000
# Reasons that may pass with a fresh process. What a limit, a refusal or a wrong spec ended would end so again.
RESTARTABLE: Final = ("crashed", "spawn")


@dataclass(slots=True)
class StopRequest:
    """Somebody wants the agent to end."""

    reason: str
    grace_s: float
    force: bool


@dataclass(slots=True)
class AgentRun:
    """One agent of a run, from queued to final."""

    planned: PlannedAgent
    agent_id: str
    kernel: Kernel
    log: EventLog
    backend: AgentBackend
    spawn_timeout_s: float
    restart_enabled: bool
    cell: Cell | None = None
    line: Line | None = None
    wanted: StopRequest | None = None
    rung: str = "already"
    done: anyio.Event = field(default_factory=anyio.Event)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def view(self) -> AgentView:
        """The agent as the log has it now."""
        return self.log.agent(self.agent_id)

    def stop(self, reason: str, grace_s: float, *, force: bool) -> None:
        """Ask for the end: the agent, then SIGTERM to its tree, then SIGKILL until nothing is left. A second request can only be stricter."""
        if self.view.state in AGENT_FINAL:
            return
        if self.wanted is None:
            self.wanted = StopRequest(reason, grace_s, force)
        else:
            self.wanted.grace_s = min(self.wanted.grace_s, grace_s)
            self.wanted.force = self.wanted.force or force
        self._wake.set()

    async def run(self) -> bool:
        """The main path. True if the agent succeeded."""
        private = Path(tempfile.mkdtemp(prefix=f"toka-{self.agent_id}-"))
        try:
            make_private(private)
            attempt = 1
            while not await self._life(attempt, private):
                attempt += 1
        finally:
            shutil.rmtree(private, ignore_errors=True)
            self.kernel.close_log(self.agent_id)
            self.done.set()
        return self.view.state == AgentState.SUCCEEDED

    async def _life(self, attempt: int, private: Path) -> bool:
        """One process of the agent, to its end. False if there has to be another one."""
        if self.wanted is not None and self.view.state in {AgentState.QUEUED, AgentState.PENDING}:
            self._settle_tasks(f"stopped: {self.wanted.reason}")
            self._append(e.AgentStopped(f"stopped: {self.wanted.reason}"))
            return True
        self._append(e.AgentStarting(attempt))
        try:
            reason = await self._cell_to_its_end(private)
        except TokaError as error:
            reason = f"spawn: Agent failed to start: {error.message}"
        if reason is not None and self._may_restart(reason, attempt):
            return not await self._back_off(reason, attempt)
        await self._conclude(reason, private)
        return True

    async def _cell_to_its_end(self, private: Path) -> str | None:
        """Start a cell and wait until nothing is left of it. None if it said that it was finished, else why it ended."""
        self.cell = cell = await self._start_cell(private)
        self.line = line = await self.kernel.open_agent(cell.door, self.planned, self.agent_id)
        try:
            reason = await self._watch(cell, line)
        finally:
            assert isinstance(line.session, Session)
            line.session.abandon()
            if line.peer is not None:
                line.peer.close()
            self.cell = None
        end = cell.ended.result()
        self._append(
            e.AgentExited(end.exit_code, end.signal, self.rung if self.wanted else None, end.cpu_time_s, end.peak_memory_bytes)
        )
        if reason is None and not line.finished.is_set() and self.wanted is None:
            reason = f"crashed: {_how(end)}"
        return reason

    async def _start_cell(self, private: Path) -> Cell:
        """A cell, tried again while the machine is short of processes. Raises TokaError."""
        for attempt in range(1, SPAWN_TRIES + 1):
            try:
                return await self._spawn(private)
            except Unavailable as error:
                if not error.retryable or attempt == SPAWN_TRIES:
                    raise
                await anyio.sleep(delay_s(attempt, first_s=0.2, factor=2.0, rng=self.kernel.rng))
        raise AssertionError("unreachable")

    async def _spawn(self, private: Path) -> Cell:
        request = self.kernel.request(self.planned, self.agent_id, private, os.getpid())
        return await self.backend.start(request, self.kernel.folder.logs / f"{self.agent_id}.cell.log")

    async def _watch(self, cell: Cell, line: Line) -> str | None:
        """Wait for the end, the limits and a stop, whichever is first; then see to the end. None, or what went wrong."""
        deadline = self.planned.limits.timeout_s
        reason = await self._until(cell, line, line.hello, self.spawn_timeout_s, "spawn: Agent failed to start: no word from its process in")
        if reason is None and self.wanted is None and not cell.ended.done():
            limit = deadline if deadline is not None else float("inf")
            reason = await self._until(cell, line, line.finished, limit, "limit.timeout: longer than")
        if self.wanted is not None and not cell.ended.done() and not line.finished.is_set():
            await self._ladder(cell, line)
        elif reason is not None:
            cell.order("kill")
        with anyio.move_on_after(EXIT_GRACE_S):
            await asyncio.shield(cell.ended)
        if not cell.ended.done():
            cell.order("kill")
            await asyncio.shield(cell.ended)
        return reason

    async def _until(self, cell: Cell, line: Line, event: asyncio.Event, limit_s: float, late: str) -> str | None:
        """Wait for `event`, the cell's end or a stop. A reason if the time is over, the protocol is broken or a limit is passed."""
        waits = [asyncio.ensure_future(waitable) for waitable in (event.wait(), line.changed.wait(), self._wake.wait())]
        awaited: list[asyncio.Future[Any]] = [*waits, cell.ended]
        try:
            await asyncio.wait(awaited, timeout=None if limit_s == float("inf") else limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if line.breach is not None:
            return line.breach
        if line.broken is not None:
            return f"protocol: {line.broken}"
        if event.is_set() or cell.ended.done() or self.wanted is not None or line.changed.is_set():
            return None
        return f"{late} {format_duration(limit_s)}"

    async def _ladder(self, cell: Cell, line: Line) -> None:
        """Ask, then SIGTERM, then SIGKILL; `rung` says which one it took."""
        assert self.wanted is not None
        self._append(e.AgentStopping(self.wanted.reason))
        if isinstance(line.session, Session):
            line.session.stop_reason = self.wanted.reason
        if not self.wanted.force and line.peer is not None:
            self.rung = "asked"
            line.peer.notify("agent.stop", m.StopAgent(self.wanted.reason, self.wanted.grace_s))
            if await self._ended_within(cell, self.wanted.grace_s):
                return
        if not self.wanted.force:
            self.rung = "term"
            cell.order("term")
            if await self._ended_within(cell, min(self.wanted.grace_s, TERM_GRACE_S)):
                return
        self.rung = "kill"
        cell.order("kill")
        await asyncio.shield(cell.ended)

    async def _ended_within(self, cell: Cell, limit_s: float) -> bool:
        """Wait for the end; a stricter request cuts the waiting short."""
        self._wake.clear()
        stricter = asyncio.ensure_future(self._wake.wait())
        awaited: list[asyncio.Future[Any]] = [cell.ended, stricter]
        try:
            await asyncio.wait(awaited, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stricter.cancel()
        return cell.ended.done()

    # --- how it ended ---

    def _may_restart(self, reason: str, attempt: int) -> bool:
        return (
            self.restart_enabled
            and self.planned.restart != "never"
            and attempt <= self.planned.restart_attempts
            and self.wanted is None
            and reason.startswith(RESTARTABLE)
        )

    async def _back_off(self, reason: str, attempt: int) -> bool:
        """Wait, then queue again at the first task that has not ended. False if a task was cut off in a way that must not be repeated, or a stop came."""
        doubtful = self._requeue_tasks()
        if doubtful is not None:
            await self._conclude(reason, None)
            return False
        delay = delay_s(attempt, first_s=self.planned.restart_delay_s, factor=2.0, rng=self.kernel.rng)
        self._append(e.AgentBackedOff(reason, round(delay, 3)))
        self._wake.clear()
        with anyio.move_on_after(delay):
            await self._wake.wait()
        if self.wanted is not None:
            self._settle_tasks(f"stopped: {self.wanted.reason}")
            self._append(e.AgentStopped(f"stopped: {self.wanted.reason}"))
            return False
        self._append(e.AgentRequeued())
        return True

    def _requeue_tasks(self) -> TaskView | None:
        """Tasks that were under way wait again, unless running them twice could repeat an effect: then the task fails and is returned."""
        for task in self.view.tasks:
            if task.state in {TaskState.RUNNING, TaskState.RETRYING}:
                brief = next(brief for brief in self.planned.tasks if brief.id == task.id)
                if task.state == TaskState.RUNNING and brief.on_interrupted != "rerun":
                    self._append(e.TaskFailed("interrupted: may or may not have taken effect"), task.id)
                    return task
                self._append(e.TaskRequeued(), task.id)
        return None

    async def _conclude(self, reason: str | None, private: Path | None) -> None:
        """The final state, from what the tasks and the gates say."""
        line = self.line
        if reason is None and line is not None and line.finished.is_set():
            failed = next((task for task in self.view.tasks if task.state == TaskState.FAILED and not self._allowed(task.id)), None)
            if failed is not None:
                reason = f"task_failed: {failed.id}: {failed.reason}"
            elif all(task.state in TASK_FINAL and task.state != TaskState.STOPPED for task in self.view.tasks) and private is not None:
                self._record_deliverables()
                reason = await self._gates(private)
                if reason is None:
                    self._append(e.AgentSucceeded())
                    return
        if self.wanted is not None and (reason is None or reason.startswith("stopped")):
            self._settle_tasks(f"stopped: {self.wanted.reason}")
            if self.view.state not in {AgentState.STOPPING, AgentState.QUEUED, AgentState.PENDING, AgentState.BACKOFF}:
                self._append(e.AgentStopping(self.wanted.reason))
            self._append(e.AgentStopped(f"stopped: {self.wanted.reason}"))
            return
        assert reason is not None
        self._settle_tasks(reason)
        self._append(e.AgentFailed(reason[:2000], self._cell_words() if reason.startswith(("crashed", "spawn")) else None))

    def _settle_tasks(self, reason: str) -> None:
        """Tasks that have not ended end with the agent."""
        for task in self.view.tasks:
            if task.state not in TASK_FINAL:
                self._append(e.TaskStopped(reason[:500]), task.id)

    async def _gates(self, private: Path) -> str | None:
        """Check the gates in order, each in a fresh cell; the reason of the first that does not pass."""
        for gate in self.planned.gates:
            if self.wanted is not None:
                return f"stopped: {self.wanted.reason}"
            self._append(e.AgentNoted(f"checking gate {gate.index}"))
            self._append(e.GateStarted(gate.index, gate.description))
            reason, outcome = await self._gate(gate, private)
            if reason is None:
                self._append(e.GatePassed(gate.index, gate.description, outcome))
            else:
                self._append(e.GateFailed(gate.index, gate.description, reason, outcome))
                return f"gate_failed: objective {gate.index}: {reason}"
        return None

    async def _gate(self, gate: Gate, private: Path) -> tuple[str | None, e.Outcome]:
        limit = gate.check.timeout_s or self.planned.limits.task_timeout_s or float("inf")
        try:
            self.cell = cell = await self._start_cell(private)
        except TokaError as error:
            return f"spawn: {error.message}", e.Outcome()
        line = await self.kernel.open_gate(cell.door, self.planned, self.agent_id, gate)
        try:
            late = await self._until(cell, line, line.finished, limit + TERM_GRACE_S * 2, "limit.timeout: longer than")
            if not line.finished.is_set():
                cell.order("kill")
            await asyncio.shield(cell.ended)
        finally:
            if line.peer is not None:
                line.peer.close()
            self.cell = None
        session = line.session
        assert not isinstance(session, Session)
        if self.wanted is not None and not session.finished:
            return f"stopped: {self.wanted.reason}", session.outcome
        return (session.reason if session.finished else late or session.reason), session.outcome

    def _record_deliverables(self) -> None:
        for promise in self.planned.promises:
            for path, size, digest in find_deliverables(Path(self.kernel.workdir), promise.globs):
                self._append(e.DeliverableRecorded(path, size, digest, promise.index))

    def _allowed(self, task_id: str) -> bool:
        return any(brief.allow_failure for brief in self.planned.tasks if brief.id == task_id)

    def _cell_words(self) -> str | None:
        """The last words of a cell that broke, for the hint."""
        try:
            text = (self.kernel.folder.logs / f"{self.agent_id}.cell.log").read_text("utf-8", "replace")
        except OSError:
            return None
        return text[-LOG_TAIL_CHARS:].strip() or None

    def _append(self, event: e.AnyEvent, task: str | None = None) -> None:
        self.log.append(event, agent=self.agent_id, task=task)


def _how(end: m.Exit) -> str:
    if end.signal is not None:
        return f"signal {end.signal}"
    if end.exit_code is not None:
        return f"exit {end.exit_code} without a word"
    return "its shim was killed" if end.lost else "unknown"
