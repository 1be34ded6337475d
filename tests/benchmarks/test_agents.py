"""What an agent costs: two hundred of them in layers against make, the time until one works, and the memory each one takes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
from pathlib import Path

import pytest

LAYERS, WIDTH = 20, 10


def layers():
    """{name: names it requires}: each agent of a layer requires every one of the layer before."""
    return {
        f"n{layer:02}-{place}": tuple(f"n{layer - 1:02}-{other}" for other in range(WIDTH)) if layer else ()
        for layer in range(LAYERS)
        for place in range(WIDTH)
    }


def makefile(edges):
    return "\n".join([f"all: {' '.join(edges)}", *(f"{name}: {' '.join(needs)}\n\t@true" for name, needs in edges.items())]) + "\n"


def start_times(events):
    """Seconds from `agent.starting` to `agent.started`, by agent."""
    begun = {event["agent"]: event["at"] for event in events if event["kind"] == "agent.starting"}
    return [seconds(event["at"]) - seconds(begun[event["agent"]]) for event in events if event["kind"] == "agent.started"]


def seconds(at):
    from datetime import datetime

    return at if isinstance(at, float | int) else datetime.fromisoformat(at).timestamp()


def test_two_hundred_agents_in_layers_against_make(bench, medians, share):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    edges = layers()
    folder = bench.specs({name: ([{"run": ["true"]}], needs, {}) for name, needs in edges.items()})
    (bench.work / "Makefile").write_text(makefile(edges))
    starts = []

    def toka():
        cost, output = bench.run([*bench.toka, "orchestrate", str(folder), "-o", "jsonl", "--max-agents", "8"])
        events = bench.events(output)
        kinds = [event["kind"] for event in events]
        assert kinds.count("agent.succeeded") == LAYERS * WIDTH
        assert kinds.count("run.succeeded") == 1
        starts.extend(start_times(events))
        return cost

    found = medians({"make": lambda: bench.run(["make", "-j8"])[0], "toka": toka}, 5)
    assert len(starts) == 5 * LAYERS * WIDTH
    bench.record(
        "200 no-op agents in 20 layers, 8 at once", wall_x_make=round(found["toka"][1] / found["make"][1], 2), wall_s=found["toka"][1],
        make_wall_s=found["make"][1],
        owner_cpu_s=found["toka"][0], ms_per_agent=round(found["toka"][1] * 1000 / (LAYERS * WIDTH), 2),
    )  # fmt: skip
    bench.record(
        "start of an agent, 8 at once",
        p50_ms=round(share(starts, 0.5) * 1000, 2),
        p95_ms=round(share(starts, 0.95) * 1000, 2),
        agents=len(starts),
    )


@pytest.mark.parametrize("count", [50, 200])
def test_agents_one_after_the_other(bench, share, count):
    folder = bench.specs({f"n{n}": ([{"run": ["true"]}], (), {}) for n in range(count)})
    cost, output = bench.run([*bench.toka, "orchestrate", str(folder), "-o", "jsonl", "--max-agents", "1"])
    events = bench.events(output)
    assert sum(event["kind"] == "agent.succeeded" for event in events) == count
    starts = start_times(events)
    bench.record(
        f"start of an agent, 1 at once, {count} agents", p50_ms=round(share(starts, 0.5) * 1000, 2), p95_ms=round(share(starts, 0.95) * 1000, 2),
        wall_ms_per_agent=round(cost.wall_s * 1000 / count, 2), owner_cpu_ms_per_agent=round(cost.cpu_s * 1000 / count, 2),
    )  # fmt: skip


def test_two_hundred_commands_of_one_agent_against_make(bench, medians):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    names = [f"t{n}" for n in range(200)]
    (bench.work / "Makefile").write_text(makefile(dict.fromkeys(names, ())))
    folder = bench.specs({"one": ({"parallel": 8, "default": [{"id": name, "run": ["true"]} for name in names]}, (), {})})

    def toka():
        cost, output = bench.run([*bench.toka, "orchestrate", str(folder), "-o", "jsonl"])
        assert sum(event["kind"] == "task.succeeded" for event in bench.events(output)) == 200
        return cost

    found = medians({"make": lambda: bench.run(["make", "-j8"])[0], "toka": toka}, 5)
    bench.record(
        "200 no-op commands of one agent, 8 at once", wall_x_make=round(found["toka"][1] / found["make"][1], 2), wall_s=found["toka"][1]
    )


def private_bytes(pid):
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Private_"))


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_memory_of_fifty_agents_alive(bench):
    count = 50
    os.mkfifo(bench.work / "go")
    granted = {"security": {"capabilities_required": ["script-execution"]}}
    folder = bench.specs({f"n{n}": ([{"run": "read x < go"}], (), granted) for n in range(count)})
    process = subprocess.Popen(
        [*bench.toka, "orchestrate", str(folder), "-o", "jsonl", "--max-agents", str(count)], env=bench.env, cwd=bench.work, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    pids, working = {}, 0
    try:
        for line in process.stdout:
            event = json.loads(line)
            if event["kind"] == "agent.started":
                pids[event["agent"]] = event["data"]["pid"] if "data" in event else event["pid"]
            working += event["kind"] == "task.started"
            if working == count:
                break
        assert len(set(pids.values())) == count
        cells = [private_bytes(pid) for pid in pids.values()]
        shims = [private_bytes(parent(pid)) for pid in pids.values()]
        server = private_bytes(parent(parent(next(iter(pids.values())))))
        owner = private_bytes(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    mib = 1 << 20
    bench.record(
        "private memory, 50 agents alive (MiB)", cell=round(statistics.median(cells) / mib, 2), shim=round(statistics.median(shims) / mib, 2),
        agent=round(statistics.median(map(sum, zip(cells, shims, strict=True))) / mib, 2), fork_server=round(server / mib, 2), owner=round(owner / mib, 2),
    )  # fmt: skip
    # Every cell is a process of its own: none of them shares what it wrote.
    assert all(cells)
    assert not any(
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3] for pid in pids.values()
    )
