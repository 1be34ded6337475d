"""A scheduler, commands as a cell runs them, and a kernel that a test plays on the other end of a real door."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from tests.sandbox.cells import Player, users
from toka_cli.agent.client import Client
from toka_cli.agent.command import CommandRunner
from toka_cli.agent.executor import AgentExecutor
from toka_cli.agent.strands import Scheduler
from toka_cli.agent.task import TaskExecutor
from toka_cli.protocol import frames, messages
from toka_cli.protocol.methods import TO_KERNEL, read

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


def task(name, run=("true",), **more):
    return messages.TaskBrief(id=name, description=name, kind=more.pop("kind", "command"), run=run, **more)


class ScriptedKernel:
    """Answers a cell's calls in the same thread and loop as the cell itself: `answers(method, params)` gives a message, an error, or None for later."""

    def __init__(self, scheduler):
        self.ours, self.theirs = socket.socketpair()
        self.heard = []
        self.answers = lambda method, params: None
        self.asked = {}
        self._reader = frames.FrameReader()
        self._scheduler = scheduler
        scheduler.watch(self.ours.fileno(), self._readable)

    def defaults(self, method, params):
        match params:
            case messages.StartAttempt():
                return messages.Go(go=True)
            case messages.FinishAttempt(ok=ok):
                return messages.Verdict("succeeded" if ok else "failed")
            case messages.CallTool():
                return messages.ToolReply(go=True)
            case _:
                return messages.Ack()

    def _readable(self):
        data = self.ours.recv(1 << 16)
        if not data:
            self._scheduler.unwatch(self.ours.fileno())
            return
        for body in self._reader.feed(data):
            frame = frames.decode(body)
            params = read(TO_KERNEL[frame.method].params, frame.params)
            self.heard.append((frame.method, params))
            self.asked[frame.method] = frame.id
            answer = self.answers(frame.method, params)
            if frame.id is not None:
                answer = self.defaults(frame.method, params) if answer is None else answer
                if isinstance(answer, frames.WireError):
                    self.ours.sendall(frames.reply_error(frame.id, answer))
                elif isinstance(answer, messages.Message):
                    self.ours.sendall(frames.reply(frame.id, answer))

    def hang_up(self):
        self._scheduler.unwatch(self.ours.fileno())
        self.ours.close()

    def reply(self, method, answer):
        """Answer the last call of a method, which was not answered at once."""
        self.ours.sendall(frames.reply(self.asked[method], answer))

    def order(self, method, params):
        self.ours.sendall(frames.request(method, params))

    def said(self, kind):
        """All messages of one kind, in order."""
        return [params for _, params in self.heard if isinstance(params, kind)]

    def words(self):
        """The story in short: `start a.1`, `finish a.1 ok`, `skip b`."""
        told = []
        for _, params in self.heard:
            match params:
                case messages.StartAttempt():
                    told.append(f"start {params.task}.{params.attempt}")
                case messages.FinishAttempt():
                    told.append(f"finish {params.task}.{params.attempt} {'ok' if params.ok else 'no'}")
                case messages.SkipTask():
                    told.append(f"skip {params.task}: {params.reason}")
        return told

    def close(self):
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def scheduler():
    return Scheduler()


@pytest.fixture
def runner(scheduler, tmp_path):
    return CommandRunner(scheduler, ENVIRONMENT, str(tmp_path), 1 << 20)


@pytest.fixture
def make_task():
    return task


@pytest.fixture
def kernel(scheduler):
    made = ScriptedKernel(scheduler)
    yield made
    made.close()


@pytest.fixture
def cell(scheduler, kernel, tmp_path):
    """Makes the executor of a cell for these tasks; orders of the kernel reach it as in a real cell."""
    held = []

    def make(*tasks, parallel=1, output_bytes=1 << 20, workdir=None, **limits):
        place = Path(workdir or tmp_path)
        brief = messages.AgentBrief(
            "r-1", "one", str(place), tuple(tasks), parallel=parallel, limits=messages.Limits(**limits), python=sys.executable
        )

        def obey(message):
            match message:
                case messages.StopAgent():
                    executor.stop(message.reason)
                case messages.PauseAgent():
                    executor.pause()
                case messages.ResumeAgent():
                    executor.resume()

        client = Client(kernel.theirs, scheduler, obey)
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        runner = CommandRunner(scheduler, ENVIRONMENT, str(place), output_bytes)
        executor = AgentExecutor(brief, client, scheduler, TaskExecutor(brief, client, runner, scratch))
        held.append(executor)
        return executor

    return make


@pytest.fixture
def go(scheduler):
    """Runs a coroutine to its end in the scheduler."""

    def run(coroutine):
        return scheduler.run(coroutine)

    return run


@pytest.fixture(params=users())
def player(request):
    """Plays bodies with real cells behind walls, as root and as an ordinary user."""
    made = Player(request.param)
    yield made
    made.close()


@pytest.fixture(params=["full", "standard"])
def level(request):
    """The walls of a cell."""
    return request.param
