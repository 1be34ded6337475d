"""The log of an agent and the spool of an attempt: bytes in, whole lines and whole files out, however they were cut."""

from __future__ import annotations

import errno
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toka_cli.events import Outcome
from toka_cli.kernel.outputs import INLINE_BYTES, MAX_LINE_CHARS, MAX_WAITING_BYTES, TAIL_BYTES, AgentLog, Spool
from toka_cli.llm.redact import Redactor


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
    spool.add("stdout", b"x" * size)
    assert spool.finish() is None
    assert list(folder.artifacts.iterdir()) == []


def test_a_long_output_is_whole(spool):
    data = bytes(range(256)) * 2000
    for start in range(0, len(data), 30_000):
        spool.add("stdout", data[start : start + 30_000])
    assert spool.finish().read_bytes() == data


def test_one_byte_too_many_makes_a_file(spool):
    spool.add("stdout", b"x" * INLINE_BYTES)
    spool.add("stdout", b"y")
    assert spool.finish().read_bytes() == b"x" * INLINE_BYTES + b"y"


def test_what_is_dropped_leaves_nothing(spool, folder):
    spool.add("stdout", b"x" * (INLINE_BYTES + 1))
    spool.drop()
    assert list(folder.artifacts.iterdir()) == []


def test_the_end_of_each_stream_is_at_hand_for_an_attempt_that_was_cut_off(spool):
    spool.add("stdout", b"first\n" * 10_000)
    spool.add("stderr", b"oops\xff\n")
    spool.add("stdout", b"last\n")
    outcome = spool.cut_off()
    assert outcome.output.endswith("first\nlast\n")
    assert len(outcome.output) == TAIL_BYTES
    assert outcome.stderr == "oops\ufffd\n"
    assert (outcome.output_bytes, outcome.truncated) == (60_011, True)


def test_an_attempt_that_wrote_little_or_nothing_is_whole(spool):
    assert spool.cut_off() == Outcome()
    spool.add("stderr", b"x")
    assert spool.cut_off() == Outcome(stderr="x", output_bytes=1)


# --- a full disk ---------------------------------------------------------------------------------------------------------------------


class Disk:
    """A file on a disk with so many bytes of room."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.file.write(bytes(data[: self.room]))
        self.room -= taken
        return taken

    def close(self):
        self.file.close()


def test_what_finds_no_room_waits_and_is_written_in_order_and_once(written):
    disk = written.log._file = Disk(written.log._file, 100)
    written.log.write("t", "stdout", b"".join(b"line %d\n" % n for n in range(50)))
    assert written.log.stalled == "No space left on device"
    assert written.path.stat().st_size == 100, "half a line may be there: the rest of it comes next"
    assert not written.log.retry()
    disk.room = 10**6
    assert written.log.retry()
    assert written.log.stalled is None
    assert written.lines() == [f"line {n}" for n in range(50)]
    assert written.lines("toka") == []


def test_what_finds_no_room_for_too_long_is_counted_and_said(written):
    disk = written.log._file = Disk(written.log._file, 0)
    for n in range(40):
        written.log.write("t", "stdout", b"%d " % n + b"x" * 50_000 + b"\n")
    assert len(written.log._waiting) <= MAX_WAITING_BYTES
    disk.room = 10**8
    written.log.write("t", "stdout", b"after\n")
    kept = [int(line.split()[0]) for line in written.lines() if line != "after"]
    assert kept == list(range(len(kept))), "what is kept is the beginning, without a gap"
    assert written.lines("toka") == [f"{40 - len(kept) + 1} lines are missing here: there was no room on the disk"]
    written.log.write("t", "stdout", b"at last\n")
    assert written.lines()[-1] == "at last"


def test_a_log_that_never_finds_room_can_be_closed(written):
    written.log._file = Disk(written.log._file, 0)
    written.log.write("t", "stdout", b"lost\n")
    written.log.close()


def test_a_spool_on_a_full_disk_keeps_what_found_room(spool, monkeypatch):
    real = type(spool._path).open
    monkeypatch.setattr(type(spool._path), "open", lambda path, *mode, **more: Disk(real(path, *mode, **more), 100_000))
    for _ in range(5):
        spool.add("stdout", b"x" * 50_000)
    assert spool.broken == "No space left on device"
    assert spool.finish().stat().st_size == 100_000
    assert spool.cut_off().output_bytes == 250_000


def test_a_spool_that_cannot_even_begin_keeps_the_end(spool, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(spool._path), "open", refuse)
    spool.add("stdout", b"x" * 100_000 + b"the end")
    assert spool.finish() is None
    assert spool.cut_off().output.endswith("the end")


# --- secrets -------------------------------------------------------------------------------------------------------------------------

SECRET = "sk-0123456789/of+outputs"


@pytest.fixture
def guarded(tmp_path):
    made = Written(tmp_path / "log.jsonl")
    made.log.close()
    made.log = AgentLog(made.path, lambda: 1_700_000_000.0, made.tell, Redactor([SECRET]))
    yield made
    made.log.close()


@given(cuts=st.lists(st.integers(0, 200), max_size=30))
def test_a_secret_is_masked_however_the_stream_was_cut(tmp_path_factory, cuts):
    made = Written(tmp_path_factory.mktemp("log") / "log.jsonl")
    made.log.close()
    made.log = AgentLog(made.path, lambda: 1_700_000_000.0, made.tell, Redactor([SECRET]))
    data = f"a {SECRET} b\nc {SECRET[:-1]}\n{SECRET}{SECRET} sk-0123".encode()
    output = made.log.begin("t")
    for start, end in itertools.pairwise([0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]):
        output.add("stdout", data[start:end])
    output.end()
    made.log.close()
    assert made.lines() == ["a [redacted] b", f"c {SECRET[:-1]}", "[redacted][redacted] sk-0123"]


def test_what_is_kept_of_an_attempt_holds_no_secret(guarded, spool):
    output = guarded.log.begin("t", spool)
    for _ in range(6000):
        output.add("stdout", f"x {SECRET}".encode())
        output.add("stderr", SECRET.encode())
    output.end()
    tail = output.cut_off()
    assert SECRET not in tail.output + tail.stderr
    assert tail.stderr.endswith("[redacted]")
    path, problem = output.finish()
    assert problem is None
    whole = path.read_bytes()
    assert SECRET.encode() not in whole
    assert whole.count(b"[redacted]") == 12_000
    guarded.log.say("t", f"it said {SECRET}")
    assert guarded.lines("toka") == ["it said [redacted]"]


def test_what_a_cell_says_of_an_attempt_is_masked_too_and_halves_of_a_secret_that_was_cut(guarded):
    cut = f"a {SECRET[:9]}\n[... 77 bytes left out ...]\n{SECRET[9:]} b"
    said = Outcome(exit_code=3, output=cut, stderr=f"{SECRET}\n", value={"key": [SECRET]}, evidence=[SECRET, 1], output_bytes=99)
    clean = guarded.log.begin("t").clean(said)
    masked = "a [redacted]\n[... 77 bytes left out ...]\n[redacted] b"
    expected = Outcome(exit_code=3, output=masked, stderr="[redacted]\n", value={"key": ["[redacted]"]}, evidence=["[redacted]", 1], output_bytes=99)
    assert clean == expected


def test_without_secrets_every_byte_is_kept_as_it_came(written, spool):
    data = bytes(range(256)) * 2000
    output = written.log.begin("t", spool)
    output.add("stdout", data)
    output.end()
    assert output.finish()[0].read_bytes() == data
