from __future__ import annotations

from typing import Any

import pytest

from toka_cli.lifecycle import RunState
from toka_cli.state.summary import line as summary_line
from toka_cli.view.agent import agent_lines, agent_table
from toka_cli.view.run import ago, run_lines, run_table
from toka_cli.view.style import paint
from toka_cli.view.text import display_width


def plain(lines: Any) -> list[str]:
    return [paint(line, color=False) for line in lines]


def test_agent_list_in_a_pipe(failed_run: Any) -> None:
    lines = plain(agent_table(failed_run.view.agents, now=failed_run.now, width=None))
    assert lines[0].split() == ["ID", "NAME", "STATE", "PROGRESS", "TASKS", "TIME", "MEMORY", "PID", "WORKSTREAM", "DETAIL"]
    assert lines[1].split(maxsplit=7) == ["r012345678-1", "build", "failed", "67%", "2/3", "18s", "build", "task t2 (do t2): exit status 2"]
    assert len(lines) == 5
    assert agent_table([], now=0, width=None) == []


@pytest.mark.parametrize("width", [20, 40, 80, 132])
def test_agent_and_run_list_fit_the_terminal(hostile_run: Any, forbidden: Any, width: int) -> None:
    runs = [summary_line(hostile_run.view)]
    for lines in (agent_table(hostile_run.view.agents, now=hostile_run.now, width=width), run_table(runs, now=hostile_run.now, width=width)):
        assert len(lines) == 2
        for line in plain(lines):
            assert display_width(line) <= width
            assert not forbidden.search(line)


def test_twenty_columns_still_say_who_and_how(failed_run: Any) -> None:
    assert plain(agent_table(failed_run.view.agents, now=failed_run.now, width=20))[1] == "build  failed"


def test_agent_show(failed_run: Any) -> None:
    view = failed_run.view
    lines = plain(agent_lines(view, view.agents[0], now=failed_run.now, width=100))
    assert lines[0] == "build failed"
    assert lines[1].startswith("build failed because task t2")
    for line in ("Agent ID: r012345678-1", "Progress: 66.7% (2/3)", "Time: 18s", "May: nothing special", "Isolation: level process", "Hint: look at main.c"):
        assert line in lines
    assert any(line.startswith("t2    failed") and line.endswith("exit status 2") for line in lines)
    assert "  succeeded 1 it is clean" in plain(agent_lines(view, view.agents[3], now=failed_run.now, width=None))


def test_agent_show_says_limits_with_their_units(story: Any) -> None:
    story.agent("a", limits={"memory_bytes": 200 * 1024**2, "cpu_share": 0.75, "timeout_s": 300.0, "max_tool_calls": 5, "disk_bytes": None})
    lines = plain(agent_lines(story.view, story.view.agents[0], now=0, width=None))
    assert "Limits: memory_bytes 200 MB, cpu_share 75%, timeout_s 5m0s, max_tool_calls 5" in lines


def test_run_show_and_list(failed_run: Any) -> None:
    view = failed_run.view
    lines = plain(run_lines(view, now=failed_run.now, width=100))
    assert lines[0] == "Run r012345678 failed in 23s (agents failed: build): 1 succeeded, 1 failed, 2 skipped"
    assert "Started: 1970-01-01 00:16:42 UTC" in lines
    assert "Command: toka orchestrate agents/" in lines
    listed = plain(run_table([summary_line(view)], now=failed_run.now + 60, width=None))
    assert "failed" in listed[1]
    assert "1m23s ago" in listed[1]
    assert "/work/place" in listed[1]
    assert run_table([], now=0, width=80) == []


def test_how_long_an_interrupted_run_worked_is_not_invented(failed_run: Any) -> None:
    run = summary_line(failed_run.view)
    run.state, run.ended_at = RunState.INTERRUPTED, None
    (_, row) = plain(run_table([run], now=failed_run.now + 5, width=None))
    assert row.split("28s ago")[1].split()[0] == "/work/place"


def test_nothing_hostile_gets_through(hostile_run: Any, forbidden: Any) -> None:
    view = hostile_run.view
    for ascii_only in (False, True):
        shown = [
            *agent_lines(view, view.agents[0], now=hostile_run.now, width=60, ascii_only=ascii_only),
            *run_lines(view, now=hostile_run.now, width=60, ascii_only=ascii_only),
        ]
        for line in plain(shown):
            assert not forbidden.search(line)
            assert not ascii_only or line.isascii()


def test_ago() -> None:
    assert ago(None, 5) == ""
