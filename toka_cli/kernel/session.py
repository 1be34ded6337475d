"""One cell's calls, answered. The kernel knows who is calling by the connection; nothing that the cell says changes that.

Every method checks, counts and records, and answers only after what it recorded is durable. In: messages of one door. Out: events, audit rows, answers.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from tempfile import gettempdir
from typing import Any, Final

import msgspec

from toka_cli import events as e
from toka_cli import retry
from toka_cli.errors import Bug, ProtocolError, StateUnavailable, TokaError
from toka_cli.kernel.exchange import Models
from toka_cli.kernel.outputs import AgentLog, Spool, TaskOutput
from toka_cli.kernel.permits import Permits
from toka_cli.kernel.retrying import may_pass
from toka_cli.kernel.schemas import schema_problem
from toka_cli.kernel.talks import Talks
from toka_cli.kernel.tool_calls import AgentTools, CallLimits, Later, end_calls, kept_arguments, note_refusal
from toka_cli.lifecycle import TASK_FINAL, TaskState
from toka_cli.paths import RunFolder
from toka_cli.plan.plan import PlannedAgent
from toka_cli.policy.validator import Denial
from toka_cli.protocol import messages as m
from toka_cli.protocol import talk as t
from toka_cli.protocol.peer import Answer
from toka_cli.state.log import EventLog
from toka_cli.state.snapshot import TaskView
from toka_cli.tools.catalog import ToolCatalog
from toka_cli.units import format_bytes

MAX_NOTE_CHARS: Final = 500
PROMPT: Final = "prompt"
CATALOG: Final = ToolCatalog()


@dataclass(slots=True)
class Session:
    """The kernel's side of one agent's cell.

    `on_hello` and `on_finish` are called once; `on_breach(reason)` when a limit that the kernel counts is passed. `models` answers prompts, `redact` and
    `tell` are described in `Talks`. `on_blocked` is told why a model could not be asked; it says whether the run is being interrupted because of that, and
    then the task stays open, to go on at the same turn when the run is resumed.
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
    models: Models | None = None
    redact: Callable[[str], str] = str
    tell: Callable[[str, m.Message], None] = lambda _method, _params: None
    on_blocked: Callable[[TokaError], bool] = lambda _: False
    model_timeout_s: float = 30.0
    kernel_tools: AgentTools | None = None
    stop_reason: str | None = None
    resumable: bool = False
    beats: int = 0
    # Raised by everything that shows that the agent gets on: all that its cell says but heartbeats, and all that is recorded of it.
    progress: int = 0
    # How many waits are under way that are nobody's fault (a rate limit, a person's approval): while there is one, no progress is expected.
    excused: int = 0
    _tasks: dict[str, m.TaskBrief] = field(default_factory=dict)
    _attempts: dict[str, int] = field(default_factory=dict)
    _running: dict[str, TaskOutput] = field(default_factory=dict)
    _open_calls: dict[str, str] = field(default_factory=dict)
    _call_limits: CallLimits = field(default_factory=CallLimits)
    _written: int = 0
    _tool_calls: int = 0
    _greeted: bool = False
    _finished: bool = False
    _permits: Permits = field(init=False)
    _talks: Talks = field(init=False)

    def __post_init__(self) -> None:
        known = {task.id for task in self.brief.tasks}
        self._permits = Permits(self.planned, self.brief.workdir, self.brief.walls or self.planned.walls, f"{gettempdir()}/toka-{self.agent_id}-")
        self._tasks = {task.id: task for task in self.planned.tasks if task.id in known}
        # What an earlier process of the agent called counts as well.
        self._tool_calls = self.log.agent(self.agent_id).tool_calls
        self._talks = Talks(
            self.log, self.agent_id, self.planned, self.models, self.output, self.redact, self.tell,
            on_wait=self._excuse, on_progress=self._got_on, on_blocked=self._blocked, timeout_s=self.model_timeout_s,
        )  # fmt: skip

    def serve(self, method: str, params: m.Message, answer: Answer) -> None:
        """Answer one call. Raises ProtocolError for what a cell that works as ours would never send."""
        if self._finished and method == "agent.beat":
            # It beats until its finish is acknowledged.
            return
        if self._finished or (not self._greeted and method != "agent.hello"):
            raise ProtocolError(f"{method} {'after agent.finish' if self._finished else 'before agent.hello'}")
        self.progress += method != "agent.beat"
        try:
            result = _HANDLERS[method](self, params)
        except Bug as error:
            # What the cell says cannot be, or cannot be stored: its fault, not a bug of ours.
            raise error if isinstance(error, ProtocolError) else ProtocolError(f"{method}: {error.message}") from error
        if isinstance(result, Later):
            self.log.after_commit(partial(result.begin, answer))
        elif result is not None and method in _NO_EFFECT:
            answer(result)
        elif result is not None:
            self.log.after_commit(partial(answer, result))

    def abandon(self) -> dict[str, e.Outcome]:
        """The cell is gone: what its attempts under way had written, by task, for whoever says how they ended."""
        outcomes = {}
        for task, written in self._running.items():
            written.end()
            outcomes[task] = self._kept(self._tasks[task], written, written.cut_off())
        self._running.clear()
        end_calls(self.kernel_tools)
        self._talks.abandon()
        return outcomes

    def stop(self, reason: str, *, resumable: bool, wait_s: float) -> None:
        """From now on nothing new starts. Model calls under way may take `wait_s` seconds more; with `resumable` what has not ended stays open."""
        self.stop_reason, self.resumable = reason, resumable
        end_calls(self.kernel_tools)
        self._talks.stop(wait_s)

    @property
    def resting(self) -> bool:
        """True while no progress is expected: something is waited for that is nobody's fault, or all that is under way waits for its next attempt."""
        if self.log.stalled is not None:
            # Its calls are not answered before they are durable.
            return True
        states = {view.state for view in self._views()}
        return self.excused > 0 or (TaskState.RETRYING in states and TaskState.RUNNING not in states)

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
        self._append(e.AgentNoted(self.redact(params.detail)[:MAX_NOTE_CHARS]))

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
        denial = self._permits.start(task)
        if denial is not None:
            self._deny(task.id, denial)
            reason = f"capability_denied: {denial.capability}: {denial.message}"
            self._append(e.TaskFailed(reason, e.Outcome(stderr=f"{denial.message}\n{denial.hint}"), allowed=task.allow_failure), task.id)
            return m.Go(go=False, reason=reason)
        self._attempts[task.id] = params.attempt
        self._running[task.id] = self.output.begin(task.id, Spool(self.folder, f"{self.agent_id}-{task.id}-{params.attempt}"))
        self._append(e.TaskStarted(params.attempt), task.id)
        return m.Go(go=True)

    def _output(self, params: m.Output) -> None:
        written = self._running.get(params.task)
        if written is None or params.stream not in {"stdout", "stderr"}:
            raise ProtocolError(f"output of a task that is not running: {params.task}")
        self._written += len(params.data)
        limit = self.brief.limits.output_bytes
        if limit is not None and self._written > limit:
            # The cell holds each command to the same bound; this counts all of an agent's commands together, and a cell that lies.
            self.on_breach(f"limit.output: more than {limit} bytes written")
            return
        written.add(params.stream, params.data)

    def _finish_attempt(self, params: m.FinishAttempt) -> m.Message:
        task = self._task(params.task)
        written = self._running.pop(params.task, None)
        if written is None or params.attempt != self._attempts[params.task]:
            raise ProtocolError(f"attempt {params.attempt} of task {params.task} was not running")
        written.end()
        end_calls(self.kernel_tools, task.id)
        # A cell that was told to stop measures nothing; what the attempt had written counts all the same.
        outcome = self._kept(task, written, written.clean(params.outcome) if params.outcome != e.Outcome() else written.cut_off())
        reason = None if params.ok else self._named(self.redact(params.reason or "failed"))
        if params.ok and task.output_schema is not None:
            reason = schema_problem(task.output_schema, outcome)
        if task.kind == PROMPT:
            self._talks.close(task.id, ok=params.ok)
        return self._verdict(task, params.attempt, reason, outcome if reason is None else self._explained(task, outcome))

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
        if attempt <= task.retries and may_pass(reason):
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

    # --- conversations ---

    def _open_talk(self, params: t.OpenTalk) -> m.Message:
        task = self._prompt(params.task)
        limit = self.brief.limits.max_tool_calls
        left = None if limit is None else max(0, limit - self._tool_calls)
        view = next(view for view in self._views() if view.id == task.id)
        return self._talks.open(task, view.attempts, params, left)

    def _take_turn(self, params: t.TakeTurn) -> m.Message | Later:
        return self._talks.turn(self._prompt(params.task), params)

    def _prompt(self, task_id: str) -> m.TaskBrief:
        task = self._task(task_id)
        if task.kind != PROMPT or task_id not in self._running:
            raise ProtocolError(f"task {task_id} has no conversation now")
        return task

    def _excuse(self, count: int) -> None:
        self.excused += count

    def _got_on(self) -> None:
        self.progress += 1

    def _blocked(self, error: TokaError) -> None:
        if self.on_blocked(error) and self.stop_reason is None:
            self.stop_reason, self.resumable = error.code, True

    # --- tools ---

    def _call_tool(self, params: m.CallTool) -> m.Message | Later:
        if params.task not in self._running or params.call_id in self._open_calls:
            raise ProtocolError(f"a tool call out of order: {params.call_id}")
        tool = CATALOG.find(params.tool)
        if self._task(params.task).kind == PROMPT:
            self._talks.planned_call(params.task, params.call_id)
        denial = self._permits.call(self._task(params.task), tool, params.args)
        if denial is not None:
            self._deny(params.task, denial, tool.name)
            return m.ToolReply(go=False, reason=f"capability_denied: {denial.capability}: {denial.message}", hint=denial.hint)
        refusal = self._call_limits.refusal(tool, params.task, self._attempts[params.task], self.kernel_tools)
        if refusal is not None:
            self.log.audit("tool.call", "denied", subject=self.agent_id, context={"tool": tool.name, "limit": refusal})
            return m.ToolReply(go=False, reason=refusal)
        self._tool_calls += 1
        limit = self.brief.limits.max_tool_calls
        if limit is not None and self._tool_calls > limit:
            self.log.audit("tool.call", "denied", subject=self.agent_id, context={"tool": tool.name, "limit": "max_tool_calls"})
            return m.ToolReply(go=False, reason=f"limit.tool_calls: more than {limit} tool calls")
        self._open_calls[params.call_id] = params.task
        self._append(e.ToolCalled(params.call_id, tool.name, kept_arguments(self.output.secrets.value(params.args)), tool.effect), params.task)
        self.log.audit("tool.call", "allowed", subject=self.agent_id, context={"tool": tool.name, "task": params.task, "power": tool.power})
        if tool.where == "cell" or self.kernel_tools is None:
            return m.ToolReply(go=True)
        return self.kernel_tools.later(tool, params, self._task(params.task).timeout_s or self.brief.limits.task_timeout_s)

    def _finish_tool(self, params: m.FinishTool) -> m.Message:
        task = self._open_calls.pop(params.call_id, None) or self._talks.doubtful_task(params.call_id)
        if task is None:
            raise ProtocolError(f"a tool call ended that had not begun: {params.call_id}")
        if self._tasks[task].kind != PROMPT:
            self._append(e.ToolDone(params.call_id, params.ok, self.redact(params.error) if params.error else None), task)
        else:
            told = self._permits.told(self._tasks[task], self._talks.planned_call(task, params.call_id).tool, params.result or "")
            done, result = self._talks.tool_done(task, msgspec.structs.replace(params, result=told or None))
            self.progress += 1
            self.log.append(done, agent=self.agent_id, task=task, body=result)
        return m.Ack()

    # --- small parts ---

    def _append(self, event: e.AnyEvent, task: str | None = None) -> None:
        self.progress += 1
        self.log.append(event, agent=self.agent_id, task=task)

    def _task(self, task_id: str) -> m.TaskBrief:
        task = self._tasks.get(task_id)
        if task is None:
            raise ProtocolError(f"no task {task_id[:80]!r} in the brief")
        return task

    def _views(self) -> list[TaskView]:
        return [task for task in self.log.agent(self.agent_id).tasks if task.id in self._tasks]

    def _explained(self, task: m.TaskBrief, outcome: e.Outcome) -> e.Outcome:
        """The outcome with a hint at its end, where the walls refused what the attempt complains about."""
        hint = self._permits.explained(task, outcome)
        if hint is None:
            return outcome
        self.output.say(task.id, hint.rsplit("\n", 1)[-1])
        return msgspec.structs.replace(outcome, stderr=f"{outcome.stderr.rstrip()}\n{hint}\n".lstrip())

    def _deny(self, task: str, denial: Denial, tool: str = "task") -> None:
        self._append(e.ToolDenied(tool, denial.capability, self.redact(denial.message)), task)
        self.log.audit("tool.call", "denied", subject=self.agent_id, context={"tool": tool, "task": task, "missing": denial.capability})
        self.output.say(task, denial.message)
        note_refusal(self.kernel_tools, denial.message)

    def _kept(self, task: m.TaskBrief, written: TaskOutput, outcome: e.Outcome) -> e.Outcome:
        """The outcome with the whole output kept as an artifact where the inline one is cut."""
        path, problem = written.finish()
        # What the cell calls an artifact is none.
        artifact = None
        if path is not None:
            try:
                artifact = self.log.add_artifact(path, name=f"{task.id}.log", agent=self.agent_id, task=task.id)
            except StateUnavailable as error:
                problem = error.message
                path.unlink(missing_ok=True)
        if problem is not None:
            # The result counts all the same; that its output is not whole is said where the output is read.
            self.output.say(task.id, f"the whole output could not be kept: {problem}")
            return msgspec.structs.replace(outcome, artifact=artifact, truncated=True)
        return msgspec.structs.replace(outcome, artifact=artifact) if artifact != outcome.artifact else outcome

    def _named(self, reason: str) -> str:
        """The reason by the limit behind it, where the cell could only see what the limit did."""
        limit = self.brief.limits.disk_bytes
        if limit is not None and reason == f"signal {int(signal.SIGXFSZ)}":
            return f"limit.disk: resource limit exceeded: a file larger than the limit {format_bytes(limit)}"
        return reason


# Their answers start nothing: what they recorded is durable with the next call that does, because the log keeps its order.
_NO_EFFECT: Final = frozenset({"agent.hello", "agent.finish"})

_HANDLERS: Final[dict[str, Callable[[Session, Any], m.Message | Later | None]]] = {
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
    "talk.open": Session._open_talk,
    "talk.turn": Session._take_turn,
}
