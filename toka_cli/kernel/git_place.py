"""Where the repository of a working directory really is, and whether what is there can be trusted to be it. In: a directory an agent may have written. Out:
its places, or a refusal.

A `.git` that leads elsewhere could make the kernel read or write somebody else's repository in the agent's place. Reads small files; changes nothing.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from toka_cli.tools.tool import ToolFailed

MAX_POINTER: Final = 4096
MAX_ALTERNATES: Final = 16 * 1024
# The folders that are linked into the kernel's own view of the repository, and the files.
FOLDERS: Final = ("objects", "refs")
FILES: Final = ("HEAD", "index", "packed-refs", "config", "shallow")
UNDER_WAY: Final = {
    "MERGE_HEAD": "a merge",
    "CHERRY_PICK_HEAD": "a cherry-pick",
    "REVERT_HEAD": "a revert",
    "rebase-merge": "a rebase",
    "rebase-apply": "a rebase",
    "BISECT_LOG": "a bisection",
}
_BRANCH: Final = re.compile(rb"ref: (refs/heads/[^\x00-\x20\x7f~^:?*\[\\]{1,200})\n?")
_COMMIT: Final = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64})\n?")


@dataclass(frozen=True, slots=True)
class GitPlace:
    """The places of one repository, absolute and without links: `own` is that of this working tree, `common` that of the repository; mostly they are one.

    `alternates` are the other object stores that it borrows from.
    """

    workdir: Path
    own: Path
    common: Path
    alternates: tuple[Path, ...] = ()

    def under_way(self) -> str | None:
        """What has been begun and not ended in this working tree, in words."""
        return next((words for name, words in UNDER_WAY.items() if os.path.lexists(self.own / name)), None)

    def head(self) -> tuple[str, bool]:
        """The content of HEAD (`ref: refs/heads/…` or a commit), and whether it names a branch. Raises ToolFailed."""
        data = _small(self.own / "HEAD", MAX_POINTER)
        if (match := _BRANCH.fullmatch(data)) and b".." not in match[1] and not match[1].endswith((b"/", b".lock")) and b"//" not in match[1]:
            return f"ref: {match[1].decode('utf-8', 'surrogateescape')}", True
        if match := _COMMIT.fullmatch(data):
            return match[1].decode(), False
        raise ToolFailed("the HEAD of the repository names neither a branch nor a commit")


def find_git(workdir: Path, known: GitPlace | None = None) -> GitPlace:
    """The repository of a working directory. Raises ToolFailed where there is none, or one that is not its own.

    `known` is what was found before the agent ran: what differs from it was made by the agent.
    """
    work = Path(os.path.realpath(workdir))
    pointer = work / ".git"
    try:
        found = os.lstat(pointer)
    except OSError:
        raise ToolFailed(f"there is no git repository in {work}", hint="git init makes one; a repository further up is not used") from None
    if stat.S_ISDIR(found.st_mode):
        own = common = pointer
        if os.path.lexists(own / "commondir"):
            raise ToolFailed("the folder .git points to another repository, which a repository of its own does not")
    elif stat.S_ISREG(found.st_mode):
        own, common = _linked(work, pointer)
    else:
        raise ToolFailed(".git is neither a folder nor the file of a working tree that git made")
    _check(own, common)
    place = GitPlace(work, own, common, _alternates(common))
    if known is not None and place != known:
        raise ToolFailed("the repository is not the one that was here when the agent started", hint="its .git or its alternates have been changed")
    return place


def _linked(work: Path, pointer: Path) -> tuple[Path, Path]:
    """The two folders of a linked working tree (git-worktree(1)); each has to name the other, which nobody can make a repository of somebody else do."""
    data = _small(pointer, MAX_POINTER)
    if not data.startswith(b"gitdir: "):
        raise ToolFailed(".git is a file, and does not say where the repository is")
    own = Path(os.path.realpath(work / os.fsdecode(data[8:].rstrip(b"\n"))))
    common = Path(os.path.realpath(own / os.fsdecode(_small(own / "commondir", MAX_POINTER).rstrip(b"\n"))))
    back = os.fsdecode(_small(own / "gitdir", MAX_POINTER).rstrip(b"\n"))
    if own.parent != common / "worktrees" or os.path.realpath(own / back) != os.path.realpath(pointer):
        raise ToolFailed(
            f".git points to {own}, which is not a working tree of its repository that knows this one",
            hint="toka uses a repository in the working directory itself, or a linked working tree (git worktree add); submodules are neither",
        )
    return own, common


def _check(own: Path, common: Path) -> None:
    """Everything that will be used lies where it seems to. Raises ToolFailed."""
    for folder in FOLDERS:
        if not _is(common / folder, folder=True):
            raise ToolFailed(f"the repository has no folder {folder} of its own: it is missing, or a link")
    if os.path.lexists(common / "reftable"):
        raise ToolFailed("the repository keeps its refs in a form (reftable) that toka does not read")
    for base in {own, common}:
        for name in FILES:
            path = base / name
            if os.path.lexists(path) and not _is(path, folder=False):
                raise ToolFailed(f"{name} in the repository is no ordinary file")


def _alternates(common: Path) -> tuple[Path, ...]:
    path = common / "objects" / "info" / "alternates"
    if not os.path.lexists(path):
        return ()
    lines = _small(path, MAX_ALTERNATES).split(b"\n")
    return tuple(Path(os.path.realpath(common / "objects" / os.fsdecode(line))) for line in lines if line and not line.startswith(b"#"))


def _is(path: Path, *, folder: bool) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)


def _small(path: Path, limit: int) -> bytes:
    """The content of a small ordinary file, never through a link. Raises ToolFailed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ToolFailed(f"{path} in the repository cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ToolFailed(f"{path} in the repository is no ordinary file")
        data = os.read(descriptor, limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise ToolFailed(f"{path} in the repository is longer than such a file can be")
    return data
