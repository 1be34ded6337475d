"""A cell's calls: the honest way through, every way of lying, and the counters that the kernel alone keeps."""

from __future__ import annotations

import json
import random

import pytest

from toka_cli import events as e
from toka_cli.errors import NotFound, ProtocolError, StateUnavailable
from toka_cli.lifecycle import AgentState, TaskState
from toka_cli.protocol import messages as m


def lines(folder):
    (path,) = folder.logs.glob("*.jsonl")
    return [(line["task"], line["stream"], line["text"]) for line in map(json.loads, path.read_text().splitlines())]


def test_the_honest_way(talk, folder):
    cell = talk()
    assert [task.id for task in cell.hello().tasks] == ["a", "b"]
    assert cell.signs == ["hello"]
    for name in ("a", "b"):
        assert cell.start(name) == m.Go(go=True)
        cell.write(name, b"hi\n")
        assert cell.finish(name, output="hi\n", exit_code=0) == m.Verdict("succeeded")
    assert cell("agent.finish", m.FinishAgent()) == m.Ack()
    assert cell.signs == ["hello", "finish"]
    assert cell.kinds()[-5:] == ["agent.started", "task.started", "task.succeeded", "task.started", "task.succeeded"]
    assert lines(folder) == [("a", "stdout", "hi"), ("b", "stdout", "hi")]


def test_a_failed_attempt_is_tried_again_as_often_as_the_spec_says(talk, make_task):
    cell = talk(make_task("a", retries=2, retry_delay_s=1.0, retry_backoff=3.0))
    cell.hello()
    delays = []
    for attempt in (1, 2):
        cell.start("a", attempt)
        verdict = cell.finish("a", attempt, ok=False, reason="exit 1")
        assert verdict.verdict == "retry"
        delays.append(verdict.delay_s)
    assert 0.8 <= delays[0] <= 1.2
    assert 2.4 <= delays[1] <= 3.6
    cell.start("a", 3)
    assert cell.finish("a", 3, ok=False, reason="exit 1").verdict == "failed"
    assert cell.kinds()[-6:] == ["task.started", "task.retrying", "task.started", "task.retrying", "task.started", "task.failed"]


@pytest.mark.parametrize("reason", ["capability_denied: x", "limit.output: x", "limit.tool_calls: x", "not_started: x", "internal: x"])
def test_what_would_end_the_same_way_is_not_tried_again(talk, make_task, reason):
    cell = talk(make_task("a", retries=5))
    cell.hello()
    cell.start("a")
    assert cell.finish("a", ok=False, reason=reason).verdict == "failed"


def test_a_failure_that_is_allowed_is_recorded_as_one(talk, make_task):
    cell = talk(make_task("a", allow_failure=True))
    cell.hello()
    cell.start("a")
    assert cell.finish("a", ok=False, reason="exit 1").verdict == "allowed"
    assert cell.records()[-1].event.allowed
    assert cell("agent.finish", m.FinishAgent()) == m.Ack()


def test_after_a_failure_the_rest_may_be_skipped(talk):
    cell = talk()
    cell.hello()
    cell.start("a")
    cell.finish("a", ok=False)
    assert cell("task.skip", m.SkipTask("b", "task_failed: a")) == m.Ack()
    assert cell.task("b").state == TaskState.SKIPPED
    assert cell("agent.finish", m.FinishAgent()) == m.Ack()


def test_a_task_without_its_grant_fails_before_it_starts_and_is_audited(talk, make_task, log):
    cell = talk(make_task("a", requires=("git-access",), retries=3))
    cell.hello()
    go = cell.start("a")
    assert not go.go
    assert go.reason.startswith("capability_denied: git-access")
    assert cell.kinds()[-2:] == ["tool.denied", "task.failed"]
    assert log._connection.execute("SELECT decision FROM audit ORDER BY seq DESC LIMIT 1").fetchone() == ("denied",)


def test_once_stopping_nothing_starts_and_what_ends_is_stopped(talk):
    cell = talk()
    cell.hello()
    cell.start("a")
    cell.session.stop_reason = "enough"
    assert cell.finish("a", ok=False, reason="stopped: enough").verdict == "stopped"
    assert not cell.start("b").go
    assert (cell.task("a").state, cell.task("b").state) == (TaskState.STOPPED, TaskState.STOPPED)
    assert cell("agent.finish", m.FinishAgent()) == m.Ack()


def test_a_task_that_did_well_before_the_stop_reached_it_did_well(talk):
    cell = talk()
    cell.hello()
    cell.start("a")
    cell.session.stop_reason = "enough"
    assert cell.finish("a").verdict == "succeeded"


# --- forged orders of messages -------------------------------------------------------------------------------------------------------

START, DONE = ("attempt.start", m.StartAttempt("a", 1)), ("attempt.finish", m.FinishAttempt("a", 1, True))
HELLO, BYE = ("agent.hello", m.Hello(1, {})), ("agent.finish", m.FinishAgent())
FAIL = ("attempt.finish", m.FinishAttempt("a", 1, False, "exit 1"))
START_B, DONE_B = ("attempt.start", m.StartAttempt("b", 1)), ("attempt.finish", m.FinishAttempt("b", 1, True))
CALL = ("tool.call", m.CallTool("a", "c1", "note", {"text": "x"}))
HUGE = 1 << 70

FORGED = {
    "anything before hello": [START],
    "output before hello": [("task.output", m.Output("a", "stdout", b"x"))],
    "a note before hello": [("agent.note", m.Note("x"))],
    "finish before hello": [BYE],
    "hello twice": [HELLO, HELLO],
    "an attempt that is not the next": [HELLO, ("attempt.start", m.StartAttempt("a", 2))],
    "an attempt zero": [HELLO, ("attempt.start", m.StartAttempt("a", 0))],
    "a huge attempt": [HELLO, ("attempt.start", m.StartAttempt("a", HUGE))],
    "the same attempt twice": [HELLO, START, START],
    "an attempt beside itself": [HELLO, START, ("attempt.start", m.StartAttempt("a", 2))],
    "another try of what succeeded": [HELLO, START, DONE, ("attempt.start", m.StartAttempt("a", 2))],
    "another try of what failed for good": [HELLO, START, FAIL, ("attempt.start", m.StartAttempt("a", 2))],
    "an unknown task": [HELLO, ("attempt.start", m.StartAttempt("zz", 1))],
    "an unknown task with a wild name": [HELLO, ("attempt.start", m.StartAttempt("../../x\0\n" * 1000, 1))],
    "the end of what never began": [HELLO, DONE],
    "the end of another attempt": [HELLO, START, ("attempt.finish", m.FinishAttempt("a", 2, True))],
    "the end twice": [HELLO, START, DONE, DONE],
    "output of what does not run": [HELLO, ("task.output", m.Output("a", "stdout", b"x"))],
    "output after the end": [HELLO, START, DONE, ("task.output", m.Output("a", "stdout", b"x"))],
    "output of an unknown task": [HELLO, START, ("task.output", m.Output("zz", "stdout", b"x"))],
    "output on a stream of toka's own": [HELLO, START, ("task.output", m.Output("a", "toka", b"x"))],
    "finish while a task runs": [HELLO, START, BYE],
    "finish before the tasks have ended": [HELLO, BYE],
    "finish with one left": [HELLO, START, DONE, BYE],
    "skipping everything": [HELLO, ("task.skip", m.SkipTask("a", "x"))],
    "skipping what runs": [HELLO, START_B, ("attempt.finish", m.FinishAttempt("b", 1, False)), START, ("task.skip", m.SkipTask("a", "x"))],
    "skipping what ended": [HELLO, START, FAIL, ("task.skip", m.SkipTask("a", "x"))],
    "skipping the unknown": [HELLO, START, FAIL, ("task.skip", m.SkipTask("zz", "x"))],
    "a tool outside a task": [HELLO, CALL],
    "a tool after the task": [HELLO, START, DONE, CALL],
    "one call id twice": [HELLO, START, CALL, CALL],
    "the end of a call that never began": [HELLO, START, ("tool.done", m.FinishTool("zz", True))],
    "the end of a call twice": [HELLO, START, CALL, ("tool.done", m.FinishTool("c1", True)), ("tool.done", m.FinishTool("c1", True))],
    "after finish": [HELLO, START, DONE, START_B, DONE_B, BYE, ("agent.note", m.Note("x"))],
    "finish twice": [HELLO, START, DONE, START_B, DONE_B, BYE, BYE],
    "hello after finish": [HELLO, START, DONE, START_B, DONE_B, BYE, HELLO],
}


@pytest.fixture
def with_tool_power(talk):
    return lambda: talk(grants=("filesystem-read", "filesystem-write"))


def tool_call(session):
    """A call of any tool that the session would allow, in place of CALL."""
    from toka_cli.kernel.session import CATALOG

    name = next(info.name for info in CATALOG.describe() if info.power in {None, "filesystem-read"})
    return m.CallTool("a", "c1", name, {})


@pytest.mark.parametrize("story", FORGED)
def test_a_cell_that_lies_is_caught_and_the_log_stays_whole(with_tool_power, log, folder, story):
    cell = with_tool_power()
    *honest, lie = [(method, tool_call(cell.session) if isinstance(params, m.CallTool) else params) for method, params in FORGED[story]]
    for method, params in honest:
        cell(method, params)
    before = cell.kinds()
    with pytest.raises(ProtocolError):
        cell(*lie)
    log.flush()
    assert cell.kinds() == before
    cell.session.abandon()
    # The owner can still say how it ended, and close.
    log.append(e.AgentFailed("protocol: it lied"), agent=cell.session.agent_id) if log.agent(
        cell.session.agent_id
    ).state != AgentState.SUCCEEDED else None
    log.flush()
    assert not list(folder.artifacts.glob(".partial-*"))


# No half of a surrogate pair: the decoder of the door refuses it (see test_methods).
WILD = ["\0", "\x1b]52;c;x\x07", "x" * 200_000, "\u202e", "a\nb"]


@pytest.mark.parametrize("number", [-1, 0, HUGE, -HUGE, 1 << 63, (1 << 63) - 1])
def test_numbers_of_any_size_are_stored_or_refused_and_never_break_the_log(talk, log, number):
    for method, params in (
        ("agent.hello", m.Hello(number, {"pid": number})),
        ("attempt.start", m.StartAttempt("a", 1)),
        ("agent.measure", m.Measure("x", float(number))),
        (
            "attempt.finish",
            m.FinishAttempt(
                "a", 1, True, None, e.Outcome(exit_code=number, signal=number, output_bytes=number, peak_memory_bytes=number, value=number)
            ),
        ),
    ):
        cell = cell if method != "agent.hello" else talk()  # noqa: F821
        try:
            cell(method, params)
        except ProtocolError:
            break
    assert log.failed is None
    assert log.stalled is None


@pytest.mark.parametrize("text", WILD)
def test_texts_of_any_kind_are_stored_or_refused_and_never_break_the_log(talk, log, text):
    cell = talk()
    cell("agent.hello", m.Hello(1, {text: text}))
    cell.start("a")
    for method, params in (
        ("agent.note", m.Note(text)),
        ("agent.measure", m.Measure(text, 1.0)),
        ("tool.call", m.CallTool("a", text, "read_file", {text: text})),
        ("attempt.finish", m.FinishAttempt("a", 1, False, text, e.Outcome(output=text, stderr=text, artifact=text, value={text: text}))),
    ):
        try:
            cell(method, params)
        except ProtocolError:
            break
    assert log.failed is None
    assert log.stalled is None


def test_random_stories_end_in_an_answer_or_a_protocol_error_and_the_states_stay_legal(talk, log):
    cell = talk(grants=("filesystem-read", "filesystem-write"))
    rng = random.Random(7)
    words = [
        HELLO,
        START,
        DONE,
        FAIL,
        START_B,
        DONE_B,
        BYE,
        ("task.skip", m.SkipTask("b", "x")),
        ("task.output", m.Output("a", "stdout", b"x")),
        ("agent.beat", m.Beat()),
    ]
    words += [("attempt.start", m.StartAttempt("b", 2)), ("tool.call", tool_call(cell.session)), ("tool.done", m.FinishTool("c1", True))]
    refused = 0
    for _ in range(2000):
        try:
            cell(*rng.choice(words))
        except ProtocolError:
            refused += 1
    assert refused > 100
    assert log.failed is None
    # Every task that started has at most one end.
    ends = [
        (record.task, record.event.kind)
        for record in cell.records()
        if record.event.kind in {"task.succeeded", "task.failed", "task.skipped"}
    ]
    assert len({name for name, _ in ends}) == len(ends)


# --- counters ------------------------------------------------------------------------------------------------------------------------


def test_output_is_counted_over_all_tasks(talk, make_task):
    cell = talk(limits=m.Limits(output_bytes=100))
    cell.hello()
    cell.start("a")
    cell.write("a", b"x" * 60)
    cell.finish("a")
    cell.start("b")
    cell.write("b", b"x" * 40)
    assert cell.signs == ["hello"]
    cell.write("b", b"x")
    assert cell.signs[1:] == ["limit.output: more than 100 bytes written"]


def test_output_over_the_limit_is_not_written_any_more(talk, folder):
    cell = talk(limits=m.Limits(output_bytes=10))
    cell.hello()
    cell.start("a")
    for _ in range(5):
        cell.write("a", b"123456789\n")
    cell.session.abandon()
    assert lines(folder) == [("a", "stdout", "123456789")]


def test_tool_calls_are_counted_and_refused_above_the_limit(talk, make_task):
    cell = talk(grants=("filesystem-read",), limits=m.Limits(max_tool_calls=2))
    cell.hello()
    cell.start("a")
    replies = [cell.call("a", call_id=f"c{n}", path="x") for n in range(3)]
    assert [reply.go for reply in replies] == [True, True, False]
    assert replies[2].reason.startswith("limit.tool_calls")


def test_a_tool_without_its_grant_is_refused_recorded_and_not_counted(talk, log):
    cell = talk(limits=m.Limits(max_tool_calls=1))
    cell.hello()
    cell.start("a")
    assert cell.call("a", tool="write_file").reason.startswith("capability_denied: filesystem-write")
    assert cell.kinds()[-1] == "tool.denied"
    assert log._connection.execute("SELECT decision, action FROM audit ORDER BY seq DESC LIMIT 1").fetchone() == ("denied", "tool.call")


def test_an_unknown_tool_is_refused_in_words(talk):
    cell = talk()
    cell.hello()
    cell.start("a")
    with pytest.raises(NotFound, match="no tool"):
        cell.call("a", tool="reed_file")


def test_long_arguments_are_cut_in_the_log(talk):
    cell = talk(grants=("filesystem-write",))
    cell.hello()
    cell.start("a")
    cell.call("a", tool="write_file", path="x", content="y" * 500_000)
    assert len(cell.records()[-1].event.arguments["content"]) < 2100


# --- schemas and artifacts -----------------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ('{"n": 1}', None),
        ('{"n": 0}', "n: 0 is less than the minimum"),
        ('{"n": "x"}', "n: 'x' is not of type 'integer'"),
        ("{}", "the output: 'n' is a required property"),
        ("[]", "the output: [] is not of type 'object'"),
        ("not json", "the output is not JSON"),
        ("", "the output is not JSON"),
        ('{"n": 1, "m": 2}', "Additional properties"),
    ],
)
def test_an_output_is_checked_against_its_schema_here(talk, make_task, output, problem):
    cell = talk(make_task("a", output_schema=SCHEMA))
    cell.hello()
    cell.start("a")
    verdict = cell.finish("a", output=output, exit_code=0)
    if problem is None:
        assert verdict.verdict == "succeeded"
    else:
        assert verdict.verdict == "failed"
        assert verdict.reason.startswith("output_schema: ")
        assert problem in verdict.reason


def test_a_long_output_becomes_an_artifact_and_a_short_one_does_not(talk, folder):
    cell = talk()
    cell.hello()
    cell.start("a")
    data = bytes(range(256)) * 1000
    for start in range(0, len(data), 50_000):
        cell.write("a", data[start : start + 50_000])
    cell.finish("a", output="cut", truncated=True)
    digest = cell.records()[-1].event.outcome.artifact
    assert (folder.artifacts / digest).read_bytes() == data
    cell.start("b")
    cell.write("b", b"short")
    cell.finish("b")
    assert cell.records()[-1].event.outcome.artifact is None
    assert [path.name for path in folder.artifacts.iterdir()] == [digest]


def test_an_artifact_named_by_the_cell_is_not_believed(talk):
    cell = talk()
    cell.hello()
    cell.start("a")
    cell.finish("a", artifact="0" * 64)
    assert cell.records()[-1].event.outcome.artifact is None


def test_a_result_counts_although_its_output_cannot_be_kept(talk, log, monkeypatch):
    """The disk is full when the artifact is to be made: the task succeeds, what the cell says of its output stands, and that it is not whole is said."""
    cell = talk()
    cell.hello()
    cell.start("a")
    for _ in range(3):
        cell.write("a", b"x" * 50_000)

    def refuse(*_, **__):
        raise StateUnavailable("an artifact cannot be kept: No space left on device")

    monkeypatch.setattr(type(log), "add_artifact", refuse)
    assert cell.finish("a", output="x" * 100, output_bytes=150_000).verdict == "succeeded"
    task = cell.task("a")
    assert (task.state, task.artifact, task.truncated, task.output) == ("succeeded", None, True, "x" * 100)
    assert "the whole output could not be kept: an artifact cannot be kept: No space left" in log.folder.agent_log(cell.session.agent_id).read_text()
    assert not list(log.folder.artifacts.glob(".partial-*"))


def test_what_a_cell_leaves_behind_is_the_outcome_of_what_was_under_way(talk, folder):
    cell = talk()
    cell.hello()
    cell.start("a")
    cell.start("b")
    cell.write("a", b"half a li")
    cell.write("b", b"y" * 100_000, "stderr")
    outcomes = cell.session.abandon()
    assert (outcomes["a"].output, outcomes["a"].artifact) == ("half a li", None)
    assert outcomes["b"].stderr == "y" * 16_384
    assert (folder.artifacts / outcomes["b"].artifact).read_bytes() == b"y" * 100_000
    assert cell.session.abandon() == {}


def test_a_task_that_is_stopped_keeps_what_it_had_written(talk):
    cell = talk()
    cell.hello()
    cell.start("a")
    cell.write("a", b"so far\n")
    cell.session.stop_reason = "user"
    assert cell.finish("a", ok=False, reason="stopped: user").verdict == "stopped"
    assert (cell.task("a").state, cell.task("a").output) == ("stopped", "so far\n")


def test_a_file_that_was_too_large_is_named_by_the_limit_behind_it(talk):
    cell = talk(limits=m.Limits(disk_bytes=5 << 20))
    cell.hello()
    cell.start("a")
    assert cell.finish("a", ok=False, reason="signal 25").verdict == "failed"
    assert cell.task("a").reason == "limit.disk: resource limit exceeded: a file larger than the limit 5 MB"


def test_everything_but_a_heartbeat_is_progress(talk):
    cell = talk()
    cell.hello()
    cell.start("a")
    seen = cell.session.progress
    for _ in range(5):
        cell("agent.beat", m.Beat())
    assert cell.session.progress == seen
    for word in (("agent.note", m.Note("x")), ("task.output", m.Output("a", "stdout", b"x")), ("agent.measure", m.Measure("x", 1.0))):
        before = cell.session.progress
        cell(*word)
        assert cell.session.progress > before, word
