from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import termios
from collections.abc import Iterator
from typing import TextIO

import pytest

from toka_cli.view.terminal import is_tty, is_utf8, judge, size


@pytest.fixture
def tty() -> Iterator[TextIO]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 17, 61, 0, 0))
    with os.fdopen(slave, "w", encoding="utf-8") as stream:
        yield stream
    os.close(master)


@pytest.fixture
def pipe() -> Iterator[TextIO]:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        yield stream
    os.close(reader)


XTERM = {"TERM": "xterm-256color"}


@pytest.mark.parametrize(
    ("flag", "env", "on_tty", "on_pipe"),
    [
        ("auto", XTERM, True, False),
        ("always", XTERM, True, True),
        ("never", XTERM, False, False),
        ("auto", {"TERM": "dumb"}, False, False),
        ("auto", {}, False, False),
        ("auto", XTERM | {"NO_COLOR": "1"}, False, False),
        ("auto", XTERM | {"NO_COLOR": ""}, True, False),
        ("auto", XTERM | {"FORCE_COLOR": "1"}, True, True),
        ("auto", XTERM | {"FORCE_COLOR": "0"}, True, False),
        ("auto", XTERM | {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ("auto", {"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
        ("always", XTERM | {"NO_COLOR": "1"}, True, True),
        ("never", XTERM | {"FORCE_COLOR": "1"}, False, False),
        ("auto", XTERM | {"CI": "true"}, True, False),
    ],
)
def test_colour(tty: TextIO, pipe: TextIO, flag: str, env: dict[str, str], on_tty: bool, on_pipe: bool) -> None:
    assert judge(tty, color=flag, environ=env).color is on_tty
    assert judge(pipe, color=flag, environ=env).color is on_pipe


@pytest.mark.parametrize(
    ("env", "animate"),
    [
        (XTERM, True),
        (XTERM | {"NO_COLOR": "1"}, True),
        (XTERM | {"CI": "true"}, False),
        (XTERM | {"CI": "1"}, False),
        (XTERM | {"CI": "false"}, True),
        (XTERM | {"CI": "0"}, True),
        (XTERM | {"CI": ""}, True),
        ({"TERM": "dumb"}, False),
        ({}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, False),
    ],
)
def test_animation_needs_a_terminal_that_is_no_build_server(tty: TextIO, pipe: TextIO, env: dict[str, str], animate: bool) -> None:
    assert judge(tty, environ=env).animate is animate
    for more in ({}, {"FORCE_COLOR": "1"}):
        assert judge(pipe, color="always", environ=env | more).animate is False


def test_width(tty: TextIO, pipe: TextIO) -> None:
    assert judge(tty, environ={}).width == 61
    assert size(tty, {}) == (61, 17)
    assert judge(tty, environ={"COLUMNS": "33"}).width == 33
    assert size(tty, {"COLUMNS": "33"}) == (33, 17)
    assert size(tty, {"COLUMNS": "junk", "LINES": "-4"}) == (61, 17)
    assert size(tty, {"COLUMNS": "0", "LINES": "99999"}) == (61, 10_000)
    assert judge(pipe, environ={"COLUMNS": "33"}).width is None
    assert size(pipe, {}) == (80, 24)


def test_the_encoding_decides_what_can_be_written() -> None:
    assert is_utf8(io.StringIO())
    assert is_utf8(io.TextIOWrapper(io.BytesIO(), encoding="UTF-8"))
    assert not is_utf8(io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert judge(io.TextIOWrapper(io.BytesIO(), encoding="latin-1"), environ={}).ascii_only


def test_a_closed_stream_is_no_terminal() -> None:
    stream = io.StringIO()
    stream.close()
    assert not is_tty(stream)
    assert judge(stream, environ=XTERM) == judge(io.StringIO(), environ=XTERM)
