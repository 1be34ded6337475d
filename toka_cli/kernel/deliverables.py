"""Which promised files exist: path globs below the workdir, with size and sha256. Free text that is no path simply matches nothing."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from toka_cli.policy.confine import glob_regex

MAX_FILES: Final = 1000
# A glob such as `**` in a huge tree must not hold the kernel for long.
MAX_VISITED: Final = 50_000
MAX_PATTERN_CHARS: Final = 500


def find_deliverables(workdir: Path, globs: Iterable[str]) -> Iterator[tuple[str, int, str]]:
    """`(path below the workdir, bytes, sha256)` of every regular file that a glob matches, in order of the path; symlinks are not followed.

    `*` and `?` stay within a folder, `**` crosses folders, wherever it stands (`reports/**.md`).
    """
    found: set[str] = set()
    for pattern in globs:
        if not _is_pattern(pattern):
            continue
        for relative in sorted(_matching(workdir, pattern.removeprefix("./"))):
            if len(found) < MAX_FILES and relative not in found and (digest := _digest(workdir, relative)) is not None:
                found.add(relative)
                yield relative, *digest


def _is_pattern(text: str) -> bool:
    """True for a relative path or glob; nothing that leaves the workdir."""
    return bool(text) and not text.startswith("/") and ".." not in text.split("/") and text.isprintable() and len(text) <= MAX_PATTERN_CHARS


def _matching(workdir: Path, pattern: str) -> Iterator[str]:
    literal = re.split(r"[*?]", pattern, maxsplit=1)[0]
    if literal == pattern:
        yield pattern
        return
    matches = glob_regex(pattern).fullmatch
    # Only the folder that the literal part names is walked.
    top = literal.rpartition("/")[0]
    visited = 0
    for folder, names, files in os.walk(workdir / top):
        names[:] = sorted(name for name in names if name != ".git")
        visited += len(files) + 1
        if visited > MAX_VISITED:
            return
        prefix = Path(folder).relative_to(workdir).as_posix()
        for name in files:
            relative = name if prefix == "." else f"{prefix}/{name}"
            if matches(relative):
                yield relative


def _digest(workdir: Path, relative: str) -> tuple[int, str] | None:
    path = workdir / relative
    # A folder on the way that is a symbolic link may lead out of the workdir.
    if path.parent.resolve() != workdir.resolve() / Path(os.path.normpath(relative)).parent:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        return status.st_size, hashlib.file_digest(file, "sha256").hexdigest()
