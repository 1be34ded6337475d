"""Wraps cleaned text to a width in columns, words kept whole where they fit. In: any text. Out: lines; nothing that a terminal would obey is in them."""

from __future__ import annotations

from toka_cli.view.text import clean, display_width


def wrapped(text: str, width: int, first: str, rest: str) -> list[str]:
    """Return cleaned text in lines of at most `width` columns that begin with `first` and then `rest`; a narrow screen gets less indent."""
    if width < 40:
        rest = rest[: max(width // 10, 1)]
    words = clean(text).split()
    if len(first) > width // 2:
        # A label that fills a narrow screen is wrapped like the text behind it.
        words = first.split() + words
        first = first[: min(len(first) - len(first.lstrip()), width // 10)]
    lines: list[str] = []
    line, used, empty = first, len(first), True
    for word in words:
        needed = display_width(word)
        if not empty and used + 1 + needed > width:
            lines.append(line)
            line, used, empty = rest, len(rest), True
        if used + needed + (not empty) <= width:
            line += word if empty else f" {word}"
            used += needed + (not empty)
        else:
            # Wider than a whole line: it fills line after line.
            for char in word:
                if used + display_width(char) > width and used > len(rest):
                    lines.append(line)
                    line, used = rest, len(rest)
                line, used = line + char, used + display_width(char)
        empty = False
    return [*lines, line]
