"""git_status, git_diff and git_commit in the working directory's repository. In: paths and a message. Out: what git says, as data and within bounds.

The kernel runs git, in a way that nothing written in the repository can act (no hooks, no filters, no monitor, no config of the repository). A commit carries
the name of the call that made it, so that after a crash anybody can see whether it was made. Nothing is pushed or fetched.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from toka_cli.tools.tool import Answer, Arguments, Tool, ToolContext, ToolFailed, both_ends, shown

TRAILER: Final = "Toka-Call"
MAX_PATHS: Final = 500
MAX_MESSAGE: Final = 20_000
MAX_ENTRIES: Final = 1000
LOOKED_BACK: Final = 500
"""Commits that are looked at for one that a cut-off call may have made."""
_TRAILERS: Final = re.compile(r"(?:^|\n\n)(?:[A-Za-z0-9-]+: [^\n]*\n?)+$")
_COMMIT: Final = re.compile(r"[0-9a-f]{40,64}")

GitPath = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Paths = Annotated[tuple[GitPath, ...], msgspec.Meta(max_length=MAX_PATHS, description="Paths below the working directory, taken as they are written.")]
Git = Callable[..., Awaitable["GitEnd"]]


@dataclass(frozen=True, slots=True)
class _Raw:
    """A changed path as git wrote it: names of files are bytes."""

    path: bytes
    index: str
    tree: str
    before: bytes | None = None


@dataclass(frozen=True, slots=True)
class GitEnd:
    """How one git command ended: its exit code, its output, and its errors in words."""

    exit_code: int
    stdout: bytes
    words: str


class GitStatus(Arguments, frozen=True):
    """Arguments of git_status."""

    paths: Paths = ()


class Changed(Answer, frozen=True):
    """A path that is not as the last commit has it. `index` and `tree` are git's letters for both sides (`.`: as before, `?`: not known to git)."""

    path: str
    index: str
    tree: str
    before: str | None = None


class Status(Answer, frozen=True):
    """`branch` is null when HEAD names a commit, `commit` when there is none yet. `cut`: there are more than are listed; `total` counts all."""

    branch: str | None
    commit: str | None
    changed: tuple[Changed, ...]
    total: int
    cut: bool


class GitDiff(Arguments, frozen=True):
    """Arguments of git_diff."""

    paths: Paths = ()
    staged: Annotated[bool, msgspec.Meta(description="Show what is staged, in place of what is not.")] = False
    context: Annotated[int, msgspec.Meta(ge=0, le=100, description="Lines around each change.")] = 3


class Diff(Answer, frozen=True):
    """A unified diff. `cut`: its middle is left out."""

    diff: str
    size_bytes: int
    cut: bool


class GitCommit(Arguments, frozen=True):
    """Arguments of git_commit."""

    message: Annotated[
        str, msgspec.Meta(description="What the commit does: a short first line, then, after an empty one, the rest.", min_length=1, max_length=MAX_MESSAGE)
    ]
    paths: Annotated[
        tuple[GitPath, ...], msgspec.Meta(min_length=1, max_length=MAX_PATHS, description="What to commit; left out: all changes that git does not ignore.")
    ] = (".",)


class Committed(Answer, frozen=True):
    """The commit that was made, and the paths that it changed (at most 1000)."""

    commit: str
    branch: str
    files: tuple[str, ...]
    total: int


async def run_git_status(arguments: GitStatus, context: ToolContext) -> Status:
    """Raises ToolFailed where there is no repository that can be trusted."""
    branch, commit, changed = _parsed(await _status(_git(context), _checked(arguments.paths)))
    kept: list[Changed] = []
    left = context.output_limit
    for raw in changed[:MAX_ENTRIES]:
        one = Changed(_path(raw.path), raw.index, raw.tree, None if raw.before is None else _path(raw.before))
        left -= len(one.path.encode()) + len((one.before or "").encode()) + 64
        if left < 0:
            break
        kept.append(one)
    return Status(branch, commit, tuple(kept), len(changed), len(kept) < len(changed))


async def run_git_diff(arguments: GitDiff, context: ToolContext) -> Diff:
    """Raises ToolFailed where there is no repository that can be trusted."""
    paths = _checked(arguments.paths)
    options = ("--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules=all", f"--unified={arguments.context}")
    staged = ("--cached",) if arguments.staged else ()
    ended = await _git(context)("--no-optional-locks", "diff", *options, *staged, "--", *paths)
    _require(ended, "git diff")
    text, cut = both_ends(ended.stdout.decode("utf-8", "backslashreplace"), context.output_limit)
    return Diff(text, len(ended.stdout), cut)


async def run_git_commit(arguments: GitCommit, context: ToolContext) -> Committed:
    """Raises ToolFailed, then nothing was committed; what was staged may stay staged."""
    git, paths = _git(context), _checked(arguments.paths)
    hands = context.hands
    assert hands is not None
    message = _message(arguments.message, hands.key)
    if hands.sees_secret(arguments.message, "the message of a commit"):
        raise ToolFailed("refused: a secret of toka's own is in the message", code="secret")
    if (made := await _made_before(git, hands.key)) is not None:
        return made
    branch, _, changed = _parsed(await _status(git, paths))
    if branch is None:
        raise ToolFailed("HEAD names no branch, so the commit could be lost", hint="check a branch out first: git switch NAME")
    if not changed:
        raise ToolFailed("there is nothing to commit there", hint="git_status shows what is changed")
    await _no_filters(git, [one.path for one in changed])
    _require(await git("add", "--all", "--", *paths), "git add")
    # `--only` leaves alone what is staged elsewhere; without paths everything that is staged belongs to it.
    only = () if paths == (".",) else ("--only",)
    ended = await git(
        "commit", "--quiet", "--no-verify", "--no-gpg-sign", "--cleanup=whitespace", "--file=-", *only, *(("--", *paths) if only else ()),
        stdin=message.encode("utf-8", "replace"),
    )  # fmt: skip
    _require(ended, "git commit")
    return await _committed(git, "HEAD", branch)


async def _made_before(git: Git, key: str) -> Committed | None:
    """The commit that this very call made before it was cut off, if it did: it carries the call's name."""
    ended = await git("log", f"--max-count={LOOKED_BACK}", f"--format=%H %(trailers:key={TRAILER},valueonly,separator=%x2C)", "HEAD", "--")
    # Without a commit there is no HEAD yet, and git says so: nothing was made.
    for line in ended.stdout.decode("utf-8", "replace").splitlines() if ended.exit_code == 0 else ():
        commit, _, calls = line.partition(" ")
        if key in calls.split(","):
            branch, _, _ = _parsed(await _status(git, ()))
            return await _committed(git, commit, branch or "")
    return None


async def _committed(git: Git, name: str, branch: str) -> Committed:
    ended = await git("rev-parse", "--verify", name)
    _require(ended, "git rev-parse")
    commit = ended.stdout.decode("ascii", "replace").strip()
    if not _COMMIT.fullmatch(commit):
        raise ToolFailed(f"git named no commit for {name}")
    listed = await git("diff-tree", "--root", "--no-commit-id", "--name-only", "-r", "-z", commit)
    _require(listed, "git diff-tree")
    names = [_path(one) for one in listed.stdout.split(b"\0") if one]
    return Committed(commit, branch, tuple(names[:MAX_ENTRIES]), len(names))


def _git(context: ToolContext) -> Git:
    if context.hands is None:
        raise ToolFailed("git is run by the kernel only")
    return context.hands.git


def _checked(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Paths below the working directory that git cannot take for anything else. Raises ToolFailed."""
    for path in paths:
        parts = path.split("/")
        if path.startswith(("-", "/", ":")) or "\0" in path or ".." in parts or any(part.lower() == ".git" for part in parts):
            raise ToolFailed(f"{shown(path)[:200]} is no path below the working directory", hint="write it relative, and without a - or : in front")
    return tuple(path.removeprefix("./") or "." for path in paths)


def _message(text: str, key: str) -> str:
    """The message with the trailer that names the call. Raises ToolFailed."""
    message = text.strip()
    if not message or "\0" in message:
        raise ToolFailed("the message is empty, or holds a NUL character")
    if any(line.lower().startswith(f"{TRAILER.lower()}:") for line in message.splitlines()):
        raise ToolFailed(f"the message holds a line {TRAILER}:, which is toka's own")
    joint = "\n" if "\n\n" in message and _TRAILERS.search(message) else "\n\n"
    return f"{message}{joint}{TRAILER}: {key}\n"


async def _status(git: Git, paths: tuple[str, ...]) -> list[bytes]:
    options = ("--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--ignore-submodules=all", "--no-renames")
    ended = await git("--no-optional-locks", "status", *options, "--", *paths)
    _require(ended, "git status")
    return ended.stdout.split(b"\0")


def _parsed(fields: list[bytes]) -> tuple[str | None, str | None, list[_Raw]]:
    """Branch, commit and changed paths of the porcelain format, version 2 (git-status(1))."""
    branch: str | None = None
    commit: str | None = None
    changed: list[_Raw] = []
    rest: Iterator[bytes] = iter(fields)
    for field in rest:
        kind, _, text = field.partition(b" ")
        if field.startswith(b"# branch.oid "):
            commit = None if field.endswith(b"(initial)") else field[13:].decode()
        elif field.startswith(b"# branch.head "):
            branch = None if field.endswith(b"(detached)") else _path(field[14:])
        elif kind == b"?":
            changed.append(_Raw(text, "?", "?"))
        elif kind in {b"1", b"u", b"2"}:
            words = text.split(b" ", {b"1": 7, b"u": 9, b"2": 8}[kind])
            before = next(rest, b"") if kind == b"2" else None
            changed.append(_Raw(words[-1], words[0][:1].decode(), words[0][1:2].decode(), before))
    return branch, commit, changed


async def _no_filters(git: Git, paths: list[bytes]) -> None:
    """Raise ToolFailed if a path is to be stored through a filter: toka starts none, and what would be stored without it is not what was meant."""
    ended = await git("check-attr", "-z", "--stdin", "filter", stdin=b"\0".join(paths) + b"\0")
    _require(ended, "git check-attr")
    fields = ended.stdout.split(b"\0")
    for path, _, value in zip(fields[::3], fields[1::3], fields[2::3], strict=False):
        if value not in {b"unspecified", b"unset"}:
            raise ToolFailed(
                f"{_path(path)} is to be stored through the filter {_path(value)} (.gitattributes), and toka runs no filters",
                hint="leave it out of paths, or commit it yourself",
            )


def _require(ended: GitEnd, what: str) -> None:
    if ended.exit_code != 0:
        raise ToolFailed(f"{what} failed: {shown(ended.words)}")


def _path(data: bytes) -> str:
    return shown(data.decode("utf-8", "surrogateescape"))


def _tool(
    name: Literal["git_status", "git_diff"], description: str, arguments: type[Arguments], result: type[Answer], run: Callable[..., Awaitable[Answer]]
) -> Tool:
    return Tool(name, description, arguments, result, "git-access", "pure", "kernel", read_only=True, run=run, calls_per_minute=120)


TOOLS: Final = (
    _tool("git_status", "Show branch, commit and changed paths of the repository in the working directory.", GitStatus, Status, run_git_status),
    _tool("git_diff", "Show changes that are not committed, as a unified diff.", GitDiff, Diff, run_git_diff),
    Tool(
        name="git_commit",
        description="Commit changes to the present branch. Hooks and filters are not run, and nothing is pushed.",
        arguments=GitCommit,
        result=Committed,
        power="git-access",
        # Made again after a crash, it finds the commit that carries its name.
        effect="keyed",
        where="kernel",
        read_only=False,
        run=run_git_commit,
        calls_per_minute=60,
    ),
)
