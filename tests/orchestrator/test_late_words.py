"""What a cell says between its last word and its end."""

from __future__ import annotations

import asyncio

from toka_cli.protocol import frames
from toka_cli.protocol import messages as m


def test_a_heartbeat_behind_the_finish_breaks_nothing(orchestrate, make, backend):
    """A cell beats until its finish is acknowledged, and both can arrive together."""

    async def beats_late(cell):
        await cell.call("agent.hello", m.Hello(cell.pid, {}))
        await cell.attempt("t1")
        both = frames.request("agent.finish", m.FinishAgent(), 1000) + frames.request("agent.beat", m.Beat())
        await asyncio.get_running_loop().sock_sendall(cell.inside, both)
        while (await cell.frame()).id != 1000:
            pass

    backend.acts["a"] = beats_late
    run = orchestrate(make("a"))
    assert run.states() == {"a": "succeeded"}


def test_anything_else_behind_the_finish_does(orchestrate, make, backend):
    async def goes_on(cell):
        await cell.call("agent.hello", m.Hello(cell.pid, {}))
        await cell.attempt("t1")
        both = frames.request("agent.finish", m.FinishAgent(), 1000) + frames.request("agent.note", m.Note("still here"))
        await asyncio.get_running_loop().sock_sendall(cell.inside, both)
        await cell.told("never")

    backend.acts["a"] = goes_on
    run = orchestrate(make("a"))
    assert run.agent("a").reason.startswith("protocol: agent.note after agent.finish")
