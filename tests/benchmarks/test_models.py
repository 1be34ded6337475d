"""What toka itself adds to a turn with a model: the gateway, the cell's protocol and the journal beside the bare exchange; many agents against the ideal; and
how soon the kernel answers while litellm loads. Everything real but the model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toka_cli.llm.child import ProviderSetup
from toka_cli.llm.gateway import Gateway, GatewayPolicy
from toka_cli.llm.limits import RateLimits
from toka_cli.llm.process import ProviderProcess
from toka_cli.llm.provider import Caller, ModelRequest
from toka_cli.llm.redact import Redactor

SERVER = Path(__file__).parents[1] / "llm" / "server.py"
MODEL = "openai/test-model"
TURNS = 110
WARM = 10
"""The first turns are slower for reasons of their own: code is loaded on all sides."""
TICKS = os.sysconf("SC_CLK_TCK")
AGENTS, CALLS, MODEL_S = 50, 4, 0.2
LOOK = {"calls": [{"name": "list_dir", "arguments": {"path": "."}}]}
LOOKS = [{"calls": [{"name": "grep", "arguments": {"pattern": f"number {turn}", "path": "."}}]} for turn in range(TURNS)]
FINISH = {"calls": [{"name": "finish", "arguments": {"status": "success", "summary": "done"}}]}


@contextlib.contextmanager
def serving(tmp_path, script):
    """A model server in a process of its own: its CPU is not counted with ours."""
    path = tmp_path / f"script{len(list(tmp_path.iterdir()))}.json"
    path.write_text(json.dumps(script))
    server = subprocess.Popen([sys.executable, str(SERVER), "--script", str(path)], stdout=subprocess.PIPE, text=True)
    try:
        yield server.stdout.readline().split()[1]
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


@pytest.fixture
def ask(bench):
    """Runs a folder of specs against a server: the events, and what it cost."""

    def run(address, folder, *words):
        bench.env |= {"LLM_BASE_URL": address, "LLM_MODEL": MODEL, "LLM_RATE_LIMIT": "100000"}
        cost, output = bench.run([*bench.toka, "orchestrate", str(folder), "-o", "jsonl", *words])
        return bench.events(output), cost

    return run


def plain():
    return [{"id": "t", "description": "Do it."}], (), {}


def gaps(events, first, then):
    """Milliseconds from each event of a kind to the next event of another one, within a task; None ends nothing."""
    found, since = [], {}
    for event in events:
        key = event.get("agent"), event.get("task")
        if event["kind"] == then and key in since:
            found.append(1000 * (event["at"] - since.pop(key)))
        if event["kind"] == first:
            since[key] = event["at"]
    return found


def stamped(events):
    from datetime import datetime

    return [{**event, "at": event["at"] if isinstance(event["at"], float | int) else datetime.fromisoformat(event["at"]).timestamp()} for event in events]


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def parts(pid, events):
    """Pids of the kernel, the provider process and the cell of a run under way."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    provider = next(child for child in children if b"llm.worker" in Path(f"/proc/{child}/cmdline").read_bytes())
    return {"kernel": pid, "provider": int(provider), "cell": next(event["pid"] for event in events if event["kind"] == "agent.started")}


def test_what_a_turn_costs_beside_the_bare_exchange(bench, share, tmp_path):
    """One agent, one tool call a turn. CPU of each process, and of each turn the time in which the provider side does not work, which is ours."""
    with serving(tmp_path, {"replies": [], "then": {"text": "yes"}}) as address:
        bare, gated = asyncio.run(exchanges(address))
    with serving(tmp_path, {"replies": [*LOOKS, FINISH]}) as address:
        limits = {"capabilities_required": ["filesystem-read"], "resource_limits": {"max_tool_calls": 10 * TURNS}}
        folder = bench.specs({"one": ([{"id": "t", "description": "Do it."}], (), {"security": limits})})
        env = bench.env | {"LLM_BASE_URL": address, "LLM_MODEL": MODEL, "LLM_RATE_LIMIT": "100000"}
        argv = [*bench.toka, "orchestrate", str(folder), "-o", "jsonl"]
        with subprocess.Popen(argv, env=env, cwd=bench.work, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            events, marks = [], []
            for line in process.stdout:
                events.append(json.loads(line))
                if events[-1].get("kind") == "llm.replied" and events[-1]["turn"] in {WARM, TURNS}:
                    marks.append({name: cpu_s(pid) for name, pid in parts(process.pid, events).items()})
    assert process.returncode == 0, events[-1]
    events = stamped(event for event in events if "kind" in event)
    turn = gaps(events, "llm.started", "llm.started")[WARM:]
    asked = gaps(events, "llm.asked", "llm.replied")[WARM:]
    used = {f"{name}_cpu_ms": 1000 * (marks[1][name] - before) / (TURNS - WARM) for name, before in marks[0].items()}
    ours = statistics.median(turn) - statistics.median(asked)
    bench.record("model turn", turn_ms=statistics.median(turn), p95_ms=share(turn, 0.95), ours_ms=ours, **used)
    bare_ms, gated_ms = statistics.median(bare), statistics.median(gated)
    bench.record("model exchange", bare_ms=bare_ms, gateway_ms=gated_ms, ratio=gated_ms / bare_ms, turn_by_bare=statistics.median(turn) / bare_ms)


async def exchanges(address):
    """Milliseconds of exchanges through the provider process alone, and through the gateway, in turn."""
    request = ModelRequest(MODEL, ({"role": "system", "content": "You are careful. " * 120}, {"role": "user", "content": "do it " * 50}))
    bare, gated = [], []
    async with ProviderProcess(ProviderSetup(base_url=address)) as provider:
        gateway = Gateway(
            provider, GatewayPolicy(rates=RateLimits(100_000)), clock=time.time, rng=random.Random(1), secrets=Redactor(["sk-0123456789abcdef"] * 5),
            on_warn=lambda _: None,
        )  # fmt: skip
        for turn in range(TURNS):
            began = time.perf_counter()
            await provider.complete(request)
            bare.append(1000 * (time.perf_counter() - began))
            began = time.perf_counter()
            await gateway.complete(Caller("r-1", "one", "w", "t", 1, turn + 1), request, on_wait=lambda _: None)
            gated.append(1000 * (time.perf_counter() - began))
        await gateway.close()
    return bare[WARM:], gated[WARM:]


def test_fifty_agents_that_mostly_wait_against_the_ideal(bench, ask, tmp_path):
    """Each makes four calls of 200 ms and three tool calls. The ideal is the time of the answers alone, all agents at once."""
    lanes = {f"You are number {number:02}.": [{**LOOK, "delay_s": MODEL_S}] * (CALLS - 1) + [{**FINISH, "delay_s": MODEL_S}] for number in range(AGENTS)}
    specs = {
        f"agent{number:02}": ([{"id": "t", "description": f"You are number {number:02}."}], (), {"security": {"capabilities_required": ["filesystem-read"]}})
        for number in range(AGENTS)
    }
    with serving(tmp_path, {"lanes": lanes}) as address:
        events, cost = ask(address, bench.specs(specs), "--max-agents", str(AGENTS))
    events = stamped(events)
    kinds = [event["kind"] for event in events]
    assert (kinds.count("agent.succeeded"), kinds.count("llm.replied"), kinds.count("tool.done")) == (AGENTS, AGENTS * CALLS, AGENTS * (CALLS - 1))
    started = next(event["at"] for event in events if event["kind"] == "run.started")
    asked = [event["at"] for event in events if event["kind"] == "llm.started"]
    ended = [event["at"] for event in events if event["kind"] == "task.succeeded"]
    ideal_s = CALLS * MODEL_S
    whole_s, talk_s = max(ended) - started, max(ended) - min(asked)
    bench.record(
        "50 agents x 4 calls + 3 tools",
        ideal_s=ideal_s, talk_s=talk_s, whole_s=whole_s, command_s=cost.wall_s, cpu_s=cost.cpu_s, talk_by_ideal=talk_s / ideal_s,
        whole_by_ideal=whole_s / ideal_s,
    )  # fmt: skip


def test_the_kernel_answers_while_litellm_loads(bench, share, tmp_path):
    """The delay of a timer in the kernel's loop while a provider process loads, beside the same loop with nothing to do."""

    async def delays(work):
        found = []
        while not work.done():
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            found.append(1000 * (time.perf_counter() - began - 0.001))
        return found

    async def measure():
        idle = await delays(asyncio.create_task(asyncio.sleep(2.0)))
        provider = ProviderProcess(ProviderSetup(base_url="http://127.0.0.1:1"))
        began = time.perf_counter()
        provider.start()
        loading = await delays(asyncio.create_task(provider.ready()))
        took_s = time.perf_counter() - began
        await provider.close()
        return idle, loading, took_s

    idle, loading, took_s = asyncio.run(measure())
    bench.record(
        "kernel while litellm loads",
        load_s=took_s, p50_ms=share(loading, 0.5), p99_ms=share(loading, 0.99), worst_ms=max(loading), idle_p99_ms=share(idle, 0.99),
        p99_by_idle=share(loading, 0.99) / max(share(idle, 0.99), 0.01),
    )  # fmt: skip


def test_deadlines_of_silent_servers_are_kept(bench, ask, tmp_path):
    """Three requests of 2 s each, and pauses of 1 s and 2 s, give or take 20 %, between them."""
    with serving(tmp_path, {"replies": [], "then": {"fault": "hang"}}) as address:
        bench.env["LLM_TIMEOUT"] = "2s"
        folder = bench.specs({"one": plain()})
        bench.env |= {"LLM_BASE_URL": address, "LLM_MODEL": MODEL}
        done = subprocess.run([*bench.toka, "orchestrate", str(folder), "-o", "jsonl"], env=bench.env, cwd=bench.work, capture_output=True)
        assert done.returncode == 6, done.stderr
    events = stamped(bench.events(done.stdout))
    requests = gaps(events, "llm.asked", "llm.unanswered")
    assert len(requests) == 3
    whole_s = gaps(events, "llm.started", "llm.failed")[0] / 1000
    bench.record("silent server, 2 s", request_by_deadline=max(requests) / 2000, whole_s=whole_s, documented_s=9.0, ratio=whole_s / 9.0)
