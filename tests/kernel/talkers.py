"""A session whose model says what a script says, in a loop of its own, over a real state file; and words for what a cell would say to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
from types import SimpleNamespace

from tests.kernel.conftest import AGENT, RUN, planned
from toka_cli import events as e
from toka_cli.kernel.outputs import AgentLog
from toka_cli.kernel.session import Session
from toka_cli.llm.provider import ModelReply
from toka_cli.orchestrator.recovery import requeue
from toka_cli.plan.plan import Plan
from toka_cli.protocol import messages as m
from toka_cli.protocol import talk as t
from toka_cli.state.log import EventLog

TOOLS = ("read_file", "write_file", "list_dir", "run_command")
GRANTS = ("filesystem-read", "filesystem-write", "script-execution")


def prompt_task(name="p", **more):
    return m.TaskBrief(id=name, description="Do it.", kind="prompt", **more)


def reply(*calls, text=None, **more):
    """A model's answer; calls are (tool, arguments), arguments as text or values."""
    listed = [
        {"id": f"c{number}", "type": "function", "function": {"name": tool, "arguments": given if isinstance(given, str) else json.dumps(given)}}
        for number, (tool, given) in enumerate(calls, 1)
    ]
    message = {"role": "assistant", "content": text, **({"tool_calls": listed} if listed else {})}
    return ModelReply(message, "stop", **{"input_tokens": 100, "output_tokens": 10, "cost_usd": 0.01, **more})


def finish(status="success", summary="done", **more):
    return reply(("finish", {"status": status, "summary": summary, **more}))


class ScriptedModels:
    """`script` are replies, errors, or coroutine functions of (models, on_wait, on_delta) that give one, in order."""

    def __init__(self, *script):
        self.script = list(script)
        self.asked = []
        self.left = SimpleNamespace(usd=None, tokens=None, wrap_up=False)
        self.warnings = []
        self.on_ask = lambda: None
        self.began = asyncio.Event()

    async def complete(self, caller, request, *, fallbacks=(), on_wait, on_delta=None):
        self.asked.append((caller, request, fallbacks))
        self.on_ask()
        self.began.set()
        await asyncio.sleep(0)
        step = self.script.pop(0)
        if callable(step):
            step = await step(self, on_wait, on_delta)
        if isinstance(step, Exception):
            raise step
        return step

    def remaining(self, caller):
        return self.left

    def warning(self, caller):
        return self.warnings.pop(0) if self.warnings else None


class Desk:
    """One life of an owner: the log, and one session after the other. Use inside a loop, as a context manager."""

    def __init__(self, folder, agent, models, *, redact=str, on_blocked=lambda _: False, resume=False):
        self.folder, self.agent, self.models = folder, agent, models
        self.redact, self.on_blocked, self.resume = redact, on_blocked, resume
        self.told, self.log, self.session = [], None, None
        self.outputs = []

    def __enter__(self):
        if self.resume:
            self.log = EventLog.open(self.folder)
            plan = Plan((self.agent,), (), (), (), 1, None, False, "/work", (), {})
            requeue(self.log, plan, None)
        else:
            self.log = EventLog.create(self.folder, plan_json=b"{}", spec_text="name: x\n")
            self.log.append(e.RunCreated(RUN, "/work", "0"))
            self.log.append(e.RunStarted())
            tasks = tuple(e.TaskInfo(one.id, one.description, one.kind) for one in self.agent.tasks)
            self.log.append(e.AgentCreated(e.AgentInfo(self.agent.name, self.agent.title, self.agent.workstream, tasks=tasks)), agent=AGENT)
        self.log.flush()
        self.folder.logs.mkdir(exist_ok=True)
        self.begin()
        return self

    def __exit__(self, *_):
        if self.session is not None:
            self.session.abandon()
        for output in self.outputs:
            output.close()
        self.log.close()

    def begin(self):
        """A new cell of the agent; the one before it, if there is one, is gone."""
        if self.session is not None:
            self.session.abandon()
            for task in self.log.agent(AGENT).tasks:
                if str(task.state) in {"running", "retrying"}:
                    self.log.append(e.TaskRequeued(), agent=AGENT, task=task.id)
            self.log.append(e.AgentBackedOff("crashed", 0.0), agent=AGENT)
            self.log.append(e.AgentRequeued(), agent=AGENT)
        else:
            self.log.append(e.AgentQueued(), agent=AGENT)
        self.log.append(e.AgentStarting(), agent=AGENT)
        output = AgentLog(self.folder.agent_log(AGENT), self.log.clock, lambda: None)
        self.outputs.append(output)
        brief = m.AgentBrief(AGENT, self.agent.name, "/work", self.agent.tasks, limits=self.agent.limits)
        self.session = Session(
            folder=self.folder, log=self.log, agent_id=AGENT, held={}, pid=4242, planned=self.agent, brief=brief, output=output, rng=random.Random(1),
            on_hello=lambda: None, on_finish=lambda: None, on_breach=lambda _: None, models=self.models, redact=self.redact,
            tell=lambda method, params: self.told.append((method, params)), on_blocked=self.on_blocked,
        )  # fmt: skip

    # --- what a cell says ---

    def later(self, method, params):
        """A call; the future of its answer."""
        answered = asyncio.get_running_loop().create_future()
        self.session.serve(method, params, lambda answer: answered.set_result(answer) if not answered.done() else None)
        return answered

    async def __call__(self, method, params):
        return await asyncio.wait_for(self.later(method, params), 20)

    async def hello(self):
        return await self("agent.hello", m.Hello(4242, {}))

    async def start(self, task="p", attempt=1):
        return await self("attempt.start", m.StartAttempt(task, attempt))

    async def open(self, task="p", after=0):
        return await self("talk.open", t.OpenTalk(task, after))

    async def up(self, task="p", attempt=1):
        """Hello, attempt, talk."""
        await self.hello()
        assert (await self.start(task, attempt)).go
        return await self.open(task)

    def turn_later(self, turn, *texts, answers=None, task="p", **more):
        roles = ("system", "user") if turn == 1 and len(texts) > 1 else ("user",) * len(texts)
        messages = tuple({"role": role, "content": text} for role, text in zip(roles, texts, strict=True))
        return self.later("talk.turn", t.TakeTurn(task, turn, answers or {}, messages, tools=(*TOOLS, "finish", "ask"), **more))

    async def turn(self, turn, *texts, **more):
        return await asyncio.wait_for(self.turn_later(turn, *texts, **more), 20)

    async def first(self, **more):
        """The first turn."""
        return await self.turn(1, "who", "what", **more)

    async def call(self, call_id, tool, task="p", **args):
        return await self("tool.call", m.CallTool(task, call_id, tool, args))

    async def done(self, call_id, result, ok=True, error=None):
        return await self("tool.done", m.FinishTool(call_id, ok, error, result))

    async def end(self, ok=True, reason=None, attempt=1, task="p", **outcome):
        return await self("attempt.finish", m.FinishAttempt(task, attempt, ok, reason, e.Outcome(**outcome)))

    # --- what is known of it ---

    def durable(self, query, *values):
        """Rows as another program reads them from the file now."""
        with contextlib.closing(sqlite3.connect(f"file:{self.folder.database}?mode=ro", uri=True)) as other:
            return other.execute(query, values).fetchall()

    def kinds(self):
        return [kind for (kind,) in self.durable("SELECT kind FROM events WHERE agent IS NOT NULL ORDER BY seq")]

    def view(self):
        return self.log.agent(AGENT)

    def task(self, task="p"):
        return next(view for view in self.view().tasks if view.id == task)


def agent_of(*tasks, grants=GRANTS, tools=TOOLS, **more):
    """A planned agent with these prompt tasks."""
    return planned(*(tasks or (prompt_task(),)), grants=grants, prompt=m.PromptContext(model="m", tools=tools, fallbacks=("n",)), **more)
