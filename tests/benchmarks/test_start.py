"""What a user waits for before anything happens: the start of commands, in units of `python -c pass`, and the first output of a run."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from toka_cli import events as e
from toka_cli.paths import RunFolder, make_state_dir
from toka_cli.state.log import EventLog

ROUNDS = 11


def finished_runs(state, count):
    """Runs of three agents with two tasks each, as the owner leaves them."""
    runs = make_state_dir(state)
    for number in range(count):
        run = f"b{number:09}"
        # A quarter of a second between events: what takes microseconds is no run that anybody has.
        ticks = itertools.count(1_780_000_000 + number * 100)
        with EventLog.create(RunFolder(runs / run), plan_json=b"{}", spec_text="{}\n", clock=lambda ticks=ticks: next(ticks) / 4) as log:
            log.append(e.RunCreated(run, "/work", "0"))
            log.append(e.RunStarted())
            for index in (1, 2, 3):
                agent = f"{run}-{index}"
                info = e.AgentInfo(
                    f"agent-{index}", "An agent", "w", tasks=tuple(e.TaskInfo(name, "d", "command") for name in ("t1", "t2"))
                )
                for event in (e.AgentCreated(info), e.AgentQueued(), e.AgentStarting(), e.AgentStarted(4242)):
                    log.append(event, agent=agent)
                for name in ("t1", "t2"):
                    log.append(e.TaskStarted(), agent=agent, task=name)
                    log.append(e.TaskSucceeded(e.Outcome(exit_code=0)), agent=agent, task=name)
                log.append(e.AgentExited(exit_code=0), agent=agent)
                log.append(e.AgentSucceeded(), agent=agent)
            log.append(e.RunSucceeded())


@pytest.mark.parametrize("runs", [0, 50])
def test_commands_that_only_tell(bench, medians, runs):
    finished_runs(bench.state, runs)
    commands = {
        "--help": ["--help"],
        "--version": ["--version"],
        "agent list": ["agent", "list"],
        "agent list -o json": ["agent", "list", "-o", "json"],
        "agent list --all -o json": ["agent", "list", "--all", "-o", "json"],
        "run list": ["run", "list"],
    }
    # What is told has to be true before it may be quick.
    assert b"orchestrate" in bench.run([*bench.toka, "--help"])[1]
    assert len(json.loads(bench.run([*bench.toka, "agent", "list", "--all", "-o", "json"])[1])["data"]["agents"]) == 3 * runs
    assert json.loads(bench.run([*bench.toka, "agent", "list", "-o", "json"])[1])["data"]["agents"] == []
    calls = {name: lambda words=words: bench.run([*bench.toka, *words])[0] for name, words in commands.items()}
    calls["python -c pass"] = lambda: bench.run([sys.executable, "-c", "pass"])[0]
    found = medians(calls, ROUNDS)
    base_cpu, base_wall = found.pop("python -c pass")
    for name, (cpu, wall) in found.items():
        bench.record(
            f"toka {name} ({runs} runs)",
            cpu_x_python=round(cpu / base_cpu, 2),
            wall_x_python=round(wall / base_wall, 2),
            cpu_ms=round(cpu * 1000, 1),
        )
    bench.record("python -c pass", cpu_ms=round(base_cpu * 1000, 1), wall_ms=round(base_wall * 1000, 1))


def cpu_s(pid):
    """CPU seconds of a process's main thread, in nanosecond steps; the ticks of /proc/PID/stat are too coarse here."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def test_first_output_and_first_agent_of_nine_specs(bench):
    names = [f"agent-{n}" for n in range(9)]
    task = {"description": "say hello", "run": ["echo", "hello"]}
    folder = bench.specs({name: ([task] * 3, () if name == names[0] else (names[0],), {}) for name in names})
    first, running, whole = [], [], []
    for _ in range(7):
        process = subprocess.Popen(
            [*bench.toka, "orchestrate", str(folder), "-o", "jsonl"], env=bench.env, cwd=bench.work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        kinds = []
        for line in process.stdout:
            kinds.append(json.loads(line).get("kind"))
            if len(kinds) == 1:
                first.append(cpu_s(process.pid))
            if kinds[-1] == "agent.started" and kinds.count("agent.started") == 1:
                running.append(cpu_s(process.pid))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        whole.append(usage.ru_utime + usage.ru_stime)
        assert process.returncode == 0
        assert kinds.count("agent.succeeded") == 9
    bench.record(
        "orchestrate, 9 specs of 3 tasks",
        first_output_cpu_s=statistics.median(first), first_agent_cpu_s=statistics.median(running), whole_owner_cpu_s=statistics.median(whole),
    )  # fmt: skip
