"""Namespaces of a cell: its own users, mounts, processes, network, message objects and host name. No program is needed for it, and no privilege where the
kernel lets ordinary users make them.

In: a shim that wants to fork. Out: a process 1 whose ids are mapped, and the pipes by which it starts and says how the cell ended.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
from contextlib import suppress
from typing import Final

from toka_cli.sandbox import prctl, syscalls

# As /proc/PID/ns names them: the flag of clone(2), from include/uapi/linux/sched.h.
FLAGS: Final = {"user": 0x10000000, "mnt": 0x00020000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000}

HOST_NAME: Final = "cell"
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1
_STATUS: Final = struct.Struct("=i")
# What passes when the machine is less crowded; everything else stays as it is.
_CROWDED: Final = frozenset({errno.EAGAIN, errno.ENOMEM})


class NotHeld(Exception):
    """A wall that was planned cannot be put up, or does not hold. The words say which, and why."""


def fork_apart() -> int:
    """Like os.fork(), but the child is process 1 of new namespaces, without a user yet. For processes with one thread. Raises OSError."""
    number = syscalls.number("clone")
    if number is None:
        raise OSError(errno.ENOSYS, "clone: not known on this machine")
    # PyDLL keeps the interpreter's lock, so parent and child come back as os.fork() would leave them; the C library's part in a fork is only about threads.
    caller = ctypes.PyDLL(None, use_errno=True)
    flags = sum(FLAGS.values()) | signal.SIGCHLD
    nothing = ctypes.c_long(0)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = int(caller.syscall(ctypes.c_long(number), ctypes.c_long(flags), nothing, nothing, nothing, nothing))
    code = ctypes.get_errno()
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, os.strerror(code))
    return pid


class Threshold:
    """Between a shim and process 1 of a cell: the shim maps its ids and lets it begin; it says how the cell ended. Two pipes, made before the fork."""

    def __init__(self) -> None:
        self._begin, self._let_begin = os.pipe2(os.O_CLOEXEC)
        self._status, self._tell_status = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._problem: str | None = None
        self._outside = inside()

    def fork(self) -> int:
        """Fork process 1. Where the system does not allow that, an ordinary child that will say so. Raises OSError when the machine is crowded."""
        try:
            return fork_apart()
        except OSError as error:
            if error.errno in _CROWDED:
                raise
            self._problem = f"the system does not allow namespaces of one's own: {error.strerror}"
            return os.fork()

    def admit(self, pid: int) -> None:
        """In the shim: map the ids of process 1 and let it begin, or tell it why not."""
        os.close(self._begin)
        os.close(self._tell_status)
        if self._problem is None:
            try:
                word = "+" + map_ids(pid)
            except OSError as error:
                word = f"-user ids cannot be mapped: {error.strerror}"
            # It can have ended already.
            with suppress(BrokenPipeError):
                os.write(self._let_begin, word.encode())
        os.close(self._let_begin)
        # (Not before: the maps of a process that gives no dumps belong to root alone.)
        prctl.forbid_dumps()

    def status(self, seen: int) -> int:
        """In the shim, after the end: the wait status of the cell, which process 1 passed on; its own, `seen`, where it could not."""
        data = b""
        with suppress(BlockingIOError):
            data = os.read(self._status, _STATUS.size)
        return int(_STATUS.unpack(data)[0]) if len(data) == _STATUS.size else seen

    def enter(self) -> str:
        """In process 1: wait until it may begin. Answers how ids are mapped: `all`, or `own`. Raises NotHeld; ends with the shim."""
        os.close(self._status)
        os.close(self._let_begin)
        if self._problem is not None:
            raise NotHeld(self._problem)
        word = os.read(self._begin, 4096).decode()
        os.close(self._begin)
        # The shim can have ended before this process asked to die with it.
        poll = select.poll()
        poll.register(self._tell_status, 0)
        if not word or poll.poll(0):
            os._exit(1)
        if word.startswith("-"):
            raise NotHeld(word[1:])
        missing = sorted(set(FLAGS) - set(self.entered()))
        if missing:
            raise NotHeld(f"namespaces that are not its own: {', '.join(missing)}")
        return word[1:]

    def entered(self) -> list[str]:
        """Names of the namespaces in which this process is not where the shim is."""
        now = inside()
        return [name for name in FLAGS if now[name] != self._outside[name]]

    def tell(self, status: int) -> None:
        """In process 1: pass on the wait status of the cell."""
        with suppress(BrokenPipeError):
            os.write(self._tell_status, _STATUS.pack(status))

    def leave(self) -> None:
        """In the cell: it has no part in this."""
        os.close(self._tell_status)


def inside() -> dict[str, str]:
    """What the kernel calls each namespace this process is in."""
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in FLAGS}


def map_ids(pid: int) -> str:
    """Give process 1 its users and groups: all of ours where we are root and may (`all`), so that files of others keep their owners, else our own (`own`)."""
    kinds = {_map(pid, "uid", os.geteuid()), _map(pid, "gid", os.getegid())}
    return "all" if kinds == {"all"} else "own"


def _map(pid: int, kind: str, own: int) -> str:
    if os.geteuid() == 0:
        with open(f"/proc/self/{kind}_map") as file:
            extents = [line.split() for line in file]
        try:
            _write(f"/proc/{pid}/{kind}_map", "".join(f"{first} {first} {count}\n" for first, _, count in extents))
        except PermissionError:
            # A root without SETUID, as some containers have it, is mapped like everybody else.
            pass
        else:
            return "all"
    if kind == "gid":
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/{kind}_map", f"{own} {own} 1")
    return "own"


def _write(path: str, text: str) -> None:
    """In one write, as the kernel wants it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def raise_loopback() -> None:
    """Bring up `lo` of this network namespace, which is the only interface there. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        fcntl.ioctl(asking, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def reap_until(wanted: int) -> int:
    """In process 1: wait for everybody until `wanted` has ended, then end and wait for all others; the wait status of `wanted`.

    The others would end with process 1 anyway, but then nobody would know what they have used.
    """
    while True:
        pid, status = os.wait()
        if pid == wanted:
            break
    with suppress(ChildProcessError, ProcessLookupError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        # Only where somebody is left: for this the kernel looks at every process of the machine.
        os.kill(-1, signal.SIGKILL)
        while True:
            os.wait()
    return status
