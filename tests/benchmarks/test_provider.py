"""What a provider process costs: its start and the kernel's loop meanwhile, memory, and CPU per exchange on both sides, whole and streamed."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toka_cli.llm.child import ProviderSetup
from toka_cli.llm.process import ProviderProcess
from toka_cli.llm.provider import ModelRequest

SERVER = Path(__file__).parents[1] / "llm" / "server.py"
TICKS = os.sysconf("SC_CLK_TCK")
EXCHANGES = 160
CALL = {"id": "c1", "type": "function", "function": {"name": "read_file", "arguments": "{}"}}
TURN = (
    {"role": "user", "content": "do it " * 50},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "x" * 2000},
)
MESSAGES = ({"role": "system", "content": "You are careful. " * 120}, *TURN * 4)
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}}
TOOLS = tuple({"type": "function", "function": {"name": f"tool{n}", "description": "d" * 100, "parameters": PARAMETERS}} for n in range(12))
MODELS = {"openai": "openai/gpt-4o-mini", "anthropic": "anthropic/claude-sonnet-4-5"}


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


@pytest.fixture
def address(tmp_path):
    """A model server in a process of its own: its CPU is not counted with ours."""
    script = tmp_path / "script.json"
    long = {"text": "word " * 1000, "usage": [1000, 1000], "pieces": 1000}
    script.write_text(json.dumps({"lanes": {"long": [long] * 100, "": []}, "then": {"text": "a reply of some words", "usage": [1000, 20]}}))
    server = subprocess.Popen([sys.executable, str(SERVER), "--script", str(script)], stdout=subprocess.PIPE, text=True)
    yield server.stdout.readline().split()[1]
    server.terminate()
    server.wait()
    server.stdout.close()


def test_a_provider_process(bench, address):
    asyncio.run(measure(bench, address))


async def measure(bench, address):
    provider = ProviderProcess(ProviderSetup(base_url=address))
    began_s = time.perf_counter()
    provider.start()
    start_s = time.perf_counter() - began_s
    ready = asyncio.create_task(provider.ready())
    worst_s = 0.0
    while not ready.done():
        before_s = time.perf_counter()
        await asyncio.sleep(0.001)
        worst_s = max(worst_s, time.perf_counter() - before_s - 0.001)
    await ready
    (pid,) = provider.own_children()
    ready_s = time.perf_counter() - began_s
    bench.record("provider start", start_ms=1000 * start_s, ready_s=ready_s, cpu_s=cpu_s(pid), loop_delay_ms=1000 * worst_s, rss_mb=rss_mb(pid))

    async def exchange(model, stream, system=MESSAGES):
        reply = await provider.complete(ModelRequest(model, system, tools=TOOLS), on_delta=(lambda _: None) if stream else None)
        assert (reply.message["content"] or "").startswith(("a reply", "word"))

    for wire, model in MODELS.items():
        for stream in (False, True):
            await exchange(model, stream)
            theirs_s, ours_s, wall_s = cpu_s(pid), time.process_time(), time.perf_counter()

            async def lane(model=model, stream=stream):
                for _ in range(EXCHANGES // 16):
                    await exchange(model, stream)

            await asyncio.gather(*(lane() for _ in range(16)))
            bench.record(
                f"exchange {wire} {'streamed' if stream else 'whole'}",
                provider_cpu_ms=1000 * (cpu_s(pid) - theirs_s) / EXCHANGES,
                kernel_cpu_ms=1000 * (time.process_time() - ours_s) / EXCHANGES,
                per_s=EXCHANGES / (time.perf_counter() - wall_s),
            )
        theirs_s = cpu_s(pid)
        for _ in range(5):
            await exchange(model, True, ({"role": "user", "content": "long"},))
        bench.record(f"1,000 pieces {wire}", provider_cpu_ms=1000 * (cpu_s(pid) - theirs_s) / 5)
    bench.record("provider memory", rss_mb=rss_mb(pid))
    began_s = time.perf_counter()
    await provider.close()
    bench.record("provider close", wall_ms=1000 * (time.perf_counter() - began_s))
