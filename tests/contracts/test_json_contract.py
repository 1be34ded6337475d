"""What programs read: one envelope from every command, JSON lines that each parse, and fields that are there and mean what they say."""

from __future__ import annotations

import re
from typing import Any

import pytest

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
RUN = {"id", "state", "reason", "started_at", "ended_at", "duration_s", "workdir", "agents", "usage", "deliverables"}
AGENT = {
    "id", "run_id", "name", "title", "workstream", "domain", "priority", "state", "detail", "reason", "pid", "progress", "tasks_done", "tasks_total",
    "restarts", "started_at", "ended_at", "duration_s", "memory_bytes", "peak_memory_bytes", "cpu_time_s", "usage", "tasks", "isolation",
}  # fmt: skip
TASK = {"id", "description", "kind", "state", "reason", "attempts", "duration_s", "output", "exit_code", "usage", "evidence"}
USAGE = {"llm_requests", "input_tokens", "output_tokens", "cost_usd"}


@pytest.fixture
def done(toka: Any) -> Any:
    """A state folder with one finished run of two agents."""
    objective = {"description": "O", "deliverable": "f", "validation": {"run": "echo > f"}}
    toka.spec("good", [{"id": "t", "description": "T", "run": "echo hi"}], objectives=[objective])
    denied = {"description": "No id", "code": {"shell": "exit 3"}, "requires": ["network-access"]}
    toka.spec("bad", [denied, {"description": "Second", "tool": "list_dir"}])
    toka.result = toka("orchestrate", toka.root / "specs", "-o", "json")
    toka.run_id = toka.result.envelope["data"]["run"]["id"]
    return toka


def check_run(run: dict[str, Any]) -> None:
    assert set(run) >= RUN
    assert set(run["usage"]) >= USAGE
    for agent in run["agents"]:
        check_agent(agent)
    for moment in (run["started_at"], run["ended_at"]):
        assert moment is None or TIME.fullmatch(moment)


def check_agent(agent: dict[str, Any]) -> None:
    assert set(agent) >= AGENT
    assert set(agent["usage"]) >= USAGE
    assert 0 <= agent["progress"] <= 1
    assert agent["pid"] is None or agent["state"] in {"starting", "running", "paused", "stopping"}
    for task in agent["tasks"]:
        assert set(task) >= TASK
        assert task["kind"] in {"prompt", "code", "command", "tool", "agent"}


COMMANDS: dict[str, tuple[str, set[str]]] = {
    # words: the command's name in the envelope, the keys of its data
    "orchestrate SPECS": ("orchestrate", {"run"}),
    "orchestrate SPECS --plan": ("orchestrate", {"plan", "warnings"}),
    "orchestrate GOOD --detach": ("orchestrate", {"run_id"}),
    "agent spawn GOOD": ("agent spawn", {"run_id", "agent_id", "name"}),
    "agent spawn GOOD --wait": ("agent spawn", {"run"}),
    "agent list": ("agent list", {"agents"}),
    "agent list --all": ("agent list", {"agents"}),
    "agent show good": ("agent show", {"agent"}),
    "agent show good --prompt": ("agent show", {"agent", "prompts"}),
    "agent monitor good": ("agent monitor", {"agent"}),
    "agent monitor good --once": ("agent monitor", {"agent"}),
    "agent why good": ("agent why", {"agent_id", "name", "state", "why"}),
    "agent logs good": ("agent logs", {"agent_id", "lines"}),
    "agent stop good": ("agent stop", {"stopped"}),
    "run list": ("run list", {"runs"}),
    "run show RUN": ("run show", {"run"}),
    "run wait RUN": ("run wait", {"run"}),
    "run stop RUN": ("run stop", {"run"}),
    "run events RUN": ("run events", {"events"}),
    "run diff RUN RUN": ("run diff", {"same", "differences"}),
    "run prune --keep 100": ("run prune", {"removed", "dry_run"}),
    "runtime config": ("runtime config", {"settings"}),
    "runtime tools": ("runtime tools", {"tools"}),
    "runtime stats": ("runtime stats", {"stats"}),
    "runtime exec --shell true": ("runtime exec", {"result"}),
    "spec check SPECS": ("spec check", set()),
    "audit verify RUN": ("audit verify", {"audit"}),
    "audit show RUN": ("audit show", {"rows"}),
}


def words(toka: Any, line: str) -> list[str]:
    places = {"SPECS": str(toka.root / "specs"), "GOOD": str(toka.root / "specs" / "good.yaml"), "RUN": toka.run_id}
    return [places.get(word, word) for word in line.split()]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_writes_one_envelope(done: Any, line: str) -> None:
    command, keys = COMMANDS[line]
    found = done(*words(done, line), "-o", "json")
    envelope = found.envelope
    assert list(envelope) == ["schema", "command", "exit_code", "data", "errors"]
    assert (envelope["schema"], envelope["command"], envelope["exit_code"], envelope["errors"]) == (1, command, found.code, [])
    assert set(envelope["data"]) >= keys
    if "run" in keys:
        check_run(envelope["data"]["run"])
    if "agent" in keys:
        check_agent(envelope["data"]["agent"])
    if keys == {"agents"}:
        assert envelope["data"]["agents"] or "--all" not in line
        for agent in envelope["data"]["agents"]:
            check_agent(agent)
    if keys == {"run_id"} or "agent_id" in keys:
        done.nothing_left()


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("orchestrate none.yaml", "orchestrate"), ("agent show none", "agent show"), ("run show none", "run show"),
        ("--state-dir STATE run wait none", "run wait"),
        ("runtime exec", "runtime exec"), ("orchestrate", "orchestrate"), ("agent nonsense", "agent nonsense"), ("audit verify none", "audit verify"),
    ],
)  # fmt: skip
def test_errors_come_in_the_same_envelope(toka: Any, line: str, command: str) -> None:
    found = toka(*line.replace("STATE", str(toka.state)).split(), "-o", "json")
    envelope = found.envelope
    assert found.code in {2, 4}
    assert (envelope["schema"], envelope["command"], envelope["exit_code"], envelope["data"]) == (1, command, found.code, None)
    (error,) = envelope["errors"]
    assert set(error) >= {"code", "message", "hint", "where"}
    assert error["message"] in found.err


def test_the_views_of_a_run_agree(done: Any) -> None:
    first = done.result.expect(1).envelope["data"]["run"]
    check_run(first)
    agents = {agent["name"]: agent for agent in first["agents"]}
    assert [task["id"] for task in agents["bad"]["tasks"]] == ["t1", "t2"]
    assert [task["kind"] for task in agents["bad"]["tasks"]] == ["code", "tool"]
    assert agents["bad"]["tasks"][0]["reason"].startswith("capability_denied: network-access")
    assert agents["good"]["isolation"]["rlimits"]["core"] == 0
    assert done("run", "show", first["id"], "-o", "json").envelope["data"]["run"]["agents"] == first["agents"]
    assert done("agent", "show", "good", "-o", "json").envelope["data"]["agent"] == agents["good"]
    listed = done("agent", "list", "--all", "-o", "json").envelope["data"]["agents"]
    assert sorted(listed, key=lambda it: it["name"]) == sorted(first["agents"], key=lambda it: it["name"])
    (summary,) = done("run", "list", "-o", "json").envelope["data"]["runs"]
    assert set(summary) >= {"id", "state", "reason", "workdir", "started_at", "ended_at", "agents"}
    assert (summary["id"], summary["state"], summary["agents"]) == (first["id"], "failed", {"failed": 1, "succeeded": 1})


def test_the_plan_has_its_shape(done: Any) -> None:
    plan = done("orchestrate", done.root / "specs", "--plan", "-o", "json").expect(0).envelope["data"]["plan"]
    assert set(plan) >= {"waves", "critical_path", "agents"}
    for agent in plan["agents"]:
        assert set(agent) >= {"name", "priority", "workstream", "depends_on", "after", "grants", "limits", "enforcement", "tasks"}
        assert set(agent["enforcement"]) >= {"memory", "cpu", "filesystem", "network"}
        assert all(set(task) >= {"id", "kind", "description", "priority"} for task in agent["tasks"])


@pytest.mark.parametrize("line", ["orchestrate SPECS", "agent monitor good", "agent logs good", "run events RUN"])
def test_every_line_of_jsonl_parses(done: Any, line: str) -> None:
    lines = done(*words(done, line), "-o", "jsonl").lines
    assert lines
    events = lines if line.startswith("run events") else lines[:-1]
    assert not any("schema" in event for event in events)
    if "logs" not in line:
        assert all(set(event) >= {"seq", "at", "kind", "run", "agent", "name", "task"} for event in events)
        assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
        assert all(TIME.fullmatch(event["at"]) for event in events)
    if not line.startswith("run events"):
        assert lines[-1]["schema"] == 1, "the envelope comes last"


def test_nothing_but_data_is_on_stdout(done: Any) -> None:
    assert done("orchestrate", done.root / "specs").expect(1).out == ""
    assert done("-q", "orchestrate", done.root / "specs").err == ""
    assert done("agent", "spawn", done.root / "specs" / "good.yaml", "-o", "text").expect(0).out.count("\n") == 1
    done.nothing_left()
