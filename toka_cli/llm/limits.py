"""One governor for the requests of all agents: how many a minute, how many tokens a minute, how many at once, whose turn it is, and who has to pause.

In: who asks, which lane (a provider) and how many tokens it may take. Out: a `Pass`, when its time has come. It runs in one event loop and measures by that
loop's time; the clock is only for the texts that people read. It never asks a provider, never retries and never looks into a request.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from toka_cli import units
from toka_cli.errors import TokaError
from toka_cli.llm.provider import ProviderError
from toka_cli.llm.window import SENT_WITHIN_S, Slot, Window

CUT: Final = 0.5
"""What is left of the requests under way at once after the provider said that it is too much; each full round without such an answer gives one back."""
CUT_TO: Final = 4
"""A first cut does not go below this: with so few under way it was hardly their number that was too much."""
LONGEST_PAUSE_S: Final = 300.0
"""A provider that asks for a longer pause than this is not waited for: the calls fail, and say so."""
TOLD_AFTER_S: Final = 1.0
"""Waiting that is shorter is not worth a word."""
_LOOK_AGAIN_S: Final = 10.0
"""So often it is looked whether somebody still waits for what it was told."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Requests and tokens a minute over all agents (tokens None: not limited), and how many requests may be under way at once with one provider."""

    requests_per_minute: int = 60
    tokens_per_minute: int | None = None
    concurrency: int = 64


@dataclass(slots=True, eq=False)
class _Lane:
    """One provider: how many requests it bears at once, as far as seen, and until when it wants to be left alone.

    `well` counts good answers since the limit was last changed, from the moment at which it was reached (`full`).
    """

    name: str
    limit: int
    in_flight: int = 0
    full: bool = False
    well: int = 0
    cut_at: float = 0.0
    paused_until: float = 0.0


@dataclass(slots=True, eq=False)
class _Waiter:
    agent: str
    lane: str
    model: str
    tokens: int
    on_wait: Callable[[str], None]
    future: asyncio.Future[Pass]
    since: float
    told: str = ""
    look_at: float = 0.0


class Pass:
    """The right to send one request now. Exactly one of `leave` and `refund` ends it; a second call does nothing. `sent_at` is the loop's time."""

    def __init__(self, governor: Governor, lane: _Lane, slot: Slot) -> None:
        self._governor = governor
        self._lane = lane
        self._slot = slot
        self._open = True
        self.sent_at = slot.sent

    def arrived(self) -> None:
        """The provider showed that it has the request: its minute counts from here on."""
        self._governor._window.arrived(self._slot, asyncio.get_running_loop().time())

    def leave(self, outcome: Literal["ok", "busy", "failed"], *, tokens: int | None = None, retry_after_s: float | None = None) -> None:
        """The exchange is over. `busy`: the provider said that it is too much, so fewer go at once from now on; `retry_after_s` pauses everybody who asks it.
        `tokens` are those that were really used, None: as many as estimated.
        """
        if self._open:
            self._open = False
            self._governor._leave(self._lane, self._slot, outcome, tokens, retry_after_s)

    def refund(self) -> None:
        """Nothing was sent after all."""
        if self._open:
            self._open = False
            self._governor._refund(self._lane, self._slot)


class Governor:
    """Lets requests through, in turns among agents: the one with the fewest in the last minute first, among equals who was served longest ago.

    Never more than `requests_per_minute` are let through in any 60 seconds, whatever the loop does. `clock` gives seconds since 1970, for texts only.
    `earlier` are the times of requests that a former owner of the run sent within the last minute, by the same clock: they count as well.
    A request that alone is larger than the tokens of a minute goes when the minute is empty.
    """

    def __init__(self, limits: RateLimits, *, clock: Callable[[], float] = time.time, earlier: Iterable[float] = ()) -> None:
        self._limits = limits
        self._earlier = tuple(earlier)
        self._clock = clock
        self._lanes: dict[str, _Lane] = {}
        self._waiting: dict[str, deque[_Waiter]] = {}
        self._window = Window()
        self._served: dict[str, int] = {}
        self._sequence = 0
        self._look_at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._closed: Callable[[], TokaError] | None = None

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        return sum(map(len, self._waiting.values()))

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return sum(lane.in_flight for lane in self._lanes.values())

    def concurrency(self, lane: str) -> int:
        """How many requests may be under way at once on this lane now."""
        return self._lane(lane).limit

    async def enter(self, agent: str, lane: str, model: str, tokens: int, on_wait: Callable[[str], None]) -> Pass:
        """Wait for the turn of this agent. `on_wait` gets what is waited for, in words, when it takes longer than a second.

        Raises ProviderError(rate_limit) at once where the provider asked for a pause longer than LONGEST_PAUSE_S, and what `fail` and `close` were given.
        Cancelling it gives the turn to the next.
        """
        if self._closed is not None:
            raise self._closed()
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._remember(now)
        if (left := self._lane(lane).paused_until - now) > LONGEST_PAUSE_S:
            raise self._long_pause(left, now)
        waiter = _Waiter(agent, lane, model, tokens, on_wait, loop.create_future(), now, look_at=now)
        self._waiting.setdefault(agent, deque()).append(waiter)
        try:
            self._pump()
            if not waiter.future.done():
                self._say(waiter, self.waiting - 1, now)
            return await waiter.future
        except BaseException:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                waiter.future.result().refund()
            else:
                self._forget(waiter)
                self._pump()
            raise

    def pause_left_s(self, lane: str) -> float:
        """Seconds for which this lane is paused."""
        return max(0.0, self._lane(lane).paused_until - asyncio.get_running_loop().time())

    def fail(self, lane: str, model: str | None, error: Callable[[], TokaError]) -> None:
        """Let everybody who waits for this lane (and this model, where one is named) fail with an error of their own, unasked."""
        self._fail([waiter for waiter in self._all_waiting() if waiter.lane == lane and model in {None, waiter.model}], error)
        self._pump()

    def close(self, error: Callable[[], TokaError]) -> None:
        """Let everybody who waits, or will ask, fail with an error of their own."""
        self._closed = error
        self._fail(self._all_waiting(), error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- what passes tell -----------------------------------------------------------------------------------------------------------

    def _leave(self, lane: _Lane, slot: Slot, outcome: str, tokens: int | None, retry_after_s: float | None) -> None:
        now = asyncio.get_running_loop().time()
        # A request of long ago may have been signed off for its age; its answer says nothing new about when it arrived.
        if slot.sent + SENT_WITHIN_S > now:
            self._window.arrived(slot, now)
        if tokens is not None:
            self._window.used(slot, tokens)
        if outcome == "ok" and lane.full:
            lane.well += 1
            if lane.well >= lane.limit:
                self._set_limit(lane, lane.limit + 1)
        elif outcome == "busy" and slot.sent >= lane.cut_at:
            # Those sent before the last cut answer for the old number, not for the new one.
            self._set_limit(lane, int(max(min(lane.limit, lane.in_flight) * CUT, min(lane.limit * CUT, CUT_TO))))
            lane.cut_at = now
        lane.in_flight -= 1
        if retry_after_s is not None and now + retry_after_s > lane.paused_until:
            lane.paused_until = now + retry_after_s
            self._paused(lane, now)
        self._pump()

    def _set_limit(self, lane: _Lane, limit: int) -> None:
        lane.limit = max(1, min(limit, self._limits.concurrency))
        lane.full, lane.well = False, 0

    def _refund(self, lane: _Lane, slot: Slot) -> None:
        lane.in_flight -= 1
        self._window.remove(slot)
        self._pump()

    def _paused(self, lane: _Lane, now: float) -> None:
        """Let those who wait for this lane know, or fail if it takes too long."""
        concerned = [waiter for waiter in self._all_waiting() if waiter.lane == lane.name]
        if lane.paused_until - now > LONGEST_PAUSE_S:
            self._fail(concerned, lambda: self._long_pause(lane.paused_until - now, now))
            return
        for waiter in concerned:
            waiter.look_at = self._look_at = now

    # --- letting through ------------------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Let through whoever may go now, then see to it that this is called again when the next one may."""
        now = asyncio.get_running_loop().time()
        self._window.expire(now)
        while self._waiting and self._window.count < self._limits.requests_per_minute:
            waiter = self._next(now)
            if waiter is None or not self._has_room(waiter.tokens):
                break
            self._admit(waiter, now)
        self._schedule(now)
        if now >= self._look_at:
            self._look_at = math.inf
            for place, waiter in enumerate(self._all_waiting()):
                self._say(waiter, place, now)

    def _next(self, now: float) -> _Waiter | None:
        """The first call, of the agent whose turn it is, that a lane can take. O(agents that wait)."""
        best: tuple[tuple[int, int], _Waiter] | None = None
        for agent, queue in self._waiting.items():
            place = (self._window.by_agent[agent], self._served.get(agent, 0))
            if best is not None and place >= best[0]:
                continue
            for waiter in queue:
                lane = self._lane(waiter.lane)
                # One that was cancelled in this very turn of the loop takes itself out later.
                if lane.paused_until <= now and lane.in_flight < lane.limit and not waiter.future.done():
                    best = (place, waiter)
                    break
        return best[1] if best is not None else None

    def _has_room(self, tokens: int) -> bool:
        limit = self._limits.tokens_per_minute
        # Whoever's turn it is waits for room; a smaller request behind it does not slip by, or large ones would starve.
        return limit is None or self._window.tokens + tokens <= limit or self._window.count == 0

    def _admit(self, waiter: _Waiter, now: float) -> None:
        self._forget(waiter)
        lane = self._lane(waiter.lane)
        lane.in_flight += 1
        lane.full = lane.full or lane.in_flight >= lane.limit
        slot = self._window.add(waiter.agent, waiter.tokens, now)
        self._sequence += 1
        self._served[waiter.agent] = self._sequence
        waiter.future.set_result(Pass(self, lane, slot))

    def _schedule(self, now: float) -> None:
        """One timer, for the first moment at which something may change by itself. What others do calls `_pump` anyway."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting or self._closed is not None:
            return
        moments = [self._look_at, *(lane.paused_until for lane in self._lanes.values())]
        change = self._window.next_change()
        later = [moment for moment in (*moments, math.inf if change is None else change) if now < moment < math.inf]
        if later:
            self._timer = asyncio.get_running_loop().call_at(min(later), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._pump()

    # --- words ----------------------------------------------------------------------------------------------------------------------

    def _say(self, waiter: _Waiter, place: int, now: float) -> None:
        """Tell the place-th who waits what it waits for, if it does not know, it is worth a word, and there is something new; and see when to look again."""
        if waiter.look_at <= now and not waiter.future.done():
            until, text = self._reason(waiter, place, now)
            if text == waiter.told:
                waiter.look_at = now + _LOOK_AGAIN_S
            elif until - now >= TOLD_AFTER_S or now - waiter.since >= TOLD_AFTER_S:
                waiter.told, waiter.look_at = text, max(until, now) + TOLD_AFTER_S
                waiter.on_wait(text)
            else:
                waiter.look_at = waiter.since + TOLD_AFTER_S
        if waiter.look_at > now and waiter.look_at < self._look_at:
            self._look_at = waiter.look_at
            self._schedule(now)

    def _reason(self, waiter: _Waiter, place: int, now: float) -> tuple[float, str]:
        """(the loop's time at which it may go, or now where that is not known; words)."""
        lane = self._lane(waiter.lane)
        until = lane.paused_until
        full = self._window.count >= self._limits.requests_per_minute
        if full or (self._limits.tokens_per_minute is not None and not self._has_room(waiter.tokens)):
            until = max(until, self._window.free_at(place, self._limits.requests_per_minute, now))
        if until > now:
            return until, f"waiting for rate limit until {self._time(until, now)}"
        return now, f"waiting for other model calls to end ({lane.in_flight} under way)"

    def _time(self, moment: float, now: float) -> str:
        """A moment of the loop's time as the time of day here, rounded up: nobody is told that it is over before it is."""
        return time.strftime("%H:%M:%S", time.localtime(self._clock() + moment - now + 0.999))

    def _remember(self, now: float) -> None:
        """Take in the requests of a former owner, where the loop's time is known for the first time."""
        wall = self._clock()
        for at in self._earlier:
            # A clock that was put back says that they are still to come: they were sent just now, then.
            sent = now - max(0.0, wall - at)
            self._window.arrived(self._window.add("", 0, sent), sent)
        self._earlier = ()

    # --- the rest -------------------------------------------------------------------------------------------------------------------

    def _lane(self, name: str) -> _Lane:
        if name not in self._lanes:
            self._lanes[name] = _Lane(name, max(1, self._limits.concurrency))
        return self._lanes[name]

    def _all_waiting(self) -> list[_Waiter]:
        return sorted((waiter for queue in self._waiting.values() for waiter in queue), key=lambda waiter: waiter.since)

    def _forget(self, waiter: _Waiter) -> None:
        queue = self._waiting.get(waiter.agent)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._waiting[waiter.agent]

    def _fail(self, waiters: list[_Waiter], error: Callable[[], TokaError]) -> None:
        for waiter in waiters:
            self._forget(waiter)
            if not waiter.future.done():
                waiter.future.set_exception(error())

    def _long_pause(self, left_s: float, now: float) -> ProviderError:
        return ProviderError(
            "rate_limit",
            f"the provider asks for a pause of {units.format_duration(left_s)}, until {self._time(now + left_s, now)}: nobody waits that long",
            hint="resume the run later with: toka run resume, or name another model",
            retry_after_s=left_s,
        )
