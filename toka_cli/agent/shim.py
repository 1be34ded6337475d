"""The shim: one small process between the owner and a cell, which makes ending the cell's whole process tree certain.

It is a subreaper, so every orphan of the tree becomes its child; to end the tree it kills its direct children and reaps, again and again, until waiting says
ECHILD: the kernel's proof that nothing is left. It does so when told, when the cell has ended, and when the owner is gone. It holds nothing else.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from toka_cli.errors import ProtocolError
from toka_cli.protocol import frames
from toka_cli.protocol.messages import ShimOrder, ShimReport
from toka_cli.sandbox import prctl
from toka_cli.sandbox.namespaces import Threshold
from toka_cli.sandbox.tree import RELIST_S, children, descendants, kill_all, written_by

# Inherited dispositions (a shell's `&` ignores SIGINT, Python ignores SIGPIPE) must not reach the cell.
RESET_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD, signal.SIGQUIT, signal.SIGTSTP)
# What process 1 has to do takes microseconds; on a busy machine it has to wait for its turn.
PROCESS_1_GRACE_S: Final = 1.0


class _OwnerGone(Exception):
    pass


def run(
    lifeline: socket.socket, owner_pid: int, cell: Callable[[], NoReturn], threshold: Threshold | None = None, the_cells: tuple[int, ...] = ()
) -> NoReturn:
    """Be the shim of one cell: fork, run `cell` in the child, watch, and leave nothing behind. Does not return.

    With a threshold the child is process 1 of namespaces of its own, which end with it; the shim stays outside. `the_cells` are descriptors that only the
    cell is to hold: when it closes its door, the kernel has to hear of it.
    """
    if os.getsid(0) != os.getpid():
        os.setsid()
    for signum in RESET_SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    prctl.become_subreaper()
    shim = os.getpid()
    pid = os.fork() if threshold is None else threshold.fork()
    if pid == 0:
        lifeline.close()
        # If the shim is killed, the cell goes with it; what the cell started is adopted and ended by the owner.
        prctl.die_with_parent(signal.SIGKILL)
        # (From inside a pid namespace the shim has no number: there the threshold tells.)
        if os.getppid() != shim and threshold is None:
            os._exit(1)
        cell()
    for descriptor in the_cells:
        os.close(descriptor)
    if threshold is not None:
        threshold.admit(pid)
    # The shim leaves when its tree is gone, never before: not when it is asked to, and not when it speaks to an owner that is gone.
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_IGN)
    _Watch(lifeline, owner_pid, pid, threshold).until_empty()
    os._exit(0)


class _Watch:
    def __init__(self, lifeline: socket.socket, owner_pid: int, cell: int, threshold: Threshold | None) -> None:
        self.lifeline = lifeline
        self.owner_pid = owner_pid
        self.cell = cell
        self.threshold = threshold
        self.reader = frames.FrameReader()
        self.wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def until_empty(self) -> None:
        """Watch until the cell has ended or somebody wants its end; then kill and reap until nothing is left, and say so."""
        try:
            self.report(ShimReport("forked", pid=self.cell))
            self._until_cell_ends()
        except (_OwnerGone, ProtocolError, msgspec.MsgspecError):
            pass
        if self.threshold is not None:
            self._let_process_1_end()
        kill_all(self._reaped)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Linux counts ru_maxrss in KiB.
        # What the dead had written is in the account of whoever waited for them, and the last of them were waited for here.
        # (Its own account is closed to a process that shows nothing of itself; nobody is left to hide from.)
        prctl.allow_dumps()
        written = written_by("self")
        report = ShimReport(
            "empty",
            cpu_time_s=round(usage.ru_utime + usage.ru_stime, 6),
            peak_memory_bytes=usage.ru_maxrss * 1024,
            asked_bytes=written.asked if written is not None else None,
            dirtied_bytes=written.dirtied if written is not None else None,
        )
        with suppress(_OwnerGone):
            self.report(report)

    def _let_process_1_end(self) -> None:
        """End what process 1 has started, and give it a moment to end all others: only it can tell what they have used. What is left after that is killed."""
        if self.cell:
            for pid in children(self.cell):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            # It may have been stopped with all the others.
            os.kill(self.cell, signal.SIGCONT)
        give_up = time.monotonic() + PROCESS_1_GRACE_S
        while self.cell and time.monotonic() < give_up:
            self._reap_ended()
            time.sleep(RELIST_S)

    def _until_cell_ends(self) -> None:
        poll = select.poll()
        poll.register(self.lifeline.fileno(), select.POLLIN)
        poll.register(self.wake_read, select.POLLIN)
        owner = _pidfd(self.owner_pid)
        if owner is not None:
            poll.register(owner, select.POLLIN)
        # A cell that ended before its end was listened for has rung no bell.
        self._reap_ended()
        while self.cell:
            ready = {fd for fd, _ in poll.poll()}
            if owner is not None and owner in ready:
                raise _OwnerGone
            if self.wake_read in ready:
                with suppress(BlockingIOError):
                    os.read(self.wake_read, 512)
                self._reap_ended()
            if self.lifeline.fileno() in ready and self._obey() == "kill":
                return

    def _reap_ended(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self._reaped(pid, status)

    def _reaped(self, pid: int, status: int) -> None:
        if pid == self.cell:
            self.cell = 0
            if self.threshold is not None:
                status = self.threshold.status(status)
            with suppress(_OwnerGone):
                self.report(ShimReport("exited", pid=pid, status=status))

    def _obey(self) -> str:
        try:
            data = self.lifeline.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return ""
        except OSError as error:
            raise _OwnerGone from error
        if not data:
            raise _OwnerGone
        for body in self.reader.feed(data):
            order = msgspec.json.decode(body, type=ShimOrder).order
            if order == "term":
                for pid in descendants(os.getpid()):
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGTERM)
            if order == "kill":
                return order
        return ""

    def report(self, report: ShimReport) -> None:
        try:
            self.lifeline.sendall(frames.pack_bytes(msgspec.json.encode(report)))
        except OSError as error:
            raise _OwnerGone from error


def _pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when the owner ends. Raises _OwnerGone if it has; None where the kernel has no pidfd."""
    if not pid:
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise _OwnerGone from error
    except (OSError, AttributeError):
        return None
