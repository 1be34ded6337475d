"""What the plan needs to know to compile grants: who allows at most what, which walls this machine has, where things are on it. In: settings and specs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from toka_cli.errors import InvalidSpecs, Problem
from toka_cli.policy.capability import classify, takes
from toka_cli.policy.ceiling import Ceiling, ceiling
from toka_cli.policy.confine import area_of
from toka_cli.policy.places import Places
from toka_cli.sandbox import probe
from toka_cli.settings import PolicySettings, Settings
from toka_cli.spec.load import Loaded
from toka_cli.spec.model import Grant
from toka_cli.supervisor.places import collect

# What walls are made of, by the level that the machine reaches.
_MADE_OF: Final[dict[str, tuple[str, str]]] = {"full": ("landlock", "namespace"), "standard": ("landlock", "seccomp"), "process": ("none", "none")}


def ceilings(settings: Settings) -> tuple[Ceiling, ...]:
    """The user's policy and, beneath it, what a project's file narrows it to. Raises InvalidSpecs for a name that is no power: it would deny nothing."""
    found: list[Ceiling] = []
    problems: list[Problem] = []
    for policy, who in ((settings.policy, "your settings"), (settings.project_policy, "the project's settings")):
        if policy is None:
            continue
        try:
            found.append(_ceiling(policy, who))
        except ValueError as error:
            problems.append(Problem(policy.source, 0, 0, f"[policy]: {error}", "toka runtime tools lists what powers open", "unknown_capability"))
    if problems:
        raise InvalidSpecs(problems)
    return tuple(found)


def _ceiling(policy: PolicySettings, who: str) -> Ceiling:
    keys = [f"policy.preset = {policy.preset}"] if policy.preset != "privileged" else []
    keys += [f"policy.{name}" for name in ("allow", "deny") if getattr(policy, name)]
    why = f"{', '.join(keys)} in {policy.source}" if keys else ""
    return ceiling(who, preset=policy.preset, allow=dict(policy.allow), deny=policy.deny, why=why)


def wall_facts(settings: Settings) -> dict[str, Any]:
    """What of `Machine` is about walls, as probed just now: really tried, in children. `process.walls` can ask for fewer than there are."""
    facts = probe.walls()
    level, notes = facts.level, facts.notes
    if level == "full" and settings.process.walls == "standard":
        level, notes = "standard", (*notes, ("namespaces", "process.walls is standard", "set it to auto"))
    filesystem, network = _MADE_OF[level]
    return {"filesystem": filesystem, "network": network, "landlock_abi": facts.landlock_abi, "notes": notes}


def places_for(loaded: Loaded, workdir: Path, allowed: Iterable[Ceiling]) -> Places:
    """The places of this machine, with those paths and sockets resolved that a grant, or who narrows it, names."""
    asked: list[Grant] = [grant for agent in loaded.agents for grant in agent.spec.security.grants]
    if loaded.orchestration is not None:
        asked += loaded.orchestration.allowed or ()
    values = [(classify(grant.name).name, value) for grant in asked for value in grant.values]
    values += [(name, value) for each in allowed for name, bound in each.bounds.items() for value in bound]
    names: dict[str, None] = {}
    sockets: dict[str, None] = {}
    for power, value in values:
        if power == "database-access":
            if (plain := value.removeprefix("unix:")).startswith("/"):
                sockets[plain] = None
        elif takes(power) in {"paths", "programs"} and (area := area_of(value)) is not None and area.path != ".":
            names[area.path] = None
    return collect(str(workdir), os.environ, names=names, sockets=sockets)
