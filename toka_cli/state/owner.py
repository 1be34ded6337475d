"""Who owns a run: an fcntl lock on its `owner.lock`, held as long as the owner lives, and freed by the kernel however it dies.

In: the folder of a run. Out: the lock, or whether somebody holds it. No pid file and no lease: a jump of the clock or a sleeping machine cannot fake a
death. POSIX record locks have two traps, both handled here: closing any descriptor of the file drops the process's own lock, and asking the kernel
about a lock never reports one's own; so a process keeps a list of the locks it holds and never opens those files a second time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

import msgspec

from toka_cli.errors import StateUnavailable
from toka_cli.paths import RunFolder
from toka_cli.state.glance import holder

_held: Final[dict[tuple[int, int], int]] = {}
"""Device and inode of each lock file that this process holds, with the process id: a forked child inherits the list but not the locks."""


class Identity(msgspec.Struct, frozen=True):
    """A process that no later one can be mistaken for. `start_time` is in clock ticks since boot; None where /proc cannot be read."""

    pid: int
    start_time: int | None
    boot_id: str | None


def identity() -> Identity:
    """The identity of this process (proc(5): field 22 of /proc/self/stat)."""
    start = boot = None
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name of the program stands in parentheses and may hold spaces: count from behind it.
        start = int(Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19])
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return Identity(os.getpid(), start, boot)


class OwnerLock:
    """The lock, held. `release` frees it; so does the end of the process."""

    def __init__(self, fd: int, key: tuple[int, int]) -> None:
        self._fd = fd
        self._key = key

    def release(self) -> None:
        """Free the lock. May be called again."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            _held.pop(self._key, None)
            os.close(fd)


def take(folder: RunFolder) -> OwnerLock:
    """Become the owner of a run. Raises StateUnavailable when another process is, or when the lock file cannot be made."""
    name = f"run {folder.run_id}"
    if _mine(folder.lock):
        raise StateUnavailable(f"{name} is already owned by this process")
    fd = -1
    try:
        fd = os.open(folder.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        info, now = os.fstat(fd), folder.lock.stat(follow_symlinks=False)
        if (info.st_dev, info.st_ino) != (now.st_dev, now.st_ino):
            raise FileNotFoundError
    except (BlockingIOError, PermissionError) as error:
        owner = holder(fd) if fd >= 0 else None
        _close(fd)
        if fd < 0:
            raise StateUnavailable(f"the lock of {name} cannot be opened: {error.strerror}") from error
        by = f"process {owner}" if owner else "another process"
        raise StateUnavailable(f"{name} is owned by {by}", hint="that process still runs it: ask it, or stop it first") from error
    except OSError as error:
        _close(fd)
        raise StateUnavailable(f"the lock of {name} cannot be taken: {error.strerror or 'the run was removed'}") from error
    key = (info.st_dev, info.st_ino)
    _held[key] = os.getpid()
    return OwnerLock(fd, key)


def is_held(folder: RunFolder) -> bool:
    """True if a process, this one too, owns the run. Takes nothing. Raises StateUnavailable when the lock file cannot be looked at."""
    if _mine(folder.lock):
        return True
    try:
        fd = os.open(folder.lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StateUnavailable(f"the lock of run {folder.run_id} cannot be read: {error.strerror}") from error
    try:
        return holder(fd) is not None
    except OSError as error:
        raise StateUnavailable(
            f"the lock of run {folder.run_id} cannot be read: {error.strerror}",
            hint="the state folder must be on a file system with record locks",
        ) from error
    finally:
        os.close(fd)


def owner_pid(folder: RunFolder) -> int | None:
    """The pid of the process that owns the run now, this one too; None if nobody does, 0 in another PID namespace. Raises OSError."""
    if _mine(folder.lock):
        # Opening and closing the file here would free the lock.
        return os.getpid()
    fd = os.open(folder.lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return holder(fd)
    finally:
        os.close(fd)


def _mine(path: Path) -> bool:
    try:
        info = path.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(info.st_mode) and _held.get((info.st_dev, info.st_ino)) == os.getpid()


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
