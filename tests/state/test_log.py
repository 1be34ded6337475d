"""The writer: what it takes in is seen at once, durable at the end of the turn, and stored as the events tell it."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import stat

import pytest

from toka_cli import events as e
from toka_cli.errors import Bug, IllegalMove, StateUnavailable
from toka_cli.lifecycle import RunState
from toka_cli.state import log as log_module
from toka_cli.state.fold import fold
from toka_cli.state.log import EventLog
from toka_cli.state.query import load_run, read_events, read_plan
from toka_cli.state.schema import reading


def rows(folder, query, *values):
    with reading(folder.database) as connection:
        return connection.execute(query, values).fetchall()


def test_the_stored_view_is_what_the_events_tell(log, tools):
    one, two = tools.begin(log, "one", "two")
    tools.up(log, one)
    tools.work(log, one, "t1", "t2")
    log.append(e.AgentSkipped("dependency_failed: x"), agent=two)
    log.append(e.DeliverableRecorded("out.txt", 3, "ab", 1), agent=one)
    log.append(e.GateStarted(1, "works"), agent=one)
    log.append(e.GatePassed(1, "works", e.Outcome(exit_code=0, output="fine")), agent=one)
    tools.finish(log, one)
    assert read_events(log.folder) == []
    log.flush()
    told = fold(read_events(log.folder))
    assert told == log.view
    assert load_run(log.folder) == told
    log.close()
    assert load_run(log.folder) == told
    with EventLog.open(log.folder) as again:
        assert again.view == told


def test_the_folder_is_private_and_whole(log):
    folder = log.folder
    for path in (folder.root, folder.logs, folder.artifacts):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    for path in (folder.database, folder.spec, folder.lock):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert folder.spec.read_text() == "name: x\n"
    assert read_plan(folder) == b'{"agents":[]}'


def test_a_run_is_made_once(log, clock):
    log.close()
    with pytest.raises(StateUnavailable, match="exists already"):
        EventLog.create(log.folder, plan_json=b"{}", spec_text="", clock=clock)
    assert load_run(log.folder).state is RunState.INTERRUPTED


def test_an_illegal_event_leaves_the_log_unchanged(log, tools):
    (agent,) = tools.begin(log, "one")
    log.flush()
    before, view = read_events(log.folder), log.view.agents[0].state
    with pytest.raises(IllegalMove):
        log.append(e.AgentStarted(1), agent=agent)
    log.flush()
    assert read_events(log.folder) == before
    assert log.view.agents[0].state is view
    assert log.append(e.AgentQueued(), agent=agent).seq == before[-1].seq + 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_an_event_that_could_not_be_read_again_is_refused(log, tools, value):
    (agent,) = tools.begin(log, "one")
    with pytest.raises(Bug, match=r"agent\.measured cannot be stored"):
        log.append(e.AgentMeasured("x", value), agent=agent)
    log.flush()
    assert log.view.agents[0].metrics == {}
    assert len(read_events(log.folder)) == log.view.last_seq == 3


def test_names_that_are_not_utf8_and_numbers_beyond_64_bits_do_not_stop_the_log(log, tools):
    (agent,) = tools.begin(log, "one")
    tools.up(log, agent)
    log.append(e.AgentNoted("reads a\udcff.txt"), agent=agent)
    log.append(e.TaskStarted(), agent=agent, task="t1")
    log.append(e.TaskSucceeded(e.Outcome(exit_code=10**30, peak_memory_bytes=10**30)), agent=agent, task="t1")
    log.audit("file.read", "allowed", subject="a\udcff.txt", context={"path": "b\udcff", "raw": b"\xff", "kind": object})
    log.flush()
    assert load_run(log.folder).agents[0].tasks[0].exit_code == 10**30
    assert rows(log.folder, "SELECT exit_code FROM tasks WHERE id = 't1'") == [(2**63 - 1,)]
    assert "\\udcff" in read_events(log.folder)[-3].event.detail
    assert rows(log.folder, "SELECT subject FROM audit") == [("a\\udcff.txt",)]


def test_one_turn_of_the_loop_is_one_commit(log, tools):
    batches, order = [], []
    unsubscribe = log.subscribe(lambda records: batches.append([record.seq for record in records]))

    async def turn():
        (agent,) = tools.begin(log, "one")
        log.after_commit(lambda: order.append(("durable", len(read_events(log.folder)))))
        log.append(e.AgentQueued(), agent=agent)
        order.append(("appended", len(read_events(log.folder))))
        await log.committed()
        log.append(e.AgentStarting(), agent=agent)
        await log.committed()
        await log.committed()
        unsubscribe()
        unsubscribe()
        log.append(e.AgentStarted(1), agent=agent)
        await log.committed()

    asyncio.run(turn())
    assert batches == [[1, 2, 3, 4], [5]]
    assert order == [("appended", 0), ("durable", 4)]
    log.after_commit(lambda: order.append("at once"))
    assert order[-1] == "at once"


def test_what_a_loop_left_behind_is_written_by_the_next_one(log, tools):
    async def leave():
        tools.begin(log, "one")

    async def go_on():
        log.append(e.RunWarned("w"))
        await log.committed()

    asyncio.run(leave())
    asyncio.run(go_on())
    assert len(read_events(log.folder)) == 4


def test_a_listener_that_appends_is_heard_in_order(log, tools):
    heard, other = [], []

    def answer(records):
        heard.extend(record.seq for record in records)
        if len(heard) < 5:
            log.append(e.RunWarned(f"after {heard[-1]}"))
            log.flush()

    log.subscribe(answer)
    log.subscribe(lambda records: other.extend(record.seq for record in records))
    tools.begin(log, "one")
    log.flush()
    assert heard == other == [1, 2, 3, 4, 5]


def test_tables_that_people_query_are_filled(log, tools, clock):
    log.append(e.RunCreated(tools.RUN, "/w", "0"))
    log.append(e.RunStarted())
    agent = f"{tools.RUN}-1"
    log.append(e.AgentCreated(tools.info("one", depends_on=("a",), after=("b",))), agent=agent)
    tools.up(log, agent, pid=77)
    clock.now += 5
    log.append(e.TaskStarted(), agent=agent, task="t1")
    log.append(e.TaskRetrying(1, "exit 1", 0.1, e.Outcome(exit_code=1)), agent=agent, task="t1")
    log.append(e.TaskStarted(2), agent=agent, task="t1")
    log.append(e.TaskSucceeded(e.Outcome(exit_code=0)), agent=agent, task="t1")
    log.append(e.ToolCalled("c", "read", {"path": "x"}, "pure"), agent=agent, task="t2")
    log.append(e.ToolDone("c", ok=True), agent=agent, task="t2")
    for event in (e.ToolCalled("c", "write"), e.ToolCalled("c", "write"), e.ToolDone("c", ok=True), e.ToolDone("c", ok=False, error="no")):
        log.append(event, agent=agent)
    log.append(e.ToolDenied("fetch", "network-access", "no"), agent=agent)
    log.append(e.CommandReceived("stop", "user", agent, {"force": True}))
    log.append(e.AgentExited(None, 9, "kill", 1.0, 10), agent=agent)
    log.flush()
    assert rows(log.folder, "SELECT on_name, required FROM deps ORDER BY on_name") == [("a", 1), ("b", 0)]
    assert rows(log.folder, "SELECT attempt, pid, signal, rung, ended_at - started_at FROM processes") == [(1, 77, 9, "kill", 5.0)]
    assert rows(log.folder, "SELECT attempt, ended_by, exit_code FROM attempts ORDER BY attempt") == [
        (1, "task.retrying", 1),
        (2, "task.succeeded", 0),
    ]
    assert rows(log.folder, "SELECT tool, state, ok, capability FROM tool_calls ORDER BY seq") == [
        ("read", "done", 1, None), ("write", "done", 0, None), ("write", "done", 1, None), ("fetch", "denied", 0, "network-access"),
    ]  # fmt: skip
    assert rows(log.folder, "SELECT command, by, target, arguments FROM commands") == [("stop", "user", agent, '{"force":true}')]
    assert rows(log.folder, "SELECT name, state, progress, attempts FROM agents") == [("one", "running", 0.5, 1)]


def test_a_flush_writes_only_what_changed(log, tools):
    agents = tools.begin(log, *[f"agent{number}" for number in range(20)], tasks=5)
    log.flush()
    before = log._connection.total_changes
    log.append(e.AgentQueued(), agent=agents[0])
    log.flush()
    # The event and the row of its agent.
    assert log._connection.total_changes - before == 2
    log.flush()
    assert log._connection.total_changes - before == 2


def test_samples_raise_the_peak_and_only_the_newest_are_kept(log, tools, monkeypatch):
    monkeypatch.setattr(log_module, "SAMPLES_KEPT", 3)
    (agent,) = tools.begin(log, "one")
    log.sample(agent, 999, 9.0)
    tools.up(log, agent)
    for number in range(1, 6):
        log.sample(agent, 100 - number, number / 10)
        log.flush()
    shown = load_run(log.folder).agents[0]
    assert (shown.memory_bytes, shown.peak_memory_bytes, shown.cpu_time_s) == (95, 99, 0.5)
    assert rows(log.folder, "SELECT n, memory_bytes FROM samples ORDER BY n") == [(3, 97), (4, 96), (5, 95)]
    log.close()
    with EventLog.open(log.folder) as again:
        again.sample(agent, 50, 0.6)
        again.flush()
        assert rows(log.folder, "SELECT n, memory_bytes FROM samples ORDER BY n") == [(4, 96), (5, 95), (6, 50)]


def test_artifacts_are_kept_by_what_they_hold(log, tools, tmp_path):
    (agent,) = tools.begin(log, "one")
    first = log.add_artifact(b"text", name="a.txt", agent=agent, task="t1")
    source = tmp_path / "big"
    source.write_bytes(b"x" * 3_000_000)
    second = log.add_artifact(source, name="big")
    assert log.add_artifact(b"text", name="b\udcff.txt") == first == hashlib.sha256(b"text").hexdigest()
    log.flush()
    assert (log.folder.artifacts / first).read_bytes() == b"text"
    assert not source.exists()
    assert sorted(path.name for path in log.folder.artifacts.iterdir()) == sorted([first, second])
    assert stat.S_IMODE((log.folder.artifacts / second).stat().st_mode) == 0o600
    assert rows(log.folder, "SELECT sha256, name, size_bytes, agent, task FROM artifacts ORDER BY id") == [
        (first, "a.txt", 4, agent, "t1"), (second, "big", 3_000_000, None, None), (first, "b\\udcff.txt", 4, None, None),
    ]  # fmt: skip


def test_a_symbolic_link_is_not_taken_for_an_artifact(log, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("key")
    link = tmp_path / "link"
    link.symlink_to(secret)
    with pytest.raises(StateUnavailable, match="cannot be kept"):
        log.add_artifact(link, name="x")
    assert link.is_symlink()
    assert list(log.folder.artifacts.iterdir()) == []


def limit_pages(log, more):
    (pages,) = log._connection.execute("PRAGMA page_count").fetchone()
    log._connection.execute(f"PRAGMA max_page_count={pages + more}")


def test_a_full_disk_loses_nothing_and_acknowledges_nothing(log, tools):
    (agent,) = tools.begin(log, "one")
    log.flush()
    stored, told, news = len(read_events(log.folder)), [], []
    log.subscribe(news.extend)
    limit_pages(log, 1)
    for _ in range(20):
        log.append(e.AgentNoted("x" * 4000), agent=agent)
    log.audit("x", "denied")
    log.after_commit(lambda: told.append("durable"))
    log.flush()
    assert "full" in log.stalled
    assert not log.retry()
    assert (told, news, len(read_events(log.folder))) == ([], [], stored)
    assert log.view.last_seq == stored + 20
    log.append(e.AgentNoted("taken in while there is no room"), agent=agent)
    limit_pages(log, 10_000)
    assert log.retry()
    assert log.stalled is None
    assert (told, len(news), len(read_events(log.folder))) == (["durable"], 21, stored + 21)
    assert fold(read_events(log.folder)).agents == load_run(log.folder).agents
    assert load_run(log.folder).audit_head == log.audit_head


def test_in_a_loop_a_full_disk_is_tried_again_by_itself(log, tools, monkeypatch):
    monkeypatch.setattr(log_module, "RETRY_S", 0.01)

    async def go():
        (agent,) = tools.begin(log, "one")
        await log.committed()
        limit_pages(log, 1)
        log.append(e.AgentNoted("x" * 40_000), agent=agent)
        log.flush()
        assert "full" in log.stalled
        log.append(e.AgentNoted("y" * 40_000), agent=agent)
        limit_pages(log, 10_000)
        await log.committed()
        assert log.stalled is None

    asyncio.run(go())
    assert len(read_events(log.folder)[-1].event.detail) == 40_000


def test_closing_on_a_full_disk_says_what_is_lost_and_frees_the_lock(log, tools):
    (agent,) = tools.begin(log, "one")
    log.flush()
    limit_pages(log, 0)
    log.append(e.AgentNoted("x" * 40_000), agent=agent)
    with pytest.raises(StateUnavailable, match=r"1 events of run .* could not be written: .*full"):
        log.close()
    with EventLog.open(log.folder) as again:
        assert again.view.last_seq == 3


def test_a_foreign_lock_stalls_and_passes(log, tools):
    tools.begin(log, "one")
    log.flush()
    foreign = sqlite3.connect(log.folder.database, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    log.append(e.RunWarned("w"))
    log.flush()
    assert "locked" in log.stalled
    foreign.execute("ROLLBACK")
    foreign.close()
    assert log.retry()
    assert read_events(log.folder)[-1].event == e.RunWarned("w")


def test_a_closed_log_takes_nothing_in(log, tools):
    tools.begin(log, "one")
    log.close()
    log.close()
    for act in (lambda: log.append(e.RunWarned("w")), lambda: log.audit("x", "denied"), lambda: log.add_artifact(b"", name="x"), log.flush):
        with pytest.raises(StateUnavailable, match="is closed"):
            act()
    with pytest.raises(StateUnavailable, match="is closed"):
        asyncio.run(log.committed())
    assert len(read_events(log.folder)) == 3


def test_a_finished_run_is_one_file_without_a_write_ahead_log(done_run):
    folder = done_run()
    assert sorted(path.name for path in folder.root.iterdir() if path.is_file()) == ["owner.lock", "run.db", "spec.yaml", "summary.json"]
    with reading(folder.database) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_the_writer_is_set_up_to_survive_a_loss_of_power(log):
    pragmas = {
        name: log._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys", "mmap_size")
    }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "mmap_size": 0}


def test_an_unknown_audit_decision_is_refused(log):
    with pytest.raises(Bug, match="allowed, denied or recorded"):
        log.audit("x", "maybe")


def test_a_view_that_cannot_be_decoded_is_told_again_by_the_events(log, tools):
    tools.begin(log, "one")
    log.audit("x", "recorded")
    log.flush()
    expected = log.view
    log.close()
    other = sqlite3.connect(log.folder.database)
    other.create_function("toka_epoch", 0, lambda: 1)
    other.execute("UPDATE run SET view = '{\"id\": 7}'")
    other.commit()
    other.close()
    with EventLog.open(log.folder) as again:
        assert again.view == expected
