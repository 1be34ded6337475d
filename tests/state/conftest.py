"""Runs made of real files: a clock that stands still until told, logs that are closed at the end, owners in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from toka_cli import events as e
from toka_cli.paths import RunFolder, runs_dir
from toka_cli.state.log import EventLog

RUN = "a000000000"

PRELUDE = """
import asyncio, os, sys, time
from pathlib import Path
from toka_cli import events as e
from toka_cli.paths import RunFolder
from toka_cli.state import owner
from toka_cli.state.log import EventLog
folder = RunFolder(Path(sys.argv[1]))
def say(text):
    print(text, flush=True)
def start(tasks=2):
    log = EventLog.create(folder, plan_json=b"{}", spec_text="name: x\\n")
    log.append(e.RunCreated(folder.run_id, "/w", "0"))
    log.append(e.RunStarted())
    info = e.AgentInfo("one", "One", "w", tasks=tuple(e.TaskInfo(f"t{n}", "d", "command") for n in range(1, tasks + 1)))
    agent = f"{folder.run_id}-1"
    for event in (e.AgentCreated(info), e.AgentQueued(), e.AgentStarting(), e.AgentStarted(4242)):
        log.append(event, agent=agent)
    log.append(e.TaskStarted(), agent=agent, task="t1")
    log.flush()
    return log, agent
"""


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def info(name, tasks=2, **more):
    listed = tuple(e.TaskInfo(f"t{number}", f"task {number}", "command") for number in range(1, tasks + 1))
    return e.AgentInfo(name=name, title=name.title(), workstream="build", tasks=listed, **more)


def begin(log, *names, tasks=2):
    """The first events of a run with these agents; their ids."""
    run = log.folder.run_id
    log.append(e.RunCreated(run, "/work", "0.1", ("toka", "orchestrate")))
    log.append(e.RunStarted())
    ids = [f"{run}-{number}" for number in range(1, len(names) + 1)]
    for agent, name in zip(ids, names, strict=True):
        log.append(e.AgentCreated(info(name, tasks)), agent=agent)
    return ids


def up(log, agent, pid=4242):
    for event in (e.AgentQueued(), e.AgentStarting(), e.AgentStarted(pid)):
        log.append(event, agent=agent)


def work(log, agent, *tasks, outcome=None):
    for task in tasks:
        log.append(e.TaskStarted(), agent=agent, task=task)
        log.append(e.TaskSucceeded(outcome or e.Outcome(exit_code=0, output="done")), agent=agent, task=task)


def finish(log, *agents):
    for agent in agents:
        log.append(e.AgentSucceeded(), agent=agent)
        log.append(e.AgentExited(exit_code=0, cpu_time_s=0.5, peak_memory_bytes=1000), agent=agent)
    log.append(e.RunSucceeded())


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def state_dir(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def folder(state_dir):
    return RunFolder(runs_dir(state_dir) / RUN)


@pytest.fixture
def new_log(state_dir, clock):
    """Makes a log of a new run; closes what a test leaves open."""
    with contextlib.ExitStack() as stack:

        def new(run=RUN, **more):
            made = EventLog.create(
                RunFolder(runs_dir(state_dir) / run), plan_json=b'{"agents":[]}', spec_text="name: x\n", clock=clock, **more
            )
            stack.callback(made.close)
            return made

        yield new


@pytest.fixture
def log(new_log):
    return new_log()


@pytest.fixture
def done_run(new_log):
    """Makes a run of one agent that succeeded, closed; returns its folder."""

    def make(run=RUN, name="one"):
        log = new_log(run)
        (agent,) = begin(log, name)
        log.audit("agent.start", "allowed", subject=name)
        up(log, agent)
        work(log, agent, "t1", "t2")
        finish(log, agent)
        log.close()
        return log.folder

    return make


class Process:
    """A Python program beside the test, spoken to through pipes."""

    def __init__(self, code, folder):
        program = PRELUDE + textwrap.dedent(code)
        self.popen = subprocess.Popen(
            [sys.executable, "-c", program, str(folder.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def hear(self):
        line = self.popen.stdout.readline()
        assert line, self.popen.communicate()[1]
        return line.strip()

    def tell(self, text):
        self.popen.stdin.write(text + "\n")
        self.popen.stdin.flush()

    def kill(self):
        os.kill(self.popen.pid, signal.SIGKILL)
        return self.popen.communicate()[0]

    def end(self):
        out, errors = self.popen.communicate(timeout=60)
        assert self.popen.returncode == 0, errors
        return out


@pytest.fixture
def beside(folder):
    """Runs code in another process; `folder`, `say` and `start` are there."""
    started = []

    def run(code, where=folder):
        started.append(Process(code, where))
        return started[-1]

    yield run
    for process in started:
        if process.popen.poll() is None:
            process.kill()
        for pipe in (process.popen.stdin, process.popen.stdout, process.popen.stderr):
            with contextlib.suppress(OSError):
                pipe.close()


@pytest.fixture
def tools():
    """The small makers above, for test files (a test folder is no package)."""

    class Tools:
        pass

    found = Tools()
    found.info, found.begin, found.up, found.work, found.finish, found.RUN = info, begin, up, work, finish, RUN
    return found
