"""Permissions and walls as text."""

from __future__ import annotations

import unicodedata

import pytest

from toka_cli.view.permissions import permission_lines, wall_lines

PERMISSION = {
    "grant": "file_system_write", "power": "filesystem-write", "where": "agents/build.yaml:12:7", "values": ["src/**"], "tools": ["read_file", "write_file"],
    "kernel": ["file tools below the workdir, links resolved, only src/**"], "walls": ["read and write /work/src", "never .git"], "held_back": None,
}  # fmt: skip
WALLS = {
    "level": "full", "read": ["/etc/ssl/certs"], "execute": ["/usr"], "write": [], "write_execute": ["/work"], "protect": ["/work/.git"], "network": "proxy",
    "sockets": [],
}  # fmt: skip


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.combining(char) else 1 for char in line)


def test_each_grant_says_where_it_comes_from_and_its_three_forms() -> None:
    assert permission_lines([PERMISSION], 200) == [
        "grant file_system_write = filesystem-write [src/**] (agents/build.yaml:12:7)",
        "  tools: read_file, write_file",
        "  kernel: file tools below the workdir, links resolved, only src/**",
        "  walls: read and write /work/src; never .git",
    ]


def test_who_held_it_back_is_said() -> None:
    lines = permission_lines([PERMISSION | {"held_back": "held back by your settings", "tools": [], "kernel": [], "walls": []}], 200)
    assert lines[1:] == ["  less: held back by your settings"]


def test_walls_path_by_path() -> None:
    lines = wall_lines(WALLS, ["api.github.com:443"], 200)
    assert lines == [
        "level full; network: toka's proxy, to api.github.com:443",
        "  read /etc/ssl/certs",
        "  read and run /usr",
        "  read, write and run /work",
        "  never write /work/.git",
    ]
    assert wall_lines(None, [], 80) == ["no walls: this agent can read and write whatever its user can, and reach the network"]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    wide = PERMISSION | {"grant": "日本語" * 20, "values": ["x" * 200], "where": "é" * 90}
    lines = permission_lines([wide], width, indent=2) + wall_lines(WALLS | {"read": ["/" + "y" * 300]}, ["h" * 90], width)
    assert max(map(columns, lines)) <= width
    assert "".join("".join(lines).split()).count("x" * 200) == 1


def test_hostile_text_is_shown_not_obeyed() -> None:
    evil = "\x1b[2J\r\nFORGED\u202e"
    text = "\n".join(permission_lines([PERMISSION | {"grant": evil, "values": [evil], "walls": [evil]}], 80))
    assert not any(char in text for char in "\x1b\r\u202e")
    assert not any(line.startswith("FORGED") for line in text.split("\n"))
