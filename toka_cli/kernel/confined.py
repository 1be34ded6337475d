"""Runs one program of the kernel's own, bounded in time and output, and confined by Landlock where the kernel has it. In: an argv and a complete
environment. Out: how it ended and what it wrote.

A thread of its own is confined and starts the program, which inherits that; no Python runs between fork and exec. Never in an agent's folder, never a shell.
"""

from __future__ import annotations

import asyncio
import os
import resource
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from toka_cli.protocol.messages import Walls
from toka_cli.sandbox import landlock, prctl

PIECE: Final = 64 * 1024
LOOK_S: Final = 0.05
TERM_GRACE_S: Final = 2.0
"""Seconds to tidy up after SIGTERM (git removes its lock files then), before SIGKILL."""
LIMITS: Final = ((resource.RLIMIT_NOFILE, 256), (resource.RLIMIT_CPU, 120), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_DATA, 2 << 30))
"""Descriptors, seconds of CPU, bytes of core files, bytes of memory: more than git needs for any repository that fits the time."""


_RUNNING: Final[set[int]] = set()


def own_children() -> set[int]:
    """Pids of programs that run now: children of this process that belong to nobody else's tree, whoever sweeps what killed cells left behind."""
    return set(_RUNNING)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended. `exit_code` is None for one that was ended (`why`: `timeout`, `output`, `stopped`, or its signal)."""

    exit_code: int | None
    stdout: bytes
    stderr: bytes
    why: str | None = None


async def run_confined(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    walls: Walls | None,
    stdin: bytes = b"",
    timeout_s: float = 60.0,
    output_limit: int = 8 << 20,
) -> Ended:
    """Run it to its end. Cancelling ends it first. `walls` None: not confined. Raises OSError when it cannot be started or confined."""
    stop = threading.Event()
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Ended] = loop.create_future()
    program = _Program(tuple(argv), dict(environment), directory, walls, stdin, time.monotonic() + timeout_s, output_limit, stop)

    def work() -> None:
        try:
            ended: Ended | BaseException = program.run()
        # Handed to whoever waits; a thread has nobody above it.
        except BaseException as error:  # noqa: BLE001
            ended = error
        with suppress(RuntimeError):
            # The loop may be closed by now.
            loop.call_soon_threadsafe(_settle, future, ended)

    # Not one of a pool: a thread that is confined stays so.
    threading.Thread(target=work, name="confined", daemon=True).start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop.set()
        with suppress(OSError):
            await asyncio.shield(future)
        raise


def _settle(future: asyncio.Future[Ended], ended: Ended | BaseException) -> None:
    if future.done():
        return
    if isinstance(ended, BaseException):
        future.set_exception(ended)
    else:
        future.set_result(ended)


@dataclass(slots=True)
class _Program:
    """One program, as its thread sees it."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    directory: Path
    walls: Walls | None
    stdin: bytes
    deadline: float
    output_limit: int
    stop: threading.Event

    def run(self) -> Ended:
        process = self._start()
        _RUNNING.add(process.pid)
        why: str | None = None
        output: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        try:
            why = self._attend(process, output)
        finally:
            code = _end(process)
            _RUNNING.discard(process.pid)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        if why is None and code is None:
            why = "lost: somebody else waited for it"
        elif why is None and code is not None and code < 0:
            why = f"signal {-code}"
        return Ended(code if why is None else None, bytes(output["stdout"]), bytes(output["stderr"]), why)

    def _start(self) -> subprocess.Popen[bytes]:
        """Confine this thread, then start the program from it."""
        ruleset = landlock.build(self.walls) if self.walls is not None else None
        try:
            prctl.forbid_new_privileges()
            if ruleset is not None:
                ruleset.restrict()
            process = subprocess.Popen(
                self.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.directory,
                env=self.environment,
                close_fds=True,
                start_new_session=True,
            )
        finally:
            if ruleset is not None:
                ruleset.close()
        for limit, value in LIMITS:
            # From here, so that nothing has to run in the child; one that has ended already needs no limits.
            with suppress(OSError, ValueError, ProcessLookupError):
                resource.prlimit(process.pid, limit, (value, value))
        return process

    def _attend(self, process: subprocess.Popen[bytes], output: dict[str, bytearray]) -> str | None:
        """Feed it and read it until it has closed its streams and ended. A reason if it has to be ended."""
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        left = memoryview(self.stdin)
        with selectors.DefaultSelector() as selector:
            for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, name)
            if left:
                os.set_blocking(process.stdin.fileno(), False)
                selector.register(process.stdin, selectors.EVENT_WRITE, "stdin")
            else:
                process.stdin.close()
            while selector.get_map():
                if (why := self._over(output)) is not None:
                    return why
                for key, _ in selector.select(LOOK_S):
                    if key.data == "stdin":
                        left = _feed(selector, process.stdin, left)
                    else:
                        _read(selector, key, output[key.data])
        while not _has_ended(process.pid):
            if (why := self._over(output)) is not None:
                return why
            time.sleep(0.001)
        return None

    def _over(self, output: dict[str, bytearray]) -> str | None:
        if self.stop.is_set():
            return "stopped"
        if time.monotonic() > self.deadline:
            return "timeout"
        return "output" if sum(map(len, output.values())) > self.output_limit else None


def _feed(selector: selectors.BaseSelector, pipe: IO[bytes], left: memoryview) -> memoryview:
    try:
        left = left[os.write(pipe.fileno(), left[:PIECE]) :]
    except BlockingIOError:
        return left
    except OSError:
        # It does not want to know the rest.
        left = left[:0]
    if not left:
        selector.unregister(pipe)
        pipe.close()
    return left


def _read(selector: selectors.BaseSelector, key: selectors.SelectorKey, into: bytearray) -> None:
    try:
        data = os.read(key.fd, PIECE)
    except BlockingIOError:
        return
    if data:
        into += data
    else:
        selector.unregister(key.fileobj)


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; it stays to be waited for, so that its number remains its own."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _end(process: subprocess.Popen[bytes]) -> int | None:
    """End it and all of its group that is left; the exit code, negative for a signal, None when somebody else has waited for it."""
    deadline = time.monotonic() + TERM_GRACE_S
    asked = False
    while not _has_ended(process.pid) and time.monotonic() < deadline:
        if not asked:
            asked = True
            _signal_group(process.pid, signal.SIGTERM)
        time.sleep(0.002)
    _signal_group(process.pid, signal.SIGKILL)
    try:
        _, status = os.waitpid(process.pid, 0)
    except ChildProcessError:
        process.returncode = -signal.SIGKILL
        return None
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode


def _signal_group(pid: int, signum: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signum)
