"""Cells that went bad: real ones, with everything around them, whose own program does what a taken-over or broken one might. Each ends with its reason, nothing
of it is left, its neighbours succeed, and the owner stays small."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Toka
from tests.journeys.test_limits import MIB, agents_of, peak_resident
from toka_cli.sandbox.tree import descendants, is_alive

# Runs in the fork server, before it serves: from then on a cell whose agent has one of these names does that instead of its work, after its hello.
BAD = r"""
import os, time
import toka_cli.agent.main as main
import toka_cli.protocol.messages as m
work, hello = main.Cell.work, m.Hello

async def bad(self):
    name = os.environ.get("AGENT_NAME", "")
    if name == "mute":
        time.sleep(1000)
    door = self.client._door
    if name in ACTS:
        await self.client.call("agent.hello", m.Hello(os.getpid(), self.isolation), m.AgentBrief)
        ACTS[name](door)
        time.sleep(1000)
    await work(self)

def flood(door):
    from toka_cli.protocol import frames
    while True:
        door.sendall(frames.request("agent.note", m.Note("x" * 400)) * 100)

ACTS = {
    "leaves": lambda door: os._exit(0),
    "crashes": lambda door: os.abort(),
    "stands-still": lambda door: None,
    "hangs-up": lambda door: door.close(),
    "talks-nonsense": lambda door: door.sendall(b"\xff" * 1000),
    "stops-in-a-word": lambda door: door.sendall(b"\x00\x0f\x00\x00" + b"x" * 1000),
    "lies": lambda door: door.sendall(b'\x00\x00\x00\x3a{"jsonrpc":"2.0","method":"task.done","id":7,"params":{"a":1}}'),
    "floods": flood,
    "keeps-silent": lambda door: None,
}
main.Cell.work = bad
"""

PROGRAM = f"""
import sys
import toka_cli.supervisor.spawn as spawn
before = "from toka_cli.agent.forkserver"
assert spawn._BOOT.count(before) == 1
spawn._BOOT = spawn._BOOT.replace(before, "exec(" + repr({BAD!r}) + "); " + before)
from toka_cli.__main__ import main
sys.exit(main())
"""


def freeze(pid: int) -> int:
    """SIGSTOP to a cell and to whatever is between it and its shim."""
    tree = [pid, *descendants(pid)]
    for each in tree:
        os.kill(each, signal.SIGSTOP)
    return len(tree)


class TokaWithBadCells(Toka):
    @property
    def argv(self) -> list[str]:
        return [sys.executable, "-c", PROGRAM]


@pytest.fixture
def toka(tmp_path: Path) -> Any:
    made = TokaWithBadCells(tmp_path)
    try:
        yield made
    finally:
        made.tear_down()


WANTED = {
    "leaves": "crashed: exit 0 without a word",
    # Which one depends on what its walls let abort(3) do.
    "crashes": "crashed: signal ",
    "stands-still": "unresponsive: no heartbeat for 2s",
    "hangs-up": "protocol: closed its door and went on",
    "talks-nonsense": "protocol: ",
    "stops-in-a-word": "unresponsive: no heartbeat for 2s",
    "lies": "protocol: ",
    "keeps-silent": "unresponsive: no heartbeat for 2s",
    "mute": "spawn: Agent failed to start: no word from its process in 3s",
}


@pytest.mark.parametrize("start_method", ["forkserver", "fresh"])
def test_each_ends_with_its_reason_and_the_neighbours_succeed(toka: Toka, start_method: str) -> None:
    toka.env |= {"TOKA_PROCESS_START_METHOD": start_method, "TOKA_MONITORING_HEARTBEAT_TIMEOUT": "2s", "TOKA_PROCESS_SPAWN_TIMEOUT": "3s"}
    gate = toka.meeting("gate")
    for name in WANTED:
        toka.spec(name, [{"id": "t", "description": name, "run": "true"}], restart={"policy": "never"})
    for name in ("one", "two"):
        toka.spec(name, [{"id": "t", "description": name, "run": "read x < gate"}])
    running = toka.start("orchestrate", toka.root / "specs", "--max-agents", "20", "-o", "jsonl")
    reasons: dict[str, str] = {}
    stopped = 0
    while len(reasons) < len(WANTED):
        event = running.next()
        if event["kind"] == "agent.started" and event["name"] == "stands-still":
            # A cell cannot stop itself here: its walls do not let it send signals. So this test does.
            stopped = freeze(event["pid"])
        if event["kind"] == "agent.failed":
            reasons[event["name"]] = event["reason"]
    assert stopped
    assert {name: reason for name, reason in reasons.items() if not reason.startswith(WANTED[name])} == {}
    assert peak_resident(running.pid) < 300 * MIB
    # What is left below the owner belongs to the two that work: for each a shim, perhaps process 1 of its namespaces, its cell and its command.
    left = [pid for pid in descendants(running.pid) if is_alive(pid)]
    assert len(left) <= 10, left
    for _ in range(2):
        gate.give()
    agents = agents_of(running.wait().expect(1))
    assert {name: agents[name]["state"] for name in ("one", "two")} == {"one": "succeeded", "two": "succeeded"}
    toka.nothing_left()


def test_a_cell_that_floods_its_door_is_slowed_down_and_can_be_stopped(toka: Toka) -> None:
    """It costs the owner time and no memory; whoever works beside it is answered."""
    toka.spec("floods", [{"id": "t", "description": "F", "run": "true"}], security={"resource_limits": {"timeout": "4s"}}, restart={"policy": "never"})
    toka.spec("works", [{"id": f"t{n}", "description": "W", "run": "true"} for n in range(20)])
    agents = agents_of(toka.start("orchestrate", toka.root / "specs", "-o", "jsonl").wait())
    assert agents["works"]["state"] == "succeeded"
    assert agents["floods"]["reason"].startswith(("limit.timeout", "protocol: ", "unresponsive")), agents["floods"]["reason"]
    toka.nothing_left()


def test_a_cell_that_is_bad_again_is_restarted_only_so_often(toka: Toka) -> None:
    toka.env["TOKA_MONITORING_HEARTBEAT_TIMEOUT"] = "1s"
    restart = {"policy": "on-failure", "delay": "10ms", "max_attempts": 2}
    for name in ("keeps-silent", "lies"):
        toka.spec(name, [{"id": "t", "description": "T", "run": "true"}], restart=restart)
    agents = agents_of(toka.start("orchestrate", toka.root / "specs", "-o", "jsonl").wait().expect(1))
    assert {name: agent["restarts"] for name, agent in agents.items()} == {"keeps-silent": 2, "lies": 2}
    toka.nothing_left()
