"""Finds the files that a command line means, and reads them with a bound. The only part of this room that touches the file system.

A directory is scanned recursively for *.yaml and *.yml in the order of their names, files before folders. Not scanned: names that begin
with a dot, `node_modules`, `__pycache__`, and what a file `.tokaignore` in a scanned directory names: one name or glob a line (`examples/`,
`*.draft.yaml`, `old/*.yaml`), `#` for comments. A line without a slash in the middle holds at any depth below that directory, one with a
slash from that directory on; a slash at the end means folders only. Files that are named on the command line, or by an orchestration
file, are read whatever a `.tokaignore` says.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from toka_cli.errors import NotFound
from toka_cli.spec.guard import MAX_FILE_BYTES, refusal

IGNORE_FILE: Final = ".tokaignore"
MAX_FILES: Final = 2_000
MAX_ENTRIES: Final = 200_000
"""Directory entries looked at in one scan: a mistyped `/` ends with a sentence, not after minutes."""

_SUFFIXES: Final = (".yaml", ".yml")
_NEVER: Final = frozenset({"node_modules", "__pycache__"})
_IGNORE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """A file to read: `shown` is how the user would name it; `scanned` when a directory was named and not the file."""

    shown: str
    scanned: bool


@dataclass(slots=True)
class _Scan:
    """One walk over a directory."""

    root: str
    entries: int = 0
    files: int = 0
    visited: set[tuple[int, int]] = field(default_factory=set)


def identity(path: str) -> str:
    """Return a name that is the same for every way to write the path of one file."""
    return os.path.realpath(path)


def find(path: str) -> list[Found]:
    """Return the files that one argument means. Raises NotFound when there is nothing, InvalidSpecs when a directory is far too large."""
    try:
        status = Path(path).stat()
    except ValueError:
        raise NotFound(f"no such file: {path!r}", hint="a path holds no NUL byte") from None
    except OSError as error:
        raise NotFound(
            f"cannot read {path}: {error.strerror}", hint="name a spec file or a directory that holds some", where=path
        ) from None
    if not stat.S_ISDIR(status.st_mode):
        return [Found(path, scanned=False)]
    found = [Found(name, scanned=True) for name in _walk(_Scan(path), path, [])]
    if not found:
        raise NotFound(f"no agent spec in {path}", hint="specs end in .yaml or .yml; begin one with: toka spec new NAME", where=path)
    return found


def read(path: str, *, regular: bool) -> bytes:
    """Return the bytes of a file, one more than the limit at most. Raises InvalidSpecs; with `regular`, pipes and devices are refused."""
    flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_NONBLOCK if regular else 0)
    try:
        descriptor = os.open(path, flags)
        with os.fdopen(descriptor, "rb") as file:
            if regular and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise refusal(path, (0, 0), "this is not an ordinary file", code="unreadable")
            return file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "the path holds a NUL byte"
        raise refusal(path, (0, 0), f"cannot be read: {reason}", code="unreadable") from None


def _walk(scan: _Scan, directory: str, ignored: list[tuple[str, str]]) -> Iterator[str]:
    """Yield the YAML files of a directory. `ignored` holds (directory, pattern) of every .tokaignore above. Links that lead back are left out."""
    try:
        status = Path(directory).stat()
        key = (status.st_dev, status.st_ino)
        if key in scan.visited:
            return
        scan.visited.add(key)
        with os.scandir(directory) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise refusal(directory, (0, 0), f"cannot be read: {error.strerror}", code="unreadable") from None
    scan.entries += len(entries)
    if scan.entries > MAX_ENTRIES:
        raise refusal(
            scan.root, (0, 0), f"more than {MAX_ENTRIES} files below this directory", hint="name a smaller one", code="too_many_files"
        )
    if any(entry.name == IGNORE_FILE for entry in entries):
        ignored = [*ignored, *((directory, pattern) for pattern in _patterns(directory))]
    folders: list[str] = []
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _NEVER:
            continue
        path = str(Path(directory) / entry.name)
        is_folder = _is_folder(entry)
        if not is_folder and not entry.name.endswith(_SUFFIXES):
            continue
        if any(_matches(path, above, pattern, is_folder) for above, pattern in ignored):
            continue
        if is_folder:
            folders.append(path)
            continue
        scan.files += 1
        if scan.files > MAX_FILES:
            raise refusal(
                scan.root,
                (0, 0),
                f"more than {MAX_FILES} YAML files below this directory",
                hint="name a smaller one",
                code="too_many_files",
            )
        yield path
    for folder in folders:
        yield from _walk(scan, folder, ignored)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry leads to a directory; a link that leads nowhere is reported when it is read as a file."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _patterns(directory: str) -> list[str]:
    """Return the lines of a .tokaignore."""
    path = str(Path(directory) / IGNORE_FILE)
    text = read(path, regular=True)[:_IGNORE_BYTES].decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if any(line.startswith("!") for line in lines):
        raise refusal(
            path, (1 + text[: text.index("!")].count("\n"), 1), "lines that begin with '!' are not known here", code="ignore_file"
        )
    return lines[:1000]


def _matches(path: str, above: str, pattern: str, is_folder: bool) -> bool:
    """Return whether a pattern of the .tokaignore in `above` names the path."""
    if pattern.endswith("/"):
        if not is_folder:
            return False
        pattern = pattern.rstrip("/")
    if "/" in pattern:
        return fnmatchcase(Path(path).relative_to(above).as_posix(), pattern.lstrip("/"))
    return fnmatchcase(Path(path).name, pattern)
