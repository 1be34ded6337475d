"""The control socket of a run: how another terminal talks to the owner. Same frames as the doors; a blocking client for commands.

The socket lies in the run's folder; where its path is too long for a socket address (108 bytes), it is reached through the folder's descriptor.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from toka_cli.errors import ProtocolError, TokaError, Unavailable
from toka_cli.protocol import frames
from toka_cli.protocol.messages import Ack, Message
from toka_cli.protocol.methods import Method, read

MAX_SOCKET_PATH_BYTES: Final = 100
ANSWER_TIMEOUT_S: Final = 5.0


class Ping(Message, frozen=True):
    """`run.ping`: is somebody there?"""


class StopRun(Message, frozen=True):
    """`run.stop`: end the run. Without `grace_s` the owner's own setting holds."""

    reason: str
    grace_s: float | None = None
    force: bool = False


class StopAgents(Message, frozen=True):
    """`agent.stop`: end these agents, by id."""

    agents: tuple[str, ...]
    reason: str
    grace_s: float | None = None
    force: bool = False


class PauseAgents(Message, frozen=True):
    """`agent.pause`: these agents start nothing new; `hard` freezes their process trees."""

    agents: tuple[str, ...]
    hard: bool = False


class ResumeAgents(Message, frozen=True):
    """`agent.resume`: these agents go on."""

    agents: tuple[str, ...]


class Accepted(Message, frozen=True):
    """The owner committed the command and acts on it now. `already` lists agents for which there was nothing to do (a stopped agent had ended before,
    a paused one was not running).
    """

    already: tuple[str, ...] = ()


class Watch(Message, frozen=True):
    """`run.watch`: say `run.changed` whenever something was committed or written to a log."""


class Changed(Message, frozen=True):
    """`run.changed`: look again."""


TO_OWNER: Final[dict[str, Method]] = {
    "run.ping": Method(Ping, Ack),
    "run.stop": Method(StopRun, Accepted),
    "agent.stop": Method(StopAgents, Accepted),
    "agent.pause": Method(PauseAgents, Accepted),
    "agent.resume": Method(ResumeAgents, Accepted),
    "run.watch": Method(Watch, Ack),
}


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for the socket that fits into a socket address, valid inside the block."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end, as the kernel knows it."""
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)


class ControlClient:
    """A blocking connection to an owner. Raises Unavailable when nobody answers within ANSWER_TIMEOUT_S seconds."""

    def __init__(self, path: Path) -> None:
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except PermissionError as error:
            # Within the walls of another toka. Raised before there is anything to close.
            raise Unavailable("the run's owner cannot be reached: unix sockets are refused here", code="owner_silent") from error
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        self._reader = frames.FrameReader()
        self._bodies: list[bytes] = []
        try:
            with short_path(path) as name:
                self._socket.connect(name)
        except OSError as error:
            self._socket.close()
            raise Unavailable("the run's owner does not listen", code="owner_silent") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def call(self, method: str, params: Message) -> Any:
        """Ask and wait for the answer. Raises Unavailable, or the owner's own refusal as TokaError."""
        try:
            self._socket.settimeout(ANSWER_TIMEOUT_S)
            self._socket.sendall(frames.request(method, params, 1))
            while (frame := self._next()) is not None:
                if frame.id == 1:
                    if frame.error is not None:
                        raise TokaError(frame.error.message, hint=frame.error.data.get("hint"), code=frame.error.data.get("code"))
                    kind = TO_OWNER[method].result
                    assert kind is not None
                    return read(kind, frame.result)
        except (OSError, ProtocolError) as error:
            raise Unavailable(f"the run's owner does not answer: {error}", code="owner_silent") from error
        raise Unavailable("the run's owner ended", code="owner_silent")

    def changed(self, timeout_s: float | None) -> bool:
        """After `run.watch`: wait for the next change, at most `timeout_s` seconds. False when the owner has ended (nothing more will change)."""
        self._socket.settimeout(timeout_s)
        try:
            return self._next() is not None
        except TimeoutError:
            return True
        except (OSError, ProtocolError):
            return False

    def _next(self) -> frames.Frame | None:
        while not self._bodies:
            data = self._socket.recv(1 << 16)
            if not data:
                return None
            self._bodies += self._reader.feed(data)
        return frames.decode(self._bodies.pop(0))
