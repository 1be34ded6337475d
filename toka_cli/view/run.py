"""Text for `run list` and `run show`.

Runs as the state files know them come in; lines with styles go out, cleaned. Tables are no wider than the terminal where there is one; in a pipe, and in
sentences and facts, nothing is cut. It reads no state and no terminal.
"""

from __future__ import annotations

from toka_cli.units import format_duration
from toka_cli.view.agent import agent_table
from toka_cli.view.causes import duration, lasted
from toka_cli.view.style import STATE_STYLES, Span
from toka_cli.view.table import Cell, Column, table
from toka_cli.view.text import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import Final

    from toka_cli.state.snapshot import RunSummary, RunView
    from toka_cli.view.style import Line

_COLUMNS: Final = (
    Column("ID", minimum=10, drop=0),
    Column("STATE", minimum=9, drop=1),
    Column("AGENTS", minimum=12, ideal=32, drop=3),
    Column("STARTED", minimum=8, drop=2),
    Column("TIME", minimum=6, right=True, drop=4),
    Column("DIRECTORY", minimum=10, ideal=30, drop=6),
    Column("REASON", minimum=10, ideal=30, drop=5),
)


def run_table(runs: Sequence[RunSummary], *, now: float, width: int | None, ascii_only: bool = False) -> list[Line]:
    """Return the lines of `run list`. `now` is seconds since 1970; `width` None means a pipe."""
    if not runs:
        return []
    return table(_COLUMNS, [_row(run, now) for run in runs], width=width, ascii_only=ascii_only)


def run_lines(view: RunView, *, now: float, width: int | None, ascii_only: bool = False) -> list[Line]:
    """Return the lines of `run show`: how it stands, its facts, its agents."""
    from toka_cli.lifecycle import RUN_FINAL
    from toka_cli.view.summary import summary_lines

    def safe(text: str) -> str:
        return clean(text, ascii_only=ascii_only)

    lines: list[Line] = [*summary_lines(view, ascii_only=ascii_only), []]
    facts = (
        ("Directory", view.workdir),
        ("Command", " ".join(view.command)),
        ("Created", _moment(view.created_at)),
        ("Started", _moment(view.started_at)),
        ("Ended", _moment(view.ended_at)),
        ("Time", "" if view.state in RUN_FINAL else duration(lasted(view, now))),
        ("Exit code", "" if view.exit_code is None else str(view.exit_code)),
        ("Version", view.version),
        ("Audit head", "" if view.state in RUN_FINAL else view.audit_head or ""),
    )
    lines += [[Span(f"{label}: ", "dim"), Span(safe(text))] for label, text in facts if text]
    if view.agents:
        lines += [[], *agent_table(view.agents, now=now, width=width, ascii_only=ascii_only)]
    return lines


def ago(then: datetime | None, now: float) -> str:
    """Return how long ago something was, as `5m0s ago`; empty when it is not known."""
    return "" if then is None else f"{format_duration(max(0.0, round(now - then.timestamp())))} ago"


def _row(run: RunSummary, now: float) -> list[str | Cell]:
    took = None
    if run.started_at is not None:
        end = run.ended_at.timestamp() if run.ended_at else None if run.state == "interrupted" else now
        took = None if end is None else max(0.0, end - run.started_at.timestamp())
    return [
        run.id,
        Cell(str(run.state), STATE_STYLES[run.state]),
        ", ".join(f"{count} {state}" for state, count in run.agents.items() if count),
        ago(run.started_at or run.created_at, now),
        duration(took),
        run.workdir,
        run.reason or "",
    ]


def _moment(then: datetime | None) -> str:
    return "" if then is None else then.isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")
