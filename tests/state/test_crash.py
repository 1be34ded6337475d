"""Death at any moment, and readers at any moment: no acknowledged event is lost, no reader ever hears of a lock."""

from __future__ import annotations

import selectors

import pytest

from toka_cli.lifecycle import RunState
from toka_cli.state.audit import verify
from toka_cli.state.fold import fold
from toka_cli.state.log import EventLog
from toka_cli.state.query import load_run, read_events

WRITER = """
    log, agent = start()
    async def go():
        while True:
            for _ in range(7):
                record = log.append(e.AgentNoted("x" * 200), agent=agent)
            log.audit("note", "recorded", subject=str(record.seq))
            log.after_commit(lambda seq=record.seq: say(seq))
            await log.committed()
    say("up")
    asyncio.run(go())
    """


@pytest.mark.parametrize("acknowledged", [1, 5, 40])
def test_kill_9_in_the_middle_loses_no_acknowledged_event(folder, beside, acknowledged):
    process = beside(WRITER)
    assert process.hear() == "up"
    for _ in range(acknowledged):
        last = process.hear()
    rest = process.kill().split("\n")
    # The last line may be torn by the kill; every whole one was acknowledged.
    last = int([last, *rest[:-1]][-1])
    records = read_events(folder)
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    assert records[-1].seq >= last
    # Batches are whole: seven notes each after the first events.
    assert (len(records) - 7) % 7 == 0
    with EventLog.open(folder) as log:
        assert log.view.last_seq == len(records)
        assert fold(records).agents == log.view.agents
        assert verify(folder, log.audit_head).ok
        log.append(records[-1].event, agent=records[-1].agent)
    assert len(read_events(folder)) == len(records) + 1


def test_readers_never_hear_of_a_lock_while_the_owner_opens_writes_and_closes(folder, beside):
    process = beside(
        """
        log, agent = start()
        say("up")
        async def go():
            for number in range(400):
                log.append(e.AgentNoted(f"{number} " + "x" * 2000), agent=agent)
                log.sample(agent, number, number / 10)
                await log.committed()
                if number % 100 == 99:
                    log.close()
                    globals()["log"] = EventLog.open(folder)
        asyncio.run(go())
        log.append(e.TaskSucceeded(), agent=agent, task="t1")
        log.append(e.AgentFailed("x"), agent=agent)
        log.append(e.RunFailed("x"))
        log.close()
        say("done")
        """
    )
    assert process.hear() == "up"
    seen, reads = 0, 0
    with selectors.DefaultSelector() as done:
        done.register(process.popen.stdout, selectors.EVENT_READ)
        while not done.select(0):
            view = load_run(folder)
            assert view.last_seq >= seen
            assert view.state in {RunState.RUNNING, RunState.INTERRUPTED, RunState.FAILED}
            seen, reads = view.last_seq, reads + 1
            tail = read_events(folder, after=max(0, seen - 3))
            assert len(tail) >= 3
    assert process.hear() == "done"
    assert load_run(folder).state is RunState.FAILED
    assert reads > 3


def test_a_reader_in_the_middle_of_a_run_sees_one_moment(folder, beside):
    process = beside(WRITER.replace("say(seq)", "None"))
    assert process.hear() == "up"
    for _ in range(50):
        view = load_run(folder)
        records = read_events(folder)[: view.last_seq]
        assert fold(records).agents == _without_durations(view).agents
    process.kill()


def _without_durations(view):
    for agent in view.agents:
        agent.duration_s = None
        for task in agent.tasks:
            task.duration_s = None
    return view
