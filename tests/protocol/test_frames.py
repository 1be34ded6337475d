"""Frames: whole however they are cut, refused before they cost anything, and nothing but JSON-RPC 2.0."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toka_cli.errors import ProtocolError
from toka_cli.protocol import frames, messages


def body_of(data: bytes) -> bytes:
    return data[frames.HEADER.size :]


REQUEST = frames.request("agent.note", messages.Note("hello"), 7)


def test_a_request_comes_back_as_it_went():
    frame = frames.decode(body_of(REQUEST))
    assert (frame.jsonrpc, frame.id, frame.method, bytes(frame.params)) == ("2.0", 7, "agent.note", b'{"detail":"hello"}')


def test_a_reply_and_an_error_come_back_as_they_went():
    assert bytes(frames.decode(body_of(frames.reply(3, messages.Go(go=True)))).result) == b'{"go":true}'
    error = frames.decode(body_of(frames.reply_error(3, frames.WireError(-32000, "no", {"code": "denied"})))).error
    assert error == frames.WireError(-32000, "no", {"code": "denied"})


@pytest.mark.parametrize("cut", range(len(REQUEST) + 1))
def test_a_frame_cut_anywhere_is_whole_again(cut):
    reader = frames.FrameReader()
    first = list(reader.feed(REQUEST[:cut]))
    assert reader.partial == (0 < cut < len(REQUEST))
    assert first + list(reader.feed(REQUEST[cut:])) == [body_of(REQUEST)]
    assert not reader.partial


@given(bodies=st.lists(st.binary(max_size=200), max_size=6), cuts=st.lists(st.integers(0, 1300), max_size=12))
def test_any_bodies_cut_into_any_pieces_come_out_in_order(bodies, cuts):
    stream = b"".join(map(frames.pack_bytes, bodies))
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reader = frames.FrameReader()
    found = [body for begin, end in itertools.pairwise(places) for body in reader.feed(stream[begin:end])]
    assert found == bodies
    assert not reader.partial


def test_a_frame_too_large_is_refused_by_its_announcement_alone():
    reader = frames.FrameReader()
    with pytest.raises(ProtocolError, match="announced"):
        list(reader.feed(frames.HEADER.pack(frames.MAX_FRAME_BYTES + 1)))


def test_frames_before_one_that_is_too_large_still_count():
    bodies = frames.FrameReader().feed(REQUEST + b"\xff\xff\xff\xff")
    assert next(bodies) == body_of(REQUEST)
    with pytest.raises(ProtocolError):
        next(bodies)


def test_the_largest_frame_passes_and_one_byte_more_is_not_sent():
    largest = bytes(frames.MAX_FRAME_BYTES)
    assert list(frames.FrameReader().feed(frames.pack_bytes(largest))) == [largest]
    with pytest.raises(ProtocolError, match="larger"):
        frames.pack_bytes(largest + b"x")


def nested(depth, inside=b"1"):
    return b'{"jsonrpc":"2.0","method":"agent.beat","params":' + b"[" * (depth - 1) + inside + b"]" * (depth - 1) + b"}"


def test_depth_is_bounded_exactly():
    assert frames.decode(nested(frames.MAX_DEPTH)).method == "agent.beat"
    with pytest.raises(ProtocolError, match="nested"):
        frames.decode(nested(frames.MAX_DEPTH + 1))


def test_a_very_deep_frame_is_refused_and_not_followed():
    with pytest.raises(ProtocolError):
        frames.decode(b'{"jsonrpc":"2.0","id":1,"method":"m","params":' + b"[" * 500_000)


def test_brackets_in_texts_are_no_depth():
    text = msgspec.json.encode('[{"\\' * 200)
    assert bytes(frames.decode(b'{"jsonrpc":"2.0","method":"m","params":' + text + b"}").params) == text


def test_brackets_behind_a_text_with_escaped_quotes_are_counted():
    with pytest.raises(ProtocolError, match="nested"):
        frames.decode(nested(frames.MAX_DEPTH + 1, inside=rb'"\\\"]]]"'))


def test_many_brackets_side_by_side_are_not_deep():
    assert frames.decode(nested(2, inside=b",".join([b"[]"] * 1000))).method == "agent.beat"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b"{}",
        b'{"jsonrpc":"1.0","method":"m"}',
        b'{"jsonrpc":"2.0"}',
        b'{"jsonrpc":"2.0","id":"seven","method":"m"}',
        b'{"jsonrpc":"2.0","id":1.5,"method":"m"}',
        b'{"jsonrpc":"2.0","method":7}',
        b'{"jsonrpc":"2.0","id":1,"error":"no"}',
        b'{"jsonrpc":"2.0","method":"m"} {"jsonrpc":"2.0","method":"m"}',
        b'{"jsonrpc":"2.0","method":"m"',
    ],
)
def test_what_is_not_json_rpc_is_refused(body):
    with pytest.raises(ProtocolError):
        frames.decode(body)


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_but_a_protocol_error(data):
    reader = frames.FrameReader()
    try:
        for body in reader.feed(data):
            frames.decode(body)
    except ProtocolError:
        pass
    try:
        frames.decode(data)
    except ProtocolError:
        pass
