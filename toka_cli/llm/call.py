"""One call on its way through the gateway: what is told while it waits, and the record of each request it made. Data, and two sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from toka_cli.errors import Unavailable
from toka_cli.llm.provider import Caller


class Sending(msgspec.Struct, frozen=True):
    """A request that goes out to a provider now: number so-and-so of its call, and the most that it can use."""

    caller: Caller
    model: str
    number: int
    most_usd: float
    most_tokens: int


class CallRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request and what came of it. `source` is `provider`, `cache` or `replay`; `number` counts the requests of one call from 1 (0: none was made).

    `charged_usd` and `charged_tokens` are what the ledger took: with `estimated` the worst case, because nobody knows what was used. `cause` is empty after a
    reply, else that of the provider, or `cancelled`. `waited_s` are the seconds before the request, since the call or the request before it.
    """

    caller: Caller
    model: str
    source: str
    number: int
    charged_usd: float = 0.0
    charged_tokens: int = 0
    cause: str = ""
    message: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float | None = None
    estimated: bool = False
    duration_s: float = 0.0
    waited_s: float = 0.0


class Wait:
    """Tells what is waited for, and that it is over with an empty text."""

    def __init__(self, on_wait: Callable[[str], None]) -> None:
        self._on_wait = on_wait
        self._told = False

    def tell(self, text: str) -> None:
        """It waits for this now."""
        self._told = True
        self._on_wait(text)

    def over(self) -> None:
        """It waits for nothing any more."""
        if self._told:
            self._told = False
            self._on_wait("")


@dataclass(slots=True)
class Call:
    """A call: what does not change from request to request, how many requests were made, and since when (the loop's time) it waits for the next."""

    caller: Caller
    wait: Wait
    on_delta: Callable[[int], None] | None
    since: float
    number: int = 0


def ending() -> Unavailable:
    """The error of every call that comes, or still waits, when the run ends."""
    return Unavailable("the model is not asked any more: the run is ending", hint="go on with: toka run resume", code="stopped")
