"""The plan: everything that will happen and everything that is allowed, decided before anything runs. Plain data; stored with the run."""

from __future__ import annotations

from typing import Any

import msgspec

from toka_cli.protocol.messages import Check, Limits, PromptContext, TaskBrief, Walls


class Gate(msgspec.Struct, frozen=True, omit_defaults=True):
    """A command that proves an objective, run in a fresh cell after the agent's tasks. `index` counts the agent's objectives from 1."""

    index: int
    description: str
    check: Check


class Promise(msgspec.Struct, frozen=True, omit_defaults=True):
    """Files that an objective promises: path globs below the workdir."""

    index: int
    globs: tuple[str, ...]


class Permission(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a spec, compiled three ways: the tools a model is offered, what the kernel lets through, what the operating system's walls allow.

    `grant` is as the spec spells it, `power` its canonical name; `where` is `file:line:column`; `held_back` says who narrowed it away, if somebody did.
    """

    grant: str
    power: str
    where: str = ""
    values: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    kernel: tuple[str, ...] = ()
    walls: tuple[str, ...] = ()
    held_back: str | None = None


class PlannedAgent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One agent of the plan: order, tasks, grants, limits and what this machine can enforce of them.

    `depends_on` must succeed first; `after` gives order only. `rank` is the order in which ready agents start (lower first). `enforcement` says per limit
    and wall which mechanism will hold it: `cgroup`, `sampled`, `rlimit`, `owner`, `kernel`, `cell`, `landlock`, `namespace`, `seccomp` or `none`.
    `limit_origins` says by field of `limits` where each value comes from; `notes` are for those who ask for more (-v). `walls` is what the operating system
    will hold of what its commands do (None: no walls); `cell_walls` are those of the agent's own process where they are wider (see `policy.profile`).
    `folders` and empty `files` of the workdir are made before it starts. `hosts` are `host:port` that the kernel's proxy lets through; `prompt` is set
    when a task of it asks a model.
    """

    name: str
    title: str
    workstream: str
    domain: str | None
    priority: str
    branch: str | None
    depends_on: tuple[str, ...]
    after: tuple[str, ...]
    rank: int
    tasks: tuple[TaskBrief, ...]
    parallel: int
    grants: tuple[str, ...]
    grant_values: dict[str, tuple[str, ...]]
    declared: tuple[str, ...]
    limits: Limits
    enforcement: dict[str, str]
    sandbox: bool
    gates: tuple[Gate, ...]
    promises: tuple[Promise, ...]
    metrics: tuple[str, ...]
    conditional: dict[str, int]
    restart: str
    restart_attempts: int
    restart_delay_s: float
    spec_path: str
    spec_digest: str
    limit_origins: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    walls: Walls | None = None
    hosts: tuple[str, ...] = ()
    permissions: tuple[Permission, ...] = ()
    prompt: PromptContext | None = None
    cell_walls: Walls | None = None
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """The whole plan. `waves` are for reading (an agent starts the moment it can, not wave by wave); `critical_path` is the longest chain of required
    dependencies; `left_out` names agents that --only or --skip removed; `options` are the run's own settings (max_agents_reason, when, start_method, ...).
    `agents` are in the order of the waves, and within one by rank.
    """

    agents: tuple[PlannedAgent, ...]
    waves: tuple[tuple[str, ...], ...]
    critical_path: tuple[str, ...]
    left_out: tuple[str, ...]
    max_agents: int
    timeout_s: float | None
    fail_fast: bool
    workdir: str
    warnings: tuple[str, ...]
    options: dict[str, Any]

    def agent(self, name: str) -> PlannedAgent:
        """The agent of that name. Raises KeyError."""
        for agent in self.agents:
            if agent.name == name:
                return agent
        raise KeyError(name)


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON data, in the shape that `orchestrate --plan -o json` promises (under `plan`; its warnings stand beside it).

    Every limit is there, null when there is none.
    """
    return {
        "waves": [list(wave) for wave in plan.waves],
        "critical_path": list(plan.critical_path),
        "agents": [agent_json(agent) for agent in plan.agents],
        "left_out": list(plan.left_out),
        "max_agents": plan.max_agents,
        "max_agents_reason": plan.options.get("max_agents_reason"),
        "timeout_s": plan.timeout_s,
        "fail_fast": plan.fail_fast,
        "workdir": plan.workdir,
    }


def agent_json(agent: PlannedAgent) -> dict[str, Any]:
    """One agent of the plan as JSON data."""
    return {
        "name": agent.name,
        "title": agent.title,
        "priority": agent.priority,
        "workstream": agent.workstream,
        "domain": agent.domain,
        "branch": agent.branch,
        "depends_on": list(agent.depends_on),
        "after": list(agent.after),
        "grants": list(agent.grants),
        "grant_values": {name: list(values) for name, values in agent.grant_values.items()},
        "declared": list(agent.declared),
        "sandbox": agent.sandbox,
        "limits": msgspec.structs.asdict(agent.limits),
        "limit_origins": dict(agent.limit_origins),
        "enforcement": dict(agent.enforcement),
        "tasks": [{"id": task.id, "kind": task.kind, "description": task.description, "priority": task.priority} for task in agent.tasks],
        "parallel": agent.parallel,
        "gates": [
            {
                "index": gate.index,
                "description": gate.description,
                "run": gate.check.run if isinstance(gate.check.run, str) else list(gate.check.run),
                "timeout_s": gate.check.timeout_s,
            }
            for gate in agent.gates
        ],
        "deliverables": [glob for promise in agent.promises for glob in promise.globs],
        "conditional": dict(agent.conditional),
        "restart": {"policy": agent.restart, "max_attempts": agent.restart_attempts, "delay_s": agent.restart_delay_s},
        "spec_path": agent.spec_path,
        "notes": list(agent.notes),
        "hosts": list(agent.hosts),
        "permissions": [msgspec.structs.asdict(permission) for permission in agent.permissions],
        "walls": msgspec.structs.asdict(agent.walls) if agent.walls is not None else None,
        "model": agent.prompt.model if agent.prompt is not None else None,
    }
