"""Signals to a run on its terminal or in a script: once stops cleanly, twice at once; the tree is gone and the run can be resumed either way."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import pytest

from tests.conftest import ended

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


def start(toka: Any, run: str = "sleep 1000 & echo up > ready; wait", **options: Any) -> Any:
    """A run under way; its command has begun."""
    ready = toka.meeting("ready")
    toka.spec("long", [{"id": "t", "description": "Long", "run": run}], restart={"policy": "never"})
    toka.spec("next", [{"id": "t", "description": "Next", "run": "touch next"}], dependencies={"required": {"long": "x"}})
    running = toka.start("orchestrate", toka.root / "specs", "-o", "jsonl", **options)
    running.event("task.started")
    ready.take()
    return running


def check_stopped(toka: Any, code: int, envelope: dict[str, Any]) -> dict[str, Any]:
    toka.nothing_left()
    shown = toka("run", "list", "-o", "json").expect(0).envelope["data"]["runs"][0]
    assert shown["state"] == "interrupted"
    view = envelope["data"]["run"]
    assert envelope["exit_code"] == code
    assert (view["state"], view["exit_code"]) == ("interrupted", code)
    # Nothing is final: whoever resumes the run decides about the task that was cut off.
    assert {agent["state"] for agent in view["agents"]} == {"pending"}
    assert {task["state"] for agent in view["agents"] for task in agent["tasks"]} == {"pending"}
    assert not (toka.work / "next").exists()
    return view


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_one_signal_stops_cleanly(toka: Any, signum: int, code: int) -> None:
    running = start(toka)
    running.signal(signum)
    done = running.wait().expect(code)
    view = check_stopped(toka, code, done.lines[-1])
    assert signal.Signals(signum).name in view["reason"]
    long = next(agent for agent in view["agents"] if agent["name"] == "long")
    assert long["rung"] == "asked"


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_a_second_signal_kills_at_once(toka: Any, signum: int, code: int) -> None:
    """The command ignores SIGTERM, and the grace is longer than the test may take."""
    running = start(toka, "trap '' TERM INT HUP; echo up > ready; while :; do sleep 1000; done", env={"TOKA_PROCESS_SHUTDOWN_GRACE_PERIOD": "10m"})
    running.signal(signum)
    running.event("agent.stopping")
    running.signal(signum)
    done = running.wait().expect(code)
    view = check_stopped(toka, code, done.lines[-1])
    assert next(agent for agent in view["agents"] if agent["name"] == "long")["rung"] in {"asked", "kill"}


def test_a_script_that_ignores_sigint_can_still_stop_its_run(toka: Any) -> None:
    """A shell starts `toka ... &` with SIGINT ignored."""
    running = start(toka, prefix=["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh"])
    running.signal(signal.SIGINT)
    check_stopped(toka, 130, running.wait().expect(130).lines[-1])


def test_a_signal_before_the_first_agent(toka: Any) -> None:
    """From the first event on, a signal ends the run with its own exit code and no traceback."""
    spec = toka.spec("long", [{"id": "t", "description": "Long", "run": "exec sleep 1000"}])
    for signum, code in SIGNALS:
        running = toka.start("orchestrate", spec, "-o", "jsonl")
        assert running.line() is not None
        running.signal(signum)
        done = running.wait()
        assert done.code in {code, -signum}, done
        assert "Traceback" not in done.err
        assert "bug in toka" not in done.err
        toka.nothing_left()


def test_a_hang_up_of_the_terminal_stops_the_run(toka: Any) -> None:
    ready = toka.meeting("ready")
    spec = toka.spec("long", [{"id": "t", "description": "Long", "run": "echo up > ready; exec sleep 1000"}])
    terminal = toka.terminal("orchestrate", spec)
    ready.take()
    terminal.close()
    assert ended(terminal.process.pid, 30)
    assert terminal.process.wait(timeout=10) == 129
    toka.nothing_left()
    runs = toka("run", "list", "-o", "json").expect(0).envelope["data"]["runs"]
    assert [run["state"] for run in runs] == ["interrupted"]


def test_nohup_keeps_a_run_when_its_terminal_hangs_up(toka: Any) -> None:
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    spec = toka.spec("long", [{"id": "t", "description": "Long", "run": "echo up > ready; read x < gate"}])
    running = toka.start("orchestrate", spec, "-o", "json", prefix=["nohup"])
    ready.take()
    running.signal(signal.SIGHUP)
    toka("agent", "pause", "long").expect(0)
    toka("agent", "resume", "long").expect(0)
    gate.give()
    assert running.wait().expect(0).envelope["data"]["run"]["state"] == "succeeded"


def test_control_c_on_a_live_table_gives_the_cursor_back(toka: Any) -> None:
    ready = toka.meeting("ready")
    spec = toka.spec("long", [{"id": "t", "description": "Long", "run": "echo up > ready; exec sleep 1000"}])
    terminal = toka.terminal("orchestrate", spec)
    ready.take()
    terminal.until(b"\x1b[?25l")
    terminal.type(b"\x03")
    assert terminal.wait() == 130
    shown = bytes(terminal.shown)
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")
    assert b"Traceback" not in shown
    toka.nothing_left()


@pytest.mark.parametrize("words", [("agent", "monitor", "long"), ("agent", "logs", "long", "-f"), ("run", "events", "RUN", "-f")])
def test_control_c_ends_a_watcher_and_not_the_run(toka: Any, words: tuple[str, ...]) -> None:
    ready, more = toka.meeting("ready"), toka.meeting("more")
    spec = toka.spec("long", [{"id": "t", "description": "Long", "run": "echo words; echo up > ready; read x < more; echo $x; exec sleep 1000"}])
    run = toka.spawn(spec)["run_id"]
    ready.take()
    terminal = toka.terminal(*[run if word == "RUN" else word for word in words])
    if words[1] == "logs":
        terminal.until(b"words")
        # Only who follows sees this. (While it still imports, Python itself may end with the signal in place of the status: the same to a shell.)
        more.give("later words")
        terminal.until(b"later words")
    else:
        terminal.until(b"long" if words[1] == "monitor" else b"task.started")
    terminal.type(b"\x03")
    assert terminal.wait() == 130, bytes(terminal.shown)
    assert b"Traceback" not in terminal.shown
    assert toka("agent", "list", "-o", "json").expect(0).envelope["data"]["agents"][0]["state"] == "running"
    toka("run", "stop", run).expect(0)
    toka.nothing_left()


def test_a_background_run_of_a_script_ends_with_kill(toka: Any) -> None:
    ready = toka.meeting("ready")
    spec = toka.spec("long", [{"id": "t", "description": "Long", "run": "echo up > ready; exec sleep 1000"}])
    script = f"{' '.join(toka.argv)} orchestrate {spec} & echo $!; wait $!; echo $?"
    shell = subprocess.Popen(["sh", "-c", script], env=toka.environment(), cwd=toka.work, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        ready.take()
        os.kill(pid, signal.SIGINT)
        assert shell.stdout.readline() == b"130\n"
    finally:
        shell.kill()
        shell.wait()
        if shell.stdout is not None:
            shell.stdout.close()
    toka.nothing_left()
