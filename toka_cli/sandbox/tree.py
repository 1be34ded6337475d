"""Process trees, from /proc: who is below whom, and how to end all of them for certain. Standard library only: the shim, the cell and the owner use it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

# Between two looks at what is left: what was killed needs a moment to be gone.
RELIST_S: Final = 0.0005


class Written(NamedTuple):
    """Bytes that a process and the children it has waited for asked to write (also into pipes), and those of files that reached, or will reach, a device."""

    asked: int
    dirtied: int


def written_by(pid: int | str) -> Written | None:
    """What a process has written so far, by the kernel's account (proc(5), /proc/PID/io); None if the kernel does not say, or not to us."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            counts = dict(line.split(b":", 1) for line in file.read().splitlines())
        return Written(int(counts[b"wchar"]), max(0, int(counts[b"write_bytes"]) - int(counts[b"cancelled_write_bytes"])))
    except (OSError, ValueError, KeyError):
        return None


def kill_all(reaped: Callable[[int, int], None] = lambda _pid, _status: None) -> None:
    """SIGKILL everything below and reap, until there is nothing. As a subreaper this process inherits whatever the dead leave behind."""
    own = os.getpid()
    while True:
        # All of them, not only direct children: what forks every millisecond is met at its newest, before it is somebody else again.
        signal_below(own, signal.SIGKILL)
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                reaped(*ended)
            # Never a wait that blocks: /proc can leave out a child while its siblings die (proc(5)), and nobody would kill that one.
            time.sleep(RELIST_S)
        except ChildProcessError:
            return


def children(pid: int) -> list[int]:
    """The direct children of a process, from /proc: of every thread where the kernel lists them, else from every process's parent."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
    except FileNotFoundError:
        # Either the kernel has no such list, or the process has just ended and has given its children away: only the first is worth a look at everybody.
        if not os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"):
            return _children_by_parent(pid)
    except OSError:
        pass
    return found


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, parents before children; a moment's picture."""
    found: list[int] = []
    level = children(pid)
    while level:
        found += level
        level = [grandchild for child in level for grandchild in children(child)]
    return found


def signal_below(root: int, signum: int, done: set[int] | None = None) -> int:
    """Signal everything below `root` once; how many were found that are not in `done`, which they are added to.

    Whole process groups at a time: the kernel signals a group and forks into it one after the other, so that a fork bomb, which grows faster than anybody can
    list it, is met as a whole. A group below `root` has no members elsewhere, because each tree has sessions of its own; only root's own group has.
    """
    done = set() if done is None else done
    spared, groups, found = os.getpgid(root), set[int](), 0
    level = [root]
    while level:
        below = []
        for pid in [child for each in level for child in children(each)]:
            below.append(pid)
            if pid not in done:
                found += 1
                done.add(pid)
                with suppress(ProcessLookupError, PermissionError):
                    if (group := os.getpgid(pid)) == spared:
                        os.kill(pid, signum)
                    elif group not in groups:
                        groups.add(group)
                        os.killpg(group, signum)
        level = below
    return found


def _children_by_parent(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat") as file:
                # The command's name is in parentheses and may hold anything; the parent's pid is the second word after it.
                if int(file.read().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(name))
    return found


def is_alive(pid: int) -> bool:
    """True while a process runs: a zombie has given its children away, and only waits to be waited for. Pid 0 is nobody."""
    if not pid:
        return False
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The state stands behind the name, which is in parentheses and may hold anything (proc(5)).
            return file.read().rpartition(b")")[2].split()[0] not in {b"Z", b"X"}
    except (OSError, IndexError):
        return False
