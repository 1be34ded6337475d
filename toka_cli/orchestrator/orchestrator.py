"""The orchestrator: makes a plan happen. An agent starts the moment its dependencies allow it and a slot is free; what cannot start any more is skipped.

In: a plan, a log, a kernel, a backend. Out: events until the run is final. It starts no process itself and prints nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from toka_cli import events as e
from toka_cli.errors import EXIT_BUDGET, EXIT_DECISION, EXIT_REFUSED, EXIT_REPLAY, EXIT_RUN_FAILED, EXIT_TIMED_OUT, EXIT_UNAVAILABLE
from toka_cli.ids import agent_id
from toka_cli.kernel import code_files
from toka_cli.kernel.kernel import Kernel
from toka_cli.kernel.outputs import AgentLog
from toka_cli.lifecycle import AGENT_FINAL, AgentState, RunState
from toka_cli.orchestrator.agent_run import AgentRun
from toka_cli.orchestrator.backend import AgentBackend
from toka_cli.orchestrator.cell_watch import Patience
from toka_cli.orchestrator.restarts import Restarts
from toka_cli.orchestrator.room import Room
from toka_cli.orchestrator.stopwatch import Stopwatch
from toka_cli.plan.plan import Plan, PlannedAgent
from toka_cli.plan.schedule import Place, Schedule
from toka_cli.state.log import EventLog
from toka_cli.units import format_duration

CAUSES: Final = {
    "budget": EXIT_BUDGET,
    "replay_miss": EXIT_REPLAY,
    "decision_needed": EXIT_DECISION,
    "sandbox": EXIT_REFUSED,
    **{f"provider_{cause}": EXIT_UNAVAILABLE for cause in (
        "auth", "quota", "unknown_model", "rate_limit", "overloaded", "timeout", "refused", "dns", "reset", "tls", "crashed",
    )},
}  # fmt: skip
"""Why an agent can fail, by the stable word of its reason, and the exit code of a run that failed for that alone."""

WRITING: Final = frozenset({"filesystem-write", "script-execution", "cargo-execution", "git-access"})
"""Grants with which an agent can write into the working directory."""

# So long, in seconds, is a disk without room waited for when the end is wanted, or wanted at once.
LAST_WRITE_S: Final = 10.0
FORCED_WRITE_S: Final = 1.0


@dataclass(slots=True)
class Orchestrator:
    """One run, from started to final. Durations in seconds. `degrade`: with less room than planned the run goes on with less, and says so."""

    plan: Plan
    log: EventLog
    kernel: Kernel
    backend: AgentBackend
    patience: Patience
    grace_s: float
    restart_enabled: bool = True
    degrade: bool = True
    stopwatch: Stopwatch = field(default_factory=lambda: Stopwatch(time.monotonic))
    runs: dict[str, AgentRun] = field(default_factory=dict)
    stop_reason: str | None = None
    exit_code: int = EXIT_RUN_FAILED
    resumable: bool = False
    _schedule: Schedule | None = None
    _group: TaskGroup | None = None
    _room: Room | None = None
    _done: anyio.Event = field(default_factory=anyio.Event)
    _asked: asyncio.Event = field(default_factory=asyncio.Event)
    _forced: bool = False

    async def run(self) -> None:
        """Start what is ready, and again whenever an agent ends, until all are final."""
        self._schedule = schedule = Schedule(self.plan)
        places = (self.log.folder.root, Path(self.plan.workdir))
        self._room = room = Room(self.log, self.backend, places, self.plan.max_agents, self.degrade, lambda: schedule.running, self._start_ready)
        ids = {agent.name: agent.id for agent in self.log.view.agents}
        for planned in self.plan.agents:
            restarts = Restarts(planned, self.restart_enabled, asyncio.get_running_loop().time)
            self.runs[planned.name] = AgentRun(
                planned, ids[planned.name], self.kernel, self.log, self.backend, self.patience, room, restarts
            )
        if self.log.view.state == RunState.PENDING:
            self.log.append(e.RunStarted())
        async with anyio.create_task_group() as self._group:
            if self.plan.timeout_s is not None:
                self._group.start_soon(self._limit_time, self.plan.timeout_s)
            self._group.start_soon(room.watch, self._waiting, self._live_logs)
            self._take_in_what_has_ended()
            self._queue(self._schedule.ready())
            self._start_ready()
            self._finish_if_done()
            await self._done.wait()
            self._group.cancel_scope.cancel()
        await self._tell_code_files()
        self._end()
        await self._written()

    async def _tell_code_files(self) -> None:
        """Warn of files that agents may have written and that programs run unasked. A second Ctrl-C does not wait for it."""
        since = self.log.view.started_at
        if self._forced or since is None or not any(WRITING & set(agent.grants) for agent in self.plan.agents):
            return
        found = await anyio.to_thread.run_sync(code_files.written_since, self.plan.workdir, since.timestamp())
        if (text := code_files.sentence(found)) is not None:
            self.log.append(e.RunWarned(text, "code_files"))

    async def _written(self) -> None:
        """Wait until everything is durable, on a full disk until there is room; once somebody wants the end, only a little. The log says what is lost."""
        writing = asyncio.ensure_future(self.log.committed())
        self._asked.clear()
        if self.stop_reason is None:
            await self._either(writing, None)
            self._asked.clear()
        if not writing.done():
            await self._either(writing, FORCED_WRITE_S if self._forced else LAST_WRITE_S)
        if writing.done():
            await writing
        writing.cancel()

    async def _either(self, writing: asyncio.Future[None], limit_s: float | None) -> None:
        """Wait until it is written, or somebody asks for the end, or the time is over."""
        asked = asyncio.ensure_future(self._asked.wait())
        waits: list[asyncio.Future[Any]] = [writing, asked]
        await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()

    def stop_run(
        self, reason: str, *, grace_s: float | None = None, force: bool = False, exit_code: int = EXIT_RUN_FAILED, resumable: bool = False
    ) -> None:
        """End the run early: start nothing more, stop what runs. Again with `force`: at once.

        With `resumable` the run is `interrupted` afterwards, and what has not ended can go on later.
        """
        # Also for a run that is over and only waits for a disk with room.
        self._asked.set()
        self._forced = self._forced or force
        if self._schedule is None or self._done.is_set():
            return
        if self.stop_reason is None:
            self.stop_reason, self.exit_code, self.resumable = reason, exit_code, resumable
            self.log.append(e.RunStopping(reason))
            self._schedule.stop()
            for name in self._schedule.unstarted():
                if not resumable:
                    self._never_started(name, reason)
                self._schedule.finished(name, succeeded=False)
        for run in self.runs.values():
            if run.view.state != AgentState.PENDING or not self.resumable:
                run.stop(reason, self.grace_s if grace_s is None else grace_s, force=force, resumable=self.resumable)
        self._finish_if_done()

    def suspend(self) -> list[AgentRun]:
        """Freeze every running agent and stand still, until `unsuspend` is given what this returned."""
        frozen = [run for run in self.runs.values() if run.pause(hard=True)]
        if self.log.view.state == RunState.RUNNING:
            self.log.append(e.RunPaused("terminal"))
        self.stopwatch.pause()
        return frozen

    def unsuspend(self, frozen: list[AgentRun]) -> None:
        """Go on after `suspend`."""
        self.stopwatch.resume()
        if self.log.view.state == RunState.PAUSED:
            self.log.append(e.RunResumed())
        for run in frozen:
            run.resume()

    def stop_agent(self, name: str, reason: str, *, grace_s: float | None = None, force: bool = False) -> bool:
        """End one agent early; its dependants are skipped. False if it had already ended."""
        assert self._schedule is not None
        run = self.runs[name]
        if run.view.state in AGENT_FINAL:
            return False
        if self._schedule.place(name) in {Place.WAITING, Place.READY}:
            self._never_started(name, reason)
            self._ended(name, succeeded=False)
        else:
            run.stop(reason, self.grace_s if grace_s is None else grace_s, force=force)
        return True

    # --- the ready queue ---

    def _queue(self, names: Iterable[str]) -> None:
        for name in names:
            # An agent that is recovered from its backoff is queued already.
            if self.runs[name].view.state == AgentState.PENDING:
                self.log.append(e.AgentQueued(), agent=self.runs[name].agent_id)

    def _take_in_what_has_ended(self) -> None:
        """Of a run that goes on, some agents have ended in an earlier life; what follows from that is done if it was not."""
        assert self._schedule is not None
        for run in self.runs.values():
            if run.view.state in AGENT_FINAL:
                run.done.set()
                freed = self._schedule.finished(run.planned.name, run.view.state == AgentState.SUCCEEDED)
                self._skip(freed.skipped)

    def _start_ready(self) -> None:
        assert self._schedule is not None
        assert self._group is not None
        assert self._room is not None
        free = self._room.slots - self._schedule.running
        if free <= 0 or not self._waiting():
            return
        self._room.look(waiting=True, logs=self._live_logs())
        if self._room.held is None:
            for name in self._schedule.start_ready(free):
                self._group.start_soon(self._one, name)

    def _waiting(self) -> bool:
        """True if an agent waits for nothing but a slot."""
        assert self._schedule is not None
        return not self._schedule.stopped and bool(self._schedule.ready())

    def _live_logs(self) -> list[AgentLog]:
        return [self.kernel.agent_log(run.agent_id) for run in self.runs.values() if run.cell is not None]

    async def _one(self, name: str) -> None:
        run = self.runs[name]
        with anyio.CancelScope(shield=True):
            try:
                self._ended(name, succeeded=await run.run())
            finally:
                await run.clean()

    def _ended(self, name: str, *, succeeded: bool) -> None:
        assert self._schedule is not None
        freed = self._schedule.finished(name, succeeded)
        self._skip(freed.skipped)
        if not succeeded and self.plan.fail_fast and self.stop_reason is None:
            self.stop_run(f"fail_fast: {name}")
        if self.stop_reason is None:
            self._queue(freed.ready)
            self._start_ready()
        self._finish_if_done()

    def _skip(self, names: Iterable[tuple[str, str]]) -> None:
        for skipped, reason in names:
            # After a stop they are final already.
            if self.runs[skipped].view.state not in AGENT_FINAL:
                for task in self.runs[skipped].view.tasks:
                    self.log.append(e.TaskSkipped(reason), agent=self.runs[skipped].agent_id, task=task.id)
                self.log.append(e.AgentSkipped(reason), agent=self.runs[skipped].agent_id)
            self.runs[skipped].done.set()

    def _never_started(self, name: str, reason: str) -> None:
        for task in self.runs[name].view.tasks:
            self.log.append(e.TaskStopped(f"stopped: {reason}"), agent=self.runs[name].agent_id, task=task.id)
        self.log.append(e.AgentStopped(f"stopped: {reason}"), agent=self.runs[name].agent_id)
        self.runs[name].done.set()

    def _finish_if_done(self) -> None:
        if self._schedule is not None and self._schedule.done:
            self._done.set()

    async def _limit_time(self, limit_s: float) -> None:
        # The stopwatch stands still while the run is suspended: what is left is looked at again after each sleep.
        while (left := limit_s - self.stopwatch.worked_s()) > 0:  # noqa: ASYNC110  there is no event to wait for but the time itself
            await anyio.sleep(left)
        self.stop_run(f"timeout: longer than {format_duration(limit_s)}", exit_code=EXIT_TIMED_OUT)

    def _end(self) -> None:
        """The run's final state, from its agents'."""
        bad = [agent for agent in self.log.view.agents if agent.state != AgentState.SUCCEEDED]
        causes = {agent.name: _cause(agent.reason or "") for agent in bad if agent.state == AgentState.FAILED}
        failed, codes = list(causes), {CAUSES.get(cause, EXIT_RUN_FAILED) for cause in causes.values()}
        stopped = [agent.name for agent in bad if agent.state == AgentState.STOPPED]
        if not bad:
            self.log.append(e.RunSucceeded())
        elif self.resumable and any(agent.state not in AGENT_FINAL for agent in bad):
            self.log.append(e.RunInterrupted(self.stop_reason or "stopped", self.exit_code))
        elif self.stop_reason is not None and not self.stop_reason.startswith("fail_fast"):
            self.log.append(e.RunStopped(self.stop_reason, self.exit_code))
        elif failed or not stopped:
            self.log.append(e.RunFailed(f"agents_failed: {_listed(failed)}", codes.pop() if len(codes) == 1 else EXIT_RUN_FAILED))
        else:
            # Nothing failed: what is missing was stopped by somebody, one agent at a time, or needed one of those.
            self.log.append(e.RunStopped(f"agents_stopped: {_listed(stopped)}", EXIT_RUN_FAILED))


def _cause(reason: str) -> str:
    """The stable word of an agent's reason; of a task that failed, that of the task's."""
    word, _, rest = reason.partition(": ")
    return rest.partition(": ")[2].partition(":")[0] if word == "task_failed" else word


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def create_events(plan: Plan, log: EventLog, run: str, command: tuple[str, ...], version: str) -> None:
    """The first events of a run: itself and its agents."""
    log.append(e.RunCreated(run, plan.workdir, version, command, {**plan.options, "at_once": plan.max_agents}))
    for index, planned in enumerate(plan.agents, 1):
        log.append(e.AgentCreated(_info(planned)), agent=agent_id(run, index))
    for warning in plan.warnings:
        log.append(e.RunWarned(warning))


def _info(planned: PlannedAgent) -> e.AgentInfo:
    limits = {name: getattr(planned.limits, name) for name in planned.limits.__struct_fields__}
    return e.AgentInfo(
        name=planned.name,
        title=planned.title,
        workstream=planned.workstream,
        domain=planned.domain,
        priority=planned.priority,
        depends_on=planned.depends_on,
        after=planned.after,
        grants=planned.grants,
        limits=limits,
        tasks=tuple(e.TaskInfo(task.id, task.description, task.kind, task.priority) for task in planned.tasks),
        spec_path=planned.spec_path,
    )
