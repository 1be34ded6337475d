"""Compiles what a spec asks for into what its agent may do: powers by their canonical names, names that grant nothing, and sentences about both.

The vocabulary is the policy's; nothing is granted here that it does not call a power.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from toka_cli.errors import Problem
from toka_cli.policy import capability
from toka_cli.spec.model import LoadedAgent

_NETWORK: Final = frozenset({"network-access", "database-access"})
"""Powers that need a way out of the agent's own machine view; a private loopback and toka's own git acts do not."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The powers of an agent with what each is narrowed to (empty: not narrowed), the names that grant nothing, warnings, and notes."""

    powers: dict[str, tuple[str, ...]]
    declared: tuple[str, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def canonical(name: str) -> str:
    """Return the name by which a grant is compared: the power's own for an alias, else the normalised spelling."""
    return capability.classify(name).name


def opens_network(powers: Collection[str]) -> bool:
    """Return whether one of these powers reaches other machines or sockets."""
    return not _NETWORK.isdisjoint(powers)


def granted(agent: LoadedAgent) -> Granted:
    """Return what an agent may do.

    When two names mean the same power and only one of them is narrowed, the narrow form holds: whoever wrote it meant it.
    """
    powers: dict[str, tuple[str, ...]] = {}
    declared: dict[str, None] = {}
    notes: list[str] = []
    for grant in agent.spec.security.grants:
        found = capability.classify(grant.name)
        if found.kind != "power":
            declared[found.name] = None
            continue
        if found.name != grant.name:
            notes.append(f"{grant.name} means {found.name}")
        before = powers.get(found.name, grant.values)
        if bool(before) != bool(grant.values):
            notes.append(f"{found.name} is asked for twice, once narrowed: the narrow form holds")
        powers[found.name] = tuple(dict.fromkeys((*before, *grant.values)))
    return Granted(powers, tuple(declared), tuple(capability.check_grants(agent)), (*notes, *_hints(agent, powers)))


def _hints(agent: LoadedAgent, powers: Mapping[str, tuple[str, ...]]) -> list[str]:
    # What a command or code needs is in what it runs, not in its description; only prompts are read for hints.
    prompts = [task for task in agent.spec.tasks.every if task.kind == "prompt"]
    return [f"task {task.id} {hint}" for task in prompts for hint in capability.hints(task.description, powers)]
