"""The kernel's handle on provider processes: starts them early, gives each exchange to one of them, replaces those that grew or died, ends them all.

In: ModelRequest. Out: ModelReply, or ProviderError within the request's deadline and a margin, whatever a process does. Never imports litellm,
never asks again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from toka_cli.errors import ProtocolError
from toka_cli.llm import wire
from toka_cli.llm.child import Child, ProviderSetup, gone
from toka_cli.llm.provider import ModelInfo, ModelReply, ModelRequest, ProviderError

DESCRIBE_TIMEOUT_S: Final = 15.0
QUIET_S: Final = 30.0
"""How long one process less would have been enough before one is ended."""

MAX_STREAMS: Final = 8
"""Answers that come in pieces at the same time. litellm takes 0.4 ms of CPU for each piece, about 1 s for 2,500 tokens against 10 ms for the whole: a live
view shows life in these, and the others come in one piece."""

FAILED_STARTS: Final = 3


class ProviderProcess:
    """A Provider in processes of its own. `start` needs no loop and takes a few milliseconds; everything else belongs to one running loop.

    Start it in the thread and the process that live as long as the run does (after a detached run has forked): the processes end with that thread.
    """

    def __init__(self, setup: ProviderSetup) -> None:
        self._setup = setup
        self._children: list[Child] = []
        self._ending: list[Child] = []
        self._last_id = 0
        self._failed_starts = 0
        self._unable: ProviderError | None = None
        self._busy_at_s = 0.0
        self._closed = False

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def start(self) -> None:
        """Begin to load litellm; requests may be made at once and wait for it. Raises ProviderError(`internal`) when litellm is not installed."""
        if not self._children and not self._closed:
            self._spawn()

    def own_children(self) -> set[int]:
        """Pids of the processes: whoever ends stray children of this program leaves these alone."""
        return {child.process.pid for child in (*self._children, *self._ending) if child.process.poll() is None}

    @property
    def exchanges(self) -> int:
        """How many are under way."""
        return sum(len(child.waiting) for child in (*self._children, *self._ending))

    @property
    def _streams(self) -> int:
        return sum(len(child.deltas) for child in (*self._children, *self._ending))

    async def ready(self) -> None:
        """Wait until litellm is loaded. Raises ProviderError."""
        await self._chosen()

    async def complete(self, request: ModelRequest, *, on_delta: Callable[[int], None] | None = None) -> ModelReply:
        """See Provider. `on_delta` gets the characters that came in since it was last called, for at most MAX_STREAMS exchanges at once; without it, and
        beyond that, the provider is not asked to stream.
        """
        child = await self._chosen()
        self._last_id += 1
        ask = wire.Ask(self._last_id, request, deltas=on_delta is not None and self._streams < MAX_STREAMS)
        if on_delta is not None and ask.deltas:
            child.deltas[ask.id] = on_delta
        reply = await self._answered(child, ask, request.timeout_s + self._setup.margin_s)
        assert isinstance(reply, ModelReply)
        return reply

    async def describe(self, model: str) -> ModelInfo:
        """See Provider."""
        child = await self._chosen()
        self._last_id += 1
        info = await self._answered(child, wire.Describe(self._last_id, model), DESCRIBE_TIMEOUT_S)
        assert isinstance(info, ModelInfo)
        return info

    async def close(self) -> None:
        """See Provider. Raises nothing; when it returns, no process is left."""
        self._closed = True
        children = [*self._children, *self._ending]
        for child in children:
            child.kill("it was closed")
        await asyncio.gather(*(gone(child.process) for child in children))
        self._children, self._ending = [], []

    async def _answered(self, child: Child, message: wire.Ask | wire.Describe, limit_s: float) -> ModelReply | ModelInfo:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ModelReply | ModelInfo] = loop.create_future()
        child.waiting[message.id] = future
        try:
            child.send(message)
        except ProtocolError as error:
            child.waiting.pop(message.id)
            raise ProviderError("context", f"the request cannot be sent: {error.message}") from None
        # A timer of ours and not asyncio.timeout: after a freeze both the answer and the deadline are there, and the answer counts.
        timer = loop.call_later(limit_s, self._hung, child, message.id, limit_s)
        try:
            return await future
        except asyncio.CancelledError:
            child.send(wire.Cancel(message.id))
            raise
        finally:
            timer.cancel()
            child.waiting.pop(message.id, None)
            child.deltas.pop(message.id, None)
            self._look_after(child)

    def _hung(self, child: Child, call_id: int, limit_s: float) -> None:
        """A process did not answer after its own deadline: it does not work any more."""
        future = child.waiting.get(call_id)
        if future is not None and not future.done():
            future.set_exception(ProviderError("timeout", f"the provider process did not answer within {limit_s:g} s, and was ended"))
            child.kill("it did not answer any more")

    async def _chosen(self) -> Child:
        """A process that is ready and has the least to do; another one is started when all have much. Raises ProviderError."""
        while True:
            if self._closed:
                raise ProviderError("internal", "the provider is closed")
            # Those that grew too large serve on until their successor is ready.
            able = [child for child in self._children if not child.lost and child.was_ready]
            usable = [child for child in self._children if child.usable]
            if not able and not usable:
                usable = [self._spawn()]
            elif self._wants_more(usable):
                self._add()
            if able:
                return min(able, key=lambda child: (child.retiring, len(child.waiting)))
            await asyncio.shield(usable[0].attach())

    def _wants_more(self, usable: list[Child]) -> bool:
        """True if there is too much to do for those that may be given something, and none is on its way."""
        full = all(child.was_ready and len(child.waiting) >= self._setup.exchanges_each for child in usable)
        return full and len(usable) < self._setup.max_processes

    def _add(self) -> None:
        """Start another process, if that is possible; those that are there go on in any case."""
        with suppress(ProviderError):
            self._spawn().attach()

    def _spawn(self) -> Child:
        if self._unable is not None:
            raise ProviderError("internal", self._unable.message, hint=self._unable.hint)
        if self._failed_starts >= FAILED_STARTS:
            hint = "LLM_DEBUG=1 writes what litellm says to provider.log"
            raise ProviderError("internal", f"the provider process ended {FAILED_STARTS} times before it was ready", hint=hint)
        try:
            child = Child(self._setup, self._on_lost)
        except OSError as error:
            # One that ended before it was told anything counts like one that ended a moment later.
            self._failed_starts += 1
            raise ProviderError("crashed", f"the provider process cannot be started: {error}") from error
        self._children.append(child)
        return child

    def _on_lost(self, child: Child) -> None:
        self._failed_starts = 0 if child.was_ready else self._failed_starts + (not self._closed)
        self._unable = child.unable
        if child in self._children:
            self._children.remove(child)
            self._ending.append(child)
        self._ending = [ending for ending in self._ending if ending.process.poll() is None]

    def _look_after(self, child: Child) -> None:
        """After an exchange: retire a process that grew, and end those that are retired, or more than are needed, and have nothing left to do."""
        if self._closed or child.lost:
            return
        if child.rss_bytes > self._setup.max_rss_bytes and not child.retiring:
            child.retiring = True
            if not any(other.usable for other in self._children):
                self._add()
        ready = [other for other in self._children if other.usable and other.was_ready]
        now_s = time.monotonic()
        if self.exchanges > self._setup.exchanges_each * (len(ready) - 1) // 2:
            self._busy_at_s = now_s
        elif child in ready and len(ready) > 1 and now_s - self._busy_at_s > QUIET_S:
            child.retiring = True
            ready.remove(child)
        if ready:
            for other in [other for other in self._children if other.retiring and not other.waiting]:
                other.kill("it was replaced")
