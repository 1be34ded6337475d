"""AgentExecutor against a kernel that the test plays: order, parallelism, failures, stopping, pausing, and a door that closes."""

from __future__ import annotations

import os
import time

import pytest

from toka_cli.agent.client import CallRefused, OwnerGone
from toka_cli.errors import ProtocolError
from toka_cli.protocol import frames, messages


def run(go, executor):
    go(executor.run())


def test_tasks_run_one_after_the_other_in_the_order_of_the_brief(go, cell, kernel, make_task):
    run(go, cell(make_task("a"), make_task("b"), make_task("c")))
    assert kernel.words() == ["start a.1", "finish a.1 ok", "start b.1", "finish b.1 ok", "start c.1", "finish c.1 ok"]


def test_an_agent_without_tasks_is_done_at_once(go, cell, kernel):
    run(go, cell())
    assert kernel.heard == []


def test_a_task_waits_for_those_it_names_wherever_they_stand(go, cell, kernel, make_task):
    run(go, cell(make_task("a", depends_on=("c",)), make_task("b", depends_on=("a",)), make_task("c"), parallel=3))
    assert [word for word in kernel.words() if word.startswith("start")] == ["start c.1", "start a.1", "start b.1"]


def test_names_that_are_not_in_the_brief_are_done_already(go, cell, kernel, make_task):
    run(go, cell(make_task("b", depends_on=("an-earlier-life",))))
    assert kernel.words() == ["start b.1", "finish b.1 ok"]


def test_parallel_tasks_really_run_at_once_and_no_more_than_allowed(go, cell, kernel, make_task, tmp_path):
    # Each waits until the other has come: only two at once can meet.
    os.mkfifo(tmp_path / "ab")
    meet = (make_task("a", run="echo a > ab"), make_task("b", run="cat ab >/dev/null"), make_task("c"))
    run(go, cell(*meet, parallel=2))
    words = kernel.words()
    assert words[:2] == ["start a.1", "start b.1"]
    assert words.index("start c.1") > min(words.index("finish a.1 ok"), words.index("finish b.1 ok"))
    assert sum(word.startswith("finish") for word in words) == 3


def test_after_a_failure_the_rest_is_skipped_with_the_reason(go, cell, kernel, make_task):
    run(
        go,
        cell(
            make_task("a"),
            make_task("bad", run=("false",)),
            make_task("after", depends_on=("bad",)),
            make_task("far", depends_on=("after",)),
            make_task("other"),
        ),
    )
    assert kernel.words() == [
        "start a.1",
        "finish a.1 ok",
        "start bad.1",
        "finish bad.1 no",
        "skip after: dependency_failed: bad",
        "skip far: dependency_failed: after",
        "skip other: task_failed: bad",
    ]


def test_what_runs_beside_a_failure_may_end(go, cell, kernel, make_task, tmp_path):
    os.mkfifo(tmp_path / "meet")

    def answers(method, params):
        if isinstance(params, messages.FinishAttempt) and params.task == "bad":
            # Its neighbour is let go only now.
            descriptor = os.open(tmp_path / "meet", os.O_RDWR | os.O_NONBLOCK)
            os.write(descriptor, b"go\n")
            held.append(descriptor)
        return

    held = []
    kernel.answers = answers
    run(go, cell(make_task("slow", run="read x < meet"), make_task("bad", run=("false",)), make_task("c"), parallel=2))
    os.close(held[0])
    assert kernel.words() == ["start slow.1", "start bad.1", "finish bad.1 no", "skip c: task_failed: bad", "finish slow.1 ok"]


def test_a_failure_that_is_allowed_stops_nothing(go, cell, kernel, make_task):
    kernel.answers = lambda method, params: (
        messages.Verdict("allowed") if isinstance(params, messages.FinishAttempt) and not params.ok else None
    )
    run(go, cell(make_task("a", run=("false",), allow_failure=True), make_task("b", depends_on=("a",))))
    assert kernel.words()[-1] == "finish b.1 ok"


def test_a_refused_task_fails_and_the_rest_is_skipped(go, cell, kernel, make_task):
    kernel.answers = lambda method, params: (
        messages.Go(go=False, reason="capability_denied") if isinstance(params, messages.StartAttempt) else None
    )
    run(go, cell(make_task("a"), make_task("b")))
    assert kernel.words() == ["start a.1", "skip b: task_failed: a"]


def test_a_refused_task_that_may_fail_stops_nothing(go, cell, kernel, make_task):
    refused = messages.Go(go=False, reason="capability_denied")
    kernel.answers = lambda method, params: refused if isinstance(params, messages.StartAttempt) and params.task == "a" else None
    run(go, cell(make_task("a", allow_failure=True), make_task("b")))
    assert kernel.words() == ["start a.1", "start b.1", "finish b.1 ok"]


def test_attempts_go_on_as_long_as_the_kernel_says(go, cell, kernel, make_task, tmp_path):
    kernel.answers = lambda method, params: (
        messages.Verdict("retry", delay_s=0.01) if isinstance(params, messages.FinishAttempt) and not params.ok else None
    )
    run(go, cell(make_task("a", run="echo x >> tries; test $(wc -l < tries) -ge 3")))
    assert kernel.words() == ["start a.1", "finish a.1 no", "start a.2", "finish a.2 no", "start a.3", "finish a.3 ok"]


def test_what_a_task_writes_reaches_the_kernel_before_its_end(go, cell, kernel, make_task):
    run(go, cell(make_task("a", run="printf out; printf err >&2")))
    assert {(message.stream, message.data) for message in kernel.said(messages.Output)} == {("stdout", b"out"), ("stderr", b"err")}
    assert kernel.heard[-1][0] == "attempt.finish"


# --- stopping ------------------------------------------------------------------------------------------------------------------------


def stop_when(kernel, seen):
    """Order the stop when the kernel hears what `seen` says yes to."""

    def answers(method, params):
        if seen(params):
            kernel.order("agent.stop", messages.StopAgent("enough", 1.0))
        return

    kernel.answers = answers


def test_a_stop_while_a_task_runs_ends_it_and_reports_it(go, cell, kernel, make_task):
    stop_when(kernel, lambda params: isinstance(params, messages.Output))
    run(go, cell(make_task("a", run="echo up; exec sleep 60"), make_task("b")))
    assert kernel.words() == ["start a.1", "finish a.1 no"]
    assert kernel.said(messages.FinishAttempt)[0].reason == "stopped: enough"


def test_a_stop_before_the_answer_to_a_start_leaves_no_attempt_open(go, cell, kernel, make_task, tmp_path):
    stop_when(kernel, lambda params: isinstance(params, messages.StartAttempt))
    run(go, cell(make_task("a", run="echo ran > ran"), make_task("b")))
    # The kernel said go: the attempt counts as begun, so its end is said too. The command itself is not started any more.
    assert kernel.words() == ["start a.1", "finish a.1 no"]
    assert not (tmp_path / "ran").exists()


def test_a_stop_between_tasks_starts_nothing_more(go, cell, kernel, make_task):
    stop_when(kernel, lambda params: isinstance(params, messages.FinishAttempt))
    run(go, cell(make_task("a"), make_task("b")))
    assert kernel.words() == ["start a.1", "finish a.1 ok"]


def test_a_stop_during_the_wait_for_another_attempt_ends_the_wait(go, cell, kernel, make_task, scheduler):
    kernel.answers = lambda method, params: (
        messages.Verdict("retry", delay_s=3600.0) if isinstance(params, messages.FinishAttempt) else None
    )
    executor = cell(make_task("a", run=("false",)), make_task("b"))

    async def main():
        work = scheduler.spawn(executor.run())
        while "a" not in executor.resting or not kernel.said(messages.FinishAttempt):
            await scheduler.rest((), 0.001)
        executor.stop("enough")
        await scheduler.join(work)

    go(main())
    assert kernel.words() == ["start a.1", "finish a.1 no"]


def test_a_stop_ends_all_that_run_side_by_side(go, cell, kernel, make_task):
    stop_when(kernel, lambda params: len(kernel.said(messages.Output)) == 3)
    run(go, cell(*(make_task(name, run="echo up; exec sleep 60") for name in "abc"), make_task("d"), parallel=3))
    words = kernel.words()
    assert sorted(words[3:]) == ["finish a.1 no", "finish b.1 no", "finish c.1 no"]


def test_a_second_stop_changes_nothing(go, cell, kernel, make_task):
    def answers(method, params):
        if isinstance(params, messages.Output):
            kernel.order("agent.stop", messages.StopAgent("first", 1.0))
            kernel.order("agent.stop", messages.StopAgent("second", 0.0))
        return

    kernel.answers = answers
    run(go, cell(make_task("a", run="echo up; exec sleep 60")))
    assert kernel.said(messages.FinishAttempt)[0].reason == "stopped: first"


# --- pausing -------------------------------------------------------------------------------------------------------------------------


def test_a_pause_lets_what_runs_end_and_starts_nothing_until_it_is_over(go, cell, kernel, make_task, scheduler):
    stop_points = []
    executor = cell(make_task("a"), make_task("b"))

    def answers(method, params):
        if isinstance(params, messages.StartAttempt) and params.task == "a":
            executor.pause()
            scheduler.spawn(resume())
        return

    async def resume():
        # Turn by turn: the clock stands, so no time passes that could be waited for.
        while not any(isinstance(params, messages.FinishAttempt) for _, params in kernel.heard):
            await scheduler.rest((), 0.0)
        for _ in range(200):
            await scheduler.rest((), 0.0)
        stop_points.append(kernel.words())
        executor.resume()

    kernel.answers = answers
    run(go, executor)
    assert stop_points == [["start a.1", "finish a.1 ok"]]
    assert kernel.words()[-2:] == ["start b.1", "finish b.1 ok"]


class Jumping:
    """The real clock, and what a test adds to it."""

    def __init__(self):
        self.added = 0.0

    def __call__(self):
        return time.monotonic() + self.added


@pytest.fixture
def jumping(scheduler):
    scheduler._raw_clock = clock = Jumping()
    return clock


def give(path):
    path.write_text("x\n")


def test_what_runs_in_a_pause_goes_on_and_no_deadline_of_it_passes(go, cell, kernel, make_task, scheduler, jumping, tmp_path):
    os.mkfifo(tmp_path / "gate")
    executor = cell(make_task("a", run="read x < gate; echo went on", timeout_s=50.0))

    async def main():
        work = scheduler.spawn(executor.run())
        while not executor.tasks.runner.scheduler._by_fd:
            await scheduler.rest((), 0.0)
        executor.pause()
        jumping.added = 1000.0
        for _ in range(50):
            await scheduler.rest((), 0.0)
        assert kernel.words() == ["start a.1"]
        give(tmp_path / "gate")
        while len(kernel.words()) < 2:
            await scheduler.rest((), 0.0)
        executor.resume()
        await scheduler.join(work)

    go(main())
    assert kernel.words() == ["start a.1", "finish a.1 ok"]
    (finished,) = kernel.said(messages.FinishAttempt)
    assert finished.outcome.output == "went on\n"
    assert finished.outcome.duration_s < 900.0


def test_a_deadline_goes_on_where_it_stood(go, cell, kernel, make_task, scheduler, jumping):
    executor = cell(make_task("a", run="exec sleep 1000", timeout_s=50.0))

    async def main():
        work = scheduler.spawn(executor.run())
        while not scheduler._by_fd:
            await scheduler.rest((), 0.0)
        executor.pause()
        jumping.added = 1000.0
        executor.resume()
        jumping.added += 40.0
        for _ in range(50):
            await scheduler.rest((), 0.0)
        assert kernel.words() == ["start a.1"]
        jumping.added += 20.0
        await scheduler.join(work)

    go(main())
    (finished,) = kernel.said(messages.FinishAttempt)
    assert finished.reason.startswith("limit.task_timeout")


def test_in_a_pause_no_further_attempt_starts(go, cell, kernel, make_task, scheduler, jumping):
    executor = cell(make_task("a"))

    def answers(method, params):
        if isinstance(params, messages.FinishAttempt) and params.attempt == 1:
            scheduler.spawn(later())
            return messages.Verdict("retry", delay_s=30.0)
        return None

    async def later():
        for _ in range(20):
            await scheduler.rest((), 0.0)
        executor.pause()
        jumping.added = 1000.0
        for _ in range(50):
            await scheduler.rest((), 0.0)
        assert kernel.words() == ["start a.1", "finish a.1 ok"]
        executor.resume()
        jumping.added += 31.0

    kernel.answers = answers
    run(go, executor)
    assert kernel.words() == ["start a.1", "finish a.1 ok", "start a.2", "finish a.2 ok"]


def test_a_stop_ends_a_pause(go, cell, kernel, make_task, scheduler):
    executor = cell(make_task("a"))
    executor.pause()

    async def main():
        work = scheduler.spawn(executor.run())
        await scheduler.rest((), 0.0)
        executor.stop("enough")
        await scheduler.join(work)

    go(main())
    assert kernel.heard == []


# --- a door that breaks --------------------------------------------------------------------------------------------------------------


def test_when_the_owner_closes_the_door_the_work_ends(go, cell, kernel, make_task):
    def answers(method, params):
        if isinstance(params, messages.Output):
            kernel.hang_up()
        return

    kernel.answers = answers
    with pytest.raises(OwnerGone):
        run(go, cell(make_task("a", run="echo up; exec sleep 60"), make_task("b")))


def test_when_the_owner_is_gone_before_the_first_call_nothing_is_started(go, cell, kernel, make_task, tmp_path):
    executor = cell(make_task("a", run="echo ran > ran"))
    kernel.hang_up()
    with pytest.raises(OwnerGone):
        run(go, executor)
    assert not (tmp_path / "ran").exists()


def test_a_refused_call_does_not_look_like_an_end(go, cell, kernel, make_task):
    """The kernel could not record how the task ended: what depends on it must not start as if it had."""
    error = frames.WireError(-32000, "the state file cannot be written", {"code": "state_unavailable"})
    kernel.answers = lambda method, params: error if isinstance(params, messages.FinishAttempt) else None
    with pytest.raises(CallRefused, match="cannot be written"):
        run(go, cell(make_task("a"), make_task("b", depends_on=("a",))))
    assert kernel.words() == ["start a.1", "finish a.1 ok"]


def test_an_answer_of_another_shape_is_not_taken(go, cell, kernel, make_task):
    kernel.answers = lambda method, params: messages.Verdict("succeeded") if isinstance(params, messages.StartAttempt) else None
    with pytest.raises(ProtocolError):
        run(go, cell(make_task("a")))


def test_an_answer_to_nothing_is_a_broken_door(go, cell, kernel, make_task):
    def answers(method, params):
        kernel.ours.sendall(frames.reply(999, messages.Ack()))
        return

    kernel.answers = answers
    with pytest.raises(ProtocolError, match="nothing that was asked"):
        run(go, cell(make_task("a")))


def test_an_order_that_is_not_known_is_ignored(go, cell, kernel, make_task):
    kernel.order("agent.dance", messages.Ack())
    run(go, cell(make_task("a")))
    assert kernel.words() == ["start a.1", "finish a.1 ok"]
