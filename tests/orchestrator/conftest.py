"""A whole run without processes: a real plan, log, kernel and orchestrator, and cells that are small coroutines on real doors."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys
from itertools import count

import pytest

from toka_cli import events as e
from toka_cli.errors import Unavailable
from toka_cli.ids import agent_id
from toka_cli.kernel.kernel import Kernel
from toka_cli.orchestrator.cell_watch import Patience
from toka_cli.orchestrator.orchestrator import Orchestrator, create_events
from toka_cli.paths import RunFolder
from toka_cli.plan.plan import Plan, PlannedAgent
from toka_cli.protocol import frames
from toka_cli.protocol import messages as m
from toka_cli.protocol.methods import TO_KERNEL, read
from toka_cli.state.log import EventLog

RUN = "a000000000"


class FakeCell:
    """A cell whose tree is one coroutine."""

    def __init__(self, number, request):
        loop = asyncio.get_running_loop()
        self.pid = 1000 + number
        self.request = request
        self.ended, self.breached = loop.create_future(), loop.create_future()
        self.door, self.inside = socket.socketpair()
        self.inside.setblocking(False)
        self.orders, self.heard = [], []
        self.deaf = False
        self.last_words = self.proxy_listener = None
        self.exited = False
        self._reader, self._bodies, self._ids = frames.FrameReader(), [], count(1)

    def order(self, order):
        self.orders.append(order)
        if not self.ended.done() and (order == "kill" or not self.deaf):
            self.end(m.Exit(signal=9 if order == "kill" else 15))

    def end(self, how):
        if not self.ended.done():
            self.ended.set_result(how)
            self.inside.close()

    def release(self):
        self.orders.append("release")

    def freeze(self):
        self.orders.append("freeze")

    def thaw(self):
        self.orders.append("thaw")

    def limits_held(self):
        return {}

    def usage(self):
        return None, None

    async def settle(self):
        if self.last_words is not None and not self.breached.done():
            self.breached.set_result(self.last_words)

    # --- what its coroutine can do ---

    async def call(self, method, params):
        """A call and its answer; orders of the kernel that come in between are kept in `heard`."""
        number = next(self._ids)
        await asyncio.get_running_loop().sock_sendall(self.inside, frames.request(method, params, number))
        while (frame := await self.frame()).method is not None:
            self.heard.append(frame.method)
        assert frame.id == number
        return read(TO_KERNEL[method].result, frame.result)

    async def say(self, method, params):
        """A notification."""
        await asyncio.get_running_loop().sock_sendall(self.inside, frames.request(method, params))

    async def frame(self):
        while not self._bodies:
            data = await asyncio.get_running_loop().sock_recv(self.inside, 1 << 16)
            if not data:
                raise ConnectionError("the kernel hung up")
            self._bodies += self._reader.feed(data)
        return frames.decode(self._bodies.pop(0))

    async def told(self, method):
        """Wait for an order."""
        while method not in self.heard:
            self.heard.append((await self.frame()).method)

    async def attempt(self, task, ok=True, attempt=1, **outcome):
        await self.call("attempt.start", m.StartAttempt(task, attempt))
        return await self.call("attempt.finish", m.FinishAttempt(task, attempt, ok, None if ok else "exit 1", e.Outcome(**outcome)))


async def honest(cell):
    """What a cell does whose tasks all go well."""
    brief = await cell.call("agent.hello", m.Hello(cell.pid, {}))
    for task in brief.tasks:
        await cell.attempt(task.id)
    await cell.call("agent.finish", m.FinishAgent())


async def failing(cell):
    brief = await cell.call("agent.hello", m.Hello(cell.pid, {}))
    await cell.attempt(brief.tasks[0].id, ok=False)
    for task in brief.tasks[1:]:
        await cell.call("task.skip", m.SkipTask(task.id, "x"))
    await cell.call("agent.finish", m.FinishAgent())


class FakeBackend:
    """Starts cells; `acts[agent name]` is the coroutine of its next cell (a list: one for each life)."""

    def __init__(self):
        self.acts, self.cells, self.tasks = {}, [], []
        self.alive = self.most = 0
        self.refusals, self.weaker, self.short = [], [], None

    def troubles(self):
        said, self.weaker = self.weaker, []
        return said

    def shortage(self, places):
        return self.short

    async def start(self, request, cell_log):
        if self.refusals:
            raise self.refusals.pop(0)
        cell = FakeCell(len(self.cells), request)
        cell.name = request.environment["AGENT_NAME"]
        self.cells.append(cell)
        act = self.acts.get(cell.name, honest)
        if isinstance(act, list):
            act = act.pop(0)
        self.alive += 1
        self.most = max(self.most, self.alive)
        cell.ended.add_done_callback(self._ended)
        self.tasks.append(asyncio.get_running_loop().create_task(self._play(cell, act)))
        return cell

    def _ended(self, _):
        self.alive -= 1

    async def _play(self, cell, act):
        code = 0
        try:
            code = await act(cell) or 0
        except (ConnectionError, OSError):
            code = 3
        finally:
            cell.end(m.Exit(exit_code=code))

    def names(self):
        return [cell.name for cell in self.cells]


def planned(name, needs=(), after=(), rank=0, tasks=("t1",), **more):
    fields = {
        "name": name, "title": name, "workstream": name, "domain": None, "priority": "medium", "branch": None, "depends_on": tuple(needs),
        "after": tuple(after), "rank": rank, "tasks": tuple(m.TaskBrief(id=task, description=task, kind="command", run=("true",)) for task in tasks),
        "parallel": 1, "grants": (), "grant_values": {}, "declared": (), "limits": m.Limits(), "enforcement": {}, "sandbox": True, "gates": (),
        "promises": (), "metrics": (), "conditional": {}, "restart": "never", "restart_attempts": 0, "restart_delay_s": 0.0,
        "spec_path": f"{name}.yaml", "spec_digest": "0" * 64,
    }  # fmt: skip
    return PlannedAgent(**{**fields, **more})


class Run:
    def __init__(self, tmp_path, log, backend, agents, **options):
        self.log, self.backend = log, backend
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        fields = {"max_agents": 8, "timeout_s": None, "fail_fast": False} | {
            key: options.pop(key) for key in ("max_agents", "timeout_s", "fail_fast") if key in options
        }
        self.plan = Plan(
            agents=tuple(agents), waves=(), critical_path=(), left_out=(), workdir=str(work), warnings=(), options={}, **fields
        )
        log.folder.logs.mkdir(exist_ok=True)
        create_events(self.plan, log, RUN, (), "0")
        kernel = Kernel(
            folder=log.folder, log=log, workdir=str(work), caller={}, python=sys.executable, rng=random.Random(1), on_output=lambda: None
        )
        patience = options.pop("patience", Patience(spawn_s=60.0, heartbeat_s=60.0))
        self.orchestrator = Orchestrator(self.plan, log, kernel, backend, patience, grace_s=options.pop("grace_s", 60.0), **options)

    def agent(self, name):
        index = [agent.name for agent in self.plan.agents].index(name)
        return self.log.agent(agent_id(RUN, index + 1))

    def states(self):
        return {agent.name: str(agent.state) for agent in self.log.view.agents}

    async def until(self, name, state):
        """Wait until an agent is in a state, by the log's own news."""
        await self.when(lambda: str(self.agent(name).state) == state)

    async def when(self, wanted):
        """Wait until something is so, by the log's own news."""
        changed = asyncio.Event()
        with contextlib.ExitStack() as stack:
            stack.callback(self.log.subscribe(lambda _: changed.set()))
            while not wanted():
                changed.clear()
                await asyncio.wait_for(changed.wait(), 30)


@pytest.fixture
def backend():
    return FakeBackend()


@pytest.fixture
def orchestrate(tmp_path, backend):
    """Runs agents to the end. `beside(run)` is a coroutine that acts while they run. Returns the Run."""
    logs = []

    def start(*agents, beside=None, **options):
        log = EventLog.create(RunFolder(tmp_path / "state" / "runs" / RUN), plan_json=b"{}", spec_text="x: 1\n")
        logs.append(log)

        async def main():
            run = Run(tmp_path, log, backend, agents, **options)
            helping = asyncio.ensure_future(beside(run)) if beside else None
            await asyncio.wait_for(run.orchestrator.run(), 60)
            if helping:
                await asyncio.wait_for(helping, 30)
            await asyncio.gather(*backend.tasks)
            return run

        return asyncio.run(main())

    yield start
    for log in logs:
        log.close()


@pytest.fixture
def make():
    return planned


@pytest.fixture
def acts():
    return {"honest": honest, "failing": failing}


@pytest.fixture
def crowded():
    error = Unavailable("fork: Resource temporarily unavailable")
    error.retryable = True
    return error
