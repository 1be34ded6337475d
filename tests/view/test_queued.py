"""A stream that does not make its writer wait."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator

import pytest

from toka_cli.view.queued import QueuedStream, drain, is_behind, queued


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass


def read_all(number: int, size: int) -> bytes:
    found = b""
    while len(found) < size:
        found += os.read(number, 1 << 16)
    return found


def test_a_full_pipe_does_not_hold_the_writer_and_nothing_is_lost(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = QueuedStream(writer)
    lines = [f"line {n} é\n" for n in range(50_000)]
    for line in lines:
        stream.write(line)
    stream.flush()
    assert is_behind(stream)
    assert not stream.drain(0)
    expected = "".join(lines).encode()
    assert read_all(reader, len(expected)) == expected
    assert stream.drain()
    assert not is_behind(stream)


def test_a_reader_that_went_away_is_told_at_the_next_word(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = QueuedStream(writer)
    os.close(reader)
    stream.write("x")
    for call in (stream.drain, stream.flush, lambda: stream.write("y")):
        with pytest.raises(BrokenPipeError):
            call()


def test_beyond_its_bound_the_writer_waits(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = QueuedStream(writer, limit=200_000)
    stream.write("x" * 300_000)
    written = threading.Event()

    def more() -> None:
        stream.write("y")
        written.set()

    thread = threading.Thread(target=more)
    thread.start()
    assert not written.is_set()
    assert stream.backlog <= 300_000
    assert read_all(reader, 300_001) == b"x" * 300_000 + b"y"
    thread.join(30)
    assert written.is_set()


def test_a_descriptor_that_somebody_made_non_blocking_is_waited_for(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    stream = QueuedStream(writer)
    stream.write("x" * 500_000)
    assert read_all(reader, 500_000) == b"x" * 500_000
    assert stream.drain(30)


def test_a_stream_without_a_descriptor_is_used_as_it_is() -> None:
    stream = io.StringIO()
    assert queued(stream) is stream
    assert not is_behind(stream)
    drain(stream, None)


def test_what_the_stream_held_comes_first(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with open(writer, "w", encoding="latin-1", errors="backslashreplace", closefd=False) as plain:
        plain.write("first ")
        stream = queued(plain)
        stream.write("é €")
        drain(stream, 30)
    assert os.read(reader, 100) == b"first \xe9 \\u20ac"
    assert stream.encoding == "latin-1"
    assert not stream.isatty()
