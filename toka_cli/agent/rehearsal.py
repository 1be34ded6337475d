"""A cell's work done once before the first fork: one task, a command that does nothing, behind a door whose other end is here too.

What runs for the first time makes things that stay (decoders, bytecode fitted to its types, compiled patterns). Made in the fork server they are shared by
all cells; made in a cell they cost it time and memory of its own. In: nothing. Out: nothing; no process and no descriptor is left.
"""

from __future__ import annotations

import socket
from typing import Final

import msgspec

from toka_cli.agent.main import Cell
from toka_cli.agent.strands import Scheduler
from toka_cli.protocol import frames, messages
from toka_cli.sandbox import enter

_TASK: Final = messages.TaskBrief(id="t1", description="nothing", kind="command", run=":", timeout_s=10.0)
_ANSWERS: Final[dict[str, messages.Message]] = {
    "agent.hello": messages.AgentBrief("rehearsal", "rehearsal", "/", (_TASK,)),
    "attempt.start": messages.Go(go=True),
    "attempt.finish": messages.Verdict("succeeded"),
    "agent.finish": messages.Ack(),
}


def rehearse() -> None:
    """Be a cell for a moment. Waits for its command, so children must not be ignored yet."""
    enter.prepare()
    ours, theirs = socket.socketpair()
    scheduler = Scheduler()
    reader = frames.FrameReader()

    def answer() -> None:
        for body in reader.feed(ours.recv(1 << 16)):
            frame = frames.decode(body)
            if frame.id is not None and frame.method is not None:
                ours.sendall(frames.reply(frame.id, _ANSWERS[frame.method]))

    msgspec.json.decode(b'{"order":"kill"}', type=messages.ShimOrder)
    with ours, theirs:
        scheduler.watch(ours.fileno(), answer)
        scheduler.run(Cell(theirs, scheduler, {}).work())

