"""One model server and one provider process for all tests of this folder that need no other: litellm takes seconds to load."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import pytest

from tests.llm.server import ModelServer
from toka_cli.llm.child import ProviderSetup
from toka_cli.llm.keys import Secret, provider_environment
from toka_cli.llm.process import ProviderProcess
from toka_cli.llm.provider import ModelReply, ModelRequest, ProviderError

LIMIT_S = 60.0
KEYS = {
    "OPENAI_API_KEY": "sk-planted-openai-0123456789",  # toka: not a secret
    "ANTHROPIC_API_KEY": "sk-ant-planted-9876543210",
    "OPENAI_ORGANIZATION": "org-planted",
}
WIRES = {"openai": "openai/gpt-4o-mini", "anthropic": "anthropic/claude-sonnet-4-5"}


def keys() -> dict[str, Secret]:
    return provider_environment(KEYS)


def secrets() -> tuple[str, ...]:
    return tuple(value for name, value in KEYS.items() if name.endswith("KEY"))


def ask(model: str = WIRES["openai"], words: str = "hello", **more: Any) -> ModelRequest:
    """A request with one message."""
    return ModelRequest(model, ({"role": "user", "content": words},), **{"timeout_s": 20.0, **more})


class LoopThread:
    """A loop that lives as long as the session, for what belongs to one loop and is shared by tests."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="loop of the tests", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any], limit_s: float = LIMIT_S) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(limit_s)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(LIMIT_S)
        self.loop.close()


class Shared:
    """A server and a provider process that points to it. `complete` and `fail` make one exchange."""

    def __init__(self, thread: LoopThread, server: ModelServer, provider: ProviderProcess) -> None:
        self.thread = thread
        self.server = server
        self.provider = provider

    def run(self, work: Coroutine[Any, Any, Any], limit_s: float = LIMIT_S) -> Any:
        return self.thread.run(work, limit_s)

    def complete(self, request: ModelRequest, *, stream: bool = False, deltas: list[int] | None = None) -> ModelReply:
        heard: list[int] = [] if deltas is None else deltas
        reply = self.run(self.provider.complete(request, on_delta=heard.append if stream else None))
        assert isinstance(reply, ModelReply)
        return reply

    def fail(self, request: ModelRequest, *, stream: bool = False) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            self.complete(request, stream=stream)
        return caught.value


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@contextlib.asynccontextmanager
async def started(**setup: Any) -> AsyncIterator[ProviderProcess]:
    """A provider process with the planted keys."""
    provider = ProviderProcess(ProviderSetup(**{"environment": keys(), "secrets": secrets(), **setup}))
    async with provider:
        await provider.ready()
        yield provider


@pytest.fixture(scope="session")
def _shared(loop_thread: LoopThread) -> Iterator[Shared]:
    with ModelServer() as server:
        provider = ProviderProcess(ProviderSetup(environment=keys(), secrets=secrets(), base_url=server.url))
        # In the loop's thread: a provider process ends with the thread that started it.
        loop_thread.run(provider.__aenter__())
        try:
            yield Shared(loop_thread, server, provider)
        finally:
            loop_thread.run(provider.close())


@pytest.fixture
def shared(_shared: Shared) -> Shared:
    _shared.server.play([])
    _shared.server.requests.clear()
    return _shared
