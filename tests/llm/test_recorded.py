"""Recording and playing back: what is written survives, what is asked again is answered alike, and what was never asked is refused with the difference."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys

import msgspec
import pytest

from toka_cli.errors import BudgetExhausted, NotFound, ReplayMiss, Unavailable, UsageError
from toka_cli.llm import recording
from toka_cli.llm.budget import Remaining
from toka_cli.llm.likeness import MAX_DIFF_LINES, diff_recordings
from toka_cli.llm.provider import Caller, ModelInfo, ModelReply, ModelRequest, ProviderError
from toka_cli.llm.recorded import Recorder, Replay
from toka_cli.llm.redact import MARK
from toka_cli.llm.untrusted import fence

TOOLS = ({"type": "function", "function": {"name": "read_file", "parameters": {"type": "object"}}},)
SYSTEM = {"role": "system", "content": "You are careful.\nYou finish what you begin."}
TASK = {"role": "user", "content": "Mend the parser."}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "read_file", "arguments": '{"path":"a.py"}'}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "took 0.31 s"}
DONE = {"role": "assistant", "content": "done"}


def caller(turn=1, agent="mender", task="t1", attempt=1):
    return Caller(f"id-{os.getpid()}-{agent}", agent, "w", task, attempt, turn)


def request(*messages, model="openai/gpt", tools=TOOLS):
    return ModelRequest(model, messages, tools, 0.2)


def reply(message=CALL, **fields):
    return ModelReply(message, "stop", 10, 5, 0.001, **fields)


def record(path, exchanges, **options):
    recorder = Recorder.create(path, version="1.2", clock=lambda: 1_700_000_000.0, on_failed=pytest.fail, **options)
    for who, asked, outcome in exchanges:
        recorder.exchange(who, asked, outcome)
    recorder.close()
    return path


TWO_TURNS = [
    (caller(1), request(SYSTEM, TASK), reply()),
    (caller(2), request(SYSTEM, TASK, CALL, RESULT), reply(DONE)),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.jsonl"


def test_what_was_recorded_is_played_back(path):
    record(path, TWO_TURNS)
    replay = Replay.open(path)
    for who, asked, outcome in TWO_TURNS:
        # Nobody was asked now, and nothing paid.
        assert replay.exchange(who, asked) == msgspec.structs.replace(outcome, from_cache=True, cost_usd=0.0)
    assert (replay.differences, replay.unused) == (0, 0)


def test_a_line_holds_only_what_is_new(path):
    record(path, TWO_TURNS)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["line"] for line in lines] == ["header", "tools", "exchange", "exchange"]
    assert lines[0]["format"] == 1
    assert lines[0]["created"] == "2023-11-14T22:13:20+00:00"
    assert (lines[3]["keeps"], len(lines[3]["messages"])) == (2, 2)
    assert path.stat().st_mode & 0o777 == 0o600


def test_ids_and_times_of_the_run_do_not_matter_and_lanes_may_interleave(path):
    others = [
        (caller(1, "other"), request(SYSTEM, {"role": "user", "content": "Test it."}), reply(DONE)),
        (caller(1, attempt=2), request(SYSTEM, {"role": "user", "content": "Again."}), reply(DONE)),
    ]
    record(path, [TWO_TURNS[0], others[0], TWO_TURNS[1], others[1]])
    replay = Replay.open(path)
    for who, asked, outcome in [others[1], TWO_TURNS[0], TWO_TURNS[1], others[0]]:
        someone = msgspec.structs.replace(who, agent_id="another-id", workstream="v")
        assert replay.exchange(someone, asked).message == outcome.message


def test_results_of_tools_may_differ_and_are_noted_once(path):
    later = (caller(3), request(SYSTEM, TASK, CALL, RESULT, DONE, {"role": "user", "content": "Sure?"}), reply(DONE))
    record(path, [*TWO_TURNS, later])
    replay = Replay.open(path)
    slower = {**RESULT, "content": "took 12.5 s, longer"}
    replay.exchange(caller(2), request(SYSTEM, TASK, CALL, slower))
    replay.exchange(caller(3), request(SYSTEM, TASK, CALL, slower, DONE, {"role": "user", "content": "Sure?"}))
    assert replay.differences == 1
    assert replay.notes == [
        "agent mender, task t1, attempt 1, turn 2, message 4: result of c1 is not as recorded (11 characters then, 19 now)",
    ]
    assert replay.unused == 1


def test_fenced_data_in_a_prompt_may_differ_and_the_prompt_may_not(path):
    def prompt(data, words="Go on."):
        return {"role": "user", "content": f"Before you, somebody found:\n{fence(data, 'task t0')}\n{words}"}

    record(path, [(caller(1), request(SYSTEM, prompt("3 passed in 0.1s")), reply(DONE))])
    replay = Replay.open(path)
    replay.exchange(caller(1), request(SYSTEM, prompt("3 passed in 0.7s")))
    assert replay.differences == 1
    with pytest.raises(ReplayMiss):
        replay.exchange(caller(1), request(SYSTEM, prompt("3 passed in 0.1s", "Stop.")))


@pytest.mark.parametrize(
    ("asked", "clause", "shown"),
    [
        (request(SYSTEM, {"role": "user", "content": "Mend the lexer."}), "message 2 (user) differs", ["-Mend the parser.", "+Mend the lexer."]),
        (
            request({**SYSTEM, "content": "You are careful.\nYou rest."}, TASK),
            "message 1 (system) differs",
            [" You are careful.", "-You finish what you begin.", "+You rest."],
        ),
        (request(SYSTEM, TASK, model="openai/other"), "the model differs", ["-openai/gpt", "+openai/other"]),
        (request(SYSTEM, TASK, tools=()), "the list of tools differs", ["-read_file"]),
        (request(SYSTEM, TASK, tools=({"type": "function", "function": {"name": "read_file"}},)), "tool read_file differs", ['-  "parameters": {']),
        (request(SYSTEM), "message 2 (user) is missing", ["-Mend the parser."]),
        (request(SYSTEM, TASK, TASK), "message 3 (user) is new", ["+Mend the parser."]),
        (request(TASK, SYSTEM), "message 1 (system) differs", ["-message 1 (system)", "+message 1 (user)"]),
    ],
)
def test_another_request_is_a_miss_that_names_who_asked_and_the_first_difference(path, asked, clause, shown):
    record(path, TWO_TURNS)
    with pytest.raises(ReplayMiss) as found:
        Replay.open(path).exchange(caller(1), asked)
    assert found.value.exit_code == 8
    assert found.value.message == f"the recording has another request of agent mender, task t1, attempt 1, turn 1: {clause}"
    lines = found.value.hint.splitlines()
    assert lines[1:3] == ["--- recorded", "+++ asked"]
    for line in shown:
        assert line in lines


def test_another_answer_of_the_model_before_is_a_miss(path):
    record(path, TWO_TURNS)
    other = {**CALL, "tool_calls": [{**CALL["tool_calls"][0], "function": {"name": "read_file", "arguments": '{"path":"b.py"}'}}]}
    with pytest.raises(ReplayMiss, match=r"message 3 \(assistant\)"):
        Replay.open(path).exchange(caller(2), request(SYSTEM, TASK, other, RESULT))


def test_a_turn_that_was_never_taken_and_a_lane_that_never_was(path):
    record(path, TWO_TURNS)
    replay = Replay.open(path)
    with pytest.raises(ReplayMiss, match="no request of agent mender, task t1, attempt 1, turn 3") as late:
        replay.exchange(caller(3), request(SYSTEM, TASK, CALL, RESULT, DONE))
    assert "ends this conversation after turn 2" in late.value.hint
    assert "+[assistant] done" in late.value.hint
    with pytest.raises(ReplayMiss) as unknown:
        replay.exchange(caller(1, "mander"), request(SYSTEM, TASK))
    assert unknown.value.hint == "nearest in the recording: agent mender, task t1, attempt 1"


def test_the_difference_is_shown_wherever_it_is_and_is_bounded(path):
    far = "x" * 5000 + "\n" + "\n".join(f"line {number}" for number in range(5000))
    record(path, [(caller(1), request(SYSTEM, {"role": "user", "content": far + "\nthe end"}), reply(DONE))])
    with pytest.raises(ReplayMiss) as found:
        Replay.open(path).exchange(caller(1), request(SYSTEM, {"role": "user", "content": far + "\nan end"}))
    assert "-the end\n+an end" in found.value.hint
    with pytest.raises(ReplayMiss) as everything:
        Replay.open(path).exchange(caller(1), request(SYSTEM, {"role": "user", "content": far.replace("line", "row").replace("x", "y")}))
    assert len(everything.value.hint.splitlines()) <= MAX_DIFF_LINES + 3
    assert len(everything.value.hint) < 20_000


def test_failures_are_played_back_too_and_before_the_reply_that_followed(path):
    broken = ProviderError("overloaded", "too busy", hint="later")
    over = BudgetExhausted("the budget of the run is used up", hint="raise it")
    first, second = request(SYSTEM, TASK), request(SYSTEM, TASK, DONE, TASK)
    record(path, [(caller(1), first, broken), (caller(1), first, reply(DONE)), (caller(2), second, over)])
    replay = Replay.open(path)
    with pytest.raises(ProviderError, match="too busy") as found:
        replay.exchange(caller(1), request(SYSTEM, TASK))
    assert (found.value.cause, found.value.hint, found.value.exit_code) == ("overloaded", "later", 6)
    assert replay.exchange(caller(1), request(SYSTEM, TASK)).message == DONE
    for _ in range(2):
        with pytest.raises(BudgetExhausted, match="used up"):
            replay.exchange(caller(2), request(SYSTEM, TASK, DONE, TASK))


def test_of_two_replies_to_one_turn_the_later_one_is_what_the_run_went_on_with(path):
    record(path, [(caller(1), request(SYSTEM, TASK), reply(CALL)), (caller(1), request(SYSTEM, TASK), reply(DONE))])
    replay = Replay.open(path)
    assert replay.exchange(caller(1), request(SYSTEM, TASK)).message == DONE
    assert replay.exchange(caller(1), request(SYSTEM, TASK)).message == DONE


def test_secrets_are_no_difference_for_who_does_not_know_them(path):
    record(path, [(caller(1), request(SYSTEM, {"role": "user", "content": f"Use {MARK} and {MARK}{MARK}!"}), reply(DONE))])
    replay = Replay.open(path)
    assert replay.exchange(caller(1), request(SYSTEM, {"role": "user", "content": "Use sk-1 and 2!"}))
    for other in ("Use sk-1 or 2!", "Use and !", "Use", "Take sk-1 and 2!", "Use sk-1 and 2"):
        with pytest.raises(ReplayMiss):
            replay.exchange(caller(1), request(SYSTEM, {"role": "user", "content": other}))


def test_folders_have_names_so_that_a_recording_can_be_played_elsewhere(path):
    there = {"workdir": "/home/a/project", "home": "/tmp/x"}
    here = {"workdir": "/srv/checkout/", "home": "/home/b"}
    system = {"role": "system", "content": "You work in /home/a/project (/home/a/project-old and /tmp/xy are not yours)."}
    answer = {**CALL, "tool_calls": [{**CALL["tool_calls"][0], "function": {"name": "read_file", "arguments": '{"path":"/home/a/project/a.py"}'}}]}
    record(path, [(caller(1), request(system), reply(answer))], places=there)
    assert "/home/a/project/a.py" not in path.read_text()
    replay = Replay.open(path, places=here)
    system = {"role": "system", "content": "You work in /srv/checkout (/home/a/project-old and /tmp/xy are not yours)."}
    got = replay.exchange(caller(1), request(system))
    assert got.message["tool_calls"][0]["function"]["arguments"] == '{"path":"/srv/checkout/a.py"}'
    with pytest.raises(ReplayMiss):
        Replay.open(path).exchange(caller(1), request(system))


def test_folders_have_names_within_fences_too(path):
    def prompt(folder):
        guidance = fence(f"build in {folder}/out", "AGENTS.md").replace("untrusted", "guidance")
        return {"role": "user", "content": f"{fence(f'- working directory: {folder}', 'limits')}\n{guidance}\nGo."}

    record(path, [(caller(1), request(SYSTEM, prompt("/a/b")), reply(DONE))], places={"workdir": "/a/b"})
    replay = Replay.open(path, places={"workdir": "/other"})
    replay.exchange(caller(1), request(SYSTEM, prompt("/other")))
    assert replay.differences == 0
    # Guidance is to be followed: another one is another prompt.
    with pytest.raises(ReplayMiss, match=r"message 2 \(user\) differs"):
        other = prompt("/other")["content"].replace(fence("build in /other/out", "AGENTS.md").replace("untrusted", "guidance"), "")
        replay.exchange(caller(1), request(SYSTEM, {"role": "user", "content": other}))


def test_what_was_said_of_budgets_is_played_back(path):
    recorder = Recorder.create(path, version="1", clock=lambda: 0.0, on_failed=pytest.fail)
    left = Remaining(0.5, 100, 0.9, "the run", wrap_up=True)
    recorder.told(caller(2), remaining=Remaining(1.0, None, 0.1, None, wrap_up=False))
    recorder.told(caller(2), remaining=left)
    recorder.told(caller(1), warning="90% of the budget of the run is used")
    recorder.close()
    replay = Replay.open(path)
    assert replay.remaining(caller(2)) == left
    assert replay.remaining(caller(1)) == Remaining(None, None, 0.0, None, wrap_up=False)
    assert [replay.warning(caller(turn)) for turn in (1, 2)] == ["90% of the budget of the run is used", None]


def test_what_was_known_of_models_is_kept(path):
    recorder = Recorder.create(path, version="1", clock=lambda: 0.0, on_failed=pytest.fail)
    info = ModelInfo("openai/gpt", "openai", 128_000, 4096, 1e-6, 2e-6)
    recorder.model(info)
    recorder.model(info)
    recorder.close()
    replay = Replay.open(path)
    assert replay.models == {"openai/gpt": info}
    assert replay.describe("openai/gpt") == info
    assert replay.describe("openai/unknown") == ModelInfo("openai/unknown")
    assert len(path.read_text().splitlines()) == 2


# --- the file ------------------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_there_is_not_written_over(path):
    path.write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        record(path, [])
    assert path.read_text() == "mine"
    with pytest.raises(Unavailable, match="cannot be written"):
        record(path.parent / "no" / "such" / "folder", [])


def test_a_resumed_run_goes_on_with_its_recording_after_what_a_crash_cut_off(path):
    record(path, TWO_TURNS[:1])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"line":"exchange","lane":{"agent":"men')
    assert Replay.open(path).exchange(*TWO_TURNS[0][:2]).message == CALL
    recorder = Recorder.resume(path, on_failed=pytest.fail)
    recorder.exchange(*TWO_TURNS[1])
    recorder.close()
    lines = path.read_bytes().splitlines()
    # The tools are known, and the conversation goes on where it stood.
    assert path.read_bytes().startswith(whole)
    assert len(lines) == 4
    assert json.loads(lines[3])["keeps"] == 2
    assert Replay.open(path).exchange(*TWO_TURNS[1][:2]).message == DONE


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "line 1: .*does not begin with a header"),
        (b"not json\n", "line 1"),
        (b'{"line":"model","info":{"model":"m"}}\n', "line 1: .*header"),
        (b'{"line":"header","format":99,"toka":"9.9","created":"","redaction":""}\n', r"has format 99 \(of toka 9.9\)"),
        (b'{"line":"header","format":1,"toka":"1","created":"","redaction":""}\n{"line":"what"}\n', "line 2"),
        (
            b'{"line":"header","format":1,"toka":"1","created":"","redaction":""}\n{"line":"exchange","lane":{"agent":"a","task":"t","attempt":1},"turn":1,"model":"m","messages":[]}\n',
            "line 2: .*does not follow",
        ),
    ],
)
def test_what_is_no_recording_is_refused_with_the_line(path, content, why):
    path.write_bytes(content)
    with pytest.raises(Unavailable, match=why):
        Replay.open(path)


def test_no_such_file(path):
    with pytest.raises(NotFound, match="no recording"):
        Replay.open(path)


KILLED = """
import os, signal, sys
from pathlib import Path
from toka_cli.llm.recorded import Recorder
from toka_cli.llm.provider import Caller, ModelReply, ModelRequest
recorder = Recorder.create(Path(sys.argv[1]), version="1", clock=lambda: 0.0, on_failed=print)
for turn in range(1, 101):
    request = ModelRequest("m", tuple({"role": "user", "content": f"turn {n}"} for n in range(turn)))
    recorder.exchange(Caller("i", "a", "w", "t", 1, turn), request, ModelReply({"role": "assistant", "content": str(turn)}, "stop", 1, 1))
    if turn == 57:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_recorder_that_is_killed_loses_nothing_it_had_taken(path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    found = recording.read(path)
    assert found.lanes() == {recording.Lane("a", "t", 1): list(range(1, 58))}
    last = found.exchanges[recording.Lane("a", "t", 1), 57][0]
    assert len(last.messages) == 57


FULL = """
import resource, signal, sys
from pathlib import Path
from toka_cli.llm.recorded import Recorder
from toka_cli.llm.provider import Caller, ModelReply, ModelRequest
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
said = []
recorder = Recorder.create(Path(sys.argv[1]), version="1", clock=lambda: 0.0, on_failed=said.append)
for turn in range(1, 101):
    request = ModelRequest("m", tuple({"role": "user", "content": f"turn {n}"} for n in range(turn)))
    recorder.exchange(Caller("i", "a", "w", "t", 1, turn), request, ModelReply({"role": "assistant", "content": str(turn)}, "stop", 1, 1))
recorder.close()
print(len(said), recorder.failed, sep="|")
"""


def test_where_nothing_more_can_be_written_the_run_goes_on_and_it_is_said_once(path):
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], timeout=60, check=False, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.strip() == f"1|the recording {path} ends early: File too large"
    assert 0 < len(recording.read(path).exchanges) < 100


# --- two recordings ------------------------------------------------------------------------------------------------------------------


def test_two_recordings_are_compared_lane_by_lane(tmp_path):
    extra = (caller(1, "extra"), request(SYSTEM, TASK), reply(DONE))
    other_answer = {"role": "assistant", "content": "not done"}
    old = recording.read(record(tmp_path / "old", [*TWO_TURNS, extra]))
    same = recording.read(record(tmp_path / "same", [TWO_TURNS[0], extra, TWO_TURNS[1]]))
    new = recording.read(record(tmp_path / "new", [TWO_TURNS[0], (caller(2), TWO_TURNS[1][1], reply(other_answer))]))
    assert diff_recordings(old, same) == []
    found = diff_recordings(old, new)
    assert found[0] == "agent extra, task t1, attempt 1: only in old"
    assert found[1].startswith("agent mender, task t1, attempt 1, turn 2: what came of it differs")
    assert "-done\n+not done" in found[1]
    assert len(found) == 2
