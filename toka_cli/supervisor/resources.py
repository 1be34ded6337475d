"""ResourceManager: what a cell's process tree uses now. Proportional set size, because the sum of resident sizes counts shared pages once per process.

In: the pid of a shim. Out: bytes and CPU seconds, None where the system does not say. Measures only; ends nobody.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final, NamedTuple

import psutil

from toka_cli.sandbox.tree import descendants

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Sample(NamedTuple):
    """One process at one moment. `cpu_s` includes children that ended and were waited for (`children_cpu_s` alone is theirs)."""

    pid: int
    name: str
    resident_bytes: int
    cpu_s: float
    children_cpu_s: float


class TreeUsage(NamedTuple):
    """Usage of a process tree at one moment. CPU seconds include children that have ended and were waited for."""

    memory_bytes: int | None
    cpu_time_s: float | None
    processes: int


def tree_usage(root: int, own_processes: int = 1) -> TreeUsage:
    """What the tree below `root` uses; `root` itself, the shim, is toka's own cost and not counted. The first `own_processes` below it are forks of it."""
    samples = [sample for pid in descendants(root) if (sample := sample_process(pid)) is not None]
    samples = without_base(samples, sample_process(root), own_processes)
    if not samples:
        return TreeUsage(None, None, 0)
    memory = sum(taken_bytes(sample) for sample in samples)
    return TreeUsage(memory, round(sum(sample.cpu_s for sample in samples), 2), len(samples))


def sample_process(pid: int) -> Sample | None:
    """One look at a process; None if it is gone. One file where there is a /proc (30 µs), psutil elsewhere."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  this is the hot path of the governor
            head, _, tail = file.read().rpartition(b")")
    except FileNotFoundError:
        return None if os.path.isdir("/proc/self") else _sample_with_psutil(pid)  # noqa: PTH112
    except OSError:
        return None
    # After the name in parentheses: field 3 of proc(5) is the state; 14 to 17 are utime, stime, cutime, cstime; 24 is rss in pages.
    fields = tail.split()
    own, waited = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    name = head.partition(b"(")[2].decode("utf-8", "replace")
    return Sample(pid, name, int(fields[21]) * _PAGE_BYTES, (own + waited) / _TICKS_PER_S, waited / _TICKS_PER_S)


def proportional_bytes(pid: int) -> int | None:
    """The proportional set size of a process, in bytes; 0 if it has just ended, None if the system does not say."""
    with suppress(OSError, ValueError):
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123
                for line in file:
                    if line.startswith(b"Pss:"):
                        return int(line.split()[1]) * 1024
        except (FileNotFoundError, ProcessLookupError):
            # Its memory is gone, or going: what it held a moment ago says nothing.
            return None if os.path.exists("/proc/self/smaps") and not os.path.exists("/proc/self/smaps_rollup") else 0  # noqa: PTH110
        return 0
    return None


def without_base(samples: list[Sample], shim: Sample | None, own_processes: int) -> list[Sample]:
    """Samples of a tree, parents first, in which toka's own processes count only what they have beyond the shim that they were forked from.

    Their share cannot always be asked for: behind walls they show their memory to nobody, and what is resident counts pages of the fork server in each.
    """
    if shim is None:
        return samples
    own = [sample._replace(resident_bytes=max(0, sample.resident_bytes - shim.resident_bytes)) for sample in samples[:own_processes]]
    return own + samples[own_processes:]


def taken_bytes(sample: Sample) -> int:
    """What a process takes: its proportional share, or all that is resident where that is not known."""
    share = proportional_bytes(sample.pid)
    return sample.resident_bytes if share is None else share


def machine_memory_bytes() -> int:
    """Memory of this machine in bytes."""
    return int(psutil.virtual_memory().total)


def available_memory_bytes() -> int:
    """Memory that programs can still have without anything being swapped out, in bytes (MemAvailable of proc(5))."""
    return int(psutil.virtual_memory().available)


def _sample_with_psutil(pid: int) -> Sample | None:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            waited = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
            return Sample(pid, process.name(), int(process.memory_info().rss), times.user + times.system + waited, waited)
    except psutil.Error:
        return None
