"""Where things are on this machine, as plain data: what a profile of walls is made of. Collected by the supervisor, links resolved; decides nothing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["folder", "file", "missing", "outside"]


@dataclass(frozen=True, slots=True)
class Named:
    """A path of the workdir that a grant names: what is there, and where it really is. `outside`: a link leads out of the workdir, or it cannot be read."""

    kind: Kind
    path: str


@dataclass(frozen=True, slots=True)
class GitPlaces:
    """The repository that the workdir belongs to.

    `folders` are its git directories (of a worktree: its own and the common one). `protect` are those files in them that run code or lead elsewhere: hooks,
    config, attributes; also where they do not exist yet. `entries` are the `.git` of the workdir and of its submodules: folders, or files that point to one.
    `problem` says why a repository was not accepted.
    """

    folders: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """Absolute paths that exist, links resolved, unless a field says otherwise.

    `system` may be run and read by every agent, `settings` read, `devices` read and written; `shared` is read by agents that have no names of users and no
    /proc of their own. `python` is the interpreter that toka itself runs in. `own` is
    what toka's own code lies in: never writable. `scripts` are toolchains outside the system, `cargo` those of Rust, `crates` its registry (never a
    credential). `named` are the paths that grants name, by the name relative to the workdir. `sockets` are resolved by the name in the grant.
    `home` is the user's, for a warning only: nothing of it is opened.
    """

    workdir: str
    system: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    python: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    cargo: tuple[str, ...] = ()
    crates: tuple[str, ...] = ()
    git_settings: tuple[str, ...] = ()
    git: GitPlaces = GitPlaces()
    named: Mapping[str, Named] = field(default_factory=dict)
    sockets: Mapping[str, str | None] = field(default_factory=dict)
    home: str = ""
