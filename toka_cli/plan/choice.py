"""Which agents and which tasks are part of the run: `--only`, `--skip`, `--when`.

Loaded agents and names come in; chosen agents, chosen tasks and sentences about what was left out go out. It knows no machine, no limits and no grants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from toka_cli.errors import NotFound, UsageError
from toka_cli.spec.findings import nearest, shown
from toka_cli.spec.model import LoadedAgent, TaskSpec


@dataclass(frozen=True, slots=True)
class ChosenTask:
    """A task of the run, with its dotted path in the file. `depends_on` names only tasks of the run."""

    task: TaskSpec
    dotted: str
    depends_on: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChosenTasks:
    """The tasks of one agent in the order they start, how many others each `--when` key would add, and notes."""

    tasks: tuple[ChosenTask, ...]
    conditional: dict[str, int]
    notes: tuple[str, ...]


def choose_agents(
    agents: Sequence[LoadedAgent], only: Sequence[str] = (), skip: Sequence[str] = ()
) -> tuple[tuple[LoadedAgent, ...], tuple[str, ...]]:
    """Return the agents of the run and the names of those left out, both in the order given.

    `only` keeps the agents named and all that they require, at any depth (what `docker compose up SERVICE` and `make TARGET` do); `skip` then takes
    out exactly the agents named. Who requires a skipped agent runs without it: skipping is for what is known to be done or not wanted, not a failure.
    What only a skipped agent requires is not drawn in by `only`. Raises NotFound for names that no agent has, UsageError when nothing is left.
    """
    known = {agent.name: agent for agent in agents}
    _check_names(known, only=only, skip=skip)
    skipped = set(skip)
    wanted = set(known) if not only else _with_requirements(known, [name for name in only if name not in skipped], skipped)
    chosen = tuple(agent for agent in agents if agent.name in wanted and agent.name not in skipped)
    if agents and not chosen:
        raise UsageError("--only and --skip leave no agent to run", hint=f"agents: {_some(list(known))}")
    names = {agent.name for agent in chosen}
    return chosen, tuple(name for name in known if name not in names)


def _with_requirements(known: dict[str, LoadedAgent], names: Sequence[str], skipped: set[str]) -> set[str]:
    wanted: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo += [other for other in known[name].spec.dependencies.required if other in known and other not in skipped]
    return wanted


def _check_names(known: dict[str, LoadedAgent], **flags: Sequence[str]) -> None:
    complaints: list[str] = []
    for flag, names in flags.items():
        for name in names:
            if name not in known:
                close = nearest(name, known, cutoff=0.6) if len(complaints) < 20 else None
                complaints.append(f"--{flag} {shown(name)}: no such agent" + (f" (did you mean {close}?)" if close else ""))
    if complaints:
        raise NotFound("; ".join(complaints), hint=f"agents: {_some(list(known))}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def unknown_keys(agents: Sequence[LoadedAgent], when: Sequence[str]) -> list[str]:
    """Return a sentence for each key of `--when` that no task of these agents has."""
    known = dict.fromkeys(task.when for agent in agents for task in agent.spec.tasks.every if task.when is not None)
    sentences: list[str] = []
    for key in when:
        if key in known:
            continue
        close = nearest(key, known, cutoff=0.6)
        rest = f"did you mean {close}?" if close else f"known keys: {', '.join(known)}" if known else "no task is conditional"
        sentences.append(f"--when {shown(key)} selects no task; {rest}")
    return sentences


def choose_tasks(agent: LoadedAgent, when: Sequence[str]) -> ChosenTasks:
    """Return the tasks of an agent that are part of the run, by priority, then in the order of the file.

    A task that waits for one that is not part of the run waits for that one's own dependencies instead, so the order of the rest stays.
    """
    asked = set(when)
    everything = {task.id: task for task in agent.spec.tasks.every}
    placed = [(task, f"tasks.default[{index}]") for index, task in enumerate(agent.spec.tasks.default)]
    for key, group in agent.spec.tasks.conditional.items():
        placed += [(task, f"tasks.conditional.{key}[{index}]") for index, task in enumerate(group)]
    here = {task.id for task, _ in placed if task.when is None or task.when in asked}
    notes: list[str] = []
    tasks: list[ChosenTask] = []
    for task, dotted in sorted(placed, key=lambda each: each[0].priority.rank):
        if task.id not in here:
            continue
        gone = [other for other in task.depends_on if other not in here]
        if gone:
            notes.append(f"task {task.id} does not wait for {', '.join(gone)}: not part of this run")
        tasks.append(ChosenTask(task, dotted, _still_there(task, everything, here)))
    left = Counter(task.when for task, _ in placed if task.id not in here and task.when is not None)
    return ChosenTasks(tuple(tasks), dict(left), tuple(notes))


def _still_there(task: TaskSpec, everything: dict[str, TaskSpec], here: set[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    seen: set[str] = set()
    todo = list(reversed(task.depends_on))
    while todo:
        name = todo.pop()
        if name in here:
            found[name] = None
        elif name not in seen and name in everything:
            todo += reversed(everything[name].depends_on)
        seen.add(name)
    return tuple(found)
