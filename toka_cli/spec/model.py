"""What an agent spec and an orchestration file say, normalised: frozen models with units in their names.

Built by the reader (`read.py`) from any accepted shape; everybody else only reads them. Nothing here touches files or the machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from toka_cli.spec.tree import Place

NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
TASK_ID_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
SERVER_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
"""Without a dot: a grant says `mcp:SERVER.GLOB`."""

_NAME: Final = re.compile(NAME_PATTERN, re.ASCII)
_TASK_ID: Final = re.compile(TASK_ID_PATTERN, re.ASCII)
_BRANCH_REFUSED: Final = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|//|@\{|^[-/.]|/\.|[/.]$|\.lock(?:/|$)")


def is_agent_name(text: str) -> bool:
    """Return whether text can name an agent: a letter or digit, then up to 99 letters, digits, `.`, `_`, `-`."""
    return _NAME.fullmatch(text) is not None


def is_task_id(text: str) -> bool:
    """Return whether text can name a task: a letter or digit, then up to 63 letters, digits, `.`, `_`, `-`."""
    return _TASK_ID.fullmatch(text) is not None


def is_branch(text: str) -> bool:
    """Return whether text is a branch name that git takes and no command line mistakes for an option (rules of `git check-ref-format`)."""
    return 0 < len(text) <= 200 and text != "@" and _BRANCH_REFUSED.search(text) is None


class Priority(StrEnum):
    """How urgent an agent or a task is."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 for the most urgent, 3 for the least."""
        return _RANKS[self]


_RANKS: Final = {priority: rank for rank, priority in enumerate(Priority)}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Metadata(_Model):
    """Who the agent is; `version` and `created` are the text as written."""

    name: str
    version: str | None = None
    created: str | None = None
    workstream: str | None = None
    branch: str | None = None


class Description(_Model):
    """What the agent is called by people."""

    name: str | None = None
    domain: str | None = None
    priority: Priority = Priority.MEDIUM
    description: str | None = None


class Skills(_Model):
    """Labels for the prompt; they grant nothing."""

    primary: tuple[str, ...] = ()
    secondary: tuple[str, ...] = ()


class Check(_Model):
    """A command whose exit status decides: an argv, or text for `sh -c`."""

    run: tuple[str, ...] | str
    timeout_s: float | None = None


class Objective(_Model):
    """What has to be delivered. `validation` is free text; `gate` is a check that toka runs itself."""

    description: str
    deliverable: tuple[str, ...] = ()
    validation: str | None = None
    gate: Check | None = None


class Code(_Model):
    """Source for an interpreter of its own."""

    language: Literal["python", "javascript", "shell"]
    source: str


class Retries(_Model):
    """How often a task is tried again after a failure: the wait is `delay_s`, multiplied by `backoff` each time."""

    max: Annotated[int, Field(ge=0, le=100)] = 0
    delay_s: Annotated[float, Field(ge=0)] = 1.0
    backoff: Annotated[float, Field(ge=1, le=10)] = 2.0


TaskKind = Literal["prompt", "command", "code", "tool", "custom", "agent"]


class TaskSpec(_Model):
    """One task. At most one of `run`, `code`, `tool`, `custom` and `agent` is set; with none it is a prompt for the model.

    `custom` names a task that another package offers; `args` are those of the tool or of that task.
    """

    id: str
    description: str
    priority: Priority = Priority.MEDIUM
    run: tuple[str, ...] | str | None = None
    code: Code | None = None
    tool: str | None = None
    custom: str | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    agent: str | None = None
    input: Any = None
    timeout_s: float | None = None
    retries: Retries = Retries()
    depends_on: tuple[str, ...] = ()
    when: str | None = None
    output_schema: dict[str, Any] | None = None
    verify: Check | None = None
    requires: tuple[str, ...] = ()
    allow_failure: bool = False
    on_interrupted: Literal["rerun", "fail", "ask"] = "fail"

    @property
    def kind(self) -> TaskKind:
        """What the task is made of."""
        if self.run is not None:
            return "command"
        if self.code is not None:
            return "code"
        if self.tool is not None:
            return "tool"
        if self.custom is not None:
            return "custom"
        return "prompt" if self.agent is None else "agent"


class Tasks(_Model):
    """The tasks: `default` always run, each group of `conditional` only when its key is asked for; `parallel` may run at once."""

    parallel: Annotated[int, Field(ge=1, le=64)] = 1
    default: tuple[TaskSpec, ...] = ()
    conditional: dict[str, tuple[TaskSpec, ...]] = Field(default_factory=dict)

    @property
    def every(self) -> tuple[TaskSpec, ...]:
        """All tasks in file order, default ones first."""
        return self.default + tuple(task for group in self.conditional.values() for task in group)


class Dependencies(_Model):
    """Other agents by name, with the reason that was given (may be empty)."""

    required: dict[str, str] = Field(default_factory=dict)
    optional: dict[str, str] = Field(default_factory=dict)


class Grant(_Model):
    """A power asked for, with what it is narrowed to. `values` is empty only for the short form."""

    name: str
    values: tuple[str, ...] = ()


class ResourceLimits(_Model):
    """Limits of the whole process tree of an agent; None is "not said here". `cpu_share` 1.0 is one core."""

    memory_bytes: int | None = None
    cpu_share: float | None = None
    timeout_s: float | None = None
    max_open_files: int | None = None
    max_processes: int | None = None
    output_bytes: int | None = None
    disk_bytes: int | None = None
    max_tool_calls: int | None = None
    task_timeout_s: float | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None


class Security(_Model):
    """What the agent may do and must not exceed."""

    sandbox: bool = True
    grants: tuple[Grant, ...] = ()
    limits: ResourceLimits = ResourceLimits()


class LlmChoice(_Model):
    """Which model answers prompts. No address and no key: specs cannot set them."""

    model: str | None = None
    fallbacks: tuple[str, ...] = ()
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None


class McpServer(_Model):
    """An MCP server: a command to start, or an address to reach. `${NAME}` in `env` is replaced when it starts, not here."""

    command: str | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    url: str | None = None


class Restart(_Model):
    """When an agent whose process ended badly is started again. The defaults are those of toka's reliability rules."""

    policy: Literal["never", "on-failure", "always"] = "on-failure"
    max_attempts: Annotated[int, Field(ge=0, le=100)] = 3
    delay_s: Annotated[float, Field(ge=0)] = 5.0


class Workspace(_Model):
    """Where the agent works: the run's directory, a git worktree of its own, or a copy."""

    mode: Literal["shared", "worktree", "copy"] = "shared"


class Reporting(_Model):
    """What the agent reports: `metrics` are gauges by name, with what they mean."""

    frequency: str | None = None
    channels: tuple[str, ...] = ()
    metrics: dict[str, str] = Field(default_factory=dict)


class AgentSpec(_Model):
    """One agent, as its file says. `extra` holds the sections that toka does not know."""

    metadata: Metadata
    spec: Description = Description()
    capabilities: Skills = Skills()
    objectives: tuple[Objective, ...] = ()
    tasks: Tasks
    dependencies: Dependencies = Dependencies()
    security: Security = Security()
    llm: LlmChoice = LlmChoice()
    mcp_servers: dict[str, McpServer] = Field(default_factory=dict)
    restart: Restart = Restart()
    workspace: Workspace = Workspace()
    reporting: Reporting = Reporting()
    behavioral_directives: Any = None
    risk_mitigation: Any = None
    success_criteria: Any = None
    extra: dict[str, Any] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name, unique in a run."""
        return self.metadata.name

    @property
    def title(self) -> str:
        """The name for people, else the name. Free text: never trust it on a terminal."""
        return self.spec.name or self.metadata.name

    @property
    def workstream(self) -> str:
        """The group of the agent, by default its name. Free text."""
        return self.metadata.workstream or self.metadata.name

    @property
    def domain(self) -> str | None:
        """The domain, free text."""
        return self.spec.domain

    @property
    def priority(self) -> Priority:
        """How urgent the agent is."""
        return self.spec.priority


class Budget(_Model):
    """What a whole run may spend."""

    usd: float | None = None
    tokens: int | None = None


class Orchestration(_Model):
    """An orchestration file. `agents` is what it lists: paths as written, names of inline specs. `path` is the file, as the user wrote it.

    `workdir` is as written and relative to the file's directory. `max_agents` None is "decide by the machine". `allowed` are the grants that its agents can
    have at most (`capabilities_allowed`); None: whatever they ask for.
    """

    path: str
    agents: tuple[str, ...]
    name: str | None = None
    max_agents: int | None = None
    timeout_s: float | None = None
    budget: Budget = Budget()
    llm: LlmChoice = LlmChoice()
    mcp_servers: dict[str, McpServer] = Field(default_factory=dict)
    limits: ResourceLimits = ResourceLimits()
    workdir: str | None = None
    on_failure: Literal["continue", "stop"] = "continue"
    allowed: tuple[Grant, ...] | None = None
    extra: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadedAgent:
    """A spec and where it came from.

    `digest` is the sha256 (hex) of the file's bytes. `places` gives line and column of everything by its dotted path in the documented
    shape (`tasks.default[2].run`), whatever shape the file used; a grant's is also at `security.grants.NAME`.
    """

    spec: AgentSpec
    path: str
    digest: str
    places: Mapping[str, Place] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.spec.name

    def where(self, dotted: str) -> Place:
        """Return line and column of a dotted path, or of the nearest thing around it that was written."""
        return nearest_place(self.places, dotted)


def nearest_place(places: Mapping[str, Place], dotted: str) -> Place:
    """Return the place of a dotted path, else that of the nearest ancestor that has one; (0, 0) when there is none."""
    path = dotted
    while path:
        if path in places:
            return places[path]
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return places.get("", (0, 0))
