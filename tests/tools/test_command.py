from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from toka_cli.tools.tool import ToolFailed

Call = Callable[..., Any]


def test_commands_and_code_go_through_the_context(call: Call, outside: Any) -> None:
    expected = {"exit_code": 0, "signal": None, "stdout": "out", "stderr": "", "duration_s": 0.5, "truncated": False, "reason": None}
    assert call("run_command", argv=["ls", "-l"], timeout_s=3) == expected
    call("run_command", shell="ls | wc")
    call("run_code", language="python", code="print(1)", timeout_s=0.5)
    assert outside.asked == [(("ls", "-l"), 3.0, None), ("ls | wc", None, None), ("print(1)", 0.5, "python")]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("run_command", {}),
        ("run_command", {"argv": ["ls"], "shell": "ls"}),
        ("run_command", {"argv": []}),
        ("run_command", {"argv": [""]}),
        ("run_command", {"argv": ["a\0b"]}),
        ("run_command", {"shell": " \n"}),
        ("run_command", {"shell": "a\0b"}),
        ("run_command", {"argv": "ls -l"}),
        ("run_command", {"argv": ["ls"], "timeout_s": 0}),
        ("run_command", {"argv": ["ls"], "timeout_s": -1}),
        ("run_command", {"argv": ["ls"], "timeout_s": 1e9}),
        ("run_command", {"argv": ["ls"], "timeout_s": float("nan")}),
        ("run_code", {"language": "perl", "code": "1"}),
        ("run_code", {"language": "python", "code": ""}),
        ("run_code", {"language": "python", "code": "a\0b"}),
    ],
)
def test_what_cannot_be_run_never_reaches_the_context(call: Call, outside: Any, name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolFailed):
        call(name, **arguments)
    assert outside.asked == []


@pytest.mark.parametrize(
    ("out", "err", "cut"), [(500, 500, False), (990, 10, False), (2000, 10, True), (10, 2000, True), (5000, 5000, True)]
)
def test_output_keeps_its_ends_within_the_limit(call: Call, outside: Any, out: int, err: int, cut: bool) -> None:
    outside.result = msgspec.structs.replace(outside.result, stdout="a" * out, stderr="b" * err)
    answer = call("run_command", argv=["x"], limit_bytes=1000)
    assert answer["truncated"] is cut
    assert answer["stdout"].count("a") + answer["stderr"].count("b") <= 1000 + (" bytes left out " in answer["stderr"])
    assert ("bytes left out" in answer["stdout"] + answer["stderr"]) is cut
    if not cut:
        assert (answer["stdout"], answer["stderr"]) == ("a" * out, "b" * err)


def test_output_that_is_no_utf8_can_be_sent(call: Call, outside: Any) -> None:
    outside.result = msgspec.structs.replace(
        outside.result, stdout="a\udcff", exit_code=None, signal=9, truncated=True, reason="limit.timeout"
    )
    answer = call("run_code", language="shell", code="x")
    assert (answer["stdout"], answer["signal"], answer["truncated"], answer["reason"]) == ("a\\xff", 9, True, "limit.timeout")
