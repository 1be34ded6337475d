"""A manager with real cells in a process of its own: it is a subreaper and ends every stray child, which a test runner must not be."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import asyncio, json, os, random, select, signal, socket, sys, time
from pathlib import Path
from toka_cli.errors import Unavailable
from toka_cli.protocol import frames, messages as m
from toka_cli.protocol.methods import TO_KERNEL
from toka_cli.protocol.peer import Peer
from toka_cli.sandbox import tree
from toka_cli.supervisor.manager import AgentProcessManager

ROOT = Path.cwd()
METHOD = sys.argv[1]
HELD, HOLD = os.pipe()

def request(name="r-1", **more):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(ROOT), "AGENT_NAME": name}
    return m.SpawnRequest("r", name, environment, str(ROOT), owner_pid=os.getpid(), **more)

class Kernel:
    '''Plays the kernel for one cell: hands out these tasks, says yes to everything, keeps what it heard.'''
    def __init__(self, cell, *runs, name="r-1", limits=m.Limits(), parallel=1):
        self.cell, self.heard, self.outcomes, self.output = cell, [], {}, b""
        self.written = asyncio.Event()
        tasks = tuple(m.TaskBrief(id=f"t{n}", description="d", kind="command", run=run) for n, run in enumerate(runs, 1))
        self.brief = m.AgentBrief(name, name, str(ROOT), tasks, parallel=parallel, limits=limits, python=sys.executable)
        self.hello = asyncio.get_running_loop().create_future()
        self.finished = asyncio.Event()
        self.broken = None
        self.peer = Peer(TO_KERNEL, self.serve, on_broken=lambda why: setattr(self, "broken", why), on_closed=lambda: None)
    async def open(self):
        self.cell.door.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: self.peer, sock=self.cell.door)
        return self
    def serve(self, method, params, answer):
        self.heard.append(method)
        match params:
            case m.Hello():
                self.hello.set_result(params)
                answer(self.brief)
            case m.StartAttempt():
                answer(m.Go(go=True))
            case m.FinishAttempt():
                self.outcomes[params.task] = params
                answer(m.Verdict("succeeded" if params.ok else "failed"))
            case m.Output():
                self.output += params.data
                self.written.set()
            case m.SkipTask():
                answer(m.Ack())
            case m.FinishAgent():
                self.finished.set()
                answer(m.Ack())
    async def until(self, text):
        while text not in self.output:
            self.written.clear()
            await asyncio.wait_for(self.written.wait(), 60)

async def start(manager, *runs, name="r-1", limits=m.Limits(), parallel=1, **more):
    cell = await manager.start(request(name, limits=limits, **more), ROOT / f"{name}.log")
    kernel = await Kernel(cell, *runs, name=name, limits=limits, parallel=parallel).open()
    return cell, kernel

async def end(cell):
    return await asyncio.wait_for(asyncio.shield(cell.ended), 60)

def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

async def gone(pid):
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ready = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ready.set)
    try:
        await asyncio.wait_for(ready.wait(), 30)
        return True
    except TimeoutError:
        return False
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)

def play(main):
    result = asyncio.run(main())
    print(json.dumps(result))
"""


@pytest.fixture(params=["forkserver", "fresh"])
def start_method(request):
    return request.param


@pytest.fixture
def with_manager(tmp_path):
    """Runs the body of `async def main()` with PRELUDE's names in a process of its own; what it returned, as JSON."""

    def run(body, method="forkserver", check=True):
        program = PRELUDE + "async def main():\n" + textwrap.indent(textwrap.dedent(body), "    ") + "\nplay(main)\n"
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", program, method], capture_output=True, text=True, timeout=110, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        if check:
            assert "Warning" not in done.stderr, done.stderr
            assert "Traceback" not in done.stderr, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
