"""Questions from outside: lists, lookups, and what is shown while a run is being made, goes on, ended, or is damaged."""

from __future__ import annotations

import datetime
import subprocess
import sys

import pytest

from toka_cli import events as e
from toka_cli.errors import EXIT_NOT_FOUND, NotFound, StateUnavailable
from toka_cli.lifecycle import RunState
from toka_cli.paths import RunFolder
from toka_cli.state import owner, query, summary
from toka_cli.state.query import OWNER_GONE, all_agents, find_agent, find_run, list_runs, live_agents, load_run, read_events


def ids(state_dir):
    return [run.id for run in list_runs(state_dir).runs]


def test_no_state_folder_means_no_runs(state_dir):
    assert list_runs(state_dir) == query.Runs([], [])
    assert not state_dir.exists()


def test_runs_are_listed_newest_first_with_their_agents_counted(state_dir, done_run, new_log, tools, clock):
    done_run("b000000000")
    clock.now += 10
    log = new_log("a000000000")
    one, _ = tools.begin(log, "one", "two")
    tools.up(log, one)
    log.flush()
    first, second = list_runs(state_dir).runs
    assert (first.id, first.state, first.agents, first.workdir) == ("a000000000", RunState.RUNNING, {"running": 1, "pending": 1}, "/work")
    assert (second.id, second.state, second.agents) == ("b000000000", RunState.SUCCEEDED, {"succeeded": 1})
    assert first.created_at - second.created_at == datetime.timedelta(seconds=10)


def test_a_finished_run_is_listed_without_opening_its_state_file(state_dir, done_run, monkeypatch):
    done_run()
    monkeypatch.setattr(query.schema, "reading", None)
    assert ids(state_dir) == ["a000000000"]
    assert find_agent(state_dir, "one")[1] == "a000000000-1"


@pytest.mark.parametrize("damage", [None, "", "{", '{"version": 1}', '{"version":2}', "other"])
def test_a_summary_that_is_missing_or_wrong_is_not_needed(state_dir, done_run, damage):
    folder = done_run()
    before = list_runs(state_dir)
    if damage is None:
        folder.summary.unlink()
    else:
        text = folder.summary.read_text().replace("a000000000", "c000000000") if damage == "other" else damage
        folder.summary.write_text(text)
    assert list_runs(state_dir) == before


def test_the_summary_of_an_unfinished_run_is_never_believed(state_dir, log, tools):
    (agent,) = tools.begin(log, "one")
    log.flush()
    assert summary.read(log.folder).run.state is RunState.RUNNING
    tools.up(log, agent)
    log.flush()
    assert list_runs(state_dir).runs[0].agents == {"running": 1}
    log.close()
    assert list_runs(state_dir).runs[0].state is RunState.INTERRUPTED
    assert list_runs(state_dir).runs[0].agents == {"pending": 1}


def test_damaged_runs_are_named_and_hide_no_other(state_dir, done_run):
    for run in ("a000000000", "b000000000", "c000000000", "d000000000"):
        done_run(run)
    runs = state_dir / "runs"
    (runs / "b000000000" / "run.db").write_bytes(b"garbage")
    (runs / "c000000000" / "run.db").unlink()
    (runs / "not a run").mkdir()
    (runs / ".removed-e000000000").mkdir()
    found = list_runs(state_dir)
    assert sorted(run.id for run in found.runs) == ["a000000000", "d000000000"]
    assert [run for run, _ in found.damaged] == ["b000000000", "c000000000"]
    assert "is damaged" in found.damaged[0][1]
    assert "no state file" in found.damaged[1][1]
    assert len(all_agents(state_dir).agents) == 2


def test_a_run_that_is_being_made_is_neither_shown_nor_damaged(state_dir, folder):
    folder.root.mkdir(parents=True)
    assert list_runs(state_dir) == query.Runs([], [])
    lock = owner.take(folder)
    assert list_runs(state_dir) == query.Runs([], [])
    folder.database.touch()
    assert list_runs(state_dir) == query.Runs([], [])
    lock.release()
    assert [run for run, _ in list_runs(state_dir).damaged] == [folder.run_id]


def test_durations_count_up_to_now_until_they_are_known(log, tools, clock):
    (agent,) = tools.begin(log, "one")
    tools.up(log, agent)
    log.append(e.TaskStarted(), agent=agent, task="t1")
    log.flush()
    view = load_run(log.folder, now=clock.now + 4)
    assert (view.duration_s, view.agents[0].duration_s, view.agents[0].tasks[0].duration_s, view.agents[0].tasks[1].duration_s) == (
        4.0,
        4.0,
        4.0,
        None,
    )
    log.append(e.TaskSucceeded(), agent=agent, task="t1")
    tools.finish(log, agent)
    log.flush()
    assert load_run(log.folder, now=clock.now + 99).duration_s == 0.0
    assert load_run(log.folder, tasks=False).agents[0].tasks == []


def test_an_interrupted_run_has_no_duration_and_nothing_that_runs(log, tools, clock):
    one, two = tools.begin(log, "one", "two")
    tools.up(log, one)
    tools.work(log, one, "t1")
    log.append(e.TaskStarted(), agent=one, task="t2")
    log.append(e.GateStarted(1, "x"), agent=one)
    log.append(e.AgentSkipped("x"), agent=two)
    log.close()
    view = load_run(log.folder, now=clock.now + 9)
    assert (view.state, view.reason, view.duration_s) == (RunState.INTERRUPTED, OWNER_GONE, None)
    shown = [(agent.state.value, agent.detail, agent.pid, agent.progress) for agent in view.agents]
    assert shown == [("pending", "interrupted", None, 0.5), ("skipped", None, None, 0.0)]
    assert [task.state.value for task in view.agents[0].tasks] == ["succeeded", "pending"]
    assert view.agents[0].gates[0].state == "pending"


def test_live_agents_are_those_of_runs_that_somebody_runs(state_dir, done_run, new_log, tools, clock):
    done_run("b000000000", "old")
    gone = new_log("c000000000")
    tools.begin(gone, "lost")
    gone.close()
    clock.now += 1
    log = new_log("d000000000")
    tools.begin(log, "new")
    log.flush()
    live = live_agents(state_dir, now=clock.now)
    assert ([agent.name for agent in live.agents], list(live.runs)) == (["new"], ["d000000000"])
    assert sorted(agent.name for agent in all_agents(state_dir).agents) == ["lost", "new", "old"]
    assert live.agents[0].tasks[0].id == "t1"


def test_events_are_read_from_where_one_was(log, tools):
    tools.begin(log, "one", "two")
    log.flush()
    assert [record.seq for record in read_events(log.folder)] == [1, 2, 3, 4]
    assert [record.seq for record in read_events(log.folder, after=2)] == [3, 4]
    assert [record.seq for record in read_events(log.folder, after=1, limit=1)] == [2]
    assert read_events(log.folder, after=99) == []


# --- lookups -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(state_dir, new_log, tools, clock):
    """Two finished runs and a live one: `build` in all, `test` in the newest finished one, `lint` in the live, oldest one."""
    live = new_log("abc0000000")
    tools.begin(live, "build", "lint")
    live.flush()
    for run, names in (("abd0000000", ["build"]), ("xyz0000000", ["build", "test"])):
        clock.now += 10
        log = new_log(run)
        agents = tools.begin(log, *names)
        for agent in agents:
            tools.up(log, agent)
        tools.finish(log, *agents)
        log.close()
    return state_dir


@pytest.mark.parametrize(("text", "run"), [("abc0000000", "abc0000000"), ("abc", "abc0000000"), ("x", "xyz0000000")])
def test_a_run_is_found_by_id_or_beginning(three, text, run):
    assert find_run(three, text).run_id == run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ab", "run 'ab' could be abc0000000, abd0000000"),
        ("q", "there is no run 'q'$"),
        ("", "there is no run ''$"),
        ("abc0000001", r"did you mean abc0000000\?"),
    ],
)
def test_a_run_that_is_not_found_is_exit_4_with_candidates(three, text, message):
    with pytest.raises(NotFound, match=message) as caught:
        find_run(three, text)
    assert caught.value.exit_code == EXIT_NOT_FOUND
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "agent"),
    [
        ("abd0000000-1", "abd0000000-1"),
        ("xyz0000000-2", "xyz0000000-2"),
        ("abd", "abd0000000-1"),
        ("abd0000000", "abd0000000-1"),
        ("build", "abc0000000-1"),  # the live one, though newer ones ended
        ("test", "xyz0000000-2"),
        ("te", "xyz0000000-2"),
        ("lin", "abc0000000-2"),
    ],
)
def test_an_agent_is_found_by_id_name_or_beginning(three, text, agent):
    folder, found = find_agent(three, text)
    assert (folder.run_id, found) == (agent.partition("-")[0], agent)


def test_the_newest_agent_of_a_name_when_none_is_live(three, new_log, state_dir):
    assert find_agent(three, "build", run="xyz")[1] == "xyz0000000-1"
    assert find_agent(three, "build", run="abd0000000")[1] == "abd0000000-1"
    with pytest.raises(NotFound):
        find_agent(three, "lint", run="xyz")
    with pytest.raises(NotFound, match="run 'q'"):
        find_agent(three, "lint", run="q")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("xyz0000000", r"could be xyz0000000-1 \(build\), xyz0000000-2 \(test\)"),
        ("buidl", r"did you mean build\?"),
        ("nothing like it", "there is no agent 'nothing like it'$"),
        ("", "there is no agent ''$"),
    ],
)
def test_an_agent_that_is_not_found_is_exit_4_with_candidates(three, text, message):
    with pytest.raises(NotFound, match=message):
        find_agent(three, text)


def test_a_damaged_run_does_not_stop_a_lookup_elsewhere(three):
    (three / "runs" / "abd0000000" / "run.db").write_bytes(b"garbage")
    assert find_agent(three, "test")[1] == "xyz0000000-2"
    with pytest.raises(StateUnavailable, match="damaged"):
        find_agent(three, "build", run="abd")


def test_listing_loads_nothing_heavy():
    banned = ["pydantic", "typer", "rich", "anyio", "psutil", "asyncio", "litellm", "yaml", "difflib", "subprocess", "hashlib"]
    code = f"import sys, toka_cli.state.query; print([name for name in {banned} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_that_cannot_be_read_is_said(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(StateUnavailable, match="cannot be read"):
        list_runs(tmp_path)
    assert RunFolder(tmp_path / "runs" / "x").run_id == "x"
