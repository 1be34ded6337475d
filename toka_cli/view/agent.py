"""Text for `agent list` and `agent show`.

Agents as the state file knows them come in; lines with styles go out, cleaned. Tables are no wider than the terminal where there is one; in a pipe, and in
sentences and facts, nothing is cut. It reads no state and no terminal.
"""

from __future__ import annotations

from toka_cli.units import format_bytes
from toka_cli.view.activity import activity, waits
from toka_cli.view.causes import cause, duration, lasted
from toka_cli.view.style import STATE_STYLES, Span
from toka_cli.view.table import Cell, Column, table
from toka_cli.view.text import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

    from toka_cli.state.snapshot import AgentView, RunView, TaskView
    from toka_cli.view.style import Line

_COLUMNS: Final = (
    Column("ID", minimum=12, drop=2),
    Column("NAME", minimum=8, ideal=32, drop=0),
    Column("STATE", minimum=9, drop=1),
    Column("PROGRESS", minimum=8, right=True, drop=3),
    Column("TASKS", minimum=5, right=True, drop=5),
    Column("TIME", minimum=6, right=True, drop=4),
    Column("MEMORY", minimum=7, right=True, drop=8),
    Column("PID", minimum=5, right=True, drop=9),
    Column("WORKSTREAM", minimum=8, ideal=20, drop=7),
    Column("DETAIL", minimum=10, ideal=40, drop=6),
)
_TASKS: Final = (
    Column("TASK", minimum=4, ideal=20, drop=0),
    Column("STATE", minimum=9, drop=1),
    Column("KIND", minimum=7, drop=5),
    Column("TRIES", minimum=5, right=True, drop=4),
    Column("TIME", minimum=6, right=True, drop=2),
    Column("DESCRIPTION", minimum=10, ideal=40, drop=3),
    Column("REASON", minimum=10, ideal=40, drop=6),
)
_SPENT: Final = (
    Column("TURNS", minimum=5, right=True, drop=9),
    Column("TOKENS", minimum=6, right=True, drop=8),
    Column("COST", minimum=7, right=True, drop=7),
)
"""Only where a model was asked."""


def agent_table(agents: Sequence[AgentView], *, now: float, width: int | None, ascii_only: bool = False) -> list[Line]:
    """Return the lines of `agent list`. `now` is seconds since 1970; `width` None means a pipe."""
    if not agents:
        return []
    return table(_COLUMNS, [_row(agent, now) for agent in agents], width=width, ascii_only=ascii_only)


def agent_lines(view: RunView, agent: AgentView, *, now: float, width: int | None, ascii_only: bool = False) -> list[Line]:
    """Return the lines of `agent show`: the sentence of `why`, the facts, its tasks and gates."""
    from toka_cli.view.usage import asked, cost, tokens, turns
    from toka_cli.view.why import why

    def safe(text: str) -> str:
        return clean(text, ascii_only=ascii_only)

    def spent(task: TaskView) -> list[str]:
        return [turns(task.usage), tokens(task.usage), cost(task.usage)] if asked(agent.usage) else []

    head = [Span(safe(agent.name), "bold"), Span(" "), Span(agent.state.value, STATE_STYLES[agent.state.value])]
    lines: list[Line] = [head, [Span(safe(why(view, agent, now)))], []]
    lines += [[Span(f"{label}: ", "dim"), Span(safe(text))] for label, text in _facts(agent, now) if text]
    if agent.tasks:
        columns = (*_TASKS, *_SPENT) if asked(agent.usage) else _TASKS
        rows = [[*_task(task, now), *spent(task)] for task in agent.tasks]
        lines += [[], *table(columns, rows, width=width, ascii_only=ascii_only)]
    if agent.gates:
        lines += [[], [Span("Gates", "bold")]]
    for gate in agent.gates:
        text = f" {gate.index} {gate.description}" + (f": {gate.reason}" if gate.reason else "")
        lines.append([Span(f"  {gate.state}", STATE_STYLES.get(gate.state, "")), Span(safe(text))])
    return lines


def _row(agent: AgentView, now: float) -> list[str | Cell]:
    return [
        agent.id,
        agent.name,
        Cell(str(agent.state), STATE_STYLES[agent.state]),
        f"{agent.progress:.0%}",
        f"{agent.tasks_done}/{agent.tasks_total}",
        duration(lasted(agent, now)),
        "" if agent.memory_bytes is None else format_bytes(agent.memory_bytes),
        "" if agent.pid is None else str(agent.pid),
        agent.workstream,
        Cell(activity(agent, now) or (cause(agent) if agent.reason else ""), shorter=waits(agent, now)),
    ]


def _task(task: TaskView, now: float) -> list[str | Cell]:
    return [
        task.id,
        Cell(task.state.value, STATE_STYLES[task.state.value]),
        task.kind,
        str(task.attempts),
        duration(lasted(task, now)),
        task.description,
        task.reason or "",
    ]


def _facts(agent: AgentView, now: float) -> Iterator[tuple[str, str]]:
    from toka_cli.view.usage import asked, usage_text
    from toka_cli.view.values import named

    yield "Title", agent.title if agent.title != agent.name else ""
    yield "Agent ID", agent.id
    yield "Run", agent.run_id
    yield "Workstream", agent.workstream
    yield "Domain", agent.domain or ""
    yield "Priority", agent.priority
    yield "Progress", f"{agent.progress:.1%} ({agent.tasks_done}/{agent.tasks_total})"
    yield "Time", duration(lasted(agent, now))
    yield "Process", "" if agent.pid is None else str(agent.pid)
    yield "Attempts", str(agent.attempts) if agent.attempts > 1 else ""
    yield "Restarts", str(agent.restarts) if agent.restarts else ""
    yield "Memory", _memory(agent)
    yield "CPU time", duration(agent.cpu_time_s)
    yield "Tool calls", str(agent.tool_calls) if agent.tool_calls else ""
    yield "Denied", f"{agent.denied} {'act' if agent.denied == 1 else 'acts'} for want of a grant" if agent.denied else ""
    yield "Model", usage_text(agent.usage) if asked(agent.usage) else ""
    yield "Waits for", ", ".join(agent.depends_on)
    yield "After, when possible", ", ".join(agent.after)
    yield "May", ", ".join(agent.grants) or "nothing special"
    yield "Limits", named(agent.limits, units=True)
    yield "Isolation", named(agent.isolation)
    yield "Metrics", named(agent.metrics)
    yield "Reason", agent.reason or ""
    yield "Hint", agent.hint or ""


def _memory(agent: AgentView) -> str:
    parts = [] if agent.memory_bytes is None else [f"{format_bytes(agent.memory_bytes)} now"]
    parts += [] if agent.peak_memory_bytes is None else [f"{format_bytes(agent.peak_memory_bytes)} at the peak"]
    return ", ".join(parts)
