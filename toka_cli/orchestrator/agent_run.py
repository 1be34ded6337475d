"""One agent's way through a run: start a cell, wait, and say how it ended. In: a planned agent. Out: events, and True if it succeeded.

The states are moved by events only; this file decides which event follows from what was seen.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio

from toka_cli import events as e
from toka_cli.errors import TokaError
from toka_cli.kernel.deliverables import find_deliverables
from toka_cli.kernel.kernel import Kernel, Line
from toka_cli.kernel.session import Session
from toka_cli.lifecycle import AGENT_FINAL, TASK_FINAL, AgentState, TaskState
from toka_cli.orchestrator.backend import AgentBackend, Cell
from toka_cli.orchestrator.cell_watch import TERM_GRACE_S, CellWatch, Patience, StopRequest
from toka_cli.orchestrator.recovery import requeue_tasks
from toka_cli.orchestrator.restarts import Restarts
from toka_cli.orchestrator.room import Room
from toka_cli.orchestrator.starting import Starter
from toka_cli.orchestrator.stopwatch import Stopwatch
from toka_cli.plan.plan import Gate, PlannedAgent
from toka_cli.protocol import messages as m
from toka_cli.state.log import EventLog
from toka_cli.state.snapshot import AgentView
from toka_cli.units import format_duration

LOG_TAIL_CHARS: Final = 2000


@dataclass(slots=True)
class AgentRun:
    """One agent of a run, from queued to final."""

    planned: PlannedAgent
    agent_id: str
    kernel: Kernel
    log: EventLog
    backend: AgentBackend
    patience: Patience
    room: Room
    restarts: Restarts
    cell: Cell | None = None
    line: Line | None = None
    wanted: StopRequest | None = None
    done: anyio.Event = field(default_factory=anyio.Event)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _stopwatch: Stopwatch = field(default_factory=lambda: Stopwatch(asyncio.get_running_loop().time))
    _frozen: bool = False
    _watch: CellWatch | None = None
    # Working time of the cells that have ended, those of former owners too.
    _spent_s: float = 0.0
    _cut_off: dict[str, e.Outcome] = field(default_factory=dict)
    _gate_rung: str | None = None

    starter: Starter = field(init=False)

    def __post_init__(self) -> None:
        self._spent_s = self.view.worked_s or 0.0
        self.starter = Starter(self.planned, self.agent_id, self.kernel, self.backend, self.room, self._rest)

    @property
    def view(self) -> AgentView:
        """The agent as the log has it now."""
        return self.log.agent(self.agent_id)

    @property
    def worked_s(self) -> float:
        """Seconds that the agent has worked: all its processes, also those of former owners, without pauses. Its time limit counts these."""
        return round(self._spent_s + (self._watch.worked_s() if self._watch is not None else 0.0), 3)

    def stop(self, reason: str, grace_s: float, *, force: bool, resumable: bool = False) -> None:
        """Ask for the end: the agent, then SIGTERM to its tree, then SIGKILL until nothing is left. A second request can only be stricter.

        With `resumable` what has not ended stays open, for the owner that resumes the run.
        """
        if self.view.state in AGENT_FINAL:
            return
        if self.wanted is None:
            self.wanted = StopRequest(reason, grace_s, force, resumable)
        elif grace_s >= self.wanted.grace_s and force <= self.wanted.force:
            # Asking again in the same words hurries nobody.
            return
        else:
            self.wanted.grace_s = min(self.wanted.grace_s, grace_s)
            self.wanted.force = self.wanted.force or force
        self._wake.set()

    def pause(self, *, hard: bool, reason: str | None = None) -> bool:
        """Start nothing new until `resume`; `hard` freezes the whole tree. Clocks stand still. False if the agent is not running.

        `reason` is said where no person asked for it.
        """
        if self.view.state != AgentState.RUNNING or self.line is None or self.wanted is not None:
            return False
        self._append(e.AgentPaused(reason))
        self._stopwatch.pause()
        if self.line.peer is not None:
            self.line.peer.notify("agent.pause", m.PauseAgent())
        if hard and self.cell is not None:
            self._frozen = True
            self.cell.freeze()
        self._wake.set()
        return True

    def resume(self) -> bool:
        """Go on. False if the agent is not paused."""
        if self.view.state != AgentState.PAUSED or self.line is None:
            return False
        self._append(e.AgentResumed())
        took = self._stopwatch.resume()
        if self.line.peer is not None:
            # Sent before the tree goes on: the cell moves its own deadlines before it looks at them.
            self.line.peer.notify("agent.resume", m.ResumeAgent(frozen_s=took if self._frozen else 0.0))
        if self._frozen and self.cell is not None:
            self.cell.thaw()
        self._frozen = False
        self._wake.set()
        return True

    async def run(self) -> bool:
        """The main path. True if the agent succeeded. Its private folder stays until `clean`."""
        try:
            attempt = 1
            while not await self._life(attempt):
                attempt += 1
        finally:
            self.kernel.close_log(self.agent_id)
            self.done.set()
        return self.view.state == AgentState.SUCCEEDED

    async def clean(self) -> None:
        """Remove the private folder."""
        await self.starter.clean()

    async def _life(self, attempt: int) -> bool:
        """One process of the agent, to its end. False if there has to be another one."""
        if self.wanted is not None and self.view.state in {AgentState.QUEUED, AgentState.PENDING}:
            self._stopped()
            return True
        self._append(e.AgentStarting(attempt))
        began = asyncio.get_running_loop().time()
        self.line, self._cut_off = None, {}
        try:
            reason = await self._cell_to_its_end()
        except TokaError as error:
            reason = f"spawn: Agent failed to start: {error.message}"
        self.restarts.ended(asyncio.get_running_loop().time() - began)
        if reason is not None and self._may_restart(reason):
            return not await self._back_off(reason)
        await self._conclude(reason, gates=True)
        return True

    async def _cell_to_its_end(self) -> str | None:
        """Start a cell and wait until nothing is left of it. None if it said that it was finished, else why it ended."""
        cell = await self._start_cell()
        if cell is None:
            return None
        way = await self.kernel.open_way(self.planned, self.agent_id, cell.proxy_listener)
        self.line = line = await self.kernel.open_agent(cell.door, self.planned, self.agent_id, cell.pid, cell.limits_held())
        watch = self._watch_over(cell, line)
        try:
            reason = await watch.to_the_end(self._left_s(), self._late(), self._on_stopping)
        finally:
            if way is not None:
                await way.close()
            assert isinstance(line.session, Session)
            self._cut_off = line.session.abandon()
            self._watched(line)
        end = cell.ended.result()
        rung = watch.rung if self.wanted else None
        self._append(e.AgentExited(end.exit_code, end.signal, rung, end.cpu_time_s, end.peak_memory_bytes, self.worked_s))
        if reason is None and not line.finished.is_set() and self.wanted is None:
            reason = f"crashed: {_how(end)}" if line.hello.is_set() else self._stillborn(end)
        return self._tampered() if reason is None else reason

    def _stillborn(self, end: m.Exit) -> str:
        """Why a cell ended before its first word: a wall that could not be put up, or anything else."""
        if end.exit_code == m.EXIT_NOT_HELD:
            return f"sandbox: Agent failed to start: a wall that was planned cannot be had: {(self._cell_words() or 'unknown').splitlines()[-1]}"
        return f"spawn: Agent failed to start: its process ended before it was up: {_how(end)}"

    def _tampered(self) -> str | None:
        """Where no wall keeps an agent from what makes git start programs, it is looked at afterwards."""
        found = self.kernel.outside.look_at_git(self.planned, self.agent_id) if self.kernel.outside is not None else None
        return None if found is None else f"sandbox: {found}"

    async def _start_cell(self) -> Cell | None:
        self.cell = await self.starter.start()
        return self.cell

    async def _rest(self, limit_s: float) -> bool:
        """Wait so many seconds; False if a stop came."""
        self._wake.clear()
        if self.wanted is None:
            with anyio.move_on_after(limit_s):
                await self._wake.wait()
        return self.wanted is None

    def _watch_over(self, cell: Cell, line: Line) -> CellWatch:
        self._watch = CellWatch(cell, line, self.patience, self._stopwatch, lambda: self.wanted, self._wake)
        return self._watch

    def _watched(self, line: Line) -> None:
        """Nothing is left of a cell."""
        if line.peer is not None:
            line.peer.close()
        self._spent_s, self._watch, self.cell = self.worked_s, None, None

    def _left_s(self) -> float | None:
        limit_s = self.planned.limits.timeout_s
        return None if limit_s is None else max(0.0, limit_s - self.worked_s)

    def _late(self) -> str:
        return f"limit.timeout: longer than {format_duration(self.planned.limits.timeout_s or 0.0)}"

    def _on_stopping(self) -> None:
        assert self.wanted is not None
        self._stopwatch.resume()
        self._append(e.AgentStopping(self.wanted.reason))

    # --- how it ended ---

    def _may_restart(self, reason: str) -> bool:
        return (
            self.restarts.allow(reason)
            and self.wanted is None
            # What would have been skipped because of it must not run in the next life.
            and not any(task.state == TaskState.FAILED and not self._allowed(task.id) for task in self.view.tasks)
        )

    async def _back_off(self, reason: str) -> bool:
        """Wait, then queue again at the first task that has not ended. False if a task was cut off in a way that must not be repeated, or a stop came."""
        if requeue_tasks(self.log, self.planned, self.view, "fail", self._cut_off) is not None:
            await self._conclude(reason, gates=False)
            return False
        delay = self.restarts.delay_s(self.kernel.rng)
        self._append(e.AgentBackedOff(reason, round(delay, 3)))
        if not await self._rest(delay):
            self._stopped()
            return False
        self._append(e.AgentRequeued())
        return True

    async def _conclude(self, reason: str | None, *, gates: bool) -> None:
        """The final state, from what the tasks and the gates say."""
        line = self.line
        if reason is None and line is not None and line.finished.is_set():
            failed = next((task for task in self.view.tasks if task.state == TaskState.FAILED and not self._allowed(task.id)), None)
            if failed is not None:
                reason = f"task_failed: {failed.id}: {failed.reason}"
            elif all(task.state in TASK_FINAL and task.state != TaskState.STOPPED for task in self.view.tasks) and gates:
                self._record_deliverables()
                reason = await self._gates()
                if reason is None:
                    self._leave_pause()
                    self._append(e.AgentSucceeded())
                    return
        if self.wanted is not None and (reason is None or reason.startswith("stopped")):
            self._stopped()
            return
        assert reason is not None
        self._settle_tasks(reason)
        self._append(e.AgentFailed(reason[:2000], self._cell_words() if reason.startswith(("crashed", "spawn")) else None))

    def _stopped(self) -> None:
        """It ended because somebody wanted it to: final, or waiting for the owner that resumes the run."""
        assert self.wanted is not None
        if self.wanted.resumable:
            if self.view.state != AgentState.PENDING:
                self._append(e.AgentRequeued())
            return
        self._settle_tasks(f"stopped: {self.wanted.reason}")
        if self.view.state not in {AgentState.STOPPING, AgentState.QUEUED, AgentState.PENDING, AgentState.BACKOFF}:
            self._append(e.AgentStopping(self.wanted.reason))
        self._append(e.AgentStopped(f"stopped: {self.wanted.reason}", self._gate_rung))

    def _leave_pause(self) -> None:
        """A paused agent that had nothing left to do ends all the same."""
        if self.view.state == AgentState.PAUSED:
            self._stopwatch.resume()
            self._append(e.AgentResumed())

    def _settle_tasks(self, reason: str) -> None:
        """Tasks that have not ended end with the agent, with what they had written."""
        for task in self.view.tasks:
            if task.state not in TASK_FINAL:
                self._append(e.TaskStopped(reason[:500], self._cut_off.get(task.id, e.Outcome())), task.id)

    async def _gates(self) -> str | None:
        """Check the gates in order, each in a fresh cell; the reason of the first that does not pass."""
        for gate in self.planned.gates:
            while self.view.state == AgentState.PAUSED and self.wanted is None:
                self._wake.clear()
                await self._wake.wait()
            if self.wanted is not None:
                return f"stopped: {self.wanted.reason}"
            self._append(e.AgentNoted(f"checking gate {gate.index}"))
            self._append(e.GateStarted(gate.index, gate.description))
            reason, outcome = await self._gate(gate)
            if reason is None:
                self._append(e.GatePassed(gate.index, gate.description, outcome))
            elif reason.startswith("stopped"):
                # Nobody knows what it would have said: the gate is as open as before.
                return reason
            else:
                self._append(e.GateFailed(gate.index, gate.description, reason, outcome))
                return reason if reason == self._late() else f"gate_failed: objective {gate.index}: {reason}"
        return None

    async def _gate(self, gate: Gate) -> tuple[str | None, e.Outcome]:
        left_s, late = self._left_s(), self._late()
        limit_s = gate.check.timeout_s or self.planned.limits.task_timeout_s
        # The cell ends the command in time; this stands behind it.
        if limit_s is not None and (left_s is None or limit_s + TERM_GRACE_S * 2 < left_s):
            left_s, late = limit_s + TERM_GRACE_S * 2, f"limit.task_timeout: longer than {format_duration(limit_s)}"
        try:
            cell = await self._start_cell()
        except TokaError as error:
            return f"spawn: {error.message}", e.Outcome()
        if cell is None:
            return "stopped: before it began", e.Outcome()
        # A pause reaches the gate's cell like the agent's own.
        way = await self.kernel.open_way(self.planned, self.agent_id, cell.proxy_listener)
        self.line = line = await self.kernel.open_gate(cell.door, self.planned, self.agent_id, gate)
        watch = self._watch_over(cell, line)
        try:
            broken = await watch.to_the_end(left_s, late, self._on_stopping)
        finally:
            if way is not None:
                await way.close()
            self._watched(line)
        session = line.session
        assert not isinstance(session, Session)
        self._gate_rung = watch.rung if self.wanted is not None else None
        if self.wanted is not None and not session.finished:
            return f"stopped: {self.wanted.reason}", session.outcome
        return broken or session.reason, session.outcome

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
