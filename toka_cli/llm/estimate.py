"""How large a request may turn out, and what it may cost, before it is made; and what a reply did cost.

In: requests, replies and what is known of models. Out: tokens and USD. The estimate of a prompt is by its bytes and learns from what providers count; it
loads no tokeniser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from toka_cli.errors import Refused
from toka_cli.llm.provider import ModelInfo, ModelReply, ModelRequest
from toka_cli.llm.wire import Price

TOKENS_PER_BYTE: Final = 1 / 3
"""English text has about 4.2 bytes a token, source code about 3.3, Chinese about 3: this errs on the safe side for all of them."""
MOST_TOKENS_PER_BYTE: Final = 1.0
TOKENS_PER_MESSAGE: Final = 8
LEARNED_FROM: Final = 500
"""Tokens of a prompt from which on its count says something about those to come."""
OUTPUT_TOKENS: Final = 8192
"""Tokens that a reply may have where neither the request nor the model says less."""


class Estimator:
    """Sizes and prices of exchanges. `prices` are those that somebody gave, by model name: they go before what is known of a model."""

    def __init__(self, prices: Mapping[str, Price] | None = None) -> None:
        self._prices = dict(prices or {})
        self._ratio: dict[str, float] = {}

    def prompt_tokens(self, request: ModelRequest) -> int:
        """Tokens that the provider will count for the prompt, rather too many than too few."""
        ratio = self._ratio.get(request.model, TOKENS_PER_BYTE)
        return int(_prompt_bytes(request) * ratio) + TOKENS_PER_MESSAGE * (len(request.messages) + len(request.tools) + 1)

    def output_tokens(self, request: ModelRequest, info: ModelInfo) -> int:
        """The largest reply that the request allows."""
        if request.max_output_tokens is not None:
            return request.max_output_tokens
        return min(info.max_output_tokens or OUTPUT_TOKENS, OUTPUT_TOKENS)

    def learn(self, request: ModelRequest, reply: ModelReply, estimated: int) -> None:
        """Take a provider's own count into account, where it is above the estimate: some texts have more tokens than most."""
        if reply.input_tokens > max(estimated, LEARNED_FROM):
            ratio = self._ratio.get(request.model, TOKENS_PER_BYTE) * reply.input_tokens / max(estimated, 1)
            self._ratio[request.model] = min(ratio, MOST_TOKENS_PER_BYTE)

    def price(self, info: ModelInfo) -> Price | None:
        """The price of a model; None when nobody knows it."""
        if info.model in self._prices:
            return self._prices[info.model]
        if info.input_usd is None or info.output_usd is None:
            return None
        return Price(info.input_usd, info.output_usd, info.cached_input_usd)

    def worst_usd(self, info: ModelInfo, prompt_tokens: int, output_tokens: int) -> float | None:
        """The most that an exchange of this size costs, in USD; None when the price is not known."""
        price = self.price(info)
        return None if price is None else prompt_tokens * price.input_usd + output_tokens * price.output_usd

    def cost_usd(self, info: ModelInfo, reply: ModelReply) -> float | None:
        """What a reply cost: by the price that was given, else as the provider side worked it out, else by what is known; None when none of them is there."""
        if info.model not in self._prices and reply.cost_usd is not None:
            return reply.cost_usd
        price = self.price(info)
        if price is None:
            return None
        cached = reply.cached_tokens if price.cached_input_usd is not None else 0
        return (reply.input_tokens - cached) * price.input_usd + cached * (price.cached_input_usd or 0.0) + reply.output_tokens * price.output_usd


def refuse_unpriced(info: ModelInfo, estimator: Estimator, *, in_usd: bool) -> Refused | None:
    """The refusal of a model whose price nobody knows under a budget in USD, for before anything starts; None when all is well."""
    if not in_usd or estimator.price(info) is not None:
        return None
    return Refused(
        f"no price is known for {info.model}, so a budget in USD cannot be held",
        hint="limit tokens instead (--budget-tokens), or use a model with a known price",
        code="unpriced_model",
    )


def _prompt_bytes(request: ModelRequest) -> int:
    return len(msgspec.json.encode((request.messages, request.tools)))
