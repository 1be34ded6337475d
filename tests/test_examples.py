"""Each file of agents/examples/ does what its comments say, run as a user would run it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import example_recording as example
from tests.llm.server import ModelServer
from toka_cli.llm import recording
from toka_cli.llm.likeness import compare
from toka_cli.llm.provider import ModelRequest
from toka_cli.sandbox import probe

FOLDER = Path(__file__).parent.parent / "agents" / "examples"
SCHEMA_LINE = "# yaml-language-server: $schema=../spec.schema.json"

Seen = dict[str, Any]


def tasks(run: Seen, agent: int = 0) -> dict[str, Seen]:
    """The tasks of an agent by id."""
    return {task["id"]: task for task in run["agents"][agent]["tasks"]}


def outputs(run: Seen) -> dict[str, str]:
    return {name: task["output"] for name, task in tasks(run).items()}


def command(run: Seen, work: Path) -> None:
    assert outputs(run) == {"argv": "$HOME is not replaced, and * stays a star\n", "shell": "THIS AGENT IS EXAMPLE-COMMAND\n"}


def code(run: Seen, work: Path) -> None:
    assert outputs(run) == {"python": "30\n", "shell": "one\ntwo\nthree\n"}


def javascript(run: Seen, work: Path) -> None:
    assert outputs(run) == {"javascript": "30\n"}


def tool(run: Seen, work: Path) -> None:
    assert (work / "reports/examples/tool.txt").read_text() == "one\ntwo\nthree\n"
    assert [match["text"] for match in tasks(run)["search"]["value"]["matches"]] == ["two", "three"]
    assert run["agents"][0]["metrics"] == {"lines": 3.0}
    assert run["agents"][0]["tool_calls"] == 3


def gates(run: Seen, work: Path) -> None:
    assert (work / "reports/examples/words.txt").read_text() == "apple\nfig\npear\n"
    assert [(gate["index"], gate["state"]) for gate in run["agents"][0]["gates"]] == [(1, "succeeded")]
    assert [(found["path"], found["size_bytes"]) for found in run["deliverables"]] == [("reports/examples/words.txt", 15)]
    assert tasks(run)["words"]["evidence"]["exit_code"] == 0


def retries(run: Seen, work: Path) -> None:
    flaky = tasks(run)["flaky"]
    assert (flaky["attempts"], flaky["output"]) == (3, "attempt 3\n")


def output_schema(run: Seen, work: Path) -> None:
    assert tasks(run)["measure"]["value"] == {"files": 0, "where": "."}


def conditional(run: Seen, work: Path) -> None:
    assert list(tasks(run)) == ["always"]


def dependencies(run: Seen, work: Path) -> None:
    compiled, checked, announced = run["agents"]
    assert [agent["name"] for agent in run["agents"]] == ["example-compile", "example-check", "example-announce"]
    assert compiled["ended_at"] <= checked["started_at"]
    assert checked["ended_at"] <= announced["started_at"]
    assert announced["tasks"][0]["output"] == "built\n"
    assert {agent["limits"]["memory_bytes"] for agent in run["agents"]} == {256 * 1024**2}


def limits(run: Seen, work: Path) -> None:
    found = tasks(run)
    assert (found["slow"]["state"], found["quick"]["state"]) == ("failed", "succeeded")
    assert found["slow"]["reason"].startswith("limit.task_timeout: ")
    assert run["agents"][0]["state"] == "succeeded"


def grants(run: Seen, work: Path) -> None:
    found = tasks(run)
    assert (found["refused"]["state"], found["refused"]["attempts"], found["allowed"]["state"]) == ("failed", 0, "succeeded")
    assert found["refused"]["reason"].startswith("capability_denied: git-access")
    assert run["agents"][0]["denied"] == 1


def parallel(run: Seen, work: Path) -> None:
    found = tasks(run)
    for before, after in (("fetch", "left"), ("fetch", "right"), ("left", "join"), ("right", "join")):
        assert found[before]["ended_at"] <= found[after]["started_at"]


def environment(run: Seen, work: Path) -> None:
    assert outputs(run) == {"who": "example-environment of examples, demonstration, low\n", "private": "private\n", "keys": "none\n"}


CHECKS: dict[str, Callable[[Seen, Path], None]] = {
    "command": command,
    "code": code,
    "code-javascript": javascript,
    "tool": tool,
    "gates": gates,
    "retries": retries,
    "output-schema": output_schema,
    "conditional": conditional,
    "dependencies": dependencies,
    "limits": limits,
    "grants": grants,
    "parallel": parallel,
    "environment": environment,
}
NEEDS_A_MODEL = {"prompt"}
LEVELS = {"full": ("full", "standard"), "standard": ("standard",)}
"""What can be had on a machine, by the highest level that it reaches."""
REMAKE = "instructions have changed since it was recorded; make it again with: python -m tests.example_recording"


def test_every_example_is_here() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.yaml" for name in (*CHECKS, *NEEDS_A_MODEL)} | {example.RECORDING.name}


@pytest.mark.parametrize("level", ["full", "standard"])
@pytest.mark.parametrize("name", sorted(CHECKS))
def test_it_does_what_it_says(toka: Any, name: str, level: str) -> None:
    if name == "code-javascript" and shutil.which("node") is None:
        pytest.skip("node is not installed")
    if level not in LEVELS.get(probe.walls().level, ()):
        pytest.skip(f"this machine does not reach the level {level}")
    run = toka.run(FOLDER / f"{name}.yaml", env={"ANTHROPIC_API_KEY": "made up", "TOKA_PROCESS_WALLS": level})
    assert {(agent["state"], agent["isolation"]["level"]) for agent in run["agents"]} == {("succeeded", level)}
    CHECKS[name](run, toka.work)


def test_tasks_of_a_key_run_when_it_is_asked_for(toka: Any) -> None:
    run = toka.run(FOLDER / "conditional.yaml", "--when", "release")
    assert {name: task["state"] for name, task in tasks(run).items()} == dict.fromkeys(("always", "also", "publish"), "succeeded")


def test_a_prompt_without_a_model_is_refused_before_anything_starts(toka: Any) -> None:
    refused = toka("orchestrate", FOLDER / "prompt.yaml", "-o", "json").expect(6)
    assert [error["code"] for error in refused.envelope["errors"]] == ["no_model"]
    assert toka.folders() == []


def test_the_recorded_prompt_is_played_back_anywhere_without_a_key_or_a_model(toka: Any, model_server: ModelServer) -> None:
    text = (FOLDER.parent.parent / "README.md").read_text(encoding="utf-8")
    for folder, readme in (("first", text), ("deeper/down/second", text), ("third", "# Something else\n")):
        checkout = toka.work / folder
        checkout.mkdir(parents=True)
        (checkout / "README.md").write_text(readme)
        # The server would answer, and is not asked.
        env = {"LLM_BASE_URL": model_server.url}
        done = toka("orchestrate", example.EXAMPLE, "--replay", example.RECORDING, "-o", "json", cwd=checkout, env=env)
        assert done.code == 0, f"{REMAKE}\n{done.err}"
        run = done.envelope["data"]["run"]
        assert (checkout / "reports/examples/summary.md").read_text() == example.SUMMARY
        (agent,) = run["agents"]
        assert (agent["tasks"][0]["output"], agent["gates"][0]["state"]) == (example.FOUND, "succeeded")
        assert run["usage"]["cost_usd"] == 0
    assert (model_server.requests, model_server.probes) == ([], [])


def test_the_recording_is_what_would_be_recorded_now(tmp_path: Path) -> None:
    example.record(tmp_path / "new.jsonl")
    old, new = recording.read(example.RECORDING), recording.read(tmp_path / "new.jsonl")
    assert set(new.models) == {example.MODEL}, "its name says that nobody thought"
    assert old.lanes() == new.lanes(), REMAKE
    for key, (made,) in new.exchanges.items():
        (kept,) = old.exchanges[key]
        difference = compare(kept, ModelRequest(made.model, made.messages, made.tools), str.__eq__)
        assert difference is None, f"{REMAKE}\n{difference and difference.excerpt()}"
        assert made.reply is not None
        assert kept.reply is not None
        assert kept.reply.message == made.reply.message, REMAKE


@pytest.mark.parametrize("name", sorted(set(CHECKS) | NEEDS_A_MODEL))
def test_it_says_how_to_try_it(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0] == SCHEMA_LINE
    comments = [line for line in lines[1:5] if line.startswith("# ")]
    assert any(f" agents/examples/{name}.yaml" in line for line in comments)
    assert max(map(len, lines)) <= 160


def test_they_load_without_a_warning(toka: Any) -> None:
    checked = toka("spec", "check", "--strict", FOLDER, "-o", "json").expect(0).envelope["data"]
    assert checked["warnings"] == []
    assert len(checked["agents"]) == len(CHECKS) + len(NEEDS_A_MODEL) + 2, "dependencies.yaml holds three"
