from __future__ import annotations

import io
import os
import re
from typing import Any

import pytest

from toka_cli import events as e
from toka_cli.view.choice import choose_renderer
from toka_cli.view.plain import PlainRenderer
from toka_cli.view.terminal import Terminal

PIPE = Terminal(tty=False, color=False, animate=False, width=None, ascii_only=False)


def told(story: Any, terminal: Terminal = PIPE) -> str:
    stream = io.StringIO()
    renderer = PlainRenderer(stream, terminal)
    for number, record in enumerate(story.records):
        if number == 0:
            continue
        renderer.show([record], story.view)
    renderer.finish(story.view)
    renderer.close()
    return stream.getvalue()


def test_a_run_is_one_line_for_each_change(failed_run: Any) -> None:
    lines = told(failed_run).splitlines()
    assert lines[:6] == [
        "[build] starting",
        "[build] started (pid 4242)",
        "[lint] starting",
        "[lint] started (pid 4242)",
        "[build] task t1 started: do t1",
        # The view is that of the end here: progress is told from it.
        "[build] Agent progress: 66.7% (2/3)",
    ]
    expected = [
        "[lint] task t1 succeeded (500ms)",
        "[lint] gate 1 passed (250ms)",
        "[lint] delivered reports/lint.txt (2 KB)",
        "[lint] succeeded (10s)",
        "[build] task t2 failed (2s): exit status 2",
        "    | compiling",
        "    | main.c:3: error: nope",
        "[build] task t3 skipped: an earlier task failed",
        "[build] failed (18s): task_failed: t2",
        "[build]   hint: look at main.c",
        "[test] skipped: dependency_failed: build",
        "[docs] skipped: dependency_failed: test",
        "Run r012345678 failed in 23s (agents failed: build): 1 succeeded, 1 failed, 2 skipped",
        "Look deeper: toka agent logs r012345678-1; toka run show r012345678",
    ]
    positions = [lines.index(line) for line in expected]
    assert positions == sorted(positions)
    assert lines.index("    | compiling") == lines.index("[build] task t2 failed (2s): exit status 2") + 1


def test_progress_is_told_when_it_changes(story: Any) -> None:
    stream = io.StringIO()
    renderer = PlainRenderer(stream, PIPE)
    agent = story.agent("build", tasks=("t1", "t2", "t3", "t4", "t5"))
    story.tell(e.RunStarted())
    renderer.start(story.view)
    story.start(agent)
    for task in ("t1", "t2"):
        renderer.show([story.tell(e.TaskStarted(), agent, task)], story.view)
        renderer.show([story.tell(e.TaskSucceeded(), agent, task)], story.view)
    assert re.findall("Agent progress.*", stream.getvalue()) == ["Agent progress: 20.0% (1/5)", "Agent progress: 40.0% (2/5)"]
    assert "[build] Agent progress: 40.0% (2/5)\n" in stream.getvalue()
    assert stream.getvalue().startswith("Run r012345678: 1 agent in /work/place\n")


def test_a_sign_of_life_each_silent_minute_by_the_clock_it_is_given(story: Any) -> None:
    stream = io.StringIO()
    renderer = PlainRenderer(stream, PIPE)
    agent = story.agent("build")
    story.tell(e.RunStarted())
    story.start(agent)
    renderer.start(story.view)
    begin = stream.getvalue()
    for second in range(60):
        renderer.tick(story.view, 2000.0 + second)
    assert stream.getvalue() == begin
    renderer.tick(story.view, 2060.0)
    assert stream.getvalue()[len(begin) :] == "still running after 17m38s: 1 running (build)\n"
    renderer.show([story.tell(e.TaskStarted(), agent, "t1")], story.view)
    renderer.tick(story.view, 2119.0)
    renderer.tick(story.view, 2178.0)
    assert stream.getvalue().count("still running") == 1
    renderer.tick(story.view, 2179.0)
    assert stream.getvalue().count("still running") == 2


def test_every_event_has_its_line(story: Any) -> None:
    agent = story.agent("a", tasks=("t1", "t2"))
    other = story.agent("b")
    story.tell(e.RunStarted())
    story.tell(e.RunWarned(message="no memory limit"))
    story.start(agent)
    story.start(other)
    story.tell(e.RunPaused())
    story.tell(e.RunResumed())
    story.tell(e.AgentPaused(), agent)
    story.tell(e.AgentResumed(), agent)
    story.tell(e.TaskStarted(), agent, "t1")
    story.tell(e.ToolDenied(tool="git_commit", capability="git-access", message="add it to the spec"), agent, "t1")
    story.tell(e.TaskRetrying(attempt=1, reason="exit status 3", delay_s=2.5, outcome=e.Outcome(output="no\n")), agent, "t1")
    story.tell(e.TaskStarted(attempt=2), agent, "t1")
    story.tell(e.TaskFailed(reason="exit status 4", allowed=True), agent, "t1")
    story.tell(e.TaskStarted(), agent, "t2")
    story.tell(e.TaskRequeued(), agent, "t2")
    story.tell(e.AgentBackedOff(reason="crashed: signal 9", delay_s=3.0), agent)
    story.tell(e.AgentRequeued(), agent)
    story.tell(e.AgentStarting(attempt=2), agent)
    story.tell(e.AgentStarted(pid=5), agent)
    story.tell(e.GateStarted(index=2, description="it holds"), agent)
    story.tell(e.GateFailed(index=2, description="it holds", reason="exit status 1", outcome=e.Outcome(output="no proof\n")), agent)
    story.tell(e.RunStopping(reason="user"))
    story.tell(e.AgentStopping(reason="user"), agent)
    story.tell(e.TaskStopped(reason="stopped: user"), agent, "t2")
    story.tell(e.AgentStopped(reason="stopped: user"), agent)
    story.tell(e.RunInterrupted(reason="its owner is gone"))
    story.tell(e.RunRequeued())
    text = told(story)
    for line in (
        "warning: no memory limit", "run paused by user", "run goes on", "[a] paused", "[a] goes on",
        "[a] denied: git_commit needs git-access: add it to the spec",
        "[a] task t1 failed: exit status 3; tries again after 2.5s\n    | no", "[a] task t1 started (attempt 2): do t1",
        "[a] task t1 failed, which is allowed: exit status 4", "[a] task t2 waits for the next process", "[a] failed: crashed: signal 9; starts again after 3s",
        "[a] waits for its turn again", "[a] starting (attempt 2)", "[a] gate 2 started: it holds", "[a] gate 2 failed: exit status 1", "    | no proof",
        "run stopping: user", "[a] stopping: user", "[a] task t2 stopped: stopped: user", "[a] stopped (25s): stopped: user",
        "run interrupted: its owner is gone", "run goes on after an interruption",
    ):  # fmt: skip
        assert f"{line}\n" in text, line


def test_a_warning_is_told_once(story: Any) -> None:
    story.tell(e.RunStarted())
    story.tell(e.RunWarned(message="no memory limit"))
    assert told(story).count("no memory limit") == 1
    stream = io.StringIO()
    late = PlainRenderer(stream, PIPE)
    late.finish(story.view)
    assert stream.getvalue().count("no memory limit") == 1


def test_nothing_hostile_gets_through(hostile_run: Any, forbidden: re.Pattern[str]) -> None:
    text = told(hostile_run)
    assert not forbidden.search(text.replace("\n", ""))
    assert not re.search(r"##\w*\[", text)
    lines = text.split("\n")
    # No text makes a line of its own, but what was printed in lines: at most ten of them for each failure.
    assert len([line for line in lines if not line.startswith("    | ")]) < 35, lines
    assert not [line for line in lines if line.lstrip().startswith("::")]
    told(hostile_run, Terminal(tty=False, color=False, animate=False, width=None, ascii_only=True)).encode("ascii")


def test_colour_is_ours_alone(hostile_run: Any, forbidden: re.Pattern[str]) -> None:
    text = told(hostile_run, Terminal(tty=True, color=True, animate=False, width=80, ascii_only=False))
    assert "\x1b[31m" in text
    assert not forbidden.search(re.sub(r"\x1b\[(0|1|2|31|32|33|36)m|\n", "", text))


def test_a_reader_that_went_away_is_told_to_the_caller(story: Any) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    with pytest.raises(BrokenPipeError):
        PlainRenderer(stream, PIPE).start(story.view)
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_lines_are_chosen_where_nothing_may_move() -> None:
    assert isinstance(choose_renderer(io.StringIO(), PIPE, watch=True), PlainRenderer)
    moving = Terminal(tty=True, color=True, animate=True, width=80, ascii_only=False)
    assert isinstance(choose_renderer(io.StringIO(), moving, watch=False), PlainRenderer)
    assert not isinstance(choose_renderer(io.StringIO(), moving), PlainRenderer)


def test_that_nothing_new_starts_is_told_once_even_where_no_record_can_tell_it(story: Any) -> None:
    stream = io.StringIO()
    renderer = PlainRenderer(stream)
    story.agent("a")
    story.tell(e.RunStarted())
    renderer.start(story.view)
    story.tell(e.RunHeld("the disk is full"))
    for second in range(5):
        renderer.tick(story.view, 2000.0 + second)
    renderer.show(story.records[-1:], story.view)
    assert stream.getvalue().count("nothing new starts for now: the disk is full\n") == 1
    story.tell(e.RunReleased())
    renderer.show(story.records[-1:], story.view)
    renderer.tick(story.view, 2010.0)
    assert stream.getvalue().count("there is room again") == 1


def test_a_warning_of_several_lines_keeps_them_apart_and_forges_none(story: Any) -> None:
    stream = io.StringIO()
    renderer = PlainRenderer(stream, PIPE)
    story.tell(e.RunStarted())
    message = "a grant is missing\nadd this:\n  - one\n[build] succeeded" + "\nmore" * 100
    renderer.show([story.tell(e.RunWarned(message))], story.view)
    lines = stream.getvalue().splitlines()
    assert lines[:4] == ["warning: a grant is missing", "  add this:", "    - one", "  [build] succeeded"]
    assert len(lines) == 12
    late = io.StringIO()
    PlainRenderer(late, PIPE).finish(story.view)
    assert "  warning: a grant is missing\n    add this:\n      - one\n" in late.getvalue()
