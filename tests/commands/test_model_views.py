"""`agent show --prompt`, `run diff`, `audit show`, `agent why` and `runtime stats` on runs whose agents asked models, as the commands are called.

The runs are made of real events through the one writer of state files; no model is needed to look at what one said.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from toka_cli import events as e
from toka_cli.app import main
from toka_cli.paths import RunFolder, runs_dir
from toka_cli.protocol.talk import call_id
from toka_cli.state.journal import Sent
from toka_cli.state.log import EventLog

SECRET_LOOKING = "\x1b]0;title\x07 and \x1b[31mred"


def body(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def record(state: Any, run: str, *, live: bool = False, broken: bool = False) -> EventLog:
    """A run of `fixer`, which asks a model twice, and `plain`, which asks none. A live one waits for the second answer."""
    log = EventLog.create(RunFolder(runs_dir(state) / run), plan_json=b"{}", spec_text="x\n")
    log.append(e.RunCreated(run, "/work", "0.1"))
    fixer, other = f"{run}-1", f"{run}-2"
    for agent, name, kind in ((fixer, "fixer", "prompt"), (other, "plain", "command")):
        log.append(e.AgentCreated(e.AgentInfo(name, name, "w", tasks=(e.TaskInfo("t1", "Mend it", kind),))), agent=agent)
    log.append(e.RunStarted())
    for agent in (fixer, other):
        for event in (e.AgentQueued(), e.AgentStarting(), e.AgentStarted(4242)):
            log.append(event, agent=agent)
    log.audit("tool.call", "denied", subject=fixer, context={"tool": "http_fetch", "task": "t1", "missing": "network-access"})
    log.audit("tool.call", "allowed", subject=fixer, context={"tool": "read_file", "task": "t1", "power": "filesystem-read"})
    log.append(e.TaskStarted(), agent=fixer, task="t1")
    messages = ({"role": "system", "content": "You are fixer."}, {"role": "user", "content": f"Mend it {SECRET_LOOKING}"})
    log.append(e.LlmStarted(1, "openai/x", 1), agent=fixer, task="t1", body=body(Sent(messages=messages, tools=("read_file",))))
    calls = [{"id": "c", "type": "function", "function": {"name": "read_file", "arguments": '{"path":"big"}'}}]
    reply = {"role": "assistant", "content": "I look.", "tool_calls": calls}
    log.append(e.LlmReplied(1, "openai/x", "tool_calls", 1204, 88, 0.0031, calls=("read_file",)), agent=fixer, task="t1", body=body(reply))
    name = call_id("t1", 1, 1, 0)
    log.append(e.ToolCalled(name, "read_file"), agent=fixer, task="t1")
    log.append(e.ToolDone(name, True, None, 100_000, log.add_artifact(b"x" * 100_000, name="big", agent=fixer, task="t1")), agent=fixer, task="t1")
    log.append(e.ToolDenied("http_fetch", "network-access", "no"), agent=fixer, task="t1")
    log.append(e.LlmStarted(2, "openai/x", 1), agent=fixer, task="t1", body=body(Sent()))
    if live:
        log.flush()
        return log
    log.append(e.LlmReplied(2, "openai/x", "stop", 100, 1, 0.001), agent=fixer, task="t1", body=body({"role": "assistant", "content": "Done."}))
    log.append(e.TaskFailed("exit status 3", e.Outcome(exit_code=3)) if broken else e.TaskSucceeded(e.Outcome(output=f"mended {run}")), agent=fixer, task="t1")
    log.append(e.AgentFailed("task_failed: t1") if broken else e.AgentSucceeded(), agent=fixer)
    log.append(e.TaskStarted(), agent=other, task="t1")
    log.append(e.TaskSucceeded(), agent=other, task="t1")
    log.append(e.AgentSucceeded(), agent=other)
    log.append(e.RunFailed("agents_failed: fixer") if broken else e.RunSucceeded())
    log.close()
    return log


@pytest.fixture
def state(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TOKA_STATE_DIR", str(tmp_path / "state"))
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "state"


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Any:
    """Calls a command; its exit code and what it wrote."""

    def tell(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(list(words))
        out, err = capfd.readouterr()
        return code, out, err

    return tell


def test_show_prompt_prints_what_was_sent_and_what_came_back(state: Any, told: Any) -> None:
    log = record(state, "a000000000")
    code, out, err = told("agent", "show", "fixer", "--prompt")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert "\x07" not in out
    lines = out.splitlines()
    assert lines[:5] == ["task t1 (Mend it)", "  system:", "    You are fixer.", "  user:", "    Mend it ␛]0;title␇ and ␛[31mred"]
    (artifact,) = [line for line in lines if "the result is in" in line]
    path = artifact.partition(" is in ")[2].rstrip("]")
    assert len((log.folder.artifacts / path.rpartition("/")[2]).read_bytes()) == 100_000
    assert path.startswith(str(log.folder.artifacts))
    assert lines[-1] == "    Done."
    assert told("agent", "show", "plain", "--prompt")[1] == "plain has no prompt task: it asks no model\n"


def test_show_prompt_as_json(state: Any, told: Any) -> None:
    record(state, "a000000000")
    code, out, _ = told("agent", "show", "fixer", "--prompt", "-o", "json")
    data = json.loads(out)["data"]
    assert (code, data["agent"]["name"]) == (0, "fixer")
    ((first, second),) = [talk["turns"] for talk in data["prompts"]]
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert first["messages"][1]["content"].endswith(SECRET_LOOKING)
    assert first["reply"]["calls"] == [["read_file", '{"path":"big"}']]
    assert second["messages"][0]["tool"] == "read_file"
    assert len(second["messages"][0]["artifact"]) == 64
    assert (second["reply"]["content"], second["cost_usd"]) == ("Done.", 0.001)


def test_prompt_and_permissions_are_two_questions(state: Any, told: Any) -> None:
    record(state, "a000000000")
    code, out, err = told("agent", "show", "fixer", "--prompt", "--permissions")
    assert (code, out) == (2, "")
    assert "not both" in err


def test_diff_of_two_runs_that_came_to_the_same(state: Any, told: Any) -> None:
    for run in ("a000000000", "b000000000"):
        record(state, run)
    assert told("run", "diff", "a0", "b0") == (0, "runs a000000000 and b000000000 came to the same: 2 agents, 2 tasks, 0 files\n", "")
    code, out, _ = told("run", "diff", "a0", "b0", "-o", "json")
    envelope = json.loads(out)
    assert (code, envelope["exit_code"]) == (0, 0)
    assert envelope["data"] == {"same": True, "a": "a000000000", "b": "b000000000", "differences": []}


def test_diff_of_two_runs_that_did_not(state: Any, told: Any) -> None:
    record(state, "a000000000")
    record(state, "b000000000", broken=True)
    code, out, err = told("run", "diff", "a000000000", "b000000000")
    assert (code, err) == (1, "")
    assert [line.split()[:3] for line in out.splitlines() if "exit_code" in line] == [["run", "exit_code", "0"], ["fixer", "t1", "exit_code"]]
    code, out, _ = told("run", "diff", "a000000000", "b000000000", "-o", "json")
    envelope = json.loads(out)
    assert (code, envelope["exit_code"], envelope["data"]["same"]) == (1, 1, False)
    assert {"what": "state", "a": "succeeded", "b": "failed", "agent": "fixer", "task": "t1", "gate": None, "path": None, "detail": None} in envelope["data"][
        "differences"
    ]


def test_diff_says_when_a_run_is_not_over_and_when_there_is_none(state: Any, told: Any) -> None:
    record(state, "a000000000")
    record(state, "b000000000", live=True).close()
    code, _, err = told("run", "diff", "a000000000", "b000000000")
    assert (code, err) == (1, "warning: run b000000000 is interrupted: what it comes to is not known yet\n")
    code, out, err = told("run", "diff", "a000000000", "none")
    assert (code, out) == (4, "")
    assert "there is no run 'none'" in err


def test_audit_show_is_readable_and_denied_leaves_only_refusals(state: Any, told: Any) -> None:
    record(state, "a000000000")
    code, out, _ = told("audit", "show", "a000000000")
    assert code == 0
    assert [line.split(maxsplit=5)[2:] for line in out.splitlines()[1:]] == [
        ["denied", "tool.call", "fixer", "tool http_fetch, task t1, missing network-access"],
        ["allowed", "tool.call", "fixer", "tool read_file, task t1, power filesystem-read"],
    ]
    assert len(told("audit", "show", "a000000000", "--denied")[1].splitlines()) == 2
    rows = json.loads(told("audit", "show", "a000000000", "--denied", "-o", "json")[1])["data"]["rows"]
    assert [(row["decision"], json.loads(row["context"])["missing"]) for row in rows] == [("denied", "network-access")]


def test_the_head_that_a_summary_prints_is_the_one_that_verify_knows(state: Any, told: Any) -> None:
    record(state, "a000000000")
    lines = told("run", "show", "a000000000")[1].splitlines()
    (head,) = [line.removeprefix("Audit head: ") for line in lines if line.startswith("Audit head: ")]
    assert told("audit", "verify", "a000000000", "--head", head)[0] == 0
    assert told("audit", "verify", "a000000000", "--head", "f" * 64)[0] == 1


def test_why_and_monitor_of_a_live_agent_say_what_it_waits_for(state: Any, told: Any) -> None:
    log = record(state, "a000000000", live=True)
    try:
        sentence = told("agent", "why", "fixer")[1]
        assert sentence.startswith("fixer is running task t1 (Mend it): waiting for the model ")
        assert "(turn 2, openai/x); 0 of 1 tasks done; 1 act was denied for want of a grant." in sentence
        shown = told("agent", "monitor", "fixer", "--once")[1]
        assert "Model: 1 turn, 1,204 tokens in, 88 out, $0.0031" in shown.splitlines()
        assert "waiting for the model" in told("agent", "list", "--run", "a000000000")[1]
        agent = json.loads(told("agent", "monitor", "fixer", "--once", "-o", "json")[1])["data"]["agent"]
        used = {"llm_requests": 1, "input_tokens": 1204, "output_tokens": 88, "cost_usd": 0.0031, "turns": 1}
        assert agent["usage"] | used == agent["usage"]
        assert agent["detail_since"].endswith("Z")
    finally:
        log.close()


def test_stats_count_what_models_cost(state: Any, told: Any) -> None:
    record(state, "a000000000")
    record(state, "b000000000", broken=True)
    lines = told("runtime", "stats")[1].splitlines()
    for line in ("model turns: 4", "model requests: 4", "model input tokens: 2608", "model output tokens: 178", "model cost usd: 0.0082"):
        assert line in lines
    found = json.loads(told("runtime", "stats", "-o", "json")[1])["data"]["stats"]
    assert (found["model_requests"], found["model_agents_unpriced"], found["model_cost_usd"]) == (4, 0, pytest.approx(0.0082))
    text = told("runtime", "stats", "--prometheus")[1]
    assert "# TYPE toka_model_requests_total counter\ntoka_model_requests_total 4\n" in text
    (cost,) = [line.split()[1] for line in text.splitlines() if line.startswith("toka_model_cost_usd_total ")]
    assert float(cost) == pytest.approx(0.0082)


def test_events_of_a_run_as_lines_have_one_for_each_turn(state: Any, told: Any) -> None:
    record(state, "a000000000")
    out = told("run", "events", "a000000000", "-o", "text")[1]
    assert "[fixer] task t1 turn 1: openai/x, 1,204 in, 88 out, $0.0031, calls read_file\n" in out
