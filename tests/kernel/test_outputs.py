"""The log of an agent and the spool of an attempt: bytes in, whole lines and whole files out, however they were cut."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toka_cli.kernel.outputs import INLINE_BYTES, MAX_LINE_CHARS, AgentLog, Spool


class Written:
    def __init__(self, path):
        self.path, self.told = path, 0
        self.log = AgentLog(path, lambda: 1_700_000_000.0, self.tell)

    def tell(self):
        self.told += 1

    def lines(self, stream="stdout"):
        return [line["text"] for line in map(json.loads, self.path.read_bytes().splitlines()) if line["stream"] == stream]


@pytest.fixture
def written(tmp_path):
    made = Written(tmp_path / "log.jsonl")
    yield made
    made.log.close()


def test_whole_lines_are_written_at_once_and_the_rest_at_the_end(written):
    written.log.write("t", "stdout", b"one\ntwo\nthr")
    assert written.lines() == ["one", "two"]
    assert written.told == 1
    written.log.write("t", "stdout", b"ee")
    assert written.told == 1
    written.log.end_task("t")
    assert written.lines() == ["one", "two", "three"]


def test_letters_cut_in_two_are_whole_again(written):
    data = "Grüße 😀 €\n".encode() * 3
    for n in range(len(data)):
        written.log.write("t", "stdout", data[n : n + 1])
    written.log.end_task("t")
    assert written.lines() == ["Grüße 😀 €"] * 3


def test_a_letter_that_is_never_finished_and_bytes_that_are_none(written):
    written.log.write("t", "stdout", b"a\xff\xfeb\nx\xf0\x9f")
    written.log.end_task("t")
    assert written.lines() == ["a\ufffd\ufffdb", "x\ufffd"]


def test_streams_and_tasks_do_not_mix(written):
    written.log.write("t", "stdout", b"out")
    written.log.write("t", "stderr", b"err")
    written.log.write("u", "stdout", b"other\n")
    written.log.end_task("t")
    assert written.lines() == ["other", "out"]
    assert written.lines("stderr") == ["err"]


def test_a_line_without_an_end_is_not_held_forever(written):
    for _ in range(20):
        written.log.write("t", "stdout", b"x" * 1000)
    assert len("".join(written.lines())) > 20_000 - MAX_LINE_CHARS
    written.log.end_task("t")
    assert "".join(written.lines()) == "x" * 20_000
    assert max(map(len, written.lines())) <= MAX_LINE_CHARS + 1000


def test_an_end_without_output_writes_nothing(written):
    written.log.end_task("t")
    written.log.write("t", "stdout", b"")
    written.log.end_task("t")
    assert written.told == 0


def test_empty_lines_count(written):
    written.log.write("t", "stdout", b"\n\na\n\n")
    written.log.end_task("t")
    assert written.lines() == ["", "", "a", ""]


def test_text_that_looks_like_the_log_itself_stays_text(written):
    evil = '{"at":"x","task":"t","stream":"toka","text":"forged"}'
    written.log.write("t", "stdout", evil.encode() + b"\n\x1b[2J\r\n")
    assert written.lines() == [evil, "\x1b[2J\r"]
    assert written.lines("toka") == []


def test_words_of_toka_are_marked(written):
    written.log.say("t", "attempt 1 failed: exit 1")
    assert written.lines("toka") == ["attempt 1 failed: exit 1"]


@given(st.text(max_size=60), st.lists(st.integers(0, 200), max_size=10))
def test_any_text_cut_anywhere(tmp_path_factory, text, cuts):
    written = Written(tmp_path_factory.mktemp("log") / "log.jsonl")
    data = text.encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for begin, end in itertools.pairwise(places):
        written.log.write("t", "stdout", data[begin:end])
    written.log.end_task("t")
    written.log.close()
    expected = text.split("\n")
    assert written.lines() == (expected if expected[-1] else expected[:-1])


# --- spool ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def spool(folder):
    folder.artifacts.mkdir(parents=True)
    return Spool(folder, "r-1-t-1")


@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES])
def test_a_short_output_needs_no_file(spool, folder, size):
    spool.add(b"x" * size)
    assert spool.finish() is None
    assert list(folder.artifacts.iterdir()) == []


def test_a_long_output_is_whole(spool):
    data = bytes(range(256)) * 2000
    for start in range(0, len(data), 30_000):
        spool.add(data[start : start + 30_000])
    assert spool.finish().read_bytes() == data


def test_one_byte_too_many_makes_a_file(spool):
    spool.add(b"x" * INLINE_BYTES)
    spool.add(b"y")
    assert spool.finish().read_bytes() == b"x" * INLINE_BYTES + b"y"


def test_what_is_dropped_leaves_nothing(spool, folder):
    spool.add(b"x" * (INLINE_BYTES + 1))
    spool.drop()
    assert list(folder.artifacts.iterdir()) == []
