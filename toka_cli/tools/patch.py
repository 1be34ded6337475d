"""Changes a file's bytes exactly as said, or refuses. Pure: bytes come in, bytes go out.

Two ways: one piece of text that occurs exactly once, or a unified patch whose every line of context is where the patch says. Nothing is guessed: no fuzz,
no offset, no white space ignored. In a file whose lines all end in CRLF, text and patches written with plain line feeds are read as CRLF, so that they match
and the file keeps its line ends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from toka_cli.tools.tool import ToolFailed, shown

MAX_SHOWN: Final = 10
_RANGE: Final = re.compile(rb"@@ -([0-9]{1,9})(?:,([0-9]{1,9}))? \+([0-9]{1,9})(?:,([0-9]{1,9}))? @@")
_HEADERS: Final = (b"diff ", b"index ", b"new file mode ", b"old mode ", b"new mode ", b"similarity index ")
_NO_NEWLINE: Final = b"\\ "


@dataclass(frozen=True, slots=True)
class Hunk:
    """One hunk: where its old lines begin (from 1; 0 before the first line), the lines before and after, each with its line end."""

    number: int
    start: int
    old: list[bytes]
    new: list[bytes]


def is_crlf(content: bytes) -> bool:
    """True when every line of the content ends in CRLF, and there is at least one."""
    count = content.count(b"\n")
    return count > 0 and content.count(b"\r\n") == count


def replace_once(content: bytes, old: bytes, new: bytes) -> bytes:
    """The content with the only occurrence of `old` replaced. Raises ToolFailed when there is none, or more than one."""
    if not old:
        raise ToolFailed("old is empty", hint="give the text to be replaced; write_file writes a whole file")
    if is_crlf(content) and b"\r" not in old + new:
        old, new = old.replace(b"\n", b"\r\n"), new.replace(b"\n", b"\r\n")
    if old == new:
        raise ToolFailed("old and new are the same; nothing would change")
    places = _places(content, old)
    if not places:
        raise ToolFailed("old does not occur in the file", hint=_near(content, old))
    if len(places) > 1:
        lines = [str(content.count(b"\n", 0, place) + 1) for place in places[:MAX_SHOWN]]
        more = ", ..." if len(places) > MAX_SHOWN else ""
        raise ToolFailed(
            f"old occurs {len(places)} times, beginning in lines {', '.join(lines)}{more}; it must occur exactly once",
            hint="take more of the lines around it into old and new",
        )
    return content[: places[0]] + new + content[places[0] + len(old) :]


def apply_patch(content: bytes, patch: bytes, path: str) -> bytes:
    """The content after a unified patch of this one file. Raises ToolFailed for a patch that is none, is for another file or does not fit."""
    hunks = parse_patch(patch, path)
    if is_crlf(content) and b"\r" not in patch:
        hunks = [Hunk(hunk.number, hunk.start, _with_crlf(hunk.old), _with_crlf(hunk.new)) for hunk in hunks]
    lines = _lines(content)
    result: list[bytes] = []
    done = 0
    for hunk in hunks:
        # `-4,0` inserts after line 4; `-4,2` begins at line 4.
        begin = hunk.start if not hunk.old else hunk.start - 1
        end = begin + len(hunk.old)
        if begin < done:
            raise ToolFailed(f"hunk {hunk.number} begins before the end of the one above it", hint="put the hunks in the order of the file")
        if begin > len(lines) or lines[begin:end] != hunk.old:
            raise ToolFailed(_misfit(lines, hunk), hint=_elsewhere(lines, hunk))
        result += lines[done:begin]
        result += hunk.new
        done = end
    result += lines[done:]
    if any(not line.endswith(b"\n") for line in result[:-1]):
        raise ToolFailed("the patch would join two lines: only the last line of the file can be without a line end")
    changed = b"".join(result)
    if changed == content:
        raise ToolFailed("the patch changes nothing")
    return changed


def parse_patch(patch: bytes, path: str) -> list[Hunk]:
    """The hunks of a unified patch of one file. Raises ToolFailed for what is no such patch, with the line of the patch."""
    lines = patch.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    hunks: list[Hunk] = []
    at = 0
    while at < len(lines):
        line = lines[at].rstrip(b"\r")
        match = _RANGE.match(line)
        if match:
            hunk, at = _hunk(lines, at, match, len(hunks) + 1)
            hunks.append(hunk)
        elif hunks and line:
            raise ToolFailed(
                f"line {at + 1} of the patch belongs to no hunk: {_cut(line)}", hint="the counts in the @@ line must fit; one file a patch"
            )
        elif line.startswith((b"--- ", b"+++ ")):
            _check_name(line[4:], path)
            at += 1
        elif not line or line.startswith(_HEADERS):
            at += 1
        else:
            raise ToolFailed(
                f"line {at + 1} is not part of a unified patch: {_cut(line)}", hint="a hunk begins with a line such as @@ -3,4 +3,5 @@"
            )
    if not hunks:
        raise ToolFailed("the patch has no hunk", hint="a hunk begins with a line such as @@ -3,4 +3,5 @@")
    return hunks


def _hunk(lines: list[bytes], at: int, match: re.Match[bytes], number: int) -> tuple[Hunk, int]:
    """The hunk whose @@ line is at `at`, and the index of the line after it."""
    start = int(match[1])
    old_left, new_left = int(match[2] or 1), int(match[4] or 1)
    if start == 0 and old_left:
        raise ToolFailed(f"hunk {number} begins at line 0; lines count from 1")
    old: list[bytes] = []
    new: list[bytes] = []
    head = at + 1
    at += 1
    while old_left or new_left:
        if at >= len(lines):
            raise ToolFailed(
                f"hunk {number} (line {head} of the patch) is shorter than its counts say", hint="correct the counts in its @@ line"
            )
        # An empty line stands for an empty line of context: many programs drop its one space.
        mark, text = lines[at][:1] or b" ", lines[at][1:] + b"\n"
        if lines[at] == b"\r":
            mark, text = b" ", b"\r\n"
        if mark not in {b" ", b"-", b"+"}:
            raise ToolFailed(f"line {at + 1} of the patch begins with none of space, - and +: {_cut(lines[at])}")
        if mark in {b" ", b"-"}:
            old.append(text)
            old_left -= 1
        if mark in {b" ", b"+"}:
            new.append(text)
            new_left -= 1
        at += 1
        if at < len(lines) and lines[at].startswith(_NO_NEWLINE):
            # Where the patch itself is written with CRLF, its line end is both.
            ending = b"\r\n" if lines[at].endswith(b"\r") else b"\n"
            for side, marks in ((old, {b" ", b"-"}), (new, {b" ", b"+"})):
                if mark in marks:
                    side[-1] = side[-1].removesuffix(ending)
            at += 1
        if old_left < 0 or new_left < 0:
            raise ToolFailed(
                f"hunk {number} (line {head} of the patch) is longer than its counts say", hint="correct the counts in its @@ line"
            )
    return Hunk(number, start, old, new), at


def _check_name(header: bytes, path: str) -> None:
    """Raise ToolFailed when a `---` or `+++` line names another file than `path`."""
    name = header.split(b"\t")[0].strip().decode("utf-8", "replace")
    if name == "/dev/null":
        raise ToolFailed("the patch makes or removes the file", hint="write_file makes a file; edit_file changes one that is there")
    wanted = path.removeprefix("./")
    if not any(one == wanted or wanted.endswith(f"/{one}") for one in (name, name.removeprefix("a/"), name.removeprefix("b/"))):
        raise ToolFailed(f"the patch is for {shown(name[:200])}, the path says {path}", hint="one file a call")


def _misfit(lines: list[bytes], hunk: Hunk) -> str:
    begin = hunk.start if not hunk.old else hunk.start - 1
    for number, wanted in enumerate(hunk.old, start=begin):
        if number >= len(lines):
            return f"hunk {hunk.number} does not fit: the file has {len(lines)} lines, line {number + 1} is wanted"
        if lines[number] != wanted:
            return f"hunk {hunk.number} does not fit: line {number + 1} is {_cut(lines[number])}, the patch says {_cut(wanted)}"
    return f"hunk {hunk.number} does not fit: the file has {len(lines)} lines, line {hunk.start} is wanted"


def _elsewhere(lines: list[bytes], hunk: Hunk) -> str:
    """Where the old lines of a hunk are, if they are in the file at all."""
    size = len(hunk.old)
    found = [at + 1 for at in range(len(lines) - size + 1) if size and lines[at] == hunk.old[0] and lines[at : at + size] == hunk.old]
    if found:
        return f"its lines are in the file, beginning at line {' and '.join(map(str, found[:MAX_SHOWN]))}; correct the @@ line"
    return "read the file again; nothing was changed"


def _places(content: bytes, old: bytes) -> list[int]:
    """Every position of `old`, overlapping ones too: with those it is not clear which one is meant."""
    places: list[int] = []
    at = content.find(old)
    while at >= 0:
        places.append(at)
        at = content.find(old, at + 1)
    return places


def _near(content: bytes, old: bytes) -> str:
    """A hint when the first line of `old` is in the file but for white space."""
    wanted = next((line.strip() for line in old.split(b"\n") if line.strip()), b"")
    found = [str(number) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip() == wanted]
    if wanted and found:
        return f"its first line is in line {', '.join(found[:MAX_SHOWN])}, so white space or a later line differs; read the file again"
    return "read the file again; white space and line ends count"


def _with_crlf(lines: list[bytes]) -> list[bytes]:
    return [line[:-1] + b"\r\n" if line.endswith(b"\n") else line for line in lines]


def _lines(content: bytes) -> list[bytes]:
    """The lines with their ends, split at line feeds only."""
    parts = content.split(b"\n")
    last = parts.pop()
    return [part + b"\n" for part in parts] + ([last] if last else [])


def _cut(line: bytes) -> str:
    text = line.rstrip(b"\r\n").decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 80 else text[:77] + "...")
