"""Notes: found by their words, each agent's own, written once per call, bounded, and never at the mercy of what their text says."""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import sys
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toka_cli.errors import StateUnavailable
from toka_cli.state import memory as room
from toka_cli.state.memory import Memory
from toka_cli.tools import memory as t
from toka_cli.tools.tool import ToolFailed

CALLS = itertools.count(1)


class Notes:
    def __init__(self, state, place="/work", agent="builder"):
        self.now = 1_700_000_000.0
        self.memory = Memory(state, lambda: self.now)
        self.place, self.agent = place, agent

    def __call__(self, asked, call=None):
        self.now += 1
        return self.memory.answer(self.place, self.agent, call or f"c{next(CALLS)}", asked)

    def store(self, text, key=None, *tags, call=None):
        return self(t.MemoryStore(text=text, key=key, tags=tags), call)

    def found(self, query, **more):
        return [hit.key for hit in self(t.MemorySearch(query=query, **more)).hits]


@pytest.fixture
def notes(tmp_path):
    return Notes(tmp_path)


def test_a_note_is_kept_and_found_by_its_words(notes):
    assert notes.store("The build needs node 20 and pnpm.", "build", "setup") == t.Stored("build", replaced=False, notes=1)
    notes.store("Tests run with `pytest -q`; the slow ones are marked.", "tests")
    notes.store("Über die Bücher: the café is closed.", "books")
    assert notes.found("pnpm") == ["build"]
    assert notes.found("NODE build") == ["build"]
    assert notes.found("bucher cafe") == ["books"]
    assert notes.found("nothing like it") == []
    (hit,) = notes(t.MemorySearch(query="slow")).hits
    assert hit.excerpt == "Tests run with `pytest -q`; the slow ones are marked."
    assert hit.updated_at.endswith("Z")


def test_the_best_note_comes_first_and_some_words_are_better_than_none(notes):
    notes.store("database database database migrations", "a")
    notes.store("the database is mentioned once among many other words of this long note about nothing in particular", "b")
    notes.store("unrelated", "database")
    assert notes.found("database")[0] == "database"
    assert set(notes.found("database")) == {"a", "b", "database"}
    found = notes(t.MemorySearch(query="migrations zebra"))
    assert [hit.key for hit in found.hits] == ["a"]
    assert found.partly
    assert not notes(t.MemorySearch(query="database migrations")).partly
    assert len(notes.found("database", limit=1)) == 1


def test_tags(notes):
    notes.store("one apple", "1", "Fruit", "red thing")
    notes.store("two apples apple", "2", "fruit")
    assert notes.found("apple", tags=("fruit",)) in (["1", "2"], ["2", "1"])
    assert notes.found("apple", tags=("fruit", "red thing")) == ["1"]
    assert notes.found("apple", tags=("fru",)) == []
    assert notes.found("apple", tags=("%",)) == []
    assert notes(t.MemoryRetrieve(keys=("1",))).notes[0].tags == ("fruit", "red-thing")


@pytest.mark.parametrize(
    "query",
    ['"', '"unclosed', "a AND", "NOT", "NEAR(a b)", "key:x", "text : a", "a*", "^a", "(a", "a)", "{a b}: c", "-a", "a + b",
     "'; DROP TABLE notes; --", "\\", "%", "", "a\x00b", "🦊", "OR OR OR", "words MATCH 'x'", "a" * 900, " ".join(["w"] * 300)],
)  # fmt: skip
def test_no_text_is_syntax(notes, query):
    notes.store("a fox and a note", "fox")
    notes.found(query)
    notes.store(query or "x", "odd")
    assert notes.found("fox") == ["fox"]


@given(st.text(max_size=200), st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=60))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_can_be_kept_looked_for_and_read_back(tmp_path, query, text, key):
    notes = Notes(tmp_path)
    notes.store(text, key)
    notes.found(query)
    (kept,) = notes(t.MemoryRetrieve(keys=(key,))).notes
    assert kept.text == text.encode("utf-8", "replace").decode()


def test_each_agent_and_each_place_has_its_own(tmp_path):
    mine, other_agent, other_place = Notes(tmp_path), Notes(tmp_path, agent="tester"), Notes(tmp_path, place="/elsewhere")
    mine.store("my note about cats", "cats")
    for other in (other_agent, other_place):
        assert other.found("cats") == []
        assert other(t.MemoryRetrieve(keys=("cats",))).missing == ("cats",)
        assert other(t.MemoryRetrieve()).notes == ()
        with pytest.raises(ToolFailed, match="there is no note cats"):
            other(t.MemoryConsolidate(keys=("cats",), text="mine now"))
        assert other(t.MemoryConsolidate()).removed == 0
        other.store("another", "cats")
    assert mine(t.MemoryRetrieve(keys=("cats",))).notes[0].text == "my note about cats"


def test_the_same_name_replaces_and_keeps_when_it_was_made(notes):
    notes.store("old words", "n")
    assert notes.store("new words", "n") == t.Stored("n", replaced=True, notes=1)
    (note,) = notes(t.MemoryRetrieve(keys=("n",))).notes
    assert note.text == "new words"
    assert note.created_at < note.updated_at
    assert notes.found("old") == []
    assert notes.found("new") == ["n"]


def test_a_call_that_is_made_again_changes_nothing(notes):
    first = notes.store("once", call="run-1/t.1")
    notes.store("something else", first.key)
    assert notes.store("once", call="run-1/t.1") == first
    assert notes(t.MemoryRetrieve(keys=(first.key,))).notes[0].text == "something else"
    notes.store("a", "a")
    merged = notes(t.MemoryConsolidate(keys=("a", first.key), text="both", key="ab"), "run-1/t.2")
    assert notes(t.MemoryConsolidate(keys=("a", first.key), text="both", key="ab"), "run-1/t.2") == merged
    # Another agent's call of the same name is another call.
    assert Notes(notes.memory.state_dir, agent="other").store("mine", call="run-1/t.1").notes == 1


def test_reading_whole_notes(notes):
    for number in range(5):
        notes.store(f"text {number}", f"k{number}")
    assert [note.key for note in notes(t.MemoryRetrieve()).notes] == ["k4", "k3", "k2", "k1", "k0"]
    newest = notes(t.MemoryRetrieve(limit=2))
    assert [note.key for note in newest.notes] == ["k4", "k3"]
    assert newest.cut
    chosen = notes(t.MemoryRetrieve(keys=("k1", "gone", "k3", "k1")))
    assert [note.key for note in chosen.notes] == ["k1", "k3"]
    assert chosen.missing == ("gone",)


def test_putting_notes_together(notes):
    for name in "abc":
        notes.store(f"note {name}", name)
    done = notes(t.MemoryConsolidate(keys=("a", "b"), text="a and b", tags=("both",)))
    assert done == t.Consolidated(removed=2, key="a", notes=2)
    assert notes.found("both") == ["a"]
    with pytest.raises(ToolFailed, match="there is no note b, gone"):
        notes(t.MemoryConsolidate(keys=("c", "b", "gone"), text="x"))
    assert notes(t.MemoryRetrieve(keys=("c",))).missing == ()


def test_doubles_are_removed_and_the_newest_stays(notes):
    notes.store("the  same\nwords", "old")
    notes.store("the same words", "new")
    notes.store("other words", "other")
    assert notes(t.MemoryConsolidate()) == t.Consolidated(removed=1, key=None, notes=2)
    assert notes.found("same") == ["new"]


def test_there_is_room_for_so_much(notes, monkeypatch):
    monkeypatch.setattr(room, "MAX_NOTES", 3)
    monkeypatch.setattr(room, "MAX_BYTES", 100)
    for name in "abc":
        notes.store("x" * 30, name)
    with pytest.raises(ToolFailed, match="no room for more"):
        notes.store("x", "d")
    notes.store("y" * 40, "a")
    with pytest.raises(ToolFailed, match="100 is all there is"):
        notes.store("y" * 41, "b")
    # The refusal changed nothing, and somebody else has room of his own.
    assert notes(t.MemoryRetrieve(keys=("b",))).notes[0].text == "x" * 30
    Notes(notes.memory.state_dir, agent="other").store("z" * 90)


def test_the_file_is_nobody_elses(notes):
    notes.store("x")
    assert notes.memory.path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_something_else_is_left_alone(tmp_path):
    path = tmp_path / "memory.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(StateUnavailable, match="does not hold the notes"):
        Notes(tmp_path).store("x")
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(StateUnavailable, match="is damaged"):
        Notes(tmp_path).store("x")
    path.unlink()
    notes = Notes(tmp_path)
    notes.store("x")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StateUnavailable, match="has version 99"):
        notes.store("x")


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "memory.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateUnavailable):
        Notes(tmp_path).store("x")
    assert (tmp_path / "elsewhere").read_text() == ""


WRITER = """
import sys
from pathlib import Path
from toka_cli.state.memory import Memory
from toka_cli.tools import memory as t
for number in range(25):
    Memory(Path(sys.argv[1])).answer("/work", "builder", f"{sys.argv[2]}-{number}", t.MemoryStore(text=f"from {sys.argv[2]}", key=f"{sys.argv[2]}-{number}"))
"""


def test_several_programs_write_at_once(tmp_path):
    """Each waits for the other, from the making of the file on."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(number)], stderr=subprocess.PIPE) for number in range(3)]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors
    assert Notes(tmp_path)(t.MemorySearch(query="from")).notes == 75


def test_a_writer_that_dies_in_the_middle_leaves_what_was(tmp_path):
    notes = Notes(tmp_path)
    notes.store("before", "n")
    code = f"""
import os
from pathlib import Path
from toka_cli.state import memory
def die(*_): os.kill(os.getpid(), 9)
memory._Owner._count = die
from toka_cli.tools import memory as t
memory.Memory(Path({str(tmp_path)!r})).answer("/work", "builder", "c", t.MemoryStore(text="after", key="n"))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9
    assert notes(t.MemoryRetrieve(keys=("n",))).notes[0].text == "before"
    assert notes.found("after") == []


def test_threads_of_one_program(tmp_path):
    errors = []

    def work(name):
        try:
            for number in range(10):
                Notes(tmp_path).store("x", f"{name}{number}")
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert Notes(tmp_path)(t.MemorySearch(query="x")).notes == 20
    assert os.listdir(tmp_path / "runs") == []
