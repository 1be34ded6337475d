"""Two runs side by side: what is another in every run makes no difference, and everything else is found where it is."""

from __future__ import annotations

import pytest

from toka_cli import events as e
from toka_cli.state import query
from toka_cli.state.difference import Compared, differences

ONE, TWO = "a000000000", "b000000000"


@pytest.fixture
def told(new_log, clock):
    """Makes a finished run of two agents; `more` is what is another in it: called with the log at the end of its work."""

    def tell(run, *, output="fine\n", exit_code=0, sha="ab" * 32, cost=0.25, tokens=100, denied=1, more=None, reason=None):
        log = new_log(run)
        clock.now += 12345.678
        log.append(e.RunCreated(run, f"/work/{run}", "0.1"))
        ids = {}
        for number, name in enumerate(("build", "docs"), 1):
            ids[name] = agent = f"{run}-{number}"
            tasks = (e.TaskInfo("t1", "T", "prompt"), e.TaskInfo("t2", "T", "command"))
            log.append(e.AgentCreated(e.AgentInfo(name, name, "w", tasks=tasks)), agent=agent)
        log.append(e.RunStarted())
        for agent in ids.values():
            for event in (e.AgentQueued(), e.AgentStarting(), e.AgentStarted(int(run[0], 16) + 100)):
                log.append(event, agent=agent)
        build = ids["build"]
        log.append(e.TaskStarted(), agent=build, task="t1")
        log.append(e.LlmStarted(1, "x"), agent=build, task="t1")
        clock.now += len(run) * 0.5 + (run == TWO)
        log.append(e.LlmReplied(1, "x", "stop", tokens, 10, cost), agent=build, task="t1")
        for _ in range(denied):
            log.append(e.ToolDenied("http_fetch", "network-access", f"not for {run}"), agent=build, task="t1")
        log.append(e.TaskSucceeded(e.Outcome(output=f"summary of {run}", value={"b": 1, "a": run})), agent=build, task="t1")
        log.append(e.TaskStarted(), agent=build, task="t2")
        outcome = e.Outcome(exit_code=exit_code, output=output, stderr=f"{run} said\n", duration_s=clock.now % 7, cpu_time_s=clock.now % 3)
        log.append(e.TaskSucceeded(outcome) if exit_code == 0 else e.TaskFailed(reason or f"exit status {exit_code}", outcome), agent=build, task="t2")
        log.append(e.GateStarted(1, "holds"), agent=build)
        log.append(e.GatePassed(1, "holds", e.Outcome(exit_code=0, output=f"passed in {clock.now % 7}s")), agent=build)
        log.append(e.DeliverableRecorded("out.txt", 3, sha, 1), agent=build)
        if more is not None:
            more(log, ids)
        log.append(e.AgentExited(0, cpu_time_s=clock.now % 2, peak_memory_bytes=int(clock.now)), agent=build)
        log.append(e.AgentSucceeded(), agent=build)
        log.append(e.AgentFailed(f"limit.memory: memory usage {clock.now % 300:.0f} MB > limit 200 MB"), agent=ids["docs"])
        log.append(e.RunFailed("agents_failed: docs"))
        log.close()
        return Compared(query.load_run(log.folder), query.read_denied(log.folder))

    return tell


def test_a_run_that_was_played_back_paid_nobody_but_had_the_same_turns(told):
    def second(log, ids):
        log.append(e.TaskStarted(), agent=ids["docs"], task="t1")
        log.append(e.LlmReplied(1, "x", "stop", 5, 5, None), agent=ids["docs"], task="t1")

    def replayed(log, ids):
        log.append(e.TaskStarted(), agent=ids["docs"], task="t1")

    a, b, c = told(ONE, more=second), told(TWO, cost=0.0, tokens=0, more=second), told("c000000000", more=replayed)
    assert {it.what for it in differences(a, b)} == {"usage.input_tokens", "usage.cost_usd"}
    for run in (b, c):
        run.view.options["replay"] = "tape"
    assert differences(a, b) == []
    assert found(a, c) == [("docs", None, "usage.turns", 1, 0)]


def found(a, b):
    return [(it.agent, it.task, it.what, it.a, it.b) for it in differences(a, b)]


def test_what_is_another_in_every_run_is_no_difference(told):
    assert differences(told(ONE), told(TWO)) == []


def test_a_run_is_the_same_as_itself(told):
    run = told(ONE)
    assert differences(run, run) == []


def test_an_exit_code_and_what_follows_from_it(told):
    assert found(told(ONE), told(TWO, exit_code=3)) == [
        ("build", "t2", "state", "succeeded", "failed"), ("build", "t2", "reason", None, "exit status 3"), ("build", "t2", "exit_code", 0, 3),
    ]  # fmt: skip


def test_outputs_differ_by_their_digest_and_the_first_line_that_does_is_shown(told):
    (it,) = differences(told(ONE, output="one\ntwo\n"), told(TWO, output="one\nthree\n"))
    assert (it.agent, it.task, it.what, len(it.a), len(it.b)) == ("build", "t2", "output", 64, 64)
    assert it.a != it.b
    assert it.detail == "line 2: 'two' / 'three'"
    (shorter,) = differences(told("c000000000", output="one"), told("d000000000", output="one\n\x1b[2J"))
    assert shorter.detail == "line 2: no such line / '\\x1b[2J'"


def test_long_outputs_are_compared_as_a_whole(told):
    def long(artifact):
        def more(log, ids):
            log.append(e.TaskStarted(), agent=ids["docs"], task="t2")
            log.append(e.TaskSucceeded(e.Outcome(output="the same", output_bytes=10**6, truncated=True, artifact=artifact)), agent=ids["docs"], task="t2")

        return more

    a, b, c = (told(run, more=long(artifact)) for run, artifact in ((ONE, "11" * 32), (TWO, "22" * 32), ("c000000000", "11" * 32)))
    assert found(a, b) == [("docs", "t2", "output", "11" * 32, "22" * 32)]
    assert differences(a, c) == []


def test_usage_files_and_denials(told):
    assert found(told(ONE), told(TWO, cost=None, tokens=101, denied=3, sha="cd" * 32)) == [
        ("build", None, "usage.input_tokens", 100, 101), ("build", None, "usage.cost_usd", 0.25, None), ("build", None, "denied", 1, 3),
        ("build", None, "deliverable", "ab" * 32, "cd" * 32),
    ]  # fmt: skip
    assert differences(told("c000000000", cost=0.1 + 0.2), told("d000000000", cost=0.3)) == [], "the same money"


def test_gates_states_and_reasons(told):
    def gate(log, ids):
        log.append(e.GateFailed(2, "more", "exit status 1", e.Outcome(exit_code=1)), agent=ids["build"])

    def stopped(log, ids):
        log.append(e.TaskStopped("stopped: user"), agent=ids["docs"], task="t1")

    a, b, c = told(ONE), told(TWO, more=gate), told("c000000000", more=stopped)
    (only,) = differences(a, b)
    assert (only.gate, only.what, only.a, only.b) == (2, "gate", "missing", "failed")
    assert found(a, c) == [("docs", "t1", "state", "pending", "stopped"), ("docs", "t1", "reason", None, "stopped: user")]
    d, f = (told(run, exit_code=1, reason=reason) for run, reason in (("d000000000", "limit.time"), ("e000000000", "limit.memory")))
    assert [it.what for it in differences(d, f)] == ["reason"]


def test_what_only_one_of_them_has(told, new_log):
    bare = new_log("f000000000")
    bare.append(e.RunCreated("f000000000", "/w", "0"))
    bare.append(e.AgentCreated(e.AgentInfo("build", "b", "w")), agent="f000000000-1")
    bare.append(e.AgentCreated(e.AgentInfo("new", "n", "w")), agent="f000000000-2")
    bare.append(e.RunStarted())
    bare.append(e.AgentSkipped("x"), agent="f000000000-2")
    bare.flush()
    kinds = {(it.agent, it.task, it.path, it.what, it.a, it.b) for it in differences(told(ONE), Compared(query.load_run(bare.folder)))}
    assert {
        ("build", "t1", None, "task", "succeeded", "missing"), ("docs", None, None, "agent", "failed", "missing"),
        ("new", None, None, "agent", "missing", "skipped"), ("build", None, "out.txt", "deliverable", "ab" * 32, "missing"),
        (None, None, None, "state", "failed", "running"), ("build", None, None, "denied", 1, 0),
    } <= kinds  # fmt: skip


SAME = [
    ("waiting until 12:04:05", "waiting until 09:00:00"), ("T exceeded 5m0s", "T exceeded 6m0s"), ("used 213 MB", "used 214.5 MB"), (None, ""),
    ("owner_gone: process 17", "owner_gone: process 18"), ("of a000000000-1", "of b000000000-1"),
]  # fmt: skip
OTHER = [
    ("crashed: signal 9", "crashed: signal 11"), ("exit status 1", "exit status 2"), ("task_failed: t1", "task_failed: t2"), ("of a000000000", "of c000000000"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b", "same"), [*((a, b, True) for a, b in SAME), *((a, b, False) for a, b in OTHER)])
def test_reasons_are_compared_without_what_is_another_each_time(told, a, b, same):
    def ends(reason):
        def more(log, ids):
            log.append(e.TaskStarted(), agent=ids["docs"], task="t2")
            log.append(e.TaskFailed(reason or ""), agent=ids["docs"], task="t2")

        return more

    assert [it.what for it in differences(told(ONE, more=ends(a)), told(TWO, more=ends(b)))] == ([] if same else ["reason"])
