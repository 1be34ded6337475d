from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toka_cli.tools import walk
from toka_cli.tools.tool import ToolFailed

Call = Callable[..., Any]

TREE = [
    "README.md",
    "src/a.py",
    "src/b.txt",
    "src/deep/c.py",
    "src/deep/er/d.py",
    "src/x[1].py",
    ".github/ci.yml",
    "src/.env",
    ".git/config",
]


@pytest.fixture
def tree(workdir: Path) -> Path:
    for name in TREE:
        path = workdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return workdir


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["README.md", "src/"]),
        ("*.md", ["README.md"]),
        ("src/*.py", ["src/a.py", "src/x[1].py"]),
        ("./src/?.py", ["src/a.py"]),
        ("**/*.py", ["src/a.py", "src/deep/c.py", "src/deep/er/d.py", "src/x[1].py"]),
        ("src/**/*.py", ["src/a.py", "src/deep/c.py", "src/deep/er/d.py", "src/x[1].py"]),
        ("src/**/er/**/*.py", ["src/deep/er/d.py"]),
        ("**/**/**/d.py", ["src/deep/er/d.py"]),
        ("src/deep/**", ["src/deep/c.py", "src/deep/er/", "src/deep/er/d.py"]),
        ("**/er", ["src/deep/er/"]),
        ("src/[ab].*", ["src/a.py", "src/b.txt"]),
        ("src/x[[]1].py", ["src/x[1].py"]),
        ("src/[!a].txt", ["src/b.txt"]),
        (".github/*.yml", [".github/ci.yml"]),
        (".*/*", [".git/config", ".github/ci.yml"]),
        ("src/.*", ["src/.env"]),
        ("**/.env", ["src/.env"]),
        ("nothing/**", []),
        ("README.md/*", []),
    ],
)
def test_patterns_find_what_they_say(call: Call, tree: Path, pattern: str, expected: list[str]) -> None:
    assert call("glob", pattern=pattern) == {"paths": expected, "cut": False, "note": None}


def test_a_search_can_begin_further_down(call: Call, tree: Path) -> None:
    assert call("glob", pattern="*.py", path="src/deep")["paths"] == ["src/deep/c.py"]
    assert call("glob", pattern=f"{tree}/src/*.txt")["paths"] == ["src/b.txt"]


@pytest.mark.parametrize("pattern", ["../*", "src/../../*", "/etc/*", "a\0b", "*.{py,txt}", ".", "/"])
def test_patterns_that_lead_out_or_cannot_be_read_are_refused(call: Call, tree: Path, pattern: str) -> None:
    with pytest.raises(ToolFailed):
        call("glob", pattern=pattern)


def test_links_are_named_but_not_entered(call: Call, tree: Path, secret: Path) -> None:
    (tree / "out").symlink_to(secret)
    (tree / "src" / "loop").symlink_to(tree)
    assert "out" in call("glob", pattern="*")["paths"]
    assert call("glob", pattern="**/key.txt")["paths"] == []
    assert call("glob", pattern="**/loop")["paths"] == ["src/loop"]


def test_many_results_are_cut_and_say_so(call: Call, workdir: Path) -> None:
    for number in range(1100):
        (workdir / f"{number:04d}").touch()
    answer = call("glob", pattern="*")
    assert (len(answer["paths"]), answer["cut"]) == (1000, True)
    assert answer["note"] == "more than 1000 paths fit; narrow the pattern"
    assert call("glob", pattern="*", limit_bytes=100)["paths"] == [f"{number:04d}" for number in range(12)]


def test_a_walk_that_is_too_long_or_too_deep_says_so(call: Call, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.makedirs(workdir / Path(*["d"] * 70))
    (workdir / Path(*["d"] * 70) / "bottom").touch()
    answer = call("glob", pattern="**/bottom")
    assert answer == {"paths": [], "cut": True, "note": "1 files or directories could not be read"}
    for name in "abcdef":
        (workdir / name).touch()
    monkeypatch.setattr("toka_cli.tools.glob.Hunt", lambda output: walk.Hunt(output, visits_left=3))
    answer = call("glob", pattern="*")
    assert answer["cut"] is True
    assert "names to look at" in answer["note"]
