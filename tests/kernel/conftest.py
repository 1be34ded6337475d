"""A session over a real log, and words to talk to it as any cell could, also one that lies."""

from __future__ import annotations

import random

import msgspec
import pytest

from toka_cli import events as e
from toka_cli.kernel.outputs import AgentLog
from toka_cli.kernel.session import Session
from toka_cli.paths import RunFolder
from toka_cli.plan.plan import PlannedAgent
from toka_cli.protocol import messages as m
from toka_cli.state.log import EventLog

RUN = "a000000000"
AGENT = f"{RUN}-1"


def task(name, **more):
    return m.TaskBrief(id=name, description=name, kind="command", run=("true",), **more)


def planned(*tasks, **more):
    fields = {
        "name": "one", "title": "One", "workstream": "w", "domain": None, "priority": "medium", "branch": None, "depends_on": (), "after": (), "rank": 0,
        "tasks": tasks, "parallel": 4, "grants": (), "grant_values": {}, "declared": (), "limits": m.Limits(), "enforcement": {}, "sandbox": True,
        "gates": (), "promises": (), "metrics": (), "conditional": {}, "restart": "never", "restart_attempts": 0, "restart_delay_s": 0.0,
        "spec_path": "one.yaml", "spec_digest": "0" * 64,
    }  # fmt: skip
    return PlannedAgent(**{**fields, **more})


class Talk:
    """What a cell says, and what it is answered. Everything is durable before the next word."""

    def __init__(self, session, log):
        self.session, self.log = session, log
        self.signs = []

    def __call__(self, method, params):
        answers = []
        self.session.serve(method, params, answers.append)
        # What starts nothing may be answered at once; everything else waits until it is durable.
        assert answers == [] or method in {"agent.hello", "agent.finish"}
        self.log.flush()
        return answers[0] if answers else None

    def hello(self):
        return self("agent.hello", m.Hello(4242, {"level": "process"}))

    def start(self, name, attempt=1):
        return self("attempt.start", m.StartAttempt(name, attempt))

    def finish(self, name, attempt=1, ok=True, reason=None, **outcome):
        return self("attempt.finish", m.FinishAttempt(name, attempt, ok, reason, e.Outcome(**outcome)))

    def write(self, name, data, stream="stdout"):
        return self("task.output", m.Output(name, stream, data))

    def call(self, name, tool="read_file", call_id="c1", **args):
        return self("tool.call", m.CallTool(name, call_id, tool, args))

    def kinds(self):
        """The kinds of all events of the agent, as the state file has them."""
        return [record.event.kind for record in self.records()]

    def records(self):
        rows = self.log._connection.execute(
            "SELECT seq, at, event, agent, task FROM events WHERE agent IS NOT NULL ORDER BY seq"
        ).fetchall()
        return [e.Record(seq, at, msgspec.json.decode(event, type=e.AnyEvent), agent, name) for seq, at, event, agent, name in rows]

    def task(self, name):
        return next(view for view in self.log.agent(AGENT).tasks if view.id == name)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "state" / "runs" / RUN)


@pytest.fixture
def log(folder):
    made = EventLog.create(folder, plan_json=b"{}", spec_text="name: x\n")
    yield made
    made.close()


@pytest.fixture
def make_task():
    return task


@pytest.fixture
def make_planned():
    return planned


@pytest.fixture
def talk(folder, log):
    """Makes a session of one agent with these tasks."""
    outputs = []

    def make(*tasks, **more):
        agent = planned(*(tasks or (task("a"), task("b"))), **more)
        log.append(e.RunCreated(RUN, "/work", "0"))
        log.append(e.RunStarted())
        info = e.AgentInfo(
            agent.name, agent.title, agent.workstream, tasks=tuple(e.TaskInfo(one.id, "d", "command") for one in agent.tasks)
        )
        for event in (e.AgentCreated(info), e.AgentQueued(), e.AgentStarting()):
            log.append(event, agent=AGENT)
        log.flush()
        folder.logs.mkdir(exist_ok=True)
        output = AgentLog(folder.agent_log(AGENT), log.clock, lambda: None)
        outputs.append(output)
        brief = m.AgentBrief(AGENT, agent.name, "/work", agent.tasks, limits=agent.limits)
        made = Talk(None, log)
        session = Session(
            folder=folder, log=log, agent_id=AGENT, held={}, pid=4242, planned=agent, brief=brief, output=output, rng=random.Random(1),
            on_hello=lambda: made.signs.append("hello"), on_finish=lambda: made.signs.append("finish"), on_breach=made.signs.append,
        )  # fmt: skip
        made.session = session
        return made

    yield make
    for output in outputs:
        output.close()
