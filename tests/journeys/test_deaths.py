"""SIGKILL of every kind of process of a run: what it held dies with it, nobody else does, and the states say so."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ended

# A tree that is not the cell's own child: in a session of its own, and its parent gone.
TREE = "setsid sleep 1000 & (sleep 1000 & exec sleep 1000) & echo $$ > ready; wait"


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def victim_and_neighbour(toka: Any, restart: str = "never") -> Any:
    """A run in which `victim` and `neighbour` have begun, and `later` waits for the neighbour."""
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    toka.spec("victim", [{"id": "t", "description": "V", "run": TREE}], restart={"policy": restart, "delay": "10ms"})
    toka.spec("neighbour", [{"id": "t", "description": "N", "run": "echo up > ready; read x < gate"}])
    toka.spec("later", [{"id": "t", "description": "L", "run": "true"}], dependencies={"required": {"neighbour": "x"}})
    toka.spec("after", [{"id": "t", "description": "A", "run": "true"}], dependencies={"required": {"victim": "x"}})
    running = toka.start("orchestrate", toka.root / "specs", "-o", "jsonl")
    while len([event for event in running.events if event["kind"] == "task.started"]) < 2:
        running.event("task.started")
    ready.take()
    ready.take()
    pids = {event["name"]: event["pid"] for event in running.events if event["kind"] == "agent.started"}
    return running, pids, gate


def check_neighbours(toka: Any, running: Any, gate: Any, *, reason: str) -> None:
    running.event("agent.failed", name="victim")
    gate.give()
    done = running.wait().expect(1)
    agents = {agent["name"]: agent for agent in done.lines[-1]["data"]["run"]["agents"]}
    assert agents["victim"]["reason"].startswith(reason)
    assert agents["after"]["reason"] == "dependency_failed: victim"
    assert (agents["neighbour"]["state"], agents["later"]["state"]) == ("succeeded", "succeeded")
    toka.nothing_left()


@pytest.mark.parametrize("start_method", ["forkserver", "fresh"])
@pytest.mark.parametrize("target", ["cell", "shim"])
def test_the_death_of_a_cell_or_its_shim_is_its_agents_alone(toka: Any, target: str, start_method: str) -> None:
    toka.env["TOKA_PROCESS_START_METHOD"] = start_method
    running, pids, gate = victim_and_neighbour(toka)
    cell = pids["victim"]
    os.kill(cell if target == "cell" else parent(cell), signal.SIGKILL)
    check_neighbours(toka, running, gate, reason="crashed: signal 9" if target == "cell" else "crashed: ")


def test_the_death_of_the_fork_server_harms_nobody(toka: Any) -> None:
    """What runs goes on, and what comes later gets another fork server."""
    running, pids, gate = victim_and_neighbour(toka)
    server = parent(parent(pids["victim"]))
    assert server not in {running.pid, 1}
    os.kill(server, signal.SIGKILL)
    assert ended(server)
    # Its shims are the owner's children now; the end of one must not be the end of all.
    os.kill(parent(pids["victim"]), signal.SIGKILL)
    check_neighbours(toka, running, gate, reason="crashed: ")


def test_a_killed_cell_is_restarted_and_counted(toka: Any) -> None:
    ready = toka.meeting("ready")
    command = "test -e second && exec echo up > ready; touch second; echo up > ready; exec sleep 1000"
    tasks = [{"id": "t", "description": "T", "run": command, "on_interrupted": "rerun"}]
    spec = toka.spec("phoenix", tasks, restart={"policy": "on-failure", "delay": "10ms"})
    running = toka.start("orchestrate", spec, "-o", "jsonl")
    first = running.event("agent.started")
    ready.take()
    os.kill(first["pid"], signal.SIGKILL)
    assert running.event("agent.backoff")["reason"] == "crashed: signal 9"
    assert running.event("agent.started")["pid"] != first["pid"]
    ready.take()
    agent = running.wait().expect(0).lines[-1]["data"]["run"]["agents"][0]
    assert (agent["restarts"], agent["state"]) == (1, "succeeded")


@pytest.mark.parametrize("start_method", ["forkserver", "fresh"])
@pytest.mark.parametrize("end", ["agent stop", "run stop"])
def test_the_death_of_the_owner_ends_everything_and_is_shown_at_once(toka: Any, start_method: str, end: str) -> None:
    toka.env["TOKA_PROCESS_START_METHOD"] = start_method
    running, _, _ = victim_and_neighbour(toka)
    run = running.events[0]["run"]
    tree = [pid for pid in toka.processes() if pid != running.pid]
    assert len(tree) >= 8
    running.process.kill()
    running.wait()
    assert toka("agent", "list", "-o", "json").expect(0).envelope["data"]["agents"] == []
    shown = toka("run", "list", "-o", "json").expect(0).envelope["data"]["runs"]
    assert [(it["id"], it["state"]) for it in shown] == [(run, "interrupted")]
    view = toka("run", "show", run, "-o", "json").expect(0).envelope["data"]["run"]
    assert {agent["state"] for agent in view["agents"]} <= {"pending"}
    assert all(agent["pid"] is None for agent in view["agents"])
    assert all(ended(pid) for pid in tree)
    toka.nothing_left()
    if end == "run stop":
        assert toka("run", "stop", run, "-o", "json").expect(0).envelope["data"]["run"]["state"] == "stopped"
    else:
        toka("agent", "stop", "victim").expect(0)
    view = toka("run", "show", run, "-o", "json").expect(0).envelope["data"]["run"]
    assert view["state"] == "stopped"
    assert {agent["state"] for agent in view["agents"]} == {"stopped"}
    assert toka("audit", "verify", run).expect(0)
    assert toka("run", "wait", run).code == 1


def test_followers_hear_of_the_owners_death(toka: Any) -> None:
    running, _, _ = victim_and_neighbour(toka)
    run = running.events[0]["run"]
    logs = toka.start("agent", "logs", "victim", "-f")
    events = toka.start("run", "events", run, "-f")
    events.event("task.started")
    wait = toka.start("run", "wait", run, "-o", "json")
    running.process.kill()
    running.wait()
    assert events.wait().code == 0
    assert logs.wait().code == 0
    done = wait.wait()
    assert done.envelope["data"]["run"]["state"] == "interrupted"
    assert done.code != 0, "nobody can say that everything that was asked for happened"


def test_a_tree_that_outlives_its_agent_is_ended(toka: Any) -> None:
    """The command succeeds and leaves a daemon: the agent succeeds, and the daemon is gone before the run is over."""
    agent = toka.run(toka.spec("daemon", [{"id": "t", "description": "T", "run": "setsid sleep 1000 >/dev/null 2>&1 & exit 0"}]))["agents"][0]
    assert agent["state"] == "succeeded"
    assert toka.processes() == []


def test_a_daemon_that_holds_the_output_open_does_not_hold_the_task(toka: Any) -> None:
    agent = toka.run(toka.spec("daemon", [{"id": "t", "description": "T", "run": "setsid sleep 1000 & echo said"}]))["agents"][0]
    assert agent["tasks"][0]["output"] == "said\n"
    assert toka.processes() == []


def test_a_damaged_run_does_not_hide_the_others(toka: Any) -> None:
    spec = toka.spec("fine", [{"id": "t", "description": "T", "run": "true"}])
    runs = [toka.run(spec)["id"] for _ in range(2)]
    folder = toka.folder(runs[0])
    folder.database.write_bytes(b"garbage" * 1000)
    folder.summary.unlink()
    done = toka("run", "list", "-o", "json").expect(0)
    assert [it["id"] for it in done.envelope["data"]["runs"]] == [runs[1]]
    assert runs[0] in done.err
    assert toka("run", "show", runs[0]).code == 6
    assert toka("run", "show", runs[1]).code == 0


def test_tampering_with_the_trail_is_found(toka: Any) -> None:
    import sqlite3

    nothing = {"capabilities_required": []}
    run = toka.run(toka.spec("fine", [{"id": "t", "description": "T", "tool": "list_dir"}], security=nothing), code=1)["id"]
    head = toka("run", "show", run, "-o", "json").envelope["data"]["run"]["audit_head"]
    assert toka("audit", "verify", run, "--head", head).expect(0)
    assert toka("audit", "show", run, "--denied").expect(0)
    with sqlite3.connect(toka.folder(run).database) as connection:
        triggers = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
        for name in triggers:
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute("UPDATE audit SET decision = 'allowed' WHERE decision = 'denied'")
    connection.close()
    done = toka("audit", "verify", run, "-o", "json").expect(1)
    assert done.envelope["exit_code"] == 1
    assert done.envelope["data"]["audit"]["ok"] is False
