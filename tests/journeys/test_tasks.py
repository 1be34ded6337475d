"""Tasks of every kind inside a real cell, and what the kernel makes of how they end."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def task(what: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "t", "description": "Try", **(what or {}), **more}


def one(toka: Any, *tasks: dict[str, Any], code: int = 0, words: tuple[str, ...] = (), **sections: Any) -> dict[str, Any]:
    """Run one agent; its view."""
    agent = toka.run(toka.spec("one", list(tasks), **sections), *words, code=code)["agents"][0]
    assert isinstance(agent, dict)
    return agent


def first(agent: dict[str, Any]) -> dict[str, Any]:
    found = agent["tasks"][0]
    assert isinstance(found, dict)
    return found


def test_a_list_is_run_as_it_is_and_a_text_by_the_shell(toka: Any) -> None:
    agent = one(toka, task({"run": ["printf", "%s|", "$HOME", "a  b", ";"]}), {"id": "u", "description": "U", "run": "printf '%s|' a  b; echo err >&2"})
    listed, text = agent["tasks"]
    assert listed["output"] == "$HOME|a  b|;|"
    assert (text["output"], text["stderr"], text["exit_code"], text["kind"]) == ("a|b|", "err\n", 0, "command")


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("python", "import sys; print(6 * 7); print('e', file=sys.stderr)"),
        pytest.param("javascript", "console.log(6 * 7); console.error('e')", marks=needs_node),
        ("shell", "echo $((6 * 7)); echo e >&2"),
    ],
)
def test_code_runs_in_its_own_interpreter(toka: Any, language: str, source: str) -> None:
    done = first(one(toka, task({"code": {language: source}})))
    assert (done["state"], done["kind"], done["output"], done["stderr"]) == ("succeeded", "code", "42\n", "e\n")


def test_code_that_fails_says_its_exit_status(toka: Any) -> None:
    agent = one(toka, task({"code": {"python": "raise SystemExit(9)"}}), code=1)
    assert (first(agent)["exit_code"], first(agent)["reason"]) == (9, "exit 9")
    assert agent["reason"] == "task_failed: t: exit 9"


def test_a_program_that_is_not_there_is_not_tried_again(toka: Any) -> None:
    agent = one(toka, task({"run": ["no-such-program-here"]}, retries={"max": 3, "delay": "1ms"}), code=1)
    assert (first(agent)["exit_code"], first(agent)["attempts"]) == (127, 1)
    assert "no-such-program-here" in first(agent)["reason"]


def test_a_tool_needs_its_grant(toka: Any) -> None:
    (toka.work / "hello.txt").write_text("hello\n")
    call = task({"tool": "read_file", "args": {"path": "hello.txt"}})
    granted = one(toka, call, security={"capabilities_required": ["filesystem-read"]})
    assert "hello" in first(granted)["output"]
    assert granted["tool_calls"] == 1
    denied = one(toka, call, code=1, security={"capabilities_required": []})
    assert first(denied)["reason"].startswith("capability_denied: filesystem-read")
    assert denied["denied"] == 1
    rows = toka("audit", "show", denied["run_id"], "--denied", "-o", "json").expect(0).envelope["data"]["rows"]
    assert [row["decision"] for row in rows] == ["denied"]
    why = toka("agent", "why", denied["id"]).expect(0).out
    assert "filesystem-read" in why


def test_a_task_that_requires_what_is_not_granted_never_starts(toka: Any) -> None:
    agent = one(toka, task({"run": "touch ran"}, requires=["network-access"]), code=1)
    done = first(agent)
    assert done["reason"].startswith("capability_denied: network-access: Capability not authorized: network-access required for")
    assert done["attempts"] == 0
    assert not (toka.work / "ran").exists()
    assert "capabilities_required" in done["stderr"], "the YAML to add"
    assert "denied" in toka("audit", "show", agent["run_id"], "--denied").expect(0).out
    assert "network-access" in toka("agent", "why", "one").expect(0).out


def test_retries_back_off_and_are_recorded(toka: Any) -> None:
    flaky = "echo x >> tries; test $(wc -l < tries) -ge 3"
    spec = toka.spec("flaky", [task({"run": flaky}, retries={"max": 4, "delay": "10ms", "backoff": 3})])
    done = toka("orchestrate", spec, "-o", "jsonl").expect(0)
    retrying = [event for event in done.lines if event.get("kind") == "task.retrying"]
    assert [event["attempt"] for event in retrying] == [1, 2]
    assert [event["reason"] for event in retrying] == ["exit 1", "exit 1"]
    first_delay, second_delay = (event["delay_s"] for event in retrying)
    assert 0.008 <= first_delay <= 0.012
    assert 0.024 <= second_delay <= 0.036
    assert first(done.lines[-1]["data"]["run"]["agents"][0])["attempts"] == 3
    exhausted = one(toka, task({"run": "false"}, retries={"max": 2, "delay": "1ms"}), code=1)
    assert first(exhausted)["attempts"] == 3


def test_a_task_that_takes_too_long_is_ended_with_its_children(toka: Any) -> None:
    agent = one(toka, task({"run": "sleep 1000 & trap '' TERM; sleep 1000; sleep 1000"}, timeout="300ms"), code=1)
    assert "Task execution timeout: t exceeded 300ms" in first(agent)["reason"]
    assert first(agent)["reason"].startswith("limit.task_timeout")
    toka.nothing_left()


def test_an_agent_that_takes_too_long(toka: Any) -> None:
    agent = one(toka, task({"run": "exec sleep 1000"}), code=1, security={"resource_limits": {"timeout": "300ms"}})
    assert agent["reason"].startswith("limit.timeout")
    assert first(agent)["state"] == "stopped"


def test_long_output_is_cut_inline_and_whole_as_an_artifact(toka: Any) -> None:
    agent = one(toka, task({"run": "seq 1 60000"}))
    done = first(agent)
    whole = "".join(f"{n}\n" for n in range(1, 60001)).encode()
    assert done["truncated"]
    assert done["output_bytes"] == len(whole)
    assert done["output"].startswith("1\n2\n")
    assert done["output"].endswith("60000\n")
    assert "bytes left out" in done["output"]
    assert done["artifact"] == hashlib.sha256(whole).hexdigest()
    assert (toka.folder(agent["run_id"]).artifacts / done["artifact"]).read_bytes() == whole
    with toka.folder(agent["run_id"]).agent_log(agent["id"]).open() as log:
        assert sum(1 for _ in log) == 60_000


def test_a_flood_of_output_is_ended_at_its_limit(toka: Any) -> None:
    agent = one(toka, task({"run": "yes"}, retries={"max": 3, "delay": "1ms"}), code=1, security={"resource_limits": {"max_output": "100KB"}})
    assert "limit.output" in agent["reason"]
    kept = sum(path.stat().st_size for path in toka.folder(agent["run_id"]).artifacts.iterdir())
    assert kept <= 200_000
    toka.nothing_left()


def test_output_that_is_no_text_is_kept(toka: Any) -> None:
    done = first(one(toka, task({"code": {"python": "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)"}})))
    assert done["output_bytes"] == 256_000
    folder = toka.folders()[0]
    assert (folder.artifacts / done["artifact"]).read_bytes() == bytes(range(256)) * 1000


def test_verify_decides_after_the_task(toka: Any) -> None:
    good = first(one(toka, task({"run": "echo ok > made"}, verify={"run": ["grep", "-q", "ok", "made"]})))
    assert good["evidence"]["exit_code"] == 0
    bad = first(one(toka, task({"run": "true"}, verify={"run": "echo no; exit 4"}), code=1))
    assert (bad["state"], bad["reason"], bad["evidence"]["output"]) == ("failed", "verify: exit 4", "no\n")


def test_gates_decide_about_the_agent(toka: Any) -> None:
    make = task({"run": "mkdir -p reports/deep; echo text > reports/deep/a.md"})
    good = {"description": "The file is there", "deliverable": "reports/**.md", "validation": {"run": ["test", "-f", "reports/deep/a.md"]}}
    bad = {"description": "Something else", "validation": {"run": "echo missing; exit 2"}}
    view = toka.run(toka.spec("gated", [make], objectives=[good]))
    assert [gate["state"] for gate in view["agents"][0]["gates"]] == ["succeeded"]
    assert [(it["path"], it["size_bytes"], it["sha256"]) for it in view["deliverables"]] == [
        ("reports/deep/a.md", 5, hashlib.sha256(b"text\n").hexdigest())
    ]
    agent = toka.run(toka.spec("gated", [make], objectives=[good, bad]), code=1)["agents"][0]
    assert [gate["state"] for gate in agent["gates"]] == ["succeeded", "failed"]
    assert agent["reason"] == "gate_failed: objective 2: exit 2"
    assert agent["gates"][1]["output"] == "missing\n"
    assert first(agent)["state"] == "succeeded"


def test_depends_on_orders_tasks_and_a_failure_skips_the_rest(toka: Any) -> None:
    tasks = [
        {"id": "late", "description": "L", "run": "echo late >> order", "depends_on": ["early"], "priority": "critical"},
        {"id": "early", "description": "E", "run": "echo early >> order", "priority": "low"},
    ]
    one(toka, *tasks)
    assert (toka.work / "order").read_text().split() == ["early", "late"]
    agent = one(toka, {"id": "bad", "description": "B", "run": "false"}, {"id": "next", "description": "N", "run": "true", "depends_on": ["bad"]}, code=1)
    assert [(it["state"], it["reason"]) for it in agent["tasks"]] == [("failed", "exit 1"), ("skipped", "dependency_failed: bad")]


def test_parallel_tasks_overlap(toka: Any) -> None:
    """Each waits for the other: alone, neither could end."""
    for name in ("ab", "ba"):
        os.mkfifo(toka.work / name)
    tasks = {
        "parallel": 2,
        "default": [
            {"id": "a", "description": "A", "run": "echo x > ab; read x < ba", "timeout": "20s"},
            {"id": "b", "description": "B", "run": "read x < ab; echo x > ba", "timeout": "20s"},
        ],
    }
    agent = toka.run(toka.spec("both", tasks))["agents"][0]
    assert [it["state"] for it in agent["tasks"]] == ["succeeded", "succeeded"]


def test_allow_failure_lets_the_agent_succeed(toka: Any) -> None:
    agent = one(toka, task({"run": "exit 5"}, allow_failure=True), {"id": "after", "description": "A", "run": "true"})
    assert agent["state"] == "succeeded"
    assert [(it["state"], it["reason"]) for it in agent["tasks"]] == [("failed", "exit 5"), ("succeeded", None)]


def test_output_schema_is_held(toka: Any) -> None:
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    good = first(one(toka, task({"run": """echo '{"n": 3}'"""}, output_schema=schema)))
    assert good["value"] == {"n": 3}
    bad = first(one(toka, task({"run": """echo '{"n": "x"}'"""}, output_schema=schema), code=1))
    assert bad["reason"].startswith("output_schema: n: ")
    none = first(one(toka, task({"run": "echo no json"}, output_schema=schema), code=1))
    assert none["reason"].startswith("output_schema: the output is not JSON")


def test_an_agent_without_tasks_for_this_run_succeeds(toka: Any) -> None:
    agent = toka.run(toka.spec("empty", {"conditional": {"never": [task({"run": "false"})]}}))["agents"][0]
    assert (agent["state"], agent["progress"], agent["tasks"]) == ("succeeded", 1.0, [])


def test_prompts_without_a_model_are_refused_before_anything_starts(toka: Any) -> None:
    toka.spec("works", [task({"run": "touch ran"})])
    toka.spec("asks", [{"id": "think", "description": "Think about it"}])
    done = toka("orchestrate", toka.root / "specs").expect(6)
    assert "think" in done.err
    assert "needs a model" in done.err
    assert "hint: " in done.err
    assert not (toka.work / "ran").exists()
    assert not toka.state.exists()


@pytest.mark.parametrize(
    "what", [{"agent": "reviewer", "input": "x"}, {"tool": "cortex_elsewhere", "args": {}}], ids=["agent", "mcp"]
)
def test_what_this_version_cannot_do_is_refused_before_anything_starts(toka: Any, what: dict[str, Any]) -> None:
    spec = toka.spec("asks", [task(what)], mcp_servers={"cortex": {"command": "cortex"}})
    done = toka("orchestrate", spec).expect(6)
    assert "in this version" in done.err
    assert "hint" in done.err
    assert not toka.state.exists()


def test_a_crash_is_restarted_when_the_spec_says_so(toka: Any) -> None:
    """A command kills its cell once, which it can only without walls: with a restart it goes on at the task that may be run again."""
    kill = "test -e once && exit 0; touch once; kill -9 $PPID; sleep 1000"
    spec = toka.spec(
        "phoenix", [task({"run": kill}, on_interrupted="rerun")], restart={"policy": "on-failure", "max_attempts": 2, "delay": "10ms"}
    )
    agent = toka.run(spec, "--no-sandbox")["agents"][0]
    assert (agent["state"], agent["restarts"]) == ("succeeded", 1)
    Path(toka.work / "once").unlink()
    doubtful = toka.run(toka.spec("phoenix", [task({"run": kill})], restart={"policy": "on-failure", "delay": "10ms"}), "--no-sandbox", code=1)["agents"][0]
    assert "interrupted: may or may not have taken effect" in first(doubtful)["reason"]
    toka.nothing_left()
