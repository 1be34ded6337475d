"""Pruning removes what is over and never what somebody owns."""

from __future__ import annotations

import pytest

from toka_cli import events as e
from toka_cli.state.prune import prune
from toka_cli.state.query import list_runs, run_folders


def left(state_dir):
    return [folder.run_id for folder in run_folders(state_dir)]


@pytest.fixture
def runs(state_dir, done_run, clock):
    """Four finished runs, a day apart; the newest is d."""
    for run in ("a000000000", "b000000000", "c000000000", "d000000000"):
        done_run(run)
        clock.now += 86_400
    return state_dir


@pytest.mark.parametrize(
    ("keep", "older", "gone"),
    [
        (None, None, ""),
        (4, None, ""),
        (2, None, "ba"),
        (0, None, "dcba"),
        (None, 2.5 * 86_400, "ba"),
        (None, 0.0, "dcba"),
        (3, 0.0, "a"),
        (1, 3.5 * 86_400, "a"),
    ],
)
def test_what_goes_and_what_stays(runs, clock, keep, older, gone):
    names = [letter + "000000000" for letter in gone]
    assert prune(runs, keep=keep, older_than_s=older, now=clock.now, dry_run=True) == names
    assert len(left(runs)) == 4
    assert prune(runs, keep=keep, older_than_s=older, now=clock.now) == names
    assert left(runs) == [letter + "000000000" for letter in "abcd" if letter not in gone]
    assert sorted(path.name for path in (runs / "runs").iterdir()) == left(runs)


def test_a_run_that_somebody_owns_is_never_removed(state_dir, folder, beside, clock):
    process = beside("log, agent = start(); say('up'); sys.stdin.readline()")
    assert process.hear() == "up"
    assert prune(state_dir, keep=0, older_than_s=0.0, now=clock.now) == []
    process.kill()
    assert prune(state_dir, keep=0, older_than_s=None, now=clock.now, dry_run=True) == [folder.run_id]
    assert prune(state_dir, keep=0, older_than_s=None, now=clock.now) == [folder.run_id]
    assert not folder.root.exists()


def test_a_run_of_this_process_is_never_removed(state_dir, log, tools, clock):
    agents = tools.begin(log, "one")
    tools.up(log, *agents)
    tools.finish(log, *agents)
    log.flush()
    assert prune(state_dir, keep=0, older_than_s=None, now=clock.now) == []
    assert log.folder.root.exists()


def test_a_run_that_is_being_recovered_is_not_over(state_dir, log, tools, clock):
    tools.begin(log, "one")
    log.append(e.RunInterrupted("owner_gone"))
    log.flush()
    assert prune(state_dir, keep=0, older_than_s=None, now=clock.now, dry_run=True) == []
    log.close()
    assert prune(state_dir, keep=0, older_than_s=None, now=clock.now, dry_run=True) == [log.folder.run_id]


def test_a_damaged_run_is_kept(runs, clock):
    damaged = runs / "runs" / "b000000000" / "run.db"
    damaged.write_bytes(b"garbage")
    assert len(prune(runs, keep=0, older_than_s=None, now=clock.now)) == 3
    assert damaged.exists()
    assert list_runs(runs).damaged[0][0] == "b000000000"


def test_what_a_killed_prune_left_is_removed(runs, clock):
    half = runs / "runs" / ".removed-x000000000"
    half.mkdir()
    (half / "run.db").touch()
    assert prune(runs, keep=9, older_than_s=None, now=clock.now) == []
    assert not half.exists()
