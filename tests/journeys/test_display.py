"""Terminals, pipes and hostile text: nothing is obeyed, nothing breaks, and who stops reading is not shouted at."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

HOSTILE = "\x1b[31mred\x1b]52;c;aGFjaw==\x07 \x9b2J [bold]markup[/bold] \u202egnp.exe \x00nul\r\nsecond\x1b[1A\x08\x7f"
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
PYTHON = f"import sys; sys.stdout.write({HOSTILE!r} * 2 + chr(10)); sys.stderr.write({HOSTILE!r}); sys.stdout.flush(); sys.exit(3)"


def hostile(toka: Any) -> Any:
    """A spec whose every free text is hostile, and whose command writes hostile text."""
    text = HOSTILE.replace("\x00", "")
    return toka.spec(
        "hostile",
        [{"id": "t", "description": text, "code": {"python": PYTHON}}],
        metadata={"name": "hostile", "workstream": text, "version": text, "branch": text},
        spec={"name": text, "domain": text, "description": text},
        objectives=[{"description": text, "validation": text}],
    )


def clean(text: str) -> bool:
    return FORBIDDEN.search(text) is None


def test_hostile_texts_are_shown_and_not_obeyed(toka: Any) -> None:
    spec = hostile(toka)
    done = toka("orchestrate", spec).expect(1)
    assert clean(done.err), ascii(FORBIDDEN.search(done.err))
    assert "[bold]markup[/bold]" in done.err, "markup is text"
    for words in (
        ("run", "show", toka.folders()[0].run_id), ("agent", "show", "hostile"), ("agent", "why", "hostile"), ("agent", "list", "--all"), ("run", "list"),
        ("agent", "logs", "hostile"), ("agent", "logs", "hostile", "-t"), ("agent", "monitor", "hostile"), ("agent", "monitor", "hostile", "--once"),
        ("run", "events", toka.folders()[0].run_id, "-o", "text"), ("audit", "show", toka.folders()[0].run_id), ("orchestrate", spec, "--plan"),
        ("spec", "check", spec),
    ):  # fmt: skip
        shown = toka(*words)
        assert clean(shown.out), (words, ascii(FORBIDDEN.search(shown.out)))
        assert clean(shown.err), (words, ascii(FORBIDDEN.search(shown.err)))


def test_hostile_texts_stay_whole_and_harmless_in_json(toka: Any) -> None:
    spec = hostile(toka)
    done = toka("orchestrate", spec, "-o", "jsonl").expect(1)
    assert not [line for line in done.out.split("\n") if FORBIDDEN.search(line.replace("\u202e", ""))]
    agent = done.lines[-1]["data"]["run"]["agents"][0]
    assert agent["tasks"][0]["stderr"] == HOSTILE.encode().decode()
    assert "\x1b" not in done.err
    shown = toka("agent", "show", "hostile", "-o", "json").expect(0)
    assert "\x1b" not in shown.out
    assert shown.envelope["data"]["agent"]["tasks"][0]["stderr"] == HOSTILE


def test_hostile_texts_on_a_live_table(toka: Any) -> None:
    terminal = toka.terminal("orchestrate", hostile(toka))
    assert terminal.wait() == 1
    shown = terminal.shown.decode()
    assert "\x1b]" not in shown
    assert "\x07" not in shown
    assert "\x9b" not in shown
    assert "\u202e" not in shown
    own = re.findall(r"\x1b\[[0-9;?]*([A-Za-z])", shown)
    assert set(own) <= set("mKAhlHJG"), set(own)
    assert "\x1b[31mred" not in shown


def test_a_live_table_fits_20_columns_and_gives_the_cursor_back(toka: Any) -> None:
    spec = toka.spec("a-rather-long-agent-name", [{"id": "t", "description": "Something long to say " * 5, "run": "true"}])
    terminal = toka.terminal("orchestrate", spec, columns=20)
    assert terminal.wait() == 0
    shown = terminal.shown.decode()
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0
    for words in (("agent", "list", "--all"), ("run", "list"), ("runtime", "tools")):
        narrow = toka.terminal(*words, columns=20)
        assert narrow.wait() == 0
        lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", narrow.shown.decode()).replace("\r", "").split("\n")
        assert all(len(line) <= 20 for line in lines), lines


@pytest.mark.parametrize(
    ("env", "animated", "coloured"),
    [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"CI": "true"}, False, None), ({"TERM": "dumb"}, False, False)],
    ids=["plain", "NO_COLOR", "CI", "dumb"],
)
def test_what_a_terminal_is_given(toka: Any, env: dict[str, str], animated: bool, coloured: bool | None) -> None:
    spec = toka.spec("say", [{"id": "t", "description": "T", "run": "true"}])
    terminal = toka.terminal("orchestrate", spec, env=env)
    assert terminal.wait() == 0
    shown = terminal.shown.decode()
    assert (re.search(r"\x1b\[\d*[AHJ]|\x1b\[\?25l", shown) is not None) == animated
    if coloured is not None:
        assert (re.search(r"\x1b\[[0-9;]*[1-9]m", shown) is not None) == coloured


def test_a_pipe_is_never_animated(toka: Any) -> None:
    spec = toka.spec("say", [{"id": "t", "description": "T", "run": "true"}])
    for env in ({}, {"FORCE_COLOR": "1"}, {"LANG": "C", "LC_ALL": "C"}):
        done = toka("orchestrate", spec, env=env).expect(0)
        assert not re.search(r"\x1b\[[0-9;?]*[A-HJKSTfhl]", done.err + done.out)
        if not env.get("FORCE_COLOR"):
            assert "\x1b" not in done.err + done.out


def test_plain_ascii_where_the_stream_is_not_utf8(toka: Any) -> None:
    spec = toka.spec("say", [{"id": "t", "description": "Ä → ✓ 漢", "run": "echo 'Ä ✓ 漢'; exit 1"}])
    env = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert toka("orchestrate", spec, env=env).expect(1).err.isascii()
    for words in (("agent", "logs", "say"), ("agent", "show", "say"), ("run", "list"), ("agent", "list", "--all")):
        assert toka(*words, env=env).expect(0).out.isascii(), words
    told = toka("agent", "logs", "say", "-o", "json", env=env).expect(0)
    assert told.out.isascii()
    assert told.envelope["data"]["lines"][0]["text"] == "Ä ✓ 漢"
    for line in toka("agent", "logs", "say", "-o", "jsonl", env=env).expect(0).out.splitlines():
        json.loads(line)


COMMANDS = [
    "orchestrate SPEC -o jsonl", "orchestrate SPEC -o json", "agent list --all", "agent list --all -o json", "agent logs many",
    "agent logs many -o jsonl", "agent show many", "agent monitor many --once", "run list", "run events RUN", "run events RUN -o text", "run show RUN",
    "runtime tools", "runtime stats", "runtime config", "runtime exec --shell 'seq 20000'", "audit show RUN", "run diff RUN RUN", "spec schema", "--help",
]  # fmt: skip


def fill(line: str, toka: Any) -> str:
    return line.replace("SPEC", str(toka.root / "specs" / "many.yaml")).replace("RUN", toka.folders()[0].run_id)


@pytest.fixture
def many(toka: Any) -> Any:
    spec = toka.spec("many", [{"id": "t", "description": "T", "run": "seq 1 20000"}])
    toka("orchestrate", spec).expect(0)
    return toka


@pytest.mark.parametrize("line", COMMANDS)
def test_a_closed_pipe_ends_quietly(many: Any, line: str) -> None:
    done = many.shell(f"set -o pipefail; $TOKA {fill(line, many)} 2>err | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}")
    err = (many.work / "err").read_text()
    assert "Traceback" not in err, err
    assert "BrokenPipe" not in err, err
    assert "bug in toka" not in err, err
    assert done.out.strip() in {"0", "1"} if "orchestrate" in line else done.out.strip() == "0", (done.out, err)


@pytest.mark.parametrize("line", COMMANDS)
def test_standard_output_may_be_closed(many: Any, line: str) -> None:
    done = many.shell(f"$TOKA {fill(line, many)} >&-")
    assert "Traceback" not in done.err
    assert "bug in toka" not in done.err, done.err
    assert done.code == 0, done.err


def test_standard_error_may_be_closed_or_unread(toka: Any) -> None:
    spec = toka.spec("many", [{"id": f"s{n}", "description": "Step", "run": "true"} for n in range(20)])
    assert toka.shell(f"$TOKA orchestrate {spec} 2>&-").code == 0
    done = toka.shell(f"$TOKA orchestrate {spec} 2>&1 >/dev/null | head -1; echo ${{PIPESTATUS[0]}}")
    assert done.out.split()[-1] in {"0", "1"}
    toka.nothing_left()


def test_a_full_disk_on_standard_output_is_said(toka: Any) -> None:
    done = toka.shell("$TOKA runtime config > /dev/full")
    assert done.code == 6
    assert "cannot write" in done.err
