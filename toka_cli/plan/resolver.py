"""Dependencies between agents: what waits for what, in which order, and why it cannot be.

Loaded agents come in; edges, waves, the critical path, ranks and problems with their places go out. It never decides what an agent may do, and it treats
the agents it is given as the whole run: choosing them (`--only`, `--skip`) happens before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from toka_cli.errors import Problem
from toka_cli.plan import graph
from toka_cli.spec.findings import nearest, shown
from toka_cli.spec.model import LoadedAgent

MAX_SUGGESTIONS: Final = 20
"""Looking for a similar name costs a comparison with every name; after this many unknown names it is left out."""

SHOWN_PATH: Final = 60
"""Names of a path that a message shows; a longer path is shown by its beginning and its end."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The order of a run. Lists run parallel to the agents that were given.

    `depends_on` and `after` are names in the order of the spec. `waves` are for reading and follow required dependencies only: an optional one moves an agent
    within its wave's time, never into a later wave. `rank` is the place among agents that are ready together. All of it is empty when a problem is an error.
    """

    depends_on: tuple[tuple[str, ...], ...]
    after: tuple[tuple[str, ...], ...]
    waves: tuple[tuple[str, ...], ...]
    critical_path: tuple[str, ...]
    rank: tuple[int, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether there is no order."""
        return any(problem.severity == "error" for problem in self.problems)


def resolve(agents: Sequence[LoadedAgent], *, left_out: Collection[str] = (), allow_missing: bool = False) -> Resolved:
    """Return the order of the agents, or the problems that stand in its way, all of them.

    `left_out` names agents that exist but are not part of the run: who requires one runs without it, with a warning. With `allow_missing` the same holds
    for agents that exist nowhere. Linear in agents and dependencies: 5,000 agents take well under a second.
    """
    duplicates = _duplicates(agents)
    if duplicates:
        return _without_order(duplicates, ())
    reader = _EdgeReader(agents, frozenset(left_out), allow_missing)
    required, optional = reader.read()
    problems = reader.problems
    by_name = sorted(range(len(agents)), key=lambda index: agents[index].name)
    problems += [_circle_problem(agents, _from_smallest_name(agents, circle)) for circle in graph.circles(required, by_name)]
    if any(problem.severity == "error" for problem in problems):
        return _without_order(problems, reader.notes)
    rank = _ranks(agents, required)
    dropped = graph.droppable_edges(required, optional, rank)
    problems += [_dropped_problem(agents, node, target, path) for node, target, path in dropped]
    gone = {(node, target) for node, target, _ in dropped}
    names = [agent.name for agent in agents]
    return Resolved(
        depends_on=tuple(tuple(names[target] for target in targets) for targets in required),
        after=tuple(tuple(names[target] for target in targets if (node, target) not in gone) for node, targets in enumerate(optional)),
        waves=_waves(names, required, rank),
        critical_path=tuple(names[node] for node in graph.longest_chain(required, lambda node: (agents[node].spec.priority.rank, names[node]))),
        rank=tuple(rank),
        problems=tuple(sorted(problems)),
        notes=tuple(reader.notes),
    )


def shown_path(names: Sequence[str]) -> str:
    """Return `a -> b -> c`; the middle of a path of more than SHOWN_PATH names is counted, not shown."""
    if len(names) <= SHOWN_PATH:
        return " -> ".join(names)
    half = SHOWN_PATH // 2
    return " -> ".join([*names[:half], f"({len(names) - 2 * half} more)", *names[-half:]])


class _EdgeReader:
    """Turns names into edges, and names that fit nothing into problems."""

    def __init__(self, agents: Sequence[LoadedAgent], left_out: Collection[str], allow_missing: bool) -> None:
        self.agents = agents
        self.left_out = left_out
        self.allow_missing = allow_missing
        self.index = {agent.name: index for index, agent in enumerate(agents)}
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.suggestions = MAX_SUGGESTIONS

    def read(self) -> tuple[list[list[int]], list[list[int]]]:
        """Return required and optional edges, without those to an agent itself; a name that is both is required."""
        required: list[list[int]] = []
        optional: list[list[int]] = []
        for agent in self.agents:
            dependencies = agent.spec.dependencies
            hard = [target for name in dependencies.required if (target := self._required(agent, name)) is not None]
            both = set(hard)
            soft = [target for name in dependencies.optional if (target := self._optional(agent, name)) is not None and target not in both]
            required.append(hard)
            optional.append(soft)
        return required, optional

    def _required(self, agent: LoadedAgent, name: str) -> int | None:
        dotted = f"dependencies.required.{name}"
        if name == agent.name:
            self.problems.append(
                problem_at(agent, dotted, f"cycle: {name} -> {name} (it requires itself)", "remove this line", code="dependency_cycle")
            )
            return None
        if name in self.index:
            return self.index[name]
        if name in self.left_out:
            message = f"{agent.name} runs without {name}, which it requires: {name} was left out of this run"
            self.problems.append(problem_at(agent, dotted, message, code="dependency_left_out", severity="warning"))
        elif self.allow_missing:
            message = f"{agent.name} runs without {shown(name)}, which it requires: no agent of that name is part of the run"
            self.problems.append(problem_at(agent, dotted, message, code="dependency_missing", severity="warning"))
        else:
            message = f"{agent.name} requires {shown(name)}, and no agent of that name is part of the run"
            self.problems.append(problem_at(agent, dotted, message, self._suggestion(name), code="dependency_missing"))
        return None

    def _optional(self, agent: LoadedAgent, name: str) -> int | None:
        if name == agent.name:
            message = f"{name} names itself as an optional dependency; left out of account"
            self.problems.append(problem_at(agent, f"dependencies.optional.{name}", message, code="dependency_cycle", severity="warning"))
            return None
        if name not in self.index:
            self.notes.append(f"{agent.name}: the optional dependency {shown(name)} is not part of the run")
        return self.index.get(name)

    def _suggestion(self, name: str) -> str:
        close = None
        if self.suggestions:
            self.suggestions -= 1
            close = nearest(name, self.index, cutoff=0.6)
        start = f"did you mean {close}? Otherwise " if close else ""
        return f"{start}{'add' if close else 'Add'} its spec to the paths, make the dependency optional, or run with --allow-missing"


def problem_at(
    agent: LoadedAgent, dotted: str, message: str, hint: str | None = None, *, code: str = "plan", severity: str = "error"
) -> Problem:
    """Return a problem at the place of a dotted path in the agent's file, or of the nearest thing around it."""
    line, column = agent.where(dotted)
    return Problem(agent.path, line, column, message, hint, code, severity)


def _duplicates(agents: Sequence[LoadedAgent]) -> list[Problem]:
    first: dict[str, LoadedAgent] = {}
    problems: list[Problem] = []
    for agent in agents:
        other = first.setdefault(agent.name, agent)
        if other is not agent:
            where = problem_at(other, "metadata.name", "").where
            message = f"two agents are named {agent.name}: here and at {where}"
            problems.append(problem_at(agent, "metadata.name", message, "a name is unique in a run; rename one of them", code="duplicate_name"))
    return problems


def _without_order(problems: Sequence[Problem], notes: Sequence[str]) -> Resolved:
    return Resolved((), (), (), (), (), tuple(sorted(problems)), tuple(notes))


def _from_smallest_name(agents: Sequence[LoadedAgent], circle: tuple[int, ...]) -> tuple[int, ...]:
    """Return the circle from its smallest name on, so that the order of the files does not change the message."""
    first = min(range(len(circle)), key=lambda place: agents[circle[place]].name)
    return circle[first:] + circle[:first]


def _circle_problem(agents: Sequence[LoadedAgent], circle: tuple[int, ...]) -> Problem:
    names = [agents[index].name for index in circle]
    return problem_at(
        agents[circle[0]],
        f"dependencies.required.{names[1]}",
        f"cycle: {shown_path([*names, names[0]])}",
        "each waits for the next, so none can start: remove one of these dependencies, or make it optional",
        code="dependency_cycle",
    )


def _dropped_problem(agents: Sequence[LoadedAgent], node: int, target: int, path: tuple[int, ...]) -> Problem:
    agent, other = agents[node], agents[target].name
    names = [agents[index].name for index in (node, *path)]
    why = f"it would close a cycle: {shown_path(names)}" if path else "too many optional dependencies lead in circles to examine them all"
    message = f"{agent.name} does not wait for its optional dependency {other}: {why}"
    return problem_at(agent, f"dependencies.optional.{other}", message, code="optional_dropped", severity="warning")


def _ranks(agents: Sequence[LoadedAgent], required: graph.Edges) -> list[int]:
    """Return places by priority, then by the longest chain of agents that wait, then by the order in which the agents were given."""
    remaining = graph.chains(required)
    ordered = sorted(range(len(agents)), key=lambda node: (agents[node].spec.priority.rank, -remaining[node], node))
    rank = [0] * len(agents)
    for place, node in enumerate(ordered):
        rank[node] = place
    return rank


def _waves(names: Sequence[str], required: graph.Edges, rank: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    layer = graph.layers(required)
    waves: list[list[str]] = [[] for _ in range(max(layer, default=-1) + 1)]
    for node in sorted(range(len(names)), key=rank.__getitem__):
        waves[layer[node]].append(names[node])
    return tuple(map(tuple, waves))
