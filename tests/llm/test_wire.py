"""The socket between kernel and provider process: messages whole, in pieces, too large, and not messages."""

from __future__ import annotations

import msgspec
import pytest

from toka_cli.errors import ProtocolError
from toka_cli.llm import wire
from toka_cli.llm.provider import ModelReply, ModelRequest

ASK = wire.Ask(7, ModelRequest("openai/x", ({"role": "user", "content": "ü" * 3},)), deltas=True)
REPLIED = wire.Replied(7, ModelReply({"role": "assistant", "content": "hi"}, "stop", 3, 1, cost_usd=0.5), rss_bytes=1)


def test_messages_come_back_as_they_were() -> None:
    (body,) = wire.Cutter().feed(wire.pack(ASK))
    assert wire.TO_PROVIDER.decode(body) == ASK
    (body,) = wire.Cutter().feed(wire.pack(REPLIED))
    assert wire.FROM_PROVIDER.decode(body) == REPLIED


@pytest.mark.parametrize("size", [1, 3, 4, 5, 50])
def test_pieces_of_any_size_are_put_together(size: int) -> None:
    data = wire.pack(ASK) + wire.pack(wire.Cancel(7)) + wire.pack(wire.Describe(8, "m"))
    cutter = wire.Cutter()
    found = [wire.TO_PROVIDER.decode(body) for start in range(0, len(data), size) for body in cutter.feed(data[start : start + size])]
    assert found == [ASK, wire.Cancel(7), wire.Describe(8, "m")]


def test_a_conversation_larger_than_a_frame_of_the_cells_goes_through() -> None:
    large = wire.Ask(1, ModelRequest("openai/x", ({"role": "user", "content": "x" * (3 << 20)},)))
    (body,) = wire.Cutter().feed(wire.pack(large))
    assert wire.TO_PROVIDER.decode(body) == large


def test_what_is_too_large_is_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProtocolError):
        list(wire.Cutter().feed(wire.HEADER.pack(wire.MAX_MESSAGE_BYTES + 1)))
    monkeypatch.setattr(wire, "MAX_MESSAGE_BYTES", 1000)
    with pytest.raises(ProtocolError):
        wire.pack(wire.Ask(1, ModelRequest("x", ({"content": "x" * 2000},))))


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(ProtocolError):
        wire.pack(wire.Ask(1, ModelRequest("x", ({"content": object()},))))


def test_only_messages_of_the_right_direction_are_read() -> None:
    (body,) = wire.Cutter().feed(wire.pack(REPLIED))
    with pytest.raises(msgspec.ValidationError):
        wire.TO_PROVIDER.decode(body)
