"""The live picture of a run, or of one agent of it, as lines that fit a screen.

A view, the time and the size of the screen come in, lines with styles go out: never wider than `width`, never more than `height`. Pure: the same in gives the
same out; it knows no terminal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from toka_cli.lifecycle import AgentState, TaskState
from toka_cli.state.snapshot import AgentView, RunView, TaskView, Usage
from toka_cli.units import format_bytes
from toka_cli.view.causes import cause, duration, lasted
from toka_cli.view.style import STATE_STYLES, Line, Span, cut
from toka_cli.view.table import Cell, Column, table
from toka_cli.view.text import shown

BAR: Final = 10
_AGENT_COLUMNS: Final = (
    Column("agent", minimum=8, ideal=28, drop=0),
    Column("workstream", minimum=8, ideal=16, drop=7),
    Column("state", minimum=9, drop=1),
    Column("progress", minimum=BAR, drop=6),
    Column("", minimum=4, right=True, drop=2),
    Column("task", minimum=12, drop=5, stretch=True),
    Column("memory", minimum=7, right=True, drop=8),
    Column("CPU", minimum=6, right=True, drop=9),
    Column("tokens", minimum=6, right=True, drop=11),
    Column("cost", minimum=7, right=True, drop=10),
    Column("time", minimum=6, right=True, drop=3),
)
_TASK_COLUMNS: Final = (
    Column("task", minimum=4, ideal=16, drop=0),
    Column("state", minimum=9, drop=1),
    Column("tries", minimum=5, right=True, drop=4),
    Column("time", minimum=6, right=True, drop=2),
    Column("what", minimum=12, drop=3, stretch=True),
)
_RANKS: Final = {
    # Who is left out first when the screen is too low: what is over and well, then what has not begun.
    "failed": 0, "running": 1, "starting": 1, "stopping": 1, "retrying": 1, "paused": 2, "backoff": 2, "stopped": 3, "queued": 4, "pending": 5,
    "skipped": 6, "succeeded": 7,
}  # fmt: skip


def run_screen(view: RunView, now: float, width: int, height: int, *, ascii_only: bool = False) -> list[Line]:
    """Return the picture of a run: a line about the whole, a table of agents, and what had no room as a number."""
    if width < 1 or height < 1:
        return []
    head = _run_head(view, now, ascii_only)
    room = height - 1
    warning = view.warnings[-1] if view.warnings and room >= 8 else None
    room -= warning is not None
    heading = room >= 4
    room -= heading
    kept, left = _choose([agent.state.value for agent in view.agents], room)
    rows = [_agent_row(view.agents[index], now, width, ascii_only) for index in kept]
    lines: list[Line] = [head]
    if rows:
        lines += table(_AGENT_COLUMNS, rows, width=width, heading=heading, ascii_only=ascii_only)
    if left and room:
        lines.append(_more(left, ascii_only))
    if warning is not None:
        lines.append([Span("warning: ", "warn"), Span(shown(warning, width, ascii_only=ascii_only))])
    return [cut(line, width, ascii_only=ascii_only) for line in lines[:height]]


def agent_screen(view: RunView, agent: AgentView, now: float, width: int, height: int, *, ascii_only: bool = False) -> list[Line]:
    """Return the picture of one agent: a line about it, what it does or why it ended, its tasks and gates."""
    if width < 1 or height < 1:
        return []
    lines: list[Line] = [_agent_head(agent, now, width, ascii_only)]
    said = agent.detail if agent.state not in {AgentState.FAILED, AgentState.SKIPPED, AgentState.STOPPED} else cause(agent)
    if said and height >= 6:
        lines.append([Span(f"  {shown(said, width, ascii_only=ascii_only)}")])
    room = height - len(lines)
    heading = room >= 4
    room -= heading
    states = [*(task.state.value for task in agent.tasks), *(gate.state for gate in agent.gates)]
    kept, left = _choose(states, room)
    rows = [*(_task_row(task, now, width, ascii_only) for task in agent.tasks)]
    rows += [
        [f"gate {gate.index}", _state(gate.state), "", duration(gate.duration_s), shown(gate.description, width, ascii_only=ascii_only)]
        for gate in agent.gates
    ]
    if kept:
        lines += table(_TASK_COLUMNS, [rows[index] for index in kept], width=width, heading=heading, ascii_only=ascii_only)
    if left and room > 0:
        lines.append(_more(left, ascii_only))
    return [cut(line, width, ascii_only=ascii_only) for line in lines[:height]]


def bar(progress: float, width: int = BAR, *, ascii_only: bool = False) -> str:
    """Return a bar for a progress between 0 and 1. It is full only at 1 and shows a first sign above 0."""
    whole = min(max(progress, 0.0), 1.0)
    full = width if whole >= 1 else min(width - 1, max(int(whole * width), int(whole > 0)))
    return ("#" if ascii_only else "█") * full + ("-" if ascii_only else "░") * (width - full)


def tokens(usage: Usage) -> str:
    """Return input and output tokens together as `950`, `12.3k`, `1.2M`; empty when no model was asked."""
    count = usage.input_tokens + usage.output_tokens
    if not usage.llm_requests and not count:
        return ""
    for factor, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= factor * 0.99995:
            return f"{count / factor:.1f}{unit}"
    return str(count)


def cost(usage: Usage) -> str:
    """Return the cost in US dollars, `?` when a price is not known, empty when no model was asked."""
    if not usage.llm_requests and not usage.cost_usd:
        return "" if usage.cost_usd is not None else "?"
    return "?" if usage.cost_usd is None else f"${usage.cost_usd:.2f}"


def _run_head(view: RunView, now: float, ascii_only: bool) -> Line:
    states = Counter(agent.state for agent in view.agents)
    over = sum(states[state] for state in (AgentState.SUCCEEDED, AgentState.FAILED, AgentState.STOPPED, AgentState.SKIPPED))
    parts = [f"{over}/{len(view.agents)} agents done"]
    parts += [f"{states[state]} {state.value}" for state in (AgentState.RUNNING, AgentState.FAILED, AgentState.SKIPPED) if states[state]]
    parts.append(duration(lasted(view, now)))
    denied = sum(agent.denied for agent in view.agents)
    parts += [f"{denied} denied"] if denied else []
    text = ", ".join(part for part in parts if part)
    return [Span(shown(view.id, 20, ascii_only=ascii_only), "bold"), Span(" "), _state_span(view.state.value), Span(f" {text}")]


def _agent_head(agent: AgentView, now: float, width: int, ascii_only: bool) -> Line:
    parts = [f"{agent.tasks_done}/{agent.tasks_total} tasks", duration(lasted(agent, now)), _memory(agent)]
    parts += [f"CPU {_cpu(agent)}"] if agent.cpu_time_s is not None else []
    parts += [f"attempt {agent.attempts}"] if agent.attempts > 1 else []
    parts += [f"{agent.denied} denied"] if agent.denied else []
    parts += [f"{tokens(agent.usage)} tokens", cost(agent.usage)] if agent.usage.llm_requests else []
    name = shown(agent.name, max(8, width // 2), ascii_only=ascii_only)
    text = ", ".join(part for part in parts if part)
    progress = f"{bar(agent.progress, ascii_only=ascii_only)} {agent.progress:4.0%}"
    return [Span(name, "bold"), Span(" "), _state_span(agent.state.value), Span(f" {progress} {text}")]


def _agent_row(agent: AgentView, now: float, width: int, ascii_only: bool) -> list[str | Cell]:
    return [
        shown(agent.name, width, ascii_only=ascii_only),
        "" if agent.workstream == agent.name else shown(agent.workstream, width, ascii_only=ascii_only),
        _state(agent.state.value),
        bar(agent.progress, ascii_only=ascii_only),
        f"{agent.progress:.0%}",
        shown(_task_text(agent), width, ascii_only=ascii_only),
        _memory(agent),
        _cpu(agent),
        tokens(agent.usage),
        cost(agent.usage),
        duration(lasted(agent, now)),
    ]


def _task_row(task: TaskView, now: float, width: int, ascii_only: bool) -> list[str | Cell]:
    text = f"{task.description}: {task.reason}" if task.reason else task.description
    took = lasted(task, now) if task.state in {TaskState.RUNNING, TaskState.RETRYING} else task.duration_s
    return [
        shown(task.id, width, ascii_only=ascii_only),
        _state(task.state.value),
        str(task.attempts) if task.attempts > 1 else "",
        duration(took),
        shown(text, width, ascii_only=ascii_only),
    ]


def _task_text(agent: AgentView) -> str:
    running = [task for task in agent.tasks if task.state is TaskState.RUNNING]
    if agent.state is AgentState.RUNNING and running:
        more = f"+{len(running) - 1} " if len(running) > 1 else ""
        return f"{more}{running[0].id}: {running[0].description}"
    gate = next((gate for gate in agent.gates if gate.state == "running"), None)
    if agent.state is AgentState.RUNNING and gate is not None:
        return f"gate {gate.index}: {gate.description}"
    if agent.state is AgentState.FAILED:
        return cause(agent)
    if agent.state is AgentState.PENDING and agent.depends_on:
        return f"waits for {', '.join(agent.depends_on[:3])}{', ...' if len(agent.depends_on) > 3 else ''}"
    return agent.detail or agent.reason or ""


def _memory(agent: AgentView) -> str:
    amount = agent.memory_bytes if agent.memory_bytes is not None else agent.peak_memory_bytes
    return "" if amount is None else format_bytes(amount)


def _cpu(agent: AgentView) -> str:
    return duration(agent.cpu_time_s)


def _state(state: str) -> Cell:
    return Cell(state, STATE_STYLES.get(state, ""))


def _state_span(state: str) -> Span:
    return Span(state, STATE_STYLES.get(state, ""))


def _choose(states: Sequence[str], room: int) -> tuple[list[int], Counter[str]]:
    """Return the indexes that are shown, in their own order, and the states of those that are not; a line is kept for their number."""
    everything = range(len(states))
    if len(states) <= room:
        return list(everything), Counter()
    best = sorted(everything, key=lambda index: (_RANKS.get(states[index], 5), index))[: max(0, room - 1)]
    shown_ones = set(best)
    return sorted(best), Counter(states[index] for index in everything if index not in shown_ones)


def _more(left: Counter[str], ascii_only: bool) -> Line:
    dots = "..." if ascii_only else "…"
    parts = ", ".join(f"{count} {state}" for state, count in left.most_common())
    return [Span(f"{dots} and {left.total()} more ({parts})", "dim")]
