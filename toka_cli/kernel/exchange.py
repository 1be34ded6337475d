"""One turn under way: asks the gateway, knows whether it is waiting or being answered, and says once how it ended.

In: a request. Out: calls of its `watcher`, in the loop's own turn. Writes nothing down and decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from toka_cli.errors import NoModel, TokaError
from toka_cli.llm.provider import Caller, ModelInfo, ModelReply, ModelRequest

NOTE_EVERY_S: Final = 5.0


class Remaining(Protocol):
    """What is left to a caller, None where nothing limits it: US dollars, and tokens in and out together. `wrap_up`: the next call is the last one."""

    @property
    def usd(self) -> float | None: ...  # noqa: D102
    @property
    def tokens(self) -> int | None: ...  # noqa: D102
    @property
    def wrap_up(self) -> bool: ...  # noqa: D102


class Models(Protocol):
    """What answers model requests; the gateway does."""

    async def complete(
        self,
        caller: Caller,
        request: ModelRequest,
        *,
        fallbacks: tuple[str, ...] = (),
        on_wait: Callable[[str], None],
        on_delta: Callable[[int], None] | None = None,
    ) -> ModelReply:
        """One exchange, retried and limited as policy says. `on_wait` gets what is waited for before anybody is asked, and "" when that is over."""
        ...

    async def describe(self, model: str) -> ModelInfo:
        """What is known of a model. Raises ProviderError when the way to know is broken."""
        ...

    def remaining(self, caller: Caller) -> Remaining:
        """What the budgets leave."""
        ...

    def warning(self, caller: Caller) -> str | None:
        """What the model should know of its budget, once each."""
        ...


class Watcher(Protocol):
    """Whoever asked."""

    def waits(self, exchange: Exchange, waiting: bool) -> None:
        """A wait that is nobody's fault began or ended."""
        ...

    def notes(self, exchange: Exchange, text: str) -> None:
        """What is going on, in a few words."""
        ...

    def ended(self, exchange: Exchange, reply: ModelReply | None, error: TokaError | None) -> None:
        """It is over: a reply, an error, or neither when it was cancelled (`exchange.cancelled_as` says why)."""
        ...


class Exchange:
    """One turn of the conversation about `task`. `waited_s` of its `took_s` seconds nobody had been asked yet."""

    def __init__(
        self,
        models: Models | None,
        caller: Caller,
        request: ModelRequest,
        fallbacks: tuple[str, ...],
        *,
        watcher: Watcher,
    ) -> None:
        self.task = caller.task
        self.caller = caller
        self.model = request.model
        self.cancelled_as = "abandoned"
        self.waited_s = 0.0
        self.characters = 0
        self._models = models
        self._watcher: Watcher | None = watcher
        self._loop = asyncio.get_running_loop()
        self._began = self._noted = self._loop.time()
        self._waiting_since: float | None = None
        self._future = self._loop.create_task(self._ask(request, fallbacks))
        self._future.add_done_callback(lambda _: self._end())

    @property
    def waiting(self) -> bool:
        """True while nobody has been asked yet, because of a limit."""
        return self._waiting_since is not None

    @property
    def took_s(self) -> float:
        """Seconds since it began."""
        return self._loop.time() - self._began

    def cancel(self, why: str) -> None:
        """End it, unless it has ended. The watcher is told."""
        if not self._future.done():
            self.cancelled_as = why
            self._future.cancel()

    def forget(self) -> None:
        """End it, and say nothing more than that it no longer waits."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None and self.waiting:
            watcher.waits(self, False)
        self._future.cancel()

    async def _ask(self, request: ModelRequest, fallbacks: tuple[str, ...]) -> ModelReply:
        if self._models is None or not request.model:
            raise NoModel("no model is configured", hint="name one with --model or LLM_MODEL")
        return await self._models.complete(self.caller, request, fallbacks=fallbacks, on_wait=self._waits, on_delta=self._delta)

    def _waits(self, text: str) -> None:
        """The gateway waits for what `text` says, or no longer does."""
        if bool(text) != self.waiting:
            now = self._loop.time()
            self.waited_s += now - self._waiting_since if self._waiting_since is not None else 0.0
            self._waiting_since = now if text else None
            if self._watcher is not None:
                self._watcher.waits(self, bool(text))
                if not text and not self._future.done():
                    self._watcher.notes(self, f"asking {self.model}, turn {self.caller.turn}")
        if text and self._watcher is not None:
            self._watcher.notes(self, text)

    def _delta(self, characters: int) -> None:
        """Text is coming in: the wait is over, and now and then it is said how far it got."""
        self._waits("")
        self.characters += characters
        now = self._loop.time()
        if self._watcher is not None and now - self._noted >= NOTE_EVERY_S:
            self._noted = now
            self._watcher.notes(self, f"asking {self.model}, turn {self.caller.turn}: {self.characters:,} characters so far")

    def _end(self) -> None:
        self._waits("")
        watcher = self._watcher
        if self._future.cancelled():
            if watcher is not None:
                watcher.ended(self, None, None)
            return
        error = self._future.exception()
        if error is not None and not isinstance(error, TokaError):
            raise error
        if watcher is not None:
            watcher.ended(self, self._future.result() if error is None else None, error)
