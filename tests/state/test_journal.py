"""What the state file keeps of conversations: by attempt, in order, and readable after a migration from before there were any."""

from __future__ import annotations

import contextlib
import json
import sqlite3

import pytest

from toka_cli import events as e
from toka_cli.errors import IllegalMove
from toka_cli.state.journal import Attempt, Sent, read_journal
from toka_cli.state.log import EventLog

HEAD = ({"role": "system", "content": "who"}, {"role": "user", "content": "what"})


def body(**sent):
    return json.dumps(sent)


def reply(text="x"):
    return json.dumps({"role": "assistant", "content": text})


def turn(log, agent, number, attempt=1, cost=0.5, **sent):
    log.append(e.LlmStarted(number, "m", attempt), agent=agent, task="t1", body=body(**sent))
    log.append(e.LlmReplied(number, "m", "stop", 10, 2, cost), agent=agent, task="t1", body=reply(f"turn {number}"))


@pytest.fixture
def begun(log, tools):
    """A log with one agent whose first task runs; the agent's id."""
    (agent,) = tools.begin(log, "one")
    tools.up(log, agent)
    log.append(e.TaskStarted(1), agent=agent, task="t1")
    return agent


def test_a_conversation_is_kept_in_order(log, begun):
    turn(log, begun, 1, messages=HEAD)
    log.append(e.LlmStarted(2, "m", 1), agent=begun, task="t1", body=body(answers={"0": "a"}, shortened=[2], dropped=0))
    log.append(e.LlmFailed(2, "overloaded", "later"), agent=begun, task="t1")
    turn(log, begun, 2)
    log.flush()
    journal = log.journal(begun, "t1")
    assert [(one.turn, one.state, one.reply and one.reply["content"]) for one in journal.exchanges] == [
        (1, "replied", "turn 1"), (2, "failed", None), (2, "replied", "turn 2"),
    ]  # fmt: skip
    assert journal.exchanges[0].sent.messages == HEAD
    assert journal.exchanges[1].sent == Sent({0: "a"}, shortened=(2,))
    assert journal.conversations == 1
    assert log.journal(begun, "t2").exchanges == ()


def test_only_the_last_conversation_is_given_and_the_others_are_counted(log, begun):
    turn(log, begun, 1, messages=HEAD)
    log.append(e.TaskRetrying(1, "no", 0.0), agent=begun, task="t1")
    log.append(e.TaskStarted(2), agent=begun, task="t1")
    turn(log, begun, 1, attempt=2, messages=HEAD)
    log.flush()
    journal = log.journal(begun, "t1")
    assert [one.attempt for one in journal.exchanges] == [2]
    assert journal.conversations == 2


def test_an_attempt_that_had_ended_keeps_its_end_when_its_task_waits_again(log, begun):
    log.append(e.TaskRetrying(1, "stuck: x", 0.0, e.Outcome(exit_code=3)), agent=begun, task="t1")
    log.append(e.TaskRequeued(), agent=begun, task="t1")
    log.append(e.TaskStarted(1), agent=begun, task="t1")
    log.append(e.TaskRequeued(), agent=begun, task="t1")
    log.flush()
    assert log.journal(begun, "t1").attempts == (Attempt(1, "task.retrying", "stuck: x"), Attempt(2, "task.requeued", None))
    assert log._connection.execute("SELECT exit_code FROM attempts ORDER BY attempt").fetchall() == [(3,), (None,)]


def test_the_newest_row_of_a_call_says_how_far_it_got(log, begun):
    for _ in range(2):
        log.append(e.ToolCalled("t1.1.1.0", "read_file", {}, "pure"), agent=begun, task="t1")
    log.append(e.ToolDone("t1.1.1.0", ok=True, result_bytes=3), agent=begun, task="t1", body="abc")
    log.flush()
    call = log.journal(begun, "t1").calls["t1.1.1.0"]
    assert (call.state, call.ok, call.result, call.effect) == ("done", True, "abc", "pure")
    assert [state for (state,) in log._connection.execute("SELECT state FROM tool_calls ORDER BY seq")] == ["started", "done"]


def test_bodies_stand_beside_events_and_not_in_them(log, begun):
    turn(log, begun, 1, messages=({"role": "system", "content": "long " * 1000},))
    log.flush()
    assert all(len(text) < 500 for (text,) in log._connection.execute("SELECT event FROM events WHERE kind LIKE 'llm.%'"))


def test_usage_is_that_of_task_agent_and_run_and_survives(log, begun, folder):
    turn(log, begun, 1, messages=HEAD)
    turn(log, begun, 2, cost=None)
    log.close()
    with EventLog.open(folder) as again:
        usage = again.agent(begun).usage
        assert (usage.turns, usage.llm_requests, usage.input_tokens, usage.output_tokens, usage.cost_usd) == (2, 2, 20, 4, None)
        assert again.view.usage == usage == again.agent(begun).tasks[0].usage
        assert again.agent(begun).detail == "executing task t1"


def test_a_word_about_a_task_that_is_over_moves_nothing(log, begun):
    log.append(e.LlmStarted(1, "m", 1), agent=begun, task="t1")
    assert log.agent(begun).detail == "asking m, turn 1"
    since = log.agent(begun).detail_since
    log.append(e.TaskSucceeded(), agent=begun, task="t1")
    log.append(e.LlmFailed(1, "abandoned", "x"), agent=begun, task="t1")
    assert log.agent(begun).detail != "executing task t1"
    assert since is not None
    with pytest.raises(IllegalMove):
        log.append(e.LlmStarted(1, "m", 1), agent=begun, task="no such task")


def test_a_file_from_before_conversations_can_have_some(log, begun, folder):
    """As the first version made it: without the columns that conversations need."""
    log.append(e.ToolCalled("c1", "read_file", {}, "pure"), agent=begun, task="t1")
    log.append(e.ToolDone("c1", ok=True), agent=begun, task="t1")
    log.close()
    with contextlib.closing(sqlite3.connect(folder.database)) as old:
        for table, column in [("llm_calls", one) for one in ("attempt", "finish_reason", "cached_tokens", "duration_s", "waited_s")]:
            if column == "attempt":
                old.execute("DROP INDEX llm_calls_by_task")
            old.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        for column in ("result", "artifact"):
            old.execute(f"ALTER TABLE tool_calls DROP COLUMN {column}")
        old.execute("PRAGMA user_version=1")
        old.commit()
    with EventLog.open(folder) as again:
        turn(again, begun, 1, messages=HEAD)
        again.flush()
        journal = again.journal(begun, "t1")
        assert len(journal.exchanges) == 1
        assert (journal.calls["c1"].state, journal.calls["c1"].result) == ("done", None)
    assert folder.database.with_name("run.db.v1.bak").exists()


def test_a_row_that_nobody_wrote_is_damage_and_said(log, begun):
    turn(log, begun, 1, messages=HEAD)
    log.flush()
    log._connection.execute("UPDATE llm_calls SET request = '[1]'")
    with pytest.raises(ValueError, match="Expected"):
        read_journal(log._connection, begun, "t1")
