"""What a reader sees of a run: RunView, AgentView, TaskView, exactly as the JSON contract of the command line names their fields.

Filled by `fold` from events and stored beside them. Times are UTC; what cannot be known is None.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from toka_cli.lifecycle import AgentState, RunState, TaskState


class Usage(msgspec.Struct):
    """Model usage. Zero means that no model was asked; `cost_usd` is None when a price is not known.

    `turns` counts answers, `llm_requests` those of them that a provider gave: the others came from toka's own cache and cost nothing. `unsettled_*` is the
    most that requests without an answer may have used: nobody knows, so budgets take it as used.
    """

    llm_requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    turns: int = 0
    unsettled_usd: float = 0.0
    unsettled_tokens: int = 0


class TaskView(msgspec.Struct):
    """One task of an agent. `asked_usd` and `asked_tokens` are the most that the request under way to a model can use."""

    id: str
    description: str
    kind: str
    priority: str = "medium"
    state: TaskState = TaskState.PENDING
    reason: str | None = None
    attempts: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_s: float | None = None
    output: str = ""
    stderr: str = ""
    output_bytes: int = 0
    truncated: bool = False
    artifact: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    value: Any = None
    cpu_time_s: float | None = None
    peak_memory_bytes: int | None = None
    usage: Usage = msgspec.field(default_factory=Usage)
    asked_usd: float = 0.0
    asked_tokens: int = 0
    evidence: Any = None


class GateView(msgspec.Struct):
    """One gate: the command that proves an objective."""

    index: int
    description: str
    state: str = "pending"
    reason: str | None = None
    exit_code: int | None = None
    output: str = ""
    duration_s: float | None = None


class AgentView(msgspec.Struct):
    """One agent of a run. `detail` is what it does now, in a few words, since `detail_since`.

    `worked_s` is its working time over all its processes, without pauses, as it was last noted.
    """

    id: str
    run_id: str
    name: str
    title: str
    workstream: str
    domain: str | None = None
    priority: str = "medium"
    state: AgentState = AgentState.PENDING
    detail: str | None = None
    detail_since: datetime | None = None
    reason: str | None = None
    hint: str | None = None
    pid: int | None = None
    rung: str | None = None
    progress: float = 0.0
    tasks_done: int = 0
    tasks_total: int = 0
    attempts: int = 0
    restarts: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_s: float | None = None
    memory_bytes: int | None = None
    peak_memory_bytes: int | None = None
    cpu_time_s: float | None = None
    worked_s: float | None = None
    denied: int = 0
    tool_calls: int = 0
    usage: Usage = msgspec.field(default_factory=Usage)
    depends_on: list[str] = msgspec.field(default_factory=list)
    after: list[str] = msgspec.field(default_factory=list)
    grants: list[str] = msgspec.field(default_factory=list)
    limits: dict[str, Any] = msgspec.field(default_factory=dict)
    isolation: dict[str, Any] = msgspec.field(default_factory=dict)
    metrics: dict[str, float] = msgspec.field(default_factory=dict)
    tasks: list[TaskView] = msgspec.field(default_factory=list)
    gates: list[GateView] = msgspec.field(default_factory=list)


class Deliverable(msgspec.Struct):
    """A file that an objective promised, as it was when the objective was checked."""

    path: str
    size_bytes: int
    sha256: str
    agent: str
    objective: int


class RunView(msgspec.Struct):
    """A whole run. `held` says why nothing new starts for now, None while agents do."""

    id: str
    state: RunState = RunState.PENDING
    reason: str | None = None
    exit_code: int | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_s: float | None = None
    workdir: str = ""
    command: list[str] = msgspec.field(default_factory=list)
    version: str = ""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    agents: list[AgentView] = msgspec.field(default_factory=list)
    usage: Usage = msgspec.field(default_factory=Usage)
    deliverables: list[Deliverable] = msgspec.field(default_factory=list)
    warnings: list[str] = msgspec.field(default_factory=list)
    held: str | None = None
    audit_head: str | None = None
    last_seq: int = 0


class RunSummary(msgspec.Struct):
    """A line of `toka run list`."""

    id: str
    state: RunState
    reason: str | None
    workdir: str
    started_at: datetime | None
    ended_at: datetime | None
    agents: dict[str, int]
    created_at: datetime | None = None
