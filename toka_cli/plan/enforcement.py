"""Which mechanism holds which limit and wall of an agent on this machine, and what to tell a person about those that nothing holds.

Limits and the machine's own facts come in; names of mechanisms and warnings go out. It claims only what the machine reported.
"""

from __future__ import annotations

from collections.abc import Sequence

from toka_cli.errors import Refused, UsageError
from toka_cli.plan.options import Machine, PlanOptions
from toka_cli.plan.plan import PlannedAgent
from toka_cli.protocol.messages import Limits

# Limits that the machine may or may not hold: the agent's field, the machine's field.
_BY_MACHINE = {"memory_bytes": "memory", "cpu_share": "cpu", "max_processes": "processes"}
_WALLS = {"filesystem": "files", "network": "the network"}
_LEVELS = {"process": 0, "standard": 1, "full": 2}


def enforcement_of(limits: Limits, machine: Machine, options: PlanOptions, *, network_granted: bool) -> dict[str, str]:
    """Return by limit and wall the mechanism that will hold it: a limit that is not set is not mentioned, but for memory and CPU, which then are `none`.

    An agent with a network grant is not walled off from the network unless it has a namespace of its own, whose only way out is the kernel's proxy.
    """
    sandbox = not options.no_sandbox
    network = machine.network if sandbox and (machine.network == "namespace" or not network_granted) else "none"
    held = {
        "memory": machine.memory if limits.memory_bytes is not None else "none",
        "cpu": machine.cpu if limits.cpu_share is not None else "none",
        "filesystem": machine.filesystem if sandbox else "none",
        "network": network,
    }
    money = "kernel" if options.model_available else "none"
    others = (
        ("timeout", limits.timeout_s, "owner"),
        ("task_timeout", limits.task_timeout_s, "cell"),
        ("open_files", limits.max_open_files, "rlimit"),
        ("processes", limits.max_processes, machine.processes),
        ("output", limits.output_bytes, "kernel"),
        ("disk", limits.disk_bytes, "none"),
        ("file_size", limits.disk_bytes, "rlimit"),
        ("tool_calls", limits.max_tool_calls, "kernel"),
        ("tokens", limits.max_tokens, money),
        ("cost", limits.max_cost_usd, money),
    )
    return held | {name: mechanism for name, value, mechanism in others if value is not None}


def check_sandbox(machine: Machine, options: PlanOptions) -> None:
    """Check that the machine reaches the level that was required. Raises Refused, and UsageError for flags that contradict each other."""
    if options.require_sandbox is None:
        return
    if options.no_sandbox:
        raise UsageError("--no-sandbox and --require-sandbox contradict each other")
    if _LEVELS[machine.level] < _LEVELS[options.require_sandbox]:
        reasons = [_because(machine, wall) for wall in _WALLS]
        raise Refused(
            f"--require-sandbox {options.require_sandbox}: this machine reaches only the level {machine.level}{''.join(dict.fromkeys(reasons))}",
            hint="toka orchestrate --plan shows what this machine can hold",
        )


def gaps(agents: Sequence[PlannedAgent], machine: Machine, options: PlanOptions) -> list[str]:
    """Return one sentence for each wall or limit that was asked for and that nothing holds, with the reason and what to do."""
    sentences: list[str] = []
    if options.no_sandbox:
        sentences.append("--no-sandbox: agents run without walls; they can read and write whatever you can, and reach the network")
    else:
        missing: dict[str, list[str]] = {}
        for wall, what in _WALLS.items():
            if any(agent.enforcement.get(wall) == "none" for agent in agents) and getattr(machine, wall) == "none":
                missing.setdefault(_because(machine, wall), []).append(what)
        sentences += [f"not in force: walls around {' and '.join(walls)}{reason}" for reason, walls in missing.items()]
        for wall, what in _WALLS.items():
            open_to = [agent.name for agent in agents if agent.enforcement.get(wall) == "none"]
            if open_to and getattr(machine, wall) != "none":
                sentences.append(f"not in force: the wall around {what} of {_count(open_to)}: a grant opens it, and nothing filters it")
    unheld = {
        mechanism: [agent.name for agent in agents if getattr(agent.limits, field) is not None]
        for field, mechanism in _BY_MACHINE.items()
        if getattr(machine, mechanism) == "none"
    }
    for mechanism, limited in unheld.items():
        if limited:
            sentences.append(f"not in force: {mechanism} limit of {_count(limited)}{_because(machine, mechanism)}")
    whole = [agent.name for agent in agents if agent.enforcement.get("disk") == "none"]
    if whole:
        sentences.append(f"not in force: max_disk_usage of {_count(whole)} for all files together; each file by itself is held to it")
    return sentences


def _because(machine: Machine, what: str) -> str:
    parts = [": " + why + (f" ({fix})" if fix else "") for name, why, fix in machine.notes if name == what]
    return "".join(parts[:1])


def _count(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names)
    return f"{len(names)} agents ({', '.join(names[:2])}, ...)"
