"""What in a repository makes git start programs, before and after an agent: the `.git` pointer, config, hooks, attributes, borrowed object stores.

In: a working directory. Out: a digest of each, and what differs between two looks, in words. For where no wall holds them read-only. Follows no links, reads
bounded amounts, changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 1 << 20
"""Of one file; of a longer one its size and beginning count."""
MAX_NAMES: Final = 500
"""Of one folder, and of all submodules together."""
MAX_DEPTH: Final = 4
FILES: Final = ("config", "config.worktree", "info/attributes", "objects/info/alternates", "objects/info/http-alternates", "commondir", "gitdir")
POINTER: Final = ".git"


def git_state(workdir: str | Path) -> dict[str, str]:
    """What is there now, by its path below the repository; empty where there is no repository. Raises nothing: what cannot be read is recorded as that."""
    top = Path(workdir)
    pointer = _look(top / POINTER, identity=True)
    if pointer is None:
        return {}
    found = {POINTER: pointer}
    own = _folder_of(top / POINTER)
    if own is None:
        return found
    common = _repository_of(own)
    for base, prefix in dict.fromkeys(((own, "own/" if own != common else ""), (common, ""))):
        found |= _of_folder(base, prefix)
    for module in _submodules(common / "modules"):
        found |= _of_folder(module, f"{module.relative_to(common).as_posix()}/")
    return found


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What differs between two looks: `.git/hooks/pre-commit was added`, … A repository that was only made in between is nobody's loss: nothing differs."""
    if not before:
        return []
    differences = []
    for name in sorted(before.keys() | after.keys()):
        path = name if name == POINTER else f"{POINTER}/{name}"
        if name not in after:
            differences.append(f"{path} was removed")
        elif name not in before:
            differences.append(f"{path} was added")
        elif before[name] != after[name]:
            differences.append(f"{path} was changed")
    return differences


def _of_folder(base: Path, prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in FILES:
        if (seen := _look(base / name)) is not None:
            found[prefix + name] = seen
    hooks = _look(base / "hooks")
    if hooks is not None and not hooks.startswith("folder"):
        found[f"{prefix}hooks"] = hooks
    for name in _names(base / "hooks"):
        if (seen := _look(base / "hooks" / name)) is not None:
            found[f"{prefix}hooks/{name}"] = seen
    return found


def _look(path: Path, *, identity: bool = False) -> str | None:
    """What a path is, its permissions and a digest of its content; None when nothing is there. `identity`: which file it is belongs to it."""
    try:
        status = os.lstat(path)
        which = f" {status.st_dev}:{status.st_ino}" if identity else ""
        if stat.S_ISLNK(status.st_mode):
            return f"link to {path.readlink()}"
        if stat.S_ISDIR(status.st_mode):
            return f"folder{which}"
        if not stat.S_ISREG(status.st_mode):
            return f"special {stat.S_IFMT(status.st_mode):o}"
        return f"file {stat.S_IMODE(status.st_mode):o} {status.st_size} {_digest(path)}"
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _digest(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return hashlib.sha256(os.read(descriptor, MAX_BYTES)).hexdigest()
    finally:
        os.close(descriptor)


def _folder_of(pointer: Path) -> Path | None:
    """The folder that `.git` is, or names."""
    with suppress(OSError):
        status = os.lstat(pointer)
        if stat.S_ISDIR(status.st_mode):
            return pointer
        if stat.S_ISREG(status.st_mode) and status.st_size <= 4096:
            words = pointer.read_bytes()
            if words.startswith(b"gitdir: "):
                return Path(os.path.realpath(pointer.parent / os.fsdecode(words[8:].strip(b"\n"))))
    return None


def _repository_of(own: Path) -> Path:
    """The folder of the repository that a linked working tree belongs to, else the same one."""
    with suppress(OSError):
        words = own / "commondir"
        if stat.S_ISREG(os.lstat(words).st_mode) and words.stat().st_size <= 4096:
            return Path(os.path.realpath(own / os.fsdecode(words.read_bytes().strip(b"\n"))))
    return own


def _names(folder: Path) -> list[str]:
    """The names in a folder, sorted, as many as are looked at; none for what is no folder."""
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            return []
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry, _ in zip(entries, range(MAX_NAMES), strict=False))
    except OSError:
        return []
    return names


def _submodules(folder: Path, depth: int = 0) -> Iterator[Path]:
    """The repositories of submodules, which git keeps in there by name; a name may have slashes."""
    for name in _names(folder) if depth < MAX_DEPTH else ():
        path = folder / name
        if (path / "HEAD").is_file():
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from _submodules(path, depth + 1)
