"""Text for `run diff`: a line for each difference, the two runs side by side. Two views and what was found come in, cleaned lines go out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from toka_cli.state.difference import Difference
from toka_cli.state.snapshot import RunView
from toka_cli.view.style import Line, Span
from toka_cli.view.table import Cell, Column, table
from toka_cli.view.text import clean, fit

_DIGESTS: Final = frozenset({"output", "stderr", "value", "deliverable"})
_DIGEST_CHARS: Final = 12


def difference_lines(a: RunView, b: RunView, found: Sequence[Difference], *, width: int | None, ascii_only: bool = False) -> list[Line]:
    """Return the lines: that both runs are the same, or a table of what is not. `width` None means a pipe, where nothing is cut."""
    names = [clean(run.id, ascii_only=ascii_only) for run in (a, b)]
    if not found:
        counts = ((len(a.agents), "agent"), (sum(len(agent.tasks) for agent in a.agents), "task"), (len(a.deliverables), "file"))
        text = f"runs {names[0]} and {names[1]} came to the same: {', '.join(_count(*each) for each in counts)}"
        return [[Span(fit(text, width, ascii_only=ascii_only) if width is not None else text)]]
    columns = (
        Column("WHERE", minimum=8, ideal=32, drop=0),
        Column("WHAT", minimum=6, drop=1),
        Column(a.id, minimum=8, ideal=24, drop=2),
        Column(b.id, minimum=8, ideal=24, drop=3),
        Column("DETAIL", minimum=10, ideal=60, drop=4),
    )
    rows: list[list[str | Cell]] = [
        [_where(it), Cell(it.what, "warn"), _value(it, it.a), _value(it, it.b), it.detail or ""] for it in found
    ]
    return table(columns, rows, width=width, ascii_only=ascii_only)


def _where(it: Difference) -> str:
    parts = [it.agent, it.task, None if it.gate is None else f"gate {it.gate}", it.path]
    return " ".join(part for part in parts if part) or "run"


def _value(it: Difference, value: Any) -> str:
    if it.what in _DIGESTS and value != "missing":
        return str(value)[:_DIGEST_CHARS]
    return "-" if value is None else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
