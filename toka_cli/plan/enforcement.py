"""Which mechanism holds which limit and wall of an agent on this machine, and what to tell a person about those that nothing holds.

Limits and the machine's own facts come in; names of mechanisms and warnings go out. It claims only what the machine reported.
"""

from __future__ import annotations

from collections.abc import Sequence

from toka_cli.errors import Refused, UsageError
from toka_cli.plan.options import Machine, PlanOptions
from toka_cli.plan.plan import PlannedAgent
from toka_cli.protocol.messages import Limits, Walls

STANDARD_GAPS = "chmod, times and attributes of files outside, names and sizes of files, .git in a writable folder (hooks are looked at afterwards), a loopback"
"""What Landlock and a filter of system calls cannot hold without namespaces."""

# Limits that the machine may or may not hold: the agent's field, the machine's field.
_BY_MACHINE = {"memory_bytes": "memory", "cpu_share": "cpu", "max_processes": "processes"}
_LEVELS = {"process": 0, "standard": 1, "full": 2}


def enforcement_of(limits: Limits, machine: Machine, walls: Walls | None, *, model: bool) -> dict[str, str]:
    """Return by limit and wall the mechanism that will hold it: a limit that is not set is not mentioned, but for memory and CPU, which then are `none`.

    `walls` are the agent's (None: none are put up); `model` says whether it asks one, so that tokens and money are counted.
    """
    held = {
        "memory": machine.memory if limits.memory_bytes is not None else "none",
        "cpu": machine.cpu if limits.cpu_share is not None else "none",
        "filesystem": machine.filesystem if walls is not None else "none",
        "network": _network(machine, walls),
    }
    money = "kernel" if model else "none"
    others = (
        ("timeout", limits.timeout_s, "owner"),
        ("task_timeout", limits.task_timeout_s, "cell"),
        ("open_files", limits.max_open_files, "rlimit"),
        ("processes", limits.max_processes, machine.processes),
        ("output", limits.output_bytes, "kernel"),
        ("disk", limits.disk_bytes, "sampled"),
        ("file_size", limits.disk_bytes, "rlimit"),
        ("tool_calls", limits.max_tool_calls, "kernel"),
        ("tokens", limits.max_tokens, money),
        ("cost", limits.max_cost_usd, money),
    )
    return held | {name: mechanism for name, value, mechanism in others if value is not None}


def sampled(limits: Limits, machine: Machine) -> tuple[str, ...]:
    """Return why limits of this agent's tree are held by polling and not by a cgroup, with what to do: one sentence for each reason."""
    reasons: dict[str, list[str]] = {}
    for field, what in _BY_MACHINE.items():
        if getattr(limits, field) is not None and getattr(machine, what) == "sampled" and (why := _because(machine, what)):
            reasons.setdefault(why, []).append(what)
    return tuple(f"held by polling, not by a cgroup: {', '.join(named)}{why}" for why, named in reasons.items())


def _network(machine: Machine, walls: Walls | None) -> str:
    if walls is None:
        return "none"
    if machine.network == "seccomp" and walls.network == "proxy":
        # Sockets are let through then, and connections held to one port.
        return "landlock"
    return machine.network


def check_sandbox(machine: Machine, options: PlanOptions) -> None:
    """Check that the machine reaches the level that was required. Raises Refused, and UsageError for flags that contradict each other."""
    if options.require_sandbox is None:
        return
    if options.no_sandbox:
        raise UsageError("--no-sandbox and --require-sandbox contradict each other")
    if _LEVELS[machine.level] < _LEVELS[options.require_sandbox]:
        raise Refused(
            f"--require-sandbox {options.require_sandbox}: this machine reaches only the level {machine.level}{_missing(machine)}",
            hint=_fixes(machine) or "toka runtime doctor shows what this machine can hold",
        )


def refuse_without_walls(machine: Machine, options: PlanOptions) -> Refused | None:
    """Return why nothing can be started: walls are asked for, and this machine can put up none."""
    if options.no_sandbox or machine.level != "process":
        return None
    fixes = _fixes(machine)
    return Refused(
        f"agents are not started without walls, and this machine can put up none{_missing(machine)}",
        hint=(f"{fixes}; or " if fixes else "") + "say --no-sandbox: agents can then read and write whatever you can, and reach the network",
        code="no_walls",
    )


def gaps(agents: Sequence[PlannedAgent], machine: Machine, options: PlanOptions) -> list[str]:
    """Return one sentence for each wall or limit that was asked for and that nothing holds, with the reason and what to do."""
    sentences: list[str] = []
    if options.no_sandbox:
        sentences.append("--no-sandbox: agents run without walls; they can read and write whatever you can, and reach the network")
    elif machine.level == "process":
        fixes = _fixes(machine)
        sentences.append(f"not in force: walls around files and the network{_missing(machine)}" + (f" ({fixes})" if fixes else ""))
    elif machine.level == "standard":
        fixes = _fixes(machine)
        reason = _missing(machine) + (f" ({fixes})" if fixes else "")
        sentences.append(f"walls hold at the level standard, not full{reason}; not in force: {STANDARD_GAPS}")
    unheld = {
        mechanism: [agent.name for agent in agents if getattr(agent.limits, field) is not None]
        for field, mechanism in _BY_MACHINE.items()
        if getattr(machine, mechanism) == "none"
    }
    for mechanism, limited in unheld.items():
        if limited:
            sentences.append(f"not in force: {mechanism} limit of {_count(limited)}{_because(machine, mechanism)}")
    return sentences


def _missing(machine: Machine) -> str:
    """What walls lack, each with its reason; those notes about limits are not meant."""
    parts = [f"{what}: {why}" for what, why, _ in machine.notes if what not in _BY_MACHINE.values()]
    return ": " + "; ".join(parts) if parts else ""


def _fixes(machine: Machine) -> str:
    return "; ".join(dict.fromkeys(fix for what, _, fix in machine.notes if fix and what not in _BY_MACHINE.values()))


def _because(machine: Machine, what: str) -> str:
    parts = [": " + why + (f" ({fix})" if fix else "") for name, why, fix in machine.notes if name == what]
    return "".join(parts[:1])


def _count(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names)
    return f"{len(names)} agents ({', '.join(names[:2])}, ...)"
