from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toka_cli.commands.output import Output
from toka_cli.errors import CapabilityDenied, InvalidSpecs, NotFound, Problem, TokaError, Unavailable
from toka_cli.view.style import Span

FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
NASTY = "\x1b]52;c;QQ==\x07 \x9b2J \u202e [bold]x[/] \r\ud800"


def output(**options: Any) -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Output(stdout=out, stderr=err, environ=options.pop("environ", {}), **options), out, err


def test_text_is_data_on_stdout_and_cleaned() -> None:
    it, out, err = output()
    assert it.emit("x", {"a": 1}, exit_code=7, text=["plain", f"bad {NASTY}", [Span("red", "bad"), Span(" rest")]]) == 7
    lines = out.getvalue().split("\n")
    assert lines[0] == "plain"
    assert not FORBIDDEN.search(out.getvalue())
    assert lines[2] == "red rest"
    assert err.getvalue() == ""


def test_text_is_made_only_when_it_is_wanted() -> None:
    it, out, _ = output(format="json")
    assert it.emit("x", {}, text=lambda: pytest.fail("not wanted")) == 0
    it, out, _ = output()
    it.emit("x", {}, text=lambda: ["made"])
    assert out.getvalue() == "made\n"


def test_an_error_says_what_where_and_what_to_do_next() -> None:
    it, out, err = output()
    error = NotFound(f"no run fits{NASTY}\nknown are: a, b", where="specs/a.yaml:3:7", hint="toka run list\n--all shows all")
    assert it.fail("run show", error) == 4
    assert out.getvalue() == ""
    lines = err.getvalue().split("\n")
    assert lines[0].startswith("error: no run fits␛]52")
    assert lines[1:] == ["  known are: a, b", "  at specs/a.yaml:3:7", "  hint: toka run list", "        --all shows all", ""]
    assert not FORBIDDEN.search(err.getvalue())


def test_all_problems_at_once_in_the_order_of_their_places() -> None:
    it, _, err = output()
    problems = [
        Problem("b.yaml", 2, 3, "second", hint=None),
        Problem("a.yaml", 10, 1, "tenth", hint="write it so"),
        Problem("a.yaml", 9, 1, "ninth", hint=None, severity="warning"),
        Problem("a.yaml", 9, 1, "ninth", hint="same place, another hint"),
        Problem("a.yaml", 0, 0, f"whole {NASTY}"),
    ]
    assert it.fail("spec check", InvalidSpecs(problems)) == 3
    lines = err.getvalue().split("\n")
    assert lines[0].startswith("a.yaml: whole ␛]52")
    assert lines[1:] == [
        "a.yaml:9:1: warning: ninth",
        "a.yaml:9:1: ninth",
        "  hint: same place, another hint",
        "a.yaml:10:1: tenth",
        "  hint: write it so",
        "b.yaml:2:3: second",
        "error: 4 errors and 1 warning found",
        "",
    ]
    it, _, err = output()
    it.fail("spec check", InvalidSpecs([Problem("a.yaml", 1, 1, "x")]))
    assert err.getvalue().endswith("error: 1 error found\n")


def test_errors_for_programs_are_in_the_envelope_and_people_see_them_too() -> None:
    for form in ("json", "jsonl"):
        it, out, err = output(format=form)
        assert it.fail("agent stop", CapabilityDenied("network-access required", hint="add it")) == 5
        read = json.loads(out.getvalue())
        assert read == {
            "schema": 1,
            "command": "agent stop",
            "exit_code": 5,
            "data": None,
            "errors": [{"code": "capability_denied", "message": "network-access required", "hint": "add it", "where": None}],
        }
        assert err.getvalue() == "error: network-access required\n  hint: add it\n"


def test_events_come_first_the_envelope_last() -> None:
    it, out, _ = output(format="jsonl")
    it.event({"seq": 1})
    it.event({"seq": 2})
    it.emit("orchestrate", {"run": None})
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line.get("seq") for line in lines] == [1, 2, None]
    assert lines[-1]["command"] == "orchestrate"


def test_quiet_and_verbose() -> None:
    said = {}
    for name, options in {"quiet": {"quiet": True, "verbosity": 2}, "normal": {}, "v": {"verbosity": 1}, "vv": {"verbosity": 2}}.items():
        it, out, err = output(**options)
        it.note("note")
        it.warn("warn")
        it.hint("hint")
        it.detail("detail")
        it.detail("more", level=2)
        it.emit("x", {}, text=["data"])
        assert out.getvalue() == "data\n"
        said[name] = err.getvalue().split("\n")[:-1]
    normal = ["note", "warning: warn", "hint: hint"]
    assert said == {"quiet": [], "normal": normal, "v": [*normal, "detail"], "vv": [*normal, "detail", "more"]}
    it, _, err = output(quiet=True)
    it.fail("x", TokaError("broken"))
    assert err.getvalue() == "error: broken\n"


def test_colour_is_judged_for_each_stream() -> None:
    it, out, err = output(color="always")
    it.emit("x", {}, text=[[Span("a", "bad")]])
    it.warn("w")
    assert out.getvalue() == "\x1b[31ma\x1b[0m\n"
    assert err.getvalue() == "\x1b[33mwarning: \x1b[0mw\n"


def test_ascii_streams_get_ascii() -> None:
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="ascii"), io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    it = Output(stdout=out, stderr=err, environ={}, format="json")
    it.emit("x", {"name": "日本\x9b\U0001f600"})
    assert json.loads(out.buffer.getvalue().decode("ascii"))["data"] == {"name": "日本\x9b\U0001f600"}  # type: ignore[attr-defined]
    it.fail("x", TokaError("日 \x1b"))
    assert err.buffer.getvalue() == b"error: \\u65e5 ^[\n"  # type: ignore[attr-defined]
    text = Output(stdout=out, stderr=err, environ={})
    text.emit("x", {}, text=["é", [Span("…")]])
    assert out.buffer.getvalue().endswith(b"\\xe9\n\\u2026\n")  # type: ignore[attr-defined]


class Inner(msgspec.Struct):
    value: float
    text: str


@given(st.text(st.characters(codec=None)), st.floats())
def test_the_envelope_is_json_for_any_data(text: str, number: float) -> None:
    it, out, _ = output(format="json")
    it.emit(text, {"inner": Inner(number, text), text: [text]})
    assert not FORBIDDEN.search(out.getvalue()[:-1])
    read = json.loads(out.getvalue())
    assert set(read) == {"schema", "command", "exit_code", "data", "errors"}


def test_a_terminal_gets_json_that_people_can_read() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    Output(stdout=out, stderr=io.StringIO(), format="json", environ={}).emit("x", {"a": 1})
    assert '\n  "command": "x",\n' in out.getvalue()
    assert json.loads(out.getvalue())["data"] == {"a": 1}


def test_a_full_disk_is_an_error_not_a_traceback() -> None:
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("this system has no /dev/full")
    err = io.StringIO()
    stream = full.open("w")
    it = Output(stdout=stream, stderr=err, format="json", environ={})
    with pytest.raises(Unavailable, match="No space left") as raised:
        it.emit("x", {})
    assert it.fail("x", raised.value) == 6
    assert err.getvalue().startswith("error: cannot write to standard output: No space left")
    with contextlib.suppress(OSError):
        stream.close()


def test_a_broken_pipe_of_something_else_is_not_swallowed() -> None:
    it, _, _ = output()
    with pytest.raises(BrokenPipeError), it.quiet_pipe():
        raise BrokenPipeError
    assert not it.closed


PROGRAM = """
import sys
from toka_cli.commands.output import Output
out = Output(format="{form}")
with out.quiet_pipe():
    for number in range(200_000):
        {step}
sys.exit(out.emit("x", {{}}, exit_code=3, text=["end"]))
"""


@pytest.mark.parametrize(
    ("form", "step"),
    [
        ("text", 'out.emit("x", {}, text=[f"line {number}"])'),
        ("text", 'out.line("line")'),
        ("text", 'print("line", number)'),
        ("jsonl", 'out.event({"seq": number})'),
    ],
)
def test_a_reader_that_goes_away_ends_it_quietly_with_the_exit_code_of_the_work(form: str, step: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM.format(form=form, step=step)))
    started = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    with started:
        assert started.stdout is not None
        assert started.stderr is not None
        assert started.stdout.readline()
        started.stdout.close()
        said = started.stderr.read()
    assert said == ""
    assert started.returncode == 3


def test_a_stream_that_the_shell_closed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text('from toka_cli.commands.output import Output\nraise SystemExit(Output().emit("x", {}, text=["a"], exit_code=3))\n')
    done = subprocess.run(["/bin/sh", "-c", f'"{sys.executable}" "{program}" >&-'], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_file_names_with_broken_bytes_do_not_break_it(encoding: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text('import os\nfrom toka_cli.commands.output import Output\nOutput().emit("x", {}, text=[os.fsdecode(b"caf\\xe9 \\xff") + " \\u65e5"])\n')
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, program], capture_output=True, env=env, cwd=tmp_path)
    assert done.stderr == b""
    assert done.stdout == (b"caf\\xe9 \\xff \\u65e5\n" if encoding != "utf-8" else "caf\\xe9 \\xff 日\n".encode())


def test_text_and_lists_load_no_rich(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "import toka_cli.commands.output, toka_cli.view.agent, toka_cli.view.run, toka_cli.view.plain, toka_cli.view.choice, toka_cli.view.jsonl\n"
        "sys.exit('rich' in sys.modules or 'typer' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path).returncode == 0
