"""Pausing and letting go on, softly and by freezing, from other terminals and with Ctrl-Z: nothing new starts, and clocks stand still."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Toka, ended
from toka_cli.sandbox.tree import descendants


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def turn(toka: Toka, word: str, *words: Any, code: int = 0) -> list[dict[str, Any]]:
    found = toka("agent", word, *words, "-o", "json").expect(code).envelope["data"]["paused" if word == "pause" else "resumed"]
    assert isinstance(found, list)
    return found


def agent(toka: Toka, name: str) -> dict[str, Any]:
    found = toka("agent", "show", name, "-o", "json").expect(0).envelope["data"]["agent"]
    assert isinstance(found, dict)
    return found


def waiting(toka: Toka, limits: dict[str, Any] | None = None, **sections: Any) -> Any:
    """An agent whose first task has begun and waits for `gate`; its second one writes `second`."""
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    tasks = [
        {"id": "first", "description": "F", "run": "echo $$ > ready; read x < gate"},
        {"id": "second", "description": "S", "run": "echo second > ready; touch second"},
    ]
    spec = toka.spec("one", tasks, security={"resource_limits": limits or {}}, **sections)
    running = toka.start("orchestrate", spec, "-o", "jsonl")
    started = running.event("agent.started")
    return running, started, int(ready.take()), ready, gate


def test_a_paused_agent_starts_nothing_new_until_it_is_resumed(toka: Toka) -> None:
    """Its time limit passes three times while it is paused."""
    running, _, _, ready, gate = waiting(toka, {"timeout": "2s"})
    assert turn(toka, "pause", "one")[0] | {"agent_id": ""} == {"agent_id": "", "name": "one", "changed": True, "state": "paused"}
    gate.give()
    running.event("task.succeeded", task="first")
    assert not ended(running.pid, 3.0), "longer than its limit"
    listed = toka("agent", "list", "-o", "json").expect(0).envelope["data"]["agents"]
    assert [each["state"] for each in listed] == ["paused"]
    assert "paused" in toka("agent", "why", "one").expect(0).out
    assert not (toka.work / "second").exists()
    assert turn(toka, "pause", "one", code=1)[0]["changed"] is False
    assert turn(toka, "resume", "one")[0]["state"] == "running"
    assert ready.take() == "second"
    view = running.wait().expect(0).lines[-1]["data"]["run"]
    assert view["agents"][0]["state"] == "succeeded"


def test_what_runs_in_a_pause_goes_on_and_no_time_limit_of_it_passes(toka: Toka) -> None:
    """Softly paused, a command works on; its own time limit and its agent's would both have been over before it was done."""
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    tasks = [{"id": "t", "description": "T", "run": "echo up > ready; read x < gate; echo heard > ready; read x < gate; echo done", "timeout": "4s"}]
    running = toka.start("orchestrate", toka.spec("one", tasks, security={"resource_limits": {"timeout": "5s"}}), "-o", "jsonl")
    ready.take()
    turn(toka, "pause", "one")
    gate.give()
    assert ready.take() == "heard", "it is not frozen"
    assert not ended(running.pid, 5.5), "longer than both limits"
    turn(toka, "resume", "one")
    gate.give()
    agent = running.wait().expect(0).lines[-1]["data"]["run"]["agents"][0]
    assert (agent["state"], agent["tasks"][0]["output"]) == ("succeeded", "done\n")
    assert agent["worked_s"] < 5.0


def test_no_further_attempt_starts_in_a_pause(toka: Toka) -> None:
    ready = toka.meeting("ready")
    tasks = [{"id": "t", "description": "T", "run": "echo up > ready; test -e again && exit 0; touch again; exit 1", "retries": {"max": 1, "delay": "1s"}}]
    running = toka.start("orchestrate", toka.spec("one", tasks), "-o", "jsonl")
    running.event("task.retrying")
    ready.take()
    turn(toka, "pause", "one")
    assert not ended(running.pid, 2.0), "longer than the wait"
    assert agent(toka, "one")["tasks"][0]["state"] == "retrying"
    turn(toka, "resume", "one")
    assert ready.take() == "up"
    running.wait().expect(0)


def test_a_frozen_tree_stands_still_and_so_do_the_clocks_of_its_tasks(toka: Toka) -> None:
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    # A child in a session of its own is frozen too.
    tasks = [{"id": "t", "description": "T", "run": "setsid sh -c 'echo $$ > ready; read x < gate; echo > ready' & wait", "timeout": "1500ms"}]
    running = toka.start("orchestrate", toka.spec("one", tasks, security={"resource_limits": {"timeout": "2s"}}), "-o", "jsonl")
    started = running.event("agent.started")
    ready.take()
    before = len(descendants(parent(started["pid"])))
    turn(toka, "pause", "one", "--hard")
    tree = descendants(parent(started["pid"]))
    # The cell, the command's shell, and its child with a shell of its own.
    assert len(tree) >= max(before, 3)
    assert {state_of(pid) for pid in tree} == {"T"}
    gate.give()
    assert not ended(running.pid, 2.5), "longer than both limits"
    assert {state_of(pid) for pid in tree} == {"T"}
    turn(toka, "resume", "one")
    ready.take()
    assert running.wait().expect(0).lines[-1]["data"]["run"]["agents"][0]["state"] == "succeeded"


@pytest.mark.parametrize("words", [(), ("--hard",)])
def test_a_paused_agent_can_be_stopped_at_once(toka: Toka, words: tuple[str, ...]) -> None:
    """It is asked, and that is enough: frozen processes are let go so that they can obey."""
    running, _, _, _, _ = waiting(toka)
    turn(toka, "pause", "one", *words)
    (stopped,) = toka("agent", "stop", "one", "-o", "json").expect(0).envelope["data"]["stopped"]
    assert (stopped["rung"], stopped["state"]) == ("asked", "stopped")
    assert running.wait().expect(1).lines[-1]["data"]["run"]["agents"][0]["state"] == "stopped"
    toka.nothing_left()


def test_a_pause_survives_the_terminal_and_the_death_of_the_owner_ends_even_what_is_frozen(toka: Toka) -> None:
    ready = toka.meeting("ready")
    spec = toka.spec("one", [{"id": "t", "description": "T", "run": "echo $$ > ready; exec sleep 1000", "on_interrupted": "rerun"}])
    run = toka.spawn(spec)["run_id"]
    ready.take()
    terminal = toka.terminal("agent", "pause", "one", "--hard")
    assert terminal.wait() == 0
    assert agent(toka, "one")["state"] == "paused"
    owner = next(pid for pid in toka.processes() if "spawn" in Path(f"/proc/{pid}/cmdline").read_text().split("\0") and state_of(pid) != "T"
                 and "forkserver" not in Path(f"/proc/{pid}/cmdline").read_text())  # fmt: skip
    os.kill(owner, signal.SIGKILL)
    toka.nothing_left()
    assert toka("run", "show", run, "-o", "json").envelope["data"]["run"]["state"] == "interrupted"


def test_what_is_not_running_cannot_be_paused(toka: Toka) -> None:
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    toka.spec("busy", [{"id": "t", "description": "B", "run": "echo up > ready; read x < gate"}])
    toka.spec("queued", [{"id": "t", "description": "Q", "run": "true"}], dependencies={"required": {"busy": "x"}})
    running = toka.start("orchestrate", toka.root / "specs", "-o", "jsonl")
    ready.take()
    assert turn(toka, "pause", "queued", code=1)[0] | {"agent_id": ""} == {"agent_id": "", "name": "queued", "changed": False, "state": "pending"}
    assert turn(toka, "resume", "busy", code=1)[0]["changed"] is False
    gate.give()
    run = running.wait().expect(0).lines[0]["run"]
    done = toka("agent", "pause", "busy", "--run", run)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert toka("agent", "pause", "nobody").code == 4


def test_tasks_side_by_side_end_while_their_agent_is_paused(toka: Toka) -> None:
    ready = toka.meeting("ready")
    gates = [toka.meeting(f"gate{n}") for n in range(3)]
    tasks = {
        "parallel": 2,
        "default": [{"id": f"t{n}", "description": "T", "run": f"echo {n} > ready; read x < gate{n}"} for n in range(3)],
    }
    running = toka.start("orchestrate", toka.spec("two", tasks), "-o", "jsonl")
    assert {ready.take(), ready.take()} == {"0", "1"}
    turn(toka, "pause", "two")
    gates[0].give()
    running.event("task.succeeded", task="t0")
    gates[1].give()
    running.event("task.succeeded", task="t1")
    assert agent(toka, "two")["state"] == "paused"
    assert agent(toka, "two")["tasks"][2]["state"] == "pending"
    turn(toka, "resume", "two")
    assert ready.take() == "2"
    gates[2].give()
    running.wait().expect(0)


def test_an_agent_with_nothing_left_to_do_ends_although_it_is_paused(toka: Toka) -> None:
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    running = toka.start("orchestrate", toka.spec("one", [{"id": "t", "description": "T", "run": "echo > ready; read x < gate"}]), "-o", "jsonl")
    ready.take()
    turn(toka, "pause", "one")
    gate.give()
    assert running.wait().expect(0).lines[-1]["data"]["run"]["agents"][0]["state"] == "succeeded"


def gated(toka: Toka, check: str, **validation: Any) -> Any:
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    objective = {"description": "It works", "validation": {"run": check, **validation}}
    tasks = [{"id": "t", "description": "T", "run": "echo task > ready; read x < gate"}]
    running = toka.start("orchestrate", toka.spec("one", tasks, objectives=[objective]), "-o", "jsonl")
    assert ready.take() == "task"
    return running, ready, gate


def test_gates_wait_while_their_agent_is_paused(toka: Toka) -> None:
    running, ready, gate = gated(toka, "echo check > ready; touch checked")
    turn(toka, "pause", "one")
    gate.give()
    running.event("agent.exited")
    assert agent(toka, "one")["state"] == "paused"
    assert not (toka.work / "checked").exists()
    turn(toka, "resume", "one")
    assert ready.take() == "check"
    running.wait().expect(0)


def test_a_gate_that_is_frozen_is_not_late(toka: Toka) -> None:
    running, ready, gate = gated(toka, "echo check > ready; read x < gate", timeout="5s")
    gate.give()
    assert ready.take() == "check"
    turn(toka, "pause", "one", "--hard")
    gate.give()
    assert not ended(running.pid, 5.5), "longer than its limit"
    turn(toka, "resume", "one")
    assert running.wait().expect(0).lines[-1]["data"]["run"]["agents"][0]["gates"][0]["state"] == "succeeded"


@pytest.mark.parametrize("how", ["agent stop", "signal"])
def test_a_stop_during_a_gate_is_a_stop_and_no_failure(toka: Toka, how: str) -> None:
    running, ready, gate = gated(toka, "echo check > ready; read x < gate")
    gate.give()
    assert ready.take() == "check"
    if how == "signal":
        running.signal(signal.SIGINT)
        view = running.wait().expect(130).lines[-1]["data"]["run"]
        assert (view["state"], view["agents"][0]["state"]) == ("interrupted", "pending")
        resumed = toka.start("run", "resume", view["id"], "-o", "jsonl")
        assert ready.take() == "check"
        gate.give()
        assert resumed.wait().expect(0).lines[-1]["data"]["run"]["agents"][0]["state"] == "succeeded"
    else:
        (stopped,) = toka("agent", "stop", "one", "-o", "json").expect(0).envelope["data"]["stopped"]
        assert (stopped["state"], stopped["rung"]) == ("stopped", "asked")
        assert running.wait().expect(1).lines[-1]["data"]["run"]["agents"][0]["reason"] == "stopped: user"
    toka.nothing_left()


# --- Ctrl-Z ----------------------------------------------------------------------------------------------------------------------------------


def until_state(pid: int, wanted: str) -> None:
    """Wait for the job control state of a child, as its parent is told by the kernel."""
    flags = os.WSTOPPED if wanted == "T" else os.WCONTINUED
    while not (found := os.waitid(os.P_PID, pid, flags | os.WNOWAIT | os.WEXITED)):
        pass
    assert found.si_code in {os.CLD_STOPPED, os.CLD_CONTINUED}, found


def test_control_z_freezes_everything_and_the_clocks(toka: Toka) -> None:
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    tasks = [
        {"id": "a", "description": "A", "run": "echo $$ > ready; read x < gate", "timeout": "2s"},
        {"id": "b", "description": "B", "run": "echo b > ready"},
    ]
    toka.spec("one", tasks, security={"resource_limits": {"timeout": "2500ms"}})
    toka.spec("then", [{"id": "t", "description": "T", "run": "true"}], dependencies={"required": {"one": "x"}})
    terminal = toka.terminal("orchestrate", toka.root / "specs", "--timeout", "4s")
    ready.take()
    terminal.until(b"\x1b[?25l")
    pid = agent(toka, "one")["pid"]
    tree = [pid, *descendants(pid)]
    assert len(tree) >= 2
    terminal.type(b"\x1a")
    until_state(terminal.process.pid, "T")
    assert state_of(terminal.process.pid) == "T"
    assert {state_of(pid) for pid in tree} == {"T"}
    shown = len(terminal.shown)
    listed = toka("run", "list", "-o", "json").expect(0).envelope["data"]["runs"]
    assert [run["state"] for run in listed] == ["paused"]
    gate.give()
    assert not ended(terminal.process.pid, 4.5), "longer than every limit of this run"
    # Only the owner is told: whoever else is stopped is for it to wake.
    os.kill(terminal.process.pid, signal.SIGCONT)
    # The terminal is read first: nobody else does, and the table is drawn into it.
    assert terminal.wait() == 0, bytes(terminal.shown)
    assert ready.take() == "b"
    after = bytes(terminal.shown)
    assert after.rfind(b"\x1b[?25h") > after.rfind(b"\x1b[?25l"), "the cursor is given back"
    assert after.count(b"\x1b[?25h") >= 2, "and it was before the shell had the terminal"
    assert b"\x1b[?25l" in after[shown:], "the table is drawn again"
    assert b"Traceback" not in after
    toka.nothing_left()


def test_a_run_that_is_suspended_can_be_killed_and_resumed(toka: Toka) -> None:
    ready = toka.meeting("ready")
    command = "test -e again && exit 0; touch again; echo up > ready; exec sleep 1000"
    spec = toka.spec("one", [{"id": "t", "description": "T", "run": command, "on_interrupted": "rerun"}])
    terminal = toka.terminal("orchestrate", spec)
    ready.take()
    terminal.type(b"\x1a")
    until_state(terminal.process.pid, "T")
    terminal.process.kill()
    terminal.process.wait()
    toka.nothing_left()
    run = toka("run", "list", "-o", "json").envelope["data"]["runs"][0]
    assert run["state"] == "interrupted"
    assert toka("run", "resume", run["id"], "-o", "json").expect(0).envelope["data"]["run"]["state"] == "succeeded"
