"""ResourceManager: what a cell's process tree uses now. Proportional set size, because the sum of resident sizes counts shared pages once per process.

In: the pid of a shim. Out: bytes and CPU seconds, None where the system does not say. Measures only; ends nobody.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from toka_cli.sandbox.tree import descendants

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class TreeUsage(NamedTuple):
    """Usage of a process tree at one moment. CPU seconds include children that have ended and were waited for."""

    memory_bytes: int | None
    cpu_time_s: float | None
    processes: int


def tree_usage(root: int) -> TreeUsage:
    """What the tree below `root` uses; `root` itself, the shim, is toka's own cost and not counted."""
    memory = 0
    cpu = 0.0
    pids = descendants(root)
    for pid in pids:
        memory += _memory_bytes(pid)
        cpu += _cpu_s(pid)
    return TreeUsage(memory if pids else None, round(cpu, 2) if pids else None, len(pids))


def machine_memory_bytes() -> int:
    """Memory of this machine in bytes."""
    return int(psutil.virtual_memory().total)


def _memory_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def _cpu_s(pid: int) -> float:
    with suppress(OSError, ValueError, IndexError):
        # After the parenthesised name: state is field 3 of proc(5); utime, stime, cutime, cstime are 14 to 17.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15]) / _TICKS_PER_S
    return 0.0
