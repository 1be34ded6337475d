"""Finds the repository that a workdir belongs to, from its files: git directories, what must stay as it is in them, and `.git` entries. Runs no git.

What a workdir says of its repository is not believed alone: a pointer counts only if the repository points back, or lies around the workdir.
"""

# Paths are text here: pathlib drops what realpath needs to see, and costs more than all of the lstat calls.
# ruff: noqa: PTH112, PTH113, PTH116, PTH118, PTH120, PTH123

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from toka_cli.policy.confine import within
from toka_cli.policy.places import GitPlaces

MAX_DEPTH: Final = 64
MAX_MODULES: Final = 200
MAX_POINTER_BYTES: Final = 8192

# Files of a git directory that run code or lead elsewhere (gitrepository-layout(5), gitattributes(5)): also where they do not exist yet.
PROTECTED: Final = ("hooks", "config", "config.worktree", "info/attributes", "commondir")


def git_places(workdir: str) -> GitPlaces:
    """Return the repository of a workdir (absolute, resolved); none and a problem when what is there is not accepted."""
    above = _entry_above(workdir)
    if above is None:
        return GitPlaces()
    entry = f"{above}/.git"
    entries = tuple(_entries(workdir, entry))
    if not _owned_like(entry, workdir):
        return GitPlaces(entries=entries, problem=f"{entry} belongs to another user")
    if os.path.isdir(entry):
        folder = os.path.realpath(entry)
        if not within(folder, above):
            return GitPlaces(entries=entries, problem=f"{entry} leads to {folder}")
    else:
        pointed = _pointer(entry, "gitdir:")
        if pointed is None:
            return GitPlaces(entries=entries, problem=f"{entry} points to no repository")
        folder = os.path.realpath(os.path.join(above, pointed))
        if not _points_back(folder, entry) and not _around(folder, above):
            return GitPlaces(entries=entries, problem=f"{entry} points to {folder}, which does not point back")
    if not os.path.isfile(f"{folder}/HEAD"):
        return GitPlaces(entries=entries, problem=f"{folder} is no repository")
    folders = [folder]
    base = _pointer(f"{folder}/commondir", "")
    if base is not None:
        folders.append(os.path.realpath(os.path.join(folder, base)))
        if not within(folder, folders[1]):
            return GitPlaces(entries=entries, problem=f"{folder}/commondir leads to {folders[1]}")
    protect = [f"{each}/{name}" for each in (*folders, *_modules(folders[-1])) for name in PROTECTED if not (name == "commondir" and each == folder and base)]
    # Which worktrees there are and where they lie is nobody's to change from inside of one.
    protect += [f"{folder}/{name}" for name in ("gitdir", "commondir") if base is not None]
    return GitPlaces(folders=tuple(folders), protect=tuple(dict.fromkeys(protect)), entries=entries)


def _entry_above(workdir: str) -> str | None:
    """The folder whose `.git` the workdir belongs to: itself, or one above it."""
    folder = workdir
    for _ in range(MAX_DEPTH):
        if os.path.lexists(f"{folder}/.git"):
            return folder
        if folder == "/":
            return None
        folder = os.path.dirname(folder)
    return None


def _entries(workdir: str, entry: str) -> Iterator[str]:
    """The `.git` of the workdir and of the submodules that .gitmodules names, those that exist, links resolved."""
    found = [entry] if within(entry, workdir) else []
    try:
        with open(f"{workdir}/.gitmodules", encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 18).splitlines()
    except OSError:
        lines = []
    for line in lines[:10_000]:
        key, _, value = line.partition("=")
        if key.strip() == "path":
            found.append(os.path.join(workdir, value.strip(), ".git"))
    for path in dict.fromkeys(found[:MAX_MODULES]):
        real = os.path.realpath(path)
        if os.path.lexists(path) and within(real, workdir):
            yield real


def _owned_like(entry: str, workdir: str) -> bool:
    """True if the repository belongs to whoever runs toka, or to the owner of the workdir: git itself asks the same (safe.directory)."""
    try:
        owner = os.lstat(entry).st_uid
        return owner in {os.geteuid(), os.stat(workdir).st_uid}
    except OSError:
        return False


def _pointer(path: str, prefix: str) -> str | None:
    """The path in a file of one line (`gitdir: PATH`), or None when it is none."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(MAX_POINTER_BYTES)
    except OSError:
        return None
    if not text.startswith(prefix):
        return None
    found = text.removeprefix(prefix).strip()
    return found if found and "\n" not in found and "\0" not in found else None


def _points_back(folder: str, entry: str) -> bool:
    """True for the git directory of a worktree that names this `.git` as its own."""
    back = _pointer(f"{folder}/gitdir", "")
    return back is not None and os.path.realpath(os.path.join(folder, back)) == os.path.realpath(entry)


def _around(folder: str, worktree: str) -> bool:
    """True for the git directory of a submodule: it lies in the `.git` of a folder around it."""
    above = worktree
    for _ in range(MAX_DEPTH):
        above = os.path.dirname(above)
        if within(folder, f"{above}/.git/modules"):
            return True
        if above == "/":
            return False
    return False


def _modules(folder: str) -> Iterator[str]:
    """The git directories of submodules, which have hooks and a config of their own."""
    top = f"{folder}/modules"
    for count, (place, below, files) in enumerate(os.walk(top)):
        if count > MAX_MODULES * 10:
            return
        if "HEAD" in files and "config" in files:
            yield place
            below[:] = [name for name in below if name == "modules"]
