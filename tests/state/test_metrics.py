"""Counts over finished, live, interrupted and damaged runs together."""

from __future__ import annotations

import pytest

from toka_cli import events as e
from toka_cli.state.metrics import stats


def test_nothing_is_counted_where_nothing_is(state_dir):
    found = stats(state_dir)
    assert (found.runs, found.tasks_total, found.agents_active) == ({}, 0, 0)
    assert (found.model_turns, found.model_requests, found.model_cost_usd, found.model_agents_unpriced) == (0, 0, 0.0, 0)
    assert (found.success_rate, found.agent_duration_s, found.task_duration_s, found.memory_bytes, found.cpu_time_s, found.uptime_s) == (
        None,
    ) * 6


def test_everything_is_counted(state_dir, done_run, new_log, tools, clock):
    done_run("b000000000")
    gone = new_log("c000000000")
    (lost,) = tools.begin(gone, "lost")
    tools.up(gone, lost)
    gone.close()
    (state_dir / "runs" / "e000000000").mkdir()
    (state_dir / "runs" / "e000000000" / "run.db").write_bytes(b"garbage")
    log = new_log("d000000000")
    good, bad, skipped, stopped, working = tools.begin(log, "good", "bad", "skipped", "stopped", "working")
    for agent in (good, bad, working):
        tools.up(log, agent)
    log.sample(working, 500, 2.0)
    log.append(e.TaskStarted(), agent=good, task="t1")
    clock.now += 4
    log.append(e.TaskSucceeded(), agent=good, task="t1")
    log.append(e.AgentSucceeded(), agent=good)
    log.append(e.AgentExited(0, cpu_time_s=1.0), agent=good)
    log.append(e.TaskStarted(), agent=bad, task="t1")
    log.append(e.TaskFailed("exit 1"), agent=bad, task="t1")
    clock.now += 4
    log.append(e.AgentFailed("task_failed: t1"), agent=bad)
    log.append(e.AgentSkipped("dependency_failed: bad"), agent=skipped)
    log.append(e.AgentStopped("user"), agent=stopped)
    log.flush()
    found = stats(state_dir, now=clock.now)
    assert found.runs == {"running": 1, "interrupted": 1, "succeeded": 1}
    assert (found.agents_spawned, found.agents_active, found.processes_alive) == (5, 1, 1)
    assert (found.agents_completed, found.agents_failed, found.agents_skipped, found.agents_stopped, found.damaged) == (2, 1, 1, 1, 1)
    assert (found.tasks_total, found.tasks_succeeded, found.tasks_failed) == (14, 3, 1)
    assert found.success_rate == 0.5
    # Agents: 0 s, 4 s, 8 s; tasks: twice 0 s, 4 s, 0 s.
    assert found.agent_duration_s == pytest.approx(4.0)
    assert found.task_duration_s == pytest.approx(1.0)
    assert (found.memory_bytes, found.cpu_time_s, found.uptime_s) == (500, 3.5, 8.0)


def test_what_models_cost_is_counted_over_finished_and_live_runs(state_dir, new_log, tools):
    logs = [new_log(run) for run in ("a000000000", "b000000000", "c000000000")]
    for log, price in zip(logs, (0.25, 0.00003, None), strict=True):
        one, two = tools.begin(log, "one", "two")
        for agent, cost in ((one, price), (two, 0.5)):
            tools.up(log, agent)
            log.append(e.TaskStarted(), agent=agent, task="t1")
            log.append(e.LlmReplied(1, "x", "stop", 100, 10, cost), agent=agent, task="t1")
            log.append(e.LlmReplied(2, "x", "stop", 100, 10, 0.0, from_cache=True), agent=agent, task="t1")
        log.flush()
    tools.finish(logs[0], *(f"a000000000-{number}" for number in (1, 2)))
    logs[0].close()
    found = stats(state_dir)
    assert found.runs == {"succeeded": 1, "running": 2}
    assert (found.model_turns, found.model_requests, found.model_input_tokens, found.model_output_tokens) == (12, 6, 600, 60)
    assert found.model_cost_usd == pytest.approx(1.75003), "what is known of it"
    assert found.model_agents_unpriced == 1


def test_where_no_price_is_known_there_is_no_sum(state_dir, new_log, tools):
    log = new_log()
    (one,) = tools.begin(log, "one")
    tools.up(log, one)
    log.append(e.TaskStarted(), agent=one, task="t1")
    log.append(e.LlmReplied(1, "x", "stop", 100, 10, None), agent=one, task="t1")
    log.flush()
    found = stats(state_dir)
    assert (found.model_requests, found.model_cost_usd, found.model_agents_unpriced) == (1, None, 1)
