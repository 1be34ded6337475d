"""Compiles what a spec asks for into what its agent may do: powers by their canonical names, names that grant nothing, and each line of the spec three ways.

The vocabulary and the profiles are the policy's; nothing is granted here that it does not call a power.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from toka_cli.errors import Problem
from toka_cli.plan.plan import Permission
from toka_cli.plan.resolver import problem_at
from toka_cli.policy import capability
from toka_cli.policy.capability import MCP_PREFIX, held, takes
from toka_cli.policy.ceiling import Ceiling, only, under
from toka_cli.policy.confine import area_of
from toka_cli.policy.hosts import addresses_of
from toka_cli.policy.profile import Profile
from toka_cli.spec.model import Grant, LoadedAgent, Orchestration

_NARROWED_BY: Final = {"paths": "[src/**]", "programs": "[pytest]", "host:port": "[api.example.com:443]", "sockets or host:port": "[db.example.com:5432]"}


@dataclass(frozen=True, slots=True)
class Granted:
    """The powers of an agent with what each is narrowed to (empty: not narrowed), the names that grant nothing, warnings, and notes.

    `powers` are those that are left once everybody who may narrow them has; `taken` says by name of a power who took what away. `unheld` are powers that are
    not given because nothing can hold what they are narrowed to.
    """

    powers: dict[str, tuple[str, ...]]
    declared: tuple[str, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    taken: dict[str, str]
    unheld: dict[str, str]


def canonical(name: str) -> str:
    """Return the name by which a grant is compared: the power's own for an alias, else the normalised spelling."""
    return capability.classify(name).name


def ceilings_of(orchestration: Orchestration | None, users: Sequence[Ceiling]) -> tuple[Ceiling, ...]:
    """Return who may narrow grants: the user first, then the run."""
    if orchestration is None or orchestration.allowed is None:
        return tuple(users)
    allowed: dict[str, tuple[str, ...]] = {}
    for grant in orchestration.allowed:
        if (found := capability.classify(grant.name)).kind == "power":
            allowed[found.name] = _joined(allowed.get(found.name), grant.values)
    return (*users, only(f"{orchestration.path} (capabilities_allowed)", allowed))


def unknown_allowed(orchestration: Orchestration | None) -> list[str]:
    """Return a sentence for each name that a run allows and that is no power: it allows nothing."""
    if orchestration is None or orchestration.allowed is None:
        return []
    found = [(grant.name, capability.classify(grant.name)) for grant in orchestration.allowed]
    return [
        f"{orchestration.path}: capabilities_allowed: {name!r} is no power and allows nothing" + (f" (did you mean {each.nearest}?)" if each.nearest else "")
        for name, each in found
        if each.kind == "unknown"
    ]


def granted(agent: LoadedAgent, ceilings: Sequence[Ceiling] = ()) -> Granted:
    """Return what an agent may do: what its spec asks for, as far as every ceiling allows it.

    When two names mean the same power and only one of them is narrowed, the narrow form holds: whoever wrote it meant it.
    """
    powers: dict[str, tuple[str, ...]] = {}
    declared: dict[str, None] = {}
    notes: list[str] = []
    problems = list(capability.check_grants(agent))
    unheld: dict[str, str] = {}
    for grant in agent.spec.security.grants:
        found = capability.classify(grant.name)
        if found.kind != "power":
            declared[found.name] = None
            continue
        if found.name != grant.name:
            notes.append(f"{grant.name} means {found.name}")
        problem = _problem_of_values(agent, grant, found.name)
        if problem is not None:
            problems.append(problem)
        if grant.values and not takes(found.name):
            # Narrowed in a way that nothing can hold: less, never more.
            unheld[found.name] = f"{found.name} has no long form, so what it is narrowed to cannot be held"
            continue
        before = powers.get(found.name)
        if before is not None and bool(before) != bool(grant.values):
            notes.append(f"{found.name} is asked for twice, once narrowed: the narrow form holds")
        powers[found.name] = _joined(before, grant.values)
    left, taken = under(powers, ceilings)
    notes += _beside(left)
    return Granted(left, tuple(declared), tuple(problems), (*notes, *_hints(agent, left)), taken, unheld)


def permissions_of(agent: LoadedAgent, rights: Granted, profile: Profile, known_tools: Mapping[str, str | None], *, walls: bool) -> tuple[Permission, ...]:
    """Return each line of the spec's grants, compiled three ways; the names that grant nothing too. `walls` False: no walls are put up."""
    found: list[Permission] = []
    for grant in agent.spec.security.grants:
        known = capability.classify(grant.name)
        where = problem_at(agent, f"security.grants.{grant.name}", "").where
        back = rights.taken.get(known.name) or rights.unheld.get(known.name)
        if known.kind != "power":
            found.append(Permission(grant.name, known.name, where, grant.values, kernel=(f"grants nothing: {_nothing(known)}",)))
            continue
        # What is left of a power that was taken away in part stands under the powers that it included.
        left = [name for name in sorted(held([known.name])) if name in rights.powers and (name == known.name or known.name not in rights.powers)]
        opens = held(left)
        walled = [line for name in left for line in profile.lines.get(name, ())]
        found.append(
            Permission(
                grant=grant.name,
                power=known.name,
                where=where,
                values=tuple(dict.fromkeys(value for name in left for value in rights.powers[name])),
                tools=tuple(sorted(tool for tool, power in known_tools.items() if power in opens)) if left else (),
                kernel=tuple(line for name in left for line in _kernel_lines(name, rights.powers[name], profile.hosts)),
                walls=tuple(walled) if walls else (("nothing is held: no walls",) if walled else ()),
                held_back=back,
            )
        )
    return tuple(found)


def _joined(before: tuple[str, ...] | None, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*(before or ()), *values)))


def _nothing(found: capability.Classified) -> str:
    return "a skill, for the prompt" if found.kind == "declared" else "nobody knows this name" + (f" (did you mean {found.nearest}?)" if found.nearest else "")


def _kernel_lines(power: str, values: Collection[str], hosts: Sequence[str]) -> list[str]:
    """What the kernel lets through for a power, call by call."""
    within = ", ".join(values)
    match power:
        case "filesystem-read" | "filesystem-write":
            return [f"file tools below the workdir, links resolved{f', only {within}' if within else ''}"]
        case "script-execution":
            return [f"programs and scripts of the workspace{f': only {within}' if within else ''}"]
        case "cargo-execution":
            return [f"cargo, rustc and their like{f': only {within}' if within else ''}"]
        case "git-access":
            return ["git, and toka's own git acts without hooks"]
        case "network-access":
            return [f"hosts: {', '.join(hosts)}" if values else "no host is listed, so none is reached"]
        case "database-access":
            return [f"only {within}" if within else "nothing is listed, so nothing is reached"]
        case "agent-spawn":
            return ["other agents, with a subset of these grants"]
        case "agent-communication":
            return ["messages to agents of this run"]
    if power.startswith(MCP_PREFIX):
        server, _, tools = power[len(MCP_PREFIX) :].partition(".")
        return [f"{f'tools {tools}' if tools else 'all tools'} of the MCP server {server}"]
    return []


def _problem_of_values(agent: LoadedAgent, grant: Grant, power: str) -> Problem | None:
    """A warning about a long form that opens less than it seems to: no long form at all, hosts that are none, or none where some are needed."""
    kind = takes(power)
    said = f"{agent.name}: {grant.name}"
    if grant.values and not kind:
        message, hint = f"{said} has no long form; narrowed to {', '.join(grant.values)[:100]} it grants nothing", f"write - {grant.name} alone"
    elif not grant.values and "host:port" in kind:
        message, hint = f"{said} lists nothing that may be reached, so nothing is", f"list it: - {grant.name}: {_NARROWED_BY[kind]}"
    else:
        wrong = [value for value in grant.values if not _means_something(kind, value)]
        if not wrong:
            return None
        message, hint = f"{said}: {', '.join(repr(value) for value in wrong)[:200]} opens nothing", f"write {kind}, such as {_NARROWED_BY[kind]}"
    return problem_at(agent, f"security.grants.{grant.name}", message, hint, code="bad_grant", severity="warning")


def _means_something(kind: str, value: str) -> bool:
    if kind == "paths":
        return area_of(value) is not None
    if "host:port" in kind:
        plain = value.removeprefix("unix:")
        if "sockets" in kind and plain.startswith("/"):
            return True
        try:
            return bool(addresses_of(value, default_ports=() if "sockets" in kind else (443, 80)))
        except ValueError:
            return False
    return True


def _beside(powers: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Each grant opens what it opens; that a narrow one beside a wide one narrows nothing is worth a note."""
    narrow = [name for name in ("filesystem-read", "filesystem-write") if powers.get(name)]
    wide = [name for name in powers if name == "script-execution"]
    return [f"{name} is narrowed, but {other} opens the whole workspace to commands" for name in narrow for other in wide]


def _hints(agent: LoadedAgent, powers: Mapping[str, tuple[str, ...]]) -> list[str]:
    # What a command or code needs is in what it runs, not in its description; only prompts are read for hints.
    prompts = [task for task in agent.spec.tasks.every if task.kind == "prompt"]
    return [f"task {task.id} {hint}" for task in prompts for hint in capability.hints(task.description, powers)]
