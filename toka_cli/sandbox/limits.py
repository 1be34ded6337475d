"""rlimits: what the operating system itself holds per process. In: the limits of a spec. Out: what is really in force, read back after it was set.

Never RLIMIT_AS: node reserves gigabytes of address space and uses 40 MB. RLIMIT_NPROC only within a user namespace of the cell's own: elsewhere it counts all
processes of the user, not the tree's.
"""

from __future__ import annotations

import os
import resource
from typing import Final

MIB: Final = 1 << 20
# A backstop behind the real memory limit, so set wide: private anonymous memory is reserved before it is used.
DATA_FACTOR: Final = 2
DATA_SLACK_BYTES: Final = 256 * MIB
# A backstop behind the wall clock: no process can use more than every core for the whole time.
CPU_SLACK_S: Final = 60
MAX_MEMLOCK_BYTES: Final = 8 * MIB
# The kernel counts threads: node has 11, a JVM some 30. This stops what forks without end; the limit itself is held by others.
THREADS_A_PROCESS: Final = 32
THREADS_SLACK: Final = 64
# The kernel gives numbers below this one only once.
RESERVED_PIDS: Final = 300
# Linux alone has it.
_MSGQUEUE: Final = getattr(resource, "RLIMIT_MSGQUEUE", None)


def apply_rlimits(
    *,
    memory_bytes: int | None,
    disk_bytes: int | None,
    max_open_files: int | None,
    timeout_s: float | None,
    max_processes: int | None = None,
    message_bytes: int | None = None,
) -> dict[str, int]:
    """Set the rlimits of this process and all it will start; answers `{name: value in force}` as read back. Raises OSError or ValueError.

    `max_processes` only within an own user namespace, and never for root, whom the kernel does not count.
    """
    wanted: dict[str, tuple[int, int]] = {"core": (resource.RLIMIT_CORE, 0), "memlock_bytes": (resource.RLIMIT_MEMLOCK, MAX_MEMLOCK_BYTES)}
    if max_open_files is not None:
        wanted["open_files"] = (resource.RLIMIT_NOFILE, max_open_files)
    if disk_bytes is not None:
        wanted["file_size_bytes"] = (resource.RLIMIT_FSIZE, disk_bytes)
    if memory_bytes is not None:
        wanted["data_bytes"] = (resource.RLIMIT_DATA, memory_bytes * DATA_FACTOR + DATA_SLACK_BYTES)
    if timeout_s is not None:
        wanted["cpu_time_s"] = (resource.RLIMIT_CPU, int(timeout_s * (os.cpu_count() or 1)) + CPU_SLACK_S)
    if max_processes is not None:
        wanted["threads"] = (resource.RLIMIT_NPROC, most_threads(max_processes))
    if message_bytes is not None and _MSGQUEUE is not None:
        wanted["message_queue_bytes"] = (_MSGQUEUE, message_bytes)
    return {name: _set(kind, value) for name, (kind, value) in wanted.items()}


def most_threads(processes: int) -> int:
    """So many threads are more than so many processes can need."""
    return processes * THREADS_A_PROCESS + THREADS_SLACK


def _set(kind: int, value: int) -> int:
    """Lower soft and hard limit to `value`, never raise what was stricter already; the soft limit in force afterwards."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))
    return resource.getrlimit(kind)[0]
