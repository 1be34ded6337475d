"""Peer over real socketpairs and a real loop: what it hands over, what it answers, and when it cuts a connection off."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from toka_cli.errors import Bug, CapabilityDenied, IllegalMove, ProtocolError
from toka_cli.protocol import frames, messages
from toka_cli.protocol import peer as peer_module
from toka_cli.protocol.methods import TO_KERNEL
from toka_cli.protocol.peer import Peer


class Line:
    """A peer, the other end of its socket, and everything it was told."""

    def __init__(self, ours):
        self.ours = ours
        self.served = []
        self.broken = []
        self.closed = asyncio.Event()
        self.told = asyncio.Event()
        self.serve = lambda method, params, answer: None
        self.peer = Peer(TO_KERNEL, self._serve, on_broken=self._broken, on_closed=self.closed.set)
        self._reader = frames.FrameReader()
        self._frames = []

    def _serve(self, method, params, answer):
        self.served.append((method, params))
        self.told.set()
        self.serve(method, params, answer)

    def _broken(self, why):
        self.broken.append(why)

    async def send(self, data):
        await asyncio.get_running_loop().sock_sendall(self.ours, data)

    async def receive(self):
        """The next frame from the peer; None at the end."""
        while not self._frames:
            try:
                data = await asyncio.get_running_loop().sock_recv(self.ours, 1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._frames += self._reader.feed(data)
        return frames.decode(self._frames.pop(0))

    async def until_served(self, count):
        while len(self.served) < count:
            self.told.clear()
            await self.told.wait()


@pytest.fixture
def with_line():
    """Runs a scenario with a line, inside a loop whose uncaught errors are returned."""

    def run(scenario):
        errors = []

        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: errors.append(context.get("exception")))
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.setblocking(False)
            line = Line(ours)
            await loop.create_connection(lambda: line.peer, sock=theirs)
            try:
                await asyncio.wait_for(scenario(line), 30)
            finally:
                line.peer.close()
                with contextlib.suppress(OSError):
                    ours.close()
                await asyncio.wait_for(line.closed.wait(), 30)

        asyncio.run(main())
        return errors

    return run


START = messages.StartAttempt("t1", 1)


def test_calls_arrive_in_order_and_answers_carry_their_ids(with_line):
    async def scenario(line):
        line.serve = lambda method, params, answer: answer(messages.Go(go=True))
        await line.send(
            frames.request("attempt.start", START, 5)
            + frames.request("agent.beat", messages.Beat())
            + frames.request("attempt.start", START, 6)
        )
        first, second = await line.receive(), await line.receive()
        assert (first.id, second.id) == (5, 6)
        assert [method for method, _ in line.served] == ["attempt.start", "agent.beat", "attempt.start"]
        assert line.served[0][1] == START

    assert with_line(scenario) == []


def test_an_answer_may_come_later(with_line):
    async def scenario(line):
        later = []
        line.serve = lambda method, params, answer: later.append(answer)
        await line.send(frames.request("attempt.start", START, 1) + frames.request("attempt.start", START, 2))
        await line.until_served(2)
        later[1](messages.Go(go=False))
        later[0](messages.Go(go=True))
        assert [(await line.receive()).id, (await line.receive()).id] == [2, 1]

    with_line(scenario)


def test_an_unknown_method_is_answered_and_nothing_else_happens(with_line):
    async def scenario(line):
        await line.send(frames.request("agent.rule_the_world", messages.Ack(), 9))
        frame = await line.receive()
        assert (frame.id, frame.error.code) == (9, peer_module.METHOD_NOT_FOUND)
        await line.send(frames.request("agent.beat", messages.Beat()))
        await line.until_served(1)
        assert line.broken == []

    with_line(scenario)


def test_an_unknown_notification_is_ignored(with_line):
    async def scenario(line):
        await line.send(frames.request("agent.unknown", messages.Ack()) + frames.request("agent.beat", messages.Beat()))
        await line.until_served(1)
        assert line.broken == []

    with_line(scenario)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (frames.request("agent.beat", messages.Beat(), 3), "notification"),
        (frames.request("attempt.start", START), "id is missing"),
        (frames.request("attempt.start", messages.Note("x"), 1), "StartAttempt"),
        (frames.reply(1, messages.Ack()), "nothing that was asked"),
        (frames.pack_bytes(b"garbage"), "not JSON-RPC"),
        (frames.pack_bytes(b'{"jsonrpc":"2.0","method":"agent.note","params":{"detail":"\xff"}}'), "utf-8"),
        (b"\xff\xff\xff\xff", "announced"),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_cut_off_once_and_told_about(with_line, data, why):
    async def scenario(line):
        await line.send(frames.request("agent.beat", messages.Beat()) + data + frames.request("agent.beat", messages.Beat()))
        assert await line.receive() is None
        await line.closed.wait()
        assert len(line.broken) == 1
        assert why in line.broken[0]
        # What came before counts, what came after does not.
        assert len(line.served) == 1
        assert not line.peer.connected

    assert with_line(scenario) == []


def test_a_protocol_error_of_the_one_who_serves_cuts_off(with_line):
    async def scenario(line):
        def serve(method, params, answer):
            raise ProtocolError("out of order")

        line.serve = serve
        await line.send(frames.request("attempt.start", START, 1))
        assert await line.receive() is None
        assert line.broken == ["out of order"]

    assert with_line(scenario) == []


def test_a_refusal_is_an_answer_with_its_code_and_hint(with_line):
    async def scenario(line):
        def serve(method, params, answer):
            raise CapabilityDenied("no", hint="add git-access")

        line.serve = serve
        await line.send(frames.request("attempt.start", START, 4))
        error = (await line.receive()).error
        assert error.message == "no"
        assert error.data["code"] == "capability_denied"
        assert error.data["hint"] == "add git-access"
        assert line.broken == []

    assert with_line(scenario) == []


@pytest.mark.parametrize("error", [Bug("ours"), IllegalMove("ours too")])
def test_a_bug_of_ours_is_not_hidden_in_an_answer(with_line, error):
    async def scenario(line):
        def serve(method, params, answer):
            raise error

        line.serve = serve
        await line.send(frames.request("attempt.start", START, 4))
        assert await line.receive() is None

    assert with_line(scenario) == [error]


def test_a_frame_that_is_never_finished_ends_the_connection(with_line, monkeypatch):
    monkeypatch.setattr(peer_module, "PARTIAL_FRAME_TIMEOUT_S", 0.02)

    async def scenario(line):
        await line.send(frames.request("agent.beat", messages.Beat())[:-1])
        assert await line.receive() is None
        assert "never finished" in line.broken[0]

    with_line(scenario)


def test_dripping_bytes_buy_no_time(with_line, monkeypatch):
    monkeypatch.setattr(peer_module, "PARTIAL_FRAME_TIMEOUT_S", 0.05)

    async def scenario(line):
        async def drip():
            await line.send(frames.HEADER.pack(1 << 20))
            with contextlib.suppress(OSError):
                while True:
                    await line.send(b" ")
                    await asyncio.sleep(0.005)

        dripping = asyncio.ensure_future(drip())
        await line.closed.wait()
        dripping.cancel()
        assert "never finished" in line.broken[0]

    with_line(scenario)


def test_a_finished_frame_stops_the_clock(with_line, monkeypatch):
    monkeypatch.setattr(peer_module, "PARTIAL_FRAME_TIMEOUT_S", 0.05)

    async def scenario(line):
        whole = frames.request("agent.beat", messages.Beat())
        await line.send(whole[:-1])
        await line.send(whole[-1:])
        await line.until_served(1)
        await asyncio.sleep(0.1)
        assert line.broken == []
        assert line.peer.connected

    with_line(scenario)


def test_a_flood_is_paused_not_killed_and_nothing_of_it_is_lost(with_line, monkeypatch):
    monkeypatch.setattr(peer_module, "MAX_FRAMES_PER_S", 200)

    async def scenario(line):
        pauses = []
        transport = line.peer._transport
        pause = transport.pause_reading
        monkeypatch.setattr(transport, "pause_reading", lambda: (pauses.append(1), pause()))
        beat = frames.request("agent.beat", messages.Beat())
        for _ in range(6):
            await line.send(beat * 100)
        await line.until_served(600)
        assert pauses
        assert line.broken == []

    with_line(scenario)


def test_after_the_other_side_has_gone_nothing_is_sent_and_nothing_breaks(with_line):
    async def scenario(line):
        assert line.peer.connected
        line.ours.close()
        await line.closed.wait()
        assert not line.peer.connected
        line.peer.notify("agent.stop", messages.StopAgent("late", 0.0))
        assert line.broken == []

    assert with_line(scenario) == []


def test_what_was_written_goes_out_before_the_end(with_line):
    async def scenario(line):
        line.peer.notify("agent.stop", messages.StopAgent("bye", 1.0))
        line.peer.close()
        frame = await line.receive()
        assert frame.method == "agent.stop"
        assert await line.receive() is None

    with_line(scenario)
