"""The front answers as the whole command line does, byte for byte, or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

from toka_cli import front, lifecycle, paths
from toka_cli.state import glance, query, schema, snapshot, summary

LIMIT_S = 60.0
HEAVY = ("typing", "dataclasses", "pathlib", "msgspec", "typer", "rich", "pydantic", "platformdirs", "inspect", "asyncio", "toka_cli.app")

# One of the two, at a time that stands still.
EITHER = """
import sys, time
now = float(sys.argv[2])
time.time = lambda: now
words = sys.argv[3:]
if sys.argv[1] == "whole":
    from toka_cli.app import main
    sys.exit(main(words))
from toka_cli.front import answer
code = answer(words)
loaded = [name for name in sys.argv[1].split(",") if name in sys.modules]
sys.exit("not answered" if code is None else f"loaded {loaded}" if loaded else code)
"""


def told(env: dict[str, str], cwd: Path, who: str, words: str, columns: int | None = None) -> tuple[int, bytes, bytes]:
    """Exit code, standard output (a pipe, or a terminal of so many columns) and standard error."""
    argv = [sys.executable, "-c", EITHER, ",".join(HEAVY) if who == "front" else who, str(1_900_000_000.25), *words.split()]
    if columns is None:
        done = subprocess.run(argv, env=env, cwd=cwd, capture_output=True, timeout=LIMIT_S)
        return done.returncode, done.stdout, done.stderr
    master, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    process = subprocess.Popen(argv, env=env, cwd=cwd, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    shown = bytearray()
    try:
        while data := os.read(master, 1 << 16):
            shown += data
    except OSError:
        pass  # the other end is closed
    finally:
        os.close(master)
    _, errors = process.communicate(timeout=LIMIT_S)
    return process.returncode, bytes(shown), errors


@pytest.fixture
def same(toka: Any) -> Any:
    """Asserts that both answer the same, and returns what was answered."""

    def check(words: str, columns: int | None = None, **env: str | None) -> tuple[int, bytes, bytes]:
        environment = toka.environment(env)
        mine = told(environment, toka.work, "front", words, columns)
        assert mine == told(environment, toka.work, "whole", words, columns), (words, columns, env)
        return mine

    return check


@pytest.fixture
def runs(toka: Any) -> Iterator[dict[str, str]]:
    """The ids of a run that is live (its owner stands still meanwhile), one that succeeded, one that failed, and one whose owner was killed."""
    ids = {"succeeded": toka.run(toka.spec("good", [{"id": "a", "run": "echo hi"}, {"id": "b", "run": "true"}]))["id"]}
    ids["failed"] = toka.run(toka.spec("bad", [{"id": "a", "description": "break it", "run": "echo no >&2; exit 3"}]), code=1)["id"]
    meetings = {name: toka.meeting(name) for name in ("lost", "live")}
    running = {}
    for name in meetings:
        tasks = [{"id": "a", "run": "true"}, {"id": "b", "run": f"read line < {toka.work / name}"}, {"id": "c", "run": "true"}]
        running[name] = toka.start("orchestrate", toka.spec(name, tasks), "-o", "jsonl")
        ids[name] = running[name].event("task.started", task="b")["run"]
    running["lost"].process.kill()
    running["lost"].wait()
    running["live"].signal(signal.SIGSTOP)
    yield ids
    running["live"].signal(signal.SIGCONT)
    meetings["live"].give()
    running["live"].wait().expect(0)


ENVIRONMENTS: tuple[dict[str, str], ...] = (
    {},
    {"NO_COLOR": "1"},
    {"FORCE_COLOR": "1"},
    {"LANG": "C", "LC_ALL": "C"},
    {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"TERM": "dumb", "COLUMNS": "50"},
)


# --- lists ---------------------------------------------------------------------------------------------------------------------------


def test_lists_of_nothing(same: Any, toka: Any) -> None:
    for words in ("agent list", "agent list -a", "run list", "run list --live", "agent list -o json", "run list -o jsonl"):
        code, out, err = same(words)
        assert (code, bool(out), err) == (0, True, b"")
    toka.state.mkdir()
    assert same("run list")[1] == b"no runs\n"
    (toka.state / "runs").mkdir()
    assert same("agent list", 80)[1] == b"no live agents\r\n"


def test_lists_for_programs(same: Any, runs: dict[str, str]) -> None:
    for words in ("agent list -o json", "agent list --output=jsonl", "agent list -a -ojson", "--color always agent list --all -o jsonl"):
        data = json.loads(same(words)[1])["data"]["agents"]
        assert len(data) == (4 if "-a" in words else 1)
    listed = json.loads(same("run list -o json")[1])["data"]["runs"]
    assert {run["id"]: run["state"] for run in listed} == {
        runs["live"]: "running", runs["lost"]: "interrupted", runs["succeeded"]: "succeeded", runs["failed"]: "failed",
    }  # fmt: skip
    assert [run["id"] for run in json.loads(same("-q run list --live -ojsonl")[1])["data"]["runs"]] == [runs["live"]]


def test_lists_for_people(same: Any, toka: Any, runs: dict[str, str]) -> None:
    toka.run(toka.spec("wide", [{"id": "a", "description": "日本語 – naïve ☃", "run": "exit 1"}]), code=1)
    for env in ENVIRONMENTS:
        for words in ("agent list -a", "run list"):
            assert same(words, None, **env)[1].count(b"\n") == 6
            same(words, 80, **env)
    for columns in (20, 200):
        for words in ("agent list -a", "run list", "agent list", "run list --live"):
            same(words, columns)
    assert b"\x1b[" in same("--color=always agent list")[1]
    assert b"\x1b[" not in same("--color never run list", 80)[1]
    assert runs["lost"].encode() in same(f"--state-dir {toka.state} run list", TOKA_STATE_DIR="/nowhere")[1]
    assert runs["live"].encode() in same(f"--state-dir={os.path.relpath(toka.state, toka.work)} -q agent list", TOKA_STATE_DIR=None)[1]


def test_what_has_to_be_escaped_is_left_to_the_whole(toka: Any) -> None:
    toka.run(toka.spec("wide", [{"id": "a", "description": "naïve", "run": "true"}]))
    assert told(toka.env, toka.work, "front", "agent list -a -o json")[2] == b"not answered\n"
    assert json.loads(toka("agent", "list", "-a", "-o", "json").expect(0).out)["data"]["agents"][0]["tasks"][0]["description"] == "naïve"


def test_a_damaged_run_is_left_to_the_whole(toka: Any) -> None:
    good = toka.run(toka.spec("good", [{"id": "a", "run": "true"}]))["id"]
    other = toka.run(toka.spec("other", [{"id": "a", "run": "true"}]))["id"]
    database = toka.folder(other).database
    database.write_bytes(database.read_bytes()[:1000].replace(b"SQLite", b"sqlite"))
    assert told(toka.env, toka.work, "front", "run list")[2] == b"not answered\n"
    done = toka("run", "list").expect(0)
    assert good in done.out
    assert other in done.err


def change(folder: paths.RunFolder, table: str, old: str, new: str) -> None:
    """Change the stored view as a foreign program could."""
    connection = sqlite3.connect(folder.database)
    connection.create_function("toka_epoch", 0, lambda: 1)
    connection.execute("PRAGMA trusted_schema=ON")
    ((before,),) = connection.execute(f"SELECT view FROM {table} LIMIT 1").fetchall()
    assert old in before
    connection.execute(f"UPDATE {table} SET view = ?", (before.replace(old, new, 1),))
    connection.commit()
    connection.close()


FOREIGN = (
    ("agents", '"state":"succeeded"', '"state":"sleeping"'),
    ("agents", '"progress":1.0', '"progress":1'),
    ("agents", '"detail":null,', ""),
    ("agents", '"detail":null', '"detail":7'),
    ("agents", '"metrics":{}', '"metrics":{"x":3}'),
    ("agents", '"after":[]', '"after":{}'),
    ("agents", '"id":', '"id": '),
    ("agents", '"hint":null', '"hint":null,"more":1'),
    ("tasks", '"attempts":1', '"attempts":1.5'),
    ("tasks", '"value":null', '"value":1e+2'),
    ("run", "Z", "+00:00"),
    ("run", '"warnings":[', '"warnings":[1,'),
    ("run", '"exit_code":0', '"exit_code":true'),
    ("run", '"created_at":"20', '"created_at":"2x'),
)


def test_a_view_written_in_another_way_is_left_to_the_whole(toka: Any, tmp_path: Path) -> None:
    run = toka.run(toka.spec("good", [{"id": "a", "run": "true"}]))["id"]
    assert len(glance.agents(str(toka.state), everything=True, now=0.0)) == 1
    for number, (table, old, new) in enumerate(FOREIGN):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(toka.state, copy)
        change(query.find_run(copy, run), table, old, new)
        try:
            found = glance.agents(str(copy), everything=True, now=0.0)
        except (glance.Unclear, ValueError):
            continue
        raise AssertionError((table, old, new, found))


def test_a_newer_state_file_is_left_to_the_whole(toka: Any) -> None:
    run = toka.run(toka.spec("good", [{"id": "a", "run": "true"}]))["id"]
    connection = sqlite3.connect(toka.folder(run).database)
    connection.execute(f"PRAGMA user_version={schema.VERSION + 1}")
    connection.close()
    with pytest.raises(glance.Unclear):
        glance.agents(str(toka.state), everything=True, now=0.0)


def test_a_state_folder_with_an_odd_name(tmp_path: Path, toka: Any) -> None:
    toka.run(toka.spec("good", [{"id": "a", "run": "true"}]))
    odd = tmp_path / "a b%20?#é"
    shutil.copytree(toka.state, odd)
    assert [agent.name for agent in glance.agents(str(odd), everything=True, now=0.0)] == ["good"]


def test_a_closed_pipe_and_a_full_disk_end_as_everywhere(toka: Any, runs: dict[str, str]) -> None:
    for words in ("agent list", "run list -o json", "--help", "--version"):
        done = toka.shell(f"(trap '' PIPE; $TOKA {words}; echo $? >&2) | true")
        assert done.err == "0\n", words
    done = toka.shell("$TOKA agent list > /dev/full")
    assert (done.code, "cannot write to standard output" in done.err) == (6, True)
    assert toka.shell("$TOKA agent list >&-").code == 0


# --- one definition for both ---------------------------------------------------------------------------------------------------------


def kind_of(hint: Any) -> Any:
    """The kind that `glance` should have for a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return ()
    if origin is list:
        return [kind_of(arguments[0])]
    if origin is dict:
        return (dict,) if arguments[1] is Any else {"": kind_of(arguments[1])}
    if isinstance(hint, type) and issubclass(hint, lifecycle.StrEnum):
        return {state.value for state in hint}
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        if hint.__struct_config__.array_like:
            return (list,)
        hints = get_type_hints(hint)
        return {name: kind_of(hints[name]) for name in hint.__struct_fields__}
    if arguments and "datetime" in str(hint):
        return (None,)
    return tuple(arguments) if arguments else (hint,)


def in_order(kind: Any) -> Any:
    """Dicts as lists of pairs: the order of fields counts."""
    if isinstance(kind, dict):
        return [(name, in_order(inner)) for name, inner in kind.items()]
    return [in_order(inner) for inner in kind] if isinstance(kind, list) else kind


@pytest.mark.parametrize(
    ("fields", "struct"),
    [(glance.RUN, snapshot.RunView), (glance.LINE, snapshot.RunSummary), (glance.AGENT, snapshot.AgentView), (glance.TASK, snapshot.TaskView)],
)
def test_the_fields_are_those_of_the_views(fields: Any, struct: type) -> None:
    assert in_order(fields) == in_order(kind_of(struct))


def test_the_summary_has_these_fields() -> None:
    assert list(glance.SUMMARY) == list(summary.Summary.__struct_fields__)
    assert list(glance.TOTALS) == list(summary.Totals.__struct_fields__)


def test_the_states_and_numbers_are_those_of_their_rooms() -> None:
    assert (glance.RUN_FINAL, glance.AGENT_FINAL, glance.TASK_FINAL) == (lifecycle.RUN_FINAL, lifecycle.AGENT_FINAL, lifecycle.TASK_FINAL)
    assert (glance.APPLICATION_ID, glance.VERSION, glance.PATIENCE_S) == (schema.APPLICATION_ID, schema.VERSION, schema.READER_PATIENCE_S)
    assert query.OWNER_GONE == glance.OWNER_GONE


@pytest.mark.parametrize("known", [None, "", "/x/state", "relative"])
@pytest.mark.parametrize("chosen", ["", "/a/b", "a/b"])
def test_the_state_folder_is_that_of_paths(known: str | None, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    if known is None:
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_STATE_HOME", known)
    assert front._state_dir(chosen) == str(paths.state_dir(chosen or None, {}))


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_home_paths_is_asked(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    assert front._state_dir("") is None


# --- version and help ----------------------------------------------------------------------------------------------------------------


def test_the_help_file_is_what_the_commands_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in front._COMPLETION:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", str(front.HELP_WIDTH))
    made = "".join(front.texts())
    assert made == Path(front.HELP_FILE).read_text("utf-8"), "write it anew: python -m toka_cli.front"
    assert made.isascii()


def test_every_help_is_the_same(same: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from toka_cli.app import main

    monkeypatch.setenv("COLUMNS", str(front.HELP_WIDTH))
    commands = [line.removeprefix(front.HEADING).split() for line in Path(front.HELP_FILE).read_text("utf-8").split("\n") if front.HEADING in line]
    assert [] in commands
    assert ["agent", "list"] in commands
    for command in commands:
        for option in ("-h", "--help"):
            assert front.answer([*command, option]) == 0
            mine = capfd.readouterr()
            assert main([*command, option]) == 0
            assert mine == capfd.readouterr(), command
    for words in ("--help", "agent list -h", "--version"):
        for columns in (None, 80, 200):
            assert same(words, columns)[0] == 0
        same(words, None, LANG="C", LC_ALL="C", FORCE_COLOR="1", COLUMNS="100")


def test_a_narrow_terminal_is_left_to_the_whole(toka: Any) -> None:
    assert told(toka.env, toka.work, "front", "--help", 79)[2] == b"not answered\n"
    assert told({**toka.env, "COLUMNS": "60"}, toka.work, "front", "agent -h")[2] == b"not answered\n"


@pytest.mark.parametrize(
    "words",
    [
        "", "agent", "agent list extra", "agent list --run x", "agent list -o yaml", "agent list -o", "agent list -o json -o text", "agent list -a --live",
        "run list -a", "run list --live --live", "--color sometimes run list", "--color", "--state-dir", "--state-dir= run list", "--state-dir ~ run list",
        "--config x run list", "-v run list", "run list -q", "run list --state-dir /", "agent lists", "list", "agent run list", "agent list run list",
        "--version --help", "nothing --help", "agent nothing -h", "-q agent --help", "agent list -a -h", "orchestrate", "agent -- list", "-o json agent list",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_left_to_the_whole(words: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert front.answer(words.split()) is None
    assert capfd.readouterr() == ("", "")


def test_completion_is_left_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TOKA_COMPLETE", "complete_bash")
    assert front.answer(["--version"]) is None


def test_the_program_asks_the_front_first(toka: Any) -> None:
    assert toka("--version").expect(0).out.startswith("toka ")
    assert toka("agent", "list").expect(0).out == "no live agents\n"
    assert toka("agent", "list", "--nothing").expect(2).err
