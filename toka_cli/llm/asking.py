"""Asks one model: reserves, waits for its turn, sends, settles, and asks again where that may help. Each request takes budget and limiter anew.

In: a call and a clean request. Out: a reply, or the ProviderError of the last request that was allowed. The numbers are in `gateway.py`'s docstring.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from toka_cli import retry, units
from toka_cli.llm.breaker import Breaker
from toka_cli.llm.budget import Budget, Reservation
from toka_cli.llm.call import Call, CallRecord, Sending, ending
from toka_cli.llm.estimate import Estimator, refuse_unpriced
from toka_cli.llm.limits import LONGEST_PAUSE_S, Governor, Pass
from toka_cli.llm.outgoing import Cleaner, prefix_of
from toka_cli.llm.provider import TERMINAL, ModelInfo, ModelReply, ModelRequest, Provider, ProviderError
from toka_cli.llm.stagger import Lead, Stagger

FAILURES: Final = 3
REQUESTS: Final = 6
BACKOFF_S: Final = 1.0
GUARD_S: Final = 120.0
"""So much after its deadline a request is ended by the gateway, should the provider side not have done so. Its process may have to be started again first,
which can take 90 s on a busy machine and is no part of the deadline."""
BUSY: Final = frozenset({"rate_limit", "overloaded"})
NOT_BILLED: Final = frozenset({"auth", "quota", "unknown_model", "context", "bad_request", "rate_limit", "overloaded", "refused", "dns", "tls"})
"""After these nothing was worked on. After any other failure what was used is unknown, and the worst is charged."""


@dataclass(frozen=True, slots=True)
class _Held:
    """What a request holds while it is under way."""

    lane: str
    reservation: Reservation
    turn: Pass
    lead: Lead
    prompt_tokens: int


class Asking:
    """Asks models of one provider side, for everybody. `on_send` is told of every request before it is made, `on_call` gets its record. For one event loop."""

    def __init__(
        self,
        provider: Provider,
        *,
        budget: Budget,
        governor: Governor,
        estimator: Estimator,
        cleaner: Cleaner,
        rng: random.Random,
        on_send: Callable[[Sending], None],
        on_call: Callable[[CallRecord], None],
    ) -> None:
        self._provider = provider
        self._budget = budget
        self._governor = governor
        self._estimator = estimator
        self._cleaner = cleaner
        self._rng = rng
        self._on_send = on_send
        self._on_call = on_call
        self._breaker = Breaker()
        self._stagger = Stagger()
        self._flying: set[asyncio.Task[ModelReply]] = set()
        self._closing = asyncio.Event()

    async def ask(self, call: Call, request: ModelRequest, info: ModelInfo) -> ModelReply:
        """Ask until there is an answer or no further request is allowed. Raises ProviderError, BudgetExhausted, Refused, Unavailable."""
        refused = refuse_unpriced(info, self._estimator, in_usd=self._budget.in_usd)
        if refused is not None:
            raise refused
        if self._budget.limited(call.caller) and request.max_output_tokens is None:
            # Without a bound nobody could say what a call costs at most.
            request = msgspec.structs.replace(request, max_output_tokens=self._estimator.output_tokens(request, info))
        failures = 0
        for number in range(1, REQUESTS + 1):
            try:
                return await self._once(call, request, info)
            except ProviderError as error:
                failures += error.cause not in BUSY
                asked_for = error.retry_after_s or 0.0
                if error.cause in TERMINAL or failures >= FAILURES or number >= REQUESTS or asked_for > LONGEST_PAUSE_S:
                    raise
                if asked_for < BACKOFF_S:
                    # A longer pause holds everybody, and the governor keeps it.
                    await self._pause(call, number, error)
        raise AssertionError("the loop above always ends by itself")

    async def close(self, within_s: float) -> int:
        """Send nothing more; let what is under way end within so many seconds, then abandon it. Returns how many were abandoned."""
        self._closing.set()
        self._stagger.close()
        left = set(self._flying)
        if left:
            _, left = await asyncio.wait(left, timeout=within_s)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return len(left)

    async def _once(self, call: Call, request: ModelRequest, info: ModelInfo) -> ModelReply:
        """One request with everything that has to come before it, each undone where it does not come to it."""
        lane = info.provider or request.model.partition("/")[0]
        prompt, output = self._estimator.prompt_tokens(request), self._estimator.output_tokens(request, info)
        usd = self._estimator.worst_usd(info, prompt, output) or 0.0
        reservation = await self._budget.reserve(call.caller, usd, prompt + output, call.wait.tell)
        try:
            self._check(lane, request.model)
            with await self._stagger.enter(request.model, prefix_of(request), call.wait.tell) as lead:
                self._check(lane, request.model)
                turn = await self._governor.enter(call.caller.agent_id, lane, request.model, prompt + output, call.wait.tell)
                try:
                    self._check(lane, request.model)
                    call.wait.over()
                    return await self._exchange(call, request, info, _Held(lane, reservation, turn, lead, prompt))
                finally:
                    turn.refund()
        finally:
            reservation.release()

    async def _exchange(self, call: Call, request: ModelRequest, info: ModelInfo, held: _Held) -> ModelReply:
        """Send it, and settle with everybody who waits for how it ends."""
        call.number += 1
        self._on_send(Sending(call.caller, request.model, call.number, held.reservation.usd, held.reservation.tokens))
        started = asyncio.get_running_loop().time()
        outcome: ModelReply | ProviderError | None = None
        try:
            outcome = await self._send(call, request, held)
        finally:
            if not isinstance(outcome, ModelReply):
                self._failed(call, request, held, outcome, started)
        if isinstance(outcome, ProviderError):
            raise outcome
        duration = asyncio.get_running_loop().time() - started if outcome.duration_s is None else outcome.duration_s
        reply = self._cleaner.reply(msgspec.structs.replace(outcome, cost_usd=self._estimator.cost_usd(info, outcome), duration_s=duration))
        self._estimator.learn(request, reply, held.prompt_tokens)
        tokens = reply.input_tokens + reply.output_tokens
        held.lead.answered()
        held.turn.leave("ok", tokens=tokens)
        held.reservation.settle(reply.cost_usd, tokens)
        self._on_call(replied(call, reply, request.model, "provider", started, charged=(reply.cost_usd or 0.0, tokens)))
        return reply

    async def _send(self, call: Call, request: ModelRequest, held: _Held) -> ModelReply | ProviderError:
        """The request itself, with a deadline and a way to abandon it."""

        def on_delta(characters: int) -> None:
            held.turn.arrived()
            held.lead.answered()
            if call.on_delta is not None and characters:
                call.on_delta(characters)

        # Without anybody to tell, the provider need not stream.
        tell = on_delta if call.on_delta is not None else None
        task = asyncio.create_task(_completed(self._provider, request, tell), name=f"ask {request.model}")
        self._flying.add(task)
        task.add_done_callback(self._flying.discard)
        try:
            async with asyncio.timeout(request.timeout_s + GUARD_S):
                return await task
        except ProviderError as error:
            return self._cleaner.error(error)
        except TimeoutError:
            return ProviderError("timeout", f"{request.model} did not answer within {units.format_duration(request.timeout_s)}")
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if self._closing.is_set() and own is not None and not own.cancelling():
                raise ending() from None
            raise

    def _failed(self, call: Call, request: ModelRequest, held: _Held, error: ProviderError | None, started: float) -> None:
        """No reply came; without an error the call was cancelled, or abandoned at the end of the run."""
        free = error is not None and error.cause in NOT_BILLED
        if error is not None:
            tripped = self._breaker.trip(held.lane, request.model, error)
            if tripped is not None:
                # Whoever waits for the same learns it now, not one by one.
                self._governor.fail(*tripped, lambda: self._breaker.found(held.lane, request.model) or error)
            held.lead.answered()
        busy = error is not None and error.cause in BUSY
        held.turn.leave("busy" if busy else "failed", tokens=0 if free else None, retry_after_s=error.retry_after_s if error is not None else None)
        charged = (0.0, 0) if free else (held.reservation.usd, held.reservation.tokens)
        if free:
            held.reservation.release()
        else:
            held.reservation.forfeit()
        now = asyncio.get_running_loop().time()
        cause, message = (error.cause, error.message) if error is not None else ("cancelled", "")
        waited, call.since = started - call.since, now
        self._on_call(
            CallRecord(
                call.caller, request.model, "provider", call.number, *charged, cause, message, estimated=not free, duration_s=now - started, waited_s=waited
            )
        )

    def _check(self, lane: str, model: str) -> None:
        """Raise what somebody else found out, or that the run ends."""
        if self._closing.is_set():
            raise ending()
        found = self._breaker.found(lane, model)
        if found is not None:
            raise found

    async def _pause(self, call: Call, number: int, error: ProviderError) -> None:
        """Wait before the next request; the run's end ends it."""
        delay = retry.delay_s(number, first_s=BACKOFF_S, factor=2.0, rng=self._rng)
        call.wait.tell(f"asking the model again in {units.format_duration(delay)} ({error.cause})")
        try:
            async with asyncio.timeout(delay):
                await self._closing.wait()
        except TimeoutError:
            return
        raise ending()


def replied(call: Call, reply: ModelReply, model: str, source: str, started: float, *, charged: tuple[float, int] = (0.0, 0)) -> CallRecord:
    """The record of a reply; `started` is the loop's time at which it was asked for."""
    now = asyncio.get_running_loop().time()
    return CallRecord(
        call.caller,
        reply.model or model,
        source,
        call.number,
        *charged,
        input_tokens=reply.input_tokens,
        output_tokens=reply.output_tokens,
        cached_tokens=reply.cached_tokens,
        cost_usd=reply.cost_usd,
        duration_s=now - started,
        waited_s=started - call.since,
    )


async def _completed(provider: Provider, request: ModelRequest, on_delta: Callable[[int], None] | None) -> ModelReply:
    return await provider.complete(request, on_delta=on_delta)
