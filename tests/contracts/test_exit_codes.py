"""The table of exit codes, one real way into each that this version has."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toka_cli import errors

TABLE = {
    "EXIT_OK": 0, "EXIT_RUN_FAILED": 1, "EXIT_USAGE": 2, "EXIT_INVALID": 3, "EXIT_NOT_FOUND": 4, "EXIT_REFUSED": 5, "EXIT_UNAVAILABLE": 6, "EXIT_BUDGET": 7,
    "EXIT_REPLAY": 8, "EXIT_DECISION": 9, "EXIT_BUG": 70, "EXIT_TIMED_OUT": 124, "EXIT_SIGINT": 130, "EXIT_SIGTERM": 143,
}  # fmt: skip


def test_the_table_is_what_scripts_know() -> None:
    assert {name: getattr(errors, name) for name in TABLE} == TABLE
    assert {name for name in vars(errors) if name.startswith("EXIT_")} == set(TABLE)


def run(text: str, **more: Any) -> list[dict[str, Any]]:
    return [{"id": "t", "description": "T", "run": text, **more}]


WAYS: list[tuple[str, int, Any]] = [
    ("everything happened", 0, lambda toka: ("orchestrate", toka.spec("a", run("true")))),
    ("a plan only", 0, lambda toka: ("orchestrate", toka.spec("a", run("false")), "--plan")),
    ("a task failed", 1, lambda toka: ("orchestrate", toka.spec("a", run("false")))),
    ("a gate failed", 1, lambda toka: ("orchestrate", toka.spec("a", run("true"), objectives=[{"description": "G", "validation": {"run": ["false"]}}]))),
    ("no such command", 2, lambda toka: ("orchestrat",)),
    ("no such option", 2, lambda toka: ("run", "list", "--colour")),
    ("a missing argument", 2, lambda toka: ("agent", "show")),
    ("an invalid spec", 3, lambda toka: ("orchestrate", toka.spec("a", []))),
    ("an invalid setting", 3, lambda toka: ("--config", config(toka), "runtime", "config")),
    ("no such file", 4, lambda toka: ("orchestrate", toka.root / "none.yaml")),
    ("no such run", 4, lambda toka: ("run", "show", "none")),
    ("no such agent of --only", 4, lambda toka: ("orchestrate", toka.spec("a", run("true")), "--only", "b")),
    ("a sandbox that cannot be given", 5, lambda toka: (*no_namespaces(toka), "orchestrate", toka.spec("a", run("true")), "--require-sandbox", "full")),
    ("a workspace that cannot be given", 5, lambda toka: ("orchestrate", toka.spec("a", run("true"), workspace={"mode": "copy"}))),
    ("no model", 6, lambda toka: ("orchestrate", toka.spec("a", [{"description": "Think"}]))),
    ("no state folder", 6, lambda toka: ("--state-dir", "/proc/none", "orchestrate", toka.spec("a", run("true")))),
    ("the run's time limit", 124, lambda toka: ("orchestrate", toka.spec("a", run("sleep 1000")), "--timeout", "200ms")),
    ("the code's own status", 42, lambda toka: ("runtime", "exec", "--shell", "exit 42")),
]


def no_namespaces(toka: Any) -> tuple[Any, ...]:
    """Settings under which the level full cannot be had, whatever the machine."""
    path = toka.root / "standard.toml"
    path.write_text('[process]\nwalls = "standard"\n')
    return ("--config", path)


def config(toka: Any) -> Path:
    path = toka.root / "bad.toml"
    path.write_text("[process]\nspawn_timeout = 'soon'\n")
    assert isinstance(path, Path)
    return path


@pytest.mark.parametrize("way", WAYS, ids=[way[0] for way in WAYS])
def test_ways(toka: Any, way: tuple[str, int, Any]) -> None:
    _, code, words = way
    done = toka(*words(toka)).expect(code)
    if code in {2, 3, 4, 5, 6}:
        assert "error: " in done.err
        assert done.out == ""
    told = toka(*words(toka), "-o", "json") if code != 2 else None
    if told is not None:
        assert told.expect(code).envelope["exit_code"] == code


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(toka: Any, signum: int, code: int) -> None:
    running = toka.start("orchestrate", toka.spec("a", run("exec sleep 1000")), "-o", "jsonl")
    running.event("task.started")
    running.signal(signum)
    done = running.wait().expect(code)
    assert done.lines[-1]["exit_code"] == code


def test_a_bug_is_70_and_writes_a_report(toka: Any) -> None:
    """Something breaks that cannot break: here, by a planted error in a module that every command loads."""
    program = "import toka_cli.app as app, toka_cli.commands.listing as it; it.print_runs = lambda *a, **k: 1 / 0; raise SystemExit(app.main(['run', 'list']))"
    done = subprocess.run([sys.executable, "-c", program], env=toka.environment(), cwd=toka.work, capture_output=True, text=True, timeout=60)
    assert done.returncode == 70
    assert "Traceback" not in done.stderr
    (report,) = (toka.root / "tmp").glob("toka-bug-*.txt")
    assert str(report) in done.stderr
    assert "ZeroDivisionError" in report.read_text()
    assert json.dumps(done.stdout) == '""'
