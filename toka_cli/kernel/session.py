"""One cell's calls, answered. The kernel knows who is calling by the connection; nothing that the cell says changes that.

Every method checks, counts and records, and answers only after what it recorded is durable. In: messages of one door. Out: events, audit rows, answers.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from toka_cli import events as e
from toka_cli import retry
from toka_cli.errors import Bug, ProtocolError
from toka_cli.kernel.outputs import AgentLog, Spool
from toka_cli.kernel.schemas import schema_problem
from toka_cli.lifecycle import TASK_FINAL, TaskState
from toka_cli.paths import RunFolder
from toka_cli.plan.plan import PlannedAgent
from toka_cli.policy.validator import CapabilityValidator, Denial
from toka_cli.protocol import messages as m
from toka_cli.protocol.peer import Answer
from toka_cli.state.log import EventLog
from toka_cli.state.snapshot import TaskView
from toka_cli.tools.catalog import ToolCatalog

MAX_NOTE_CHARS: Final = 500
CATALOG: Final = ToolCatalog()


@dataclass(slots=True)
class Session:
    """The kernel's side of one agent's cell.

    `on_hello` and `on_finish` are called once; `on_breach(reason)` when a limit that the kernel counts is passed.
    """

    folder: RunFolder
    log: EventLog
    agent_id: str
    pid: int
    held: dict[str, str]
    planned: PlannedAgent
    brief: m.AgentBrief
    output: AgentLog
    rng: random.Random
    on_hello: Callable[[], None]
    on_finish: Callable[[], None]
    on_breach: Callable[[str], None]
    stop_reason: str | None = None
    resumable: bool = False
    beats: int = 0
    _tasks: dict[str, m.TaskBrief] = field(default_factory=dict)
    _attempts: dict[str, int] = field(default_factory=dict)
    _running: dict[str, Spool] = field(default_factory=dict)
    _open_calls: dict[str, str] = field(default_factory=dict)
    _written: int = 0
    _tool_calls: int = 0
    _greeted: bool = False
    _finished: bool = False

    def __post_init__(self) -> None:
        known = {task.id for task in self.brief.tasks}
        self._tasks = {task.id: task for task in self.planned.tasks if task.id in known}

    def serve(self, method: str, params: m.Message, answer: Answer) -> None:
        """Answer one call. Raises ProtocolError for what a cell that works as ours would never send."""
        if self._finished and method == "agent.beat":
            # It beats until its finish is acknowledged.
            return
        if self._finished or (not self._greeted and method != "agent.hello"):
            raise ProtocolError(f"{method} {'after agent.finish' if self._finished else 'before agent.hello'}")
        try:
            result = _HANDLERS[method](self, params)
        except Bug as error:
            # What the cell says cannot be, or cannot be stored: its fault, not a bug of ours.
            raise error if isinstance(error, ProtocolError) else ProtocolError(f"{method}: {error.message}") from error
        if result is not None and method in _NO_EFFECT:
            answer(result)
        elif result is not None:
            self.log.after_commit(lambda: answer(result))

    def abandon(self) -> None:
        """The cell is gone: drop what its attempts had begun to write."""
        for task, spool in self._running.items():
            self.output.end_task(task)
            spool.drop()
        self._running.clear()

    # --- the agent ---

    def _hello(self, params: m.Hello) -> m.Message:
        if self._greeted:
            raise ProtocolError("a second agent.hello")
        self._greeted = True
        isolation = {**params.isolation, "limits": self.held}
        # What the cell says it runs under is kept; which process it is, we know from our own side.
        self._append(e.AgentStarted(self.pid, isolation))
        self.log.audit(
            "agent.start",
            "allowed",
            subject=self.agent_id,
            context={"name": self.planned.name, "grants": list(self.planned.grants), "isolation": isolation},
        )
        self.on_hello()
        return self.brief

    def _note(self, params: m.Note) -> None:
        self._append(e.AgentNoted(params.detail[:MAX_NOTE_CHARS]))

    def _beat(self, params: m.Beat) -> None:
        self.beats += 1

    def _measure(self, params: m.Measure) -> None:
        self._append(e.AgentMeasured(params.name[:100], params.value))

    def _finish(self, params: m.FinishAgent) -> m.Message:
        if self._running:
            raise ProtocolError("agent.finish while a task is running")
        if self.stop_reason is None and (open_task := next((task for task in self._views() if task.state not in TASK_FINAL), None)):
            raise ProtocolError(f"agent.finish before task {open_task.id} has ended")
        self._finished = True
        self.on_finish()
        return m.Ack()

    # --- tasks ---

    def _start_attempt(self, params: m.StartAttempt) -> m.Message:
        task = self._task(params.task)
        if params.task in self._running or params.attempt != self._attempts.get(params.task, 0) + 1:
            raise ProtocolError(f"attempt {params.attempt} of task {params.task} is out of order")
        if self.stop_reason is not None:
            if not self.resumable:
                self._append(e.TaskStopped(f"stopped: {self.stop_reason}"), task.id)
            return m.Go(go=False, reason=f"stopped: {self.stop_reason}")
        denial = self._validator().check_all(task.requires, f"task {task.id}")
        if denial is not None:
            self._deny(task.id, denial)
            reason = f"capability_denied: {denial.capability}: {denial.message}"
            self._append(e.TaskFailed(reason, e.Outcome(stderr=f"{denial.message}\n{denial.hint}"), allowed=task.allow_failure), task.id)
            return m.Go(go=False, reason=reason)
        self._attempts[task.id] = params.attempt
        self._running[task.id] = Spool(self.folder, f"{self.agent_id}-{task.id}-{params.attempt}")
        self._append(e.TaskStarted(params.attempt), task.id)
        return m.Go(go=True)

    def _output(self, params: m.Output) -> None:
        spool = self._running.get(params.task)
        if spool is None or params.stream not in {"stdout", "stderr"}:
            raise ProtocolError(f"output of a task that is not running: {params.task}")
        self._written += len(params.data)
        limit = self.brief.limits.output_bytes
        if limit is not None and self._written > limit:
            # The cell holds each command to the same bound; this counts all of an agent's commands together, and a cell that lies.
            self.on_breach(f"limit.output: more than {limit} bytes written")
            return
        spool.add(params.data)
        self.output.write(params.task, params.stream, params.data)

    def _finish_attempt(self, params: m.FinishAttempt) -> m.Message:
        task = self._task(params.task)
        spool = self._running.pop(params.task, None)
        if spool is None or params.attempt != self._attempts[params.task]:
            raise ProtocolError(f"attempt {params.attempt} of task {params.task} was not running")
        self.output.end_task(task.id)
        outcome = self._kept(task, spool, params.outcome)
        reason = None if params.ok else (params.reason or "failed")
        if params.ok and task.output_schema is not None:
            reason = schema_problem(task.output_schema, outcome)
        return self._verdict(task, params.attempt, reason, outcome)

    def _verdict(self, task: m.TaskBrief, attempt: int, reason: str | None, outcome: e.Outcome) -> m.Verdict:
        if reason is None:
            self._append(e.TaskSucceeded(outcome), task.id)
            return m.Verdict("succeeded")
        self.output.say(task.id, f"attempt {attempt} failed: {reason}")
        if self.stop_reason is not None:
            # Of a run that will go on, a task that was cut off stays under way: it is in doubt, and decided when the run is resumed.
            if not self.resumable:
                self._append(e.TaskStopped(f"stopped: {self.stop_reason}", outcome), task.id)
            return m.Verdict("stopped", reason=reason)
        if attempt <= task.retries and _may_pass(reason):
            delay = retry.delay_s(attempt, first_s=task.retry_delay_s, factor=task.retry_backoff, rng=self.rng)
            self._append(e.TaskRetrying(attempt, reason, round(delay, 3), outcome), task.id)
            return m.Verdict("retry", delay_s=delay, reason=reason)
        self._append(e.TaskFailed(reason, outcome, allowed=task.allow_failure), task.id)
        return m.Verdict("allowed" if task.allow_failure else "failed", reason=reason)

    def _skip_task(self, params: m.SkipTask) -> m.Message:
        task = self._task(params.task)
        # Skipping everything must not be a way to success.
        if self.stop_reason is None and not any(view.state == TaskState.FAILED and not self._tasks[view.id].allow_failure for view in self._views()):
            raise ProtocolError(f"task.skip of {task.id}, and no task has failed")
        self._append(e.TaskSkipped(params.reason[:MAX_NOTE_CHARS]), task.id)
        return m.Ack()

    # --- tools ---

    def _call_tool(self, params: m.CallTool) -> m.Message:
        if params.task not in self._running or params.call_id in self._open_calls:
            raise ProtocolError(f"a tool call out of order: {params.call_id}")
        tool = CATALOG.find(params.tool)
        denial = self._validator().check(tool.power, f"tool {tool.name}") or self._check_path(tool.power, tool.name, params.args)
        if denial is not None:
            self._deny(params.task, denial, tool.name)
            return m.ToolReply(go=False, reason=f"capability_denied: {denial.capability}: {denial.message}")
        self._tool_calls += 1
        limit = self.brief.limits.max_tool_calls
        if limit is not None and self._tool_calls > limit:
            self.log.audit("tool.call", "denied", subject=self.agent_id, context={"tool": tool.name, "limit": "max_tool_calls"})
            return m.ToolReply(go=False, reason=f"limit.tool_calls: more than {limit} tool calls")
        self._open_calls[params.call_id] = params.task
        self._append(e.ToolCalled(params.call_id, tool.name, _bounded(params.args), tool.effect), params.task)
        self.log.audit("tool.call", "allowed", subject=self.agent_id, context={"tool": tool.name, "task": params.task, "power": tool.power})
        return m.ToolReply(go=True)

    def _finish_tool(self, params: m.FinishTool) -> m.Message:
        task = self._open_calls.pop(params.call_id, None)
        if task is None:
            raise ProtocolError(f"a tool call ended that had not begun: {params.call_id}")
        self._append(e.ToolDone(params.call_id, params.ok, params.error), task)
        return m.Ack()

    # --- small parts ---

    def _append(self, event: e.AnyEvent, task: str | None = None) -> None:
        self.log.append(event, agent=self.agent_id, task=task)

    def _task(self, task_id: str) -> m.TaskBrief:
        task = self._tasks.get(task_id)
        if task is None:
            raise ProtocolError(f"no task {task_id[:80]!r} in the brief")
        return task

    def _views(self) -> list[TaskView]:
        return [task for task in self.log.agent(self.agent_id).tasks if task.id in self._tasks]

    def _validator(self) -> CapabilityValidator:
        return CapabilityValidator(self.planned.grants, self.planned.declared, self.planned.grant_values)

    def _check_path(self, power: str | None, tool: str, args: dict[str, Any]) -> Denial | None:
        """A narrowed grant covers the file that the path really leads to, links followed; a path outside the workdir is the tool's to refuse."""
        path = args.get("path", ".")
        if power is None or not isinstance(path, str) or not any(self.planned.grant_values.values()):
            return None
        root = os.path.realpath(self.brief.workdir)
        relative = os.path.relpath(os.path.realpath(os.path.join(root, path)), root)  # noqa: PTH118  pathlib drops what realpath needs
        return self._validator().check_path(power, relative, f"tool {tool}")

    def _deny(self, task: str, denial: Denial, tool: str = "task") -> None:
        self._append(e.ToolDenied(tool, denial.capability, denial.message), task)
        self.log.audit("tool.call", "denied", subject=self.agent_id, context={"tool": tool, "task": task, "missing": denial.capability})
        self.output.say(task, denial.message)

    def _kept(self, task: m.TaskBrief, spool: Spool, outcome: e.Outcome) -> e.Outcome:
        """The outcome with the whole output kept as an artifact where the inline one is cut."""
        path = spool.finish()
        if path is None:
            # What the cell calls an artifact is none.
            return msgspec.structs.replace(outcome, artifact=None) if outcome.artifact is not None else outcome
        artifact = self.log.add_artifact(path, name=f"{task.id}.log", agent=self.agent_id, task=task.id)
        return msgspec.structs.replace(outcome, artifact=artifact)


def _may_pass(reason: str) -> bool:
    """True if another attempt could end differently: a refusal, a missing program and a broken promise of toka's own are not transient."""
    return not reason.startswith(("capability_denied", "limit.tool_calls", "limit.output", "not_started", "internal"))


def _bounded(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments as the log keeps them: long texts cut, so that one write_file does not double the state file."""
    return {name: value if len(text := str(value)) <= 2000 else f"{text[:2000]}... ({len(text)} characters)" for name, value in args.items()}


# Their answers start nothing: what they recorded is durable with the next call that does, because the log keeps its order.
_NO_EFFECT: Final = frozenset({"agent.hello", "agent.finish"})

_HANDLERS: Final[dict[str, Callable[[Session, Any], m.Message | None]]] = {
    "agent.hello": Session._hello,
    "agent.note": Session._note,
    "agent.beat": Session._beat,
    "agent.measure": Session._measure,
    "agent.finish": Session._finish,
    "attempt.start": Session._start_attempt,
    "attempt.finish": Session._finish_attempt,
    "task.output": Session._output,
    "task.skip": Session._skip_task,
    "tool.call": Session._call_tool,
    "tool.done": Session._finish_tool,
}
