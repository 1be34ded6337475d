"""One agent's way through a run: start a cell, wait, and say how it ended. In: a planned agent. Out: events, and True if it succeeded.

The states are moved by events only; this file decides which event follows from what was seen.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from toka_cli import events as e
from toka_cli.errors import TokaError, Unavailable
from toka_cli.kernel.deliverables import find_deliverables
from toka_cli.kernel.environment import make_private
from toka_cli.kernel.kernel import Kernel, Line
from toka_cli.kernel.session import Session
from toka_cli.lifecycle import AGENT_FINAL, TASK_FINAL, AgentState, TaskState
from toka_cli.orchestrator.backend import AgentBackend, Cell
from toka_cli.orchestrator.cell_watch import TERM_GRACE_S, CellWatch, Patience, StopRequest
from toka_cli.orchestrator.recovery import IN_DOUBT, in_doubt_rule
from toka_cli.orchestrator.stopwatch import Stopwatch
from toka_cli.plan.plan import Gate, PlannedAgent
from toka_cli.protocol import messages as m
from toka_cli.retry import delay_s
from toka_cli.state.log import EventLog
from toka_cli.state.snapshot import AgentView, TaskView

SPAWN_TRIES: Final = 5
LOG_TAIL_CHARS: Final = 2000
# Reasons that may pass with a fresh process. What a limit, a refusal or a wrong spec ended would end so again.
RESTARTABLE: Final = ("crashed", "spawn", "unresponsive", "protocol")
# So many bad ends within so many seconds are a loop, whatever the spec allows.
CRASH_LOOP_COUNT: Final = 5
CRASH_LOOP_S: Final = 600.0
# A life this long, in seconds, was healthy: the next delay is the first one again.
HEALTHY_S: Final = 300.0


@dataclass(slots=True)
class AgentRun:
    """One agent of a run, from queued to final."""

    planned: PlannedAgent
    agent_id: str
    kernel: Kernel
    log: EventLog
    backend: AgentBackend
    patience: Patience
    restart_enabled: bool
    on_crowded: Callable[[str], None]
    cell: Cell | None = None
    line: Line | None = None
    wanted: StopRequest | None = None
    done: anyio.Event = field(default_factory=anyio.Event)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _stopwatch: Stopwatch = field(default_factory=lambda: Stopwatch(asyncio.get_running_loop().time))
    _frozen: bool = False
    _private: Path | None = None
    _failures: int = 0
    _crashes: list[float] = field(default_factory=list)

    @property
    def view(self) -> AgentView:
        """The agent as the log has it now."""
        return self.log.agent(self.agent_id)

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

    def pause(self, *, hard: bool) -> bool:
        """Start nothing new until `resume`; `hard` freezes the whole tree. Clocks stand still. False if the agent is not running."""
        if self.view.state != AgentState.RUNNING or self.line is None or self.wanted is not None:
            return False
        self._append(e.AgentPaused())
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
        self._private = private = Path(tempfile.mkdtemp(prefix=f"toka-{self.agent_id}-"))
        try:
            make_private(private)
            attempt = 1
            while not await self._life(attempt, private):
                attempt += 1
        finally:
            self.kernel.close_log(self.agent_id)
            self.done.set()
        return self.view.state == AgentState.SUCCEEDED

    async def clean(self) -> None:
        """Remove the private folder, beside the loop: nobody who waits for this agent has to wait for that."""
        if self._private is not None:
            await anyio.to_thread.run_sync(shutil.rmtree, self._private, True)

    async def _life(self, attempt: int, private: Path) -> bool:
        """One process of the agent, to its end. False if there has to be another one."""
        if self.wanted is not None and self.view.state in {AgentState.QUEUED, AgentState.PENDING}:
            self._stopped()
            return True
        self._append(e.AgentStarting(attempt))
        began = asyncio.get_running_loop().time()
        try:
            reason = await self._cell_to_its_end(private)
        except TokaError as error:
            reason = f"spawn: Agent failed to start: {error.message}"
        if asyncio.get_running_loop().time() - began >= HEALTHY_S:
            self._failures = 0
        self._failures += 1
        if reason is not None and self._may_restart(reason):
            return not await self._back_off(reason)
        await self._conclude(reason, private)
        return True

    async def _cell_to_its_end(self, private: Path) -> str | None:
        """Start a cell and wait until nothing is left of it. None if it said that it was finished, else why it ended."""
        self.cell = cell = await self._start_cell(private)
        self.line = line = await self.kernel.open_agent(cell.door, self.planned, self.agent_id, cell.pid, cell.limits_held())
        watch = self._watch(cell, line)
        try:
            reason = await watch.to_the_end(self.planned.limits.timeout_s, self._on_stopping)
        finally:
            assert isinstance(line.session, Session)
            line.session.abandon()
            if line.peer is not None:
                line.peer.close()
            self.cell = None
        end = cell.ended.result()
        self._append(
            e.AgentExited(end.exit_code, end.signal, watch.rung if self.wanted else None, end.cpu_time_s, end.peak_memory_bytes)
        )
        if reason is None and not line.finished.is_set() and self.wanted is None:
            reason = f"crashed: {_how(end)}" if line.hello.is_set() else f"spawn: Agent failed to start: its process ended before it was up: {_how(end)}"
        return reason

    async def _start_cell(self, private: Path) -> Cell:
        """A cell, tried again while the machine is short of processes. Raises TokaError."""
        for attempt in range(1, SPAWN_TRIES + 1):
            try:
                return await self._spawn(private)
            except Unavailable as error:
                if not error.retryable or attempt == SPAWN_TRIES:
                    raise
                self.on_crowded(error.message)
                await anyio.sleep(delay_s(attempt, first_s=0.2, factor=2.0, rng=self.kernel.rng))
        raise AssertionError("unreachable")

    async def _spawn(self, private: Path) -> Cell:
        request = self.kernel.request(self.planned, self.agent_id, private, os.getpid())
        return await self.backend.start(request, self.kernel.folder.logs / f"{self.agent_id}.cell.log")

    def _watch(self, cell: Cell, line: Line) -> CellWatch:
        return CellWatch(cell, line, self.patience, self._stopwatch, lambda: self.wanted, self._wake)

    def _on_stopping(self) -> None:
        assert self.wanted is not None
        self._stopwatch.resume()
        self._append(e.AgentStopping(self.wanted.reason))

    # --- how it ended ---

    def _may_restart(self, reason: str) -> bool:
        now = asyncio.get_running_loop().time()
        self._crashes = [at for at in self._crashes if now - at < CRASH_LOOP_S] + [now]
        return (
            self.restart_enabled
            and self.planned.restart != "never"
            and self._failures <= self.planned.restart_attempts
            and self.wanted is None
            and reason.startswith(RESTARTABLE)
            and len(self._crashes) < CRASH_LOOP_COUNT
            # What would have been skipped because of it must not run in the next life.
            and not any(task.state == TaskState.FAILED and not self._allowed(task.id) for task in self.view.tasks)
        )

    async def _back_off(self, reason: str) -> bool:
        """Wait, then queue again at the first task that has not ended. False if a task was cut off in a way that must not be repeated, or a stop came."""
        doubtful = self._requeue_tasks()
        if doubtful is not None:
            await self._conclude(reason, None)
            return False
        delay = delay_s(self._failures, first_s=self.planned.restart_delay_s, factor=2.0, rng=self.kernel.rng)
        self._append(e.AgentBackedOff(reason, round(delay, 3)))
        self._wake.clear()
        with anyio.move_on_after(delay):
            await self._wake.wait()
        if self.wanted is not None:
            self._stopped()
            return False
        self._append(e.AgentRequeued())
        return True

    def _requeue_tasks(self) -> TaskView | None:
        """Tasks that were under way wait again, unless running them twice could repeat an effect: then the task fails and is returned."""
        for task in self.view.tasks:
            if task.state in {TaskState.RUNNING, TaskState.RETRYING}:
                brief = next(brief for brief in self.planned.tasks if brief.id == task.id)
                if task.state == TaskState.RUNNING and in_doubt_rule(brief) != "rerun":
                    self._append(e.TaskFailed(IN_DOUBT, allowed=brief.allow_failure), task.id)
                    if not brief.allow_failure:
                        return task
                else:
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
        self._append(e.AgentStopped(f"stopped: {self.wanted.reason}"))

    def _leave_pause(self) -> None:
        """A paused agent that had nothing left to do ends all the same."""
        if self.view.state == AgentState.PAUSED:
            self._stopwatch.resume()
            self._append(e.AgentResumed())

    def _settle_tasks(self, reason: str) -> None:
        """Tasks that have not ended end with the agent."""
        for task in self.view.tasks:
            if task.state not in TASK_FINAL:
                self._append(e.TaskStopped(reason[:500]), task.id)

    async def _gates(self, private: Path) -> str | None:
        """Check the gates in order, each in a fresh cell; the reason of the first that does not pass."""
        for gate in self.planned.gates:
            while self.view.state == AgentState.PAUSED and self.wanted is None:
                self._wake.clear()
                await self._wake.wait()
            if self.wanted is not None:
                return f"stopped: {self.wanted.reason}"
            self._append(e.AgentNoted(f"checking gate {gate.index}"))
            self._append(e.GateStarted(gate.index, gate.description))
            reason, outcome = await self._gate(gate, private)
            if reason is None:
                self._append(e.GatePassed(gate.index, gate.description, outcome))
            elif reason.startswith("stopped"):
                # Nobody knows what it would have said: the gate is as open as before.
                return reason
            else:
                self._append(e.GateFailed(gate.index, gate.description, reason, outcome))
                return f"gate_failed: objective {gate.index}: {reason}"
        return None

    async def _gate(self, gate: Gate, private: Path) -> tuple[str | None, e.Outcome]:
        limit = gate.check.timeout_s or self.planned.limits.task_timeout_s
        # The cell ends the command in time; this stands behind it.
        limit = None if limit is None else limit + TERM_GRACE_S * 2
        try:
            self.cell = cell = await self._start_cell(private)
        except TokaError as error:
            return f"spawn: {error.message}", e.Outcome()
        # A pause reaches the gate's cell like the agent's own.
        self.line = line = await self.kernel.open_gate(cell.door, self.planned, self.agent_id, gate)
        try:
            late = await self._watch(cell, line).until(line.finished, limit, "limit.timeout: longer than")
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
