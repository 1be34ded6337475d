"""Limits of whole process trees, on real trees: who passes one is ended with its reason, and its neighbours do not notice."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LIMIT_S, Toka, ended
from toka_cli.sandbox.tree import descendants
from toka_cli.supervisor.resources import sample_process

MIB = 1 << 20
NOBODY = 65534
PYTHON = f"{sys.executable} -I -S -c"


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def peak_resident(pid: int) -> int:
    """The largest resident set of a process so far, in bytes."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def tree_cpu_s(shim: int) -> float:
    """CPU seconds of a tree, those of the dead included. It is read twice while it stands or grows, and the larger picture is the truer one."""

    def look() -> float:
        waited = sample_process(shim)
        return sum(sample.cpu_s for pid in descendants(shim) if (sample := sample_process(pid))) + (waited.children_cpu_s if waited else 0.0)

    return max(look(), look())


def limited(toka: Toka, name: str, run: str, limits: dict[str, Any], **sections: Any) -> Path:
    more = {"restart": {"policy": "never"}, **sections}
    return toka.spec(name, [{"id": "t", "description": name, "run": run}], security={"resource_limits": limits}, **more)


def agents_of(done: Any) -> dict[str, dict[str, Any]]:
    return {agent["name"]: agent for agent in done.lines[-1]["data"]["run"]["agents"]}


class OrdinaryToka(Toka):
    """The command line run by another user, who may need another interpreter: the one of the tests can lie in a closed home."""

    python = sys.executable

    @property
    def argv(self) -> list[str]:
        return [self.python, "-m", "toka_cli"]


def readable_python(user: dict[str, Any], path: str) -> str | None:
    """An interpreter that the user can start and that finds everything toka needs."""
    for python in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        with contextlib.suppress(OSError):
            program = "import toka_cli.__main__, typer, msgspec, pydantic, yaml, anyio, psutil, rich"
            if subprocess.run([python, "-c", program], capture_output=True, env={"PYTHONPATH": path}, cwd="/", **user).returncode == 0:
                return python
    return None


@pytest.fixture(params=["auto", "polling"])
def limits_by(request: pytest.FixtureRequest, toka: Toka) -> str:
    """The best that this machine has, which may be cgroups, and what is always there."""
    toka.env["TOKA_PROCESS_LIMITS_BY"] = request.param
    return str(request.param)


@pytest.fixture
def ordinary() -> Iterator[tuple[Toka, dict[str, Any]]]:
    """The command line as a user without powers, in a folder of its own: pytest's folders are closed to other users."""
    if os.geteuid() != 0:
        pytest.skip("the tests run as an ordinary user already")
    user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    path = f"{Path(__file__).parents[2]}:{Path(pytest.__file__).parents[1]}"
    python = readable_python(user, path)
    if python is None:
        pytest.skip("no interpreter that another user can read has toka's packages")
    root = Path(tempfile.mkdtemp(prefix="toka-user-"))
    made = OrdinaryToka(root)
    made.python = python
    made.env["PYTHONPATH"] = path
    try:
        yield made, user
    finally:
        made.tear_down()
        shutil.rmtree(root)


def give_away(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        os.chown(path, NOBODY, NOBODY)


# --- memory --------------------------------------------------------------------------------------------------------------------------------

HOG = """(python3 -I -S -c 'import time; x = b"x" * (300 << 20); time.sleep(1000)' & wait $!) & wait $!"""


def memory_breach(toka: Toka, **options: Any) -> None:
    gate = toka.meeting("gate")
    limited(toka, "hog", f"echo last words; {HOG}", {"max_memory": "200MB"})
    neighbours = {"git": "git init -q repo && cd repo && git -c user.name=n -c user.email=n@example.org commit -q --allow-empty -m first && git log --oneline"}
    if shutil.which("node"):
        neighbours["node"] = "node -e 'console.log(new Array(1e6).fill(1).length)'"
    for name, command in neighbours.items():
        limited(toka, name, f"read x < gate; {command}", {"max_memory": "200MB"})
    if options:
        give_away(toka.root)
    running = toka.start("orchestrate", toka.root / "specs", "-o", "jsonl", **options)
    failed = running.event("agent.failed", name="hog")
    assert failed["reason"].startswith("limit.memory: resource limit exceeded: memory usage ")
    for _ in neighbours:
        gate.give()
    agents = agents_of(running.wait().expect(1))
    assert agents["hog"]["peak_memory_bytes"] >= 200 * 10**6
    # A cgroup ends the process, which its command notices; polling stops the tree as a whole.
    assert agents["hog"]["tasks"][0]["state"] in {"failed", "stopped"}
    assert {agents[name]["state"] for name in neighbours} == {"succeeded"}, agents
    toka.nothing_left()
    words = [*toka.argv, "agent", "logs", "hog"]
    logged = subprocess.run(words, env=toka.environment(), cwd=toka.work, capture_output=True, text=True, timeout=LIMIT_S, **options)
    assert "last words" in logged.stdout, logged.stderr


def test_a_grandchild_that_takes_too_much_memory_is_ended_and_its_neighbours_finish(toka: Toka, limits_by: str) -> None:
    memory_breach(toka)


def test_the_same_as_an_ordinary_user(ordinary: tuple[Toka, dict[str, Any]]) -> None:
    memory_breach(ordinary[0], **ordinary[1])


def test_many_small_processes_are_added_up(toka: Toka, limits_by: str) -> None:
    """None of them is above the limit, all of them together are; the peak that is kept is that of the tree."""
    small = f"""{PYTHON} 'import time; x = b"x" * (50 << 20); time.sleep(1000)' & """
    spec = limited(toka, "many", small * 6 + "wait", {"max_memory": "200MB"})
    agent = toka.run(spec, code=1)["agents"][0]
    assert agent["reason"].startswith("limit.memory: resource limit exceeded: memory usage ")
    assert agent["peak_memory_bytes"] >= 200 * 10**6


def test_pages_that_processes_share_are_counted_once(toka: Toka, limits_by: str) -> None:
    """Six processes with the same 100 MB: 600 MB by the sum of their resident sizes, about 110 MB in truth."""
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    source = """
import gc, os
gc.freeze()
x = b"x" * (100 << 20)
children = []
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        assert x[::4096].count(b"x") == 25600  # looked at, not written to: the pages are in its table now
        open("ready", "w").write("up\\n")
        os.read(os.open("gate", os.O_RDONLY), 3)
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
"""
    tasks = [{"id": "t", "description": "T", "code": {"python": source}}]
    spec = toka.spec("shared", tasks, security={"resource_limits": {"max_memory": "200MB"}})
    running = toka.start("orchestrate", spec, "-o", "jsonl")
    started = running.event("agent.started")
    for _ in range(5):
        ready.take()
    resident = sum(sample.resident_bytes for pid in descendants(parent(started["pid"])) if (sample := sample_process(pid)))
    assert resident > 400 * 10**6, "the sum would be over the limit"
    # A sample comes each second, and the governor has looked several times by then.
    look = toka.until(started["run"], lambda look: (look.view.agents[0].memory_bytes or 0) > 100 * 10**6)
    assert look.view.agents[0].memory_bytes < 200 * 10**6
    for _ in range(5):
        gate.give()
    assert agents_of(running.wait().expect(0))["shared"]["state"] == "succeeded"


# --- CPU -----------------------------------------------------------------------------------------------------------------------------------

BUSY = "while :; do :; done"


def test_a_tree_gets_its_share_of_cpu_and_not_more(toka: Toka, limits_by: str) -> None:
    """The bound is one of correctness: over five seconds no tree may have had more than its share and a tenth, however many processes it is."""
    ready = toka.meeting("ready")
    limited(toka, "one", f"echo one > ready; {BUSY}", {"max_cpu": "50%"})
    limited(toka, "four", f"for i in 1 2 3 4; do ({BUSY}) & done; echo four > ready; wait", {"max_cpu": "50%"})
    # Children that end all the time: what they used must not be forgotten.
    limited(toka, "short", f"echo short > ready; while :; do {PYTHON} 'x = sum(range(2000000))'; done", {"max_cpu": "50%"})
    running = toka.start("orchestrate", toka.root / "specs", "-o", "jsonl")
    shims = {}
    while len(shims) < 3:
        event = running.event("agent.started")
        shims[event["name"]] = parent(event["pid"])
    for _ in shims:
        ready.take()
    before = {name: (time.monotonic(), tree_cpu_s(shim)) for name, shim in shims.items()}
    assert not ended(running.pid, 5.0), "the five seconds that are measured"
    for name, shim in shims.items():
        since, used = before[name]
        share = (tree_cpu_s(shim) - used) / (time.monotonic() - since)
        assert 0.02 < share <= 0.60, (name, share)
    # Held back, it still obeys at once: it is asked, and that is enough.
    stopped = toka("agent", "stop", "one", "four", "short", "-o", "json").expect(0).envelope["data"]["stopped"]
    assert {each["rung"] for each in stopped} == {"asked"}
    running.wait().expect(1)
    toka.nothing_left()


def test_a_tree_that_is_held_back_reaches_its_time_limit(toka: Toka) -> None:
    agent = toka.run(limited(toka, "late", f"({BUSY}) & {BUSY}", {"max_cpu": "5%", "timeout": "1s"}), code=1)["agents"][0]
    assert agent["reason"].startswith("limit.timeout")
    spec = toka.spec("task", [{"id": "t", "description": "T", "run": BUSY, "timeout": "1s"}], security={"resource_limits": {"max_cpu": "5%"}})
    assert toka.run(spec, code=1)["agents"][0]["tasks"][0]["reason"].startswith("limit.task_timeout")
    toka.nothing_left()


SHAPES = {"one": BUSY, "four": f"for i in 1 2 3 4; do ({BUSY}) & done; wait"}
MEASURED_S = 10.0


def prefer(root: int) -> None:
    """Let a tree have what it is allowed to have although others keep the machine busy: before other sessions and groups. Only root may."""
    for pid in (root, *descendants(root)):
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text("-19")
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, -19)
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            for file, most in ((f"/sys/fs/cgroup/cpu{path}/cpu.shares", "262144"), (f"/sys/fs/cgroup{path}/cpu.weight", "10000")):
                if "toka-" in path and ("cpu" in names.split(",") or not names):
                    with contextlib.suppress(OSError):
                        Path(file).write_text(most)


def idle_s() -> float:
    """Seconds that all processors together had nothing to do since the machine started (proc(5), /proc/stat)."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(words[4]) + int(words[5])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_busy_tree_gets_what_it_was_promised(toka: Toka, limits_by: str, shape: str) -> None:
    """By the kernel's account over ten seconds: never more than the share and a tenth of a core, and no less than the share less a tenth, as long as the
    machine had a processor to spare for it."""
    ready = toka.meeting("ready")
    spec = limited(toka, "busy", f"echo up > ready; {SHAPES[shape]}", {"max_cpu": "75%"})
    running = toka.start("orchestrate", spec, "-o", "jsonl", start_new_session=True)
    shim = parent(running.event("agent.started")["pid"])
    ready.take()
    # The owner too: it holds the limit by looking, and must not starve beside a tree that is preferred.
    prefer(running.pid)
    began, used, idle = time.monotonic(), tree_cpu_s(shim), idle_s()
    assert not ended(running.pid, MEASURED_S), "the ten seconds that are measured"
    passed = time.monotonic() - began
    share, spare = (tree_cpu_s(shim) - used) / passed, (idle_s() - idle) / passed
    toka("agent", "stop", "busy").expect(0)
    running.wait().expect(1)
    assert share <= 0.85
    if share < 0.65 and spare < 0.3:
        pytest.skip(f"not more than its share ({share:.2f}); whether not less cannot be said: others kept this machine busy")
    assert share >= 0.65


# --- disk ----------------------------------------------------------------------------------------------------------------------------------

HOARD = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do head -c 1000000 /dev/urandom > {where}/hoard-$i; done"


@pytest.mark.parametrize("where", [".", "$HOME", "$TMPDIR"])
def test_the_files_of_an_agent_are_added_up(toka: Toka, where: str) -> None:
    """In its workspace and in its private folders; none of them is larger than the limit, all together are."""
    limited(toka, "hoarder", f"echo last words; {HOARD.format(where=where)}; exec sleep 1000", {"max_disk_usage": "5MB"})
    limited(toka, "modest", f"{HOARD.format(where=where).replace('hoard-', 'few-')}", {"max_disk_usage": "50MB"})
    running = toka.start("orchestrate", toka.root / "specs", "-o", "jsonl")
    failed = running.event("agent.failed", name="hoarder")
    assert failed["reason"].startswith("limit.disk: resource limit exceeded: disk usage "), failed
    assert "> limit 5 MB" in failed["reason"]
    agents = agents_of(running.wait().expect(1))
    assert agents["modest"]["state"] == "succeeded"
    assert agents["hoarder"]["isolation"]["limits"]["disk"] == "sampled"
    assert agents["hoarder"]["tasks"][0]["output"] == "last words\n"
    toka.nothing_left()


def test_what_was_there_before_and_what_was_removed_is_not_counted(toka: Toka) -> None:
    (toka.work / "old").write_bytes(os.urandom(20 << 20))
    command = "for i in 1 2 3 4 5 6 7 8; do head -c 2000000 /dev/urandom > tmp; rm tmp; done; head -c 2000000 /dev/urandom > kept"
    agent = toka.run(limited(toka, "tidy", command, {"max_disk_usage": "5MB"}))["agents"][0]
    assert agent["state"] == "succeeded"


def test_one_file_that_is_too_large_is_named_as_what_it_is(toka: Toka) -> None:
    agent = toka.run(limited(toka, "large", "exec head -c 20000000 /dev/zero > big", {"max_disk_usage": "5MB"}), code=1)["agents"][0]
    assert "limit.disk: resource limit exceeded: " in agent["reason"]
    assert (toka.work / "big").stat().st_size <= 5 << 20


def test_the_plan_says_how_the_disk_is_held(toka: Toka) -> None:
    plan = toka("orchestrate", "--plan", limited(toka, "one", "true", {"max_disk_usage": "5MB"}), "-o", "json").expect(0).envelope["data"]
    assert plan["plan"]["agents"][0]["enforcement"]["disk"] == "sampled"
    assert not [warning for warning in plan["warnings"] if "max_disk_usage" in warning]


# --- everything at once ----------------------------------------------------------------------------------------------------------------------


def test_bad_agents_end_each_with_its_reason_and_the_neighbour_succeeds(toka: Toka, limits_by: str) -> None:
    gate = toka.meeting("gate")
    limited(toka, "bomb", "f() { if [ $1 -gt 0 ]; then f $(($1 - 1)) & f $(($1 - 1)) & fi; sleep 20; }; f 7", {"max_processes": 40})
    limited(toka, "flood", "head -c 1000000000 /dev/zero", {"max_output": "5MB"})
    limited(toka, "yes", "yes", {"max_output": "5MB"})
    limited(toka, "sleeper", "exec sleep 100000", {"timeout": "500ms"})
    limited(toka, "hoarder", "while :; do head -c 1000000 /dev/zero >> hoard; done", {"max_disk_usage": "20MB"})
    limited(toka, "healthy", "read x < gate", {"max_memory": "200MB", "max_cpu": "50%", "max_processes": 10})
    wanted = {
        "bomb": "limit.processes: resource limit exceeded: ",
        "flood": ("task_failed: t: limit.output: ", "limit.output: "),
        "yes": ("task_failed: t: limit.output: ", "limit.output: "),
        "sleeper": "limit.timeout: ",
        "hoarder": ("task_failed: t: ", "limit.disk: "),
    }
    running = toka.start("orchestrate", toka.root / "specs", "-o", "jsonl")
    reasons = {}
    while len(reasons) < len(wanted):
        event = running.event("agent.failed")
        reasons[event["name"]] = event["reason"]
    assert {name: reason for name, reason in reasons.items() if not reason.startswith(wanted[name])} == {}
    assert peak_resident(running.pid) < 300 * MIB
    # All of theirs is gone while the run goes on: its own processes, the healthy shim, cell and command (and process 1 of its namespaces) are what is left.
    tree = descendants(running.pid)
    assert len(tree) <= 6, tree
    gate.give()
    agents = agents_of(running.wait().expect(1))
    assert agents["healthy"]["state"] == "succeeded"
    assert {agents[name]["state"] for name in wanted} == {"failed"}
    toka.nothing_left()


def test_a_healthy_cell_outlives_a_short_heartbeat(toka: Toka) -> None:
    """Cells beat as often as the setting needs; a command that says nothing for longer than that is no hung cell."""
    toka.env["TOKA_MONITORING_HEARTBEAT_TIMEOUT"] = "1s"
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    running = toka.start("orchestrate", limited(toka, "quiet", "echo up > ready; read x < gate", {}), "-o", "jsonl")
    running.event("task.started")
    ready.take()
    assert not ended(running.pid, 2.5), "the silence that is meant"
    gate.give()
    running.wait().expect(0)


def test_a_cell_that_its_own_command_ends_is_no_success(toka: Toka) -> None:
    """Where walls stand between them, it cannot; without any, it can."""
    source = "import os, signal; os.kill(os.getppid(), signal.SIGTERM)"
    spec = toka.spec("gone", [{"id": "t", "description": "T", "code": {"python": source}}], restart={"policy": "never"})
    agent = toka.run(spec, "--no-sandbox", code=1)["agents"][0]
    assert agent["reason"] == f"crashed: signal {int(signal.SIGTERM)}"
