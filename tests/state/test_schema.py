"""The state file as a file: its version, who may write it, how an older one is brought up to date and a damaged one is met."""

from __future__ import annotations

import sqlite3
import stat

import pytest

from toka_cli import events as e
from toka_cli.errors import EXIT_UNAVAILABLE, StateUnavailable
from toka_cli.paths import RunFolder
from toka_cli.state import schema
from toka_cli.state.log import EventLog
from toka_cli.state.query import load_run, read_events


def edit(folder, *statements):
    other = sqlite3.connect(folder.database, isolation_level=None)
    for statement in statements:
        other.execute(statement)
    other.close()


def test_a_former_owner_cannot_write(log, tools, folder):
    (agent,) = tools.begin(log, "one")
    log.flush()
    # As if the lock had been lost: a network file system that forgot it, or a folder that was copied back.
    log._lock.release()
    with EventLog.open(folder) as new:
        new.append(e.RunWarned("from the new owner"))
        new.flush()
        log.append(e.AgentQueued(), agent=agent)
        with pytest.raises(StateUnavailable, match="has a new owner") as caught:
            log.flush()
        assert caught.value.code == "state_new_owner"
        with pytest.raises(StateUnavailable, match="has a new owner"):
            log.append(e.AgentQueued(), agent=agent)
    assert [record.event.kind for record in read_events(folder)][-2:] == ["agent.created", "run.warned"]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO events (seq, at, kind, event) VALUES (9, 1, 'x', '{}')",
        "INSERT INTO audit VALUES (1, 1, 'a', 'denied', NULL, '{}', '', '')",
        "INSERT INTO artifacts (at, sha256, name, size_bytes) VALUES (1, 'a', 'b', 1)",
        "INSERT INTO samples VALUES ('a000000000-1', 1, 1, 1, 1, 1)",
        "UPDATE agents SET state = 'x' WHERE 0; INSERT INTO agents SELECT * FROM agents WHERE 1 ON CONFLICT (id) DO UPDATE SET state = 'failed'",
        "UPDATE run SET state = 'failed'",
        "UPDATE run SET epoch = 9",
    ],
)
@pytest.mark.parametrize("epoch", [0, 2, None])
def test_no_table_of_a_run_takes_a_row_of_another_epoch(log, tools, folder, statement, epoch):
    tools.begin(log, "one")
    log.flush()
    other = schema.connect(folder.database, lambda: epoch)
    with pytest.raises(sqlite3.IntegrityError, match="has a new owner"):
        other.executescript(statement)
    other.close()


def test_a_tool_that_is_not_toka_cannot_write_events_by_mistake(log, folder):
    with pytest.raises(sqlite3.OperationalError, match="toka_epoch"):
        edit(folder, "INSERT INTO events (seq, at, kind, event) VALUES (9, 1, 'x', '{}')")


@pytest.mark.parametrize("statement", ["DELETE FROM events", "UPDATE events SET at = 0", "DELETE FROM audit", "UPDATE audit SET at = 0"])
def test_what_has_happened_cannot_be_changed_by_mistake(log, tools, folder, statement):
    tools.begin(log, "one")
    log.audit("x", "denied")
    log.flush()
    with pytest.raises(sqlite3.IntegrityError, match="only added"):
        edit(folder, statement)


def test_a_newer_file_is_refused_with_both_versions_named(done_run):
    folder = done_run()
    edit(folder, "PRAGMA user_version=7")
    before = folder.database.read_bytes()
    for act in (load_run, EventLog.open):
        with pytest.raises(StateUnavailable, match=rf"schema version 7; .* up to {schema.VERSION}") as caught:
            act(folder)
        assert caught.value.exit_code == EXIT_UNAVAILABLE
        assert "newer toka" in caught.value.hint
    assert folder.database.read_bytes() == before
    with pytest.raises(StateUnavailable, match="schema version 7"):
        EventLog.open(folder)


def test_a_file_of_another_program_is_refused(done_run):
    folder = done_run()
    edit(folder, "PRAGMA application_id=5")
    for act in (load_run, EventLog.open):
        with pytest.raises(StateUnavailable, match="not a state file of toka"):
            act(folder)


@pytest.mark.parametrize("damage", [b"", b"this is no database" * 100, None])
def test_a_damaged_file_is_reported_and_kept(done_run, damage):
    folder = done_run()
    if damage is None:
        whole = bytearray(folder.database.read_bytes())
        whole[4096:] = b"\xa5" * (len(whole) - 4096)
        damage = bytes(whole)
    folder.database.write_bytes(damage)
    for act in (load_run, read_events, EventLog.open):
        with pytest.raises(StateUnavailable, match=r"is damaged|not a state file"):
            act(folder)
    assert folder.database.read_bytes() == damage


def test_a_missing_file_is_said_to_be_missing(folder):
    for act in (load_run, EventLog.open):
        with pytest.raises(StateUnavailable, match="there is no state file"):
            act(folder)
    assert not folder.root.exists()


def test_an_older_file_is_copied_aside_and_brought_up_to_date(done_run):
    folder = done_run()
    connection = schema.connect(folder.database, lambda: 1)
    more = ("CREATE TABLE more (x INTEGER) STRICT;\nINSERT INTO more VALUES (1);", "INSERT INTO more VALUES (2)")
    schema.migrate(connection, folder.database, (*schema.MIGRATIONS, *more))
    assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION + 2,)
    assert connection.execute("SELECT x FROM more").fetchall() == [(1,), (2,)]
    connection.close()
    backup = folder.database.with_name(f"run.db.v{schema.VERSION}.bak")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    old = sqlite3.connect(backup)
    assert old.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    assert old.execute("SELECT COUNT(*) FROM events").fetchone() == (len(read_events_of(backup)),)
    assert old.execute("SELECT name FROM sqlite_schema WHERE name = 'more'").fetchall() == []
    old.close()


def read_events_of(path):
    with schema.reading(path) as connection:
        return connection.execute("SELECT seq FROM events").fetchall()


def test_a_migration_that_fails_leaves_the_former_version(done_run):
    folder = done_run()
    connection = schema.connect(folder.database, lambda: 1)
    with pytest.raises(sqlite3.Error, match="nowhere"):
        broken = "CREATE TABLE more (x INTEGER) STRICT;\nINSERT INTO nowhere VALUES (1);"
        schema.migrate(connection, folder.database, (*schema.MIGRATIONS, broken))
    assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    assert connection.execute("SELECT name FROM sqlite_schema WHERE name = 'more'").fetchall() == []
    connection.close()
    assert load_run(folder).agents


def test_readers_cannot_write(done_run):
    folder = done_run()
    with pytest.raises(StateUnavailable, match=r"readonly|read-only"), schema.reading(folder.database) as connection:
        connection.execute("DELETE FROM tasks")


def test_names_with_special_characters_are_paths_not_options(tmp_path, clock):
    folder = RunFolder(tmp_path / "a ?mode=memory#x%20" / "runs" / "a000000000")
    with EventLog.create(folder, plan_json=b"{}", spec_text="", clock=clock) as log:
        log.append(e.RunCreated(folder.run_id, "/w", "0"))
    assert folder.database.is_file()
    assert load_run(folder).workdir == "/w"
