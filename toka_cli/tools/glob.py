"""glob: finds files and directories by a path pattern. In: a pattern. Out: sorted, bounded paths, and whether there are more."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Generator
from contextlib import closing
from typing import Annotated, Final

import msgspec

from toka_cli.tools.beneath import listing, parts_below, place
from toka_cli.tools.tool import Answer, Arguments, Tool, ToolContext, ToolFailed, shown
from toka_cli.tools.walk import MAX_RESULTS, Hunt, entered, entries_of

_ANY_DEPTH: Final = "**"


class Glob(Arguments, frozen=True):
    """Arguments of glob."""

    pattern: Annotated[
        str,
        msgspec.Meta(
            description="Path pattern: * ? [abc] within a name, ** for any number of directories. No braces.", min_length=1, max_length=1000
        ),
    ]
    path: Annotated[str, msgspec.Meta(description="The directory to begin in.", min_length=1, max_length=4096)] = "."


class Found(Answer, frozen=True):
    """Paths below the working directory, directories with a slash at the end, sorted by name in each directory. `cut`: there may be more, `note` says why."""

    paths: tuple[str, ...]
    cut: bool
    note: str | None


async def run_glob(arguments: Glob, context: ToolContext) -> Found:
    """Raises ToolFailed for a pattern that cannot be read or leads outside. Names that begin with a dot fit only patterns that begin with one."""
    parts = _pattern_parts(context, arguments)
    tests = [None if part == _ANY_DEPTH else re.compile(fnmatch.translate(part)) for part in parts]
    hidden = [part.startswith(".") for part in parts]
    hunt = Hunt(context.output_limit)
    paths: list[str] = []
    with place(context.workdir, arguments.path) as here, listing(here) as directory:
        prefix = "/".join(here.names) + "/" if here.names else ""
        with closing(_fits(directory, prefix, _closure({0}, tests), tests, hidden, hunt, 0)) as fits:
            for path in fits:
                text = shown(path)
                hunt.output_left -= len(text.encode()) + 4
                if len(paths) == MAX_RESULTS or hunt.output_left < 0:
                    hunt.stop(f"more than {len(paths)} paths fit; narrow the pattern")
                    break
                paths.append(text)
    return Found(tuple(paths), hunt.note() is not None, hunt.note())


def _pattern_parts(context: ToolContext, arguments: Glob) -> list[str]:
    """The components of a glob pattern, several ** in a row made one."""
    pattern = arguments.pattern
    if pattern.startswith("/") and arguments.path != ".":
        raise ToolFailed("an absolute pattern and a path do not go together", hint="write the pattern relative to the path")
    if "\0" in pattern or not pattern.isprintable():
        raise ToolFailed("the pattern holds characters that cannot be printed")
    if "{" in pattern and "}" in pattern:
        raise ToolFailed("braces are not understood in patterns", hint="call once for each alternative; [{] fits a brace itself")
    parts: list[str] = []
    for part in parts_below(context.workdir, pattern):
        if part == "..":
            raise ToolFailed(
                f"{pattern}: a pattern cannot hold ..", hint="patterns begin at the path, and the path in the working directory"
            )
        if part != _ANY_DEPTH or parts[-1:] != [_ANY_DEPTH]:
            parts.append(part)
    if not parts:
        raise ToolFailed("the pattern names nothing", hint='"*" fits every name, "**/*" every name at any depth')
    return parts


def _closure(states: set[int], tests: list[re.Pattern[str] | None]) -> frozenset[int]:
    """The states with those reached by letting a ** stand for no directory at all."""
    return frozenset(states | {state + 1 for state in states if state < len(tests) - 1 and tests[state] is None})


def _fits(
    directory: int, prefix: str, states: frozenset[int], tests: list[re.Pattern[str] | None], hidden: list[bool], hunt: Hunt, depth: int
) -> Generator[str, None, None]:
    """Every path below an open directory that fits. `states` are the pattern's components that can come next; all at once, so nothing is found twice."""
    for name, is_dir in entries_of(directory, hunt):
        following: set[int] = set()
        for state in states:
            test = tests[state]
            if name.startswith(".") and not hidden[state]:
                continue
            if test is None:
                following |= {state, len(tests)} if state == len(tests) - 1 else {state}
            elif test.match(name):
                following.add(state + 1)
        if len(tests) in following:
            yield f"{prefix}{name}/" if is_dir else f"{prefix}{name}"
        deeper = _closure(following - {len(tests)}, tests)
        if deeper and is_dir:
            with entered(directory, name, hunt, depth) as child:
                if child is not None:
                    yield from _fits(child, f"{prefix}{name}/", deeper, tests, hidden, hunt, depth + 1)
        if hunt.over:
            return


TOOLS: Final = (
    Tool(
        name="glob",
        description="Find files and directories by a path pattern such as src/**/*.py. Names that begin with a dot only fit patterns that begin with one.",
        arguments=Glob,
        result=Found,
        power="filesystem-read",
        effect="pure",
        where="cell",
        read_only=True,
        run=run_glob,
    ),
)
