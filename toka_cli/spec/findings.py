"""Collects what reading a file finds: problems with their place, and notes on what was normalised.

Reading goes on after a problem, so that all problems of all files are shown at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

from toka_cli.errors import Problem
from toka_cli.spec.tree import Place

MAX_PROBLEMS = 200
"""A hostile file can hold tens of thousands of mistakes; nobody reads more than this many."""


@dataclass(frozen=True, slots=True, order=True)
class Note:
    """Something that was accepted in another shape than the documented one, or kept without a meaning."""

    path: str
    line: int
    column: int
    message: str


@dataclass(slots=True)
class Findings:
    """Problems and notes of one file (`path` as the user wrote it). Under `strict` every warning is an error."""

    path: str
    strict: bool = False
    problems: list[Problem] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    errors: int = 0
    """How many errors were found, those beyond MAX_PROBLEMS too."""

    def error(self, place: Place, message: str, *, hint: str | None = None, code: str = "spec") -> None:
        """Record something that makes the file unusable."""
        self._add(place, message, hint, code, "error")

    def warning(self, place: Place, message: str, *, hint: str | None = None, code: str = "spec") -> None:
        """Record something that is probably a mistake."""
        self._add(place, message, hint, code, "error" if self.strict else "warning")

    def note(self, place: Place, message: str) -> None:
        """Record something that was normalised."""
        if len(self.notes) < MAX_PROBLEMS:
            self.notes.append(Note(self.path, *place, message))

    def _add(self, place: Place, message: str, hint: str | None, code: str, severity: str) -> None:
        # The first error is kept even behind many warnings: else a file would be refused without a reason.
        if len(self.problems) < MAX_PROBLEMS or (severity == "error" and not self.errors):
            problem = Problem(self.path, *place, message, hint, code, severity)
            if problem not in self.problems:
                self.problems.append(problem)
        self.errors += severity == "error"


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.8) -> str | None:
    """Return the known word that `word` is probably a misspelling of, or None."""
    if len(word) > 100:
        return None
    plain = {name.lower().replace("-", "_"): name for name in known}
    close = difflib.get_close_matches(word.lower().replace("-", "_"), plain, n=1, cutoff=cutoff)
    return plain[close[0]] if close else None


def shown(text: str, limit: int = 60) -> str:
    """Return text quoted for a message: control characters escaped, cut to `limit` characters."""
    quoted = ascii(text[:limit]) if any(not char.isprintable() for char in text[:limit]) else f"'{text[:limit]}'"
    return quoted + "..." if len(text) > limit else quoted
