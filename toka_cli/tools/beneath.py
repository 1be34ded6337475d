"""Finds paths below one directory and nowhere else.

In: the directory and a path as an agent wrote it. Out: an open descriptor of the directory that holds the file, and the file's name in it.

How: the path is walked one component at a time from a descriptor of the directory, each opened relative to the one before with O_NOFOLLOW, so the kernel
itself never follows a link or a `..` for us. Links are read and walked in the same way; `..` goes back to the descriptor that we came from. A path that would
leave is refused. Since the walk holds descriptors and not names, exchanging a directory for a link between two steps cannot lead outside: the step fails.
What stays possible: a directory that is moved out of the tree while its descriptor is held is still reached for that one act, as with openat2(2) and
RESOLVE_BENEATH; and a hard link made by somebody with access to both places is an ordinary file. The sandbox is the wall behind this one.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from toka_cli.tools.tool import ToolFailed, nearest_hint, shown

MAX_DEPTH: Final = 128
MAX_LINKS: Final = 40
"""Links on the way, as Linux counts them (path_resolution(7))."""
MAX_STEPS: Final = 4096
MAX_NEIGHBOURS: Final = 1000

# O_PATH, where there is one, needs no right to list the directory on the way, as an ordinary open does not either.
_PASS: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a fifo that takes the file's place after the look at it must not make us wait for a writer.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TRY_WRITE: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_CHANGED: Final = {errno.ELOOP, errno.ENOTDIR, errno.EINVAL, errno.ENOENT, errno.ENXIO}


@dataclass(frozen=True, slots=True)
class Place:
    """A file, or where one could be. `parent` is the descriptor of its directory, `names` the way to it below the working directory, links resolved.

    `found` is what lstat said of it, None when nothing is there.
    """

    parent: int
    name: str
    names: tuple[str, ...]
    found: os.stat_result | None

    @property
    def path(self) -> str:
        """The path below the working directory, fit to be shown."""
        return shown("/".join(self.names)) or "."


@contextmanager
def place(workdir: Path, path: str, *, writing: bool = False) -> Iterator[Place]:
    """Walk to `path`. `writing` makes directories that are missing on the way and refuses everything in a `.git`.

    Raises ToolFailed for a path that leaves the working directory and for whatever the system refuses, inside the `with` too.
    """
    _check_text(path)
    descriptors: list[int] = []
    try:
        # A grant that is narrowed to a folder below does not open the workdir itself.
        descriptors.append(os.open(workdir, _PASS & ~os.O_NOFOLLOW))
        yield _walk(workdir, path, descriptors, writing=writing)
    except OSError as error:
        raise _refusal(path, error) from error
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@contextmanager
def reading(workdir: Path, path: str) -> Iterator[tuple[int, os.stat_result, Place]]:
    """Open the regular file at `path` for reading. Raises ToolFailed for anything else: directories, pipes, sockets and devices are never opened."""
    with place(workdir, path) as here:
        descriptor = open_regular(here)
        try:
            yield descriptor, os.fstat(descriptor), here
        finally:
            os.close(descriptor)


@contextmanager
def listing(here: Place) -> Iterator[int]:
    """Open the directory at `here` so that it can be listed. Raises ToolFailed when it is none or missing."""
    if here.found is None:
        raise missing(here)
    if not stat.S_ISDIR(here.found.st_mode):
        raise ToolFailed(f"{here.path} is {kind_words(here.found.st_mode)}, not a directory")
    descriptor = os.open(here.name, _LIST, dir_fd=here.parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_regular(here: Place) -> int:
    """A descriptor of the regular file at `here`, which the caller closes. Raises ToolFailed, or OSError when the file changed in between."""
    if here.found is None:
        raise missing(here)
    # Looked at before opening, since opening a device can already do something, and after it, since names can be exchanged in between.
    require_regular(here.found, here.path)
    descriptor = os.open(here.name, _READ, dir_fd=here.parent)
    try:
        require_regular(os.fstat(descriptor), here.path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_child_directory(parent: int, name: str) -> int:
    """A descriptor of the directory `name` below an open one, never through a link. Raises OSError."""
    return os.open(name, _LIST, dir_fd=parent)


def require_regular(found: os.stat_result, path: str) -> None:
    """Raise ToolFailed unless this is a regular file."""
    if not stat.S_ISREG(found.st_mode):
        raise ToolFailed(f"{path} is {kind_words(found.st_mode)}, not a regular file")


def kind_words(mode: int) -> str:
    """What a mode says a file is, for a sentence."""
    kinds = (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISLNK, "a link"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((words for test, words in kinds if test(mode)), "a device")


def replace(here: Place, content: bytes) -> None:
    """Put `content` at `here` in one step: readers see the old file or the new one, never a part, and on any error the old one stays.

    Keeps the permission bits, and the owner where the system lets us. Other hard links of the old file keep the old content. Nothing is synced to the disk.
    Raises ToolFailed when the file changed since it was looked at, OSError otherwise.
    """
    old = here.found
    if old is not None:
        require_regular(old, here.path)
        # A rename asks for no right on the file itself: without this a file made read-only would be replaced all the same.
        os.close(os.open(here.name, _TRY_WRITE, dir_fd=here.parent))
    temporary = f".toka-{os.urandom(8).hex()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=here.parent)
    try:
        try:
            with memoryview(content) as left:
                done = 0
                while done < len(left):
                    done += os.write(descriptor, left[done:])
            if old is not None:
                if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                    with suppress(OSError):
                        os.fchown(descriptor, old.st_uid, old.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(old.st_mode) & 0o777)
        finally:
            os.close(descriptor)
        if _identity(_look(here.name, here.parent)) != _identity(old):
            raise ToolFailed(f"{here.path} was changed by somebody else meanwhile; nothing was written", hint="read it again")
        os.replace(temporary, here.name, src_dir_fd=here.parent, dst_dir_fd=here.parent)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=here.parent)
        raise


def missing(here: Place) -> ToolFailed:
    """The refusal for a file that is not there, with the names that are near."""
    neighbours: list[str] = []
    with suppress(OSError):
        descriptor = open_child_directory(here.parent, ".")
        try:
            with os.scandir(descriptor) as entries:
                neighbours = [entry.name for entry, _ in zip(entries, range(MAX_NEIGHBOURS), strict=False)]
        finally:
            os.close(descriptor)
    return ToolFailed(f"there is no {here.path}", hint=nearest_hint(here.name, neighbours) or "list_dir and glob show what is there")


def parts_below(workdir: Path, path: str) -> list[str]:
    """The components of a path below the working directory, `..` kept. Raises ToolFailed for an absolute path that begins elsewhere."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if not path.startswith("/"):
        return parts
    for root in (os.path.abspath(workdir), os.path.realpath(workdir)):  # noqa: PTH100
        above = [part for part in root.split("/") if part]
        if parts[: len(above)] == above:
            return parts[len(above) :]
    raise _outside(path)


def _walk(workdir: Path, path: str, descriptors: list[int], *, writing: bool) -> Place:
    """One step per component. `descriptors` holds the open directories from the working directory down; the caller closes them."""
    names: list[str] = []
    left = parts_below(workdir, path)[::-1]
    links = 0
    for _ in range(MAX_STEPS):
        if not left:
            return Place(descriptors[-1], ".", tuple(names), os.fstat(descriptors[-1]))
        part = left.pop()
        if part == "..":
            if not names:
                raise _outside(path)
            names.pop()
            os.close(descriptors.pop())
            continue
        if writing and part.casefold() == ".git":
            raise ToolFailed(f"{shown(path)} is in a .git directory, which file tools do not write", hint="use git for what git owns")
        found = _look(part, descriptors[-1])
        if found is not None and stat.S_ISLNK(found.st_mode):
            links += 1
            if links > MAX_LINKS:
                raise ToolFailed(f"{shown(path)}: links that go round in a circle, or more than {MAX_LINKS} of them")
            target = os.readlink(part, dir_fd=descriptors[-1])
            if target.startswith("/"):
                names.clear()
                while len(descriptors) > 1:
                    os.close(descriptors.pop())
            left.extend(parts_below(workdir, target)[::-1])
            continue
        here = Place(descriptors[-1], part, (*names, part), found)
        if not left:
            return here
        if found is None:
            # A path that goes back again must not leave new directories behind when it is refused later.
            if not writing or ".." in left:
                raise missing(here)
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=descriptors[-1])
        elif not stat.S_ISDIR(found.st_mode):
            raise ToolFailed(f"{here.path} is {kind_words(found.st_mode)}, not a directory")
        if len(names) >= MAX_DEPTH:
            raise ToolFailed(f"{shown(path[:200])}: more than {MAX_DEPTH} directories deep")
        descriptors.append(os.open(part, _PASS, dir_fd=descriptors[-1]))
        names.append(part)
    raise ToolFailed(f"{shown(path[:200])}: more than {MAX_STEPS} steps to walk")


def _look(name: str, parent: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _identity(found: os.stat_result | None) -> tuple[int, ...] | None:
    return None if found is None else (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)


def _check_text(path: str) -> None:
    if not path:
        raise ToolFailed("the path is empty", hint='write "." for the working directory')
    if "\0" in path:
        raise ToolFailed("a path cannot hold a NUL character")
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise ToolFailed(f"not a path that can be written as UTF-8: {shown(path[:200])}") from None


def _outside(path: str) -> ToolFailed:
    return ToolFailed(
        f"{shown(path[:200])} leads outside of the working directory",
        hint="only files below the working directory can be reached, by paths relative to it; this is a rule, another way does not help",
    )


def _refusal(path: str, error: OSError) -> ToolFailed:
    name = shown(path[:200])
    if error.errno in _CHANGED:
        return ToolFailed(f"{name} changed while it was being opened", hint="look again, then try again")
    hint = "the sandbox or the file's permissions do not allow it" if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS} else None
    return ToolFailed(f"{name}: {os.strerror(error.errno or 0).lower()}", hint=hint)
