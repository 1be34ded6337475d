"""Every fact that can happen in a run, as one tagged union.

An event is past tense and immutable. Whoever learns a fact hands it to the event log; nothing else changes the state of a run, an agent or a task.
The agent and the task that an event is about stand beside it, in its `Record`.
"""

from __future__ import annotations

from typing import Any, Union

import msgspec

from toka_cli.facts import AgentInfo as AgentInfo  # noqa: PLC0414  events export it
from toka_cli.facts import Outcome as Outcome  # noqa: PLC0414  events export it
from toka_cli.facts import TaskInfo as TaskInfo  # noqa: PLC0414  events export it


class Event(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True):
    """The base of all events."""

    @property
    def kind(self) -> str:
        """The event's stable name, as it stands in the log."""
        return str(self.__struct_config__.tag)


# --- the run -------------------------------------------------------------------------------------------------------------------------


class RunCreated(Event, frozen=True, tag="run.created"):
    """The run exists on disk; nothing has started."""

    run_id: str
    workdir: str
    version: str
    command: tuple[str, ...] = ()
    options: dict[str, Any] = {}


class RunStarted(Event, frozen=True, tag="run.started"):
    """The owner began to start agents."""


class RunPaused(Event, frozen=True, tag="run.paused"):
    """No new task, turn or tool call starts."""

    by: str = "user"


class RunResumed(Event, frozen=True, tag="run.resumed"):
    """Work goes on."""


class RunStopping(Event, frozen=True, tag="run.stopping"):
    """The run is being ended early; `reason` is a stable word first (`user`, `timeout`, `fail_fast`, `signal SIGTERM`)."""

    reason: str


class RunInterrupted(Event, frozen=True, tag="run.interrupted"):
    """The run stands still and can go on: written by an owner that a signal ended, or by the one that recovers a run whose owner died."""

    reason: str
    exit_code: int | None = None


class RunRequeued(Event, frozen=True, tag="run.requeued"):
    """A recovered run starts again."""


class RunSucceeded(Event, frozen=True, tag="run.succeeded"):
    """Everything that was asked for happened."""


class RunFailed(Event, frozen=True, tag="run.failed"):
    """A required agent, task or gate did not succeed."""

    reason: str
    exit_code: int = 1


class RunStopped(Event, frozen=True, tag="run.stopped"):
    """The run was ended before it was done."""

    reason: str
    exit_code: int = 1


class RunWarned(Event, frozen=True, tag="run.warned"):
    """Something a person should know: a wall that is not in force, an agent left out. `at_once`: from now on so many agents may run at once."""

    message: str
    code: str = "warning"
    at_once: int | None = None


class RunHeld(Event, frozen=True, tag="run.held"):
    """Nothing new starts for now, because this machine has no room; what runs goes on."""

    reason: str


class RunReleased(Event, frozen=True, tag="run.released"):
    """There is room again: agents start as they did before."""


class CommandReceived(Event, frozen=True, tag="command.received"):
    """A command of another terminal, committed before it is carried out."""

    command: str
    by: str
    target: str | None = None
    arguments: dict[str, Any] = {}


# --- agents --------------------------------------------------------------------------------------------------------------------------


class AgentCreated(Event, frozen=True, tag="agent.created"):
    """The agent is part of the run."""

    info: AgentInfo


class AgentQueued(Event, frozen=True, tag="agent.queued"):
    """Its required dependencies succeeded; it waits for a free slot."""


class AgentStarting(Event, frozen=True, tag="agent.starting"):
    """A process is being made for it."""

    attempt: int = 1


class AgentStarted(Event, frozen=True, tag="agent.started"):
    """Its process is up, has applied its limits and said which of them hold (`isolation`)."""

    pid: int
    isolation: dict[str, Any] = {}


class AgentNoted(Event, frozen=True, tag="agent.noted"):
    """What it is doing now, in a few words: a detail of its state."""

    detail: str


class AgentMeasured(Event, frozen=True, tag="agent.measured"):
    """A gauge that the agent reported by name."""

    name: str
    value: float


class AgentPaused(Event, frozen=True, tag="agent.paused"):
    """It starts nothing new until it is resumed. `reason` where nobody asked for it."""

    reason: str | None = None


class AgentResumed(Event, frozen=True, tag="agent.resumed"):
    """It goes on."""


class AgentStopping(Event, frozen=True, tag="agent.stopping"):
    """It was asked to end early."""

    reason: str


class AgentExited(Event, frozen=True, tag="agent.exited"):
    """Its process tree is gone. Usage is that of the whole tree: seconds of CPU, bytes at the peak as far as seen.

    `worked_s` is the working time of the agent so far, all its processes together and without pauses: what its time limit counts.
    """

    exit_code: int | None = None
    signal: int | None = None
    rung: str | None = None
    cpu_time_s: float | None = None
    peak_memory_bytes: int | None = None
    worked_s: float | None = None


class AgentBackedOff(Event, frozen=True, tag="agent.backoff"):
    """It failed in a way that may pass; it starts again after `delay_s` seconds."""

    reason: str
    delay_s: float


class AgentRequeued(Event, frozen=True, tag="agent.requeued"):
    """A recovered or restarted agent waits for its turn again."""


class AgentSucceeded(Event, frozen=True, tag="agent.succeeded"):
    """All its tasks and gates succeeded."""


class AgentFailed(Event, frozen=True, tag="agent.failed"):
    """It did not do what was asked. `reason` starts with a stable word."""

    reason: str
    hint: str | None = None


class AgentStopped(Event, frozen=True, tag="agent.stopped"):
    """It was ended before it was done. `rung` says what it took where that is not known from its process (a gate's cell was stopped)."""

    reason: str
    rung: str | None = None


class AgentSkipped(Event, frozen=True, tag="agent.skipped"):
    """It never started, and never will in this run."""

    reason: str


# --- tasks, gates, tools, files ------------------------------------------------------------------------------------------------------


class TaskStarted(Event, frozen=True, tag="task.started"):
    """An attempt at the task began."""

    attempt: int = 1


class TaskRetrying(Event, frozen=True, tag="task.retrying"):
    """An attempt failed; the next one starts after `delay_s` seconds."""

    attempt: int
    reason: str
    delay_s: float
    outcome: Outcome = Outcome()


class TaskRequeued(Event, frozen=True, tag="task.requeued"):
    """The task did not end with its process; it waits for the next one."""


class TaskSucceeded(Event, frozen=True, tag="task.succeeded"):
    """The task did what was asked."""

    outcome: Outcome = Outcome()


class TaskFailed(Event, frozen=True, tag="task.failed"):
    """The task did not do what was asked. `allowed` when the spec says that this does not matter."""

    reason: str
    outcome: Outcome = Outcome()
    allowed: bool = False


class TaskSkipped(Event, frozen=True, tag="task.skipped"):
    """The task never started, and never will in this run."""

    reason: str


class TaskStopped(Event, frozen=True, tag="task.stopped"):
    """The task was ended before it was done."""

    reason: str
    outcome: Outcome = Outcome()


class GateStarted(Event, frozen=True, tag="gate.started"):
    """A gate of an objective is being checked in a fresh cell. `index` counts objectives from 1."""

    index: int
    description: str


class GatePassed(Event, frozen=True, tag="gate.passed"):
    """The gate's command ended with status 0."""

    index: int
    description: str
    outcome: Outcome = Outcome()


class GateFailed(Event, frozen=True, tag="gate.failed"):
    """The gate's command did not end with status 0."""

    index: int
    description: str
    reason: str
    outcome: Outcome = Outcome()


class ToolCalled(Event, frozen=True, tag="tool.called"):
    """The kernel allowed a tool call; it is journaled before it takes effect."""

    call_id: str
    tool: str
    arguments: dict[str, Any] = {}
    effect: str = "effect"


class ToolDone(Event, frozen=True, tag="tool.done"):
    """A tool call came back. In a conversation its result is kept beside the event; a long one in the artifact named by its sha256."""

    call_id: str
    ok: bool
    error: str | None = None
    result_bytes: int | None = None
    artifact: str | None = None


class ToolDenied(Event, frozen=True, tag="tool.denied"):
    """The kernel refused an act. `capability` is the grant that is missing."""

    tool: str
    capability: str
    message: str


class LlmStarted(Event, frozen=True, tag="llm.started"):
    """A model is about to be asked, for reply number `turn` of the conversation that began with this attempt at the task. What it is told is kept beside."""

    turn: int
    model: str
    attempt: int = 1


class LlmAsked(Event, frozen=True, tag="llm.asked"):
    """A request of this turn goes out to a provider, `number` counts them from 1. So much it can cost at most; a price that is not known counts as nothing."""

    turn: int
    model: str
    number: int
    most_usd: float
    most_tokens: int


class LlmUnanswered(Event, frozen=True, tag="llm.unanswered"):
    """A request came to nothing, and another may follow. `usd` and `tokens` are charged for it: the most, where nobody knows what was used."""

    turn: int
    number: int
    cause: str
    message: str
    usd: float = 0.0
    tokens: int = 0


class LlmReplied(Event, frozen=True, tag="llm.replied"):
    """A model answered; the answer is kept beside the event. `calls` are the tools that it wants next; `cost_usd` is None when no price is known. Of the
    `input_tokens`, `cached_tokens` were in the provider's prompt cache; `from_cache`: in toka's, and nothing was paid. Seconds: `waited_s` for its turn.
    """

    turn: int
    model: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    cost_usd: float | None = None
    cached_tokens: int = 0
    from_cache: bool = False
    calls: tuple[str, ...] = ()
    duration_s: float | None = None
    waited_s: float = 0.0


class LlmFailed(Event, frozen=True, tag="llm.failed"):
    """No answer came. `cause` is a stable word: that of the provider, `budget`, `replay_miss`, `stopped`, or `abandoned` (it may have been paid)."""

    turn: int
    cause: str
    message: str


class DeliverableRecorded(Event, frozen=True, tag="deliverable.recorded"):
    """A file that an objective promised exists. `size_bytes` and `sha256` are those of the file at that moment."""

    path: str
    size_bytes: int
    sha256: str
    objective: int


AnyEvent = Union[  # noqa: UP007  forty lines of `|` read worse
    RunCreated, RunStarted, RunPaused, RunResumed, RunStopping, RunInterrupted, RunRequeued, RunSucceeded, RunFailed, RunStopped, RunWarned, RunHeld,
    RunReleased, CommandReceived, AgentCreated, AgentQueued, AgentStarting, AgentStarted, AgentNoted, AgentMeasured, AgentPaused, AgentResumed,
    AgentStopping, AgentExited, AgentBackedOff, AgentRequeued, AgentSucceeded, AgentFailed, AgentStopped, AgentSkipped, TaskStarted, TaskRetrying,
    TaskRequeued, TaskSucceeded, TaskFailed, TaskSkipped, TaskStopped, GateStarted, GatePassed, GateFailed, ToolCalled, ToolDone, ToolDenied,
    LlmStarted, LlmAsked, LlmUnanswered, LlmReplied, LlmFailed, DeliverableRecorded,
]  # fmt: skip


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event at its place in the log. `at` is seconds since 1970 UTC; `agent` is an agent id; `task` is a task id within that agent."""

    seq: int
    at: float
    event: AnyEvent
    agent: str | None = None
    task: str | None = None
