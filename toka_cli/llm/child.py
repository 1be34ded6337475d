"""One provider process as its owner has it: started with a clean environment, its socket, what it has been asked, and how it ended.

In: messages of wire.py to send. Out: futures that are answered, whatever happens to the process. Never decides which process is asked, or whether again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import msgspec

import toka_cli
from toka_cli.errors import ProtocolError
from toka_cli.llm import wire
from toka_cli.llm.keys import Secret
from toka_cli.llm.provider import ProviderError

# litellm's import takes 3 to 5 seconds of a core (PERFORMANCE); a machine that does nothing else much longer.
START_TIMEOUT_S: Final = 90.0
KILL_TIMEOUT_S: Final = 5.0
# -I: no PYTHON* variables, no user site, no current directory. In front comes the folder of this very toka, at the end that of litellm.
_BOOT: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); sys.path.append(sys.argv.pop(1)); "
    "from toka_cli.llm.worker import main; sys.exit(main(sys.argv[1:]))"
)
_KEPT_NAMES: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")

MARGIN_S: Final = 3.0
"""How long after its deadline an exchange's process may still answer before it counts as hung."""

EXCHANGES_EACH: Final = 64
MAX_PROCESSES: Final = 4
MAX_RSS_BYTES: Final = 600 << 20
"""It starts at about 190 MB; 1,000 exchanges add a few."""


@dataclass(frozen=True, slots=True)
class ProviderSetup:
    """What provider processes are given. `environment` is that of keys.provider_environment; `secrets` are masked in their words and their debug log."""

    environment: Mapping[str, Secret] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    base_url: str | None = None
    provider: str | None = None
    prices: Mapping[str, wire.Price] = field(default_factory=dict)
    debug_log: Path | None = None
    max_processes: int = MAX_PROCESSES
    exchanges_each: int = EXCHANGES_EACH
    max_rss_bytes: int = MAX_RSS_BYTES
    margin_s: float = MARGIN_S

    def begin(self) -> wire.Begin:
        """The first message to a process."""
        return wire.Begin(
            {name: secret.reveal() for name, secret in self.environment.items()},
            secrets=self.secrets,
            base_url=self.base_url,
            provider=self.provider,
            prices=dict(self.prices),
            debug_log=str(self.debug_log) if self.debug_log is not None else None,
        )


class Child(asyncio.Protocol):
    """One provider process: its socket, and what it has been asked."""

    def __init__(self, setup: ProviderSetup, on_lost: Callable[[Child], None]) -> None:
        self._on_lost = on_lost
        self._door, theirs = socket.socketpair()
        with theirs:
            self.process = _exec(theirs)
        try:
            self._door.sendall(wire.pack(setup.begin()))
        except OSError:
            self.process.kill()
            self.process.wait()
            self._door.close()
            raise
        self._transport: asyncio.Transport | None = None
        self._cutter = wire.Cutter()
        self._attached: asyncio.Task[Any] | None = None
        self.ready: asyncio.Future[None] | None = None
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.deltas: dict[int, Callable[[int], None]] = {}
        self.rss_bytes = 0
        self.was_ready = False
        self.unable: ProviderError | None = None
        self.lost = False
        self.retiring = False
        self.why = ""

    def attach(self) -> asyncio.Future[None]:
        """Take part in the running loop, from now on; the future is done when litellm is loaded, or fails with ProviderError."""
        if self.ready is None:
            loop = asyncio.get_running_loop()
            self.ready = loop.create_future()
            # Read even if nobody waits for it.
            self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
            self._door.setblocking(False)
            self._attached = loop.create_task(loop.create_connection(lambda: self, sock=self._door))
            loop.call_later(START_TIMEOUT_S, self._late)
        return self.ready

    @property
    def usable(self) -> bool:
        """True while it may be given exchanges."""
        return not self.lost and not self.retiring

    def send(self, message: wire.ToProvider) -> None:
        """Send; nothing happens if the process is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire.pack(message))

    def kill(self, why: str) -> None:
        """End it now, because of `why`; whoever waits is told."""
        self.why = self.why or why
        self.process.kill()
        self._lose()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio: the process ended."""
        self._lose()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        try:
            for body in self._cutter.feed(data):
                self._take(wire.FROM_PROVIDER.decode(body))
        except (ProtocolError, msgspec.MsgspecError) as error:
            self.kill(f"it broke the protocol: {error}")

    def _take(self, message: wire.FromProvider) -> None:
        if isinstance(message, wire.Delta):
            if (tell := self.deltas.get(message.id)) is not None:
                tell(message.characters)
        elif isinstance(message, wire.Ready):
            self.was_ready = True
            self.rss_bytes = message.rss_bytes
            if self.ready is not None and not self.ready.done():
                self.ready.set_result(None)
        elif isinstance(message, wire.Unable):
            self.unable = ProviderError("internal", message.message, hint=message.hint)
            if self.ready is not None and not self.ready.done():
                self.ready.set_exception(self.unable)
        else:
            self._answer(message)

    def _answer(self, message: wire.Replied | wire.Failed | wire.Described) -> None:
        future = self.waiting.get(message.id)
        if isinstance(message, wire.Replied | wire.Failed):
            self.rss_bytes = message.rss_bytes or self.rss_bytes
        if future is None or future.done():
            return
        if isinstance(message, wire.Replied):
            future.set_result(message.reply)
        elif isinstance(message, wire.Described):
            future.set_result(message.info)
        else:
            cause: Any = message.cause
            future.set_exception(ProviderError(cause, message.message, hint=message.hint, retry_after_s=message.retry_after_s))

    def _late(self) -> None:
        if self.ready is not None and not self.ready.done():
            self.kill(f"it was not ready within {START_TIMEOUT_S:g} s")

    def _lose(self) -> None:
        if self.lost:
            return
        self.lost = True
        if self._transport is not None:
            self._transport.abort()
        else:
            if self._attached is not None:
                self._attached.cancel()
            self._door.close()
        how = self.why or _ending(self.process)
        for future in [*self.waiting.values(), *([self.ready] if self.ready is not None else [])]:
            if not future.done():
                future.set_exception(ProviderError("crashed", f"the provider process ended: {how}"))
        self._on_lost(self)


def _exec(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """A fresh interpreter with one descriptor, no key in its environment, and the file system's root as its directory."""
    found = find_spec("litellm")
    if found is None or found.origin is None:
        raise ProviderError("internal", "litellm is not installed", hint="pip install 'litellm>=1.84,<2'")
    paths = [str(Path(file).parent.parent) for file in (toka_cli.__file__, found.origin)]
    environment = {name: value for name in _KEPT_NAMES if (value := os.environ.get(name)) is not None}
    # Else litellm's import reads a project's .env into the environment, and fetches its table of prices.
    environment |= {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _BOOT, *paths, str(theirs.fileno()), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/",
        pass_fds=(theirs.fileno(),),
        start_new_session=True,
    )


def _ending(process: subprocess.Popen[bytes]) -> str:
    """How a process ended, for people. Its socket closes a moment before it can be waited for."""
    deadline = time.monotonic() + 0.05
    while (code := process.poll()) is None and time.monotonic() < deadline:
        time.sleep(0.001)
    return "nobody knows how" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"


async def gone(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process that was killed."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110  a process is not an event of the loop
        await asyncio.sleep(0.002)
