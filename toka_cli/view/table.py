"""Plain text tables for lists: `agent list`, `run list`.

Columns and rows of any text come in, lines go out. On a terminal they are never wider than it: columns shrink, then the least important ones go. In a pipe
nothing is cut: aligned columns with full values. It wraps nothing and draws no borders; programs read `-o json`.
"""

from __future__ import annotations

from toka_cli.view.style import Span
from toka_cli.view.text import clean, display_width, pad

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from toka_cli.view.style import Line

GAP: Final = 2


class Column:
    """A column. `minimum` and `ideal` are widths in terminal columns; `ideal` None is as wide as its widest cell.

    With `stretch` it takes all the room that is left on a terminal, so that the columns behind it keep their places.
    The column with the highest `drop` goes first when there is no room; a column with 0 goes last.
    """

    __slots__ = ("drop", "ideal", "minimum", "right", "stretch", "title")

    def __init__(
        self, title: str, minimum: int = 4, ideal: int | None = None, right: bool = False, drop: int = 0, stretch: bool = False
    ) -> None:
        self.title = title
        self.minimum = minimum
        self.ideal = ideal
        self.right = right
        self.drop = drop
        self.stretch = stretch


class Cell:
    """A cell with a style; a plain string is a cell without one. `shorter` are the same in ever fewer words, for where it does not fit."""

    __slots__ = ("shorter", "style", "text")

    def __init__(self, text: str, style: str = "", shorter: Sequence[str] = ()) -> None:
        self.text = text
        self.style = style
        self.shorter = shorter


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str | Cell]], *, width: int | None, heading: bool = True, ascii_only: bool = False
) -> list[Line]:
    """Return a heading and one line per row, none wider than `width` columns; `width` None means that nothing is cut."""
    cells = [[_cell(cell, ascii_only) for cell in row] for row in rows]
    natural = [_natural(column, [row[index].text for row in cells], width, heading) for index, column in enumerate(columns)]
    widths = dict(enumerate(natural)) if width is None else layout(columns, natural, width)
    lines: list[Line] = []
    if heading:
        lines.append(_line([Cell(column.title, "bold") for column in columns], columns, widths, ascii_only))
    lines += [_line(row, columns, widths, ascii_only) for row in cells]
    return lines


def layout(columns: Sequence[Column], natural: Sequence[int], width: int) -> dict[int, int]:
    """Return the width of each column that is kept, by its index: together with the gaps at most `width`.

    `natural` are the widths of the widest cells. Columns get their minimum first, then, the important ones first, their ideal, then all they could use.
    """
    kept = [index for index, wide in enumerate(natural) if wide]
    least = {index: min(columns[index].minimum, natural[index]) for index in kept}
    while len(kept) > 1 and sum(least[index] for index in kept) + GAP * (len(kept) - 1) > width:
        kept.remove(max(kept, key=lambda index: (columns[index].drop, index)))
    widths = {index: least[index] for index in kept}
    room = width - sum(widths.values()) - GAP * (len(kept) - 1)
    if room < 0:
        return {index: max(width, 1) for index in kept}
    by_importance = sorted(kept, key=lambda index: (columns[index].drop, index))
    for ideals in (True, False):
        for index in by_importance:
            ideal = columns[index].ideal
            goal = min(natural[index], ideal) if ideals and ideal is not None else natural[index]
            more = max(0, min(room, goal - widths[index]))
            widths[index] += more
            room -= more
    return widths


def _cell(cell: str | Cell, ascii_only: bool) -> Cell:
    if isinstance(cell, str):
        return Cell(clean(cell, ascii_only=ascii_only))
    return Cell(clean(cell.text, ascii_only=ascii_only), cell.style, [clean(text, ascii_only=ascii_only) for text in cell.shorter])


def _natural(column: Column, cells: Sequence[str], width: int | None, heading: bool) -> int:
    """Return the columns that a column could use. On a terminal an empty one uses none; in a pipe it stays, so that scripts find the others."""
    widest = max(map(display_width, cells), default=0)
    if width is not None:
        if column.stretch:
            return width
        if not widest and cells:
            return 0
    return max(widest, display_width(column.title) if heading else 0)


def _line(row: Sequence[Cell], columns: Sequence[Column], widths: dict[int, int], ascii_only: bool) -> Line:
    spans: list[Span] = []
    for index, wide in widths.items():
        cell = row[index]
        # Where even the shortest does not fit it is cut.
        text = next((it for it in (cell.text, *cell.shorter) if display_width(it) <= wide), cell.shorter[-1] if cell.shorter else cell.text)
        text = pad(text, wide, right=columns[index].right, ascii_only=ascii_only)
        if spans:
            spans.append(Span(" " * GAP))
        spans.append(Span(text, cell.style))
    # No spaces at the end of a line: a window that becomes narrower would wrap them.
    while spans and not spans[-1].text.strip(" "):
        spans.pop()
    if spans:
        spans[-1] = Span(spans[-1].text.rstrip(" "), spans[-1].style)
    return spans
