"""Whether this machine has room for one more agent: memory, and the file systems that a run writes to.

In: what the kernel says of memory (available, pressure) and of file systems. Out: a sentence, or None. Holding begins at one mark and ends at an easier one,
so that it does not flicker. Measures only; starts and ends nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from toka_cli.supervisor.resources import available_memory_bytes, machine_memory_bytes
from toka_cli.units import format_bytes

# Shares of the machine's memory: below the first nothing new starts, above the second it does again.
LOW_MEMORY: Final = (0.05, 0.08)
# Per cent of the last ten seconds in which everything that could run waited for memory (PSI, "full").
PRESSURE: Final = (20.0, 5.0)
# Free bytes of a file system, with the same meaning, or so much of a small one.
LOW_DISK_BYTES: Final = (64 << 20, 96 << 20)
LOW_DISK: Final = (0.02, 0.03)
# What was found holds for so long, in seconds: many agents may be about to start.
FRESH_S: Final = 0.25


@dataclass(slots=True)
class Scarcity:
    """What was found at the last look. `clock` is in seconds."""

    clock: Callable[[], float] = time.monotonic
    _found: str | None = None
    _at: float | None = None

    def look(self, places: tuple[Path, ...]) -> str | None:
        """Why nothing more should be started now; None while there is room."""
        now = self.clock()
        if self._at is None or now - self._at >= FRESH_S:
            self._at = now
            # The second mark counts while something is found: it has to be clearly over.
            mark = 0 if self._found is None else 1
            self._found = low_memory(mark) or next((why for place in places if (why := low_disk(place, mark)) is not None), None)
        return self._found


def low_memory(mark: int) -> str | None:
    """Why there is too little memory, by the first (0) or the second (1) mark."""
    free, whole = available_memory_bytes(), machine_memory_bytes()
    if free < LOW_MEMORY[mark] * whole:
        return f"memory is short: {format_bytes(free)} of {format_bytes(whole)} available"
    stalled = memory_pressure()
    if stalled is not None and stalled > PRESSURE[mark]:
        return f"memory is short: programs waited for it {stalled:.0f}% of the last ten seconds"
    return None


def memory_pressure(path: str = "/proc/pressure/memory") -> float | None:
    """Per cent of the last ten seconds in which nothing could run for want of memory; None where the kernel does not say."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path(path).read_text("ascii").splitlines():
            kind, first, *_ = line.split()
            if kind == "full":
                return float(first.partition("=")[2])
    return None


def low_disk(place: Path, mark: int) -> str | None:
    """Why the file system of a place has too little room. A place that cannot be looked at says nothing."""
    with suppress(OSError):
        found = os.statvfs(place)
        free, whole = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        if free < min(LOW_DISK_BYTES[mark], LOW_DISK[mark] * whole):
            return f"the disk is nearly full: {format_bytes(free)} left for {place}"
    return None
