"""Which agent may start now, and which never will: the ready queue of a run.

A plan comes in, then the ends of agents one by one; names to start and names to skip go out. Pure: it knows no time and no process, and it starts nothing.
All calls together are linear in agents and dependencies (times a logarithm for the queue).
"""

from __future__ import annotations

import heapq
from collections import deque
from enum import StrEnum
from typing import NamedTuple

from toka_cli.plan.plan import Plan


class Place(StrEnum):
    """Where an agent stands in the schedule."""

    WAITING = "waiting"
    READY = "ready"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"


FINAL = frozenset({Place.SUCCEEDED, Place.FAILED, Place.SKIPPED})


class Freed(NamedTuple):
    """What the end of an agent leads to: agents that are ready now, in the order they start, and agents that will never start, each with its reason."""

    ready: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


class Schedule:
    """The ready queue over one plan.

    An agent is ready when all its required dependencies succeeded and all its optional ones are over, however they ended. When a required dependency ends
    otherwise, the agent is skipped, and whoever requires it too, at any depth. The reason always names the agent that failed itself (the root), not
    the one in between: that is the one to repair. If several fail, the first one counts.
    """

    def __init__(self, plan: Plan) -> None:
        self._max_agents = plan.max_agents
        self._agents = {agent.name: agent for agent in plan.agents}
        self._required_by: dict[str, list[str]] = {name: [] for name in self._agents}
        self._awaited_by: dict[str, list[str]] = {name: [] for name in self._agents}
        self._open: dict[str, int] = {}
        self._place: dict[str, Place] = {}
        self._reason: dict[str, str] = {}
        self._queue: list[tuple[int, str]] = []
        self._started = 0
        self._unfinished = len(self._agents)
        self._stopped = False
        for name, agent in self._agents.items():
            self._open[name] = len(agent.depends_on) + len(agent.after)
            self._place[name] = Place.WAITING
            for other in agent.depends_on:
                self._required_by[other].append(name)
            for other in agent.after:
                self._awaited_by[other].append(name)
        for name, count in self._open.items():
            if not count:
                self._make_ready(name)

    @property
    def done(self) -> bool:
        """Whether every agent is over."""
        return self._unfinished == 0

    @property
    def running(self) -> int:
        """How many agents were started and are not over: the slots in use."""
        return self._started

    @property
    def stopped(self) -> bool:
        """Whether nothing starts any more."""
        return self._stopped

    def ready(self) -> list[str]:
        """Return the agents that wait for nothing but a slot, in the order they start."""
        return [name for _, name in sorted(self._queue) if self._place[name] is Place.READY]

    def unstarted(self) -> list[str]:
        """Return the agents that are neither started nor over, in the order of the plan: after `stop` they never will be."""
        return [name for name, place in self._place.items() if place in {Place.WAITING, Place.READY}]

    def place(self, name: str) -> Place:
        """Return where an agent stands. Raises KeyError."""
        return self._place[name]

    def start_ready(self, free_slots: int) -> list[str]:
        """Return up to `free_slots` agents that are to be started now, best first, and count them as started."""
        names: list[str] = []
        while self._queue and len(names) < free_slots and not self._stopped:
            _, name = heapq.heappop(self._queue)
            if self._place[name] is Place.READY:
                self._place[name] = Place.STARTED
                names.append(name)
        self._started += len(names)
        return names

    def requeued(self, name: str) -> bool:
        """Give back the slot of a started agent that is to start again (a restart) and put it into the queue; False if it was not started.

        Raises KeyError.
        """
        if self._place[name] is not Place.STARTED:
            return False
        self._started -= 1
        self._make_ready(name)
        return True

    def finished(self, name: str, succeeded: bool) -> Freed:
        """Record that an agent is over, whether it had started or not, and return what follows.

        The first end counts: for an agent that is already over nothing happens. Raises KeyError.
        """
        if self._place[name] in FINAL:
            return Freed((), ())
        self._end(name, Place.SUCCEEDED if succeeded else Place.FAILED)
        ready: list[str] = []
        skipped: list[tuple[str, str]] = []
        reason = f"dependency_failed: {name}"
        over = deque([name])
        while over:
            ended = over.popleft()
            for other in self._required_by[ended]:
                if self._place[other] in FINAL:
                    continue
                if self._place[ended] is Place.SUCCEEDED:
                    self._release(other, ready)
                else:
                    self._end(other, Place.SKIPPED)
                    self._reason[other] = reason
                    skipped.append((other, reason))
                    over.append(other)
            for other in self._awaited_by[ended]:
                if self._place[other] not in FINAL:
                    self._release(other, ready)
        # An agent can be released by one end and skipped by a later one of the same call.
        still_ready = [each for each in ready if self._place[each] is Place.READY]
        return Freed(tuple(sorted(still_ready, key=lambda each: self._agents[each].rank)), tuple(skipped))

    def stop(self) -> None:
        """Start nothing any more."""
        self._stopped = True

    def waits_for(self, name: str) -> tuple[str, ...]:
        """Return the dependencies, required ones first, that hold an agent back now. Raises KeyError."""
        if self._place[name] is not Place.WAITING:
            return ()
        agent = self._agents[name]
        return tuple(other for other in (*agent.depends_on, *agent.after) if self._place[other] not in FINAL)

    def why(self, name: str) -> str:
        """Return in a few words what an agent waits for, or how it stands. Raises KeyError."""
        place = self._place[name]
        if place is Place.SKIPPED:
            return f"skipped: {self._reason[name]}"
        if place in FINAL or place is Place.STARTED:
            return place.value
        if self._stopped:
            return "will not start: the run is ending"
        if place is Place.WAITING:
            return f"waiting for {_listed(self.waits_for(name))}"
        if self._started < self._max_agents:
            return "about to start"
        return f"waiting for a free slot ({self._started} of {self._max_agents} busy)"

    def _make_ready(self, name: str) -> None:
        self._place[name] = Place.READY
        heapq.heappush(self._queue, (self._agents[name].rank, name))

    def _release(self, name: str, ready: list[str]) -> None:
        self._open[name] -= 1
        if not self._open[name]:
            self._make_ready(name)
            ready.append(name)

    def _end(self, name: str, place: Place) -> None:
        if self._place[name] is Place.STARTED:
            self._started -= 1
        self._place[name] = place
        self._unfinished -= 1


def _listed(names: tuple[str, ...]) -> str:
    """Return `a`, `a and b`, `a, b and 3 more`."""
    if len(names) > 3:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
