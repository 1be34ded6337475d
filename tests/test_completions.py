"""The completion files are what toka makes now, and they offer agents and runs of a real state folder without ever saying a word of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "completions"
SHELLS = ("bash", "zsh", "fish")


def complete(toka: Any, *words: str, state: str | Path | None = None) -> list[str]:
    """What is offered for the last of the words; nothing may stand on stderr."""
    line = ("toka", *words)
    env = {"_TOKA_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1)}
    if state is not None:
        env["TOKA_STATE_DIR"] = str(state)
    done = toka(env=env)
    assert (done.code, done.err) == (0, "")
    return [word for word in done.out.splitlines() if word]


@pytest.fixture
def recorded(toka: Any) -> dict[str, str]:
    """A run of two agents in the state folder: its id, and the ids of the agents by name."""
    words = [toka.spec(name, [{"id": "t", "run": ["true"]}]) for name in ("compile-it", "check-it")]
    run = toka.run(*words)
    return {"run": run["id"], **{agent["name"]: agent["id"] for agent in run["agents"]}}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_file_is_what_toka_makes(toka: Any, shell: str) -> None:
    made = toka(env={"_TOKA_COMPLETE": f"source_{shell}"}).expect(0)
    assert made.out.strip()
    assert (FOLDER / f"toka.{shell}").read_text(encoding="utf-8") == made.out, f"_TOKA_COMPLETE=source_{shell} toka > completions/toka.{shell}"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_can_read_its_file(shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([program, "-n", str(FOLDER / f"toka.{shell}")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_commands_and_options_complete(toka: Any) -> None:
    assert {"orchestrate", "agent", "run", "runtime", "spec", "audit"} <= set(complete(toka, ""))
    assert complete(toka, "orch") == ["orchestrate"]
    assert complete(toka, "orchestrate", "--fail") == ["--fail-fast"]


@pytest.mark.parametrize("command", ["show", "logs", "why", "monitor", "stop"])
def test_agents_complete_by_name_and_id(toka: Any, recorded: dict[str, str], command: str) -> None:
    everything = {"compile-it", "check-it", recorded["compile-it"], recorded["check-it"]}
    assert set(complete(toka, "agent", command, "")) == everything
    assert complete(toka, "agent", command, "comp") == ["compile-it"]
    assert complete(toka, "agent", command, recorded["check-it"]) == [recorded["check-it"]]


RUN_COMMANDS = [("run", "show"), ("run", "events"), ("run", "wait"), ("run", "stop"), ("run", "diff"), ("audit", "show"), ("audit", "verify")]


@pytest.mark.parametrize("words", RUN_COMMANDS)
def test_runs_complete_by_id(toka: Any, recorded: dict[str, str], words: tuple[str, str]) -> None:
    assert complete(toka, *words, "") == [recorded["run"]]
    assert complete(toka, *words, recorded["run"][:3]) == [recorded["run"]]
    assert complete(toka, *words, "-nothing-begins-so") == []


def test_the_state_folder_of_the_command_line_counts(toka: Any, recorded: dict[str, str], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    assert complete(toka, "run", "show", "", state=empty) == []
    assert complete(toka, "--state-dir", str(toka.state), "run", "show", "", state=empty) == [recorded["run"]]


def test_without_a_state_folder_nothing_is_offered_and_none_is_made(toka: Any, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert complete(toka, "agent", "show", "", state=missing) == []
    assert complete(toka, "run", "show", "", state=missing) == []
    assert not missing.exists()


def test_a_damaged_run_hides_no_other(toka: Any, recorded: dict[str, str]) -> None:
    healthy = toka.folder(recorded["run"])
    damaged = healthy.root.with_name("a" * len(recorded["run"]))
    damaged.mkdir()
    (damaged / "run.db").write_bytes(b"SQLite format 3\0" + os.urandom(5000))
    (damaged / "summary.json").write_bytes(b"\xff{")
    assert complete(toka, "run", "show", "") == [recorded["run"]]
    assert complete(toka, "agent", "show", "comp") == ["compile-it"]
    healthy.database.write_bytes(b"")
    healthy.summary.write_text("[1]")
    assert complete(toka, "run", "show", "") == []
    assert complete(toka, "agent", "show", "") == []


@pytest.mark.parametrize("kind", ["a file", "a link to itself", "a name with a line break"])
def test_a_state_folder_that_is_none_says_nothing(toka: Any, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "a file":
        place.write_text("x")
    elif kind == "a link to itself":
        place.symlink_to(place)
    else:
        place = tmp_path / "two\nlines"
    assert complete(toka, "agent", "show", "", state=place) == []
    assert complete(toka, "run", "show", "", state=place) == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_itself_offers_them(toka: Any, recorded: dict[str, str], tmp_path: Path) -> None:
    program = tmp_path / "bin" / "toka"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m toka_cli "$@"\n')
    program.chmod(0o755)
    line = """
        . "$0" || exit 9
        COMP_WORDS=(toka agent show c) COMP_CWORD=3
        _toka_completion toka
        printf '%s\\n' "${COMPREPLY[@]}"
        complete -p toka
    """
    env = {**toka.environment(), "PATH": f"{program.parent}:{toka.env['PATH']}"}
    done = subprocess.run(["bash", "--norc", "-c", line, str(FOLDER / "toka.bash")], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    *offered, registered = done.stdout.splitlines()
    names = {name for name in (*recorded, *recorded.values()) if name.startswith("c") and name != "run"} - ({recorded["run"]})
    assert set(offered) == names
    assert registered.endswith("-F _toka_completion toka")
