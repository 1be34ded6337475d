"""Restarts by cause, what a killed owner leaves behind and who removes it, and a stop that meets the natural end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Toka, ended
from toka_cli.commands.watching import command
from toka_cli.protocol.control import StopAgents

# --- restarts --------------------------------------------------------------------------------------------------------------------------------


def only(view: dict[str, Any]) -> dict[str, Any]:
    (agent,) = view["agents"]
    assert isinstance(agent, dict)
    return agent


# A command that kills its own agent: it can where no walls stand between them.
CRASH = "echo second >> did; test -e again && exit 0; touch again; kill -9 $PPID"
BARE = "--no-sandbox"


def crashing(toka: Toka, command: str = CRASH, policy: str = "on-failure", **more: Any) -> Path:
    tasks = [
        {"id": "first", "description": "F", "run": "echo first >> did"},
        {"id": "second", "description": "S", "run": command, "on_interrupted": "rerun", **more},
        {"id": "third", "description": "T", "run": "echo third >> did"},
    ]
    return toka.spec("phoenix", tasks, restart={"policy": policy, "delay": "10ms", "max_attempts": 2})


def did(toka: Toka) -> list[str]:
    return (toka.work / "did").read_text().split()


def test_a_crash_goes_on_at_the_unfinished_task(toka: Toka) -> None:
    agent = only(toka.run(crashing(toka), BARE))
    assert (agent["state"], agent["restarts"]) == ("succeeded", 1)
    assert did(toka) == ["first", "second", "second", "third"]


def test_a_restart_only_so_often(toka: Toka) -> None:
    agent = only(toka.run(crashing(toka, "echo second >> did; kill -9 $PPID"), BARE, code=1))
    assert (agent["state"], agent["restarts"], agent["reason"]) == ("failed", 2, "crashed: signal 9")
    assert did(toka) == ["first", "second", "second", "second"]


@pytest.mark.parametrize("how", ["policy", "setting"])
def test_no_restart_where_it_is_not_wanted(toka: Toka, how: str) -> None:
    if how == "setting":
        toka.env["TOKA_RECOVERY_ENABLE_AUTO_RESTART"] = "false"
    agent = only(toka.run(crashing(toka, policy="never" if how == "policy" else "on-failure"), BARE, code=1))
    assert (agent["state"], agent["restarts"]) == ("failed", 0)
    assert did(toka) == ["first", "second"]


def test_a_task_that_may_not_be_repeated_ends_its_agent(toka: Toka) -> None:
    agent = only(toka.run(crashing(toka, on_interrupted="fail"), BARE, code=1))
    assert (agent["state"], agent["restarts"]) == ("failed", 0)
    assert agent["tasks"][1]["reason"].startswith("interrupted: ")
    assert did(toka) == ["first", "second"]


def test_a_task_that_may_fail_does_not_end_its_agent(toka: Toka) -> None:
    agent = only(toka.run(crashing(toka, on_interrupted="fail", allow_failure=True), BARE))
    assert (agent["state"], agent["restarts"]) == ("succeeded", 1)
    assert did(toka) == ["first", "second", "third"]


@pytest.mark.parametrize(
    ("limits", "command", "reason"),
    [
        ({"max_memory": "60MB"}, "python3 -I -S -c 'x = b\"x\" * (90 << 20); input()' < fifo", "limit.memory"),
        ({"timeout": "300ms"}, "exec sleep 1000", "limit.timeout"),
        ({}, "exit 3", "task_failed"),
    ],
)
def test_what_a_limit_ended_would_end_so_again(toka: Toka, limits: dict[str, Any], command: str, reason: str) -> None:
    fifo = toka.meeting("fifo")
    tasks = [{"id": "t", "description": "T", "run": f"echo t >> did; {command}", "on_interrupted": "rerun"}]
    spec = toka.spec("one", tasks, restart={"policy": "on-failure", "delay": "1ms"}, security={"resource_limits": limits})
    agent = only(toka.run(spec, code=1))
    assert agent["reason"].startswith(reason)
    assert (agent["restarts"], did(toka)) == (0, ["t"])
    assert fifo.path.exists()


def test_a_hung_cell_is_restarted(toka: Toka) -> None:
    toka.env["TOKA_MONITORING_HEARTBEAT_TIMEOUT"] = "1s"
    agent = only(toka.run(crashing(toka, "echo second >> did; test -e again && exit 0; touch again; kill -STOP $PPID; exec sleep 1000"), BARE))
    assert (agent["state"], agent["restarts"]) == ("succeeded", 1)
    assert did(toka) == ["first", "second", "second", "third"]


# --- what a killed owner leaves --------------------------------------------------------------------------------------------------------------


def collect(toka: Toka) -> list[dict[str, Any]]:
    found = toka("runtime", "gc", "-o", "json").expect(0).envelope["data"]["cleaned"]
    assert isinstance(found, list)
    return found


def sleeper(run: str) -> subprocess.Popen[bytes]:
    """What even a killed shim could have left: nothing but the name in its environment says whose it is."""
    return subprocess.Popen(["sleep", "1000"], env={"PATH": os.environ["PATH"], "TOKA_RUN_ID": run}, start_new_session=True)


def test_gc_removes_what_is_left_of_dead_runs_and_nothing_else(toka: Toka) -> None:
    assert toka("runtime", "gc").expect(0).out == "nothing was left behind\n"
    ready = toka.meeting("ready")
    spec = toka.spec("long", [{"id": "t", "description": "L", "run": "echo up > ready; exec sleep 1000"}])
    dead, live = toka.start("orchestrate", spec, "-o", "jsonl"), toka.start("orchestrate", spec, "-o", "jsonl")
    for each in (dead, live):
        each.event("task.started")
        ready.take()
    gone, alive = (each.events[0]["run"] for each in (dead, live))
    dead.process.kill()
    dead.wait()
    tree = [pid for pid in toka.processes() if f"TOKA_RUN_ID={gone}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()]
    assert all(ended(pid) for pid in tree)
    folder, temporary = toka.folder(gone), toka.root / "tmp"
    folder.artifacts.mkdir(exist_ok=True)
    (folder.artifacts / ".partial-x").write_bytes(b"half")
    (folder.artifacts / "whole").write_bytes(b"whole")
    (temporary / f"toka-{gone}0-1-longer").mkdir()
    assert folder.socket.exists()
    exact, longer, owned = sleeper(gone), sleeper(f"{gone}0"), sleeper(alive)
    try:
        (cleaned,) = collect(toka)
        assert (cleaned["run_id"], cleaned["processes"]) == (gone, 1)
        # The private folder, the half-written artifact and the socket.
        assert cleaned["files"] >= 3
        assert exact.wait(timeout=10) == -signal.SIGKILL
        assert (longer.poll(), owned.poll()) == (None, None)
        assert not folder.socket.exists()
        assert [path.name for path in folder.artifacts.iterdir()] == ["whole"]
        assert sorted(path.name.split("-")[1] for path in temporary.iterdir() if path.name.startswith("toka-")) == sorted([alive, f"{gone}0"])
        assert toka.folder(alive).socket.exists()
        assert collect(toka) == []
        assert toka("run", "show", gone, "-o", "json").envelope["data"]["run"]["state"] == "interrupted"
        assert live.process.poll() is None
    finally:
        for each in (exact, longer, owned):
            each.kill()
            each.wait()
    live.signal(signal.SIGINT)
    live.wait().expect(130)


def test_a_resume_sweeps_first(toka: Toka) -> None:
    ready = toka.meeting("ready")
    command = "test -e again && exit 0; touch again; echo up > ready; exec sleep 1000"
    spec = toka.spec("one", [{"id": "t", "description": "T", "run": command, "on_interrupted": "rerun"}])
    running = toka.start("orchestrate", spec, "-o", "jsonl")
    ready.take()
    running.process.kill()
    run = toka.folders()[0].run_id
    running.wait()
    toka.nothing_left()
    exact, longer = sleeper(run), sleeper(f"{run}0")
    try:
        assert toka("run", "resume", run, "-o", "json").expect(0).envelope["data"]["run"]["state"] == "succeeded"
        assert exact.wait(timeout=10) == -signal.SIGKILL
        assert longer.poll() is None
    finally:
        for each in (exact, longer):
            each.kill()
            each.wait()
    assert [path.name for path in (toka.root / "tmp").iterdir() if path.name.startswith(f"toka-{run}-")] == []


# --- a stop against the natural end -------------------------------------------------------------------------------------------------------------


FINAL = {"agent.succeeded", "agent.failed", "agent.stopped", "agent.skipped"}
# Moments of an agent's life, each followed by the next in no time.
MOMENTS = ("agent.queued", "agent.starting", "agent.started", "task.started", "task.succeeded", "agent.exited", "agent.succeeded")


def test_two_hundred_stops_against_two_hundred_natural_ends(toka: Toka) -> None:
    """Each is sent the moment something is heard of the agent, so it meets it at the next: one final state each, and no stop is an error."""
    rng, count = random.Random(4), 200
    names = [f"a{n}" for n in range(count)]
    for name in names:
        toka.spec(name, [{"id": "t", "description": "T", "run": rng.choice(["true", "sleep 0.01", "sleep 0.05"])}])
    moments = {name: rng.choice(MOMENTS) for name in names}
    running = toka.start("orchestrate", toka.root / "specs", "--max-agents", "8", "-o", "jsonl")
    run, finals, asked = "", Counter[str](), {}
    # An owner whose output nobody reads stands still: answers are waited for beside the reading.
    with ThreadPoolExecutor(8) as pool:
        while "schema" not in (event := running.next()):
            run = event["run"]
            name, kind = event.get("name"), event["kind"]
            if kind in FINAL:
                finals[name] += 1
            if moments.get(name) == kind:
                order = StopAgents((event["agent"],), "user", None, rng.random() < 0.2)
                asked[name] = pool.submit(command, toka.folder(run), "agent.stop", order)
    answers = {name: answer.result() for name, answer in asked.items()}
    done = running.wait()
    agents = {agent["name"]: agent for agent in event["data"]["run"]["agents"]}
    assert finals == Counter(names), "exactly one final state each"
    assert {agent["state"] for agent in agents.values()} == {"succeeded", "stopped"}, "some of each, or nothing was shown"
    assert done.code == 1
    # A stop that was too late for its run is answered by the state that is there; every other one was accepted.
    assert len([answer for answer in answers.values() if answer is not None]) >= count - 8
    for name, answer in answers.items():
        if answer is not None and agents[name]["id"] in answer.already:
            assert agents[name]["state"] == "succeeded", "who had ended before the stop had succeeded"
    assert {agent["state"] for agent in toka("run", "show", run, "-o", "json").envelope["data"]["run"]["agents"]} == {"succeeded", "stopped"}
    toka("audit", "verify", run).expect(0)
    toka.nothing_left()


def test_twenty_stops_against_twenty_natural_ends(toka: Toka) -> None:
    """Whoever comes first decides: one final state each, and no stop is an error."""
    ready = toka.meeting("ready")
    gates = [toka.meeting(f"gate{n}") for n in range(20)]
    for n in range(20):
        toka.spec(f"a{n}", [{"id": "t", "description": "T", "run": f"echo up > ready; read x < gate{n}"}])
    running = toka.start("orchestrate", toka.root / "specs", "--max-agents", "20", "-o", "jsonl")
    for _ in gates:
        ready.take()
    stops = []
    for half in (range(10), range(10, 20)):
        stops += [(n, toka.start("agent", "stop", f"a{n}", "-o", "json")) for n in half]
        for n in half:
            gates[n].give()
    rungs = {}
    for n, stop in stops:
        (stopped,) = stop.wait().expect(0).envelope["data"]["stopped"]
        rungs[f"a{n}"] = (stopped["rung"], stopped["state"])
    done = running.wait()
    view = done.lines[-1]["data"]["run"]
    states = {agent["name"]: agent["state"] for agent in view["agents"]}
    assert {name: state for name, (_, state) in rungs.items()} == states
    assert set(states.values()) <= {"succeeded", "stopped"}
    assert done.code == (0 if set(states.values()) == {"succeeded"} else 1)
    finals = [line["name"] for line in done.lines if line.get("kind") in {"agent.succeeded", "agent.failed", "agent.stopped", "agent.skipped"}]
    assert sorted(finals) == sorted(states)
    toka.nothing_left()
