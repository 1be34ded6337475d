"""Makes text that nobody vouches for safe to show, and measures it in terminal columns.

Any string comes in (names, descriptions, output of agents, models and tools); a string goes out in which control characters are shown instead of obeyed.
It knows no markup language: brackets stay brackets. It never writes, and it knows no terminal.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_MARKS_KEPT: Final = 4
"""Combining marks shown on one character: real scripts need up to three; heaps of them paint over the lines above and below."""

_BLANK: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")
"""Letters and marks by category, nothing on the screen: grapheme joiner, Hangul fillers, Khmer vowels, Mongolian selectors."""

_JOINERS: Final = frozenset("\u200c\u200d")
_EMOJI_STYLE: Final = "\ufe0f"
_CI_COMMAND: Final = r"##(?=\w*\[)"


def clean(text: str, *, newlines: bool = False, ascii_only: bool = False) -> str:
    r"""Return text in which nothing is obeyed by a terminal: `ESC [31m` becomes `␛[31m`, U+009B `\x9b`, U+202E `<U+202E>`, a newline `⏎`.

    With `newlines` line ends stay (CR LF becomes LF). With `ascii_only` the result is pure ASCII: `^[[31m`, `\n`, `\xe9`.
    Cleaning twice changes nothing more.
    """
    if text.isascii() and text.isprintable():
        return text
    if newlines:
        lines = text.replace("\r\n", "\n").split("\n")
        return "\n".join(_clean_line(line, ascii_only, "    ") for line in lines)
    return _clean_line(text, ascii_only, " ")


def ci_safe(line: str) -> str:
    """Return one line of a log in which no build server sees a command: `##[group]`, `##vso[...]` anywhere, `::error::` at the start.

    GitHub Actions, Azure Pipelines and TeamCity read such commands from the output of any program.
    """
    line = re.sub(_CI_COMMAND, "## ", line)
    return f". {line}" if line.lstrip().startswith("::") else line


def display_width(text: str) -> int:
    """Return the columns that cleaned text takes: 2 for wide East Asian characters and emoji, 0 for combining marks.

    It is an upper bound: a terminal that joins emoji needs fewer.
    """
    if text.isascii():
        return len(text)
    return sum(_widths(text))


def fit(text: str, width: int, *, ascii_only: bool = False) -> str:
    """Return cleaned text cut to at most `width` columns; where it was cut it ends in `…` (`...` when `ascii_only`)."""
    if width <= 0:
        return ""
    if len(text) <= width // 2 or (text.isascii() and len(text) <= width):
        return text
    dots = "..." if ascii_only else "…"
    room = width - len(dots)
    if room < 0:
        return dots[:width]
    used = end = 0
    for index, columns in enumerate(_widths(text)):
        used += columns
        if used > width:
            break
        if used <= room:
            end = index + 1
    else:
        return text
    return text[:end].rstrip("\u200c\u200d") + dots


def pad(text: str, width: int, *, right: bool = False, ascii_only: bool = False) -> str:
    """Return cleaned text cut or filled with spaces to exactly `width` columns; with `right` the text stands at the right edge."""
    text = fit(text, width, ascii_only=ascii_only)
    spaces = " " * max(0, width - display_width(text))
    return spaces + text if right else text + spaces


def shown(text: str, width: int, *, ascii_only: bool = False) -> str:
    """Return any text cleaned and cut to `width` columns. Reads no more of a long text than could be seen."""
    room = max(width, 0) * (_MARKS_KEPT + 1) + 16
    return fit(clean(text[:room], ascii_only=ascii_only), width, ascii_only=ascii_only)


def tail(text: str, count: int, *, ascii_only: bool = False) -> list[str]:
    """Return the last `count` lines of any text that are not blank, each cleaned. Reads no more than 64 KiB of its end."""
    lines = clean(text[-65536:], newlines=True, ascii_only=ascii_only).split("\n")
    return [line.rstrip() for line in lines if line.strip()][-count:] if count > 0 else []


def _clean_line(line: str, ascii_only: bool, tab: str) -> str:
    if line.isascii() and line.isprintable():
        return line
    parts: list[str] = []
    marks, visible = 0, False
    for index, char in enumerate(line):
        if char == "\t":
            parts.append(tab)
            marks, visible = 0, True
        elif char in _JOINERS and visible and _joins(line, index):
            parts.append(char)
        elif _is_mark(char):
            marks += 1
            # A mark without a character before it would sit on whatever stands to the left of the text.
            if not visible:
                parts.append(f"<U+{ord(char):04X}>")
            elif marks <= _MARKS_KEPT:
                parts.append(char)
        else:
            parts.append(_visible(char, ascii_only))
            marks, visible = 0, True
    text = "".join(parts)
    return text.encode("ascii", "backslashreplace").decode("ascii") if ascii_only else text


def _joins(line: str, index: int) -> bool:
    """True where a joiner does its job: between two characters of scripts or emoji that join; elsewhere it only hides."""
    if not 0 < index < len(line) - 1:
        return False
    neighbours = (line[index - 1], line[index + 1])
    return all(not char.isascii() and (_is_mark(char) or _visible(char, False) == char) for char in neighbours)


def _is_mark(char: str) -> bool:
    return unicodedata.category(char) in {"Mn", "Me"} and char not in _BLANK and ord(char) < 0xE0000


@lru_cache(maxsize=4096)
def _visible(char: str, ascii_only: bool) -> str:
    code = ord(char)
    if char == "\n":
        return "\\n" if ascii_only else "⏎"
    if code < 0x20 or code == 0x7F:
        if ascii_only:
            return f"^{chr(code ^ 0x40)}"
        return chr(0x2400 + code) if code < 0x20 else "␡"
    if 0x80 <= code < 0xA0:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:
        # What `surrogateescape` makes of a byte that is not UTF-8.
        return f"\\x{code - 0xDC00:02x}"
    if char in _BLANK or unicodedata.category(char) in {"Cf", "Cs", "Zl", "Zp"} or 0xE0000 <= code <= 0xE0FFF:
        return f"<U+{code:04X}>"
    if code & 0xFFFE == 0xFFFE:
        return "\ufffd"
    return char


def _widths(text: str) -> list[int]:
    widths: list[int] = []
    for char in text:
        if char == _EMOJI_STYLE and widths and widths[-1] == 1:
            # Asks for the emoji form, which is two columns wide, of the character before.
            widths.append(1)
        else:
            widths.append(_width(char))
    return widths


@lru_cache(maxsize=4096)
def _width(char: str) -> int:
    if unicodedata.east_asian_width(char) in {"W", "F"}:
        return 2
    category = unicodedata.category(char)
    if category in {"Mn", "Me"} or char in _JOINERS:
        return 0
    # Emoji newer than this Python's tables are as wide as the others.
    return 2 if category == "Cn" and 0x1F000 <= ord(char) <= 0x1FAFF else 1
