from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toka_cli.view.style import Span, cut, paint
from toka_cli.view.table import Cell, Column, table
from toka_cli.view.text import display_width

COLUMNS = (Column("ID", minimum=4, drop=0), Column("NAME", minimum=5, ideal=10, drop=1), Column("NOTE", minimum=6, drop=3), Column("N", right=True, drop=2))


def plain(*rows: tuple[str | Cell, ...], width: int | None) -> list[str]:
    return [paint(line, color=False) for line in table(COLUMNS, rows, width=width)]


def test_a_pipe_gets_full_values_in_aligned_columns() -> None:
    assert plain(("a1", "build", "x" * 50, "1"), ("a2222", "日本", "", "10"), width=None) == [
        "ID     NAME   NOTE" + " " * 46 + "   N",
        "a1     build  " + "x" * 50 + "   1",
        "a2222  日本   " + " " * 50 + "  10",
    ]


def test_columns_shrink_then_go_the_least_important_first() -> None:
    row = ("a123456", "build-system", "something long to say", "10")
    assert plain(row, width=60)[1] == "a123456  build-system  something long to say  10"
    assert plain(row, width=36)[1] == "a123456  build-sys…  something …  10"
    assert plain(row, width=14) == ["ID       NAME", "a123456  buil…"]
    assert plain(row, width=7) == ["ID", "a123456"]
    assert plain(row, width=3) == ["ID", "a1…"]


def test_an_empty_column_takes_no_room_on_a_terminal_and_stays_in_a_pipe() -> None:
    assert plain(("a", "b", "", "1"), width=80)[0] == "ID  NAME  N"
    assert plain(("a", "b", "", "1"), width=None)[0] == "ID  NAME  NOTE  N"


def test_a_stretched_column_keeps_the_others_in_place() -> None:
    columns = (Column("a"), Column("b", stretch=True), Column("c", right=True))
    (line,) = table(columns, [("1", "2", "3")], width=20, heading=False)
    assert paint(line, color=False) == "1  2" + " " * 15 + "3"


cells = st.one_of(st.text(max_size=30), st.sampled_from(["日本語" * 5, "\x1b[31m", "a" * 200, "e\u0301"]))


@given(st.lists(st.tuples(cells, cells, cells, cells), max_size=5), st.integers(1, 60), st.booleans())
def test_no_line_is_wider_than_the_terminal(rows: list[tuple[str, ...]], width: int, ascii_only: bool) -> None:
    lines = table(COLUMNS, rows, width=width, ascii_only=ascii_only)
    assert len(lines) == len(rows) + 1
    for line in lines:
        text = paint(line, color=False)
        assert display_width(text) <= width
        assert "\n" not in text
        assert "\x1b" not in text


def test_cells_have_colour_only_when_asked() -> None:
    (line,) = table((Column("x"),), [(Cell("failed", "bad"),)], width=None, heading=False)
    assert paint(line, color=True) == "\x1b[31mfailed\x1b[0m"
    assert paint(line, color=False) == "failed"


@pytest.mark.parametrize(("width", "expected"), [(20, "abc def"), (7, "abc def"), (6, "abc d…"), (4, "abc…"), (3, "ab…"), (1, "…")])
def test_cut_shows_that_something_is_missing(width: int, expected: str) -> None:
    line = [Span("abc", "bad"), Span(" "), Span("def")]
    assert paint(cut(line, width), color=False) == expected
