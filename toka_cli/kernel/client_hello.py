"""What the first bytes through a tunnel say of where they go: the server name in a TLS ClientHello (RFC 8446, 6066), or the Host of a plain HTTP request.

In: the bytes seen so far. Out: what they name, or that more are needed, or that they are neither. Changes nothing, and decides nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from toka_cli.kernel.http1 import BadHttp, parse_head

MAX_HELD: Final = 32 * 1024
"""Bytes that are held back until they are understood. A ClientHello with post-quantum keys has about 2 KiB; one handshake message may have 16 MiB."""

_HANDSHAKE: Final = 0x16
_CLIENT_HELLO: Final = 0x01
_SERVER_NAME: Final = 0x0000
_HOST_NAME: Final = 0x00
_METHOD: Final = re.compile(rb"[A-Z]{1,20}(?: |$)")
_REQUEST: Final = re.compile(rb"[A-Z]{1,20} [^\r\n]* HTTP/1\.[01]")


@dataclass(frozen=True, slots=True)
class Named:
    """What was found: `tls` or `http` with the names in it (none: it names nobody), or `other`: something that names no host."""

    kind: str
    names: tuple[str, ...] = ()


class Garbled(Exception):
    """It begins like TLS or HTTP and is neither."""


def first_words(data: bytes) -> Named | None:
    """What the first bytes name; None while more are needed. Raises Garbled."""
    if not data:
        return None
    if data[0] == _HANDSHAKE:
        return _tls(data)
    if _METHOD.match(data) or (len(data) <= 20 and re.fullmatch(rb"[A-Z]+", data)):
        return _http(data)
    return Named("other")


def _http(data: bytes) -> Named | None:
    line, found, _ = data.partition(b"\r\n")
    if not found:
        return None if len(data) < MAX_HELD else Named("other")
    if not _REQUEST.fullmatch(line):
        return Named("other")
    head, found, _ = data.partition(b"\r\n\r\n")
    if not found:
        if len(data) >= MAX_HELD:
            raise Garbled("a head that does not end")
        return None
    try:
        return Named("http", tuple(parse_head(head + found).all("host")))
    except BadHttp as error:
        raise Garbled(error.message) from None


def _tls(data: bytes) -> Named | None:
    message = bytearray()
    at = 0
    while len(data) - at >= 5:
        # A record: type, version, length. The hello may be spread over several.
        kind, length = data[at], int.from_bytes(data[at + 3 : at + 5], "big")
        if kind != _HANDSHAKE or data[at + 1] != 3 or not 0 < length <= 1 << 14:
            raise Garbled("no record of a TLS handshake")
        message += data[at + 5 : at + 5 + length]
        at += 5 + length
        if message and message[0] != _CLIENT_HELLO:
            raise Garbled("a TLS handshake that does not begin with a ClientHello")
        whole = 4 + int.from_bytes(message[1:4], "big") if len(message) >= 4 else MAX_HELD
        if len(message) >= whole:
            return Named("tls", _server_names(_Reader(bytes(message[4:whole]))))
    if len(data) >= MAX_HELD:
        raise Garbled("a ClientHello that does not end")
    return None


class _Reader:
    """Takes fields off the front. Raises Garbled when there are fewer bytes than a length says."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) < count:
            raise Garbled("a ClientHello whose lengths do not fit")
        self.at += count
        return piece

    def sized(self, bytes_of_length: int) -> _Reader:
        return _Reader(self.take(int.from_bytes(self.take(bytes_of_length), "big")))

    @property
    def done(self) -> bool:
        return self.at >= len(self.data)


def _server_names(hello: _Reader) -> tuple[str, ...]:
    hello.take(2 + 32)
    for bytes_of_length in (1, 2, 1):
        # Session id, cipher suites, compression methods.
        hello.sized(bytes_of_length)
    names: list[str] = []
    if hello.done:
        return ()
    extensions = hello.sized(2)
    while not extensions.done:
        number = int.from_bytes(extensions.take(2), "big")
        content = extensions.sized(2)
        if number == _SERVER_NAME:
            entries = content.sized(2)
            while not entries.done:
                kind = entries.take(1)[0]
                name = entries.sized(2).data
                if kind != _HOST_NAME:
                    raise Garbled("a server name of an unknown kind")
                names.append(name.decode("latin-1"))
    return tuple(names)
