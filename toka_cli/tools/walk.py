"""Walks directories by descriptors, never through links, within bounds; for glob and grep.

In: an open directory. Out: sorted names, and directories below it, opened. What could not be looked at is counted, and what ends the walk is kept in words.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from toka_cli.tools.beneath import open_child_directory

MAX_RESULTS: Final = 1000
MAX_VISITED: Final = 100_000
MAX_DEPTH: Final = 64
MAX_BYTES: Final = 512 * 1024 * 1024
MATCH_CPU_S: Final = 5.0
"""Processor seconds that matching may take in one call."""


@dataclass(slots=True)
class Hunt:
    """What one call has left of each bound, and the first reason why its answer is not whole."""

    output_left: int
    visits_left: int = MAX_VISITED
    bytes_left: int = MAX_BYTES
    cpu_left_s: float = MATCH_CPU_S
    unread: int = 0
    over: bool = False
    why: str | None = None

    def stop(self, why: str) -> None:
        """End the hunt: nothing more is looked at."""
        self.over, self.why = True, self.why or why

    def note(self) -> str | None:
        """Why the answer is not whole, or None."""
        return self.why or (f"{self.unread} files or directories could not be read" if self.unread else None)


def entries_of(directory: int, hunt: Hunt) -> list[tuple[str, bool]]:
    """The names in a directory, sorted, and whether each is a directory itself (a link is none)."""
    found: list[tuple[str, bool]] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if hunt.visits_left <= 0:
                hunt.stop(f"more than {MAX_VISITED} names to look at; begin in a directory further down")
                break
            hunt.visits_left -= 1
            found.append((entry.name, entry.is_dir(follow_symlinks=False)))
    return sorted(found)


@contextmanager
def entered(parent: int, name: str, hunt: Hunt, depth: int) -> Iterator[int | None]:
    """A directory below an open one; None, and counted, when it cannot be entered or is too deep."""
    descriptor = None
    if depth < MAX_DEPTH:
        with suppress(OSError):
            descriptor = open_child_directory(parent, name)
    if descriptor is None:
        hunt.unread += 1
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)
