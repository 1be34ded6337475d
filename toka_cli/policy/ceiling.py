"""What somebody allows at most: the user's settings, a project's toka.toml, a run's orchestration file. In: an agent's powers. Out: those that are left.

A ceiling only narrows; nothing is granted by one. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from toka_cli.policy.capability import MCP_PREFIX, classify, held, takes, values_of
from toka_cli.policy.confine import area_of
from toka_cli.policy.hosts import address_covers, addresses_of

Powers = Mapping[str, tuple[str, ...]]

PRESETS: Final[dict[str, frozenset[str] | None]] = {
    "sandboxed": frozenset({"filesystem-read", "agent-communication"}),
    "restricted": frozenset(
        {"filesystem-read", "filesystem-write", "script-execution", "cargo-execution", "git-access", "agent-communication"}
    ),
    "privileged": None,
}
"""What each preset allows at most; None: whatever a spec asks for. The walls stand in all three: a preset takes grants away, it takes no wall down.

`sandboxed` agents look at the workspace and answer; they change nothing and run nothing of it. `restricted` ones work in the workspace with all toolchains,
and reach no network, no database, no MCP server and no other agent. `privileged` ones have what their specs ask for.
"""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What `source` (in words: "your settings") allows at most.

    `allowed` None: everything that is not denied. `bounds` are what a power is narrowed to here; `listed` those that were named one by one. `why` says
    which keys say so.
    """

    source: str
    allowed: frozenset[str] | None = None
    denied: frozenset[str] = frozenset()
    bounds: Powers = field(default_factory=dict)
    listed: frozenset[str] = frozenset()
    why: str = ""

    def permits(self, power: str) -> bool:
        """True if a power, and all that it includes, may be held."""
        names = held([power])
        if any(_named(name, self.denied) for name in names):
            return False
        if self.allowed is not None and not all(_named(name, self.allowed) for name in names):
            return False
        # What is narrowed here must not be had in full through a power that nobody named.
        return power in self.listed or not any(name in self.bounds for name in names if name != power)


def ceiling(source: str, *, preset: str | None = None, allow: Powers | None = None, deny: Iterable[str] = (), why: str = "") -> Ceiling:
    """Return the ceiling of a preset with more powers (`allow`) and fewer (`deny`). A power that `allow` narrows is narrowed whatever the preset.

    Raises ValueError for a name that is no power: a misspelt one would deny nothing.
    """
    allow = dict(allow or {})
    denied = list(deny)
    for name in (*allow, *denied):
        found = classify(name)
        if found.kind != "power":
            close = f" (did you mean {found.nearest}?)" if found.nearest else ""
            raise ValueError(f"{name[:60]!r} is no power{close}")
    named = {classify(name).name: tuple(values) for name, values in allow.items()}
    base = PRESETS["privileged" if preset is None else preset]
    # What the preset allows stays as wide as that, unless it is narrowed by name.
    bounds = {name: values for name, values in _bounds(named).items() if name in named or (base is not None and name not in base)}
    # To allow script-execution is to allow the reading and writing that come with it.
    allowed = None if base is None else base | held(named)
    return Ceiling(source, allowed, frozenset(classify(name).name for name in denied), bounds, frozenset(named), why)


def only(source: str, powers: Powers) -> Ceiling:
    """Return the ceiling that allows exactly these powers, each within its values."""
    return Ceiling(source, held(powers), bounds=_bounds(powers), listed=frozenset(powers))


def _bounds(powers: Powers) -> dict[str, tuple[str, ...]]:
    """What each power is narrowed to here, also those that come with another one."""
    return {name: values for name in sorted(held(powers)) if (values := values_of(powers, name))}


def under(powers: Powers, ceilings: Iterable[Ceiling]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the powers that all ceilings leave, and by name of a power who held it back, wholly or in part, in words.

    Of a power that is not allowed, what it includes and is allowed stays: who may not write may still read.
    """
    left = {name: tuple(values) for name, values in powers.items()}
    held_back: dict[str, str] = {}
    # What is left of a grant may be held back again; that is said of the grant.
    comes_from = {name: name for name in left}
    for each in ceilings:
        who = f"{each.source} ({each.why})" if each.why else each.source
        after: dict[str, list[tuple[str, ...]]] = {}
        origin: dict[str, str] = {}
        for name, values in left.items():
            grant = comes_from[name]
            parts = {name: values}
            if not each.permits(name):
                parts = {part: values if takes(name) == "paths" else () for part in sorted(held([name])) if part != name and each.permits(part)}
                _note(held_back, grant, f"held back by {who}" + (f"; {', '.join(parts)} is left" if parts else ""))
            for part, narrowed in parts.items():
                bounded = _within(part, narrowed, each.bounds)
                if bounded != narrowed:
                    _note(held_back, grant, f"{part} only for {', '.join(each.bounds[part])}, says {who}")
                if bounded is not None:
                    after.setdefault(part, []).append(bounded)
                    origin.setdefault(part, grant)
        left = {name: () if () in found else tuple(dict.fromkeys(value for each in found for value in each)) for name, found in after.items()}
        comes_from = origin
    return left, held_back


def _note(held_back: dict[str, str], grant: str, words: str) -> None:
    held_back[grant] = f"{held_back[grant]}; {words}" if grant in held_back else words


def _named(power: str, names: Collection[str]) -> bool:
    """True if a power is among names; `mcp:SERVER` names all tools of that server."""
    if power in names:
        return True
    return power.startswith(MCP_PREFIX) and power.split(".", 1)[0] in names


def _within(power: str, values: tuple[str, ...], bounds: Powers) -> tuple[str, ...] | None:
    """What is left of a power's values (empty: not narrowed) within its bounds; None when nothing is."""
    bound = bounds.get(power, ())
    if not bound:
        return values
    if not values:
        return bound
    kind = takes(power)
    kept = [wanted if _covers(kind, allowed, wanted) else allowed for allowed in bound for wanted in values if _meet(kind, allowed, wanted)]
    return tuple(dict.fromkeys(kept)) or None


def _meet(kind: str, one: str, other: str) -> bool:
    return _covers(kind, one, other) or _covers(kind, other, one)


def _covers(kind: str, allowed: str, wanted: str) -> bool:
    """True if what one value means lies wholly in what the other means; patterns with wildcards only cover themselves."""
    if allowed == wanted:
        return True
    if kind == "paths":
        area, other = area_of(allowed), area_of(wanted)
        return area is not None and other is not None and area.exact and (area.path == "." or f"{other.path}/".startswith(f"{area.path}/"))
    if "host:port" in kind and not allowed.startswith("/") and not wanted.startswith("/"):
        try:
            wide, narrow = addresses_of(allowed), addresses_of(wanted)
        except ValueError:
            return False
        return all(any(address_covers(one, other) for one in wide) for other in narrow)
    return False
