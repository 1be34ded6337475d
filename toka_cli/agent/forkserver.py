"""The fork server: exec'ed once with a clean environment, imports everything a cell needs once, then forks one shim with its cell per request.

In: SpawnRequest frames with three or four descriptors each on one socket. Out: a Forked frame for each. One thread; holds no key, no state and no terminal;
ends when the owner's end of the socket closes.
"""

from __future__ import annotations

import array
import errno
import gc
import os
import signal
import socket
import sys
from typing import Final

import msgspec

from toka_cli.agent import birth
from toka_cli.agent.rehearsal import rehearse
from toka_cli.protocol import frames
from toka_cli.protocol.messages import Forked, SpawnRequest

# Door, lifeline, log; and the handover for a cell with a proxy in its own network.
DESCRIPTORS: Final = (3, 4)


def serve(control: socket.socket) -> None:
    """Fork as asked until the owner closes the socket."""
    rehearse()
    # Nobody waits for shims: they report on their lifelines.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.disable()
    gc.freeze()
    while True:
        received = receive(control)
        if received is None:
            return
        request, descriptors = received
        answer = _fork(control, request, descriptors)
        control.sendall(frames.pack_bytes(msgspec.json.encode(answer)))


def _fork(control: socket.socket, request: SpawnRequest, descriptors: list[int]) -> Forked:
    try:
        pid = os.fork()
    except OSError as error:
        answer = Forked(error=f"fork: {error.strerror}", again=error.errno in {errno.EAGAIN, errno.ENOMEM})
    else:
        if pid == 0:
            control.close()
            birth.be_shim(request, *descriptors)
        answer = Forked(pid=pid)
    for descriptor in descriptors:
        os.close(descriptor)
    return answer


def receive(control: socket.socket) -> tuple[SpawnRequest, list[int]] | None:
    """One request and its descriptors; None when the owner is gone. Blocking."""
    reader = frames.FrameReader()
    fds = array.array("i")
    bodies: list[bytes] = []
    while not bodies:
        data, ancillary, _, _ = control.recvmsg(1 << 16, socket.CMSG_SPACE(max(DESCRIPTORS) * fds.itemsize))
        if not data:
            return None
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - (len(payload) % fds.itemsize)])
        bodies += reader.feed(data)
    if len(fds) not in DESCRIPTORS:
        return None
    return msgspec.json.decode(bodies[0], type=SpawnRequest), list(fds)


def main(arguments: list[str]) -> int:
    """`fork FD`: serve requests on FD. `fresh FD`: take one request on FD and become its shim (where no fork server is wanted)."""
    control = socket.socket(fileno=int(arguments[1]))
    if arguments[0] == "fork":
        serve(control)
        return 0
    received = receive(control)
    if received is not None:
        request, descriptors = received
        control.sendall(frames.pack_bytes(msgspec.json.encode(Forked(pid=os.getpid()))))
        control.close()
        birth.be_shim(request, *descriptors)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
