"""The one way to a model: budget, order of prompts, rate limits, breaker, cache, recording, retries and fallbacks around a `Provider` that only speaks.

In: who asks (as the kernel knows it) and what. Out: a reply, or the error that is left when everything documented was tried. All policy is here and in the
files beside this one; it runs in the kernel's loop, holds no key and looks into no reply but to mask secrets.

How many requests a call makes: to each model at most FAILURES (3) that end in timeout, reset, refused, dns, truncated, bad_reply, crashed or internal, and at
most REQUESTS (6) in all, where the others were answered with rate_limit or overloaded. After auth, quota, unknown_model, context, content_filter, bad_request,
too_large and tls: none again. Between two requests 1 s, 2 s, 4 s, 8 s, 16 s, give or take 20 %, or what the provider asks for. Then the fallbacks, in order,
each with the same numbers; none after bad_request and too_large. A call that the cache answers makes none.

How long a call takes: for each request `timeout_s`, which the provider side keeps (GUARD_S later the gateway does), and the pauses between them. Waiting for
budget, rate limits and pauses that a provider asks for comes on top, and so does a provider process that is being started; `on_wait` tells of the waits.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

import msgspec

from toka_cli.errors import BudgetExhausted, Refused
from toka_cli.llm.asking import Asking, replied
from toka_cli.llm.budget import Budget, BudgetLimits, Remaining, Spent
from toka_cli.llm.cache import ReplyCache
from toka_cli.llm.call import Call, CallRecord, Sending, Wait, ending
from toka_cli.llm.estimate import Estimator
from toka_cli.llm.limits import Governor, RateLimits
from toka_cli.llm.outgoing import Cleaner
from toka_cli.llm.provider import TERMINAL, Caller, Cause, ModelInfo, ModelReply, ModelRequest, Provider, ProviderError
from toka_cli.llm.recorded import Recorder, Replay
from toka_cli.llm.redact import Redactor
from toka_cli.llm.wire import Price

NO_FALLBACK: Final = frozenset({"bad_request", "too_large"})


@dataclass(frozen=True, slots=True)
class GatewayPolicy:
    """What a run allows. `prices` by model name, for models whose price is not known otherwise, or is another here."""

    rates: RateLimits = field(default_factory=RateLimits)
    budget: BudgetLimits = field(default_factory=BudgetLimits)
    prices: Mapping[str, Price] = field(default_factory=dict)
    fence_results: bool = True


class Gateway:
    """See the module. `provider` is asked; with a `Replay` in its place nobody is, and nothing is paid.

    `clock` gives seconds since 1970, for texts; durations are measured by the loop. `spent` and `earlier` are what a former owner of the run paid, and when
    it sent requests within the last minute. `on_warn` gets sentences for people, `on_send` every request before it is made, `on_call` the record of every
    request, `spill` keeps a text that is too long and says where.
    """

    def __init__(
        self,
        provider: Provider | Replay,
        policy: GatewayPolicy,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        spent: Spent | None = None,
        secrets: Redactor,
        recorder: Recorder | None = None,
        cache: ReplyCache | None = None,
        on_warn: Callable[[str], None],
        on_send: Callable[[Sending], None] | None = None,
        on_call: Callable[[CallRecord], None] | None = None,
        spill: Callable[[str], str] | None = None,
        earlier: Iterable[float] = (),
    ) -> None:
        self._recorder = recorder
        self._cache = cache
        self._on_call = on_call or (lambda _: None)
        self._cleaner = Cleaner(secrets, fence_results=policy.fence_results, spill=spill)
        self._estimator = Estimator(policy.prices)
        self._budget = Budget(policy.budget, spent=spent, on_warn=on_warn)
        self._governor = Governor(policy.rates, clock=clock, earlier=earlier)
        self._infos: dict[str, asyncio.Task[ModelInfo]] = {}
        self._closed = False
        self._replay = provider if isinstance(provider, Replay) else None
        self._provider = None if isinstance(provider, Replay) else provider
        self._asking = None if self._provider is None else Asking(
            self._provider,
            budget=self._budget,
            governor=self._governor,
            estimator=self._estimator,
            cleaner=self._cleaner,
            rng=rng,
            on_send=on_send or (lambda _: None),
            on_call=self._on_call,
        )  # fmt: skip

    async def complete(
        self,
        caller: Caller,
        request: ModelRequest,
        *,
        fallbacks: tuple[str, ...] = (),
        on_wait: Callable[[str], None],
        on_delta: Callable[[int], None] | None = None,
    ) -> ModelReply:
        """Ask. `on_wait` gets what is waited for in words, and an empty text when that is over; `on_delta` the characters that came in, as they come.

        Raises ProviderError when all that may be tried was tried, BudgetExhausted, ReplayMiss, Refused for a model without a price under a budget in USD,
        and Unavailable once `close` was called. Cancelling it charges the worst case of a request that was under way.
        """
        if self._closed:
            raise ending()
        call = Call(caller, Wait(on_wait), on_delta, asyncio.get_running_loop().time())
        asked = self._cleaner.request(request)
        try:
            if self._replay is not None:
                # Its budgets were those of the recording, which knows where they ended a task.
                reply = self._replay.exchange(caller, asked)
                self._on_call(replied(call, reply, request.model, "replay", call.since))
            else:
                reply = await self._first_answer(call, asked, fallbacks)
        except (ProviderError, BudgetExhausted) as error:
            if self._recorder is not None:
                self._recorder.exchange(caller, asked, error)
            raise
        finally:
            call.wait.over()
        if self._recorder is not None:
            self._recorder.exchange(caller, asked, reply)
        return reply

    def remaining(self, caller: Caller) -> Remaining:
        """What is left of the budgets that concern this caller, whose next turn is `turn`. With `wrap_up` the model has to be told that it is the last one."""
        if self._replay is not None:
            return self._replay.remaining(caller)
        left = self._budget.remaining(caller)
        if self._recorder is not None and self._budget.limited(caller):
            self._recorder.told(caller, remaining=left)
        return left

    def warning(self, caller: Caller) -> str | None:
        """What this caller's model should be told of its budgets (70 %, 90 %) after this turn, once each."""
        if self._replay is not None:
            return self._replay.warning(caller)
        text = self._budget.warning(caller)
        if self._recorder is not None and text is not None:
            self._recorder.told(caller, warning=text)
        return text

    async def describe(self, model: str) -> ModelInfo:
        """What is known of a model; found out once. Raises ProviderError when the way to know is broken."""
        if self._provider is None:
            return self._replay.describe(model) if self._replay is not None else ModelInfo(model)
        if model not in self._infos:
            self._infos[model] = asyncio.create_task(self._found_out(self._provider, model), name=f"describe {model}")
        # Whoever asked first may be cancelled; the others still want to know.
        return await asyncio.shield(self._infos[model])

    async def close(self, within_s: float = 10.0) -> int:
        """Let no request start any more, let those under way end within so many seconds, then abandon them. Returns how many were abandoned.

        Calls that wait, and those abandoned, raise Unavailable. The provider is its owner's to close, and so is the recorder.
        """
        self._closed = True
        self._governor.close(ending)
        self._budget.close(ending)
        abandoned = await self._asking.close(within_s) if self._asking is not None else 0
        for task in self._infos.values():
            task.cancel()
        await asyncio.gather(*self._infos.values(), return_exceptions=True)
        return abandoned

    async def _first_answer(self, call: Call, request: ModelRequest, fallbacks: tuple[str, ...]) -> ModelReply:
        """The reply of the first model that gives one. The error is that of the first model, with what became of the others."""
        first: ProviderError | None = None
        others: list[str] = []
        for model in dict.fromkeys((request.model, *fallbacks)):
            try:
                return await self._ask(call, msgspec.structs.replace(request, model=model))
            except ProviderError as error:
                if first is not None:
                    others.append(f"{model}: {error.message}")
                first = first or error
                if error.cause in NO_FALLBACK:
                    break
            except Refused as error:
                if first is None:
                    raise
                others.append(f"{model}: {error.message}")
        assert first is not None
        if not others:
            raise first
        raise ProviderError(first.cause, f"{first.message}; fallbacks: {'; '.join(others)}", hint=first.hint, retry_after_s=first.retry_after_s) from first

    async def _ask(self, call: Call, request: ModelRequest) -> ModelReply:
        """One model: from the cache, or asked."""
        assert self._asking is not None
        cached = self._cache.get(request) if self._cache is not None else None
        if cached is not None:
            self._on_call(replied(call, cached, request.model, "cache", asyncio.get_running_loop().time()))
            return cached
        info = await self._known(request.model)
        if info.problem is not None:
            # Known before anybody is asked: no key, no such model.
            cause = cast(Cause, info.cause) if info.cause in TERMINAL else "auth"
            raise ProviderError(cause, info.problem, hint=info.fix)
        reply = await self._asking.ask(call, request, info)
        if self._cache is not None:
            self._cache.put(request, reply)
        return reply

    async def _known(self, model: str) -> ModelInfo:
        """What is known of a model. Where that cannot be found out, nothing is, unless there is a budget in USD to keep."""
        try:
            info = await self.describe(model)
        except ProviderError:
            if self._budget.in_usd:
                raise
            return ModelInfo(model)
        if self._recorder is not None:
            self._recorder.model(info)
        return info

    async def _found_out(self, provider: Provider, model: str) -> ModelInfo:
        found = False
        try:
            info = await provider.describe(model)
            found = True
            return info
        finally:
            if not found:
                # Not remembered: the next one asks again.
                self._infos.pop(model, None)
