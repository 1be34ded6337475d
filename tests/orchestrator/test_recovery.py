"""What a new owner makes of each state that the former one can have died in, without processes: a log is left off at a point, opened again and gone on with."""

from __future__ import annotations

import asyncio
import random
import sys

import msgspec
import pytest

from tests.orchestrator.conftest import RUN, FakeBackend, Run, planned
from toka_cli import events as e
from toka_cli.errors import DecisionNeeded
from toka_cli.ids import agent_id
from toka_cli.kernel.kernel import Kernel
from toka_cli.orchestrator.cell_watch import Patience
from toka_cli.orchestrator.orchestrator import Orchestrator
from toka_cli.orchestrator.recovery import IN_DOUBT, mark_stopped, requeue
from toka_cli.orchestrator.stopwatch import Stopwatch
from toka_cli.paths import RunFolder
from toka_cli.protocol import messages as m
from toka_cli.state.log import EventLog

ONE = agent_id(RUN, 1)


def task(name, **more):
    return m.TaskBrief(id=name, description=name, kind="command", run=("true",), **more)


def plan_of(**more):
    return planned("one", tasks=(), **{"restart": "never", **more})


def left_off(tmp_path, *events, briefs=None, names=("one",)):
    """A run whose owner wrote these events and died; (its log opened by the next owner, its plan)."""
    folder = RunFolder(tmp_path / "state" / "runs" / RUN)
    briefs = briefs or (task("t1", on_interrupted="rerun"), task("t2"))
    agents = [msgspec.structs.replace(plan_of(), name=name, tasks=tuple(briefs)) for name in names]

    async def begin():
        log = EventLog.create(folder, plan_json=b"{}", spec_text="x: 1\n")
        run = Run(tmp_path, log, FakeBackend(), agents)
        log.append(e.RunStarted())
        for event, *about in events:
            # None: an event of the run; "": of the agent; else of that task.
            log.append(event, agent=None if about == [None] else ONE, task=about[0] or None)
        log.flush()
        log.close()
        return run.plan

    plan = asyncio.run(begin())
    return folder, plan


def go_on(tmp_path, folder, plan, in_doubt=None):
    """Open, requeue, run to the end; the final view."""

    async def main():
        log = EventLog.open(folder)
        try:
            requeue(log, plan, in_doubt)
            backend = FakeBackend()
            orchestrator = make_orchestrator(tmp_path, log, plan, backend)
            await asyncio.wait_for(orchestrator.run(), 30)
            await asyncio.gather(*backend.tasks)
            return log.view, backend.names()
        finally:
            log.close()

    return asyncio.run(main())


def make_orchestrator(tmp_path, log, plan, backend):
    kernel = Kernel(
        folder=log.folder, log=log, workdir=str(tmp_path / "work"), caller={}, python=sys.executable, rng=random.Random(1), on_output=lambda: None
    )
    return Orchestrator(plan, log, kernel, backend, Patience(spawn_s=60.0, heartbeat_s=60.0), grace_s=60.0)


STARTED = [(e.AgentQueued(), ""), (e.AgentStarting(1), ""), (e.AgentStarted(1, {}), "")]
FIRST_DONE = [*STARTED, (e.TaskStarted(1), "t1"), (e.TaskSucceeded(e.Outcome()), "t1")]
DONE = [*FIRST_DONE, (e.TaskStarted(1), "t2"), (e.TaskSucceeded(e.Outcome()), "t2")]

POINTS = {
    "before anything": [],
    "queued": STARTED[:1],
    "starting": STARTED[:2],
    "started": STARTED,
    "in a task that may run again": [*STARTED, (e.TaskStarted(1), "t1")],
    "between tasks": FIRST_DONE,
    "paused": [*FIRST_DONE, (e.AgentPaused(), "")],
    "suspended": [*FIRST_DONE, (e.AgentPaused(), ""), (e.RunPaused("terminal"), None)],
    "being stopped by a signal": [*FIRST_DONE, (e.RunStopping("signal SIGINT"), None), (e.AgentStopping("signal SIGINT"), "")],
    "waiting for its restart": [*FIRST_DONE, (e.AgentExited(None, 9, None, None, None), ""), (e.AgentBackedOff("crashed: signal 9", 60.0), "")],
    "waiting for its next attempt": [*FIRST_DONE, (e.TaskStarted(1), "t2"), (e.TaskRetrying(1, "exit 1", 60.0, e.Outcome()), "t2")],
    "all tasks done": DONE,
    "in a gate": [*DONE, (e.GateStarted(1, "works"), "")],
    "all agents done": [*DONE, (e.AgentSucceeded(), "")],
}


@pytest.mark.parametrize("point", list(POINTS))
def test_from_every_point_the_run_goes_on_to_the_end(tmp_path, point):
    folder, plan = left_off(tmp_path, *POINTS[point])
    view, cells = go_on(tmp_path, folder, plan)
    assert view.state == "succeeded"
    assert [str(each.state) for each in view.agents[0].tasks] == ["succeeded", "succeeded"]
    # What had succeeded was not attempted again.
    assert view.agents[0].tasks[0].attempts == (2 if point == "in a task that may run again" else 1)
    assert len(cells) == (0 if point == "all agents done" else 1)


@pytest.mark.parametrize("point", list(POINTS))
def test_from_every_point_it_can_be_given_up(tmp_path, point):
    folder, _ = left_off(tmp_path, *POINTS[point])
    with EventLog.open(folder) as log:
        mark_stopped(log, "user")
        assert log.view.state == "stopped"
        assert log.view.agents[0].state == ("succeeded" if point == "all agents done" else "stopped")
        mark_stopped(log, "user")
        assert log.view.state == "stopped"


def test_a_task_in_doubt_fails_and_what_follows_is_skipped(tmp_path):
    folder, plan = left_off(tmp_path, *STARTED, (e.TaskStarted(1), "t1"), briefs=(task("t1"), task("t2")))
    view, cells = go_on(tmp_path, folder, plan)
    assert (view.state, view.agents[0].state, cells) == ("failed", "failed", [])
    assert [(str(each.state), each.reason) for each in view.agents[0].tasks] == [("failed", IN_DOUBT), ("skipped", "task_failed: t1")]


def test_who_asks_is_answered_before_anything_is_written(tmp_path):
    folder, plan = left_off(tmp_path, *STARTED, (e.TaskStarted(1), "t1"), briefs=(task("t1", on_interrupted="ask"), task("t2")))
    with EventLog.open(folder) as log:
        before = log.view.state
        with pytest.raises(DecisionNeeded, match=r"one\.t1"):
            requeue(log, plan, None)
        assert log.view.state == before
    view, _ = go_on(tmp_path, folder, plan, "rerun")
    assert view.state == "succeeded"


def test_a_tool_that_only_looks_is_called_again_whatever_the_spec_says(tmp_path):
    look = m.TaskBrief(id="t1", description="t1", kind="tool", tool="list_dir", on_interrupted="fail")
    folder, plan = left_off(tmp_path, *STARTED, (e.TaskStarted(1), "t1"), briefs=(look, task("t2")))
    view, _ = go_on(tmp_path, folder, plan)
    assert view.state == "succeeded"


# --- the clock that stands still -----------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_stopwatch_counts_work_only():
    clock = Clock()
    watch = Stopwatch(clock)
    clock.now += 5
    assert watch.worked_s() == 5
    watch.pause()
    clock.now += 50
    watch.pause()
    clock.now += 50
    assert (watch.paused, watch.worked_s()) == (True, 5)
    assert watch.resume() == 100
    assert watch.resume() == 0
    clock.now += 1
    assert (watch.paused, watch.worked_s()) == (False, 6)
