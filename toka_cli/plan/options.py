"""What the planner is told besides the specs: what the user asked for, and what this machine is and can enforce. Plain data; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from toka_cli.policy.ceiling import Ceiling
from toka_cli.policy.places import Places
from toka_cli.spec.model import ResourceLimits

SandboxLevel = Literal["full", "standard"]

LANDLOCK_TCP = 4
"""The version of Landlock that holds TCP connections (Linux 6.7)."""


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the user asked for, flags and settings together.

    `preview` is `--plan`: what could not run now becomes a warning instead of a refusal. `max_agents` None means that nobody said (the orchestration file,
    then `auto`, decide); `max_concurrent` bounds `auto`. `default_limits` hold where neither spec nor orchestration file says anything and
    `default_origins` says by field where each comes from; `cap_limits` (the user's own, named by `cap_origin`) hold always. `workdir` is absolute.

    `places` are where things are on this machine (None: nothing but the workdir is known), `ceilings` who allows at most what, `on_threat` what follows a sign
    of one. `model` is the one that answers prompts where neither spec nor orchestration file names one. `direct`: code that a person runs by itself
    (`runtime exec`), who need not be told that it sees no workdir. `custom_tasks` are those that packages offer (None: nobody has looked).
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
    model: str | None = None
    strict: bool = False
    preview: bool = False
    budget_usd: float | None = None
    budget_tokens: int | None = None
    default_limits: ResourceLimits = field(default_factory=ResourceLimits)
    default_origins: Mapping[str, str] = field(default_factory=dict)
    cap_limits: ResourceLimits = field(default_factory=ResourceLimits)
    cap_origin: str = "your settings"
    places: Places | None = None
    ceilings: tuple[Ceiling, ...] = ()
    on_threat: Literal["pause", "stop", "record"] = "pause"
    direct: bool = False
    custom_tasks: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine is and which mechanism can hold what on it, as probed, never as hoped.

    `notes` say (what, why, fix) for each thing that is not held: what is a name of `Machine` (`memory`, `cpu`, `processes`) or, for walls, whatever is
    missing (`Landlock`, `user namespaces`), why a sentence, fix what a person can do (may be empty). `landlock_abi` is the version (0: none).
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
    landlock_abi: int = 0

    @property
    def proxy(self) -> bool:
        """True if an agent's connections can be held to toka's proxy alone: in a network of its own, or by Landlock, which knows TCP from version 4."""
        return self.level == "full" or (self.level == "standard" and self.landlock_abi >= LANDLOCK_TCP)

    @property
    def level(self) -> Literal["full", "standard", "process"]:
        """The sandbox level that the walls add up to: `full` needs namespaces, `standard` files and network, else `process` (no walls)."""
        if self.filesystem == "none" or self.network == "none":
            return "process"
        return "full" if self.network == "namespace" else "standard"
