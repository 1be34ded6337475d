"""Runs one command of a task: its own process group, walls within those of the cell, bounded and streamed output, a deadline, and what the kernel knows of
its cost afterwards.

In: argv, environment, directory, bounds, walls. Out: an Outcome and a reason. Never decides what the exit status means, and never starts a shell unasked.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from toka_cli.agent.strands import Cancelled, Scheduler
from toka_cli.events import Outcome
from toka_cli.protocol.messages import Walls
from toka_cli.sandbox.inner import Inner
from toka_cli.sandbox.namespaces import NotHeld

READ_BYTES: Final = 1 << 16
# What is shown inline; the whole output goes to the kernel as it comes and becomes an artifact.
INLINE_HEAD_BYTES: Final = 16 * 1024
INLINE_TAIL_BYTES: Final = 48 * 1024
TERM_GRACE_S: Final = 2.0
# Something the command left in the background may hold its output open: what it wrote until then is taken, then the pipes are closed.
DRAIN_SILENCE_S: Final = 0.1
DRAIN_LIMIT_S: Final = 2.0


@dataclass(slots=True)
class Capture:
    """The head and the tail of a stream, and how long it was in all."""

    head: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)
    total: int = 0

    def add(self, data: bytes) -> None:
        """Take more bytes."""
        self.total += len(data)
        room = INLINE_HEAD_BYTES - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        self.tail += data
        if len(self.tail) > 2 * INLINE_TAIL_BYTES:
            del self.tail[:-INLINE_TAIL_BYTES]

    @property
    def truncated(self) -> bool:
        """True if the middle is missing from `text`."""
        return self.total > len(self.head) + min(len(self.tail), INLINE_TAIL_BYTES)

    def text(self) -> str:
        """What is shown, with a line that says how many bytes are left out. Bytes that are no UTF-8 become U+FFFD."""
        tail = bytes(self.tail[-INLINE_TAIL_BYTES:])
        head = bytes(self.head)
        if not self.truncated:
            return (head + tail).decode("utf-8", "replace")
        left_out = self.total - len(head) - len(tail)
        return f"{head.decode('utf-8', 'replace')}\n[... {left_out} bytes left out ...]\n{tail.decode('utf-8', 'replace')}"


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended. `reason` is None when it ended by itself with status 0, else a stable word first."""

    outcome: Outcome
    reason: str | None


@dataclass(slots=True)
class CommandRunner:
    """Runs commands of one cell. `output_bytes` bounds what one command may write in all.

    `inner` makes the second walls, and `walls` are those of commands that have none of their own; without `inner` there are none.
    """

    scheduler: Scheduler
    environment: Mapping[str, str]
    workdir: str
    output_bytes: int
    inner: Inner | None = None
    walls: Walls | None = None

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float | None,
        timeout_reason: str,
        on_output: Callable[[str, bytes], None] | None = None,
        walls: Walls | None = None,
    ) -> Finished:
        """Run to the end, the deadline or the bound on output, whichever is first. Cancelled ends the command's process group and goes on up.

        A command whose walls cannot be put up is not started.
        """
        clock = self.scheduler.clock
        started = clock()
        try:
            confine = None if self.inner is None else self.inner.around(walls or self.walls, timeout_s)
        except (NotHeld, OSError) as error:
            return _not_started(argv, ValueError(f"its walls cannot be put up: {error}"))
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(self.environment),
                cwd=self.workdir,
                process_group=0,
                # Safe in a cell: it has one thread.
                preexec_fn=confine,  # noqa: PLW1509
            )
        except subprocess.SubprocessError:
            return _not_started(argv, ValueError("its walls could not be put up"))
        except (OSError, ValueError) as error:
            return _not_started(argv, error)
        run = _Run(self.scheduler, process, clock() + timeout_s if timeout_s is not None else None, self.output_bytes, on_output)
        try:
            reason = await run.to_the_end(timeout_reason)
        except Cancelled:
            await run.end_group()
            raise
        finally:
            run.close()
        return Finished(run.outcome(clock() - started), reason)


class _Run:
    """One process under way."""

    def __init__(
        self,
        scheduler: Scheduler,
        process: subprocess.Popen[bytes],
        deadline: float | None,
        output_bytes: int,
        on_output: Callable[[str, bytes], None] | None,
    ) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.scheduler, self.process, self.deadline, self.limit, self.on_output = scheduler, process, deadline, output_bytes, on_output
        self.streams = {process.stdout.fileno(): ("stdout", Capture()), process.stderr.fileno(): ("stderr", Capture())}
        self.open = set(self.streams)
        self.pidfd = os.pidfd_open(process.pid)
        self.written = 0
        self.status: int | None = None
        self.cpu_time_s: float | None = None
        self.peak_memory_bytes: int | None = None
        for fd in self.streams:
            os.set_blocking(fd, False)

    async def to_the_end(self, timeout_reason: str) -> str | None:
        while self.status is None:
            ready = await self.scheduler.rest((*self.open, self.pidfd), self._left())
            if not self._read(ready):
                await self.end_group()
                return self._too_much()
            if self.pidfd in ready:
                self._reap()
            elif self._left() == 0.0:
                await self.end_group()
                return timeout_reason
        await self._drain()
        if self.written > self.limit:
            return self._too_much()
        code = os.waitstatus_to_exitcode(self.status)
        if code < 0:
            return f"signal {-code}"
        return f"exit {code}" if code else None

    def _too_much(self) -> str:
        return f"limit.output: more than {self.limit} bytes written"

    async def end_group(self) -> None:
        """SIGTERM to the group, SIGKILL after a moment."""
        self._signal(signal.SIGTERM)
        give_up = self.scheduler.clock() + TERM_GRACE_S
        while self.status is None and (left := give_up - self.scheduler.clock()) > 0:
            ready = await self.scheduler.rest((*self.open, self.pidfd), left)
            self._read(ready)
            if self.pidfd in ready:
                self._reap()
        self._signal(signal.SIGKILL)
        while self.status is None:
            if self.pidfd in await self.scheduler.rest((self.pidfd,)):
                self._reap()
        self._read(tuple(self.open))

    def outcome(self, duration_s: float) -> Outcome:
        code = os.waitstatus_to_exitcode(self.status) if self.status is not None else None
        (_, out), (_, err) = self.streams.values()
        return Outcome(
            exit_code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            output=out.text(),
            stderr=err.text(),
            output_bytes=out.total + err.total,
            truncated=out.truncated or err.truncated,
            duration_s=round(duration_s, 6),
            cpu_time_s=self.cpu_time_s,
            peak_memory_bytes=self.peak_memory_bytes,
        )

    def close(self) -> None:
        os.close(self.pidfd)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()

    def _left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - self.scheduler.now)

    def _read(self, ready: Sequence[int]) -> bool:
        """Take what is there; False once the bound is passed."""
        for fd in ready:
            if fd not in self.open:
                continue
            try:
                data = os.read(fd, READ_BYTES)
            except BlockingIOError:
                continue
            if not data:
                self.open.discard(fd)
                continue
            self.written += len(data)
            # What is over the bound is read, so that nobody waits for a full pipe, and dropped: also while the command is being ended.
            data = data[: max(0, len(data) - max(0, self.written - self.limit))]
            name, capture = self.streams[fd]
            capture.add(data)
            if data and self.on_output is not None:
                self.on_output(name, data)
        return self.written <= self.limit

    async def _drain(self) -> None:
        end = self.scheduler.clock() + DRAIN_LIMIT_S
        while self.open and self.scheduler.clock() < end:
            ready = await self.scheduler.rest(tuple(self.open), DRAIN_SILENCE_S)
            if not ready or not self._read(ready):
                return

    def _reap(self) -> None:
        pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        if pid:
            self.status = status
            self.cpu_time_s = round(usage.ru_utime + usage.ru_stime, 6)
            # Linux counts ru_maxrss in KiB. It is the largest single process the command waited for.
            self.peak_memory_bytes = usage.ru_maxrss * 1024
            # Popen would wait for a child that is already gone.
            self.process.returncode = os.waitstatus_to_exitcode(status)

    def _signal(self, signum: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signum)


def _not_started(argv: Sequence[str], error: OSError | ValueError) -> Finished:
    """A command that could not be started, with the exit codes that shells use for it."""
    missing = isinstance(error, FileNotFoundError)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    where = error.filename if isinstance(error, OSError) and error.filename else (argv[0] if argv else "")
    return Finished(Outcome(exit_code=127 if missing else 126, stderr=f"{where}: {text}"), f"not_started: {where}: {text}")
