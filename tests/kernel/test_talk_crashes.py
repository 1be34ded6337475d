"""A real cell with a real session, killed at every step of a conversation: no effect is repeated, none is missing without a word, and the task still succeeds.

In a process of its own: the manager of cells is a subreaper, which a test runner must not be.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = r"""
import asyncio, json, os, random, signal, sys
from pathlib import Path
from tests.kernel.talkers import ScriptedModels, TOOLS, agent_of, finish, prompt_task, reply
from tests.kernel.conftest import AGENT, RUN
from toka_cli import events as e
from toka_cli.kernel.outputs import AgentLog
from toka_cli.kernel.session import Session
from toka_cli.lifecycle import TASK_FINAL
from toka_cli.paths import RunFolder
from toka_cli.protocol import messages as m
from toka_cli.protocol.methods import TO_KERNEL
from toka_cli.protocol.peer import Peer
from toka_cli.state.log import EventLog
from toka_cli.supervisor.manager import AgentProcessManager

ROOT = Path.cwd()
COUNTED = {"attempt.start", "talk.open", "talk.turn", "tool.call", "tool.done", "attempt.finish"}


class Script:
    '''A model that looks at nothing but the number of the turn.'''
    turns = {
        1: reply(("run_command", {"shell": "echo one >> effects"})),
        2: reply(("write_file", {"path": "made", "content": "x"}), ("read_file", {"path": "effects"})),
        3: reply(("run_command", {"shell": "echo two >> effects"}), ("list_dir", {})),
        4: finish(),
    }

    def __init__(self):
        self.asked = []

    async def complete(self, caller, request, *, fallbacks, on_wait, on_delta):
        self.asked.append((caller.turn, request))
        await asyncio.sleep(0)
        return self.turns[caller.turn]

    def remaining(self, caller):
        return ScriptedModels().left

    def warning(self, caller):
        return None


class Run:
    '''One task to its end, over as many lives as it takes. The cell is killed at step number `at`, before or after the kernel has taken it in.'''

    def __init__(self, manager, name, at, when):
        self.manager, self.at, self.when = manager, at, when
        self.work = ROOT / name / "work"
        self.work.mkdir(parents=True)
        self.scratch = ROOT / name / "tmp"
        self.scratch.mkdir()
        self.steps = []
        self.lives = 0
        self.models = Script()
        self.agent = agent_of(prompt_task())

    async def play(self):
        folder = RunFolder(ROOT / self.work.parent.name / "state" / "runs" / RUN)
        with EventLog.create(folder, plan_json=b"{}", spec_text="x: 1\n") as self.log:
            folder.logs.mkdir(exist_ok=True)
            self.log.append(e.RunCreated(RUN, str(self.work), "0"))
            self.log.append(e.RunStarted())
            tasks = (e.TaskInfo("p", "d", "prompt"),)
            self.log.append(e.AgentCreated(e.AgentInfo("one", "One", "w", tasks=tasks)), agent=AGENT)
            self.log.append(e.AgentQueued(), agent=AGENT)
            output = AgentLog(folder.agent_log(AGENT), self.log.clock, lambda: None)
            while self.log.agent(AGENT).tasks[0].state not in TASK_FINAL:
                assert self.lives < 3, self.steps
                await self.life(folder, output)
            output.close()
            view = self.log.agent(AGENT).tasks[0]
            return {
                "at": self.at, "when": self.when, "lives": self.lives, "steps": self.steps, "state": str(view.state), "reason": view.reason,
                "effects": (self.work / "effects").read_text() if (self.work / "effects").exists() else "",
                "made": (self.work / "made").exists(), "asked": [turn for turn, _ in self.models.asked],
                "results": [one["content"] for one in self.models.asked[-1][1].messages if one["role"] == "tool"],
                "calls": [one["id"] for message in self.models.asked[-1][1].messages for one in message.get("tool_calls") or ()],
            }

    async def life(self, folder, output):
        if self.lives:
            if str(self.log.agent(AGENT).tasks[0].state) == "running":
                self.log.append(e.TaskRequeued(), agent=AGENT, task="p")
            self.log.append(e.AgentBackedOff("crashed", 0.0), agent=AGENT)
            self.log.append(e.AgentRequeued(), agent=AGENT)
        self.lives += 1
        self.log.append(e.AgentStarting(), agent=AGENT)
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.work), "AGENT_NAME": "one", "TMPDIR": str(self.scratch)}
        cell = await self.manager.start(m.SpawnRequest(RUN, AGENT, environment, str(self.work), owner_pid=os.getpid()), ROOT / f"{self.work.parent.name}.log")
        finished = asyncio.Event()
        brief = m.AgentBrief(AGENT, "one", str(self.work), self.agent.tasks, python=sys.executable, prompt=self.agent.prompt)
        session = Session(
            folder=folder, log=self.log, agent_id=AGENT, held={}, pid=cell.pid, planned=self.agent, brief=brief, output=output, rng=random.Random(1),
            on_hello=lambda: None, on_finish=finished.set, on_breach=lambda _: None, models=self.models,
            tell=lambda method, params: peer.notify(method, params),
        )
        dead = False

        def serve(method, params, answer):
            nonlocal dead
            if dead:
                return
            if method in COUNTED:
                self.steps.append(method)
                if len(self.steps) == self.at:
                    dead = True
                    if self.when == "after":
                        session.serve(method, params, lambda _: None)
                        self.log.flush()
                    cell.order("kill")
                    return
            session.serve(method, params, answer)

        peer = Peer(TO_KERNEL, serve, on_broken=lambda why: self.steps.append(f"broken: {why}"), on_closed=lambda: None)
        cell.door.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: peer, sock=cell.door)
        await asyncio.wait_for(asyncio.shield(cell.ended), 60)
        session.abandon()
        peer.close()
        await self.log.committed()
        assert not [step for step in self.steps if step.startswith("broken")], self.steps
        assert dead or finished.is_set(), self.steps


async def main():
    async with AgentProcessManager("forkserver") as manager:
        whole = await Run(manager, "whole", None, "never").play()
        points = [(at, when) for at in range(1, len(whole["steps"]) + 1) for when in ("before", "after")]
        cut = [await Run(manager, f"{at}-{when}", at, when).play() for at, when in points]
        return {"whole": whole, "cut": cut}

print(json.dumps(asyncio.run(main())))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What came of the whole run, and of one for each point at which the cell was killed."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", PROGRAM], capture_output=True, text=True, timeout=110, cwd=tmp_path_factory.mktemp("crashes"),
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_without_a_crash_everything_happens_once(told):
    whole = told["whole"]
    assert (whole["state"], whole["lives"], whole["effects"], whole["made"]) == ("succeeded", 1, "one\ntwo\n", True)
    assert whole["asked"] == [1, 2, 3, 4]
    turn, call = ["talk.turn"], ["tool.call", "tool.done"]
    # Calls that only look are begun together; the one beside a write is not.
    assert whole["steps"] == ["attempt.start", "talk.open", *turn, *call, *turn, *call, *call, *turn, *call, *call, *turn, "attempt.finish"]


def test_every_point_was_tried_and_every_task_succeeded(told):
    assert len(told["cut"]) == 2 * len(told["whole"]["steps"])
    assert {(one["state"], one["reason"]) for one in told["cut"]} == {("succeeded", None)}
    assert all(one["lives"] == 2 for one in told["cut"] if (one["at"], one["when"]) != (len(told["whole"]["steps"]), "after"))


def test_no_effect_is_repeated_and_none_is_missing_without_a_word(told):
    doubted = 0
    for one in told["cut"]:
        lines = one["effects"].split()
        for effect, place in (("one", 0), ("two", 3)):
            assert lines.count(effect) <= 1, one
            if lines.count(effect) == 0 or one["results"][place].startswith("interrupted"):
                assert one["results"][place].startswith("interrupted: this call was cut off"), one
                doubted += 1
        assert one["made"], one
    # Only a call that was under way is in doubt: killed after it was allowed, or before its end was recorded.
    assert doubted == 4


def test_the_next_life_sees_the_same_conversation(told):
    for one in told["cut"]:
        assert one["calls"] == told["whole"]["calls"], one
        assert len(one["results"]) == len(told["whole"]["results"])


def test_a_model_is_asked_again_only_when_its_answer_was_lost(told):
    for one in told["cut"]:
        again = [turn for turn in (1, 2, 3, 4) if one["asked"].count(turn) > 1]
        step = told["whole"]["steps"][one["at"] - 1]
        assert not again or (step == "talk.turn" and one["when"] == "after" and len(again) == 1), one
