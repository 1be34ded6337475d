"""Time as limits count it: an agent's working time over all its processes and owners, and how long nothing but heartbeats may come."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from tests.orchestrator.conftest import RUN, FakeBackend, Run
from toka_cli.ids import agent_id
from toka_cli.orchestrator.cell_watch import Patience
from toka_cli.orchestrator.recovery import requeue
from toka_cli.paths import RunFolder
from toka_cli.plan.plan import Gate
from toka_cli.protocol import messages as m
from toka_cli.state.log import EventLog

ONE = agent_id(RUN, 1)
REST = {"restart": "on-failure", "restart_attempts": 9, "restart_delay_s": 0.001}


async def works(cell, seconds):
    await cell.call("agent.hello", m.Hello(cell.pid, {}))
    await asyncio.sleep(seconds)


async def dies_after_a_while(cell):
    await works(cell, 0.2)
    return 9


async def works_for_ever(cell):
    await works(cell, 0.0)
    await asyncio.shield(cell.ended)


# --- the agent's own time limit --------------------------------------------------------------------------------------------------------------


def test_the_time_of_all_processes_of_an_agent_counts_together(orchestrate, make, backend):
    """Each of them is far below the limit; a crash loop of five would be another reason."""
    backend.acts["a"] = [dies_after_a_while, dies_after_a_while, works_for_ever]
    run = orchestrate(make("a", limits=m.Limits(timeout_s=0.6), **REST))
    agent = run.agent("a")
    assert agent.reason == "limit.timeout: longer than 600ms"
    assert agent.restarts == 2
    assert 0.6 <= agent.worked_s < 30.0


def test_time_that_an_agent_only_waits_does_not_count(orchestrate, make, backend):
    """The wait for a restart, and a pause, are each longer than the limit."""
    backend.acts["a"] = [dies_after_a_while, pausing]

    async def beside(run):
        await run.until("a", "backoff")
        await run.until("a", "running")
        assert run.orchestrator.runs["a"].pause(hard=False)
        await asyncio.sleep(2.2)
        assert run.orchestrator.runs["a"].resume()

    run = orchestrate(make("a", limits=m.Limits(timeout_s=2.0), **{**REST, "restart_delay_s": 2.6}), beside=beside)
    assert run.states() == {"a": "succeeded"}
    assert run.agent("a").worked_s < 2.0


async def pausing(cell):
    await cell.call("agent.hello", m.Hello(cell.pid, {}))
    await cell.told("agent.resume")
    await cell.attempt("t1")
    await cell.call("agent.finish", m.FinishAgent())


def test_gates_are_part_of_the_agents_time(orchestrate, make, backend, acts):
    gate = Gate(1, "it works", m.Check("true"))
    backend.acts["a"] = [acts["honest"], works_for_ever]
    run = orchestrate(make("a", gates=(gate,), limits=m.Limits(timeout_s=0.3)))
    assert run.agent("a").reason == "limit.timeout: longer than 300ms"
    assert run.agent("a").gates[0].state == "failed"


def test_a_gate_of_its_own_time_is_late_by_that(orchestrate, make, backend, acts, monkeypatch):
    from toka_cli.orchestrator import agent_run

    monkeypatch.setattr(agent_run, "TERM_GRACE_S", 0.0)
    backend.acts["a"] = [acts["honest"], works_for_ever]
    run = orchestrate(make("a", gates=(Gate(1, "it works", m.Check("true", timeout_s=0.2)),), limits=m.Limits(timeout_s=60.0)))
    assert run.agent("a").reason == "gate_failed: objective 1: limit.task_timeout: longer than 200ms"


def test_a_new_owner_goes_on_counting(tmp_path, make, backend):
    """The first owner dies in the middle of a process that had worked for a while; what the last sample said is kept."""
    folder = RunFolder(tmp_path / "state" / "runs" / RUN)
    agent = make("a", tasks=(), limits=m.Limits(timeout_s=10.0))
    agent = msgspec.structs.replace(agent, tasks=(m.TaskBrief(id="t1", description="t1", kind="command", run=("true",), on_interrupted="rerun"),))

    async def first():
        log = EventLog.create(folder, plan_json=b"{}", spec_text="x: 1\n")
        dying = FakeBackend()
        dying.acts["a"] = works_for_ever
        run = Run(tmp_path, log, dying, [agent])
        going = asyncio.ensure_future(run.orchestrator.run())
        await run.until("a", "running")
        # What the owner of the run does each second.
        log.sample(ONE, None, None, 9.9)
        log.flush()
        assert run.orchestrator.runs["a"].worked_s < 9.0
        await abandon(going, run)
        return run.plan

    plan = asyncio.run(first())

    async def second():
        log = EventLog.open(folder)
        try:
            requeue(log, plan, None)
            backend.acts["a"] = works_for_ever
            await asyncio.wait_for(make_orchestrator(tmp_path, log, plan, backend).run(), 30)
            await asyncio.gather(*backend.tasks)
            return log.agent(ONE)
        finally:
            log.close()

    view = asyncio.run(second())
    assert view.reason == "limit.timeout: longer than 10s"
    assert 10.0 <= view.worked_s < 15.0, "not twenty: what the first owner saw counts"


async def abandon(going, run):
    """The owner is killed: nothing is written any more, and its doors close."""
    run.log._connection.close()
    going.cancel()
    for task in run.backend.tasks:
        task.cancel()
    await asyncio.gather(going, *run.backend.tasks, return_exceptions=True)
    for agent in run.orchestrator.runs.values():
        agent.line.peer.close()
    for cell in run.backend.cells:
        cell.inside.close()
    await asyncio.sleep(0.01)
    run.log._lock.release()


def make_orchestrator(tmp_path, log, plan, backend):
    from tests.orchestrator.test_recovery import make_orchestrator as made

    return made(tmp_path, log, plan, backend)


# --- progress --------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def watched(orchestrate):
    def start(*agents, progress_s=1.0, **options):
        return orchestrate(*agents, patience=Patience(spawn_s=60.0, heartbeat_s=60.0, progress_s=progress_s), **options)

    return start


async def only_beats(cell):
    await cell.call("agent.hello", m.Hello(cell.pid, {}))
    await cell.call("attempt.start", m.StartAttempt("t1", 1))
    await cell.say("task.output", m.Output("t1", "stdout", b"last words\n"))
    while not cell.ended.done():
        await cell.say("agent.beat", m.Beat())
        await asyncio.sleep(0.01)


def test_who_only_beats_makes_no_progress_and_is_not_restarted(watched, make, backend):
    backend.acts["stuck"] = only_beats
    run = watched(make("stuck", **REST), make("fine"))
    agent = run.agent("stuck")
    assert (agent.state, agent.reason, agent.restarts) == ("failed", "no_progress: nothing but heartbeats for 1s", 0)
    assert agent.tasks[0].output == "last words\n"
    assert run.states()["fine"] == "succeeded"


@pytest.mark.parametrize("kind", ["output", "note", "measure"])
def test_whatever_an_agent_says_is_progress(watched, make, backend, kind):
    async def talks(cell):
        await cell.call("agent.hello", m.Hello(cell.pid, {}))
        await cell.call("attempt.start", m.StartAttempt("t1", 1))
        words = {
            "output": ("task.output", m.Output("t1", "stdout", b"x")),
            "note": ("agent.note", m.Note("on it")),
            "measure": ("agent.measure", m.Measure("x", 1.0)),
        }
        for _ in range(40):
            await asyncio.sleep(0.05)
            await cell.say(*words[kind])
        await cell.call("attempt.finish", m.FinishAttempt("t1", 1, True))
        await cell.call("agent.finish", m.FinishAgent())

    backend.acts["a"] = talks
    assert watched(make("a"), progress_s=1.5).states() == {"a": "succeeded"}


def test_a_pause_and_a_wait_for_the_next_attempt_are_no_want_of_progress(watched, make, backend):
    async def retries(cell):
        await cell.call("agent.hello", m.Hello(cell.pid, {}))
        await cell.call("attempt.start", m.StartAttempt("t1", 1))
        verdict = await cell.call("attempt.finish", m.FinishAttempt("t1", 1, False, "exit 1"))
        assert verdict.verdict == "retry"
        await asyncio.sleep(1.6)
        await cell.attempt("t1", attempt=2)
        await cell.told("agent.resume")
        await cell.attempt("t2")
        await cell.call("agent.finish", m.FinishAgent())

    async def beside(run):
        await run.when(lambda: run.agent("a").tasks[0].state == "succeeded")
        assert run.orchestrator.runs["a"].pause(hard=False)
        await asyncio.sleep(1.6)
        run.orchestrator.runs["a"].resume()

    backend.acts["a"] = retries
    tasks = tuple(m.TaskBrief(id=name, description=name, kind="command", run=("true",), retries=1, retry_delay_s=60.0) for name in ("t1", "t2"))
    agent = msgspec.structs.replace(make("a"), tasks=tasks)
    assert watched(agent, beside=beside).states() == {"a": "succeeded"}


def test_a_wait_that_is_nobodys_fault_is_no_want_of_progress(watched, make, backend):
    async def waits(cell):
        await cell.call("agent.hello", m.Hello(cell.pid, {}))
        await cell.call("attempt.start", m.StartAttempt("t1", 1))
        await asyncio.sleep(1.6)
        await cell.call("attempt.finish", m.FinishAttempt("t1", 1, True))
        await cell.call("agent.finish", m.FinishAgent())

    async def beside(run):
        await run.until("a", "running")
        run.orchestrator.runs["a"].line.session.excused += 1

    backend.acts["a"] = waits
    assert watched(make("a"), beside=beside).states() == {"a": "succeeded"}


def test_without_the_setting_nobody_minds(orchestrate, make, backend):
    async def quiet(cell):
        await cell.call("agent.hello", m.Hello(cell.pid, {}))
        await cell.call("attempt.start", m.StartAttempt("t1", 1))
        await asyncio.sleep(0.5)
        await cell.call("attempt.finish", m.FinishAttempt("t1", 1, True))
        await cell.call("agent.finish", m.FinishAgent())

    backend.acts["a"] = quiet
    assert orchestrate(make("a")).states() == {"a": "succeeded"}
