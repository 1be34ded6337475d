"""The provider process: the only one that holds keys and imports litellm. In: messages on one socket (wire.py). Out: replies and failures on the same.

Reads its keys from the socket, so that no environment of any process shows them; cannot be dumped; keeps nothing; ends when its owner's end of the
socket closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from toka_cli.errors import ProtocolError
from toka_cli.llm import wire
from toka_cli.llm.keys import mask
from toka_cli.llm.provider import ProviderError
from toka_cli.sandbox.prctl import die_with_parent, forbid_dumps

if TYPE_CHECKING:
    from toka_cli.llm.litellm import Models

MAX_LOG_BYTES: Final = 64 << 20
MAX_DATA_BYTES: Final = 3 << 30
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def main(arguments: list[str]) -> int:
    """`FD OWNER`: serve on descriptor FD for the process OWNER, until it closes its end."""
    descriptor, owner = int(arguments[0]), int(arguments[1])
    forbid_dumps()
    die_with_parent(signal.SIGKILL)
    if os.getppid() != owner:
        return 1
    _limit(resource.RLIMIT_CORE, 0)
    # Behind the bounds of what comes in: a packed answer that grows a thousandfold fails here, and not the machine.
    _limit(resource.RLIMIT_DATA, MAX_DATA_BYTES)
    # Ctrl-C and a closed terminal are the owner's business.
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTSTP):
        signal.signal(signum, signal.SIG_IGN)
    door = socket.socket(fileno=descriptor)
    found = _first(door)
    if found is None:
        return 0
    begin, rest = found
    os.environ.update(begin.environment)
    _redirect(begin)
    started = time.monotonic()
    try:
        # After the keys and the streams, which litellm takes as it finds them when it is imported.
        from toka_cli.llm.litellm import VERSION, Models, speak
    except ImportError as error:
        _say(door, wire.Unable(f"litellm cannot be loaded: {mask(str(error), begin.secrets)}", "pip install 'litellm>=1.84,<2'"))
        return 1
    speak(loudly=begin.debug_log is not None)
    # What was just loaded stays for good: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    _say(door, wire.Ready(VERSION, time.monotonic() - started, rss_bytes()))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(door, Models(begin), rest))
    return 0


def _limit(what: int, amount: int) -> None:
    """Lower a limit; what is lower already stays."""
    _, most = resource.getrlimit(what)
    amount = amount if most == resource.RLIM_INFINITY else min(amount, most)
    resource.setrlimit(what, (amount, amount))


def rss_bytes() -> int:
    """Memory of this process now."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  after every exchange
        return int(file.read().split()[1]) * _PAGE


def _first(door: socket.socket) -> tuple[wire.Begin, list[bytes]] | None:
    """The first message, and bodies that came with it; None when the owner is gone."""
    cutter = wire.Cutter()
    while data := door.recv(1 << 16):
        bodies = list(cutter.feed(data))
        if bodies:
            begin = wire.TO_PROVIDER.decode(bodies[0])
            if not isinstance(begin, wire.Begin):
                raise ProtocolError("the first message is not begin")
            return begin, bodies[1:]
    return None


def _say(door: socket.socket, message: wire.FromProvider) -> None:
    with contextlib.suppress(OSError):
        door.sendall(wire.pack(message))


def _redirect(begin: wire.Begin) -> None:
    """Let nothing reach a terminal: what litellm prints goes to the debug log, masked, or nowhere."""
    if begin.debug_log is None:
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  to the end of the process
        return
    descriptor = os.open(begin.debug_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    sys.stdout = sys.stderr = MaskedLog(descriptor, begin.secrets)


class MaskedLog(io.TextIOBase):
    """A text stream into a file, line by line, with secrets replaced. Stops at MAX_LOG_BYTES."""

    def __init__(self, descriptor: int, secrets: Iterable[str]) -> None:
        self._descriptor = descriptor
        self._secrets = tuple(secrets)
        self._line = ""
        self._left = MAX_LOG_BYTES

    def writable(self) -> bool:
        """True: see io."""
        return True

    def write(self, text: str) -> int:
        """Take text; whole lines go out. A secret that is cut in two by two writes is still found."""
        *lines, self._line = (self._line + text).split("\n")
        if lines and self._left > 0:
            # litellm colours its lines; whoever reads the file later must not have a terminal that obeys it.
            data = mask("\n".join(lines) + "\n", self._secrets).replace("\x1b", "").encode("utf-8", "replace")[: self._left]
            self._left -= len(data)
            with contextlib.suppress(OSError):
                os.write(self._descriptor, data)
        return len(text)


async def _serve(door: socket.socket, models: Models, bodies: list[bytes]) -> None:
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    server = _Server(models, ended)
    door.setblocking(False)
    await loop.create_connection(lambda: server, sock=door)
    for body in bodies:
        server.take(body)
    await ended
    # Nobody is there to answer: nothing that is under way matters any more, and threads of libraries must not hold the process back.
    os._exit(0)


class _Server(asyncio.Protocol):
    """Answers the owner: one task for each exchange, in no order."""

    def __init__(self, models: Models, ended: asyncio.Future[None]) -> None:
        self._models = models
        self._ended = ended
        self._cutter = wire.Cutter()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._transport: asyncio.Transport | None = None
        self._warming: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio: the owner is gone."""
        if not self._ended.done():
            self._ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        for body in self._cutter.feed(data):
            self.take(body)

    def take(self, body: bytes) -> None:
        """Begin, or give up, what a message asks for."""
        message = wire.TO_PROVIDER.decode(body)
        if isinstance(message, wire.Ask):
            task = asyncio.get_running_loop().create_task(self._ask(message))
            self._tasks[message.id] = task
            task.add_done_callback(lambda _, call_id=message.id: self._tasks.pop(call_id, None))  # type: ignore[misc]
        elif isinstance(message, wire.Cancel):
            if (running := self._tasks.get(message.id)) is not None:
                running.cancel()
        elif isinstance(message, wire.Describe):
            try:
                info = self._models.describe(message.model)
                self._send(wire.Described(message.id, info))
                if info.problem is None and self._warming is None:
                    # It will be asked soon: until then there is time.
                    self._warming = asyncio.get_running_loop().create_task(self._models.warm(info.model))
            except ProviderError as error:
                self._send(wire.Failed(message.id, error.cause, error.message, hint=error.hint))

    async def _ask(self, ask: wire.Ask) -> None:
        def tell(characters: int) -> None:
            self._send(wire.Delta(ask.id, characters))

        if self._warming is not None:
            await asyncio.wait({self._warming})
        try:
            reply = await self._models.ask(ask.request, tell if ask.deltas else None)
            answer: wire.FromProvider = wire.Replied(ask.id, reply, rss_bytes())
        except ProviderError as error:
            answer = wire.Failed(ask.id, error.cause, error.message, hint=error.hint, retry_after_s=error.retry_after_s, rss_bytes=rss_bytes())
        self._send(answer)

    def _send(self, message: wire.FromProvider) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire.pack(message))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
