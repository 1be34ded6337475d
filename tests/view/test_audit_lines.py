from __future__ import annotations

import json
import re
from typing import Any

import pytest

from toka_cli.state.audit import AuditRow
from toka_cli.view.audit import audit_table, context_text
from toka_cli.view.style import paint
from toka_cli.view.text import display_width


def row(seq: int, action: str, decision: str, subject: str | None, **context: Any) -> AuditRow:
    return AuditRow(seq, 1_700_000_000.4, action, decision, subject, json.dumps(context, sort_keys=True), "0" * 64, "1" * 64)


ROWS = [
    row(1, "run.start", "recorded", None, command=["toka", "orchestrate", "a b"], workdir="/w", empty=[], none=None),
    row(2, "agent.start", "allowed", "r-1", name="build", isolation={"level": "full", "seccomp": True, "gaps": [], "rlimits": {"data_bytes": 2**30}}),
    row(12, "tool.call", "denied", "r-1", tool="http_fetch", task="t1", missing="network-access"),
]


def plain(width: int | None, rows: list[AuditRow] = ROWS) -> list[str]:
    return [paint(line, color=False) for line in audit_table(rows, {"r-1": "build"}, width=width)]


def test_each_decision_is_a_line_with_what_it_was_about_in_words() -> None:
    assert [re.split("  +", line.strip()) for line in plain(None)] == [
        ["SEQ", "AT", "DECISION", "ACTION", "SUBJECT", "CONTEXT"],
        ["1", "2023-11-14T22:13:20Z", "recorded", "run.start", "command toka; orchestrate; a b, workdir /w"],
        ["2", "2023-11-14T22:13:20Z", "allowed", "agent.start", "build", "name build, isolation (level full, rlimits (data_bytes 1 GB), seccomp yes)"],
        ["12", "2023-11-14T22:13:20Z", "denied", "tool.call", "build", "tool http_fetch, task t1, missing network-access"],
    ]


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_it_fits_the_terminal_and_keeps_the_decision_longest(width: int) -> None:
    lines = plain(width)
    assert max(map(display_width, lines)) <= width
    assert "denied" in lines[-1]
    assert "tool.call" in lines[-1]
    assert ("http_fetch" in lines[-1]) == (width >= 40)


CONTEXTS = [("[1, 2]", "1 2"), ('"x"', "x"), ("{}", ""), ("no json", "no json"), ('{"share":0.5,"wait_s":90}', "share 0.5, wait_s 1m30s")]


@pytest.mark.parametrize(("context", "text"), CONTEXTS)
def test_any_context_can_be_shown(context: str, text: str) -> None:
    assert context_text(context) == text


def test_a_hostile_row_is_harmless(hostile: str, forbidden: re.Pattern[str]) -> None:
    rows = [row(1, hostile, "denied", hostile, **{f"k{hostile}": [hostile, {hostile: hostile}], "tool": hostile})]
    for width in (None, 60):
        for line in audit_table(rows, {hostile: hostile}, width=width):
            assert not forbidden.search(paint(line, color=False))
