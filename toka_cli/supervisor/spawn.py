"""How a cell comes to be: through the fork server (milliseconds), or through a fresh interpreter where that is wanted. Both take the same request.

The fork server is exec'ed before the state file is opened, so it inherits neither descriptors nor locks nor threads.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import msgspec

import toka_cli
from toka_cli.errors import Unavailable
from toka_cli.protocol import frames
from toka_cli.protocol.messages import Forked, SpawnRequest

FORK_TIMEOUT_S: Final = 30.0
# -I: no PYTHON* variables, no user site; -S: no site, so the import paths are exactly the ones given here.
_BOOT: Final = "import sys; sys.path[:0] = sys.argv.pop(1).split(':'); from toka_cli.agent.forkserver import main; sys.exit(main(sys.argv[1:]))"
_KEPT_NAMES: Final = ("LANG", "LC_ALL", "LC_CTYPE", "TZ")


class Spawner(Protocol):
    """Makes shims."""

    async def spawn(self, request: SpawnRequest, descriptors: tuple[int, ...]) -> int:
        """Hand over door, lifeline and log (and the handover of a proxy's listener); the pid of the new shim. Raises Unavailable."""
        ...

    def close(self) -> None:
        """Start nothing more."""
        ...

    def own_children(self) -> set[int]:
        """Pids that are this spawner's own business."""
        ...


def _exec(mode: str, control: socket.socket) -> subprocess.Popen[bytes]:
    paths = [str(Path(toka_cli.__file__).parent.parent), str(Path(msgspec.__file__).parent.parent)]
    environment = {name: value for name in _KEPT_NAMES if (value := os.environ.get(name)) is not None}
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BOOT, ":".join(dict.fromkeys(paths)), mode, str(control.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=environment,
        pass_fds=(control.fileno(),),
        start_new_session=True,
    )


async def _ask(control: socket.socket, request: SpawnRequest, descriptors: tuple[int, ...]) -> Forked:
    """Send a request and wait for the answer. Raises Unavailable when the other side is gone or silent."""
    loop = asyncio.get_running_loop()
    data = frames.pack_bytes(msgspec.json.encode(request))
    try:
        control.setblocking(True)
        sent = socket.send_fds(control, [data], list(descriptors))
        if sent < len(data):
            control.sendall(data[sent:])
        control.setblocking(False)
        reader = frames.FrameReader()
        async with asyncio.timeout(FORK_TIMEOUT_S):
            while True:
                answer = await loop.sock_recv(control, 4096)
                if not answer:
                    raise Unavailable("the fork server is gone", hint="run again; if it happens again, use [process] start_method = fresh")
                for body in reader.feed(answer):
                    return msgspec.json.decode(body, type=Forked)
    except (OSError, TimeoutError) as error:
        raise Unavailable(f"the fork server does not answer: {error}", hint="[process] start_method = fresh does without it") from error


class ForkServer:
    """One exec'ed server that forks every cell. If it was killed, the next cell gets another one; those that it forked go on."""

    def __init__(self) -> None:
        self._control, self._process = self._begin()
        self._lock = asyncio.Lock()

    @staticmethod
    def _begin() -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        with theirs:
            return ours, _exec("fork", theirs)

    async def spawn(self, request: SpawnRequest, descriptors: tuple[int, ...]) -> int:
        """See Spawner."""
        async with self._lock:
            if self._process.poll() is not None:
                self._control.close()
                self._control, self._process = self._begin()
            answer = await _ask(self._control, request, descriptors)
        if answer.error is not None:
            error = Unavailable(answer.error)
            error.retryable = answer.again
            raise error
        return answer.pid

    def close(self) -> None:
        """See Spawner. The server ends because its socket closes; its shims go on until they are told."""
        self._control.close()
        try:
            self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def own_children(self) -> set[int]:
        """See Spawner."""
        return {self._process.pid}


class FreshInterpreters:
    """A new interpreter per cell: slower, and independent of everything that was imported before."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    async def spawn(self, request: SpawnRequest, descriptors: tuple[int, ...]) -> int:
        """See Spawner."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = _exec("fresh", theirs)
            self._processes = [known for known in self._processes if known.poll() is None] + [process]
            answer = await _ask(ours, request, descriptors)
        return answer.pid

    def close(self) -> None:
        """See Spawner."""
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5.0)

    def own_children(self) -> set[int]:
        """See Spawner."""
        return {process.pid for process in self._processes if process.poll() is None}
