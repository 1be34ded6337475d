"""The kernel's side of a door: an asyncio Protocol that decodes, validates and hands over calls, and writes replies. Knows no method's meaning.

A peer that breaks the protocol (size, depth, shape, an unfinished frame) is cut off: `on_broken` is told why, and the connection ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from toka_cli.errors import Bug, ProtocolError, TokaError
from toka_cli.protocol import frames, messages
from toka_cli.protocol.methods import Method, read

PARTIAL_FRAME_TIMEOUT_S: Final = 30.0
# Above this many frames in one second, reading pauses until the second is over: a flood costs the flooder, not the neighbours.
MAX_FRAMES_PER_S: Final = 20_000
METHOD_NOT_FOUND: Final = -32601
SERVER_ERROR: Final = -32000

Answer = Callable[[messages.Message], None]
Serve = Callable[[str, messages.Message, Answer], None]


class Peer(asyncio.Protocol):
    """One connection. `serve(method, params, answer)` is called in order of arrival and calls `answer` once, now or later."""

    def __init__(self, methods: Mapping[str, Method], serve: Serve, *, on_broken: Callable[[str], None], on_closed: Callable[[], None]) -> None:
        self._methods = methods
        self._serve = serve
        self._on_broken = on_broken
        self._on_closed = on_closed
        self._reader = frames.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._partial_timer: asyncio.TimerHandle | None = None
        self._window_start = 0.0
        self._window_frames = 0

    @property
    def connected(self) -> bool:
        """True while frames can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def notify(self, method: str, params: messages.Message) -> None:
        """Send a notification; nothing happens if the other side is gone."""
        self._write(frames.request(method, params))

    def close(self) -> None:
        """End the connection after what was written has gone out."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._transport = None
        self._disarm()
        self._on_closed()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio. A broken frame ends the connection; the frames before it count."""
        try:
            for body in self._reader.feed(data):
                # Only a whole frame stops the clock: one that comes in a byte at a time has the same time as any other.
                self._disarm()
                self._dispatch(frames.decode(body))
                self._count_frame()
        except ProtocolError as error:
            self._break(error.message)
            return
        if self._reader.partial and self._partial_timer is None:
            loop = asyncio.get_running_loop()
            self._partial_timer = loop.call_later(PARTIAL_FRAME_TIMEOUT_S, self._break, "a frame was begun and never finished")

    def _dispatch(self, frame: frames.Frame) -> None:
        if frame.method is None:
            raise ProtocolError("a reply to nothing that was asked")
        method = self._methods.get(frame.method)
        if method is None:
            if frame.id is not None:
                self._write(frames.reply_error(frame.id, frames.WireError(METHOD_NOT_FOUND, f"no method {frame.method[:80]!r}")))
            return
        if (frame.id is None) != (method.result is None):
            raise ProtocolError(f"{frame.method}: {'an id is missing' if frame.id is None else 'a notification has no id'}")
        params = read(method.params, frame.params)
        call_id = frame.id

        def answer(result: messages.Message) -> None:
            if call_id is not None:
                self._write(frames.reply(call_id, result))

        try:
            self._serve(frame.method, params, answer)
        except ProtocolError:
            raise
        except Bug:
            raise
        except TokaError as error:
            if call_id is not None:
                self._write(frames.reply_error(call_id, wire_error(error)))

    def _count_frame(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._window_start >= 1.0:
            self._window_start, self._window_frames = now, 0
        self._window_frames += 1
        if self._window_frames == MAX_FRAMES_PER_S and self._transport is not None:
            self._transport.pause_reading()
            loop.call_at(self._window_start + 1.0, self._resume)

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _break(self, why: str) -> None:
        self._disarm()
        if self._transport is not None:
            self._transport.abort()
        self._on_broken(why)

    def _disarm(self) -> None:
        if self._partial_timer is not None:
            self._partial_timer.cancel()
            self._partial_timer = None

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def wire_error(error: TokaError) -> frames.WireError:
    """An error as a reply carries it."""
    data = {"code": error.code, "exit_code": error.exit_code, "retryable": error.retryable}
    if error.hint:
        data["hint"] = error.hint
    return frames.WireError(SERVER_ERROR, error.message, data)
