"""Frames: a 4-byte big-endian length, then that many bytes of JSON-RPC 2.0. In: bytes as they arrive. Out: whole, checked frames.

Every bound is here: size, nesting, and what a frame may be. Never reads or writes a socket.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from toka_cli.errors import ProtocolError

# A frame holds at most a task's bounded output or a brief; larger things go in pieces (task.output) or as artifacts.
MAX_FRAME_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 64
HEADER: Final = struct.Struct("!I")


class WireError(msgspec.Struct, frozen=True, omit_defaults=True):
    """The error of a reply. `code` is a JSON-RPC number; `data.code` is toka's stable word."""

    code: int
    message: str
    data: dict[str, Any] = {}


class Frame(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request (method and id), a notification (method alone) or a reply (id alone)."""

    jsonrpc: str
    id: int | None = None
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"{}")
    result: msgspec.Raw = msgspec.Raw(b"")
    error: WireError | None = None


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Frame)


def pack(frame: Frame) -> bytes:
    """The bytes of a frame, length first. Raises ProtocolError if it is larger than MAX_FRAME_BYTES."""
    return pack_bytes(_ENCODER.encode(frame))


def pack_bytes(body: bytes) -> bytes:
    """A body with its length in front. Raises ProtocolError if it is larger than MAX_FRAME_BYTES."""
    if len(body) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {len(body)} bytes is larger than {MAX_FRAME_BYTES}")
    return HEADER.pack(len(body)) + body


def request(method: str, params: msgspec.Struct, call_id: int | None = None) -> bytes:
    """A request, or a notification when there is no id."""
    return pack(Frame("2.0", id=call_id, method=method, params=msgspec.Raw(_ENCODER.encode(params))))


def reply(call_id: int, result: msgspec.Struct) -> bytes:
    """A reply that says yes."""
    return pack(Frame("2.0", id=call_id, result=msgspec.Raw(_ENCODER.encode(result))))


def reply_error(call_id: int, error: WireError) -> bytes:
    """A reply that says no."""
    return pack(Frame("2.0", id=call_id, error=error))


class FrameReader:
    """Cuts a stream of bytes into bodies. Holds at most one frame that is not complete yet."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def partial(self) -> bool:
        """True while a frame has begun and not ended."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes, give the bodies that are complete. Raises ProtocolError before buffering a frame that is too large."""
        self._buffer += data
        start = 0
        view = self._buffer
        try:
            while len(view) - start >= HEADER.size:
                (size,) = HEADER.unpack_from(view, start)
                if size > MAX_FRAME_BYTES:
                    raise ProtocolError(f"a frame of {size} bytes was announced; the limit is {MAX_FRAME_BYTES}")
                end = start + HEADER.size + size
                if len(view) < end:
                    break
                body = bytes(view[start + HEADER.size : end])
                start = end
                yield body
        finally:
            del self._buffer[:start]


def decode(body: bytes) -> Frame:
    """A checked frame. Raises ProtocolError for what is not JSON-RPC 2.0, or is nested deeper than MAX_DEPTH."""
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise ProtocolError(f"a frame is nested deeper than {MAX_DEPTH}")
    try:
        frame = _DECODER.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a frame is not JSON-RPC: {error}") from None
    if frame.jsonrpc != "2.0" or (frame.method is None and frame.id is None):
        raise ProtocolError("a frame is neither a request nor a reply of JSON-RPC 2.0")
    return frame


def _depth(body: bytes) -> int:
    """How deep the brackets go outside strings. Only asked for frames with many brackets."""
    depth = deepest = 0
    in_string = escaped = False
    for byte in body:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest
