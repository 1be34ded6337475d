"""Compiles powers into walls: which paths may be read, run and written, which way out there is. In: powers with what each is narrowed to, and the places of
this machine. Out: Walls, hosts, the same in words by power, and what no wall can express.

A wall is never wider than the grant: what cannot be expressed exactly opens less, and a note says so. Pure; nothing is resolved or applied here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from toka_cli.policy.capability import values_of
from toka_cli.policy.confine import area_of, within
from toka_cli.policy.hosts import addresses_of
from toka_cli.policy.places import Places
from toka_cli.protocol.messages import Walls

READ: Final = 1
RUN: Final = 2
WRITE: Final = 4

Powers = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Ground:
    """What the machine can hold: the level of walls, and whether connections can be held to toka's proxy alone (by namespaces, or Landlock from ABI 4)."""

    level: str
    proxy: bool

    @property
    def private(self) -> bool:
        """True where an agent has file systems, a loopback and processes of its own."""
        return self.level == "full"


@dataclass(frozen=True, slots=True)
class Profile:
    """What powers come to on this machine.

    `walls` are those of an agent's commands. `cell` are those of its own process, whose file tools the kernel asks to keep to a pattern path by path: they
    are wider than `walls` where a pattern has wildcards that no wall can express. `hosts` are `host:port` for the kernel's proxy. `lines` say by power what
    the walls let through; `notes` what was asked for and is not given. `folders` and `files` (empty ones) of the workdir are granted for writing and have to
    be made before the walls are built, because a wall opens only what exists.
    """

    walls: Walls
    cell: Walls
    hosts: tuple[str, ...]
    lines: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    folders: tuple[str, ...]
    files: tuple[str, ...]


def profile_of(powers: Powers, places: Places, ground: Ground) -> Profile:
    """Return what these powers open. Powers that the walls know nothing of (agent-spawn, mcp:...) open nothing here."""
    making = _Making(places, ground)
    making.everybody()
    for power, values in powers.items():
        compiler = _COMPILERS.get(power)
        if compiler is not None:
            compiler(making, values)
    return making.done(powers)


def narrowed(powers: Powers, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the powers that a task is left with that says which it requires: those of its agent, as narrow as the agent's, and no others."""
    found = {name: values_of(powers, name) for name in names}
    return {name: values for name, values in found.items() if values is not None}


@dataclass(slots=True)
class _Making:
    """A profile while it is made: rights by path for commands, more for the cell alone."""

    places: Places
    ground: Ground
    rights: dict[str, int] = field(default_factory=dict)
    more: dict[str, int] = field(default_factory=dict)
    hosts: dict[str, None] = field(default_factory=dict)
    sockets: dict[str, None] = field(default_factory=dict)
    lines: dict[str, dict[str, None]] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    folders: dict[str, None] = field(default_factory=dict)
    files: dict[str, None] = field(default_factory=dict)
    network: str = "none"

    def everybody(self) -> None:
        """What every agent has: the system and toka's interpreter to run, settings to read, devices that hold nothing.

        Its home and its temporary folders are its own and are opened by whoever makes them; at level full so are /tmp, /dev/shm, /etc and /proc.
        """
        places = self.places
        for paths, right in (
            (places.settings, READ),
            ((), READ) if self.ground.private else (places.shared, READ),
            (places.system, READ | RUN),
            (places.python, READ | RUN),
            (places.devices, READ | WRITE),
        ):
            for path in paths:
                self.open("", path, right)

    def open(self, power: str, path: str, right: int, words: str = "") -> None:
        """Open a path for commands and for the cell."""
        self.rights[path] = self.rights.get(path, 0) | right
        if words:
            self.say(power, f"{words} {path}")

    def say(self, power: str, words: str) -> None:
        """One line about a power, once."""
        self.lines.setdefault(power, {})[words] = None

    def note(self, words: str) -> None:
        """Something that was asked for and is not given."""
        self.notes[words] = None

    def workspace(self, power: str, values: tuple[str, ...], right: int, words: str) -> None:
        """Open the workdir, or what a grant is narrowed to in it."""
        if not values:
            self.open(power, self.places.workdir, right, words)
            return
        for pattern in values:
            self._pattern(power, pattern, right, words)

    def _pattern(self, power: str, pattern: str, right: int, words: str) -> None:
        area = area_of(pattern)
        if area is None:
            # Not a path below the workdir: said of the spec, at its place.
            return
        if area.path == "." and area.exact:
            self.open(power, self.places.workdir, right, words)
            return
        named = self.places.named.get(area.path)
        path = self.places.workdir if area.path == "." else named.path if named else ""
        kind = "folder" if area.path == "." else named.kind if named else "outside"
        if kind == "outside":
            self.note(f"{power}: {pattern!r} leads out of the workdir; it opens nothing")
            return
        if right & WRITE and (area.path == ".git" or area.path.startswith(".git/")):
            self.note(f"{power}: {pattern!r} is not opened for writing: .git is written with git-access")
            return
        if kind == "missing":
            if not (right & WRITE and area.folder):
                self.note(f"{power}: {pattern!r} does not exist, so a wall cannot open it" + ("; a folder to be made is written NAME/**" * bool(right & WRITE)))
                return
            self.folders[area.path] = None
        elif kind == "file" and area.folder:
            self.note(f"{power}: {pattern!r} names a folder, and {area.path} is a file; it opens nothing")
            return
        if not area.exact:
            self.more[path] = self.more.get(path, 0) | (right & ~RUN)
            self.say(power, f"nothing for commands in {pattern}: no wall can express it; file tools keep to it, asked call by call")
            self.note(f"{power}: no wall can express {pattern!r}, so commands get nothing of it; file tools do (a folder is written NAME/**)")
            return
        self.open(power, path, right, words)

    def done(self, powers: Powers) -> Profile:
        """The profile, each path once and in the list that its rights call for."""
        git = self.places.git
        # Hooks and config run code for whoever uses the repository next; a `.git` that is a file says which repository that is.
        protect = [*git.protect, *(entry for entry in git.entries if entry not in git.folders)] if "git-access" in powers else list(git.entries)
        walls = self._walls(self.rights, protect)
        cell = {path: self.rights.get(path, 0) | self.more.get(path, 0) for path in (*self.rights, *self.more)}
        return Profile(
            walls=walls,
            cell=self._walls(cell, protect) if self.more else walls,
            hosts=tuple(self.hosts),
            lines={power: tuple(found) for power, found in self.lines.items()},
            notes=tuple(self.notes),
            folders=tuple(self.folders),
            files=tuple(self.files),
        )

    def _walls(self, rights: Mapping[str, int], protect: Iterable[str]) -> Walls:
        kept = {path: right for path, right in rights.items() if not _had_above(path, right, rights)}
        writable = [path for path, right in kept.items() if right & WRITE]
        # Toka's own code and interpreter may lie in the workdir (a virtual environment does); nobody who runs in them may change them.
        kept_as_is = [path for path in (*protect, *self.places.own) if any(within(path, other) for other in writable)]

        def with_rights(*wanted: int) -> tuple[str, ...]:
            return tuple(path for path, right in kept.items() if right in wanted)

        return Walls(
            level=self.ground.level,
            read=with_rights(READ),
            execute=with_rights(READ | RUN),
            write=with_rights(READ | WRITE),
            write_execute=with_rights(READ | RUN | WRITE),
            protect=tuple(dict.fromkeys(kept_as_is)),
            network=self.network,
            sockets=tuple(self.sockets),
        )


def _had_above(path: str, right: int, rights: Mapping[str, int]) -> bool:
    """True if a folder above gives all of these rights already."""
    above = path
    while above not in {"/", ""}:
        above = above.rpartition("/")[0] or "/"
        if rights.get(above, 0) & right == right:
            return True
    return False


# --- one function for each power ----------------------------------------------------------------------------------------------------


def _filesystem_read(making: _Making, values: tuple[str, ...]) -> None:
    making.workspace("filesystem-read", values, READ, "read")


def _filesystem_write(making: _Making, values: tuple[str, ...]) -> None:
    making.workspace("filesystem-write", values, READ | WRITE, "read and write")
    making.say("filesystem-write", "never .git")


def _script_execution(making: _Making, values: tuple[str, ...]) -> None:
    places = making.places
    if values:
        # The walls know files, not names of programs: of the workspace, only programs that are listed by their path can be run.
        making.open("script-execution", places.workdir, READ | WRITE, "read and write")
        making.workspace("script-execution", tuple(value for value in values if "/" in value), READ | RUN | WRITE, "run")
    else:
        making.open("script-execution", places.workdir, READ | RUN | WRITE, "read, write and run")
    making.say("script-execution", "never .git")
    for path in places.scripts:
        making.open("script-execution", path, READ | RUN, "run")
    if making.ground.private:
        if making.network == "none":
            making.network = "loopback"
        making.say("script-execution", "a private loopback and /dev/shm")
    else:
        making.say("script-execution", "no loopback and no /dev/shm here")


def _cargo_execution(making: _Making, values: tuple[str, ...]) -> None:
    places = making.places
    making.open("cargo-execution", places.workdir, READ, "read")
    target = places.named.get("target")
    if target is not None and target.kind in {"folder", "missing"}:
        making.open("cargo-execution", target.path, READ | RUN | WRITE, "write and run")
        if target.kind == "missing":
            making.folders["target"] = None
    else:
        making.note("cargo-execution: target is no folder of the workdir, so nothing can be built there")
    lock, manifest = places.named.get("Cargo.lock"), places.named.get("Cargo.toml")
    if lock is not None and (lock.kind == "file" or (lock.kind == "missing" and manifest is not None and manifest.kind == "file")):
        # Without one, cargo writes it before it builds anything; a wall opens only what is there.
        making.open("cargo-execution", lock.path, READ | WRITE, "write")
        if lock.kind == "missing":
            making.files["Cargo.lock"] = None
    for path in places.cargo:
        making.open("cargo-execution", path, READ | RUN, "run")
    for path in places.crates:
        making.open("cargo-execution", path, READ, "read")
    making.say("cargo-execution", "never the registry's credentials")


def _git_access(making: _Making, values: tuple[str, ...]) -> None:
    git = making.places.git
    for path in making.places.git_settings:
        making.open("git-access", path, READ, "read")
    for folder in git.folders:
        making.open("git-access", folder, READ | WRITE, "read and write")
    if git.folders:
        making.say("git-access", "never its hooks and config")
    else:
        making.note(f"git-access: {git.problem or 'the workdir belongs to no repository'}; nothing is opened")


def _network_access(making: _Making, values: tuple[str, ...]) -> None:
    _reach(making, "network-access", [address for value in values for address in _addresses(value, (443, 80))])


def _database_access(making: _Making, values: tuple[str, ...]) -> None:
    found: list[str] = []
    for value in values:
        plain = value.removeprefix("unix:")
        if not plain.startswith("/"):
            found += _addresses(value, ())
            continue
        path = making.places.sockets.get(plain)
        if path is None:
            making.note(f"database-access: {plain!r} is no socket of this machine; it opens nothing")
        elif not making.ground.private:
            making.note(f"database-access: {plain}: at level {making.ground.level} all unix sockets would be open with it, so it is not opened")
        else:
            making.sockets[path] = None
            making.say("database-access", f"connect to {path}")
    _reach(making, "database-access", found)


def _addresses(value: str, default_ports: tuple[int, ...]) -> tuple[str, ...]:
    """The addresses of a value; none for what is none, which is said of the spec, at its place."""
    try:
        return addresses_of(value, default_ports=default_ports)
    except ValueError:
        return ()


def _reach(making: _Making, power: str, found: list[str]) -> None:
    if not found:
        return
    making.hosts |= dict.fromkeys(found)
    if not making.ground.proxy:
        making.say(power, "nothing for commands")
        making.note(f"{power}: nothing on this machine can hold connections to toka's proxy, so commands get no network; toka's own tools reach the hosts")
        return
    making.network = "proxy"
    making.say(power, f"reach {', '.join(found)} through toka's proxy, and nothing else")


_COMPILERS: Final[dict[str, Callable[[_Making, tuple[str, ...]], None]]] = {
    "filesystem-read": _filesystem_read,
    "filesystem-write": _filesystem_write,
    "script-execution": _script_execution,
    "cargo-execution": _cargo_execution,
    "network-access": _network_access,
    "database-access": _database_access,
    "git-access": _git_access,
}
