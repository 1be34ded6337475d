"""The seam to models: what the gateway asks of whatever speaks to a provider. Plain data in and out; policy (budget, rate, retry, redaction) stays outside.

A prompt task runs only where a Provider is at hand; without one the plan is refused before anything starts.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec


class ModelRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One exchange to be made. `model` is a litellm name; `messages` and `tools` are in the OpenAI chat shape; durations in seconds."""

    model: str
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    temperature: float | None = None
    max_output_tokens: int | None = None
    timeout_s: float = 30.0


class ModelReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came back. `cost_usd` is None when the price is not known."""

    message: dict[str, Any]
    finish_reason: str
    input_tokens: int
    output_tokens: int
    cost_usd: float | None = None


class Provider(Protocol):
    """Speaks to models."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Make one exchange. Raises Unavailable (retryable or not) for everything that the provider or the way to it does wrong."""
        ...
