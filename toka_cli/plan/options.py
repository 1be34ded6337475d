"""What the planner is told besides the specs: what the user asked for, and what this machine is and can enforce. Plain data; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from toka_cli.spec.model import ResourceLimits

SandboxLevel = Literal["full", "standard"]


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the user asked for, flags and settings together.

    `preview` is `--plan`: what could not run now becomes a warning instead of a refusal. `max_agents` None means that nobody said (the orchestration file,
    then `auto`, decide); `max_concurrent` bounds `auto`. `default_limits` hold where neither spec nor orchestration file says anything and
    `default_origins` says by field where each comes from; `cap_limits` (the user's own, named by `cap_origin`) hold always. `workdir` is absolute.
    """

    workdir: str
    max_agents: int | Literal["auto"] | None = None
    max_concurrent: int = 10
    timeout_s: float | None = None
    fail_fast: bool = False
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    when: tuple[str, ...] = ()
    allow_missing: bool = False
    no_sandbox: bool = False
    require_sandbox: SandboxLevel | None = None
    model_available: bool = False
    strict: bool = False
    preview: bool = False
    budget_usd: float | None = None
    budget_tokens: int | None = None
    default_limits: ResourceLimits = field(default_factory=ResourceLimits)
    default_origins: Mapping[str, str] = field(default_factory=dict)
    cap_limits: ResourceLimits = field(default_factory=ResourceLimits)
    cap_origin: str = "your settings"


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine is and which mechanism can hold what on it, as probed, never as hoped.

    `notes` say (what, why, fix) for each thing that is not held: what is a name of `Machine` (`filesystem`, `network`, `memory`, `cpu`, `processes`), why a
    sentence, fix what a person can do (may be empty).
    """

    cpu_count: int
    memory_bytes: int
    start_method: str
    filesystem: Literal["landlock", "none"] = "none"
    network: Literal["namespace", "seccomp", "landlock", "none"] = "none"
    memory: Literal["cgroup", "sampled", "none"] = "none"
    cpu: Literal["cgroup", "sampled", "none"] = "none"
    processes: Literal["cgroup", "sampled", "rlimit", "none"] = "none"
    notes: tuple[tuple[str, str, str], ...] = ()

    @property
    def level(self) -> Literal["full", "standard", "process"]:
        """The sandbox level that the walls add up to: `full` needs namespaces, `standard` files and network, else `process` (no walls)."""
        if self.filesystem == "none" or self.network == "none":
            return "process"
        return "full" if self.network == "namespace" else "standard"
