"""What each agent must not exceed, and how many run at once.

Limits of spec, orchestration file and settings come in; the limits that hold, where each comes from and sentences about what was cut go out. It enforces
nothing and does not know what can be enforced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from toka_cli.errors import UsageError
from toka_cli.plan.options import Machine, PlanOptions
from toka_cli.protocol.messages import Limits
from toka_cli.spec.model import LoadedAgent, Orchestration, ResourceLimits
from toka_cli.units import format_bytes, format_duration

MEMORY_SHARE: Final = 0.9
"""The part of the machine's memory that agents may fill together; the rest is for the kernel program and for everybody else."""

PER_CPU: Final = 4
"""Agents at once per processor: most of them wait most of the time."""

YAML_NAMES: Final = {
    "memory_bytes": "max_memory",
    "cpu_share": "max_cpu",
    "timeout_s": "timeout",
    "task_timeout_s": "task_timeout",
    "max_open_files": "max_open_files",
    "max_processes": "max_processes",
    "output_bytes": "max_output",
    "disk_bytes": "max_disk_usage",
    "max_tool_calls": "max_tool_calls",
    "max_tokens": "max_tokens",
    "max_cost_usd": "max_cost_usd",
}


@dataclass(frozen=True, slots=True)
class Bounded:
    """The limits of one agent, where each one comes from (by the field's name), and a sentence for each that was cut.

    `longest_task_s` is what no task may exceed, even one with a time limit of its own.
    """

    limits: Limits
    origins: dict[str, str]
    cut: tuple[str, ...]
    longest_task_s: float | None


def bounded(agent: LoadedAgent, orchestration: Orchestration | None, options: PlanOptions) -> Bounded:
    """Return the limits that hold for an agent.

    The spec's value, else that of the orchestration file, else the default; then never more than the orchestration file and the user's caps allow.
    Whoever may cut says so in the spec's words.
    """
    values: dict[str, float | int | None] = {}
    origins: dict[str, str] = {}
    cut: list[str] = []
    run = orchestration.limits if orchestration else ResourceLimits()
    run_origin = orchestration.path if orchestration else ""
    for name in YAML_NAMES:
        value, origin = getattr(agent.spec.security.limits, name), "spec"
        if value is None:
            value, origin = getattr(run, name), run_origin
        if value is None:
            value, origin = getattr(options.default_limits, name), options.default_origins.get(name, "default")
        for cap, source in ((getattr(run, name), run_origin), (getattr(options.cap_limits, name), options.cap_origin)):
            if cap is not None and (value is None or value > cap):
                if origin == "spec" and value is not None:
                    cut.append(f"{agent.name}: {YAML_NAMES[name]} is {shown_limit(name, cap)}, not {shown_limit(name, value)}: capped by {source}")
                value, origin = cap, source
        if value is not None:
            values[name], origins[name] = value, origin
    caps = [cap for cap in (run.task_timeout_s, options.cap_limits.task_timeout_s) if cap is not None]
    return Bounded(Limits(**values), origins, tuple(cut), min(caps, default=None))  # type: ignore[arg-type]


def shown_limit(name: str, value: float) -> str:
    """Return a limit as people read it, by its field's name."""
    if name.endswith("_bytes"):
        return format_bytes(value)
    if name.endswith("_s"):
        return format_duration(value)
    if name == "cpu_share":
        return f"{value * 100:.4g}%"
    return f"${value:.2f}" if name == "max_cost_usd" else f"{value:g}" if value < 1e6 else f"{value:.0f}"


def at_once(limits: Sequence[Limits], orchestration: Orchestration | None, options: PlanOptions, machine: Machine) -> tuple[int, str, list[str]]:
    """Return how many agents may run at once, why so many, and warnings.

    What was said is done. `auto` is the largest number whose biggest memory limits fit together into 90 % of the machine, at most
    `options.max_concurrent`, four per processor and as many as there are, and at least one. Raises UsageError for a number below one.
    """
    warnings = [
        f"an agent may use {format_bytes(each)} of memory, more than this machine's {format_bytes(machine.memory_bytes)}"
        for each in sorted({limit.memory_bytes or 0 for limit in limits})
        if each > machine.memory_bytes
    ]
    said, origin = options.max_agents, "--max-agents"
    if said is None and orchestration and orchestration.max_agents is not None:
        said, origin = orchestration.max_agents, orchestration.path
    sizes = sorted((limit.memory_bytes or 0 for limit in limits), reverse=True)
    if isinstance(said, int):
        if said < 1:
            raise UsageError(f"--max-agents must be at least 1, not {said}", hint="or auto: as many as this machine holds")
        together = sum(sizes[:said])
        if together > machine.memory_bytes and not warnings:
            amount, whole = format_bytes(together), format_bytes(machine.memory_bytes)
            warnings.append(f"{min(said, len(sizes))} agents at once may use {amount} of memory together, more than this machine's {whole}")
        return said, f"said by {origin}", warnings
    room, fitting = machine.memory_bytes * MEMORY_SHARE, 0
    for size in sizes:
        room -= size
        if room < 0:
            break
        fitting += 1
    bounds = [
        (max(fitting, 1), f"their memory limits fit together into {MEMORY_SHARE:.0%} of {format_bytes(machine.memory_bytes)}"),
        (max(options.max_concurrent, 1), "max_concurrent_processes"),
        (PER_CPU * max(machine.cpu_count, 1), f"{PER_CPU} for each of {machine.cpu_count} processors"),
    ]
    number, reason = min(bounds, key=lambda bound: bound[0])
    return (number, reason, warnings) if number < len(sizes) else (max(len(sizes), 1), "all of them fit", warnings)
