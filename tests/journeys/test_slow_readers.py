"""Nobody reads what toka writes, or reads it later: the run goes on, answers, and ends; the reader finds everything in the end."""

from __future__ import annotations

import fcntl
import os
import signal
from typing import Any

from tests.conftest import Toka
from toka_cli.lifecycle import RUN_FINAL, AgentState

CTRL_S, CTRL_Q = b"\x13", b"\x11"


def narrow(running: Any) -> None:
    """The pipe takes one page."""
    assert fcntl.fcntl(running.process.stdout, fcntl.F_SETPIPE_SZ, 4096) == 4096


def ended(name: str) -> Any:
    return lambda look: any(agent.name == name and agent.state == AgentState.SUCCEEDED for agent in look.view.agents)


def test_a_run_whose_json_lines_are_not_read_answers_and_ends(toka: Toka) -> None:
    ready = toka.meeting("ready")
    toka.spec("busy", [{"id": f"t{n}", "description": "T", "run": "true"} for n in range(60)])
    toka.spec("held", [{"id": "t", "description": "T", "run": "echo up > ready; exec sleep 1000"}])
    running = toka.start("orchestrate", toka.root / "specs", "-o", "jsonl")
    narrow(running)
    run = running.next()["run"]
    ready.take()
    toka.until(run, ended("busy"))
    (stopped,) = toka("agent", "stop", "held", "-o", "json").expect(0).envelope["data"]["stopped"]
    assert stopped["state"] == "stopped"
    look = toka.until(run, lambda look: look.view.state in RUN_FINAL)
    assert toka("run", "resume", run).code == 1, "it has ended, and its owner holds it no more"
    done = running.wait().expect(1)
    *events, last = done.lines
    assert [event["seq"] for event in events] == list(range(2, look.view.last_seq + 1)), "every event, in order"
    assert last["data"]["run"]["state"] == look.view.state


def test_plain_lines_that_are_not_read_hold_nobody(toka: Toka) -> None:
    toka.spec("busy", [{"id": f"t{n}", "description": "T" * 100, "run": "true"} for n in range(60)])
    running = toka.start("orchestrate", toka.root / "specs")
    assert fcntl.fcntl(running.process.stderr, fcntl.F_SETPIPE_SZ, 4096) == 4096
    while not (runs := toka("run", "list", "-o", "json").envelope["data"]["runs"]):
        assert running.process.poll() is None
    look = toka.until(runs[0]["id"], lambda look: look.view.state in RUN_FINAL)
    assert look.view.exit_code == 0
    done = running.wait().expect(0)
    assert done.err.count("succeeded (") >= 61


def test_a_terminal_that_was_held_gets_the_newest_picture_later(toka: Toka) -> None:
    """Ctrl-S holds the terminal, and neither the run nor the process."""
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    toka.spec("one", [{"id": "t", "description": "T", "run": "echo up > ready; read x < gate"}])
    toka.spec("two", [{"id": f"t{n}", "description": "T", "run": "true"} for n in range(3)], dependencies={"required": {"one": "x"}})
    terminal = toka.terminal("orchestrate", toka.root / "specs")
    terminal.until(b"running")
    ready.take()
    terminal.type(CTRL_S)
    gate.give()
    look = toka.until(toka.folders()[0].run_id, lambda look: look.view.state in RUN_FINAL)
    assert look.view.exit_code == 0
    assert terminal.process.poll() is None, "its last words are still owed"
    terminal.type(CTRL_Q)
    assert terminal.wait() == 0
    assert b"succeeded" in terminal.shown
    assert b"\x1b[?25h" in terminal.shown, "the cursor is back"


def test_a_pipeline_under_control_z_stops_with_its_reader(toka: Toka) -> None:
    """The reader is stopped too and takes nothing: toka does not wait for it before it stops, and all goes on with `fg`."""
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    toka.spec("busy", [{"id": f"t{n}", "description": "T", "run": "true"} for n in range(60)])
    toka.spec("held", [{"id": "t", "description": "T", "run": "echo up > ready; read x < gate"}])
    running = toka.start("orchestrate", toka.root / "specs", "-o", "jsonl")
    narrow(running)
    run = running.next()["run"]
    ready.take()
    toka.until(run, ended("busy"))
    stop_and_see(running)
    gate.give()
    running.wait().expect(0)


def stop_and_see(running: Any) -> None:
    """SIGTSTP, until the process is stopped; then SIGCONT."""
    running.signal(signal.SIGTSTP)
    pid, status = os.waitpid(running.pid, os.WUNTRACED)
    assert pid == running.pid
    assert os.WIFSTOPPED(status)
    running.signal(signal.SIGCONT)
