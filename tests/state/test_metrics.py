"""Counts over finished, live, interrupted and damaged runs together."""

from __future__ import annotations

import pytest

from toka_cli import events as e
from toka_cli.state.metrics import stats


def test_nothing_is_counted_where_nothing_is(state_dir):
    found = stats(state_dir)
    assert (found.runs, found.tasks_total, found.agents_active) == ({}, 0, 0)
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
