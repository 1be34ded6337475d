"""The state file: its tables, its version, how it is opened for writing and for reading, and how an older one is brought up to date.

In: the path of a state file. Out: an SQLite connection whose version is known. A newer file is refused with both versions named; an older one is
copied aside before it is changed. Knows nothing of events or views.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from toka_cli.errors import StateUnavailable

APPLICATION_ID: Final = 0x746F6B61
"""`toka` in ASCII: tells a state file from any other SQLite file (see `file`(1))."""
VERSION: Final = 2
READER_PATIENCE_S: Final = 5.0
"""How long a reader waits for a lock: the owner holds one only while it opens or closes the file."""
WRITER_PATIENCE_S: Final = 0.5
"""How long the owner waits for a lock, which only a foreign program can hold; its loop stands still meanwhile, and it tries again later."""

SCHEMA_1: Final = """
CREATE TABLE run (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  id TEXT NOT NULL, epoch INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT, exit_code INTEGER, workdir TEXT NOT NULL,
  created_at REAL NOT NULL, started_at REAL, ended_at REAL, view TEXT NOT NULL
) STRICT;
CREATE TABLE owners (
  epoch INTEGER PRIMARY KEY, at REAL NOT NULL, pid INTEGER NOT NULL, start_time INTEGER, boot_id TEXT
) STRICT;
CREATE TABLE plan (one INTEGER PRIMARY KEY CHECK (one = 1), json BLOB NOT NULL) STRICT;
CREATE TABLE agents (
  id TEXT PRIMARY KEY, position INTEGER NOT NULL, name TEXT NOT NULL, workstream TEXT NOT NULL, state TEXT NOT NULL, reason TEXT, pid INTEGER,
  progress REAL NOT NULL, tasks_done INTEGER NOT NULL, tasks_total INTEGER NOT NULL, attempts INTEGER NOT NULL, restarts INTEGER NOT NULL,
  started_at REAL, ended_at REAL, memory_bytes INTEGER, peak_memory_bytes INTEGER, cpu_time_s REAL, view TEXT NOT NULL
) STRICT;
CREATE INDEX agents_by_name ON agents (name);
CREATE TABLE deps (
  agent TEXT NOT NULL REFERENCES agents (id), on_name TEXT NOT NULL, required INTEGER NOT NULL CHECK (required IN (0, 1)),
  PRIMARY KEY (agent, on_name, required)
) STRICT, WITHOUT ROWID;
CREATE TABLE tasks (
  agent TEXT NOT NULL REFERENCES agents (id), id TEXT NOT NULL, position INTEGER NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL, reason TEXT,
  attempts INTEGER NOT NULL, started_at REAL, ended_at REAL, duration_s REAL, exit_code INTEGER, artifact TEXT, view TEXT NOT NULL,
  PRIMARY KEY (agent, id)
) STRICT;
CREATE TABLE processes (
  agent TEXT NOT NULL REFERENCES agents (id), attempt INTEGER NOT NULL, started_at REAL NOT NULL, pid INTEGER, ended_at REAL, exit_code INTEGER,
  signal INTEGER, rung TEXT, cpu_time_s REAL, peak_memory_bytes INTEGER,
  PRIMARY KEY (agent, attempt)
) STRICT;
CREATE TABLE attempts (
  agent TEXT NOT NULL, task TEXT NOT NULL, attempt INTEGER NOT NULL, started_at REAL NOT NULL, ended_at REAL, ended_by TEXT, reason TEXT,
  exit_code INTEGER, signal INTEGER, duration_s REAL, cpu_time_s REAL, peak_memory_bytes INTEGER, artifact TEXT,
  PRIMARY KEY (agent, task, attempt), FOREIGN KEY (agent, task) REFERENCES tasks (agent, id)
) STRICT;
CREATE TABLE llm_calls (
  id INTEGER PRIMARY KEY, agent TEXT NOT NULL REFERENCES agents (id), task TEXT, turn INTEGER NOT NULL, state TEXT NOT NULL, provider TEXT, model TEXT,
  started_at REAL NOT NULL, ended_at REAL, input_tokens INTEGER, output_tokens INTEGER, cost_usd REAL, error TEXT, request TEXT, response TEXT
) STRICT;
CREATE TABLE tool_calls (
  seq INTEGER PRIMARY KEY, agent TEXT NOT NULL REFERENCES agents (id), task TEXT, call_id TEXT, tool TEXT NOT NULL, effect TEXT,
  state TEXT NOT NULL CHECK (state IN ('started', 'done', 'denied')), ok INTEGER, started_at REAL NOT NULL, ended_at REAL, capability TEXT, error TEXT,
  arguments TEXT
) STRICT;
CREATE INDEX tool_calls_by_call ON tool_calls (agent, call_id);
CREATE TABLE events (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, agent TEXT, task TEXT, event TEXT NOT NULL
) STRICT;
CREATE TABLE audit (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, action TEXT NOT NULL, decision TEXT NOT NULL CHECK (decision IN ('allowed', 'denied', 'recorded')),
  subject TEXT, context TEXT NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
CREATE TABLE artifacts (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, sha256 TEXT NOT NULL, name TEXT NOT NULL, size_bytes INTEGER NOT NULL, agent TEXT, task TEXT
) STRICT;
CREATE INDEX artifacts_by_sha256 ON artifacts (sha256);
CREATE TABLE commands (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, command TEXT NOT NULL, by TEXT NOT NULL, target TEXT, arguments TEXT NOT NULL
) STRICT;
CREATE TABLE samples (
  agent TEXT NOT NULL REFERENCES agents (id), slot INTEGER NOT NULL, n INTEGER NOT NULL, at REAL NOT NULL, memory_bytes INTEGER, cpu_time_s REAL,
  PRIMARY KEY (agent, slot)
) STRICT, WITHOUT ROWID;

-- Only the present owner writes: each owner's connection answers toka_epoch() with the epoch it became the owner in.
CREATE TRIGGER events_epoch BEFORE INSERT ON events WHEN toka_epoch() IS NOT (SELECT epoch FROM run)
  BEGIN SELECT RAISE(ABORT, 'toka: this run has a new owner'); END;
CREATE TRIGGER audit_epoch BEFORE INSERT ON audit WHEN toka_epoch() IS NOT (SELECT epoch FROM run)
  BEGIN SELECT RAISE(ABORT, 'toka: this run has a new owner'); END;
CREATE TRIGGER agents_epoch BEFORE INSERT ON agents WHEN toka_epoch() IS NOT (SELECT epoch FROM run)
  BEGIN SELECT RAISE(ABORT, 'toka: this run has a new owner'); END;
CREATE TRIGGER artifacts_epoch BEFORE INSERT ON artifacts WHEN toka_epoch() IS NOT (SELECT epoch FROM run)
  BEGIN SELECT RAISE(ABORT, 'toka: this run has a new owner'); END;
CREATE TRIGGER samples_epoch BEFORE INSERT ON samples WHEN toka_epoch() IS NOT (SELECT epoch FROM run)
  BEGIN SELECT RAISE(ABORT, 'toka: this run has a new owner'); END;
CREATE TRIGGER run_epoch BEFORE UPDATE ON run WHEN NEW.epoch IS NOT toka_epoch() OR NEW.epoch NOT IN (OLD.epoch, OLD.epoch + 1)
  BEGIN SELECT RAISE(ABORT, 'toka: this run has a new owner'); END;

-- What has happened stays as it was written.
CREATE TRIGGER events_kept BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'toka: events are only added'); END;
CREATE TRIGGER events_fixed BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'toka: events are only added'); END;
CREATE TRIGGER audit_kept BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'toka: audit rows are only added'); END;
CREATE TRIGGER audit_fixed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'toka: audit rows are only added'); END;
"""

SCHEMA_2: Final = """
-- The conversations of prompt tasks: whose they are, and what came back from tools.
ALTER TABLE llm_calls ADD COLUMN attempt INTEGER;
ALTER TABLE llm_calls ADD COLUMN finish_reason TEXT;
ALTER TABLE llm_calls ADD COLUMN cached_tokens INTEGER;
ALTER TABLE llm_calls ADD COLUMN duration_s REAL;
ALTER TABLE llm_calls ADD COLUMN waited_s REAL;
CREATE INDEX llm_calls_by_task ON llm_calls (agent, task);
ALTER TABLE tool_calls ADD COLUMN result TEXT;
ALTER TABLE tool_calls ADD COLUMN artifact TEXT;
"""

MIGRATIONS: Final[tuple[str, ...]] = (SCHEMA_2,)
"""SQL that brings version N to N + 1, at index N - 1. A migration that was released never changes."""


def unavailable(path: Path, error: Exception) -> StateUnavailable:
    """What went wrong with a state file, for people."""
    name = f"the state file {path}"
    code = getattr(error, "sqlite_errorcode", None)
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} or (code is None and isinstance(error, (ValueError, TypeError))):
        return StateUnavailable(
            f"{name} is damaged: {error}", hint="it is kept as it is; `toka run list` still shows the other runs", code="state_damaged"
        )
    if "has a new owner" in str(error):
        return StateUnavailable(f"{name} has a new owner; this process no longer writes to it", code="state_new_owner")
    return StateUnavailable(f"{name} cannot be used: {error}")


def connect(path: Path, epoch: Callable[[], int | None], *, fresh: bool = False) -> sqlite3.Connection:
    """Open an existing state file for its owner. `epoch` answers the epoch triggers. Transactions are begun and ended by the caller.

    WAL with synchronous=FULL: what is committed survives a loss of power. Raises StateUnavailable, with the file untouched, when it is not toka's or is
    newer; sqlite3.Error. `fresh`: the file is still empty.
    """
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None, timeout=WRITER_PATIENCE_S)
    try:
        if not fresh:
            check_version(connection, path)
        # Triggers may call functions of the program only with trusted_schema on; the owner made this schema, readers keep it off.
        for pragma in ("trusted_schema=ON", "mmap_size=0", "foreign_keys=ON", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")
        connection.create_function("toka_epoch", 0, epoch)
    except BaseException:
        connection.close()
        raise
    return connection


def make(path: Path, epoch: Callable[[], int | None]) -> sqlite3.Connection:
    """Make an empty file (0600) and open it for writing; `SCHEMA_1` and the version are the caller's first transaction. Raises OSError, sqlite3.Error."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    return connect(path, epoch, fresh=True)


def statements() -> Iterator[str]:
    """The statements that make an empty file a state file of this version, one by one, so that they fit into one transaction."""
    for script in (SCHEMA_1, *MIGRATIONS):
        yield from _split(script)
    yield f"PRAGMA application_id={APPLICATION_ID}"
    yield f"PRAGMA user_version={VERSION}"


def check_version(connection: sqlite3.Connection, path: Path, supported: int = VERSION) -> int:
    """The schema version of an open file. Raises StateUnavailable for a file that is not toka's, or newer than this program knows."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise StateUnavailable(f"{path} is not a state file of toka", code="state_damaged")
    if version > supported:
        raise StateUnavailable(
            f"{path} has schema version {version}; this toka reads versions up to {supported}",
            hint="install a newer toka to read this run", code="state_newer",
        )  # fmt: skip
    return int(version)


def migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring an older file up to date, one version per transaction, after a copy of it was made as `run.db.vN.bak`.

    Raises StateUnavailable for a newer file, sqlite3.Error and OSError when the copy or the change fails; the file then has its former version.
    """
    version = check_version(connection, path, len(migrations) + 1)
    if version == len(migrations) + 1:
        return
    backup(connection, path.with_name(f"{path.name}.v{version}.bak"))
    for number in range(version, len(migrations) + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _split(migrations[number - 1]):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={number + 1}")
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def backup(connection: sqlite3.Connection, target: Path) -> None:
    """Copy an open file to `target` (0600), whole or not at all. Raises sqlite3.Error, OSError."""
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    copy = sqlite3.connect(part)
    try:
        connection.backup(copy)
    finally:
        copy.close()
    part.rename(target)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection inside one transaction, so that everything read is of the same moment.

    Raises StateUnavailable for a file that is missing, damaged, not toka's or newer; so do errors of SQLite inside the block.
    """
    connection: sqlite3.Connection | None = None
    try:
        if not path.is_file():
            raise StateUnavailable(f"there is no state file {path}", code="state_missing")
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, timeout=READER_PATIENCE_S)
        for pragma in ("query_only=ON", "trusted_schema=OFF", "mmap_size=0"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        check_version(connection, path)
        yield connection
    except (sqlite3.Error, OSError) as error:
        raise unavailable(path, error) from error
    finally:
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


def _split(script: str) -> Iterator[str]:
    text = ""
    for line in script.splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            yield text
            text = ""
    if text.strip():
        yield text
