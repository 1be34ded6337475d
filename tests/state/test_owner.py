"""One owner per run, in real processes: the lock excludes, asking takes nothing, and death frees it."""

from __future__ import annotations

import os

import pytest

from toka_cli.errors import StateUnavailable
from toka_cli.lifecycle import AgentState, RunState, TaskState
from toka_cli.paths import RunFolder
from toka_cli.state import owner
from toka_cli.state.log import EventLog
from toka_cli.state.query import OWNER_GONE, load_run


def test_a_second_process_cannot_become_the_owner_and_learns_who_is(folder, beside):
    process = beside("log, agent = start(); say('up'); sys.stdin.readline(); log.close(); say('closed')")
    assert process.hear() == "up"
    assert owner.is_held(folder)
    assert owner.owner_pid(folder) == process.popen.pid
    with pytest.raises(StateUnavailable, match=f"is owned by process {process.popen.pid}"):
        EventLog.open(folder)
    process.tell("go")
    assert process.hear() == "closed"
    assert not owner.is_held(folder)
    assert owner.owner_pid(folder) is None
    with EventLog.open(folder) as log:
        assert log.view.agents[0].state is AgentState.RUNNING


def test_kill_9_frees_the_lock_and_readers_say_interrupted(folder, beside):
    process = beside("log, agent = start(); log.sample(agent, 5, 1.0); log.flush(); say('up'); sys.stdin.readline()")
    assert process.hear() == "up"
    view = load_run(folder)
    assert (view.state, view.agents[0].state, view.agents[0].pid, view.agents[0].memory_bytes) == (
        RunState.RUNNING,
        AgentState.RUNNING,
        4242,
        5,
    )
    process.kill()
    view = load_run(folder)
    assert (view.state, view.reason) == (RunState.INTERRUPTED, OWNER_GONE)
    (agent,) = view.agents
    assert (agent.state, agent.detail, agent.pid, agent.memory_bytes) == (AgentState.PENDING, "interrupted", None, None)
    assert {task.state for task in agent.tasks} == {TaskState.PENDING}
    with EventLog.open(folder) as log:
        assert (log.view.state, log.view.agents[0].tasks[0].state) == (RunState.RUNNING, TaskState.RUNNING)
        assert load_run(folder).state is RunState.RUNNING


def test_asking_in_the_owner_itself_does_not_lose_the_lock(folder, log, beside):
    for _ in range(3):
        assert owner.is_held(folder)
        assert owner.owner_pid(folder) == os.getpid()
        assert load_run(folder).state is RunState.PENDING
    assert beside("say(owner.is_held(folder))").hear() == "True"


def test_a_process_cannot_own_a_run_twice(log, folder, beside):
    with pytest.raises(StateUnavailable, match="already owned by this process"):
        EventLog.open(folder)
    assert beside("say(owner.is_held(folder))").hear() == "True"


def test_a_forked_child_neither_owns_nor_frees(folder, beside):
    process = beside(
        """
        log, agent = start()
        child = os.fork()
        if child == 0:
            try:
                owner.take(folder)
            except Exception as error:
                say(type(error).__name__)
            say(owner.is_held(folder))
            os._exit(0)
        os.waitpid(child, 0)
        say("waited")
        sys.stdin.readline()
        """
    )
    assert [process.hear() for _ in range(3)] == ["StateUnavailable", "True", "waited"]
    assert owner.is_held(folder)


def test_a_child_that_outlives_the_owner_does_not_hold_the_lock(folder, beside):
    process = beside(
        """
        log, agent = start()
        if os.fork() == 0:
            say("child")
            sys.stdin.readline()
            os._exit(0)
        time.sleep(60)
        """
    )
    assert process.hear() == "child"
    process.popen.kill()
    process.popen.wait()
    assert not owner.is_held(folder)
    process.tell("go")


def test_release_may_be_called_again_and_nothing_there_is_not_held(folder, log):
    log.close()
    lock = owner.take(folder)
    lock.release()
    lock.release()
    assert not owner.is_held(folder)
    assert not owner.is_held(RunFolder(folder.root.with_name("b000000000")))


def test_a_lock_that_is_a_symbolic_link_is_refused(folder, log, tmp_path):
    log.close()
    folder.lock.unlink()
    folder.lock.symlink_to(tmp_path / "elsewhere")
    for act in (owner.take, owner.is_held):
        with pytest.raises(StateUnavailable, match="the lock of"):
            act(folder)
    assert not (tmp_path / "elsewhere").exists()


def test_the_identity_tells_this_process_from_a_later_one(beside):
    mine = owner.identity()
    assert owner.identity() == mine
    assert beside("say(owner.identity().start_time)").hear() != str(mine.start_time)
    assert mine.boot_id
