"""Lines with meaning: a line is a sequence of spans, each with safe text and the name of a style.

Text that was cleaned comes in; a plain or coloured string goes out. The few styles are the standard colours, which every terminal theme sets itself.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence

from toka_cli.view.text import display_width, fit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, NamedTuple

STYLES: Final[dict[str, tuple[str, str]]] = {
    # name: (parameters of the SGR sequence, the same in Rich's words)
    "": ("", ""),
    "good": ("32", "green"),
    "bad": ("31", "red"),
    "warn": ("33", "yellow"),
    "busy": ("36", "cyan"),
    "dim": ("2", "dim"),
    "bold": ("1", "bold"),
}


STATE_STYLES: Final[dict[str, str]] = {
    "pending": "dim", "queued": "dim", "starting": "busy", "running": "busy", "paused": "warn", "stopping": "warn", "backoff": "warn",
    "retrying": "warn", "interrupted": "warn", "succeeded": "good", "failed": "bad", "stopped": "warn", "skipped": "dim",
}  # fmt: skip


if TYPE_CHECKING:

    class Span(NamedTuple):
        """A piece of a line. `text` must be clean; `style` is a key of STYLES."""

        text: str
        style: str = ""

else:
    # The same without `typing`, which costs a listing more than all its other imports.
    Span = namedtuple("Span", ("text", "style"), defaults=("",))

Line = Sequence[Span]


def paint(line: Line, *, color: bool) -> str:
    """Return a line as a string, with SGR sequences when `color`."""
    if not color:
        return "".join(span.text for span in line)
    return "".join(f"\x1b[{STYLES[span.style][0]}m{span.text}\x1b[0m" if span.style and span.text else span.text for span in line)


def warning_lines(text: str, clean: Callable[[str], str], indent: str = "", most: int | None = None) -> list[Line]:
    """Return a warning as lines, `most` at most, each cleaned by itself. All but the first stand two columns in: no name can look like a line of toka's own."""
    first, *more = text.split("\n")[:most]
    return [[Span(f"{indent}warning: ", "warn"), Span(clean(first))], *([Span(f"{indent}  "), Span(clean(line))] for line in more)]


def cut(line: Line, width: int, *, ascii_only: bool = False) -> list[Span]:
    """Return a line cut to `width` columns."""
    spans: list[Span] = []
    for index, span in enumerate(line):
        room = width - sum(display_width(kept.text) for kept in spans)
        rest = sum(display_width(later.text) for later in line[index:])
        if rest <= room:
            return [*spans, *line[index:]]
        wide = display_width(span.text)
        if wide >= room or index == len(line) - 1:
            # Something follows that has no room: the dots must show that, even if this span alone would just fit.
            text = fit(span.text if wide > room else span.text + " …", room, ascii_only=ascii_only)
            return [*spans, Span(text, span.style)]
        spans.append(span)
    return spans
