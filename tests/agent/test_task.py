"""One attempt of each kind: commands, code, tools, and the check behind them."""

from __future__ import annotations

import shutil

import pytest

from toka_cli.agent.task import tool_verdict
from toka_cli.protocol import messages


@pytest.fixture
def attempt(go, cell, make_task):
    """The end of one attempt, as the cell reports it to the kernel."""

    def run(kernel, **task):
        go(cell(make_task("t", **task)).run())
        (finish,) = kernel.said(messages.FinishAttempt)
        return finish

    return run


def test_text_goes_to_the_shell_and_words_do_not(go, cell, kernel, make_task):
    go(cell(make_task("a", run="echo $((1 + 1))"), make_task("b", run=("echo", "$((1 + 1))"))).run())
    assert [finish.outcome.output for finish in kernel.said(messages.FinishAttempt)] == ["2\n", "$((1 + 1))\n"]


def test_a_deadline_names_the_task_and_the_limit(attempt, kernel):
    finish = attempt(kernel, run="sleep 60", timeout_s=0.05)
    assert finish.reason == "limit.task_timeout: Task execution timeout: t exceeded 50ms"


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("python", "import sys\nprint('hi', sys.argv[1:])\nsys.exit(4)"),
        ("shell", "echo hi\nexit 4"),
        ("javascript", "console.log('hi'); process.exit(4)"),
    ],
)
def test_code_runs_in_its_language(attempt, kernel, language, source):
    if language == "javascript" and shutil.which("node") is None:
        pytest.skip("node is not installed")
    finish = attempt(kernel, kind="code", run=None, language=language, source=source)
    assert finish.outcome.exit_code == 4
    assert finish.outcome.output.startswith("hi")
    assert not finish.ok


def test_source_with_any_letters_and_quotes_arrives_as_it_is(attempt, kernel):
    text = "ä€😀 '\" \\ $HOME `x`"
    finish = attempt(kernel, kind="code", run=None, language="python", source=f"import sys\nsys.stdout.buffer.write({text!r}.encode())")
    assert finish.outcome.output == text


def test_a_check_behind_a_task_decides(go, cell, kernel, make_task):
    check = messages.Check("test -f made")
    go(cell(make_task("good", run="touch made", verify=check), make_task("bad", run="rm made", verify=check)).run())
    good, bad = kernel.said(messages.FinishAttempt)
    assert (good.ok, good.outcome.evidence["verify"], good.outcome.evidence["exit_code"]) == (True, "test -f made", 0)
    assert (bad.ok, bad.reason) == (False, "verify: exit 1")


def test_a_task_that_failed_is_not_checked(attempt, kernel, tmp_path):
    finish = attempt(kernel, run=("false",), verify=messages.Check("touch checked"))
    assert finish.reason == "exit 1"
    assert not (tmp_path / "checked").exists()


def test_a_value_is_what_was_printed_as_json_where_a_schema_asks_for_it(go, cell, kernel, make_task):
    go(
        cell(
            make_task("json", run="echo '{\"a\": [1]}'", output_schema={}),
            make_task("text", run="echo no", output_schema={}),
            make_task("plain", run="echo 1"),
        ).run()
    )
    assert [finish.outcome.value for finish in kernel.said(messages.FinishAttempt)] == [{"a": [1]}, None, None]


# --- tools ---------------------------------------------------------------------------------------------------------------------------


def test_a_tool_is_asked_for_run_here_and_reported(attempt, kernel, tmp_path):
    (tmp_path / "file.txt").write_text("inside\n")
    finish = attempt(kernel, kind="tool", run=None, tool="read_file", args={"path": "file.txt"})
    assert finish.ok
    assert "inside" in finish.outcome.output
    (call,), (done,) = kernel.said(messages.CallTool), kernel.said(messages.FinishTool)
    assert (call.tool, call.args, done.call_id, done.ok) == ("read_file", {"path": "file.txt"}, call.call_id, True)


def test_a_refused_tool_does_nothing(attempt, kernel, tmp_path):
    kernel.answers = lambda method, params: messages.ToolReply(go=False, reason="capability_denied: no") if method == "tool.call" else None
    finish = attempt(kernel, kind="tool", run=None, tool="write_file", args={"path": "x", "content": "y"})
    assert (finish.ok, finish.reason) == (False, "capability_denied: no")
    assert not (tmp_path / "x").exists()
    assert kernel.said(messages.FinishTool) == []


def test_a_tool_that_fails_says_why_in_both_places(attempt, kernel):
    finish = attempt(kernel, kind="tool", run=None, tool="read_file", args={"path": "gone.txt"})
    assert not finish.ok
    assert finish.reason.startswith("tool: ")
    assert not kernel.said(messages.FinishTool)[0].ok


def test_an_answer_of_the_kernel_itself_is_the_result(attempt, kernel):
    kernel.answers = lambda method, params: messages.ToolReply(go=True, result={"n": 1}) if method == "tool.call" else None
    finish = attempt(kernel, kind="tool", run=None, tool="read_file", args={"path": "gone.txt"})
    assert (finish.ok, finish.outcome.value) == (True, {"n": 1})


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ("text", (True, None)),
        ({"exit_code": 0}, (True, None)),
        ({"exit_code": 2}, (False, "exit 2")),
        ({"exit_code": None, "signal": 9}, (False, "signal 9")),
        ({"exit_code": None, "reason": "limit.task_timeout: x"}, (False, "limit.task_timeout: x")),
        ({"other": 1}, (True, None)),
    ],
)
def test_a_tool_that_ran_a_command_is_judged_by_it(value, verdict):
    assert tool_verdict(value) == verdict
