"""Folding: what each event changes, that an illegal one changes nothing, and that progress never goes back whatever happens."""

from __future__ import annotations

import datetime

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toka_cli import events as e
from toka_cli import lifecycle
from toka_cli.errors import IllegalMove
from toka_cli.lifecycle import AgentState, RunState, TaskState
from toka_cli.state.fold import Fold, apply, fold
from toka_cli.state.snapshot import RunView

RUN = "a000000000"
ONE, TWO = f"{RUN}-1", f"{RUN}-2"


def records(*steps, start=100.0):
    """Records from events, or (event, agent) or (event, agent, task), one second apart."""
    made = []
    for number, step in enumerate(steps, start=1):
        event, agent, task = (step, None, None) if isinstance(step, e.Event) else (*step, None)[:3]
        made.append(e.Record(number, start + number, event, agent, task))
    return made


def created(name="one", tasks=2, agent=ONE):
    listed = tuple(e.TaskInfo(f"t{number}", "d", "command") for number in range(1, tasks + 1))
    return (e.AgentCreated(e.AgentInfo(name, name, "w", tasks=listed)), agent)


HEAD = (e.RunCreated(RUN, "/w", "0.1", ("toka",), {"a": 1}), e.RunStarted(), created())
UP = ((e.AgentQueued(), ONE), (e.AgentStarting(), ONE), (e.AgentStarted(7, {"memory": "cgroup"}), ONE))


def at(second):
    return datetime.datetime.fromtimestamp(100.0 + second, datetime.UTC)


def test_a_run_from_its_events():
    view = fold(records(*HEAD, e.RunWarned("no cgroups"), *UP, (e.AgentSucceeded(), ONE), e.RunSucceeded()))
    assert (view.id, view.workdir, view.version, view.command, view.options) == (RUN, "/w", "0.1", ["toka"], {"a": 1})
    assert (view.state, view.exit_code, view.reason, view.warnings) == (RunState.SUCCEEDED, 0, None, ["no cgroups"])
    assert (view.created_at, view.started_at, view.ended_at, view.duration_s, view.last_seq) == (at(1), at(2), at(9), 7.0, 9)


def test_an_agent_from_its_events():
    outcome = e.Outcome(exit_code=0, output="hi", duration_s=0.25, cpu_time_s=0.1, peak_memory_bytes=50)
    view = fold(
        records(
            *HEAD, *UP, (e.AgentNoted("idle"), ONE), (e.AgentMeasured("coverage", 0.5), ONE), (e.ToolCalled("c1", "read"), ONE),
            (e.ToolDenied("web", "net", "no"), ONE),
            (e.TaskStarted(), ONE, "t1"), (e.TaskSucceeded(outcome), ONE, "t1"), (e.GateStarted(1, "works"), ONE),
            (e.GateFailed(1, "works", "exit 3", e.Outcome(exit_code=3)), ONE), (e.DeliverableRecorded("a.txt", 3, "ff", 1), ONE),
        )
    )  # fmt: skip
    (agent,) = view.agents
    assert (agent.state, agent.pid, agent.isolation, agent.attempts, agent.restarts) == (AgentState.RUNNING, 7, {"memory": "cgroup"}, 1, 0)
    assert (agent.progress, agent.tasks_done, agent.tasks_total) == (0.5, 1, 2)
    assert (agent.metrics, agent.tool_calls, agent.denied, agent.started_at) == ({"coverage": 0.5}, 1, 1, at(5))
    task = agent.tasks[0]
    assert (task.state, task.output, task.duration_s, task.attempts, task.cpu_time_s, task.peak_memory_bytes) == (
        TaskState.SUCCEEDED,
        "hi",
        0.25,
        1,
        0.1,
        50,
    )
    assert [(gate.state, gate.reason, gate.exit_code) for gate in agent.gates] == [("failed", "exit 3", 3)]
    assert [(it.path, it.agent, it.size_bytes) for it in view.deliverables] == [("a.txt", "one", 3)]


def test_detail_says_which_task_runs_and_ends_with_it():
    folded = Fold(RunView(id=RUN))
    steps = records(*HEAD, *UP, (e.TaskStarted(), ONE, "t1"), (e.TaskSucceeded(), ONE, "t1"))
    for record in steps[:-1]:
        folded.apply(record)
    assert folded.agents[ONE].detail == "executing task t1"
    folded.apply(steps[-1])
    assert folded.agents[ONE].detail is None


def test_an_agent_that_ended_has_no_process_and_keeps_its_end():
    end = ((e.AgentFailed("limit.memory", "raise it"), ONE), (e.AgentExited(None, 9, "kill", 1.5, 99), ONE), (e.AgentNoted("late"), ONE))
    view = fold(records(*HEAD, *UP, *end))
    agent = view.agents[0]
    assert (agent.state, agent.reason, agent.hint, agent.pid, agent.detail) == (AgentState.FAILED, "limit.memory", "raise it", None, None)
    assert (agent.ended_at, agent.duration_s, agent.cpu_time_s, agent.peak_memory_bytes) == (at(7), 2.0, 1.5, 99)


def test_a_restart_counts_and_cpu_time_adds_up():
    again = (
        (e.AgentExited(cpu_time_s=2.0, peak_memory_bytes=10), ONE),
        (e.AgentBackedOff("crashed: signal 9", 1.0), ONE),
        (e.AgentRequeued(), ONE),
    )
    folded = Fold(RunView(id=RUN))
    for record in records(*HEAD, *UP, *again, (e.AgentStarting(2), ONE), (e.AgentStarted(8), ONE)):
        folded.apply(record)
    agent = folded.agents[ONE]
    assert (agent.restarts, agent.attempts, agent.cpu_time_s, agent.reason, agent.started_at) == (1, 2, 2.0, None, at(5))
    assert folded.sample(ONE, 40, 0.5)
    assert (agent.memory_bytes, agent.peak_memory_bytes, agent.cpu_time_s) == (40, 40, 2.5)
    folded.apply(e.Record(99, 300.0, e.AgentExited(cpu_time_s=0.75, peak_memory_bytes=30), ONE))
    assert (agent.memory_bytes, agent.peak_memory_bytes, agent.cpu_time_s) == (None, 40, 2.75)
    assert not folded.sample(ONE, 40, 9.0)
    assert agent.memory_bytes is None


def test_recovery_is_no_restart_and_keeps_finished_tasks():
    view = fold(
        records(
            *HEAD, *UP, (e.TaskStarted(), ONE, "t1"), (e.TaskSucceeded(), ONE, "t1"), (e.TaskStarted(), ONE, "t2"), e.RunInterrupted("owner_gone"),
            (e.TaskRequeued(), ONE, "t2"), (e.AgentRequeued(), ONE), e.RunRequeued(),
        )
    )  # fmt: skip
    agent = view.agents[0]
    assert (view.state, view.reason, agent.state, agent.pid, agent.restarts, agent.progress) == (
        RunState.RUNNING,
        None,
        AgentState.PENDING,
        None,
        0,
        0.5,
    )
    assert [task.state for task in agent.tasks] == [TaskState.SUCCEEDED, TaskState.PENDING]


def test_a_retried_task_keeps_what_the_last_attempt_said_when_it_is_stopped():
    failed = e.Outcome(exit_code=3, output="no", duration_s=1.0, cpu_time_s=1.0)
    view = fold(
        records(
            *HEAD,
            *UP,
            (e.TaskStarted(), ONE, "t1"),
            (e.TaskRetrying(1, "exit 3", 2.0, failed), ONE, "t1"),
            (e.TaskStopped("user"), ONE, "t1"),
        )
    )
    task = view.agents[0].tasks[0]
    assert (task.state, task.reason, task.exit_code, task.output, task.cpu_time_s) == (TaskState.STOPPED, "user", 3, "no", 1.0)


def test_several_attempts_add_up():
    bad = e.Outcome(exit_code=1, cpu_time_s=1.0, peak_memory_bytes=9, duration_s=0.1)
    steps = ((e.TaskStarted(), ONE, "t1"), (e.TaskRetrying(1, "exit 1", 0.1, bad), ONE, "t1"))
    good = e.Outcome(exit_code=0, cpu_time_s=1.0, duration_s=0.1)
    view = fold(records(*HEAD, *UP, *steps, *steps, (e.TaskStarted(), ONE, "t1"), (e.TaskSucceeded(good), ONE, "t1")))
    task = view.agents[0].tasks[0]
    assert (task.attempts, task.cpu_time_s, task.peak_memory_bytes, task.duration_s, task.reason) == (3, 3.0, 9, 5.0, None)


def test_an_agent_without_tasks_is_done_when_it_succeeded():
    view = fold(records(*HEAD[:2], created(tasks=0), *UP, (e.AgentSucceeded(), ONE)))
    assert (view.agents[0].progress, view.agents[0].tasks_total) == (1.0, 0)


def test_a_clock_that_was_set_back_gives_no_negative_duration():
    steps = records(*HEAD, *UP, (e.AgentSucceeded(), ONE))
    steps[-1] = e.Record(steps[-1].seq, 3.0, steps[-1].event, ONE)
    assert fold(steps).agents[0].duration_s == 0.0


def test_the_last_look_at_a_deliverable_counts():
    looks = [(e.DeliverableRecorded(path, size, digest, 1), ONE) for path, size, digest in (("a", 1, "aa"), ("b", 1, "bb"), ("a", 2, "cc"))]
    view = fold(records(*HEAD, *looks))
    assert [(it.path, it.sha256) for it in view.deliverables] == [("b", "bb"), ("a", "cc")]


ILLEGAL = [
    (e.RunStarted(), None, None),
    (e.RunCreated(RUN, "/w", "0"), None, None),
    (created(agent=ONE)[0], ONE, None),
    (created()[0], None, None),
    (e.AgentCreated(e.AgentInfo("x", "x", "w", tasks=(e.TaskInfo("t", "d", "code"), e.TaskInfo("t", "d", "code")))), TWO, None),
    (e.AgentQueued(), ONE, None),
    (e.AgentQueued(), TWO, None),
    (e.AgentNoted("x"), None, None),
    (e.TaskStarted(), ONE, "t9"),
    (e.TaskStarted(), ONE, None),
    (e.TaskSucceeded(), ONE, "t2"),
    (e.GateStarted(1, "x"), TWO, None),
    (e.ToolCalled("c", "read"), None, None),
]


@pytest.mark.parametrize(("event", "agent", "task"), ILLEGAL, ids=lambda value: getattr(value, "kind", str(value)))
def test_an_illegal_event_changes_nothing(event, agent, task):
    folded = Fold(RunView(id=RUN))
    for record in records(*HEAD, *UP):
        folded.apply(record)
    folded.clean()
    before = msgspec.json.encode(folded.view)
    with pytest.raises(IllegalMove):
        folded.apply(e.Record(50, 200.0, event, agent, task))
    assert msgspec.json.encode(folded.view) == before
    assert (folded.dirty_run, folded.dirty_agents, folded.dirty_tasks) == (False, {}, {})


def test_nothing_happens_before_the_run_was_created_or_in_another_run():
    with pytest.raises(IllegalMove, match=r"before run\.created"):
        fold(records(e.RunStarted()))
    with pytest.raises(IllegalMove, match="does not belong"):
        apply(RunView(id="b000000000"), e.Record(1, 1.0, HEAD[0]))


def test_in_a_finished_run_nothing_moves_but_late_remarks_are_heard():
    done = (*HEAD, created("two", 1, TWO), *UP, (e.AgentSucceeded(), ONE), e.RunFailed("agent_failed: two", 1))
    for late in (
        (e.AgentQueued(), TWO),
        (e.TaskStarted(), TWO, "t1"),
        created("three", 1, f"{RUN}-3"),
        e.RunStopping("user"),
        (e.GateStarted(1, "x"), TWO),
    ):
        with pytest.raises(IllegalMove):
            fold(records(*done, late))
    view = fold(records(*done, (e.AgentExited(0, cpu_time_s=1.0), ONE)))
    assert view.agents[0].cpu_time_s == 1.0


def test_apply_is_the_same_as_a_fold_that_is_kept():
    view = RunView(id=RUN)
    steps = records(*HEAD, *UP)
    for record in steps:
        apply(view, record)
    assert view == fold(steps)


# --- any legal history ---------------------------------------------------------------------------------------------------------------

EVENTS = {
    "run.stopping": e.RunStopping("user"), "run.interrupted": e.RunInterrupted("owner_gone"), "run.failed": e.RunFailed("x"),
    "run.stopped": e.RunStopped("user"), "agent.starting": e.AgentStarting(), "agent.started": e.AgentStarted(5), "agent.stopping": e.AgentStopping("user"),
    "agent.backoff": e.AgentBackedOff("crashed", 1.0), "agent.failed": e.AgentFailed("crashed"), "agent.stopped": e.AgentStopped("user"),
    "agent.skipped": e.AgentSkipped("dependency_failed: x"), "task.retrying": e.TaskRetrying(1, "exit 1", 0.1), "task.failed": e.TaskFailed("exit 1"),
    "task.skipped": e.TaskSkipped("when"), "task.stopped": e.TaskStopped("user"),
}  # fmt: skip
PLAIN = {kind.__struct_config__.tag: kind for kind in e.AnyEvent.__args__}


def event_of(kind):
    return EVENTS.get(kind) or PLAIN[kind]()


def legal(folded):
    """Everything that may happen next."""
    view = folded.view
    steps = [(event_of(kind), None, None) for state, kind in lifecycle.RUN_MOVES if state is view.state]
    if view.state in lifecycle.RUN_FINAL:
        return [(e.AgentExited(0, cpu_time_s=1.0), agent, None) for agent in folded.agents]
    for agent in view.agents:
        steps += [(event_of(kind), agent.id, None) for state, kind in lifecycle.AGENT_MOVES if state is agent.state]
        steps += [
            (e.AgentNoted("x"), agent.id, None),
            (e.AgentExited(1, cpu_time_s=0.5), agent.id, None),
            (e.ToolDenied("t", "c", "m"), agent.id, None),
        ]
        for task in agent.tasks:
            steps += [(event_of(kind), agent.id, task.id) for state, kind in lifecycle.TASK_MOVES if state is task.state]
    return steps


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=80))
def test_progress_never_goes_back_in_any_legal_history(choices):
    folded = Fold(RunView(id=RUN))
    history = records(*HEAD, created("two", 3, TWO))
    for record in history:
        folded.apply(record)
    for choice in choices:
        before = [(agent.progress, agent.tasks_done, agent.tool_calls, agent.attempts) for agent in folded.view.agents]
        steps = legal(folded)
        event, agent, task = steps[choice % len(steps)]
        history.append(e.Record(len(history) + 1, 500.0 + len(history), event, agent, task))
        folded.apply(history[-1])
        for old, now in zip(before, folded.view.agents, strict=True):
            assert (now.progress, now.tasks_done, now.tool_calls, now.attempts) >= old
            assert 0.0 <= now.progress <= 1.0
            assert now.tasks_done == sum(task.state in {TaskState.SUCCEEDED, TaskState.FAILED} for task in now.tasks)
            assert (now.pid is None) or now.state not in lifecycle.AGENT_FINAL
            assert (now.ended_at is not None) == (now.state in lifecycle.AGENT_FINAL)
    assert fold(history) == folded.view
    assert msgspec.json.decode(msgspec.json.encode(folded.view), type=RunView) == folded.view


def test_a_run_that_is_held_says_why_until_it_is_not():
    view = fold(records(*HEAD, e.RunHeld("memory is short")))
    assert (view.held, view.state) == ("memory is short", RunState.RUNNING)
    assert fold(records(*HEAD, e.RunHeld("memory is short"), e.RunReleased())).held is None
    assert fold(records(*HEAD, e.RunHeld("memory is short"), (e.AgentStopped("x"), ONE), e.RunStopped("agents_stopped: one"))).held is None
    assert fold(records(*HEAD, e.RunHeld("memory is short"), e.RunInterrupted("x"), e.RunRequeued())).held is None


def test_fewer_agents_at_once_are_what_the_run_has_from_then_on():
    view = fold(records(*HEAD, e.RunWarned("at most 2 agents at once from now on: fork: no room", "crowded", 2), e.RunWarned("something else")))
    assert view.options == {"a": 1, "at_once": 2, "max_agents_reason": "fork: no room"}
    assert len(view.warnings) == 2


def test_working_time_is_what_was_noted_last():
    folded = Fold(RunView(id=""))
    for record in records(*HEAD, *UP):
        folded.apply(record)
    assert folded.agents[ONE].worked_s is None
    assert folded.sample(ONE, None, None, 4.5)
    assert folded.agents[ONE].worked_s == 4.5
    folded.apply(e.Record(8, 110.0, e.AgentExited(0, worked_s=5.0), ONE))
    assert folded.agents[ONE].worked_s == 5.0
    assert not folded.sample(ONE, None, None, 9.0), "a late sample"
    assert folded.agents[ONE].worked_s == 5.0


def test_the_rung_of_a_stopped_gate_is_told_by_the_end():
    stopped = fold(records(*HEAD, *UP, (e.AgentStopping("user"), ONE), (e.AgentStopped("stopped: user", "term"), ONE)))
    assert stopped.agents[0].rung == "term"
    exited = (e.AgentExited(None, 9, "kill"), ONE)
    assert fold(records(*HEAD, *UP, (e.AgentStopping("user"), ONE), exited, (e.AgentStopped("stopped: user"), ONE))).agents[0].rung == "kill"
