"""Shows a plan as plain text lines, for `orchestrate --plan`.

The plan's JSON data comes in (what `-o json` prints), lines that fit the width go out. Names and descriptions are cleaned before they are shown.
It knows no colour and no terminal, and it decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from toka_cli.units import format_bytes, format_duration
from toka_cli.view.permissions import permission_lines
from toka_cli.view.text import fit
from toka_cli.view.wrap import wrapped

SHOWN_NAMES: Final = 40
"""Names of one wave or path that are shown; -v shows all."""

_LIMITS: Final = (
    ("memory_bytes", "memory", "memory"),
    ("cpu_share", "CPU", "cpu"),
    ("timeout_s", "time", "timeout"),
    ("task_timeout_s", "time per task", "task_timeout"),
    ("max_open_files", "open files", "open_files"),
    ("max_processes", "processes", "processes"),
    ("output_bytes", "output", "output"),
    ("disk_bytes", "disk", "disk"),
    ("max_tool_calls", "tool calls", "tool_calls"),
    ("max_tokens", "tokens", "tokens"),
    ("max_cost_usd", "cost", "cost"),
)
_ALWAYS: Final = frozenset({"memory_bytes", "cpu_share", "timeout_s"})


def render_plan(plan: Mapping[str, Any], warnings: Sequence[str] = (), *, width: int = 80, verbose: int = 0) -> list[str]:
    """Return a plan (the data of `plan_json`) as lines no wider than `width` columns.

    With `verbose` every limit and where it comes from, every task, gate and note are shown.
    """
    lines = [*_head(plan, width), "", *_order(plan, width, verbose)]
    for agent in plan["agents"]:
        lines += ["", *_agent(agent, width, verbose)]
    if warnings:
        lines += ["", "Warnings"]
        for warning in warnings:
            # A warning may have several lines of its own; each is cleaned by itself, so that none can be forged by a name.
            for number, line in enumerate(warning.split("\n")):
                depth = len(line) - len(line.lstrip(" "))
                lines += wrapped(line, width, "      " + " " * min(depth, 8) if number else "  - ", "      ")
    return [fit(line, max(width, 1)).rstrip() for line in lines]


def _head(plan: Mapping[str, Any], width: int) -> list[str]:
    agents, waves = len(plan["agents"]), len(plan["waves"])
    if not agents:
        return ["Plan: no agents"]
    reason = f" ({plan['max_agents_reason']})" if plan.get("max_agents_reason") else ""
    time = f"time limit {format_duration(plan['timeout_s'])}" if plan.get("timeout_s") else "no time limit"
    fast = ", the first failure ends the run" if plan.get("fail_fast") else ""
    text = f"Plan: {_plural(agents, 'agent')} in {_plural(waves, 'wave')}, at most {plan['max_agents']} at once{reason}, {time}{fast}"
    lines = [*wrapped(text, width, "", "  "), *wrapped(plan["workdir"], width, "Directory: ", "  ")]
    if plan.get("left_out"):
        lines += wrapped(_some(plan["left_out"], 0), width, "Left out: ", "  ")
    return lines


def _order(plan: Mapping[str, Any], width: int, verbose: int) -> list[str]:
    lines = wrapped("Order (an agent starts as soon as what it requires succeeded and a slot is free)", width, "", "  ")
    for number, wave in enumerate(plan["waves"], start=1):
        if number > SHOWN_NAMES and not verbose:
            lines += wrapped(f"... and {len(plan['waves']) - SHOWN_NAMES} more waves", width, "  ", "  ")
            break
        lines += wrapped(_some(wave, verbose), width, f"  {number:>2}  ", "      ")
    path = plan["critical_path"]
    if len(path) > 1:
        lines += wrapped(_some(path, verbose, " -> "), width, "Critical path: ", "  ")
    return lines


def _agent(agent: Mapping[str, Any], width: int, verbose: int) -> list[str]:
    lines = wrapped(f"{agent['name']} [{agent['priority']}]", width, "", "  ")
    if agent.get("title") and agent["title"] != agent["name"]:
        lines += wrapped(agent["title"], width, "  ", "  ")
    for label, text in _rows(agent, verbose):
        lines += wrapped(text, width, f"  {label}: ", "    ")
    if agent.get("permissions"):
        lines += permission_lines(agent["permissions"], width, indent=2)
    if verbose:
        for task in agent["tasks"]:
            lines += wrapped(f"{task['id']} ({task['kind']}, {task['priority']}) {task['description']}", width, "  task ", "    ")
        for gate in agent.get("gates", ()):
            lines += wrapped(f"{gate['index']} {gate['description']}: {_command(gate['run'])}", width, "  gate ", "    ")
        for note in agent.get("notes", ()):
            lines += wrapped(note, width, "  note: ", "    ")
    return lines


def _rows(agent: Mapping[str, Any], verbose: int) -> Iterable[tuple[str, str]]:
    if agent["workstream"] != agent["name"]:
        yield "workstream", agent["workstream"]
    yield "waits for", ", ".join(agent["depends_on"]) or "nothing"
    if agent["after"]:
        yield "after, when possible", ", ".join(agent["after"])
    yield "tasks", _tasks(agent)
    if agent.get("gates"):
        yield "gates", _plural(len(agent["gates"]), "command") + " must succeed afterwards"
    if agent.get("deliverables") and verbose:
        yield "delivers", ", ".join(agent["deliverables"])
    values = agent.get("grant_values", {})
    yield "may", ", ".join(name + (f" ({', '.join(values[name])})" if values.get(name) else "") for name in agent["grants"]) or "nothing special"
    if agent.get("declared"):
        yield "declared, grants nothing", ", ".join(agent["declared"])
    yield "limits", _limits(agent, verbose)
    yield "walls", _walls(agent)
    if agent.get("hosts"):
        yield "hosts", ", ".join(agent["hosts"])
    if agent.get("model"):
        yield "model", agent["model"]
    if verbose and agent.get("restart"):
        restart = agent["restart"]
        yield "restart", f"{restart['policy']}, at most {restart['max_attempts']} times, after {format_duration(restart['delay_s'])}"
    if verbose:
        yield "spec", agent.get("spec_path", "")


def _tasks(agent: Mapping[str, Any]) -> str:
    kinds = Counter(task["kind"] for task in agent["tasks"])
    text = str(len(agent["tasks"])) if kinds else "none"
    if kinds:
        text += f" ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})"
    if agent.get("parallel", 1) > 1:
        text += f", {agent['parallel']} at once"
    more = [f"{count} more with --when {key}" for key, count in agent.get("conditional", {}).items()]
    return "; ".join([text, *more])


def _limits(agent: Mapping[str, Any], verbose: int) -> str:
    origins, enforcement = agent.get("limit_origins", {}), agent["enforcement"]
    parts: list[str] = []
    for field, label, key in _LIMITS:
        value = agent["limits"].get(field)
        if value is None or not (verbose or field in _ALWAYS or origins.get(field) == "spec"):
            continue
        held = enforcement.get(key, "none")
        if held == "none":
            held = "no model is asked" if key in {"tokens", "cost"} else "not held"
        origin = f", from {origins[field]}" if verbose and field in origins else ""
        parts.append(f"{label} {_amount(field, value)} ({held}{origin})")
    return ", ".join(parts) or "none"


def _amount(field: str, value: float) -> str:
    if field.endswith("_bytes"):
        return format_bytes(value)
    if field.endswith("_s"):
        return format_duration(value)
    if field == "cpu_share":
        return f"{value * 100:.4g}%"
    return f"${value:.2f}" if field == "max_cost_usd" else f"{value:,}"


def _walls(agent: Mapping[str, Any]) -> str:
    if not agent.get("sandbox", True):
        return "none (--no-sandbox)"
    walls = (("files", agent["enforcement"].get("filesystem", "none")), ("network", agent["enforcement"].get("network", "none")))
    return ", ".join(f"{what} {'not in force' if held == 'none' else f'by {held}'}" for what, held in walls)


def _command(run: str | Sequence[str]) -> str:
    return run if isinstance(run, str) else " ".join(run)


def _some(names: Sequence[str], verbose: int, between: str = ", ") -> str:
    if verbose or len(names) <= SHOWN_NAMES:
        return between.join(names)
    return between.join([*names[:SHOWN_NAMES], f"... and {len(names) - SHOWN_NAMES} more"])


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
