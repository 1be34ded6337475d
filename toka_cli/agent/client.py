"""The cell's side of its door: calls that wait for an answer, notifications, and the orders that come from the kernel. Blocking writes, one reader."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, TypeVar

from toka_cli.agent.strands import Scheduler, Signal
from toka_cli.errors import ProtocolError, TokaError
from toka_cli.protocol import frames, messages
from toka_cli.protocol.methods import TO_CELL, TO_KERNEL, read

T = TypeVar("T", bound=messages.Message)


class OwnerGone(Exception):
    """The kernel's end of the door is closed: nobody is left to work for."""


class CallRefused(TokaError):
    """The kernel answered a call with an error."""

    code = "refused"


class Client:
    """The door. One reply per call; replies may come in any order."""

    def __init__(self, door: socket.socket, scheduler: Scheduler, on_order: Callable[[messages.Message], None]) -> None:
        self._door = door
        self._scheduler = scheduler
        self._on_order = on_order
        self._reader = frames.FrameReader()
        self._calls: dict[int, Signal] = {}
        self._last_id = 0
        scheduler.watch(door.fileno(), self._readable)

    async def call(self, method: str, params: messages.Message, answer: type[T]) -> T:
        """Ask and wait. Raises CallRefused, OwnerGone, ProtocolError."""
        signal = self.begin(method, params)
        await signal.wait()
        return self.answer(method, signal, answer)

    def begin(self, method: str, params: messages.Message) -> Signal:
        """Ask; the signal is set when the answer is there. Raises OwnerGone, ProtocolError."""
        self._last_id += 1
        signal = self._calls[self._last_id] = Signal(self._scheduler)
        self._send(frames.request(method, params, self._last_id))
        return signal

    def answer(self, method: str, signal: Signal, answer: type[T]) -> T:
        """The answer that a signal of `begin` carries once it is set. Raises CallRefused, OwnerGone, ProtocolError."""
        assert TO_KERNEL[method].result is answer
        frame = signal.value
        if frame is None:
            raise OwnerGone
        if frame.error is not None:
            raise CallRefused(frame.error.message, hint=frame.error.data.get("hint"), code=frame.error.data.get("code"))
        result = read(answer, frame.result)
        assert isinstance(result, answer)
        return result

    def notify(self, method: str, params: messages.Message) -> None:
        """Say without waiting. Raises OwnerGone."""
        self._send(frames.request(method, params))

    def close(self) -> None:
        """Close the door."""
        self._scheduler.unwatch(self._door.fileno())
        self._door.close()

    def _send(self, data: bytes) -> None:
        try:
            self._door.sendall(data)
        except OSError as error:
            raise OwnerGone from error

    def _readable(self) -> None:
        try:
            data = self._door.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._scheduler.unwatch(self._door.fileno())
            for signal in self._calls.values():
                signal.set(None)
            self._on_order(messages.StopAgent("owner_gone", 0.0))
            return
        for body in self._reader.feed(data):
            self._dispatch(frames.decode(body))

    def _dispatch(self, frame: frames.Frame) -> None:
        if frame.method is None:
            signal: Any = self._calls.pop(frame.id or 0, None)
            if signal is None:
                raise ProtocolError("an answer to nothing that was asked")
            signal.set(frame)
        elif (method := TO_CELL.get(frame.method)) is not None:
            self._on_order(read(method.params, frame.params))
