from __future__ import annotations

import re
from typing import Any

import pytest

from toka_cli.state.difference import Difference
from toka_cli.state.snapshot import RunView
from toka_cli.view.difference import difference_lines
from toka_cli.view.style import paint
from toka_cli.view.text import display_width

FOUND = [
    Difference("exit_code", 0, 1),
    Difference("output", "ab" * 32, "cd" * 32, agent="build", task="t1", detail="line 2: 'x' / 'y'"),
    Difference("state", "succeeded", "failed", agent="build", gate=2),
    Difference("deliverable", "missing", "ef" * 32, agent="build", path="out.txt"),
    Difference("reason", None, "task_failed: t1", agent="build"),
]


def plain(found: list[Difference], width: int | None, **more: Any) -> list[str]:
    return [paint(line, color=False) for line in difference_lines(RunView(id="a000000000"), RunView(id="b000000000"), found, width=width, **more)]


def test_the_same_is_one_line(failed_run: Any) -> None:
    (line,) = difference_lines(failed_run.view, failed_run.view, [], width=None)
    assert paint(line, color=False) == "runs r012345678 and r012345678 came to the same: 4 agents, 6 tasks, 1 file"
    assert plain([], 20) == ["runs a000000000 and…"]


def test_each_difference_is_a_line_with_both_runs_side_by_side() -> None:
    assert [re.split("  +", line) for line in plain(FOUND, None)] == [
        ["WHERE", "WHAT", "a000000000", "b000000000", "DETAIL"],
        ["run", "exit_code", "0", "1"],
        ["build t1", "output", "abababababab", "cdcdcdcdcdcd", "line 2: 'x' / 'y'"],
        ["build gate 2", "state", "succeeded", "failed"],
        ["build out.txt", "deliverable", "missing", "efefefefefef"],
        ["build", "reason", "-", "task_failed: t1"],
    ]


@pytest.mark.parametrize("width", [20, 60, 200])
def test_it_fits_the_terminal_whatever_agents_are_called(hostile: str, forbidden: re.Pattern[str], width: int) -> None:
    found = [Difference(what, hostile, hostile, agent=hostile, task=hostile, path=hostile, detail=hostile) for what in ("output", "reason")]
    for line in plain(FOUND + found, width):
        assert display_width(line) <= width
        assert not forbidden.search(line)
