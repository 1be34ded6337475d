"""grep: finds lines by a regular expression.

In: an expression and where to look. Out: bounded lines in the order of the files, and whether there are more. The processor time that matching may take is
bounded, so an expression that explodes ends; this needs the main thread, which is where a cell works.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
import time
import warnings
from collections.abc import Generator
from contextlib import closing
from typing import Annotated, Final

import msgspec

from toka_cli.tools.beneath import Place, kind_words, listing, missing, open_regular, place
from toka_cli.tools.bound import within_cpu
from toka_cli.tools.tool import Answer, Arguments, Tool, ToolContext, ToolFailed
from toka_cli.tools.walk import MATCH_CPU_S, MAX_BYTES, MAX_RESULTS, Hunt, entered, entries_of

BLOCK: Final = 1024 * 1024
MAX_LINE_SHOWN: Final = 400
RESULT_BYTES: Final = 40
"""What a result costs of the output limit beside its text: the names of its fields."""


class Grep(Arguments, frozen=True):
    """Arguments of grep."""

    pattern: Annotated[
        str, msgspec.Meta(description="Regular expression (Python's), searched in each line.", min_length=1, max_length=1000)
    ]
    path: Annotated[str, msgspec.Meta(description="The file or directory to search.", min_length=1, max_length=4096)] = "."
    include: (
        Annotated[str, msgspec.Meta(description="Only files whose name fits this, such as *.py.", min_length=1, max_length=255)] | None
    ) = None
    ignore_case: bool = False
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_RESULTS, description="How many lines to give at most.")] = 200


class Line(Answer, frozen=True):
    """A line that matched. Long ones are shown from near the match on, with … where something is left out."""

    path: str
    line: int
    text: str


class Matches(Answer, frozen=True):
    """Lines that matched, in the order of the files. `cut`: there may be more, `note` says why."""

    matches: tuple[Line, ...]
    files: int
    binary_files: int
    cut: bool
    note: str | None


async def run_grep(arguments: Grep, context: ToolContext) -> Matches:
    """Raises ToolFailed for a pattern that cannot be read. Skips binary files, links and .git."""
    hunt = Hunt(context.output_limit)
    regex = _compiled(arguments.pattern, hunt, ignore_case=arguments.ignore_case)
    include = re.compile(fnmatch.translate(arguments.include)) if arguments.include else None
    found: list[Line] = []
    files = binary = 0
    with place(context.workdir, arguments.path) as here, closing(_candidates(here, include, hunt)) as candidates:
        for candidate in candidates:
            try:
                descriptor = open_regular(candidate)
            except (OSError, ToolFailed):
                if candidate is here:
                    raise
                hunt.unread += 1
                continue
            try:
                searched = _search(descriptor, candidate.path, regex, arguments.limit, found, hunt)
            finally:
                os.close(descriptor)
            files, binary = files + searched, binary + (not searched)
            if hunt.over:
                break
    return Matches(tuple(found), files, binary, hunt.note() is not None, hunt.note())


def _candidates(here: Place, include: re.Pattern[str] | None, hunt: Hunt) -> Generator[Place, None, None]:
    """The files to search; `here` itself if it is one."""
    if here.found is None:
        raise missing(here)
    if stat.S_ISREG(here.found.st_mode):
        yield here
    elif stat.S_ISDIR(here.found.st_mode):
        with listing(here) as directory:
            yield from _files(directory, here.names, include, hunt, 0)
    else:
        raise ToolFailed(f"{here.path} is {kind_words(here.found.st_mode)}, not a file or directory")


def _files(directory: int, above: tuple[str, ...], include: re.Pattern[str] | None, hunt: Hunt, depth: int) -> Generator[Place, None, None]:
    """The regular files below an open directory, those of .git left out."""
    for name, is_dir in entries_of(directory, hunt):
        if is_dir and name != ".git":
            with entered(directory, name, hunt, depth) as child:
                if child is not None:
                    yield from _files(child, (*above, name), include, hunt, depth + 1)
        elif not is_dir and (include is None or include.match(name)):
            try:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except OSError:
                hunt.unread += 1
                continue
            if stat.S_ISREG(found.st_mode):
                yield Place(directory, name, (*above, name), found)
        if hunt.over:
            return


def _compiled(pattern: str, hunt: Hunt, *, ignore_case: bool) -> re.Pattern[str]:
    """The regular expression. Raises ToolFailed when it is none."""
    try:
        with warnings.catch_warnings():
            # About spellings whose meaning may change one day: nothing a caller can use.
            warnings.simplefilter("ignore")
            return re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        raise ToolFailed(f"not a regular expression: {error}", hint=r"write \( \[ \* for the characters themselves") from None
    except (OverflowError, RecursionError) as error:
        raise ToolFailed(f"not a usable regular expression: {error}") from None


def _search(descriptor: int, path: str, regex: re.Pattern[str], limit: int, found: list[Line], hunt: Hunt) -> bool:
    """Add the lines that match. False for a binary file. A line longer than a block is searched in pieces; a match across their border is not seen."""
    number, rest = 1, b""
    first = True
    while not hunt.over:
        block = os.read(descriptor, BLOCK)
        if first and b"\0" in block[:8192]:
            return False
        first = False
        hunt.bytes_left -= len(block)
        if hunt.bytes_left < 0:
            hunt.stop(f"more than {MAX_BYTES} bytes to search; narrow the path or use include")
            break
        data = rest + block
        end = data.rfind(b"\n") + 1 if block else len(data)
        if not end and len(data) > BLOCK:
            end = len(data)
        rest = data[end:]
        _search_lines(data[:end].decode("utf-8", "replace"), number, path, regex, limit, found, hunt)
        number += data.count(b"\n", 0, end)
        if not block:
            break
    return True


def _search_lines(text: str, number: int, path: str, regex: re.Pattern[str], limit: int, found: list[Line], hunt: Hunt) -> None:
    """Search the lines of a text with the timer set. Nothing in here owns anything, since the timer may end it between any two steps."""
    if not text:
        return
    before = time.process_time()

    def search() -> None:
        lines = text.split("\n")
        if not lines[-1]:
            lines.pop()
        for at, line in enumerate(lines, start=number):
            line = line.removesuffix("\r")
            match = regex.search(line)
            if match is None:
                continue
            part = _around(line, match.start())
            hunt.output_left -= len(part.encode()) + len(path.encode()) + RESULT_BYTES
            if len(found) == limit or hunt.output_left < 0:
                hunt.stop(f"more than {len(found)} lines match; narrow the pattern or the path")
                return
            found.append(Line(path, at, part))

    if not within_cpu(hunt.cpu_left_s, search):
        hunt.stop(f"stopped in {path}: the pattern took more than {MATCH_CPU_S:g} s of processor time; write it without nested repeats")
    hunt.cpu_left_s -= time.process_time() - before


def _around(line: str, start: int) -> str:
    """The line, or of a long one the part that begins a little before the match."""
    if len(line) <= MAX_LINE_SHOWN:
        return line
    begin = max(0, min(start - 40, len(line) - MAX_LINE_SHOWN))
    part = line[begin : begin + MAX_LINE_SHOWN]
    return ("…" if begin else "") + part + ("…" if begin + MAX_LINE_SHOWN < len(line) else "")


TOOLS: Final = (
    Tool(
        name="grep",
        description="Search a regular expression in the lines of a file, or of all text files below a directory (.git left out).",
        arguments=Grep,
        result=Matches,
        power="filesystem-read",
        effect="pure",
        where="cell",
        read_only=True,
        run=run_grep,
    ),
)
