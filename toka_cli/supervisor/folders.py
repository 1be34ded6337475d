"""How much folders and open files take on disk. In: paths, pids. Out: bytes in blocks that are really taken. Looks only, and at no more than so much."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

# More entries than these are not looked at: what a folder of more takes is known from below.
MAX_ENTRIES: Final = 100_000
MAX_DESCRIPTORS: Final = 4096
# stat(2): blocks are counted in units of 512 bytes, whatever those of the file system are.
BLOCK_BYTES: Final = 512


class Measure(NamedTuple):
    """What lies below a folder: bytes on disk; `whole` unless there were too many entries."""

    taken_bytes: int
    whole: bool


def measure(folder: str, skip: frozenset[str] = frozenset(), stop: Callable[[], bool] = lambda: False, most: int = MAX_ENTRIES) -> Measure:
    """What lies below a folder, in blocks that are really taken; links are not followed, files with several names count once. `skip` is left out.

    Ends early once `stop` says so. What cannot be read counts nothing.
    """
    taken, entries = 0, 0
    linked: set[tuple[int, int]] = set()
    folders = [folder]
    while folders:
        if stop():
            return Measure(taken, whole=False)
        with suppress(OSError), os.scandir(folders.pop()) as found:
            for entry in found:
                entries += 1
                if entries > most:
                    return Measure(taken, whole=False)
                with suppress(OSError):
                    if entry.path in skip:
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif status.st_nlink > 1:
                        if (status.st_dev, status.st_ino) in linked:
                            continue
                        linked.add((status.st_dev, status.st_ino))
                    taken += status.st_blocks * BLOCK_BYTES
    return Measure(taken, whole=True)


def unnamed_bytes(pids: Iterable[int], devices: set[int]) -> int:
    """Bytes of files on these devices that the processes hold open and that have no name any more: no walk finds those."""
    taken, looked_at = 0, 0
    seen: set[tuple[int, int]] = set()
    for pid in pids:
        with suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208  many times per look
                looked_at += 1
                if looked_at > MAX_DESCRIPTORS:
                    return taken
                with suppress(OSError):
                    status = os.stat(f"/proc/{pid}/fd/{name}")  # noqa: PTH116
                    place = status.st_dev, status.st_ino
                    if stat.S_ISREG(status.st_mode) and not status.st_nlink and status.st_dev in devices and place not in seen:
                        seen.add(place)
                        taken += status.st_blocks * BLOCK_BYTES
    return taken
