"""The seam to models: what the gateway asks of whatever speaks to a provider. Plain data in and out; policy (budget, rate, retry, redaction) stays outside.

Who makes an exchange real is behind `Provider`: the provider process, a recording that is played back, or a test's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, Protocol

import msgspec

from toka_cli.errors import Unavailable

Cause = Literal[
    "auth", "quota", "unknown_model", "context", "content_filter", "bad_request", "rate_limit", "overloaded", "timeout", "refused", "dns", "reset",
    "truncated", "bad_reply", "too_large", "tls", "crashed", "internal",
]  # fmt: skip
"""Why an exchange failed, as found in the chain of causes; never read off a status code alone."""

TERMINAL: Final[frozenset[str]] = frozenset({"auth", "quota", "unknown_model", "context", "content_filter", "bad_request", "too_large", "tls"})
"""Causes for which asking again in the same way cannot help."""

BREAKING: Final[frozenset[str]] = frozenset({"auth", "quota", "unknown_model"})
"""Terminal causes that hold for every agent that uses the same model and key: one of them stops asking for the whole run."""


class Caller(msgspec.Struct, frozen=True):
    """Who asks, as the kernel knows it: never taken from what an agent says. `turn` counts exchanges of this attempt from 1."""

    agent_id: str
    agent: str
    workstream: str
    task: str
    attempt: int
    turn: int


class ModelRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One exchange to be made. `model` is a litellm name; `messages` and `tools` are in the OpenAI chat shape; durations in seconds."""

    model: str
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    temperature: float | None = None
    max_output_tokens: int | None = None
    timeout_s: float = 30.0


class ModelReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came back, validated. `message` is an assistant message in the OpenAI chat shape (`content`, `tool_calls` with their arguments as text).

    `cost_usd` is None when the price is not known. `cached_tokens` are those of `input_tokens` that the provider took from its prompt cache; `from_cache`
    means that toka itself had the reply and nobody was asked. `model` is the one that answered.
    """

    message: dict[str, Any]
    finish_reason: str
    input_tokens: int
    output_tokens: int
    cost_usd: float | None = None
    cached_tokens: int = 0
    model: str | None = None
    duration_s: float | None = None
    from_cache: bool = False


class ModelInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a model before it is asked. Prices are USD per token, None when unknown; window and output in tokens.

    `problem` says why it cannot be asked (no key, unknown name) and `fix` what to do about it, both None when nothing stands in the way.
    """

    model: str
    provider: str | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    input_usd: float | None = None
    output_usd: float | None = None
    cached_input_usd: float | None = None
    problem: str | None = None
    fix: str | None = None
    cause: str | None = None


class ProviderError(Unavailable):
    """An exchange failed. `cause` is one of `Cause`; `retry_after_s` is what the provider asked for, in seconds."""

    code = "provider"

    def __init__(self, cause: Cause, message: str, *, hint: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, hint=hint, code=f"provider_{cause}")
        self.cause: Cause = cause
        self.retry_after_s = retry_after_s
        self.retryable = cause not in TERMINAL


class Provider(Protocol):
    """Speaks to models."""

    async def complete(self, request: ModelRequest, *, on_delta: Callable[[int], None] | None = None) -> ModelReply:
        """Make one exchange; `on_delta(characters)` is called as text comes in, where the provider streams. Raises ProviderError. Cancelling abandons it."""
        ...

    async def describe(self, model: str) -> ModelInfo:
        """What is known of a model; asks no provider. Raises ProviderError only when the way to know is broken (`crashed`, `timeout`)."""
        ...

    async def close(self) -> None:
        """End what was started; exchanges under way are abandoned."""
        ...
