"""A run with models is recorded, and then played back: the same work, with the server gone, without a key, in another directory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.conftest import Toka
from tests.journeys.asking import KEY, connect, every_file, finish, lanes, orchestrate
from tests.llm.server import ModelServer, call, calls, overloaded, text

MODEL = "anthropic/claude-test"
GONE: dict[str, str | None] = {"ANTHROPIC_API_KEY": None, "LLM_BASE_URL": None, "LLM_MODEL": None}
GRANTS = {"capabilities_required": ["filesystem-read", "filesystem-write", "script-execution"]}
SHOW = "import os, sys; print(sorted(os.listdir())); print(open('token.txt').read(), file=sys.stderr)"


def specs(toka: Toka, story: str = "Write the story.") -> None:
    """`writer` writes beside itself and fails once, `reader` goes on with what it said, `many` does three things at the same time."""
    writing: list[dict[str, Any]] = [
        {"id": "list", "description": "List what is here", "run": "ls token.txt"},
        {"id": "write", "description": story, "retries": {"max": 2, "delay": "10ms"}},
    ]
    toka.spec("writer", writing, security=GRANTS)
    toka.spec("reader", [{"id": "read", "description": "Read the story that is there now."}], security=GRANTS, dependencies={"required": {"writer": "x"}})
    several = {"default": [{"id": f"part{number}", "description": f"Part {number} of many."} for number in range(3)], "parallel": 3}
    toka.spec("many", several, security=GRANTS)


def script() -> Any:
    """What the model says, by task."""
    several = {
        f"Part {number} of many.": [
            calls(call("write_file", path=f"part{number}.txt", content=str(number)), call("list_dir", path=".")),
            finish(f"part {number}", delay_s=0.1 * (3 - number)),
        ]
        for number in range(3)
    }
    writer = [
        overloaded(),
        calls(call("write_file", path="story.txt", content="Once.\n")),
        calls(call("finish", status="failure", summary="it has no end")),
        calls(call("edit_file", path="story.txt", old="Once.", new="Once, and never again."), call("run_command", argv=[sys.executable, "-c", SHOW])),
        text("It is written."),
        finish("the story has an end"),
    ]
    return lanes({"Read the story that is there now.": [calls(call("read_file", path="story.txt")), finish("read")], "Write the story.": writer, **several})


def shape(view: dict[str, Any]) -> Any:
    """What two runs have to have in common."""
    return [
        (agent["name"], agent["state"], [(task["id"], task["state"], task["attempts"], task["output"], task["usage"]["turns"]) for task in agent["tasks"]])
        for agent in view["agents"]
    ]


def work_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): data for path, data in every_file(folder).items()}


def test_a_recorded_run_is_played_back_without_a_server_and_without_a_key(toka: Toka, model_server: ModelServer) -> None:
    connect(toka, model_server, LLM_BASE_URL=model_server.anthropic_url, LLM_MODEL=MODEL, ANTHROPIC_API_KEY=KEY)
    specs(toka)
    model_server.play(script())
    (toka.work / "token.txt").write_text(f"key={KEY}\n")
    recording = toka.root / "run.jsonl"
    first = orchestrate(toka, "--record", recording)
    assert {seen.wire for seen in model_server.requests} == {"anthropic"}
    writer = next(agent for agent in first["agents"] if agent["name"] == "writer")
    assert [(task["state"], task["attempts"]) for task in writer["tasks"]] == [("succeeded", 1), ("succeeded", 2)]
    assert (toka.work / "story.txt").read_text() == "Once, and never again.\n"
    assert recording.stat().st_mode & 0o777 == 0o600
    assert KEY.encode() not in recording.read_bytes()
    there = toka("orchestrate", toka.root / "specs", "--record", recording).expect(2)
    assert f"--record: {recording} is there already" in there.err
    assert len(toka.folders()) == 1
    asked = len(model_server.requests)
    model_server.close()

    elsewhere = toka.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "token.txt").write_text("key=another one\n")
    replayed = toka("orchestrate", toka.root / "specs", "--replay", recording, "--workdir", elsewhere, "-o", "json", env=GONE).expect(0)
    second = replayed.envelope["data"]["run"]
    assert shape(second) == shape(first)
    same = {name: data for name, data in work_of(toka.work).items() if name != "token.txt"}
    assert {name: data for name, data in work_of(elsewhere).items() if name != "token.txt"} == same
    assert set(same) == {"story.txt", "part0.txt", "part1.txt", "part2.txt"}
    assert (second["usage"]["llm_requests"], second["usage"]["cost_usd"], second["usage"]["turns"]) == (0, 0.0, first["usage"]["turns"])
    assert len(model_server.requests) == asked
    # What a tool said is data: it may differ, and that is told.
    assert "replay: agent writer, task write, attempt 2, turn 2, " in replayed.err
    toka("run", "diff", first["id"], second["id"]).expect(0)

    for path in (toka.root / "specs").iterdir():
        path.unlink()
    specs(toka, "Write the story in verse.")
    (toka.work / "story.txt").unlink()
    missed = toka("orchestrate", toka.root / "specs", "--replay", recording, "-o", "json", env=GONE).expect(8)
    view = missed.envelope["data"]["run"]
    assert view["reason"].startswith("replay: the recording has another request of agent writer, task write, attempt 1, turn 1: message 2 (user) differs")
    assert "-Write the story." in missed.err
    assert "+Write the story in verse." in missed.err
    assert not (toka.work / "story.txt").exists()


def test_what_is_no_recording_is_said_before_anything_starts(toka: Toka) -> None:
    specs(toka)
    path = toka.root / "no.jsonl"
    missing = toka("orchestrate", toka.root / "specs", "--replay", path, "--model", MODEL).expect(4)
    assert f"no recording {path}" in missing.err
    path.write_text(json.dumps({"line": "exchange"}) + "\n")
    wrong = toka("orchestrate", toka.root / "specs", "--replay", path, "--model", MODEL).expect(6)
    assert f"{path}, line 1: not a recording of a run" in wrong.err
    assert toka.folders() == []
