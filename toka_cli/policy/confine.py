"""What a narrowed grant covers: path globs below the workdir. In: a pattern or a path as text. Out: a regular expression, yes or no, or the place for a wall.

Pure; nothing is resolved here.

`*` and `?` stay within a folder, `**` crosses folders wherever it stands (`reports/**.md`); a pattern that names a folder covers what is in it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

_TOKENS: Final = re.compile(r"\*\*/|\*\*|\*|\?|[^*?]+")
_MEANING: Final = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def glob_regex(pattern: str) -> re.Pattern[str]:
    """The expression that a whole relative path has to match. Characters other than `*` and `?` mean themselves."""
    return re.compile("".join(_MEANING.get(token) or re.escape(token) for token in _TOKENS.findall(pattern)), re.DOTALL)


def covers(patterns: Collection[str], path: str) -> bool:
    """True if a relative, resolved path (`src/a.py`, `.` for the workdir) is one of the patterns, or lies in a folder that is."""
    for pattern in patterns:
        if not pattern.strip():
            # What names nothing covers nothing.
            continue
        plain = pattern.removeprefix("./").rstrip("/") or "."
        if plain == ".":
            return True
        if glob_regex(plain).fullmatch(path) or glob_regex(f"{plain}/**").fullmatch(path):
            return True
        if plain.endswith("/**") and glob_regex(plain[:-3]).fullmatch(path):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Area:
    """Where a pattern lies, for a wall. `path` is relative to the workdir (`.`: all of it).

    `exact`: what lies at and below `path` is what the pattern covers, no more and no less. `folder`: the pattern can only mean a folder.
    """

    path: str
    exact: bool
    folder: bool


def area_of(pattern: str) -> Area | None:
    """The place of a pattern; of one with wildcards the folder before the first of them. None for what leads out of the workdir or names nothing."""
    text = pattern.strip().removeprefix("./")
    if not text or text.startswith(("/", "~")) or "\0" in text or ".." in text.split("/"):
        return None
    plain = text.rstrip("/") or "."
    folder = text.endswith("/") or plain.endswith("/**") or plain in {".", "**"}
    if plain in {".", "**"}:
        return Area(".", exact=True, folder=True)
    parts = [part for part in plain.removesuffix("/**").split("/") if part not in {"", "."}]
    before: list[str] = []
    for part in parts:
        if "*" in part or "?" in part:
            return Area("/".join(before) or ".", exact=False, folder=True)
        before.append(part)
    return Area("/".join(before) or ".", exact=True, folder=folder or not before)


def within(path: str, folder: str) -> bool:
    """True if an absolute, resolved path is the folder or lies below it."""
    return path == folder or path.startswith(folder if folder.endswith("/") else f"{folder}/")
