"""Judges a stream: may it have colour, may it be animated, how wide is it.

A stream, what --color says and the environment come in; a Terminal goes out. Standard output and standard error are judged apart. It writes nothing.
"""

from __future__ import annotations

import os
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final, NamedTuple, TextIO

DEFAULT_WIDTH: Final = 80
DEFAULT_HEIGHT: Final = 24
_MAX_SIZE: Final = 10_000


if TYPE_CHECKING:

    class Terminal(NamedTuple):
        """What a stream can show. `width` is None for a pipe or a file: nothing is cut there. `ascii_only` when it is not UTF-8."""

        tty: bool
        color: bool
        animate: bool
        width: int | None
        ascii_only: bool

else:
    # The same without `typing`, which costs a listing more than all its other imports.
    Terminal = namedtuple("Terminal", ("tty", "color", "animate", "width", "ascii_only"))


def judge(stream: TextIO, *, color: str = "auto", environ: Mapping[str, str] | None = None) -> Terminal:
    """Judge a stream. `color` is auto, always or never and beats the environment; NO_COLOR beats FORCE_COLOR, both beat TERM and "not a terminal".

    FORCE_COLOR colours a pipe but never animates it. See https://no-color.org and https://force-color.org.
    """
    env = os.environ if environ is None else environ
    tty = is_tty(stream)
    # A terminal without TERM has said nothing of what it understands.
    plain = env.get("TERM", "").lower() in {"", "dumb", "unknown"}
    if color in {"always", "never"}:
        coloured = color == "always"
    elif env.get("NO_COLOR"):
        coloured = False
    elif _set(env.get("FORCE_COLOR")):
        coloured = True
    else:
        coloured = tty and not plain
    return Terminal(
        tty=tty,
        color=coloured,
        animate=tty and not plain and not _set(env.get("CI")),
        width=size(stream, env)[0] if tty else None,
        ascii_only=not is_utf8(stream),
    )


def size(stream: TextIO, environ: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Columns and lines of the terminal behind a stream: COLUMNS and LINES, else what the terminal says, else 80 and 24."""
    env = os.environ if environ is None else environ
    columns, lines = _number(env.get("COLUMNS")), _number(env.get("LINES"))
    if not (columns and lines):
        try:
            found = os.get_terminal_size(stream.fileno())
        except (OSError, ValueError, AttributeError):
            found = os.terminal_size((0, 0))
        columns, lines = columns or found.columns, lines or found.lines
    return min(columns or DEFAULT_WIDTH, _MAX_SIZE), min(lines or DEFAULT_HEIGHT, _MAX_SIZE)


def is_tty(stream: TextIO) -> bool:
    """True if a terminal is behind the stream; a closed stream is none."""
    try:
        return stream.isatty()
    except (ValueError, AttributeError):
        return False


def is_utf8(stream: TextIO) -> bool:
    """True if the stream can write every character. A stream without an encoding, one in memory, can."""
    encoding = getattr(stream, "encoding", None)
    return encoding is None or encoding.lower().replace("-", "").replace("_", "") in {"utf8", "utf8sig", "utf16", "utf32"}


def _set(value: str | None) -> bool:
    return value is not None and value.strip().lower() not in {"", "0", "false", "no", "off"}


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else 0
