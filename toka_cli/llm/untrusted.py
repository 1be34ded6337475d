"""Prepares text that nobody vouches for (tool output, files, replies) to be read by a model: control characters out, sizes bounded, fences around it.

In: any text. Out: text. What is in it stays data: nothing is judged by its words, nothing is forbidden, nothing is lost that the reader is not told of.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Final

MAX_LABEL_CHARS: Final = 200

_ANSI: Final = re.compile(r"\x1b(?:\[[0-?]{0,64}[ -/]{0,8}[@-~]|\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)|[ -/]{0,8}[0-~])")
"""Whole sequences of a terminal (colours, titles, clipboard), so that no `[31m` is left over."""
_CONTROLS: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction
    "\ud800-\udfff"  # halves of characters: not text, and no UTF-8
    "\U000e0000-\U000e007f]"  # tags: text that people do not see and models do
)
_BUT_MAKERS: Final = re.compile(f"(?![\x07\x1b]){_CONTROLS.pattern}")
_UNTRUSTED: Final = "untrusted"
_FENCED: Final = re.compile(r'<(untrusted|guidance) source="([^"<>\n]{0,200})" id="([0-9a-f]{16})">\n(.*?)\n</\1 id="\3">', re.DOTALL)
"""Prompts use the same marks with the word `guidance` for texts that are to be followed."""


def strip_controls(text: str) -> str:
    r"""Return text without control characters: C0 but \n and \t, DEL, C1, marks of direction, invisible tags, lone surrogates; terminal sequences whole.

    CR LF becomes LF. Doing it twice changes nothing more.
    """
    if text.isascii() and text.isprintable():
        return text
    # What may stand within a sequence goes first, so that it cannot hide one; ESC, BEL and ST, which make sequences, go last.
    return _CONTROLS.sub("", _ANSI.sub("", _BUT_MAKERS.sub("", text)))


def cap(text: str, limit: int, *, whole: str | None = None) -> str:
    """Return text of at most `limit` characters (and the note): its first two thirds and its last, between them how many were left out.

    `whole` says where all of it can be found. Redact before: a cut may leave half a secret.
    """
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    tail = limit - head
    left_out = len(text) - limit
    note = f"[... {left_out:,} characters left out" + (f"; the whole is in {whole}" if whole else "") + " ...]"
    return f"{text[:head]}\n{note}\n{text[len(text) - tail :] if tail else ''}"


def fence(text: str, label: str) -> str:
    """Return text between two marks that it cannot forge, with `label` saying where it comes from.

    The marks carry a digest of the text: a text that holds its own closing mark would have to hold its own digest. The same text gets the same marks, so
    that a conversation stays the same when it is repeated.
    """
    return _fence(_UNTRUSTED, re.sub(r'["<>\n]', " ", strip_controls(label))[:MAX_LABEL_CHARS], text)


def is_fenced(text: str) -> bool:
    """True when all of the text is one fence whose marks are genuine."""
    found = _FENCED.fullmatch(text)
    return found is not None and _genuine(found)


def unfenced(text: str) -> tuple[str, tuple[str, ...]]:
    """Return text with every genuine fence of data emptied to its label, and what was in them: what is an instruction, and what is not."""
    inside: list[str] = []

    def empty(found: re.Match[str]) -> str:
        if found[1] != _UNTRUSTED or not _genuine(found):
            return found[0]
        inside.append(found[4])
        return f'<untrusted source="{found[2]}"/>'

    return _FENCED.sub(empty, text), tuple(inside)


def changed_within(text: str, change: Callable[[str], str]) -> str:
    """Return text changed by `change`, with genuine fences still genuine: what is in one is changed by itself, and the marks are made anew."""
    parts, at = [], 0
    for found in _FENCED.finditer(text):
        if _genuine(found):
            parts += [change(text[at : found.start()]), _fence(found[1], found[2], change(found[4]))]
            at = found.end()
    return "".join([*parts, change(text[at:])])


def _fence(kind: str, label: str, text: str) -> str:
    tag = _tag(label, text)
    return f'<{kind} source="{label}" id="{tag}">\n{text}\n</{kind} id="{tag}">'


def _genuine(found: re.Match[str]) -> bool:
    return _tag(found[2], found[4]) == found[3]


def _tag(label: str, text: str) -> str:
    return hashlib.sha256(f"{label}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
