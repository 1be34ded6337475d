"""HTTP/1.1 heads and bodies, read strictly (RFC 9112). In: a stream. Out: a checked head; the body piece by piece, without its framing.

What two readers could understand in two ways is refused: bare line feeds, folded lines, a length given twice, a length beside chunks. Decides nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from toka_cli.errors import TokaError

MAX_HEAD: Final = 16 * 1024
"""Bytes of a head: what most servers take (nginx 8 + 4 x 8 KiB, Apache 8 KiB a line)."""
MAX_FIELDS: Final = 100
PIECE: Final = 64 * 1024
MAX_CHUNK_LINE: Final = 1024

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_REQUEST: Final = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])")
_STATUS: Final = re.compile(r"HTTP/1\.[01] ([0-9]{3})(?: [\t\x20-\x7e\x80-\xff]*)?")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e]*)?")

HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Fields that belong to one connection and are never handed on (RFC 9110, 7.6.1)."""

Framing: TypeAlias = int | Literal["chunked", "to_the_end"]
"""How a body ends: after so many bytes, with its last chunk, or with the connection."""


class BadHttp(TokaError):
    """The other side does not speak HTTP/1.1 in a way that can be understood only once. `status` answers a request that is so."""

    code = "bad_http"

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """The first line of a message and its fields, names as they came."""

    first: str
    fields: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        """Every value of a field; `name` in lower case."""
        return [value for field, value in self.fields if field.lower() == name]

    def one(self, name: str) -> str | None:
        """The value of a field that may stand there once. Raises BadHttp when it is repeated."""
        values = self.all(name)
        if len(values) > 1:
            raise BadHttp(f"the field {name} is there {len(values)} times")
        return values[0] if values else None

    def request(self) -> tuple[str, str]:
        """Method and target of a request. Raises BadHttp."""
        match = _REQUEST.fullmatch(self.first)
        if match is None:
            raise BadHttp("the first line is no request of HTTP/1.1")
        return match[1], match[2]

    def status(self) -> int:
        """The status of a reply. Raises BadHttp."""
        match = _STATUS.fullmatch(self.first)
        if match is None:
            raise BadHttp("the first line is no reply of HTTP/1.1")
        return int(match[1])

    def handed_on(self) -> list[tuple[str, str]]:
        """The fields that another connection may see."""
        named = {word.strip().lower() for value in self.all("connection") for word in value.split(",")}
        return [(name, value) for name, value in self.fields if name.lower() not in HOP_BY_HOP and name.lower() not in named]


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next head; None if the stream ended before it began. Raises BadHttp (431: too long; the stream's own limit bounds it too)."""
    try:
        data = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise BadHttp("the stream ended within a head") from None
        return None
    except asyncio.LimitOverrunError:
        raise BadHttp(f"a head of more than {MAX_HEAD} bytes", 431) from None
    if len(data) > MAX_HEAD:
        raise BadHttp(f"a head of more than {MAX_HEAD} bytes", 431)
    return parse_head(data)


def parse_head(data: bytes) -> Head:
    """A head that ends with its empty line. Raises BadHttp."""
    first, *lines = data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    if len(lines) > MAX_FIELDS:
        raise BadHttp(f"more than {MAX_FIELDS} fields", 431)
    if not _VALUE.fullmatch(first):
        raise BadHttp("the first line holds control characters")
    fields = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadHttp("a line of the head is no field")
        fields.append((name, value.strip(" \t")))
    return Head(first, tuple(fields))


def framing(head: Head) -> Framing | None:
    """How the body of a message ends, by its fields alone; None when they say nothing. Raises BadHttp for what can be read in two ways."""
    encodings = head.all("transfer-encoding")
    length = head.one("content-length")
    if encodings:
        if length is not None:
            raise BadHttp("a length and chunks at once")
        if [encoding.lower() for encoding in encodings] != ["chunked"]:
            raise BadHttp("a transfer encoding other than chunked", 501)
        return "chunked"
    if length is None:
        return None
    if not _LENGTH.fullmatch(length):
        raise BadHttp("a length that is no number")
    return int(length)


async def body(reader: asyncio.StreamReader, how: Framing) -> AsyncIterator[bytes]:
    """The body in pieces. Raises BadHttp when it ends too early or its chunks are none."""
    if how == "chunked":
        async for piece in _chunks(reader):
            yield piece
    elif how == "to_the_end":
        while piece := await reader.read(PIECE):
            yield piece
    else:
        async for piece in _exactly(reader, how):
            yield piece


async def _exactly(reader: asyncio.StreamReader, count: int) -> AsyncIterator[bytes]:
    while count:
        piece = await reader.read(min(count, PIECE))
        if not piece:
            raise BadHttp(f"the body ended {count} bytes early")
        count -= len(piece)
        yield piece


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        match = _CHUNK.fullmatch(await _line(reader))
        if match is None:
            raise BadHttp("a chunk does not say how long it is")
        size = int(match[1], 16)
        if size == 0:
            break
        async for piece in _exactly(reader, size):
            yield piece
        if await _line(reader):
            raise BadHttp("a chunk does not end where it says")
    for _ in range(MAX_FIELDS):
        # Fields behind the body are read and dropped: nobody was told to expect them.
        if not await _line(reader):
            return
    raise BadHttp("too many fields behind the body")


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        line = await reader.readuntil(b"\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise BadHttp("a chunk does not end") from None
    if len(line) > MAX_CHUNK_LINE:
        raise BadHttp("a line among the chunks is too long")
    return line[:-2]


def written(first: str, fields: list[tuple[str, str]]) -> bytes:
    """A head as bytes. Raises ValueError for what would be more than one line."""
    for name, value in fields:
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"no field of a head: {name[:80]!r}")
    lines = [first, *(f"{name}: {value}" for name, value in fields)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
