"""Hostile process trees, counted: whatever ends an agent, nothing that it started is left. Not a measure of speed; many trials are too long for every run."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Toka, ended

TRIALS = 12

# Each kind says on the pipe that it is there. `chain` is somebody else every millisecond; none is found by parent, group, session, environment or directory.
TREE = """
import os, signal, sys, time
ready, kinds = os.open(sys.argv[1], os.O_WRONLY), sys.argv[2].split(",")

def up():
    os.write(ready, b"up\\n")

def sleep():
    while True:
        signal.pause()

def session():
    os.setsid()
    up()
    sleep()

def orphan():
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    up()
    sleep()

def deaf():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    os.setpgid(0, 0)
    up()
    sleep()

def chain():
    up()
    while True:
        if os.fork():
            os._exit(0)
        os.setsid()
        time.sleep(0.001)

def bare():
    os.chdir("/")
    os.setsid()
    if os.fork():
        os._exit(0)
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", "import os, signal; os.write(%d, b'up\\\\n'); signal.pause()" % ready, sys.argv[0]], {})

def widening():
    up()
    for _ in range(8):
        if os.fork() == 0:
            os.setsid()
    sleep()

os.set_inheritable(ready, True)
for kind in kinds:
    if os.fork() == 0:
        globals()[kind]()
if sys.argv[3] == "stay":
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.pause()
open(sys.argv[4]).readline()
"""
KINDS = ("session", "orphan", "deaf", "chain", "bare", "widening")


def marked(mark: str) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                if mark.encode() in Path(f"/proc/{entry}/cmdline").read_bytes():
                    found.append(int(entry))
            except OSError:
                continue
    return found


def nothing_left(mark: str) -> bool:
    """True once nothing is there in three looks running: what forks every millisecond can be missed by one."""
    give_up, quiet = time.monotonic() + 20, 0
    while quiet < 3:
        left = marked(mark)
        quiet = 0 if left else quiet + 1
        for pid in left:
            ended(pid, 0.5)
        if time.monotonic() > give_up:
            return False
    return True


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def toka(tmp_path):
    """The command line in a folder beside that of `bench`."""
    root = tmp_path / "toka"
    root.mkdir()
    made = Toka(root)
    yield made
    made.tear_down()


@pytest.mark.parametrize("end", ["stop", "force", "natural", "kill owner", "kill fork server and owner", "kill shim", "pause and kill owner"])
def test_nothing_of_a_hostile_tree_is_left(toka, bench, end):
    toka.env["TOKA_PROCESS_SHUTDOWN_GRACE_PERIOD"] = "1s"
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    script = toka.work / "hostile-tree.py"
    script.write_text(TREE)
    mark, escaped = str(script), 0
    stay = "leave" if end == "natural" else "stay"
    for trial in range(TRIALS):
        # One kind alone in turn, and all together every other time.
        kinds = KINDS if trial % 2 else (KINDS[trial // 2 % len(KINDS)],)
        run = [sys.executable, "-I", "-S", mark, str(ready.path), ",".join(kinds), stay, str(gate.path)]
        spec = toka.spec("bad", [{"id": "t", "description": "T", "run": run}], restart={"policy": "never"})
        running = toka.start("orchestrate", spec, "-o", "jsonl")
        cell = running.event("agent.started")["pid"]
        for _ in kinds:
            ready.take()
        # One that is somebody else every millisecond can be missed by a look.
        assert any(len(marked(mark)) > len(kinds) for _ in range(100))
        shim = parent(cell)
        server = parent(shim)
        if end == "stop":
            toka("agent", "stop", "bad").expect(0)
        elif end == "force":
            toka("agent", "stop", "bad", "--force").expect(0)
        elif end == "natural":
            gate.give()
        elif end == "kill shim":
            os.kill(shim, signal.SIGKILL)
        else:
            if end == "pause and kill owner":
                toka("agent", "pause", "bad", "--hard").expect(0)
            if end == "kill fork server and owner":
                os.kill(server, signal.SIGKILL)
            running.process.kill()
        running.wait()
        escaped += not nothing_left(mark)
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
    bench.record(f"hostile trees: {end}", trials=TRIALS, escaped=escaped)
    assert escaped == 0
