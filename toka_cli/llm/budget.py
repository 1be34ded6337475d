"""Money and tokens: a tree of run, workstream, agent and task, in which every call reserves the worst it can cost before it is made and settles afterwards.

In: limits, what was spent before (a resumed run goes on where it stood), calls that ask. Out: reservations, warnings, `BudgetExhausted`. Over all concurrent
calls the sum can pass a limit by at most one reserved call. It knows no prices, no provider and no clock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from toka_cli.errors import BudgetExhausted, TokaError
from toka_cli.llm.provider import Caller

LEVELS: Final = (0.7, 0.9)
"""Shares of a budget at which it is said once that they are reached."""
LAST_SHARE: Final = 0.95
"""From this share on there is one last turn for each task; the rest of the budget is kept for those."""
_DUST: Final = 1e-9
"""Sums of floats are this exact, in USD."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A limit, or a sum. None: not limited, not known."""

    usd: float | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """Limits by place in the tree. Workstreams and agents by name, tasks by (agent's name, task id)."""

    run: Amount = Amount()
    workstreams: Mapping[str, Amount] = field(default_factory=dict)
    agents: Mapping[str, Amount] = field(default_factory=dict)
    tasks: Mapping[tuple[str, str], Amount] = field(default_factory=dict)

    @property
    def in_usd(self) -> bool:
        """True where a limit in USD stands anywhere: every model then needs a price."""
        amounts = [self.run, *self.workstreams.values(), *self.agents.values(), *self.tasks.values()]
        return any(amount.usd is not None for amount in amounts)


@dataclass(frozen=True, slots=True)
class SpentRow:
    """What one task has spent so far, by the names of its workstream, agent and task."""

    workstream: str
    agent: str
    task: str
    usd: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run spent before this owner took it over."""

    rows: tuple[SpentRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left for a caller: the least over its task, agent, workstream and run, after reservations. None: not limited.

    `share_used` is that of the place that is nearest to its limit, `place` its name. `wrap_up`: the next call is the last one that is let through.
    """

    usd: float | None
    tokens: int | None
    share_used: float
    place: str | None
    wrap_up: bool


@dataclass(slots=True, eq=False)
class _Node:
    """One place of the tree."""

    name: str
    limit: Amount
    usd: float = 0.0
    tokens: int = 0
    reserved_usd: float = 0.0
    reserved_tokens: int = 0
    in_flight: int = 0
    told: float = 0.0

    @property
    def limited(self) -> bool:
        return self.limit.usd is not None or self.limit.tokens is not None

    def share(self) -> float:
        """The share of the limit that is spent; 0 without a limit."""
        usd = 0.0 if self.limit.usd is None else _share(self.usd, self.limit.usd)
        tokens = 0.0 if self.limit.tokens is None else _share(self.tokens, self.limit.tokens)
        return max(usd, tokens)

    def used_up(self) -> bool:
        return self.share() >= 1.0 - _DUST

    def nearly(self, usual: Amount) -> bool:
        """True when the next call should be the last: the end is near, or after a call as large as the one before there would be no room for another."""
        if self.share() >= LAST_SHARE:
            return True
        calls = self.in_flight + 2
        usd = self.limit.usd is not None and self.usd + calls * (usual.usd or 0.0) > self.limit.usd + _DUST
        return usd or (self.limit.tokens is not None and self.tokens + calls * (usual.tokens or 0) > self.limit.tokens)

    def fits(self, usd: float, tokens: int) -> bool:
        """True when the worst case fits; or when nothing else is under way, so that at most this one call can pass the limit."""
        if not self.in_flight:
            return True
        if self.limit.usd is not None and self.usd + self.reserved_usd + usd > self.limit.usd + _DUST:
            return False
        return self.limit.tokens is None or self.tokens + self.reserved_tokens + tokens <= self.limit.tokens

    def words(self) -> str:
        """`0.0450 of 0.0500 USD`, `900 of 1,000 tokens`, or both."""
        parts = [f"{self.usd:.4f} of {self.limit.usd:.4f} USD"] if self.limit.usd is not None else []
        parts += [f"{self.tokens:,} of {self.limit.tokens:,} tokens"] if self.limit.tokens is not None else []
        return ", ".join(parts)


@dataclass(slots=True, eq=False)
class _Waiter:
    caller: Caller
    nodes: tuple[_Node, ...]
    usd: float
    tokens: int
    on_wait: Callable[[str], None]
    future: asyncio.Future[Reservation]


class Reservation:
    """Money and tokens held for one request. Exactly one of `settle`, `release` and `forfeit` ends it; a second call does nothing."""

    def __init__(self, budget: Budget, caller: Caller, nodes: tuple[_Node, ...], usd: float, tokens: int) -> None:
        self._budget = budget
        self._caller = caller
        self._nodes = nodes
        self._open = True
        self.usd = usd
        self.tokens = tokens

    def settle(self, usd: float | None, tokens: int) -> None:
        """The call is over and used this. `usd` None (no price is known) counts as nothing: a USD budget lets no such call through."""
        if self._open:
            self._budget._had_turn(self._caller, Amount(usd or 0.0, tokens))
        self._end(usd or 0.0, tokens)

    def release(self) -> None:
        """Nothing was used."""
        self._end(0.0, 0)

    def forfeit(self) -> None:
        """Nobody knows what was used: the worst is assumed."""
        self._end(self.usd, self.tokens)

    def _end(self, usd: float, tokens: int) -> None:
        if self._open:
            self._open = False
            self._budget._settle(self._nodes, (self.usd, self.tokens), (usd, tokens))


class Budget:
    """The ledger of a run. `on_warn` gets a sentence once per place and level (70 %, 90 %). For one event loop."""

    def __init__(self, limits: BudgetLimits, *, spent: Spent | None = None, on_warn: Callable[[str], None]) -> None:
        self._limits = limits
        self._on_warn = on_warn
        self._nodes: dict[tuple[str, ...], _Node] = {}
        self._waiting: deque[_Waiter] = deque()
        self._usual: dict[tuple[str, str], Amount] = {}
        self._last: dict[tuple[str, str], str] = {}
        self._said: dict[tuple[str, str, str], float] = {}
        for row in (spent or Spent()).rows:
            for node in self._chain(row.workstream, row.agent, row.task):
                node.usd += row.usd
                node.tokens += row.tokens
                node.told = _level(node.share())

    @property
    def in_usd(self) -> bool:
        """True where a model without a price cannot be let through."""
        return self._limits.in_usd

    def limited(self, caller: Caller) -> bool:
        """True where any limit concerns this caller."""
        return any(node.limited for node in self._chain_of(caller))

    async def reserve(self, caller: Caller, usd: float, tokens: int, on_wait: Callable[[str], None]) -> Reservation:
        """Hold the worst case of one request, at every place of the tree at once. Waits while calls under way hold what may be given back.

        Raises BudgetExhausted where a limit is reached, or the last turn was taken. Cancelling it takes nothing.
        """
        nodes = self._chain_of(caller)
        waiter = _Waiter(caller, nodes, usd, tokens, on_wait, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            self._pump()
            if not waiter.future.done():
                limited = [node for node in nodes if node.limited]
                held = next((node for node in limited if not node.fits(usd, tokens)), limited[0])
                on_wait(f"waiting for what other model calls leave of the budget of {held.name}")
            return await waiter.future
        except BaseException:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                waiter.future.result().release()
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
                self._pump()
            raise

    def remaining(self, caller: Caller) -> Remaining:
        """What is left for this caller. Whoever is told `wrap_up` here has one call left for this task."""
        nodes = self._chain_of(caller)
        limited = [node for node in nodes if node.limited]
        usd = [node.limit.usd - node.usd - node.reserved_usd for node in limited if node.limit.usd is not None]
        tokens = [node.limit.tokens - node.tokens - node.reserved_tokens for node in limited if node.limit.tokens is not None]
        nearest = max(limited, key=_Node.share, default=None)
        wrap_up = self._nearly(caller, nodes)
        if wrap_up:
            self._last.setdefault(_task(caller), "told")
        else:
            self._last.pop(_task(caller), None)
        return Remaining(
            max(0.0, min(usd)) if usd else None,
            max(0, min(tokens)) if tokens else None,
            nearest.share() if nearest is not None else 0.0,
            nearest.name if nearest is not None else None,
            wrap_up,
        )

    def warning(self, caller: Caller) -> str | None:
        """A sentence for this caller's model, once per place and level that concerns it; None when there is nothing new."""
        said = []
        for node in self._chain_of(caller):
            level = _level(node.share())
            key = (*_task(caller), node.name)
            if level > self._said.get(key, 0.0):
                self._said[key] = level
                said.append(f"{level:.0%} of the budget of {node.name} is used ({node.words()})")
        return "; ".join(said) or None

    def close(self, error: Callable[[], TokaError]) -> None:
        """Let everybody who waits fail with an error of their own."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.future.done():
                waiter.future.set_exception(error())

    # --- inside ---------------------------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Let through, in the order in which they asked, whoever fits. Where one has to wait, those behind it at the same place wait too."""
        blocked: set[int] = set()
        for waiter in list(self._waiting):
            if waiter.future.done():
                # Cancelled in this very turn of the loop; it takes itself out later.
                continue
            limited = [node for node in waiter.nodes if node.limited]
            refused = self._refusal(waiter, limited)
            if refused is not None:
                self._waiting.remove(waiter)
                waiter.future.set_exception(refused)
            elif any(id(node) in blocked or not node.fits(waiter.usd, waiter.tokens) for node in limited):
                blocked.update(id(node) for node in limited)
            else:
                self._waiting.remove(waiter)
                self._admit(waiter)

    def _admit(self, waiter: _Waiter) -> None:
        for node in waiter.nodes:
            node.reserved_usd += waiter.usd
            node.reserved_tokens += waiter.tokens
            node.in_flight += 1
        waiter.future.set_result(Reservation(self, waiter.caller, waiter.nodes, waiter.usd, waiter.tokens))

    def _refusal(self, waiter: _Waiter, limited: list[_Node]) -> BudgetExhausted | None:
        spent = next((node for node in limited if node.used_up()), None)
        if spent is None and self._last.get(_task(waiter.caller)) == "taken":
            if self._nearly(waiter.caller, waiter.nodes):
                spent = max(limited, key=_Node.share)
            else:
                # There is more room than there seemed to be: calls under way cost less than was to be feared.
                del self._last[_task(waiter.caller)]
        if spent is None:
            return None
        error = BudgetExhausted(
            f"the budget of {spent.name} is used up: {spent.words()}",
            hint="finished work is kept; raise the budget and go on with: toka run resume",
        )
        error.of_run = spent is waiter.nodes[0]
        return error

    def _nearly(self, caller: Caller, nodes: tuple[_Node, ...]) -> bool:
        usual = self._usual.get(_task(caller), Amount())
        return any(node.nearly(usual) for node in nodes if node.limited)

    def _had_turn(self, caller: Caller, used: Amount) -> None:
        """A reply came: a last turn that was announced is taken by it, and not by a request that failed."""
        task = _task(caller)
        self._usual[task] = used
        if self._last.get(task) == "told":
            self._last[task] = "taken"

    def _settle(self, nodes: tuple[_Node, ...], reserved: tuple[float, int], used: tuple[float, int]) -> None:
        usd, tokens = used
        news = []
        for node in nodes:
            node.reserved_usd -= reserved[0]
            node.reserved_tokens -= reserved[1]
            node.in_flight -= 1
            node.usd += usd
            node.tokens += tokens
            level = _level(node.share())
            if level > node.told:
                node.told = level
                news.append(f"{level:.0%} of the budget of {node.name} is used ({node.words()})")
        self._pump()
        for text in news:
            self._on_warn(text)

    def _chain_of(self, caller: Caller) -> tuple[_Node, ...]:
        return self._chain(caller.workstream, caller.agent, caller.task)

    def _chain(self, workstream: str, agent: str, task: str) -> tuple[_Node, ...]:
        limits = self._limits
        return (
            self._node(("run",), "the run", limits.run),
            self._node(("workstream", workstream), f"workstream {workstream}", limits.workstreams.get(workstream, Amount())),
            self._node(("agent", agent), f"agent {agent}", limits.agents.get(agent, Amount())),
            self._node(("task", agent, task), f"task {task} of agent {agent}", limits.tasks.get((agent, task), Amount())),
        )

    def _node(self, key: tuple[str, ...], name: str, limit: Amount) -> _Node:
        if key not in self._nodes:
            self._nodes[key] = _Node(name, limit)
        return self._nodes[key]


def _task(caller: Caller) -> tuple[str, str]:
    return caller.agent, caller.task


def _share(spent: float, limit: float) -> float:
    return spent / limit if limit > 0 else 1.0


def _level(share: float) -> float:
    return max((level for level in LEVELS if share >= level - _DUST), default=0.0)
