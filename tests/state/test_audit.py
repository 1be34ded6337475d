"""The audit trail: every kind of tampering is found, and the row is named."""

from __future__ import annotations

import sqlite3

import pytest

from toka_cli.errors import StateUnavailable
from toka_cli.state import chain
from toka_cli.state.audit import show, verify
from toka_cli.state.log import EventLog


@pytest.fixture
def trail(log, tools):
    """A run with five audit rows, closed but not finished; its folder and head."""
    tools.begin(log, "one")
    for number in range(1, 6):
        log.audit(f"act.{number}", "denied" if number == 3 else "allowed", subject=f"file {number}", context={"b": number, "a": [1]})
    log.close()
    return log.folder, log.audit_head


def tamper(folder, statement):
    other = sqlite3.connect(folder.database, isolation_level=None)
    other.create_function("toka_epoch", 0, lambda: 1)
    for trigger in ("audit_kept", "audit_fixed", "audit_epoch"):
        other.execute(f"DROP TRIGGER {trigger}")
    other.executescript(statement)
    other.close()


def test_an_untouched_trail_is_whole(trail):
    folder, head = trail
    for report in (verify(folder), verify(folder, head)):
        assert (report.ok, report.rows, report.head, report.first_bad_row) == (True, 5, head, None)
    assert show(folder)[0].context == '{"a":[1],"b":1}'
    assert [row.subject for row in show(folder, denied=True)] == ["file 3"]


def test_an_empty_trail_is_whole_and_its_head_is_zeros(log):
    report = verify(log.folder)
    assert (report.ok, report.rows, report.head) == (True, 0, "0" * 64)
    assert log.audit_head == chain.FIRST


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        *[
            (f"UPDATE audit SET {column} = {value} WHERE seq = 3", 3)
            for column, value in [
                ("action", "'x'"),
                ("decision", "'allowed'"),
                ("subject", "NULL"),
                ("context", '\'{"a":[1],"b": 3}\''),
                ("at", "at + 0.001"),
            ]
        ],
        ("UPDATE audit SET hash = prev_hash WHERE seq = 3", 3),
        ("UPDATE audit SET prev_hash = hash WHERE seq = 4", 4),
        ("DELETE FROM audit WHERE seq = 1", 1),
        ("DELETE FROM audit WHERE seq = 2", 2),
        ("UPDATE audit SET seq = 99 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = 99", 2),
        ("INSERT INTO audit SELECT 6, at, action, decision, subject, context, prev_hash, hash FROM audit WHERE seq = 5", 6),
        ("DELETE FROM audit WHERE seq = 2; UPDATE audit SET seq = -seq WHERE seq > 2; UPDATE audit SET seq = -seq - 1 WHERE seq < 0", 2),
    ],
)
def test_tampering_is_found_and_the_row_is_named(trail, statement, row):
    folder, _ = trail
    tamper(folder, statement)
    report = verify(folder)
    assert (report.ok, report.first_bad_row) == (False, row)
    assert f"row {row} " in report.message


@pytest.mark.parametrize(("cut", "left"), [("seq > 4", 4), ("seq > 1", 1), ("1", 0)])
def test_rows_cut_off_at_the_end_are_found_with_a_head(trail, cut, left):
    folder, head = trail
    tamper(folder, f"DELETE FROM audit WHERE {cut}")
    assert verify(folder).ok
    report = verify(folder, head)
    assert (report.ok, report.rows, report.first_bad_row) == (False, left, left + 1)


def test_a_chain_that_was_written_anew_is_found_with_a_head(trail):
    folder, head = trail
    rows = show(folder)
    previous, statement = chain.FIRST, ""
    for row in rows:
        decision = "allowed"
        digest = chain.digest(previous, row.seq, row.at, row.action, decision, row.subject, row.context)
        statement += f"UPDATE audit SET decision = '{decision}', prev_hash = '{previous}', hash = '{digest}' WHERE seq = {row.seq};"
        previous = digest
    tamper(folder, statement)
    assert verify(folder).ok
    assert not verify(folder, head).ok


def test_a_finished_run_keeps_its_head_in_the_summary(done_run):
    folder = done_run()
    assert verify(folder).ok
    tamper(folder, "DELETE FROM audit")
    report = verify(folder)
    assert (report.ok, report.first_bad_row) == (False, 1)
    assert "summary" in report.message


def test_an_older_head_is_told_from_a_wrong_one(trail):
    folder, _ = trail
    older = show(folder)[2].hash
    assert "more rows" in verify(folder, older).message
    assert not verify(folder, older).ok


def test_the_chain_goes_on_with_the_next_owner(trail):
    folder, _ = trail
    with EventLog.open(folder) as log:
        log.audit("act.6", "recorded")
        head = log.audit_head
    report = verify(folder, head)
    assert (report.ok, report.rows) == (True, 6)
    assert show(folder)[5].context == "{}"


def test_a_missing_file_is_an_error_not_a_report(folder):
    with pytest.raises(StateUnavailable):
        verify(folder)
