"""Folds events into the snapshot of a run: the one place that says what an event changes.

In: a RunView and Records in order. Out: the same RunView, changed, and which parts of it changed since they were last stored. An event that the
lifecycle does not allow raises IllegalMove before anything is changed. Never reads a clock, a file or a database: every time comes from a record.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from toka_cli import events as e
from toka_cli.errors import IllegalMove
from toka_cli.lifecycle import AGENT_FINAL, RUN_FINAL, TASK_FINAL, AgentState, TaskState, next_agent_state, next_run_state, next_task_state
from toka_cli.state.snapshot import AgentView, Deliverable, GateView, RunView, TaskView, Usage

_GATE_STATES: Final = {"gate.started": "running", "gate.passed": "succeeded", "gate.failed": "failed"}
_NOTHING_MEASURED: Final = e.Outcome()


def moment(at: float) -> datetime:
    """Seconds since 1970 as a UTC datetime."""
    return datetime.fromtimestamp(at, UTC)


def elapsed(start: datetime | None, end: datetime | None) -> float | None:
    """Seconds from start to end, None if one is not known, 0 when the clock was set back between them."""
    return None if start is None or end is None else max(0.0, (end - start).total_seconds())


class Fold:
    """A view with the indexes that make folding one event independent of the size of the run.

    `dirty_run`, `dirty_agents` and `dirty_tasks` say what changed since the last `clean()`; agents and tasks keep the order in which they changed.
    """

    def __init__(self, view: RunView) -> None:
        self.view = view
        self.agents: dict[str, AgentView] = {agent.id: agent for agent in view.agents}
        self.agent_positions: dict[str, int] = {agent.id: index for index, agent in enumerate(view.agents)}
        self.tasks: dict[tuple[str, str], TaskView] = {(agent.id, task.id): task for agent in view.agents for task in agent.tasks}
        self.task_positions: dict[tuple[str, str], int] = {
            (agent.id, task.id): index for agent in view.agents for index, task in enumerate(agent.tasks)
        }
        # Seconds of CPU that former processes of an agent used: what its present process uses is added to this.
        self._cpu_before: dict[str, float] = {agent.id: agent.cpu_time_s or 0.0 for agent in view.agents}
        self.dirty_run = False
        self.dirty_agents: dict[str, AgentView] = {}
        self.dirty_tasks: dict[tuple[str, str], TaskView] = {}

    def clean(self) -> None:
        """Forget what changed: it is stored."""
        self.dirty_run = False
        self.dirty_agents.clear()
        self.dirty_tasks.clear()

    def apply(self, record: e.Record) -> None:
        """Change the view by one event. Raises IllegalMove, with the view as it was, when the event cannot happen now."""
        event = record.event
        kind = event.kind
        group = kind.partition(".")[0]
        if self.view.created_at is None and not isinstance(event, e.RunCreated):
            raise IllegalMove(f"{kind} cannot happen before run.created")
        if group in {"run", "command"}:
            self._run(record, kind)
        elif isinstance(event, e.AgentCreated):
            self._agent_created(record, event)
        else:
            agent = self.agents.get(record.agent or "")
            if agent is None:
                raise IllegalMove(f"{kind} is about the agent {record.agent}, which is not part of the run")
            before = agent.detail
            if group == "agent":
                self._agent(agent, record, kind)
            elif group == "task":
                self._task(agent, record, kind)
            else:
                self._act(agent, record, kind)
            if agent.detail != before:
                agent.detail_since = moment(record.at) if agent.detail else None
            self.dirty_agents[agent.id] = agent
        self.view.last_seq = record.seq

    def sample(self, agent_id: str, memory_bytes: int | None, cpu_time_s: float | None, worked_s: float | None = None) -> bool:
        """Take in a measurement of the agent's live process tree; False if it has no process (a late sample), and then nothing changes.

        Samples are not events: memory now, its peak, CPU time and working time of a process that has not ended yet are in the stored view only.
        """
        agent = self.agents.get(agent_id)
        if agent is None or agent.pid is None:
            return False
        agent.memory_bytes = memory_bytes
        agent.peak_memory_bytes = _larger(agent.peak_memory_bytes, memory_bytes)
        if cpu_time_s is not None:
            agent.cpu_time_s = max(agent.cpu_time_s or 0.0, self._cpu_before[agent_id] + cpu_time_s)
        if worked_s is not None:
            agent.worked_s = worked_s
        self.dirty_agents[agent_id] = agent
        return True

    # --- the run ---------------------------------------------------------------------------------------------------------------------

    def _run(self, record: e.Record, kind: str) -> None:
        view, event = self.view, record.event
        if isinstance(event, e.RunCreated):
            if view.created_at is not None:
                raise IllegalMove("run.created cannot happen twice")
            if view.id not in {"", event.run_id}:
                raise IllegalMove(f"run.created of {event.run_id} does not belong into the log of {view.id}")
        state = next_run_state(view.state, kind)
        moved, view.state = state is not view.state, state
        match event:
            case e.RunCreated():
                view.id, view.workdir, view.version = event.run_id, event.workdir, event.version
                view.command, view.options = list(event.command), dict(event.options)
                view.created_at = moment(record.at)
            case e.RunWarned():
                view.warnings.append(event.message)
                if event.at_once is not None:
                    # What `why` says of an agent that waits for a slot.
                    view.options |= {"at_once": event.at_once, "max_agents_reason": event.message.partition(": ")[2] or event.message}
            case e.RunHeld():
                view.held = event.reason
            case e.RunReleased():
                view.held = None
            case e.RunStarted() | e.RunRequeued():
                view.started_at = view.started_at or moment(record.at)
                view.reason = view.exit_code = view.held = None
            case e.RunStopping():
                view.reason = event.reason
            case e.RunInterrupted():
                view.reason, view.exit_code = event.reason, event.exit_code
            case e.RunSucceeded():
                view.reason, view.exit_code = None, 0
            case e.RunFailed() | e.RunStopped():
                view.reason, view.exit_code = event.reason, event.exit_code
            case _:
                pass
        if moved and state in RUN_FINAL:
            view.held = None
            view.ended_at = moment(record.at)
            view.duration_s = elapsed(view.started_at, view.ended_at)
        self.dirty_run = True

    def _still_open(self, kind: str) -> None:
        if self.view.state in RUN_FINAL:
            raise IllegalMove(f"{kind} cannot happen in a run that is {self.view.state.value}")

    # --- agents ----------------------------------------------------------------------------------------------------------------------

    def _agent_created(self, record: e.Record, event: e.AgentCreated) -> None:
        info = event.info
        self._still_open("agent.created")
        if not record.agent or record.agent in self.agents:
            raise IllegalMove(f"agent.created needs an agent id that is not taken, not {record.agent}")
        tasks = [TaskView(id=task.id, description=task.description, kind=task.kind, priority=task.priority) for task in info.tasks]
        if len({task.id for task in tasks}) != len(tasks):
            raise IllegalMove(f"agent.created: two tasks of {info.name} have the same id")
        agent = AgentView(
            id=record.agent, run_id=self.view.id, name=info.name, title=info.title, workstream=info.workstream, domain=info.domain,
            priority=info.priority, depends_on=list(info.depends_on), after=list(info.after), grants=list(info.grants),
            limits=dict(info.limits), tasks=tasks, tasks_total=len(tasks),
        )  # fmt: skip
        self.agent_positions[agent.id] = len(self.view.agents)
        self.view.agents.append(agent)
        self.agents[agent.id] = agent
        self._cpu_before[agent.id] = 0.0
        self.dirty_agents[agent.id] = agent
        for index, task in enumerate(tasks):
            self.tasks[agent.id, task.id] = self.dirty_tasks[agent.id, task.id] = task
            self.task_positions[agent.id, task.id] = index

    def _agent(self, agent: AgentView, record: e.Record, kind: str) -> None:
        before, event = agent.state, record.event
        state = next_agent_state(before, kind)
        if state is not before:
            self._still_open(kind)
            agent.state, agent.detail = state, None
        match event:
            case e.AgentStarting():
                agent.attempts += 1
                agent.started_at = agent.started_at or moment(record.at)
                agent.reason = agent.hint = None
                self._cpu_before[agent.id] = agent.cpu_time_s or 0.0
            case e.AgentStarted():
                agent.pid, agent.isolation = event.pid, dict(event.isolation)
            case e.AgentPaused():
                agent.detail = event.reason
            case e.AgentNoted():
                # A remark that arrives after the end says nothing about the agent any more.
                agent.detail = None if before in AGENT_FINAL else event.detail
            case e.AgentMeasured():
                agent.metrics[event.name] = event.value
            case e.AgentExited():
                agent.pid = agent.memory_bytes = None
                agent.rung = event.rung or agent.rung
                agent.peak_memory_bytes = _larger(agent.peak_memory_bytes, event.peak_memory_bytes)
                if event.cpu_time_s is not None:
                    agent.cpu_time_s = self._cpu_before[agent.id] + event.cpu_time_s
                if event.worked_s is not None:
                    agent.worked_s = event.worked_s
            case e.AgentBackedOff():
                agent.reason, agent.detail = event.reason, f"starts again after {event.delay_s:g}s"
                agent.pid = agent.memory_bytes = None
            case e.AgentRequeued():
                # Only a restart by policy counts as one; a recovered run shows in `attempts`.
                agent.restarts += before is AgentState.BACKOFF
                agent.pid = agent.memory_bytes = agent.reason = None
            case e.AgentStopping():
                agent.reason = event.reason
            case e.AgentSucceeded():
                agent.reason = agent.hint = None
                if not agent.tasks_total:
                    agent.progress = 1.0
            case e.AgentFailed():
                agent.reason, agent.hint = event.reason, event.hint
            case e.AgentStopped():
                agent.reason, agent.rung = event.reason, event.rung or agent.rung
            case e.AgentSkipped():
                agent.reason = event.reason
            case _:
                pass
        if state in AGENT_FINAL and before not in AGENT_FINAL:
            agent.pid = agent.memory_bytes = None
            agent.ended_at = moment(record.at)
            agent.duration_s = elapsed(agent.started_at, agent.ended_at)

    # --- tasks -----------------------------------------------------------------------------------------------------------------------

    def _task(self, agent: AgentView, record: e.Record, kind: str) -> None:
        task = self.tasks.get((agent.id, record.task or ""))
        if task is None:
            raise IllegalMove(f"{kind} is about the task {record.task}, which {agent.name} does not have")
        state = next_task_state(task.state, kind)
        self._still_open(kind)
        event, detail = record.event, f"executing task {task.id}"
        task.state = state
        match event:
            case e.TaskStarted():
                task.attempts += 1
                task.started_at = task.started_at or moment(record.at)
                task.reason = None
                agent.detail = detail
            case e.TaskRetrying():
                task.reason = event.reason
                _take_outcome(task, event.outcome)
                agent.detail = f"tries task {task.id} again after {event.delay_s:g}s"
            case e.TaskRequeued():
                task.reason = None
            case e.TaskSucceeded():
                task.reason = None
                _take_outcome(task, event.outcome)
            case e.TaskFailed() | e.TaskStopped():
                task.reason = event.reason
                _take_outcome(task, event.outcome)
            case e.TaskSkipped():
                task.reason = event.reason
            case _:
                pass
        if state in TASK_FINAL:
            task.ended_at = moment(record.at)
            # One attempt knows its own time best; of several, the whole time from the first start counts.
            if task.attempts != 1 or task.duration_s is None:
                task.duration_s = elapsed(task.started_at, task.ended_at)
            if agent.detail == detail:
                agent.detail = None
            # Skipped and stopped tasks are final too, but nobody did them: they are not progress.
            if state in {TaskState.SUCCEEDED, TaskState.FAILED}:
                agent.tasks_done += 1
                agent.progress = max(agent.progress, agent.tasks_done / agent.tasks_total)
        self.dirty_tasks[agent.id, task.id] = task

    # --- what agents do --------------------------------------------------------------------------------------------------------------

    def _act(self, agent: AgentView, record: e.Record, kind: str) -> None:
        match record.event:
            case e.ToolCalled():
                agent.tool_calls += 1
            case e.ToolDenied():
                agent.denied += 1
            case e.LlmStarted() | e.LlmAsked() | e.LlmUnanswered() | e.LlmReplied() | e.LlmFailed():
                self._model(agent, record)
            case e.GateStarted() as event:
                self._still_open(kind)
                gate = _gate(agent, event.index, event.description)
                gate.state, gate.reason, gate.exit_code, gate.output, gate.duration_s = "running", None, None, "", None
            case e.GatePassed() | e.GateFailed() as event:
                self._still_open(kind)
                gate = _gate(agent, event.index, event.description)
                gate.state = _GATE_STATES[kind]
                gate.reason = event.reason if isinstance(event, e.GateFailed) else None
                gate.exit_code, gate.output, gate.duration_s = event.outcome.exit_code, event.outcome.output, event.outcome.duration_s
            case e.DeliverableRecorded() as event:
                found = Deliverable(event.path, event.size_bytes, event.sha256, agent.name, event.objective)
                # A gate that is checked again after a restart finds the file again: the last look counts.
                kept = [
                    it for it in self.view.deliverables if (it.path, it.agent, it.objective) != (found.path, found.agent, found.objective)
                ]
                self.view.deliverables = [*kept, found]
                self.dirty_run = True
            case _:
                pass


    def _model(self, agent: AgentView, record: e.Record) -> None:
        event = record.event
        task = self.tasks.get((agent.id, record.task or ""))
        if task is None:
            raise IllegalMove(f"{event.kind} is about the task {record.task}, which {agent.name} does not have")
        usages = (task.usage, agent.usage, self.view.usage)
        if agent.state not in AGENT_FINAL and not isinstance(event, e.LlmAsked | e.LlmUnanswered):
            # A word about a task that is not under way any more comes late, and says nothing about the agent.
            detail = f"asking {event.model}, turn {event.turn}" if isinstance(event, e.LlmStarted) else f"executing task {task.id}"
            agent.detail = detail if task.state is TaskState.RUNNING else agent.detail
        asked = 0.0, 0
        for usage in usages:
            match event:
                case e.LlmReplied():
                    _add_usage(usage, event)
                case e.LlmUnanswered() if task.asked_tokens:
                    _charge(usage, event.usd, event.tokens)
                case e.LlmFailed() if task.asked_tokens:
                    # It was given up, or cut off with its owner: the most is charged. What is said of its request later comes too late.
                    _charge(usage, task.asked_usd, task.asked_tokens)
                case e.LlmAsked():
                    asked = event.most_usd, event.most_tokens
        if not isinstance(event, e.LlmStarted):
            task.asked_usd, task.asked_tokens = asked
            self.dirty_tasks[agent.id, task.id] = task
            self.dirty_run = True


def apply(view: RunView, record: e.Record) -> None:
    """Change a view by one event. Builds the indexes anew each time: who folds more than one event keeps a Fold."""
    Fold(view).apply(record)


def fold(records: Iterable[e.Record]) -> RunView:
    """The view that the records tell. Raises IllegalMove when they cannot have happened in this order."""
    folded = Fold(RunView(id=""))
    for record in records:
        folded.apply(record)
    return folded.view


def _larger(one: int | None, other: int | None) -> int | None:
    known = [value for value in (one, other) if value is not None]
    return max(known, default=None)


def _add_usage(usage: Usage, event: e.LlmReplied) -> None:
    """Count an answer; one that toka itself had counts as a turn and costs nothing. One without a known price makes the sum unknown."""
    usage.turns += 1
    if event.from_cache:
        return
    usage.llm_requests += 1
    usage.input_tokens += event.input_tokens
    usage.output_tokens += event.output_tokens
    usage.cost_usd = None if usage.cost_usd is None or event.cost_usd is None else usage.cost_usd + event.cost_usd


def _charge(usage: Usage, usd: float, tokens: int) -> None:
    usage.unsettled_usd += usd
    usage.unsettled_tokens += tokens


def _gate(agent: AgentView, index: int, description: str) -> GateView:
    for gate in agent.gates:
        if gate.index == index and gate.description == description:
            return gate
    gate = GateView(index=index, description=description)
    agent.gates.append(gate)
    return gate


def _take_outcome(task: TaskView, outcome: e.Outcome) -> None:
    """Show the newest attempt; CPU time adds up over attempts, the peak is that of the hungriest."""
    if outcome == _NOTHING_MEASURED:
        # A task that is stopped between two attempts keeps what the last one said.
        return
    task.exit_code, task.signal = outcome.exit_code, outcome.signal
    task.output, task.stderr = outcome.output, outcome.stderr
    task.output_bytes, task.truncated, task.artifact = outcome.output_bytes, outcome.truncated, outcome.artifact
    task.value, task.evidence, task.duration_s = outcome.value, outcome.evidence, outcome.duration_s
    task.peak_memory_bytes = _larger(task.peak_memory_bytes, outcome.peak_memory_bytes)
    if outcome.cpu_time_s is not None:
        task.cpu_time_s = (task.cpu_time_s or 0.0) + outcome.cpu_time_s
