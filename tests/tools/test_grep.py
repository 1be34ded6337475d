from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toka_cli.tools import grep, walk
from toka_cli.tools.tool import ToolFailed

Call = Callable[..., Any]


def hits(answer: Any) -> list[tuple[str, int, str]]:
    return [(one["path"], one["line"], one["text"]) for one in answer["matches"]]


def test_lines_are_found_in_order(call: Call, workdir: Path) -> None:
    (workdir / "b").mkdir()
    (workdir / "b" / "x.py").write_text("import os\nimport sys\n")
    (workdir / "a.txt").write_bytes(b"no\r\nimport nothing\r\nIMPORT")
    assert hits(call("grep", pattern=r"^import \w+$")) == [
        ("a.txt", 2, "import nothing"),
        ("b/x.py", 1, "import os"),
        ("b/x.py", 2, "import sys"),
    ]
    assert hits(call("grep", pattern="import", include="*.py", limit=5)) == [("b/x.py", 1, "import os"), ("b/x.py", 2, "import sys")]
    assert hits(call("grep", pattern="import", path="a.txt", ignore_case=True)) == [("a.txt", 2, "import nothing"), ("a.txt", 3, "IMPORT")]
    assert hits(call("grep", pattern="sys", path="b")) == [("b/x.py", 2, "import sys")]
    nothing = call("grep", pattern="nowhere")
    assert nothing == {"matches": [], "files": 2, "binary_files": 0, "cut": False, "note": None}


def test_binary_files_git_and_links_are_left_out(call: Call, workdir: Path, secret: Path) -> None:
    (workdir / "bin").write_bytes(b"key\0key\n")
    (workdir / ".git").mkdir()
    (workdir / ".git" / "config").write_text("key\n")
    (workdir / "out").symlink_to(secret)
    (workdir / "outfile").symlink_to(secret / "key.txt")
    (workdir / "latin").write_bytes(b"caf\xe9 key\n")
    answer = call("grep", pattern="key")
    assert hits(answer) == [("latin", 1, "caf\ufffd key")]
    assert (answer["files"], answer["binary_files"], answer["cut"]) == (1, 1, False)
    assert hits(call("grep", pattern="key", path=".git")) == [(".git/config", 1, "key")]


@pytest.mark.parametrize("pattern", ["(", "[", "*a", "a{99999999999}", "(?P<n>a)(?P<n>b)", "(?<=a*)b", "\\"])
def test_what_is_no_expression_is_refused(call: Call, workdir: Path, pattern: str) -> None:
    (workdir / "a").write_text("a\n")
    with pytest.raises(ToolFailed, match="regular expression"):
        call("grep", pattern=pattern)


def test_an_expression_nested_too_deep_is_refused(call: Call, workdir: Path) -> None:
    assert call("grep", pattern="(" * 20 + "a" + ")" * 20)["matches"] == []
    with pytest.raises(ToolFailed, match="regular expression"):
        call("grep", pattern="(" * 499 + "a" + ")" * 499)


def test_a_spelling_that_python_warns_of_is_taken(call: Call, workdir: Path) -> None:
    (workdir / "a").write_text("[a\n")
    assert hits(call("grep", pattern="[[]a")) == [("a", 1, "[a")]


def test_an_expression_that_explodes_ends_and_says_so(call: Call, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workdir / "a").write_text("aaaa fine b\n" + "a" * 60 + "!\n")
    monkeypatch.setattr("toka_cli.tools.grep.Hunt", lambda output: walk.Hunt(output, cpu_left_s=0.05))
    answer = call("grep", pattern=r"(a|a)+(b|$)|fine")
    assert answer["cut"] is True
    assert answer["note"].startswith("stopped in a: the pattern took more than")
    assert hits(answer) == [("a", 1, "aaaa fine b")]


def test_many_lines_are_cut_and_say_so(call: Call, workdir: Path) -> None:
    (workdir / "a").write_text("x\n" * 500)
    answer = call("grep", pattern="x")
    assert (len(answer["matches"]), answer["cut"]) == (200, True)
    assert answer["note"] == "more than 200 lines match; narrow the pattern or the path"
    assert call("grep", pattern="x", limit=500)["cut"] is False
    assert call("grep", pattern="x", limit_bytes=420)["cut"] is True
    assert len(call("grep", pattern="x", limit_bytes=420)["matches"]) == 10


def test_long_lines_are_shown_from_near_the_match_on(call: Call, workdir: Path) -> None:
    (workdir / "min.js").write_text("a" * 5000 + "needle" + "b" * 5000 + "\nneedle" + "c" * 1000)
    first, second = (one["text"] for one in call("grep", pattern="needle")["matches"])
    assert first.startswith("…" + "a" * 40 + "needle")
    assert first.endswith("b…")
    assert len(first) == grep.MAX_LINE_SHOWN + 2
    assert second == "needle" + "c" * (grep.MAX_LINE_SHOWN - 6) + "…"


def test_line_numbers_hold_over_blocks(call: Call, workdir: Path) -> None:
    lines = [f"line {number} " + "x" * 60 for number in range(1, 60_001)]
    (workdir / "large").write_text("\n".join(lines))
    answer = call("grep", pattern=r"^line (\d*0000) ")
    assert [one["line"] for one in answer["matches"]] == [10000, 20000, 30000, 40000, 50000, 60000]
    (workdir / "large").write_text("y" * (3 * grep.BLOCK) + "\nneedle\n")
    assert [one["line"] for one in call("grep", pattern="needle")["matches"]] == [2]


def test_too_much_to_read_is_cut(call: Call, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workdir / "a").write_text("x\n")
    (workdir / "b").write_text("x\n" * 1000)
    monkeypatch.setattr("toka_cli.tools.grep.Hunt", lambda output: walk.Hunt(output, bytes_left=100))
    answer = call("grep", pattern="x")
    assert hits(answer) == [("a", 1, "x")]
    assert "bytes to search" in answer["note"]


def test_a_missing_path_is_said(call: Call, workdir: Path) -> None:
    with pytest.raises(ToolFailed, match="there is no nowhere"):
        call("grep", pattern="x", path="nowhere")
