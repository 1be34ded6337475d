"""Durable calls through the door: a real session and a real state file on one side, a bare client on the other."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import subprocess
import sys
import time

import pytest

from toka_cli import events as e
from toka_cli.kernel.kernel import Kernel
from toka_cli.paths import RunFolder, make_state_dir
from toka_cli.plan.plan import PlannedAgent
from toka_cli.protocol import messages as m
from toka_cli.state.log import EventLog

# One task, tried again and again: each attempt is two calls, and each call's answer waits for the disk.
CLIENT = """
import json, socket, sys, time
from toka_cli.protocol import frames, messages as m
door = socket.socket(fileno=int(sys.argv[1]))
count = int(sys.argv[2])
reader = frames.FrameReader()
def call(number, method, params):
    door.sendall(frames.request(method, params, number))
    while True:
        for body in reader.feed(door.recv(65536)):
            frame = frames.decode(body)
            assert frame.id == number and frame.error is None, frame
            return bytes(frame.result)
call(1, "agent.hello", m.Hello(1, {}))
times = []
for attempt in range(1, count // 2 + 1):
    started = time.perf_counter()
    assert call(2 * attempt, "attempt.start", m.StartAttempt("t", attempt)) == b'{"go":true}'
    between = time.perf_counter()
    call(2 * attempt + 1, "attempt.finish", m.FinishAttempt("t", attempt, attempt == count // 2, "exit 1"))
    times += [between - started, time.perf_counter() - between]
print(json.dumps(times))
"""


def planned(name, retries):
    return PlannedAgent(
        name=name, title=name, workstream="w", domain=None, priority="medium", branch=None, depends_on=(), after=(), rank=0,
        tasks=(m.TaskBrief(id="t", description="d", kind="command", run=("true",), retries=retries),), parallel=1, grants=(), grant_values={}, declared=(),
        limits=m.Limits(), enforcement={}, sandbox=True, gates=(), promises=(), metrics=(), conditional={}, restart="never", restart_attempts=0,
        restart_delay_s=0.0, spec_path="x", spec_digest="0" * 64,
    )  # fmt: skip


@pytest.mark.parametrize("cells", [1, 8])
def test_durable_calls(bench, share, cells):
    calls = 4000 // cells * 2
    run = "c000000000"
    log = EventLog.create(RunFolder(make_state_dir(bench.state) / run), plan_json=b"{}", spec_text="{}\n")
    log.folder.logs.mkdir(exist_ok=True)

    async def serve():
        kernel = Kernel(
            folder=log.folder, log=log, workdir="/work", caller={}, python=sys.executable, rng=random.Random(1), on_output=lambda: None
        )
        log.append(e.RunCreated(run, "/work", "0"))
        log.append(e.RunStarted())
        processes = []
        for number in range(1, cells + 1):
            agent, plan = f"{run}-{number}", planned(f"agent-{number}", calls)
            info = e.AgentInfo(plan.name, plan.title, "w", tasks=(e.TaskInfo("t", "d", "command"),))
            for event in (e.AgentCreated(info), e.AgentQueued(), e.AgentStarting()):
                log.append(event, agent=agent)
            ours, theirs = socket.socketpair()
            await kernel.open_agent(ours, plan, agent, 4242, {})
            with theirs:
                argv = [sys.executable, "-c", CLIENT, str(theirs.fileno()), str(calls)]
                processes.append(await asyncio.create_subprocess_exec(*argv, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE))
        wall, cpu = time.perf_counter(), time.process_time()
        outputs = await asyncio.gather(*(process.communicate() for process in processes))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        await log.committed()
        for number in range(1, cells + 1):
            kernel.close_log(f"{run}-{number}")
        return [value for output, _ in outputs for value in json.loads(output)], wall, cpu

    times, wall, cpu = asyncio.run(serve())
    # Every call that was answered is in the file.
    started = log._connection.execute("SELECT COUNT(*) FROM events WHERE kind = 'task.started'").fetchone()[0]
    assert len(times) == calls * cells
    assert started == calls * cells // 2
    assert all(agent.tasks[0].state == "succeeded" for agent in log.view.agents)
    log.close()
    # The clients start their interpreters within the wall time: the rate is that of the calls themselves.
    rate = cells / (sum(times) / len(times))
    bench.record(
        f"durable calls, {cells} cell{'s' if cells > 1 else ''}", p50_ms=round(share(times, 0.5) * 1000, 3), p95_ms=round(share(times, 0.95) * 1000, 3),
        calls_per_s=round(rate), kernel_cpu_us_per_call=round(cpu / len(times) * 1e6, 1), wall_s=round(wall, 2),
    )  # fmt: skip
