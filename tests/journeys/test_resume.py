"""`toka run resume`: whatever moment the owner was killed at, the run goes on where it was, repeats nothing that had ended, and says what it cannot know."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
from collections import Counter
from typing import Any

import pytest

from tests.conftest import Toka
from tests.conftest import ended as has_ended

IN_DOUBT = "interrupted: may or may not have taken effect"


def specs(toka: Toka, second: str, **more: Any) -> None:
    """`one` runs three tasks that each leave a line in `did`, `next` needs it, `other` has nothing to do with it."""
    tasks = [
        {"id": "first", "description": "F", "run": "echo first >> did"},
        {"id": "second", "description": "S", "run": f"echo second >> did; {second}", **more},
        {"id": "third", "description": "T", "run": "echo third >> did"},
    ]
    toka.spec("one", tasks)
    toka.spec("next", [{"id": "t", "description": "N", "run": "echo next >> did"}], dependencies={"required": {"one": "x"}})
    toka.spec("other", [{"id": "t", "description": "O", "run": "echo other >> did"}])


def start(toka: Toka) -> Any:
    return toka.start("orchestrate", toka.root / "specs", "-o", "jsonl")


def killed(toka: Toka, running: Any) -> str:
    """SIGKILL of the owner; the run is `interrupted` at once, and nothing of it stays."""
    run = running.events[0]["run"] if running.events else toka.folders()[0].run_id
    running.process.kill()
    running.wait()
    shown = toka("run", "list", "-o", "json").expect(0).envelope["data"]["runs"]
    assert [(each["id"], each["state"]) for each in shown] == [(run, "interrupted")]
    toka.nothing_left()
    assert isinstance(run, str)
    return run


def epoch(toka: Toka, run: str) -> int:
    connection = sqlite3.connect(f"file:{toka.folder(run).database}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT epoch FROM run").fetchone()[0])
    finally:
        connection.close()


def resume(toka: Toka, run: str, *words: str, code: int = 0, **options: Any) -> dict[str, Any]:
    """Resume to the end, with what must be true of every resume."""
    before = epoch(toka, run)
    view = toka("run", "resume", run, *words, "-o", "json", **options).expect(code).envelope["data"]["run"]
    assert epoch(toka, run) == before + 1
    toka("audit", "verify", run).expect(0)
    ended = toka("run", "resume", run)
    assert ended.code == 1
    assert "has ended" in ended.err
    toka.nothing_left()
    assert isinstance(view, dict)
    return view


def did(toka: Toka) -> dict[str, int]:
    words = (toka.work / "did").read_text().split()
    return {word: words.count(word) for word in words}


def states(view: dict[str, Any]) -> dict[str, str]:
    return {agent["name"]: agent["state"] for agent in view["agents"]}


def blocked(toka: Toka, **more: Any) -> Any:
    """A run that stands in `second`; a second time that task goes through."""
    ready = toka.meeting("ready")
    specs(toka, "test -e again && exit 0; touch again; echo up > ready; exec sleep 1000", **more)
    running = start(toka)
    running.event("agent.succeeded", name="other")
    ready.take()
    return running


ALL_DONE = {"one": "succeeded", "next": "succeeded", "other": "succeeded"}


@pytest.mark.parametrize("kind", ["run.created", "run.started", "agent.starting", "agent.started"])
def test_killed_before_the_first_task(toka: Toka, kind: str) -> None:
    toka.spec("one", [{"id": "t", "description": "T", "run": "echo one >> did", "on_interrupted": "rerun"}])
    toka.spec("next", [{"id": "t", "description": "N", "run": "echo next >> did"}], dependencies={"required": {"one": "x"}})
    running = start(toka)
    running.event(kind)
    running.process.kill()
    run = toka.folders()[0].run_id
    running.wait()
    toka.nothing_left()
    if toka("run", "show", run, "-o", "json").envelope["data"]["run"]["state"] == "interrupted":
        assert states(resume(toka, run)) == {"one": "succeeded", "next": "succeeded"}
    assert did(toka)["next"] == 1


def test_a_task_that_may_run_again_does(toka: Toka) -> None:
    run = killed(toka, blocked(toka, on_interrupted="rerun"))
    assert states(resume(toka, run)) == ALL_DONE
    assert did(toka) == {"first": 1, "second": 2, "third": 1, "next": 1, "other": 1}


def test_a_task_that_was_cut_off_is_not_repeated_unasked(toka: Toka) -> None:
    run = killed(toka, blocked(toka))
    view = resume(toka, run, code=1)
    assert states(view) == {"one": "failed", "next": "skipped", "other": "succeeded"}
    tasks = next(agent["tasks"] for agent in view["agents"] if agent["name"] == "one")
    assert [task["state"] for task in tasks] == ["succeeded", "failed", "skipped"]
    assert tasks[1]["reason"] == IN_DOUBT
    assert did(toka) == {"first": 1, "second": 1, "other": 1}


def test_a_task_that_is_allowed_to_fail_does_not_hold_up_the_rest(toka: Toka) -> None:
    run = killed(toka, blocked(toka, allow_failure=True))
    assert states(resume(toka, run)) == ALL_DONE
    assert did(toka) == {"first": 1, "second": 1, "third": 1, "next": 1, "other": 1}


@pytest.mark.parametrize(("answer", "code", "count"), [("rerun", 0, 2), ("fail", 1, 1)])
def test_a_task_that_asks_is_decided_by_a_person(toka: Toka, answer: str, code: int, count: int) -> None:
    run = killed(toka, blocked(toka, on_interrupted="ask"))
    for _ in range(2):
        asked = toka("run", "resume", run, "-o", "json")
        assert asked.code == 9
        assert "one.second" in asked.envelope["errors"][0]["message"]
        assert toka("run", "show", run, "-o", "json").envelope["data"]["run"]["state"] == "interrupted"
    assert toka("run", "resume", run, "--in-doubt", "perhaps").code == 2
    resume(toka, run, "--in-doubt", answer, code=code)
    assert did(toka)["second"] == count
    assert did(toka)["first"] == 1


def test_killed_between_two_tasks(toka: Toka) -> None:
    """The agent is paused meanwhile, so that there is such a moment."""
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    specs(toka, "echo up > ready; read x < gate")
    running = start(toka)
    ready.take()
    toka("agent", "pause", "one").expect(0)
    gate.give()
    running.event("task.succeeded", task="second")
    running.events_of(("agent.succeeded", "other"))
    run = killed(toka, running)
    assert states(resume(toka, run)) == ALL_DONE
    assert did(toka) == {"first": 1, "second": 1, "third": 1, "next": 1, "other": 1}


def test_killed_while_a_task_waits_for_its_next_attempt(toka: Toka) -> None:
    specs(toka, "test -e again && exit 0; touch again; exit 1", retries={"max": 2, "delay": "10m"})
    running = start(toka)
    running.events_of(("task.retrying", "one"), ("agent.succeeded", "other"))
    run = killed(toka, running)
    assert states(resume(toka, run)) == ALL_DONE
    assert did(toka)["second"] == 2


def test_killed_while_an_agent_waits_for_its_restart(toka: Toka) -> None:
    tasks = [{"id": "t", "description": "T", "run": "echo t >> did; test -e again && exit 0; touch again; kill -9 $PPID", "on_interrupted": "rerun"}]
    toka.spec("one", tasks, restart={"policy": "on-failure", "delay": "10m"})
    # Without walls: a command cannot kill its agent otherwise.
    running = toka.start("orchestrate", toka.root / "specs", "--no-sandbox", "-o", "jsonl")
    running.event("agent.backoff")
    assert states(resume(toka, killed(toka, running))) == {"one": "succeeded"}
    assert did(toka) == {"t": 2}


def test_killed_during_a_gate(toka: Toka) -> None:
    ready = toka.meeting("ready")
    check = "test -e again && exit 0; touch again; echo up > ready; exec sleep 1000"
    objective = {"description": "It works", "validation": {"run": check}}
    toka.spec("one", [{"id": "t", "description": "T", "run": "echo t >> did"}], objectives=[objective])
    running = start(toka)
    ready.take()
    view = resume(toka, killed(toka, running))
    assert view["agents"][0]["gates"][0]["state"] == "succeeded"
    assert did(toka) == {"t": 1}


def test_killed_again_and_again(toka: Toka) -> None:
    """Each life is killed in another task; none is repeated but the one that was cut off."""
    ready = toka.meeting("ready")
    tasks = [
        {"id": f"t{n}", "description": "T", "run": f"echo t{n} >> did; test -e again{n} && exit 0; touch again{n}; echo > ready; exec sleep 1000",
         "on_interrupted": "rerun"}
        for n in range(3)
    ]  # fmt: skip
    toka.spec("one", tasks)
    running = start(toka)
    run = ""
    for _ in range(3):
        ready.take()
        run = toka.folders()[0].run_id
        running.process.kill()
        running.wait()
        running = toka.start("run", "resume", run, "-o", "jsonl")
    assert running.wait().expect(0).lines[-1]["data"]["run"]["state"] == "succeeded"
    assert did(toka) == {"t0": 2, "t1": 2, "t2": 2}
    toka("audit", "verify", run).expect(0)


KILLS = 24


def test_killed_at_any_moment_the_outcome_is_that_of_an_uninterrupted_run(toka: Toka) -> None:
    """Two dozen owners, each killed after it said something; which word is drawn by lot. What had ended is never done again."""
    rng = random.Random(11)
    # Each task writes what it is for, whole or not at all; done twice it is the same.
    write = "echo {word} >> did; echo {word} > {word}.part; mv {word}.part {word}.done"
    names, tasks = ("one", "two", "three"), [f"t{n}" for n in range(30)]
    for index, name in enumerate(names):
        briefs = [{"id": task, "description": "T", "run": write.format(word=f"{name}-{task}"), "on_interrupted": "rerun"} for task in tasks]
        toka.spec(name, briefs, dependencies={"required": {names[index - 1]: "x"}} if index == 2 else {})
    running, run, ended = start(toka), "", Counter[tuple[str, str]]()
    for _ in range(KILLS):
        for _ in range(rng.randrange(1, 16)):
            event = running.next()
            if event["kind"] == "task.succeeded":
                ended[event["name"], event["task"]] += 1
        run = run or event["run"]
        if rng.random() < 0.5:
            # Not at its own words, but somewhere between them.
            assert not has_ended(running.pid, rng.random() * 0.02)
        running.process.kill()
        running.process.wait()
        shown = toka("run", "list", "-o", "json").expect(0).envelope["data"]["runs"]
        assert [(each["id"], each["state"]) for each in shown] == [(run, "interrupted")]
        assert toka("agent", "list", "-o", "json").expect(0).envelope["data"]["agents"] == []
        running = toka.start("run", "resume", run, "-o", "jsonl")
    view = running.wait().expect(0).lines[-1]["data"]["run"]
    assert states(view) == dict.fromkeys(names, "succeeded")
    done = did(toka)
    for agent in view["agents"]:
        for task in agent["tasks"]:
            word = f"{agent['name']}-{task['id']}"
            assert (toka.work / f"{word}.done").read_text() == f"{word}\n"
            assert task["state"] == "succeeded"
            assert 1 <= done[word] <= task["attempts"], "every time that it was done was an attempt that is on record"
    assert set(ended.values()) <= {1}, "what was said to have succeeded was not done again"
    assert epoch(toka, run) == KILLS + 1
    toka("audit", "verify", run).expect(0)
    toka.nothing_left()


@pytest.mark.parametrize("times", [1, 2])
def test_a_run_that_was_stopped_by_a_signal_goes_on(toka: Toka, times: int) -> None:
    running = blocked(toka, on_interrupted="rerun")
    running.signal(signal.SIGINT)
    if times == 2:
        running.event("agent.stopping")
        running.signal(signal.SIGINT)
    view = running.wait().expect(130).lines[-1]["data"]["run"]
    assert view["state"] == "interrupted"
    assert states(resume(toka, view["id"])) == ALL_DONE
    assert did(toka) == {"first": 1, "second": 2, "third": 1, "next": 1, "other": 1}


def test_it_goes_on_in_its_own_directory_wherever_it_is_resumed(toka: Toka) -> None:
    run = killed(toka, blocked(toka, on_interrupted="rerun"))
    elsewhere = toka.root / "elsewhere"
    elsewhere.mkdir()
    assert states(resume(toka, run, cwd=elsewhere)) == ALL_DONE
    assert list(elsewhere.iterdir()) == []


def test_a_directory_that_is_gone_is_named(toka: Toka) -> None:
    run = killed(toka, blocked(toka, on_interrupted="rerun"))
    moved = toka.root / "moved"
    toka.work.rename(moved)
    done = toka("run", "resume", run, cwd=toka.root)
    assert done.code == 4
    assert str(toka.work) in done.err
    moved.rename(toka.work)
    resume(toka, run)


def test_a_live_run_has_one_owner(toka: Toka) -> None:
    running = blocked(toka)
    run = running.events[0]["run"]
    before = epoch(toka, run)
    for _ in range(2):
        done = toka("run", "resume", run)
        assert done.code == 6
        assert "under way" in done.err
    assert epoch(toka, run) == before
    running.signal(signal.SIGINT)
    running.wait().expect(130)


def test_of_two_resumes_one_goes_on(toka: Toka) -> None:
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    tasks = [{"id": "t", "description": "T", "run": "echo t >> did; echo up > ready; read x < gate", "on_interrupted": "rerun"}]
    toka.spec("one", tasks)
    running = start(toka)
    ready.take()
    run = killed(toka, running)
    rivals = [toka.start("run", "resume", run, "-o", "json") for _ in range(3)]
    ready.take()
    gate.give()
    codes = sorted(rival.wait().code for rival in rivals)
    assert codes[0] == 0
    assert set(codes[1:]) <= {1, 6}, "the others are told that it is under way, or that it has ended"
    assert did(toka) == {"t": 2}
    toka("audit", "verify", run).expect(0)


def test_nothing_of_the_former_life_works_beside_the_next(toka: Toka) -> None:
    """Resumed at once: what the killed owner had started is gone before its task runs again."""
    ready = toka.meeting("ready")
    # Takes a lock that only one can hold, in a session of its own.
    command = "setsid -w flock -n lock sh -c 'echo > ready; test -e again && exit 0; touch again; exec sleep 1000' || echo taken >> did"
    toka.spec("one", [{"id": "t", "description": "T", "run": command, "on_interrupted": "rerun"}])
    running = start(toka)
    ready.take()
    run = toka.folders()[0].run_id
    os.kill(running.pid, signal.SIGKILL)
    assert toka("run", "resume", run, "-o", "json").expect(0).envelope["data"]["run"]["state"] == "succeeded"
    assert not (toka.work / "did").exists()
    running.wait()
