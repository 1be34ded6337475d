"""What the machine has room for: fewer agents at once, none for now, weaker mechanisms, a full disk; each said once, and over when it is over."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest

from toka_cli.errors import Unavailable
from toka_cli.lifecycle import RunState
from toka_cli.orchestrator import room as module
from toka_cli.orchestrator import starting
from toka_cli.protocol import messages as m


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    monkeypatch.setattr(starting, "ROOM_RETRY_S", 0.01)


def events(run, kind):
    rows = run.log._connection.execute("SELECT event FROM events WHERE kind = ? ORDER BY seq", (kind,)).fetchall()
    return [text for (text,) in rows]


async def until_held(run):
    await run.when(lambda: run.log.view.held is not None)


async def waits_for_a_stop(cell):
    brief = await cell.call("agent.hello", m.Hello(cell.pid, {}))
    await cell.call("attempt.start", m.StartAttempt(brief.tasks[0].id, 1))
    await cell.told("agent.stop")
    await cell.call("attempt.finish", m.FinishAttempt(brief.tasks[0].id, 1, False, "stopped: x"))
    await cell.call("agent.finish", m.FinishAgent())


# --- fewer ---------------------------------------------------------------------------------------------------------------------------------


def test_a_refused_process_means_fewer_at_once_and_is_said(orchestrate, make, backend, crowded):
    backend.refusals = [crowded]
    run = orchestrate(*(make(f"a{n}") for n in range(8)), max_agents=4)
    assert set(run.states().values()) == {"succeeded"}
    (warned,) = events(run, "run.warned")
    assert '"code":"crowded"' in warned
    assert '"at_once":3' in warned
    assert run.log.view.options["at_once"] == 3
    assert "Resource temporarily unavailable" in run.log.view.options["max_agents_reason"]


def test_without_degradation_a_refused_process_is_tried_again_and_that_is_all(orchestrate, make, backend, crowded):
    backend.refusals = [crowded, crowded]
    run = orchestrate(make("a"), make("b"), degrade=False)
    assert set(run.states().values()) == {"succeeded"}
    assert events(run, "run.warned") == []


# --- none for now ----------------------------------------------------------------------------------------------------------------------------


def test_while_memory_is_short_nothing_new_starts_and_what_runs_goes_on(orchestrate, make, backend):
    backend.acts["first"] = waits_for_a_stop

    async def beside(run):
        await run.until("first", "running")
        backend.short = "memory is short: 1 MB of 1 GB available"
        run.orchestrator.stop_agent("gate", "not wanted any more")
        await until_held(run)
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert backend.names() == ["first"]
        assert run.states()["later"] == "queued"
        backend.short = None
        await run.until("later", "succeeded")
        run.orchestrator.stop_agent("first", "enough")

    run = orchestrate(make("first"), make("gate", ["first"]), make("later", after=["gate"]), beside=beside)
    assert [len(events(run, kind)) for kind in ("run.held", "run.released")] == [1, 1]
    assert "memory is short" in events(run, "run.held")[0]
    assert run.log.view.held is None


def test_if_nothing_runs_one_is_started_all_the_same(orchestrate, make, backend):
    """Nobody else would give the machine its memory back."""
    backend.short = "memory is short"
    run = orchestrate(*(make(f"a{n}") for n in range(5)))
    assert set(run.states().values()) == {"succeeded"}
    assert backend.most <= 5


def test_without_degradation_nobody_looks(orchestrate, make, backend):
    backend.short = "memory is short"
    run = orchestrate(*(make(f"a{n}") for n in range(5)), degrade=False)
    assert set(run.states().values()) == {"succeeded"}
    assert events(run, "run.held") == []


def test_a_run_that_is_held_can_be_stopped(orchestrate, make, backend):
    backend.acts["first"] = waits_for_a_stop

    async def beside(run):
        await run.until("first", "running")
        backend.short = "memory is short"
        run.orchestrator.stop_agent("gate", "x")
        await until_held(run)
        run.orchestrator.stop_run("enough")

    run = orchestrate(make("first"), make("gate", ["first"]), make("later", after=["gate"]), beside=beside)
    assert run.states() == {"first": "stopped", "gate": "stopped", "later": "stopped"}
    assert run.log.view.state == RunState.STOPPED


# --- weaker --------------------------------------------------------------------------------------------------------------------------------


def test_what_is_done_in_a_weaker_way_is_said_once(orchestrate, make, backend):
    backend.weaker = [("cgroup", "limits are held by polling"), ("cgroup", "limits are held by polling")]
    run = orchestrate(make("a"), make("b"))
    assert set(run.states().values()) == {"succeeded"}
    assert len(events(run, "run.warned")) == 1
    assert run.log.view.warnings == ["limits are held by polling"]


def test_where_nothing_may_be_weaker_the_agent_does_not_start(orchestrate, make, backend):
    backend.weaker = [("cgroup", "limits are held by polling")]
    run = orchestrate(make("a"), degrade=False)
    assert run.states() == {"a": "failed"}
    assert run.agent("a").reason == "spawn: Agent failed to start: limits are held by polling"
    assert backend.cells[0].orders == ["kill"]


# --- a full disk -----------------------------------------------------------------------------------------------------------------------------


def full():
    return Unavailable("no process can be started: No space left on device", code="disk_full")


def test_a_full_disk_is_waited_for_and_said(orchestrate, make, backend):
    backend.refusals = [full() for _ in range(20)]
    run = orchestrate(make("a"), make("b", ["a"]))
    assert set(run.states().values()) == {"succeeded"}
    assert len(events(run, "run.held")) == 1
    assert len(events(run, "run.released")) == 1
    assert "No space left" in events(run, "run.held")[0]


def test_who_waits_for_room_can_be_stopped(orchestrate, make, backend):
    backend.refusals = [full() for _ in range(100_000)]

    async def beside(run):
        await until_held(run)
        run.orchestrator.stop_agent("a", "enough")

    run = orchestrate(make("a"), beside=beside)
    assert run.states() == {"a": "stopped"}
    assert backend.cells == []


@pytest.mark.parametrize(("number", "state"), [(errno.ENOSPC, "succeeded"), (errno.EACCES, "failed")])
def test_a_private_folder_that_cannot_be_made_is_waited_for_only_where_that_helps(orchestrate, make, backend, monkeypatch, number, state):
    real, tries = starting.tempfile.mkdtemp, []

    def mkdtemp(**more):
        tries.append(1)
        if len(tries) < 4:
            raise OSError(number, os.strerror(number), "/tmp/x")
        return real(**more)

    monkeypatch.setattr(starting.tempfile, "mkdtemp", mkdtemp)
    run = orchestrate(make("a"))
    assert run.states() == {"a": state}
    if state == "failed":
        assert run.agent("a").reason == "spawn: Agent failed to start: /tmp/x: Permission denied"
        assert len(tries) == 1


def test_logs_that_cannot_be_written_hold_new_agents_and_lose_nothing(orchestrate, make, backend, monkeypatch):
    """The log of a live agent is on a full disk for a while; its lines come when there is room."""
    from toka_cli.kernel.outputs import AgentLog

    async def writes(cell):
        await cell.call("agent.hello", m.Hello(cell.pid, {}))
        await cell.call("attempt.start", m.StartAttempt("t1", 1))
        await cell.say("task.output", m.Output("t1", "stdout", b"one\ntwo\n"))
        await cell.call("attempt.finish", m.FinishAttempt("t1", 1, True))
        await held.wait()
        await cell.call("agent.finish", m.FinishAgent())

    held, room, original = asyncio.Event(), [], AgentLog._drain

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            if not room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def close(self):
            self.file.close()

    def drain(log):
        if not isinstance(log._file, Full):
            log._file = Full(log._file)
        original(log)

    monkeypatch.setattr(AgentLog, "_drain", drain)
    backend.acts["a"] = writes

    async def beside(run):
        await until_held(run)
        assert "No space left" in run.log.view.held
        room.append(True)
        held.set()

    run = orchestrate(make("a"), beside=beside)
    assert run.states() == {"a": "succeeded"}
    written = run.log.folder.agent_log(run.agent("a").id).read_text()
    assert '"one"' in written
    assert '"two"' in written
