"""Process trees, from /proc: who is below whom, and how to end all of them for certain. Standard library only: the shim, the cell and the owner use it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress


def kill_all(reaped: Callable[[int, int], None] = lambda _pid, _status: None) -> None:
    """SIGKILL direct children and reap, until there are none. As a subreaper this process inherits whatever they leave behind."""
    own = os.getpid()
    while True:
        for pid in children(own):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            reaped(*os.waitpid(-1, 0))
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


def _children_by_parent(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat") as file:
                # The command's name is in parentheses and may hold anything; the parent's pid is the second word after it.
                if int(file.read().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(name))
    return found
