"""What a narrowed grant covers: path globs below the workdir. In: a pattern or a path as text. Out: a regular expression, or yes or no. Pure.

`*` and `?` stay within a folder, `**` crosses folders wherever it stands (`reports/**.md`); a pattern that names a folder covers what is in it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

_TOKENS: Final = re.compile(r"\*\*/|\*\*|\*|\?|[^*?]+")
_MEANING: Final = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def glob_regex(pattern: str) -> re.Pattern[str]:
    """The expression that a whole relative path has to match. Characters other than `*` and `?` mean themselves."""
    return re.compile("".join(_MEANING.get(token) or re.escape(token) for token in _TOKENS.findall(pattern)), re.DOTALL)


def covers(patterns: Collection[str], path: str) -> bool:
    """True if a relative, resolved path (`src/a.py`, `.` for the workdir) is one of the patterns, or lies in a folder that is."""
    for pattern in patterns:
        plain = pattern.removeprefix("./").rstrip("/") or "."
        if plain == ".":
            return True
        if glob_regex(plain).fullmatch(path) or glob_regex(f"{plain}/**").fullmatch(path):
            return True
        if plain.endswith("/**") and glob_regex(plain[:-3]).fullmatch(path):
            return True
    return False
