"""Every state and every move: three tables (run, agent, task) keyed by state and event kind.

In: a state and the kind of an event. Out: the next state, or IllegalMove. Events that are not in a table's `MOVES` say something about the thing without
moving it. Nothing else in toka changes a state.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeVar

from toka_cli.errors import IllegalMove


class RunState(StrEnum):
    """States of a run. A finished run never changes."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    INTERRUPTED = "interrupted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


class AgentState(StrEnum):
    """States of an agent. `skipped` is final and carries a reason."""

    PENDING = "pending"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    SKIPPED = "skipped"


class TaskState(StrEnum):
    """States of a task."""

    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    SKIPPED = "skipped"


S = TypeVar("S", bound=StrEnum)

R, A, T = RunState, AgentState, TaskState

RUN_FINAL: Final = frozenset({R.SUCCEEDED, R.FAILED, R.STOPPED})
AGENT_FINAL: Final = frozenset({A.SUCCEEDED, A.FAILED, A.STOPPED, A.SKIPPED})
TASK_FINAL: Final = frozenset({T.SUCCEEDED, T.FAILED, T.STOPPED, T.SKIPPED})

RUN_MOVES: Final[dict[tuple[RunState, str], RunState]] = {
    (R.PENDING, "run.started"): R.RUNNING,
    (R.PENDING, "run.stopping"): R.STOPPING,
    (R.PENDING, "run.failed"): R.FAILED,
    (R.RUNNING, "run.paused"): R.PAUSED,
    (R.PAUSED, "run.resumed"): R.RUNNING,
    (R.RUNNING, "run.stopping"): R.STOPPING,
    (R.PAUSED, "run.stopping"): R.STOPPING,
    (R.RUNNING, "run.succeeded"): R.SUCCEEDED,
    (R.RUNNING, "run.failed"): R.FAILED,
    # Its agents were stopped one by one; nobody stopped the run as a whole.
    (R.RUNNING, "run.stopped"): R.STOPPED,
    # A stop that loses the race against the natural end ends as the natural end would have.
    (R.STOPPING, "run.succeeded"): R.SUCCEEDED,
    (R.STOPPING, "run.failed"): R.FAILED,
    (R.STOPPING, "run.stopped"): R.STOPPED,
    **{(state, "run.interrupted"): R.INTERRUPTED for state in (R.PENDING, R.RUNNING, R.PAUSED, R.STOPPING)},
    (R.INTERRUPTED, "run.requeued"): R.RUNNING,
    (R.INTERRUPTED, "run.stopped"): R.STOPPED,
}

AGENT_MOVES: Final[dict[tuple[AgentState, str], AgentState]] = {
    (A.PENDING, "agent.queued"): A.QUEUED,
    (A.PENDING, "agent.skipped"): A.SKIPPED,
    (A.PENDING, "agent.stopped"): A.STOPPED,
    (A.QUEUED, "agent.starting"): A.STARTING,
    (A.QUEUED, "agent.skipped"): A.SKIPPED,
    (A.QUEUED, "agent.stopped"): A.STOPPED,
    (A.STARTING, "agent.started"): A.RUNNING,
    (A.STARTING, "agent.stopping"): A.STOPPING,
    (A.STARTING, "agent.backoff"): A.BACKOFF,
    (A.STARTING, "agent.failed"): A.FAILED,
    (A.RUNNING, "agent.paused"): A.PAUSED,
    (A.RUNNING, "agent.stopping"): A.STOPPING,
    (A.RUNNING, "agent.backoff"): A.BACKOFF,
    (A.RUNNING, "agent.succeeded"): A.SUCCEEDED,
    (A.RUNNING, "agent.failed"): A.FAILED,
    (A.PAUSED, "agent.resumed"): A.RUNNING,
    (A.PAUSED, "agent.stopping"): A.STOPPING,
    (A.PAUSED, "agent.backoff"): A.BACKOFF,
    (A.PAUSED, "agent.failed"): A.FAILED,
    (A.STOPPING, "agent.stopped"): A.STOPPED,
    # It finished, or broke, before the stop reached it.
    (A.STOPPING, "agent.succeeded"): A.SUCCEEDED,
    (A.STOPPING, "agent.failed"): A.FAILED,
    (A.BACKOFF, "agent.requeued"): A.QUEUED,
    (A.BACKOFF, "agent.stopped"): A.STOPPED,
    (A.BACKOFF, "agent.failed"): A.FAILED,
    # Recovery by a new owner: what was alive is not any more, and waits for its turn.
    **{(state, "agent.requeued"): A.PENDING for state in (A.PENDING, A.QUEUED, A.STARTING, A.RUNNING, A.PAUSED, A.STOPPING)},
}

TASK_MOVES: Final[dict[tuple[TaskState, str], TaskState]] = {
    (T.PENDING, "task.started"): T.RUNNING,
    (T.PENDING, "task.skipped"): T.SKIPPED,
    (T.PENDING, "task.stopped"): T.STOPPED,
    # A task that needs a grant the agent does not hold fails without having started.
    (T.PENDING, "task.failed"): T.FAILED,
    (T.RUNNING, "task.retrying"): T.RETRYING,
    (T.RUNNING, "task.requeued"): T.PENDING,
    (T.RUNNING, "task.succeeded"): T.SUCCEEDED,
    (T.RUNNING, "task.failed"): T.FAILED,
    (T.RUNNING, "task.stopped"): T.STOPPED,
    (T.RETRYING, "task.started"): T.RUNNING,
    (T.RETRYING, "task.requeued"): T.PENDING,
    (T.RETRYING, "task.failed"): T.FAILED,
    (T.RETRYING, "task.stopped"): T.STOPPED,
}

_RUN_KINDS: Final = frozenset(kind for _, kind in RUN_MOVES)
_AGENT_KINDS: Final = frozenset(kind for _, kind in AGENT_MOVES)
_TASK_KINDS: Final = frozenset(kind for _, kind in TASK_MOVES)


def next_run_state(state: RunState, kind: str) -> RunState:
    """The state of a run after an event; the same state if the event does not move runs. Raises IllegalMove."""
    return _next(RUN_MOVES, _RUN_KINDS, state, kind, "run")


def next_agent_state(state: AgentState, kind: str) -> AgentState:
    """The state of an agent after an event; the same state if the event does not move agents. Raises IllegalMove."""
    return _next(AGENT_MOVES, _AGENT_KINDS, state, kind, "agent")


def next_task_state(state: TaskState, kind: str) -> TaskState:
    """The state of a task after an event; the same state if the event does not move tasks. Raises IllegalMove."""
    return _next(TASK_MOVES, _TASK_KINDS, state, kind, "task")


def _next(moves: dict[tuple[S, str], S], kinds: frozenset[str], state: S, kind: str, noun: str) -> S:
    if kind not in kinds:
        return state
    try:
        return moves[state, kind]
    except KeyError:
        raise IllegalMove(f"{kind} cannot happen to a {noun} that is {state.value}") from None
