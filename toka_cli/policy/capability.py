"""The vocabulary of grants: which names are powers, which are skills that grant nothing, which nobody knows.

A name from a spec comes in, what it means goes out. Nothing is ever granted by resemblance: an unknown name grants nothing, and the
nearest known one is only named in the warning. Task text is never searched to decide; `hints` only helps people. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from toka_cli.errors import Problem
from toka_cli.spec.findings import nearest, shown
from toka_cli.spec.model import LoadedAgent


@dataclass(frozen=True, slots=True)
class Power:
    """A grant that opens something. `files`, `programs` and `network` say what, for people.

    `values` says what the long form narrows it to: `paths`, `programs`, `host:port`, `sockets or host:port`, or nothing (it has no long form).
    `includes` are powers that it holds as well: who may write a folder may read it.
    """

    name: str
    aliases: tuple[str, ...] = ()
    files: str = ""
    programs: str = ""
    network: str = ""
    values: str = ""
    includes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """What it opens, in one line."""
        return "; ".join(part for part in (self.files, self.programs, self.network) if part)


POWERS: Final[tuple[Power, ...]] = (
    Power("filesystem-read", ("file-system-read",), files="the workspace, read-only", values="paths"),
    Power(
        "filesystem-write",
        ("file-system-write", "storage-modification", "kernel-modification", "security-modification"),
        files="the workspace, read and write; .git read-only",
        values="paths",
        includes=("filesystem-read",),
    ),
    Power(
        "cargo-execution",
        ("cargo-test-execution",),
        files="the Rust toolchain and registry, read-only, without credentials; a private cache; target/ in the workspace",
        programs="cargo, rustc, the linker",
        network="crates only together with network-access",
        values="programs",
    ),
    Power(
        "script-execution",
        ("test-execution",),
        files="the workspace, read and write; a private /dev/shm",
        programs="anything in the workspace",
        network="a private loopback",
        values="programs",
        includes=("filesystem-read", "filesystem-write"),
    ),
    Power(
        "git-access",
        files="objects, refs and index of .git, read and write; hooks and config read-only",
        programs="git",
        network="none: fetch and push are acts of toka itself",
    ),
    Power(
        "network-access",
        ("network-access-limited", "github-api-access"),
        network="the hosts that are listed, through toka's proxy",
        values="host:port",
    ),
    Power(
        "database-access", files="the sockets that are listed", network="the addresses that are listed", values="sockets or host:port"
    ),
    Power("agent-spawn", programs="other agents, with a subset of this one's grants"),
    Power("agent-communication", network="messages to agents of the same run"),
)
"""The powers, by SECURITY's table. An alias means exactly its power, no more."""

MAX_WARNINGS: Final = 100
"""Unknown names that are reported for one agent."""

MCP_PREFIX: Final = "mcp:"
_MCP: Final = re.compile(r"mcp:[A-Za-z0-9][A-Za-z0-9_-]{0,63}(?:\.[A-Za-z0-9_*?.-]{1,100})?", re.ASCII)

DECLARED: Final[frozenset[str]] = frozenset(
    {
        # No tool of toka acts on these; models are reached through toka itself, so no agent needs the network or a key for them.
        "network-access-llm-providers",
        "api-key-storage",
        "credential-validation",
        "environment-variable-management",
        "secure-configuration",
        "ci-integration",
        "workflow-management",
        "deployment-automation",
        "repository-administration",
        "performance-monitoring",
        "system-metrics",
        "network-metrics",
        "audit-access",
        "event-bus-access",
        "crypto-operations",
        # Skills.
        "document-analysis",
        "link-validation",
        "code-analysis",
        "code-review",
        "data-analysis",
        "text-analysis",
        "report-generation",
    }
)
"""Names that specs ask for and that grant nothing. They are listed with the plan, so that nobody believes otherwise."""


@dataclass(frozen=True, slots=True)
class Classified:
    """What a name means. `name` is the canonical one for a power; `nearest` is set only for an unknown name that resembles a known one."""

    kind: Literal["power", "declared", "unknown"]
    name: str
    power: Power | None = None
    nearest: str | None = None


_BY_NAME: Final[dict[str, Power]] = {name: power for power in POWERS for name in (power.name, *power.aliases)}
_ALL: Final[tuple[str, ...]] = (*_BY_NAME, *sorted(DECLARED))


def normalised(name: str) -> str:
    """Return a name in the vocabulary's spelling: lower case, `_` and spaces as `-`. A grant `mcp:...` keeps its spelling: servers have one."""
    text = name.strip()
    if text[: len(MCP_PREFIX)].lower() == MCP_PREFIX:
        return MCP_PREFIX + text[len(MCP_PREFIX) :]
    return re.sub(r"[\s_]+", "-", text.lower())


def classify(name: str) -> Classified:
    """Return what a grant's name means: a power, a declared skill that grants nothing, or nothing that is known."""
    plain = normalised(name)
    power = _BY_NAME.get(plain)
    if power is not None:
        return Classified("power", power.name, power)
    if _MCP.fullmatch(plain):
        server, _, tools = plain[len(MCP_PREFIX) :].partition(".")
        which = f"the tools {tools}" if tools else "all tools"
        return Classified("power", plain, Power(plain, programs=f"{which} of the MCP server {server}"))
    if plain in DECLARED:
        return Classified("declared", plain)
    return Classified("unknown", plain, nearest=nearest(plain, _ALL, cutoff=0.75))


def held(powers: Iterable[str]) -> frozenset[str]:
    """Return these powers and all that they include."""
    names = set(powers)
    return frozenset(names.union(*(_BY_NAME[name].includes for name in names if name in _BY_NAME)))


def values_of(powers: Mapping[str, Collection[str]], name: str) -> tuple[str, ...] | None:
    """Return what a power is narrowed to among these (empty: it is not narrowed), or None when it is not held.

    Each grant opens what it opens: a power that is held through another one is narrowed like that one, and held twice it is as wide as both together.
    """
    holders = [holder for holder in powers if name in held([holder])]
    if not holders:
        return None
    # The programs that script-execution is narrowed to do not narrow the files that it includes.
    values = [powers[holder] if holder == name or takes(holder) == "paths" else () for holder in holders]
    return () if not all(values) else tuple(dict.fromkeys(value for each in values for value in each))


def takes(name: str) -> str:
    """Return what the long form of a power narrows it to (see `Power.values`); nothing for a name that is no power."""
    power = _BY_NAME.get(name)
    return power.values if power is not None else ""


def check_grants(agent: LoadedAgent, *, strict: bool = False) -> list[Problem]:
    """Return a warning (an error under `strict`) for every unknown name among the grants and the `requires` of tasks, at its place."""
    asked = [(grant.name, f"security.grants.{grant.name}") for grant in agent.spec.security.grants]
    tasks = agent.spec.tasks
    groups = {"tasks.default": tasks.default, **{f"tasks.conditional.{key}": group for key, group in tasks.conditional.items()}}
    asked += [
        (name, f"{path}[{index}].requires[{number}]")
        for path, group in groups.items()
        for index, task in enumerate(group)
        for number, name in enumerate(task.requires)
    ]
    problems: list[Problem] = []
    for name, dotted in asked:
        if len(problems) >= MAX_WARNINGS:
            break
        found = classify(name)
        if found.kind != "unknown":
            continue
        hint = (
            f"did you mean '{found.nearest}'? Nothing is granted by resemblance"
            if found.nearest
            else "toka runtime tools lists what grants open"
        )
        line, column = agent.where(dotted)
        severity = "error" if strict else "warning"
        message = f"the capability {shown(name)} is not known and grants nothing"
        problems.append(Problem(agent.path, line, column, message, hint, "unknown_capability", severity))
    return problems


_WORDS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = tuple(
    (power, re.compile(rf"\b(?:{words})\b", re.IGNORECASE | re.ASCII))
    for power, words in (
        ("git-access", r"git|commit(?:s|ted)?|branch(?:es)?|rebase"),
        ("cargo-execution", r"cargo|rustc|crates?"),
        ("network-access", r"https?|download|upload|fetch from|web ?sites?"),
        ("database-access", r"database|postgres(?:ql)?|mysql|redis"),
        ("script-execution", r"pytest|run (?:the )?(?:tests|scripts?)|npm|make"),
    )
)


def hints(text: str, granted: Collection[str] = ()) -> list[str]:
    """Return sentences such as `mentions git, but git-access is not granted` for whole words of a task's text.

    Hints only: measured on public specs, deciding by such words would wrongly deny three tasks in ten.
    """
    held = {classify(name).name for name in granted}
    found: list[str] = []
    for power, pattern in _WORDS:
        match = pattern.search(text[:10_000])
        if match and power not in held:
            found.append(f"mentions {match[0].lower()}, but {power} is not granted")
    return found
