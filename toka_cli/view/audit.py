"""Text for `audit show`: each decision on a line, with what it was about in words.

Rows of the trail and the names of agents come in, lines go out, cleaned and on a terminal no wider than it. Hashes are for `audit verify` and for `-o json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from toka_cli.state.audit import AuditRow
from toka_cli.view.style import Line
from toka_cli.view.table import Cell, Column, table
from toka_cli.view.values import named, plain

_COLUMNS: Final = (
    Column("SEQ", minimum=3, right=True, drop=4),
    Column("AT", minimum=20, drop=5),
    Column("DECISION", minimum=7, drop=1),
    Column("ACTION", minimum=9, ideal=20, drop=0),
    Column("SUBJECT", minimum=8, ideal=24, drop=3),
    Column("CONTEXT", minimum=12, drop=2),
)
_STYLES: Final = {"allowed": "good", "denied": "bad", "recorded": "dim"}
# What a reader looks for first; the trail itself has its keys in the order of the alphabet.
_FIRST: Final = ("tool", "task", "missing", "limit", "host", "port", "name")


def audit_table(rows: Sequence[AuditRow], names: Mapping[str, str], *, width: int | None, ascii_only: bool = False) -> list[Line]:
    """Return the lines. `names` are those of agents by id; `width` None means a pipe, where nothing is cut."""
    cells: list[list[str | Cell]] = [
        [
            str(row.seq),
            datetime.fromtimestamp(row.at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            Cell(row.decision, _STYLES.get(row.decision, "")),
            row.action,
            names.get(row.subject or "", row.subject or ""),
            context_text(row.context),
        ]
        for row in rows
    ]
    return table(_COLUMNS, cells, width=width, ascii_only=ascii_only)


def context_text(context: str) -> str:
    """Return the context of a decision in words; what is no JSON as it stands. What is empty is left out."""
    try:
        value: Any = msgspec.json.decode(context)
    except ValueError:
        return context
    if not isinstance(value, dict):
        return plain(value)
    ordered = sorted(value.items(), key=lambda item: _FIRST.index(item[0]) if item[0] in _FIRST else len(_FIRST))
    return named(dict(ordered), units=True)
