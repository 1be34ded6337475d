"""Agents that go on without their terminal, seen and ended from other terminals; and many of them at once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ended

LONG = {"id": "t", "description": "Long", "run": "echo begun; echo up > ready; exec sleep 1000"}


def long(toka: Any, name: str = "long", run: str = LONG["run"]) -> Path:
    return toka.spec(name, [{**LONG, "run": run}], restart={"policy": "never"})


def tree_of(run: str) -> list[int]:
    """Every process that was given the run's id in its environment: all that its agents started."""
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and f"TOKA_RUN_ID={run}\0".encode() in Path(f"/proc/{entry}/environ").read_bytes():
                found.append(int(entry))
    return found


def test_an_agent_outlives_the_terminal_it_was_started_from(toka: Any) -> None:
    ready = toka.meeting("ready")
    terminal = toka.terminal("agent", "spawn", long(toka))
    assert terminal.wait() == 0
    agent = terminal.shown.decode().split()[-1]
    terminal.close()
    assert ready.take() == "up"
    listed = toka("agent", "list", "-o", "json").expect(0).envelope["data"]["agents"]
    assert [(it["id"], it["state"], it["name"]) for it in listed] == [(agent, "running", "long")]
    assert listed[0]["pid"] is not None
    assert os.getsid(listed[0]["pid"]) == listed[0]["pid"]
    toka("agent", "stop", agent).expect(0)
    toka.nothing_left()


def test_everything_can_be_seen_and_ended_from_another_terminal(toka: Any) -> None:
    ready, more = toka.meeting("ready"), toka.meeting("more")
    ids = toka.spawn(long(toka, run="echo begun; echo up > ready; while read line; do echo $line; done < more"))
    agent, run = ids["agent_id"], ids["run_id"]
    assert ids["name"] == "long"
    ready.take()
    toka.until(run, lambda look: any(record.event.kind == "task.started" for record in look.records))
    assert toka("agent", "show", "long", "-o", "json").expect(0).envelope["data"]["agent"]["state"] == "running"
    assert toka("agent", "show", agent[:6]).expect(0).out
    assert "t" in toka("agent", "why", agent).expect(0).out
    assert [it["state"] for it in toka("run", "list", "-o", "json").expect(0).envelope["data"]["runs"]] == ["running"]
    assert toka("agent", "monitor", agent, "--once", "-o", "json").expect(0).envelope["data"]["agent"]["id"] == agent
    assert toka("run", "wait", run, "--timeout", "100ms").expect(124).err
    following = toka.start("agent", "logs", agent, "-f")
    assert following.line() == b"[t] begun"
    more.give("first words")
    assert following.line() == b"[t] first words"
    watching = toka.start("agent", "monitor", agent, "-o", "jsonl")
    watching.event("task.started")
    events = toka.start("run", "events", run, "-f")
    events.event("task.started")
    waiting = toka.start("run", "wait", run, "-o", "json")
    stopped = toka("agent", "stop", "long", "-o", "json").expect(0).envelope["data"]["stopped"]
    assert [(it["agent_id"], it["name"], it["rung"]) for it in stopped] == [(agent, "long", "asked")]
    assert following.wait().code == 0
    assert watching.wait().code == 1, "the agent's exit status"
    assert events.event("run.stopped")["reason"] == "agents_stopped: long"
    assert events.wait().code == 0
    assert waiting.wait().code == 1
    again = toka("agent", "stop", agent, "-o", "json").expect(0).envelope["data"]["stopped"]
    assert [it["rung"] for it in again] == ["already"]
    view = toka("run", "show", run, "-o", "json").expect(0).envelope["data"]["run"]
    assert (view["state"], view["agents"][0]["state"], view["agents"][0]["reason"]) == ("stopped", "stopped", "stopped: user")
    assert view["agents"][0]["tasks"][0]["state"] == "stopped"
    assert toka("agent", "list", "-o", "json").expect(0).envelope["data"]["agents"] == []
    assert "stopped" in toka("agent", "why", agent).expect(0).out
    assert "first words" in toka("agent", "logs", agent, "--tail", "2").expect(0).out
    toka.nothing_left()


STUBBORN = "trap '' TERM; echo up > ready; while :; do sleep 1000; done"
# Ignores SIGTERM in a session of its own, and starts a new one of itself whenever it can.
REFORKING = r"""
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        while True:
            time.sleep(0.01)
            pid = os.fork()
            if pid != 0:
                os._exit(0)
open("ready", "w").write("up\n")
time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("run", "words", "rungs"),
    [
        (LONG["run"], (), {"asked"}),
        # The cell itself kills what ignores SIGTERM, in its own time.
        (STUBBORN, ("--grace", "10s"), {"asked"}),
        (STUBBORN, ("--grace", "100ms"), {"term", "kill"}),
        (LONG["run"], ("--force",), {"kill"}),
        (f"exec \"$TOKA_PYTHON\" -c '{REFORKING}'", ("--grace", "100ms"), {"asked", "term", "kill"}),
    ],
    ids=["asked", "stubborn", "stubborn, little time", "force", "re-forking"],
)
def test_a_stop_leaves_nothing(toka: Any, run: str, words: tuple[str, ...], rungs: set[str]) -> None:
    ready = toka.meeting("ready")
    ids = toka.spawn(long(toka, run=run))
    ready.take()
    tree = tree_of(ids["run_id"])
    assert tree
    stopped = toka("agent", "stop", ids["agent_id"], *words, "-o", "json").expect(0).envelope["data"]["stopped"]
    assert stopped[0]["rung"] in rungs
    assert all(ended(pid) for pid in tree)
    assert tree_of(ids["run_id"]) == []
    toka.nothing_left()


def test_many_stops_at_once_and_none_is_an_error(toka: Any) -> None:
    ready = toka.meeting("ready")
    agent = toka.spawn(long(toka))["agent_id"]
    ready.take()
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        stops = [pool.submit(toka, "agent", "stop", agent, "-o", "json") for _ in range(6)]
    rungs = [future.result().expect(0).envelope["data"]["stopped"][0]["rung"] for future in stops]
    assert set(rungs) <= {"asked", "already"}
    assert "asked" in rungs
    toka.nothing_left()


def test_a_stop_against_the_natural_end(toka: Any) -> None:
    """Whoever comes first decides; the other one is no error."""
    ready = toka.meeting("ready")
    for turn in range(4):
        gate = toka.meeting(f"gate{turn}")
        ids = toka.spawn(long(toka, run=f"echo up > ready; read x < gate{turn}"))
        ready.take()
        stop = toka.start("agent", "stop", ids["agent_id"], "-o", "json")
        gate.give()
        done = stop.wait().expect(0)
        (stopped,) = done.envelope["data"]["stopped"]
        assert (stopped["state"], stopped["rung"] == "already") in {("succeeded", True), ("succeeded", False), ("stopped", False)}
        view = toka("run", "wait", ids["run_id"], "-o", "json").envelope["data"]["run"]
        assert view["agents"][0]["state"] == stopped["state"]
        toka.nothing_left()


def test_stop_all_and_stop_of_a_run(toka: Any) -> None:
    ready = toka.meeting("ready")
    runs = [toka.spawn(long(toka, name))["run_id"] for name in ("one", "two", "three")]
    for _ in runs:
        ready.take()
    first = toka("run", "stop", runs[0], "-o", "json").expect(0).envelope["data"]["run"]
    assert first["state"] == "stopped"
    stopped = toka("agent", "stop", "--all", "-o", "json").expect(0).envelope["data"]["stopped"]
    assert {it["name"] for it in stopped} == {"two", "three"}
    assert toka("run", "stop", runs[0]).expect(0)
    assert toka("agent", "stop", "--all").expect(0).out == "no live agents\n"
    toka.nothing_left()


def test_one_agent_of_a_run_can_be_stopped_and_its_dependants_are_skipped(toka: Any) -> None:
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    long(toka)
    toka.spec("other", [{"id": "t", "description": "T", "run": "read x < gate"}])
    toka.spec("after", [{"id": "t", "description": "T", "run": "true"}], dependencies={"required": {"long": "x"}})
    run = toka("orchestrate", toka.root / "specs", "--detach", "-o", "json").expect(0).envelope["data"]["run_id"]
    ready.take()
    toka("agent", "stop", "long").expect(0)
    gate.give()
    done = toka("run", "wait", run, "-o", "json").expect(1).envelope["data"]["run"]
    states = {agent["name"]: (agent["state"], agent["reason"]) for agent in done["agents"]}
    assert states["other"] == ("succeeded", None)
    assert states["long"] == ("stopped", "stopped: user")
    assert states["after"][0] == "skipped"
    assert states["after"][1].endswith(": long")


def test_spawn_with_wait_ends_with_the_result(toka: Any) -> None:
    good = toka("agent", "spawn", toka.spec("good", [{"id": "t", "description": "T", "run": "true"}]), "--wait", "-o", "json").expect(0)
    assert good.envelope["data"]["run"]["state"] == "succeeded"
    toka("agent", "spawn", toka.spec("bad", [{"id": "t", "description": "T", "run": "false"}]), "--wait").expect(1)


def test_a_spawn_that_fails_has_an_exit_code(toka: Any) -> None:
    good = long(toka)
    blocked = toka.root / "blocked"
    blocked.write_text("a file, where the state folder should be")
    done = toka("--state-dir", blocked / "state", "agent", "spawn", good).expect(6)
    assert "state folder" in done.err
    assert toka("agent", "spawn", toka.root / "none.yaml").code == 4
    assert toka("agent", "spawn", toka.spec("ask", [{"id": "t", "description": "A prompt"}])).code == 6
    broken = toka.root / "broken.yaml"
    broken.write_text("metadata: {name: x}\ntasks: nonsense\n")
    assert toka("agent", "spawn", broken).code == 3
    assert toka("agent", "spawn", toka.root / "none").code == 4
    both = toka.root / "both"
    both.mkdir()
    for name in ("one", "two"):
        (both / f"{name}.yaml").write_text(good.read_text().replace("long", name))
    assert toka("agent", "spawn", both).code == 2
    inside = toka("--state-dir", toka.work / "state", "agent", "spawn", good).expect(5)
    assert "state-dir" in inside.err
    assert not toka.state.exists()


def test_a_program_that_cannot_start_says_so(toka: Any) -> None:
    """The first agent takes away the directory that the second one is to work in."""
    toka.spec("first", [{"id": "t", "description": "T", "run": 'rmdir "$PWD"'}])
    toka.spec("second", [LONG], restart={"policy": "never"}, dependencies={"required": {"first": "x"}})
    for start_method in ("forkserver", "fresh"):
        folder = toka.root / f"work-{start_method}"
        folder.mkdir()
        # Without walls: behind them the directory is mounted, and cannot be taken away from inside.
        words = ("orchestrate", toka.root / "specs", "--workdir", folder, "--no-sandbox", "-o", "json")
        done = toka(*words, env={"TOKA_PROCESS_START_METHOD": start_method}).expect(1)
        first, second = sorted(done.envelope["data"]["run"]["agents"], key=lambda agent: agent["name"])
        assert first["state"] == "succeeded"
        assert second["reason"].startswith("spawn: Agent failed to start: ")
        assert folder.name in second["hint"]
    toka.nothing_left()


def test_twenty_spawns_and_fifty_lists_at_once(toka: Any) -> None:
    specs = [toka.spec(f"agent-{n}", [{"id": "t", "description": "T", "run": f"echo {n}; read x < gate"}]) for n in range(20)]
    gate = toka.meeting("gate")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        spawns = [pool.submit(toka.spawn, spec) for spec in specs]
        lists = [pool.submit(toka, "agent", "list", "-o", "json") for _ in range(50)]
        spawned = [future.result() for future in spawns]
        for future in lists:
            done = future.result().expect(0)
            assert "cannot be read" not in done.err, done.err
            assert done.envelope["errors"] == []
    assert len({ids["run_id"] for ids in spawned}) == 20
    live = toka("agent", "list", "-o", "json").expect(0).envelope["data"]["agents"]
    assert {agent["id"] for agent in live} == {ids["agent_id"] for ids in spawned}
    for _ in specs:
        gate.give()
    for ids in spawned:
        toka.until(ids["run_id"], lambda look: look.view.state == "succeeded")
    every = toka("agent", "list", "--all", "-o", "json").expect(0).envelope["data"]["agents"]
    assert sorted(agent["tasks"][0]["output"].strip() for agent in every) == sorted(str(n) for n in range(20))
    assert toka("runtime", "stats", "-o", "json").expect(0)


def test_names_and_prefixes(toka: Any) -> None:
    for name in ("alpha", "alphabet"):
        toka("orchestrate", toka.spec(name, [{"id": "t", "description": "T", "run": "true"}])).expect(0)
    assert toka("agent", "show", "alpha", "-o", "json").expect(0).envelope["data"]["agent"]["name"] == "alpha"
    ambiguous = toka("agent", "show", "alph").expect(4)
    assert "alpha" in ambiguous.err
    assert "alphabet" in ambiguous.err
    assert "did you mean alpha?" in toka("agent", "show", "alpa").expect(4).err


def test_prune_never_touches_a_live_run(toka: Any) -> None:
    ready = toka.meeting("ready")
    toka("orchestrate", toka.spec("done", [{"id": "t", "description": "T", "run": "true"}])).expect(0)
    live = toka.spawn(long(toka))["run_id"]
    ready.take()
    would = toka("run", "prune", "--keep", "0", "--dry-run", "-o", "json").expect(0).envelope["data"]["removed"]
    assert len(would) == 1
    assert len(toka.folders()) == 2
    assert toka("run", "prune", "--keep", "0", "-o", "json").expect(0).envelope["data"]["removed"] == would
    assert [folder.run_id for folder in toka.folders()] == [live]
    assert toka("agent", "list", "-o", "json").expect(0).envelope["data"]["agents"][0]["state"] == "running"
    toka("run", "stop", live).expect(0)


def test_a_silent_owner_is_named_and_can_be_forced(toka: Any) -> None:
    ready = toka.meeting("ready")
    ids = toka.spawn(long(toka))
    ready.take()
    owner = [pid for pid in toka.processes() if b"spawn" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(owner) == 1
    os.kill(owner[0], signal.SIGSTOP)
    done = toka("agent", "stop", "long")
    assert done.code == 1
    assert "--force" in done.err
    toka("agent", "stop", "long", "--force").expect(0)
    assert toka("run", "show", ids["run_id"], "-o", "json").expect(0).envelope["data"]["run"]["state"] == "stopped"
    toka.nothing_left()
