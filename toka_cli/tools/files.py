"""read_file, write_file, edit_file, list_dir: one file or directory below the working directory.

In: paths as the agent wrote them. Out: bounded answers that say when something was cut. Bytes that no one asked to change stay as they are: line ends,
byte order marks and other encodings. Nothing but regular files is read or written, so that no pipe or device makes an agent wait.
"""

from __future__ import annotations

import codecs
import os
import stat
from typing import Annotated, Final, Literal

import msgspec

from toka_cli.tools.beneath import Place, listing, missing, open_regular, place, reading, replace, require_regular
from toka_cli.tools.patch import apply_patch, is_crlf, replace_once
from toka_cli.tools.tool import Answer, Arguments, Tool, ToolContext, ToolFailed, shown

BLOCK: Final = 1024 * 1024
PIECE: Final = 64 * 1024
HEAD: Final = 8192
"""Bytes looked at to tell text from binary data: a NUL there is what git takes as the sign too (it looks at 8000)."""
MAX_SCAN: Final = 1024 * BLOCK
"""Bytes passed over to find a line far into a file."""
MAX_EDIT: Final = 16 * BLOCK
MAX_LINES: Final = 2000
MAX_ENTRIES: Final = 1000
MAX_SCANNED: Final = 100_000
ENTRY_BYTES: Final = 64
"""What an entry costs of the output limit beside its name: the names of its fields."""

FilePath = Annotated[str, msgspec.Meta(description="Path of the file, relative to the working directory.", min_length=1, max_length=4096)]


class ReadFile(Arguments, frozen=True):
    """Arguments of read_file."""

    path: FilePath
    offset: Annotated[int, msgspec.Meta(ge=1, description="The first line to read, counted from 1.")] = 1
    limit: Annotated[int, msgspec.Meta(ge=1, le=100_000, description="How many lines to read at most.")] = MAX_LINES


class FileText(Answer, frozen=True):
    """Lines of a file. `cut`: the file goes on; `next_offset` is the line to go on with, `note` says what is left out and why.

    `total_lines` is null unless the end was seen. `lossy`: the file is not UTF-8, bytes that could not be read are shown in hexadecimal.
    """

    path: str
    content: str
    first_line: int
    lines: int
    total_lines: int | None
    size_bytes: int
    cut: bool
    next_offset: int | None
    lossy: bool
    note: str | None


class WriteFile(Arguments, frozen=True):
    """Arguments of write_file."""

    path: FilePath
    content: Annotated[str, msgspec.Meta(description="The whole new content of the file.")]


class EditFile(Arguments, frozen=True):
    """Arguments of edit_file: old and new, or patch."""

    path: FilePath
    old: Annotated[str | None, msgspec.Meta(description="Text that occurs exactly once in the file, white space included.")] = None
    new: Annotated[str | None, msgspec.Meta(description="Text to put in its place; empty to remove it.")] = None
    patch: Annotated[
        str | None, msgspec.Meta(description="In place of old and new: a unified patch of this one file, applied without fuzz or offset.")
    ] = None


class Written(Answer, frozen=True):
    """What was written. `line_ends` is crlf when all lines of the file end so."""

    path: str
    created: bool
    size_bytes: int
    line_ends: Literal["lf", "crlf"]


class ListDir(Arguments, frozen=True):
    """Arguments of list_dir."""

    path: Annotated[
        str, msgspec.Meta(description="Path of the directory, relative to the working directory.", min_length=1, max_length=4096)
    ] = "."


class Entry(Answer, frozen=True):
    """One name in a directory. `target` is where a link points, `size_bytes` is set for files."""

    name: str
    kind: Literal["file", "dir", "link", "other"]
    size_bytes: int | None = None
    target: str | None = None


class Listing(Answer, frozen=True):
    """The names in a directory, sorted. `cut`: there are more; `total` counts all (at most 100,000 are looked at)."""

    path: str
    entries: tuple[Entry, ...]
    total: int
    cut: bool


async def run_read_file(arguments: ReadFile, context: ToolContext) -> FileText:
    """Raises ToolFailed for binary data, a line past the end, and everything that is not a regular file below the working directory."""
    with reading(context.workdir, arguments.path) as (descriptor, found, here):
        head = os.pread(descriptor, HEAD, 0)
        if b"\0" in head:
            raise ToolFailed(
                f"{here.path} is not text: it has NUL bytes ({found.st_size} bytes, beginning {head[:16].hex(' ')})",
                hint="UTF-16 text looks so too; a command can convert or describe it",
            )
        data = _skip_to(descriptor, arguments.offset, here)
        ended = _fill(descriptor, data, arguments.limit, context.output_limit)
    return _text(bytes(data), arguments, context.output_limit, here.path, found.st_size, ended=ended)


def _skip_to(descriptor: int, first: int, here: Place) -> bytearray:
    """What was read from the beginning of line `first` on; the file is read no further than needed."""
    line, passed = 1, 0
    while line < first:
        block = os.read(descriptor, BLOCK)
        if not block:
            raise ToolFailed(f"{here.path} has {line if passed else 0} lines or fewer; line {first} is past its end")
        passed += len(block)
        if passed > MAX_SCAN:
            raise ToolFailed(f"line {first} of {here.path} is more than {MAX_SCAN} bytes into it", hint="a command can cut such a file")
        count = block.count(b"\n")
        if line + count < first:
            line += count
            continue
        at = 0
        while line < first:
            at = block.index(b"\n", at) + 1
            line += 1
        return bytearray(block[at:])
    return bytearray()


def _fill(descriptor: int, data: bytearray, lines: int, limit: int) -> bool:
    """Read on until there are enough lines or bytes. True when the file's end was seen."""
    while data.count(b"\n") < lines and len(data) <= limit:
        block = os.read(descriptor, PIECE)
        if not block:
            return True
        data += block
    # One byte more tells a file that ends here from one that goes on.
    more = os.read(descriptor, 1)
    data += more
    return not more


def _text(data: bytes, arguments: ReadFile, limit: int, path: str, size: int, *, ended: bool) -> FileText:
    """The answer for the data that begins with line `offset`."""
    if ended and not data and arguments.offset > 1:
        raise ToolFailed(f"{path} has {arguments.offset - 1} lines; line {arguments.offset} is past its end")
    piece, whole_lines = _take(data, arguments.limit, limit)
    try:
        text, lossy = codecs.utf_8_decode(piece, "strict", whole_lines)[0], False
    except UnicodeDecodeError:
        # Shown bytes take four characters each.
        piece, whole_lines = _take(data, arguments.limit, limit // 4)
        text, lossy = piece.decode("utf-8", "backslashreplace"), True
    cut = len(piece) < len(data) or not ended
    lines = piece.count(b"\n") + (1 if piece and not piece.endswith(b"\n") else 0)
    after = arguments.offset + lines
    note = None
    if cut and not whole_lines:
        note = f"line {arguments.offset} is longer than {len(piece)} bytes: only its beginning is here, and read_file cannot give the rest"
    elif cut:
        note = f"the file goes on; read it with offset {after}"
    return FileText(
        path=path,
        content=text,
        first_line=arguments.offset,
        lines=lines,
        total_lines=None if cut else after - 1,
        size_bytes=size,
        cut=cut,
        next_offset=after if cut else None,
        lossy=lossy,
        note=note,
    )


def _take(data: bytes, lines: int, limit: int) -> tuple[bytes, bool]:
    """At most `lines` lines and `limit` bytes of data, whole lines if one fits; the second value is False for a part of a line."""
    end, count = 0, 0
    while count < lines and end < len(data):
        line_end = data.find(b"\n", end)
        step = len(data) if line_end < 0 else line_end + 1
        if step > limit:
            return (data[:end], True) if end else (data[:limit], False)
        end, count = step, count + 1
    return data[:end], True


async def run_write_file(arguments: WriteFile, context: ToolContext) -> Written:
    """Raises ToolFailed; then the file is as it was. Directories made on the way stay."""
    content = _encoded(arguments.content, "content")
    with place(context.workdir, arguments.path, writing=True) as here:
        replace(here, content)
        return Written(here.path, here.found is None, len(content), _line_ends(content))


def is_written(arguments: WriteFile, context: ToolContext) -> bool:
    """True if the file already holds this content: a call that was cut off has taken effect."""
    content = _encoded(arguments.content, "content")
    try:
        with reading(context.workdir, arguments.path) as (descriptor, found, _):
            return found.st_size == len(content) and _read_all(descriptor, len(content)) == content
    except ToolFailed:
        return False


async def run_edit_file(arguments: EditFile, context: ToolContext) -> Written:
    """Raises ToolFailed unless the edit fits exactly; then the file is as it was."""
    patch, old, new = arguments.patch, arguments.old, arguments.new
    if (patch is None) == (old is None and new is None) or (patch is None and (old is None or new is None)):
        raise ToolFailed("edit_file takes either old and new, or patch")
    with place(context.workdir, arguments.path, writing=True) as here:
        if here.found is None:
            raise missing(here)
        require_regular(here.found, here.path)
        if here.found.st_size > MAX_EDIT:
            raise ToolFailed(f"{here.path} has {here.found.st_size} bytes; edit_file takes at most {MAX_EDIT}")
        descriptor = open_regular(here)
        try:
            content = _read_all(descriptor, MAX_EDIT)
        finally:
            os.close(descriptor)
        if patch is not None:
            changed = apply_patch(content, _encoded(patch, "patch"), here.path)
        else:
            changed = replace_once(content, _encoded(old or "", "old"), _encoded(new or "", "new"))
        replace(here, changed)
        return Written(here.path, created=False, size_bytes=len(changed), line_ends=_line_ends(changed))


async def run_list_dir(arguments: ListDir, context: ToolContext) -> Listing:
    """Raises ToolFailed unless the path is a directory below the working directory."""
    with place(context.workdir, arguments.path) as here, listing(here) as descriptor:
        with os.scandir(descriptor) as found:
            names = sorted(entry.name for entry, _ in zip(found, range(MAX_SCANNED), strict=False))
        entries: list[Entry] = []
        left = context.output_limit
        for name in names[:MAX_ENTRIES]:
            entry = _entry(name, descriptor)
            left -= len(entry.name.encode()) + len((entry.target or "").encode()) + ENTRY_BYTES
            if left < 0:
                break
            entries.append(entry)
        return Listing(here.path, tuple(entries), len(names), len(entries) < len(names) or len(names) == MAX_SCANNED)


def _entry(name: str, directory: int) -> Entry:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            return Entry(shown(name), "link", target=shown(os.readlink(name, dir_fd=directory)))
    except OSError:
        # Gone since the names were read, or not to be looked at.
        return Entry(shown(name), "other")
    if stat.S_ISREG(found.st_mode):
        return Entry(shown(name), "file", size_bytes=found.st_size)
    return Entry(shown(name), "dir" if stat.S_ISDIR(found.st_mode) else "other")


def _read_all(descriptor: int, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes. Raises ToolFailed when it is larger: it may grow while it is read."""
    pieces: list[bytes] = []
    left = limit + 1
    while left > 0 and (piece := os.read(descriptor, min(BLOCK, left))):
        pieces.append(piece)
        left -= len(piece)
    if left <= 0:
        raise ToolFailed(f"the file has more than {limit} bytes")
    return b"".join(pieces)


def _encoded(text: str, name: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise ToolFailed(f"{name} holds half of a surrogate pair, which no UTF-8 file can hold") from None


def _line_ends(content: bytes) -> Literal["lf", "crlf"]:
    return "crlf" if is_crlf(content) else "lf"


TOOLS: Final = (
    Tool(
        name="read_file",
        description="Read lines of a text file. The answer says when it was cut and with which offset to go on.",
        arguments=ReadFile,
        result=FileText,
        power="filesystem-read",
        effect="pure",
        where="cell",
        read_only=True,
        run=run_read_file,
    ),
    Tool(
        name="write_file",
        description="Write a whole file, in one step. Makes directories that are missing. To change a part of a file use edit_file.",
        arguments=WriteFile,
        result=Written,
        power="filesystem-write",
        effect="verify",
        where="cell",
        read_only=False,
        run=run_write_file,
        verify=is_written,
    ),
    Tool(
        name="edit_file",
        description="Replace text that occurs exactly once in a file, or apply a unified patch to it. Anything inexact is refused and changes nothing.",
        arguments=EditFile,
        result=Written,
        power="filesystem-write",
        effect="effect",
        where="cell",
        read_only=False,
        run=run_edit_file,
    ),
    Tool(
        name="list_dir",
        description="List the names in a directory, sorted, with kind and size.",
        arguments=ListDir,
        result=Listing,
        power="filesystem-read",
        effect="pure",
        where="cell",
        read_only=True,
        run=run_list_dir,
    ),
)
