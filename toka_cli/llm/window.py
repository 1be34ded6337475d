"""The last minute of requests: how many there were, of whom and with how many tokens, and when there is room again.

In: the loop's time, as an argument. Out: counts. A place is free again a minute after its request has arrived at the provider, which counts by arrival.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 60.05
"""A place in the minute is free again this long after its request: a minute, and a little for clocks that run apart."""
SENT_WITHIN_S: Final = 10.0
"""A request that gave no sign of life counts as arriving now, for this long after it was let through (the provider process may still be loading): two
bursts must not fall into one minute of the provider's."""


@dataclass(slots=True, eq=False)
class Slot:
    """A request in the window. `expires` is set when it is known to have arrived."""

    agent: str
    tokens: int
    sent: float
    expires: float | None = None
    gone: bool = False


class Window:
    """Requests of the last minute. `count` of them, `tokens` together, `by_agent` those of each."""

    def __init__(self) -> None:
        self.count = 0
        self.tokens = 0
        self.by_agent: Counter[str] = Counter()
        self._unsigned: deque[Slot] = deque()
        self._expiring: list[tuple[float, int, Slot]] = []
        self._sequence = 0

    def add(self, agent: str, tokens: int, now: float) -> Slot:
        """Take in a request that is sent now."""
        slot = Slot(agent, tokens, now)
        self.count += 1
        self.tokens += tokens
        self.by_agent[agent] += 1
        self._unsigned.append(slot)
        return slot

    def arrived(self, slot: Slot, at: float) -> None:
        """The provider has it, since `at` at the latest. Only the first time counts."""
        if slot.expires is None and not slot.gone:
            slot.expires = at + WINDOW_S
            self._sequence += 1
            heapq.heappush(self._expiring, (slot.expires, self._sequence, slot))

    def used(self, slot: Slot, tokens: int) -> None:
        """It took so many tokens, other than estimated."""
        if not slot.gone:
            self.tokens += tokens - slot.tokens
            slot.tokens = tokens

    def remove(self, slot: Slot) -> None:
        """It is not in the window any more, or never was sent."""
        if not slot.gone:
            slot.gone = True
            self.count -= 1
            self.tokens -= slot.tokens
            self.by_agent[slot.agent] -= 1
            if not self.by_agent[slot.agent]:
                del self.by_agent[slot.agent]

    def expire(self, now: float) -> None:
        """Remove what is older than a minute."""
        while self._unsigned and (self._unsigned[0].expires is not None or self._unsigned[0].gone or self._unsigned[0].sent + SENT_WITHIN_S <= now):
            slot = self._unsigned.popleft()
            self.arrived(slot, slot.sent + SENT_WITHIN_S)
        while self._expiring and self._expiring[0][0] <= now:
            self.remove(heapq.heappop(self._expiring)[2])

    def next_change(self) -> float | None:
        """When `expire` will find something, as far as is known; None while nothing is there."""
        moments = [self._expiring[0][0]] if self._expiring else []
        if self._unsigned:
            moments.append(self._unsigned[0].sent + SENT_WITHIN_S)
        return min(moments, default=None)

    def free_at(self, place: int, limit: int, now: float) -> float:
        """When the place-th next of `limit` places (from 0) is free, as far as can be seen now."""
        known = [moment for moment, _, slot in heapq.nsmallest(min(place % limit + 1, 1000), self._expiring) if not slot.gone]
        first = known[-1] if known else now + WINDOW_S
        return first + place // limit * WINDOW_S
