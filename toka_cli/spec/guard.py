"""Refuses hostile or unreadable files before anything is made of them: size, encoding, depth, number of nodes, what aliases expand to.

Bytes and counts come in; text or InvalidSpecs goes out. Sizes are counted by arithmetic on memoised totals, so an alias bomb is
refused without being expanded. Never opens a file, never parses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from toka_cli.errors import InvalidSpecs, Problem
from toka_cli.spec.tree import Place

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 50
MAX_NODES: Final = 50_000
"""Nodes of one file with every alias expanded. The largest spec seen in the wild has about 500."""

MAX_DOCUMENTS: Final = 200

# What YAML 1.2 calls non-printable (5.1), without the surrogates, which cannot come out of UTF-8.
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ufffe\uffff]")
_BINARY_CONTROLS: Final = frozenset("\x00\x01\x02\x03\x04\x05\x06\x0e\x0f")


def refusal(path: str, place: Place, message: str, *, hint: str | None = None, code: str = "spec") -> InvalidSpecs:
    """Return the error that ends the reading of one file."""
    return InvalidSpecs([Problem(path, *place, message, hint, code)])


def decode(path: str, data: bytes) -> str:
    """Return the text of a file. Raises InvalidSpecs when it is too large, not UTF-8 or binary; a UTF-8 byte order mark is dropped."""
    if len(data) > MAX_FILE_BYTES:
        raise refusal(
            path, (0, 0), "the file is larger than 1 MB", hint="a spec is a few hundred lines: is this the right file?", code="too_large"
        )
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise refusal(path, (1, 1), "the file is UTF-16", hint="save it as UTF-8", code="encoding")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", errors="replace")
        if "\x00" in before:
            raise refusal(path, _place(before, before.index("\x00")), "this is a binary file", code="binary") from None
        raise refusal(
            path,
            _place(before, len(before)),
            f"the byte 0x{data[error.start]:02x} here is not UTF-8",
            hint="save the file as UTF-8",
            code="encoding",
        ) from None
    bad = _UNPRINTABLE.search(text)
    if bad:
        place = _place(text, bad.start())
        if bad[0] in _BINARY_CONTROLS:
            raise refusal(path, place, f"this is a binary file (it holds the byte 0x{ord(bad[0]):02x})", code="binary")
        raise refusal(
            path, place, f"the control character U+{ord(bad[0]):04X} cannot stand in YAML",
            hint=f'write it as "\\x{ord(bad[0]):02x}" in double quotes' if ord(bad[0]) < 256 else None, code="encoding",
        )  # fmt: skip
    return text


def _place(text: str, offset: int) -> Place:
    """Return line and column of an offset. CR LF is one break, as in YAML."""
    before = text[:offset].replace("\r\n", "\n").replace("\r", "\n")
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


@dataclass(slots=True)
class Meter:
    """Counts what one file holds. `expanded` is the number of nodes with aliases expanded, `visited` what was really looked at."""

    path: str
    visited: int = 0
    expanded: int = 0

    def add(self, nodes: int, place: Place) -> None:
        """Count nodes; raises InvalidSpecs above MAX_NODES."""
        self.visited += 1
        self.expanded += nodes
        if self.expanded > MAX_NODES:
            if nodes > 1 or self.visited < self.expanded:
                message = f"aliases make this file more than {MAX_NODES} entries large"
            else:
                message = f"the file has more than {MAX_NODES} entries"
            raise refusal(self.path, place, message, hint="an alias repeats everything below its anchor", code="too_many_nodes")

    def descend(self, depth: int, place: Place) -> None:
        """Check a depth; raises InvalidSpecs above MAX_DEPTH."""
        if depth > MAX_DEPTH:
            raise refusal(self.path, place, f"nested more than {MAX_DEPTH} levels deep", code="too_deep")

    def document(self, count: int, place: Place) -> None:
        """Check the number of documents; raises InvalidSpecs above MAX_DOCUMENTS."""
        if count > MAX_DOCUMENTS:
            raise refusal(self.path, place, f"more than {MAX_DOCUMENTS} documents in one file", code="too_many_nodes")
