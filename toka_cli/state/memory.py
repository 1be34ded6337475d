"""The notes of agents: one SQLite file for all runs of a state folder, searched by FTS5. In: what the tools of the memory were asked for. Out: their answers.

Every question is bound to one owner: a directory and the name of an agent. Text of agents never reaches the syntax of SQL or FTS5. For one thread at a time;
another program may use the same file, and is waited for.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from toka_cli.errors import StateUnavailable
from toka_cli.paths import make_state_dir
from toka_cli.state.schema import unavailable
from toka_cli.tools import memory as t
from toka_cli.tools.tool import Answer, ToolFailed

FILE_NAME: Final = "memory.db"
APPLICATION_ID: Final = 0x746F6B6D
"""`tokm` in ASCII."""
VERSION: Final = 1
PATIENCE_S: Final = 5.0
WAL_TRIES: Final = 40
WAL_PAUSE_S: Final = 0.025
MAX_NOTES: Final = 2000
MAX_BYTES: Final = 8 << 20
"""Of one owner: what fits here is found in milliseconds."""
EXCERPT_WORDS: Final = 48
MAX_WORDS: Final = 32

SCHEMA: Final = """
CREATE TABLE notes (
  id INTEGER PRIMARY KEY, place TEXT NOT NULL, agent TEXT NOT NULL, key TEXT NOT NULL, text TEXT NOT NULL, tags TEXT NOT NULL,
  digest TEXT NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL, UNIQUE (place, agent, key)
) STRICT;
CREATE INDEX notes_by_time ON notes (place, agent, updated_at);
CREATE TABLE calls (call TEXT PRIMARY KEY, at REAL NOT NULL, answer BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX calls_by_time ON calls (at);
CREATE VIRTUAL TABLE words USING fts5 (key, text, tags, content='notes', content_rowid='id', tokenize='unicode61 remove_diacritics 2');
CREATE TRIGGER notes_added AFTER INSERT ON notes BEGIN
  INSERT INTO words (rowid, key, text, tags) VALUES (new.id, new.key, new.text, new.tags);
END;
CREATE TRIGGER notes_removed AFTER DELETE ON notes BEGIN
  INSERT INTO words (words, rowid, key, text, tags) VALUES ('delete', old.id, old.key, old.text, old.tags);
END;
CREATE TRIGGER notes_changed AFTER UPDATE ON notes BEGIN
  INSERT INTO words (words, rowid, key, text, tags) VALUES ('delete', old.id, old.key, old.text, old.tags);
  INSERT INTO words (rowid, key, text, tags) VALUES (new.id, new.key, new.text, new.tags);
END;
"""

CALLS_KEPT_S: Final = 30 * 24 * 3600.0
"""How long the answer to a call is known, for a run that is resumed and makes it again."""
_FULL: Final = "put some together with memory_consolidate"
_WORD: Final = re.compile(r"\w+")
_STORED: Final = "SELECT COUNT(*), COALESCE(SUM(LENGTH(CAST(text AS BLOB))), 0) FROM notes WHERE place = ? AND agent = ?"


@dataclass(frozen=True, slots=True)
class Memory:
    """The notes in one state folder. Opens the file for each question: any number of runs may share it."""

    state_dir: Path
    clock: Callable[[], float] = time.time

    @property
    def path(self) -> Path:
        """The file."""
        return self.state_dir / FILE_NAME

    def answer(self, place: str, agent: str, call: str, asked: object) -> Answer:
        """The answer to the arguments of one of the four tools. A call that writes and was made before gets the answer it got then.

        Raises ToolFailed for what the agent can change, StateUnavailable when the file cannot be used.
        """
        with self._open() as connection:
            owner = _Owner(connection, place, agent, self.clock())
            match asked:
                case t.MemorySearch():
                    return owner.search(asked)
                case t.MemoryRetrieve():
                    return owner.retrieve(asked)
                case t.MemoryStore():
                    return owner.once(call, t.Stored, lambda: owner.store(asked, call))
                case t.MemoryConsolidate():
                    return owner.once(call, t.Consolidated, lambda: owner.consolidate(asked))
        raise TypeError(f"no question for the memory: {type(asked).__name__}")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection: sqlite3.Connection | None = None
        try:
            make_state_dir(self.state_dir)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(f"file:{quote(str(self.path))}?mode=rw", uri=True, isolation_level=None, timeout=PATIENCE_S)
            # What a note says is worth no sync per note; a crash of the machine may lose the newest ones, never the file.
            # Its triggers use FTS5, which SQLite allows only in a schema that is trusted; this program made it.
            for pragma in ("trusted_schema=ON", "mmap_size=0", "synchronous=NORMAL"):
                connection.execute(f"PRAGMA {pragma}")
            _use_wal(connection)
            connection.execute("BEGIN IMMEDIATE")
            _prepare(connection, self.path)
            yield connection
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise unavailable(self.path, error) from error
        finally:
            if connection is not None:
                # What was not committed is rolled back.
                connection.close()


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. SQLite waits for nobody here: where two programs make the file at once, one of them has to try again."""
    for last in (*[False] * WAL_TRIES, True):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if last or error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise
            time.sleep(WAL_PAUSE_S)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of an empty file; refuse a file that is not this. Raises StateUnavailable."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == 0 and version == 0 and not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
        for statement in _statements(SCHEMA):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={VERSION}")
    elif application != APPLICATION_ID:
        raise StateUnavailable(f"{path} does not hold the notes of toka's agents", hint="move it away; a new one is made", code="state_damaged")
    elif version > VERSION:
        raise StateUnavailable(f"{path} has version {version}; this toka reads versions up to {VERSION}", hint="install a newer toka", code="state_newer")


def _statements(script: str) -> Iterator[str]:
    text = ""
    for line in script.splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            yield text
            text = ""


@dataclass(frozen=True, slots=True)
class _Owner:
    """One agent's notes, inside one transaction."""

    connection: sqlite3.Connection
    place: str
    agent: str
    now: float

    def once(self, call: str, kind: type[t.Stored] | type[t.Consolidated], act: Callable[[], Answer]) -> Answer:
        """Act, unless this very call has been made: then what it was answered."""
        name = f"{self.place}\0{self.agent}\0{call}"
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
        before = self.connection.execute("SELECT answer FROM calls WHERE call = ?", (digest,)).fetchone()
        if before is not None:
            return msgspec.json.decode(before[0], type=kind)
        answer = act()
        self.connection.execute("DELETE FROM calls WHERE at < ?", (self.now - CALLS_KEPT_S,))
        self.connection.execute("INSERT INTO calls (call, at, answer) VALUES (?, ?, ?)", (digest, self.now, msgspec.json.encode(answer)))
        return answer

    def store(self, asked: t.MemoryStore, call: str) -> t.Stored:
        key = asked.key or f"note-{hashlib.sha256(call.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"
        replaced = self._put(key, asked.text, asked.tags)
        return t.Stored(key, replaced, self._count())

    def search(self, asked: t.MemorySearch) -> t.Hits:
        words = [word for word in _WORD.findall(asked.query) if word.strip("_")][:MAX_WORDS]
        partly = False
        rows: list[tuple[str, str, str, float]] = []
        if words:
            rows = self._match(words, " ", asked)
            if not rows and len(words) > 1:
                rows, partly = self._match(words, " OR ", asked), True
        hits = tuple(t.Hit(key, excerpt, _tags(tags), _time(updated)) for key, excerpt, tags, updated in rows)
        return t.Hits(hits, self._count(), partly and bool(hits))

    def retrieve(self, asked: t.MemoryRetrieve) -> t.Notes:
        fields = "SELECT key, text, tags, created_at, updated_at FROM notes WHERE place = ? AND agent = ?"
        if asked.keys:
            wanted = tuple(dict.fromkeys(map(_clean, asked.keys)))
            found = [row for key in wanted if (row := self.connection.execute(f"{fields} AND key = ?", (self.place, self.agent, key)).fetchone())]
            notes = tuple(_note(row) for row in found)
            return t.Notes(notes, tuple(key for key in wanted if key not in {note.key for note in notes}))
        rows = self.connection.execute(f"{fields} ORDER BY updated_at DESC, id DESC LIMIT ?", (self.place, self.agent, asked.limit + 1)).fetchall()
        return t.Notes(tuple(_note(row) for row in rows[: asked.limit]), cut=len(rows) > asked.limit)

    def consolidate(self, asked: t.MemoryConsolidate) -> t.Consolidated:
        if asked.text is None:
            return t.Consolidated(self._remove_doubles(), None, self._count())
        missing = self.retrieve(t.MemoryRetrieve(keys=asked.keys)).missing
        if missing:
            raise ToolFailed(f"there is no note {', '.join(missing)}", hint="memory_search and memory_retrieve show what is there; nothing was changed")
        key = asked.key or asked.keys[0]
        removed = sum(self._remove(one) for one in dict.fromkeys(asked.keys))
        self._put(key, asked.text, asked.tags)
        return t.Consolidated(removed, key, self._count())

    def _match(self, words: Sequence[str], between: str, asked: t.MemorySearch) -> list[tuple[str, str, str, float]]:
        # Quoted, a word is a word for FTS5 whatever it is (sqlite.org/fts5.html, 3.1); there is no quote in it.
        query = between.join(f'"{word}"' for word in words)
        tags = "".join(" AND ' ' || n.tags || ' ' LIKE ? ESCAPE '\\'" for _ in asked.tags)
        statement = (
            "SELECT n.key, snippet(words, 1, '', '', ' ... ', ?), n.tags, n.updated_at FROM words JOIN notes n ON n.id = words.rowid "  # noqa: S608
            f"WHERE words MATCH ? AND n.place = ? AND n.agent = ?{tags} ORDER BY bm25(words, 4.0, 1.0, 2.0), n.id DESC LIMIT ?"
        )
        patterns = [f"% {_like(_tag(tag))} %" for tag in asked.tags]
        return self.connection.execute(statement, (EXCERPT_WORDS, query, self.place, self.agent, *patterns, asked.limit)).fetchall()

    def _put(self, key: str, text: str, tags: Sequence[str]) -> bool:
        """Write a note; True if it replaced one. Raises ToolFailed when there is no room."""
        clean, data = _clean(key), _clean(text)
        before = self.connection.execute(
            "SELECT LENGTH(CAST(text AS BLOB)) FROM notes WHERE place = ? AND agent = ? AND key = ?", (self.place, self.agent, clean)
        ).fetchone()
        notes, size = self.connection.execute(_STORED, (self.place, self.agent)).fetchone()
        if before is None and notes >= MAX_NOTES:
            raise ToolFailed(f"there are {notes} notes, and no room for more", hint=_FULL)
        if size - (before[0] if before else 0) + len(data.encode()) > MAX_BYTES:
            raise ToolFailed(f"the notes have {size} bytes; {MAX_BYTES} is all there is", hint=_FULL)
        digest = hashlib.sha256(" ".join(data.split()).encode()).hexdigest()
        self.connection.execute(
            "INSERT INTO notes (place, agent, key, text, tags, digest, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (place, agent, key) DO UPDATE SET text = excluded.text, tags = excluded.tags, digest = excluded.digest, "
            "updated_at = excluded.updated_at",
            (self.place, self.agent, clean, data, " ".join(map(_tag, tags)), digest, self.now, self.now),
        )
        return before is not None

    def _remove(self, key: str) -> int:
        statement = "DELETE FROM notes WHERE place = ? AND agent = ? AND key = ?"
        return self.connection.execute(statement, (self.place, self.agent, _clean(key))).rowcount

    def _remove_doubles(self) -> int:
        """Of notes with the same text, whatever their spaces, the newest stays."""
        return self.connection.execute(
            "DELETE FROM notes WHERE place = :place AND agent = :agent AND id NOT IN (SELECT id FROM (SELECT id, ROW_NUMBER() OVER "
            "(PARTITION BY digest ORDER BY updated_at DESC, id DESC) AS number FROM notes WHERE place = :place AND agent = :agent) WHERE number = 1)",
            {"place": self.place, "agent": self.agent},
        ).rowcount

    def _count(self) -> int:
        return int(self.connection.execute(_STORED, (self.place, self.agent)).fetchone()[0])


def _note(row: tuple[str, str, str, float, float]) -> t.NoteText:
    key, text, tags, created, updated = row
    return t.NoteText(key, text, _tags(tags), _time(created), _time(updated))


def _clean(text: str) -> str:
    """Text that UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode()


def _tag(tag: str) -> str:
    """A tag as one word: they are kept with spaces between them."""
    return "-".join(_clean(tag).split()).lower() or "-"


def _tags(text: str) -> tuple[str, ...]:
    return tuple(text.split(" ")) if text else ()


def _like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
