from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import termios
from collections.abc import Iterator
from typing import Any, TextIO

import pytest

from toka_cli import events as e
from toka_cli.view.live import FAST_S, SLOW_S, LiveRenderer
from toka_cli.view.terminal import judge

ENV = {"TERM": "xterm-256color"}


class Window:
    """A real pseudo terminal: what is written to `stream` can be read, and its size changed."""

    def __init__(self, columns: int, lines: int) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(columns, lines)
        self.stream: TextIO = os.fdopen(self.slave, "w", encoding="utf-8", errors="strict")
        self.raw = ""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self) -> str:
        """All that was written since the last time."""
        data = b""
        while select.select([self.master], [], [], 0)[0]:
            data += os.read(self.master, 65536)
        text = data.decode()
        self.raw += text
        return text


@contextlib.contextmanager
def window(columns: int, lines: int) -> Iterator[Window]:
    it = Window(columns, lines)
    try:
        yield it
    finally:
        it.stream.close()
        os.close(it.master)


def renderer(it: Window, story: Any, **more: Any) -> LiveRenderer:
    return LiveRenderer(it.stream, judge(it.stream, environ=ENV | more.pop("env", {})), clock=lambda: story.now, environ=ENV, **more)


@pytest.mark.parametrize(("columns", "lines"), [(120, 40), (80, 24), (40, 10), (20, 24), (20, 4), (9, 3)])
def test_a_run_fits_the_screen_and_stays_on_it(failed_run: Any, screen: Any, columns: int, lines: int) -> None:
    with window(columns, lines) as it:
        live = renderer(it, failed_run)
        terminal = screen(columns, lines)
        live.start(failed_run.view)
        for record in failed_run.records:
            live.show([record], failed_run.view)
            terminal.feed(it.read())
            assert terminal.wrapped == 0
            assert not terminal.cursor_visible
            assert len(terminal.rows) <= lines
        live.close()
        terminal.feed(it.read())
        assert terminal.cursor_visible
        assert terminal.text.count("r01234") == 1
        if columns >= 20 and lines >= 10:
            for agent in failed_run.view.agents:
                assert f"{agent.name} " in terminal.text
            assert "skipped" in terminal.text


def test_at_the_end_the_table_stands_once_above_the_summary(failed_run: Any, screen: Any) -> None:
    with window(100, 30) as it:
        live = renderer(it, failed_run)
        terminal = screen(100, 30)
        live.start(failed_run.view)
        live.tick(failed_run.view, failed_run.now + 1)
        live.finish(failed_run.view)
        live.close()
        terminal.feed(it.read())
        text = terminal.text
    assert text.count("agent  state") == 1
    assert text.index("lint   succeeded") < text.index("Run r012345678 failed in 23s")
    assert text.endswith("Look deeper: toka agent logs r012345678-1; toka run show r012345678")
    assert terminal.cursor_visible


def test_it_draws_on_change_and_not_more_often_than_it_may(story: Any) -> None:
    agent = story.agent("build", tasks=("t1", "t2"))
    with window(80, 24) as it:
        live = renderer(it, story)
        live.start(story.view)
        assert it.read()
        story.tell(e.RunStarted(), after=FAST_S / 2)
        live.show([story.records[-1]], story.view)
        assert it.read() == ""
        live.tick(story.view, story.now + FAST_S)
        assert "running" in it.read()
        live.tick(story.view, story.now + FAST_S * 2.5)
        drawn = it.read()
        live.tick(story.view, story.now + FAST_S * 2.5 + 0.05)
        assert it.read() == ""
        assert drawn
        story.start(agent)
        live.tick(story.view, 10.0)
        assert "starting" in (text := it.read()) or "running" in text
        live.close()


def test_the_same_picture_is_not_drawn_again(story: Any) -> None:
    story.agent("build")
    with window(80, 24) as it:
        live = renderer(it, story)
        live.start(story.view)
        it.read()
        for second in range(5):
            live.tick(story.view, story.now + second)
        assert it.read() == ""
        live.close()


def test_many_rows_are_drawn_less_often(story: Any) -> None:
    for number in range(60):
        story.agent(f"agent-{number}")
    story.tell(e.RunStarted())
    with window(80, 100) as it:
        live = renderer(it, story)
        live.start(story.view)
        it.read()
        live.tick(story.view, story.now + SLOW_S * 0.9)
        assert it.read() == ""
        live.tick(story.view, story.now + SLOW_S + 1)
        assert it.read()
        live.close()


def test_what_has_no_room_is_counted(story: Any, screen: Any) -> None:
    for number in range(50):
        story.agent(f"agent-{number}")
    story.tell(e.RunStarted())
    story.start(story.view.agents[-1].id)
    with window(80, 12) as it:
        live = renderer(it, story)
        terminal = screen(80, 12)
        live.start(story.view)
        live.tick(story.view, story.now + 5)
        live.close()
        terminal.feed(it.read())
    assert "… and 42 more (42 pending)" in terminal.text
    assert "agent-49  running" in terminal.text


def test_nothing_an_agent_says_breaks_it(hostile_run: Any, screen: Any) -> None:
    for columns in (100, 20):
        with window(columns, 16) as it:
            live = renderer(it, hostile_run, env={"NO_COLOR": "1"})
            terminal = screen(columns, 16)
            live.start(hostile_run.view)
            live.show(hostile_run.records, hostile_run.view)
            live.tick(hostile_run.view, hostile_run.now + 9)
            live.close()
            # The screen fails on every sequence and every control character that is not ours.
            terminal.feed(it.read())
            assert terminal.sgr == 0
            assert terminal.wrapped == 0
            assert len(terminal.rows) <= 16
            assert terminal.cursor_visible


def test_the_summary_of_a_hostile_run_is_harmless_too(hostile_run: Any, screen: Any) -> None:
    with window(100, 24) as it:
        live = renderer(it, hostile_run)
        terminal = screen(100, 24)
        live.start(hostile_run.view)
        live.finish(hostile_run.view)
        terminal.feed(it.read())
    assert "Look deeper" in terminal.text


def test_a_window_that_becomes_narrower(failed_run: Any, screen: Any) -> None:
    with window(100, 30) as it:
        live = renderer(it, failed_run)
        live.start(failed_run.view)
        it.read()
        it.resize(50, 30)
        live.tick(failed_run.view, failed_run.now + 1)
        # What a terminal that wraps old lines shows then: each of ours over 50 columns on two rows.
        terminal = screen(50, 30)
        before = screen(100, 30)
        before.feed(it.raw)
        terminal.feed("\r\n".join(before.text.split("\n")))
        terminal.wrapped = 0
        terminal.feed(it.read())
        live.close()
        terminal.feed(it.read())
    assert terminal.wrapped == 0
    assert terminal.text.count("r012345678 failed") == 1
    assert terminal.text.count("build ") == 1
    assert terminal.text.splitlines()[0].startswith("r012345678")


def test_focus_shows_one_agent_and_its_tasks(failed_run: Any, screen: Any) -> None:
    with window(80, 20) as it:
        live = renderer(it, failed_run, focus="build")
        terminal = screen(80, 20)
        live.start(failed_run.view)
        live.close()
        terminal.feed(it.read())
    assert "build failed" in terminal.text
    assert "t3    skipped" in terminal.text
    assert "lint" not in terminal.text


def test_the_cursor_comes_back_after_an_error(failed_run: Any, screen: Any) -> None:
    with window(80, 20) as it:
        live = renderer(it, failed_run)
        terminal = screen(80, 20)
        with pytest.raises(ZeroDivisionError), contextlib.closing(live):
            live.start(failed_run.view)
            raise ZeroDivisionError
        terminal.feed(it.read())
        assert terminal.cursor_visible
        live.close()
        assert it.read() == ""


def test_a_terminal_that_went_away_is_closed_without_a_word(failed_run: Any) -> None:
    it = Window(80, 20)
    live = renderer(it, failed_run)
    live.start(failed_run.view)
    os.close(it.master)
    live.close()
    with contextlib.suppress(OSError):
        it.stream.close()


def test_no_colour_means_no_colour(failed_run: Any, screen: Any) -> None:
    for env, coloured in (({"NO_COLOR": "1"}, False), ({}, True)):
        with window(80, 20) as it:
            live = renderer(it, failed_run, env=env)
            terminal = screen(80, 20)
            live.start(failed_run.view)
            live.finish(failed_run.view)
            terminal.feed(it.read())
            assert (terminal.sgr > 0) is coloured
