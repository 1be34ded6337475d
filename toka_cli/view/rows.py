"""The live picture of a run, or of one agent of it, as lines that fit a screen.

A view, the time and the size of the screen come in, lines with styles go out: never wider than `width`, never more than `height`. Pure: the same in gives the
same out; it knows no terminal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from toka_cli.lifecycle import AgentState, TaskState
from toka_cli.state.snapshot import AgentView, RunView, TaskView
from toka_cli.units import format_bytes
from toka_cli.view.activity import activity, waiting, waits
from toka_cli.view.causes import cause, duration, lasted
from toka_cli.view.style import STATE_STYLES, Line, Span, cut
from toka_cli.view.table import Cell, Column, table
from toka_cli.view.text import shown
from toka_cli.view.usage import asked, brief, cost, paid, tokens, turns

BAR: Final = 10
_AGENT_COLUMNS: Final = (
    Column("agent", minimum=8, ideal=28, drop=0),
    Column("workstream", minimum=8, ideal=16, drop=10),
    Column("state", minimum=9, drop=1),
    Column("progress", minimum=BAR, drop=9),
    Column("", minimum=4, right=True, drop=2),
    Column("task", minimum=20, drop=5, stretch=True),
    Column("memory", minimum=7, right=True, drop=7),
    Column("CPU", minimum=6, right=True, drop=11),
    Column("turns", minimum=5, right=True, drop=12),
    Column("tokens", minimum=6, right=True, drop=8),
    Column("cost", minimum=7, right=True, drop=6),
    Column("time", minimum=6, right=True, drop=3),
)
_TASK_COLUMNS: Final = (
    Column("task", minimum=4, ideal=16, drop=0),
    Column("state", minimum=9, drop=1),
    Column("tries", minimum=5, right=True, drop=4),
    Column("time", minimum=6, right=True, drop=2),
    Column("turns", minimum=5, right=True, drop=7),
    Column("tokens", minimum=6, right=True, drop=6),
    Column("cost", minimum=7, right=True, drop=5),
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
    room = height - 1
    warning = view.warnings[-1] if view.warnings and room >= 8 else None
    room -= warning is not None
    held = view.held if room >= 6 else None
    room -= held is not None
    heading = room >= 4
    room -= heading
    kept, left = _choose([agent.state.value for agent in view.agents], room)
    rows = [_agent_row(view.agents[index], now, width, ascii_only) for index in kept]
    lines: list[Line] = [_run_head(view, now, ascii_only, "nothing new starts" if view.held and not held else "")]
    if held is not None:
        lines.append([Span("nothing new starts: ", "warn"), Span(shown(held, width, ascii_only=ascii_only))])
    if rows:
        lines += table(_AGENT_COLUMNS, rows, width=width, heading=heading, ascii_only=ascii_only)
    if left and room:
        lines.append(_more(left, ascii_only))
    if warning is not None:
        lines.append([Span("warning: ", "warn"), Span(shown(warning.partition("\n")[0], width, ascii_only=ascii_only))])
    return [cut(line, width, ascii_only=ascii_only) for line in lines[:height]]


def agent_screen(view: RunView, agent: AgentView, now: float, width: int, height: int, *, ascii_only: bool = False) -> list[Line]:
    """Return the picture of one agent: a line about it, what it does or why it ended, its tasks and gates."""
    if width < 1 or height < 1:
        return []
    lines: list[Line] = [_agent_head(agent, now, width, ascii_only)]
    said = activity(agent, now) if agent.state not in {AgentState.FAILED, AgentState.SKIPPED, AgentState.STOPPED} else cause(agent)
    if said and height >= 6:
        said = next((it for it in (said, *waits(agent, now)) if len(it) + 2 <= width), said)
        lines.append([Span(f"  {shown(said, width, ascii_only=ascii_only)}")])
    room = height - len(lines)
    heading = room >= 4
    room -= heading
    states = [*(task.state.value for task in agent.tasks), *(gate.state for gate in agent.gates)]
    kept, left = _choose(states, room)
    rows = [*(_task_row(task, now, width, ascii_only) for task in agent.tasks)]
    rows += [
        [f"gate {gate.index}", _state(gate.state), "", duration(gate.duration_s), "", "", "", shown(gate.description, width, ascii_only=ascii_only)]
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


def _run_head(view: RunView, now: float, ascii_only: bool, more: str) -> Line:
    states = Counter(agent.state for agent in view.agents)
    over = sum(states[state] for state in (AgentState.SUCCEEDED, AgentState.FAILED, AgentState.STOPPED, AgentState.SKIPPED))
    parts = [f"{over}/{len(view.agents)} agents done", more]
    parts += [f"{states[state]} {state.value}" for state in (AgentState.RUNNING, AgentState.FAILED, AgentState.SKIPPED) if states[state]]
    parts.append(duration(lasted(view, now)))
    denied = sum(agent.denied for agent in view.agents)
    parts += [f"{denied} denied"] if denied else []
    parts += [paid(view.usage), f"{tokens(view.usage)} tokens"] if asked(view.usage) else []
    text = ", ".join(part for part in parts if part)
    return [Span(shown(view.id, 20, ascii_only=ascii_only), "bold"), Span(" "), _state_span(view.state.value), Span(f" {text}")]


def _agent_head(agent: AgentView, now: float, width: int, ascii_only: bool) -> Line:
    parts = [f"{agent.tasks_done}/{agent.tasks_total} tasks", duration(lasted(agent, now)), brief(agent.usage), _memory(agent)]
    parts += [f"CPU {_cpu(agent)}"] if agent.cpu_time_s is not None else []
    parts += [f"attempt {agent.attempts}"] if agent.attempts > 1 else []
    parts += [f"{agent.denied} denied"] if agent.denied else []
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
        Cell(shown(_task_text(agent, now), width, ascii_only=ascii_only), shorter=[shown(it, width) for it in waits(agent, now)]),
        _memory(agent),
        _cpu(agent),
        turns(agent.usage),
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
        turns(task.usage),
        tokens(task.usage),
        cost(task.usage),
        shown(text, width, ascii_only=ascii_only),
    ]


def _task_text(agent: AgentView, now: float) -> str:
    running = [task for task in agent.tasks if task.state is TaskState.RUNNING]
    if agent.state is AgentState.RUNNING and running:
        if waited := waiting(agent, now):
            # Which of several tasks it is that waits is not known.
            return f"{running[0].id if len(running) == 1 else f'{len(running)} tasks'}: {waited}"
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
