"""State files as released versions wrote them stay readable. They are kept as SQL text (`vN.sql`) beside what must be read from them (`vN.json`)."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from toka_cli.paths import RunFolder
from toka_cli.state import schema
from toka_cli.state.audit import verify
from toka_cli.state.fold import fold
from toka_cli.state.log import EventLog
from toka_cli.state.query import list_runs, load_run, read_events, read_plan
from toka_cli.state.snapshot import RunView

HERE = Path(__file__).parent
VERSIONS = sorted(path.stem for path in HERE.glob("v*.sql"))

each = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture
def old(version, tmp_path):
    """The old file in a run's folder, as if that version had just ended."""
    folder = RunFolder(tmp_path / "state" / "runs" / f"{version}abc00000")
    folder.root.mkdir(parents=True)
    connection = sqlite3.connect(folder.database)
    connection.executescript((HERE / f"{version}.sql").read_text())
    connection.close()
    folder.lock.touch()
    return folder


@pytest.fixture
def expected(version):
    return msgspec.json.decode((HERE / f"{version}.json").read_bytes(), type=RunView)


def test_every_version_has_its_file():
    assert set(VERSIONS) == {f"v{number}" for number in range(1, schema.VERSION + 1)}


@each
def test_an_old_file_reads_as_it_was_written(old, expected):
    assert load_run(old) == expected
    assert [run.id for run in list_runs(old.root.parent.parent).runs] == [expected.id]
    assert read_plan(old).startswith(b"{")
    assert verify(old, expected.audit_head).ok


@each
def test_old_events_tell_the_same_view(old, expected):
    told = fold(read_events(old))
    told.audit_head = expected.audit_head
    # Samples are no events: only the stored view knows them.
    assert msgspec.to_builtins(told) == msgspec.to_builtins(expected)


@each
def test_an_old_file_can_be_taken_over(old, expected):
    with EventLog.open(old) as log:
        assert log.view == expected
        log.audit("audit.read", "recorded")
        head = log.audit_head
    assert verify(old, head).ok


def test_the_present_schema_is_the_one_of_the_newest_file(tmp_path):
    def tables(connection):
        return sorted(connection.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))

    kept, made = sqlite3.connect(":memory:"), sqlite3.connect(":memory:", isolation_level=None)
    kept.executescript((HERE / f"v{schema.VERSION}.sql").read_text())
    for statement in schema.statements():
        made.execute(statement)
    assert tables(made) == tables(kept)
    kept.close()
    made.close()
