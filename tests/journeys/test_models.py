"""Agents that think, as a user meets them: a real toka, real cells behind their walls, the real way to a model, and a server that speaks like one."""

from __future__ import annotations

import base64
import json
import sys
import threading
from typing import Any
from urllib.parse import quote

from tests.conftest import Toka
from tests.journeys.asking import KEY, by_name, connect, events, every_file, finish, lanes, of_lane, orchestrate, prompt, rows, until
from tests.llm.server import ModelServer, Reply, call, calls, refusing_port

PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir=."]


def broken_project(toka: Toka, name: str) -> str:
    """A small project whose test fails."""
    folder = toka.work / name
    folder.mkdir()
    (folder / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    (folder / "test_calc.py").write_text("from calc import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n")
    return name


def mend(folder: str) -> list[Any]:
    """The calls that mend it: look, see it fail, change, see it pass, finish."""
    check = call("run_command", argv=["sh", "-c", f"cd {folder} && exec {' '.join(PYTEST)} test_calc.py"])
    return [
        calls(call("list_dir", path=folder), call("read_file", path=f"{folder}/calc.py")),
        calls(check),
        calls(call("edit_file", path=f"{folder}/calc.py", old="a - b", new="a + b")),
        calls(check),
        finish("add() adds again; pytest passes"),
    ]


def test_a_broken_project_is_mended_only_with_the_grant(toka: Toka, model_server: ModelServer) -> None:
    connect(toka, model_server)
    for name, grants in (("able", ["filesystem-read", "filesystem-write", "script-execution"]), ("unable", ["filesystem-read"])):
        folder = broken_project(toka, name)
        gate = {"run": ["sh", "-c", f"cd {folder} && exec {' '.join(PYTEST)} test_calc.py"]}
        objectives = [{"description": "its test passes", "validation": gate}]
        prompt(toka, name, f"Mend the project in {folder}.", grants=grants, objectives=objectives)
    blocked = calls(call("finish", status="blocked", summary="filesystem-write is missing"))
    model_server.play(lanes({"project in able.": mend("able"), "project in unable.": [*mend("unable")[:-1], blocked]}))
    view = orchestrate(toka, code=1)
    able, unable = by_name(view)["able"], by_name(view)["unable"]

    assert (able["state"], able["reason"]) == ("succeeded", None)
    assert able["tasks"][0]["output"] == "add() adds again; pytest passes"
    assert "return a + b" in (toka.work / "able" / "calc.py").read_text()
    seen = of_lane(model_server, "project in able.")
    assert [request.turn for request in seen] == [1, 2, 3, 4, 5]
    results = [message["content"] for message in seen[-1].messages if message["role"] == "tool"]
    assert "return a - b" in results[1]
    assert "1 failed" in results[2]
    assert "1 passed" in results[4]

    assert unable["state"] == "failed"
    assert unable["reason"].startswith("task_failed: t: blocked: filesystem-write is missing")
    assert "return a - b" in (toka.work / "unable" / "calc.py").read_text()
    told = [message["content"] for message in of_lane(model_server, "project in unable.")[-1].messages if message["role"] == "tool"]
    assert "Refused, and not retryable: capability_denied: filesystem-write: Capability not authorized: filesystem-write" in told[3]
    assert "Capability not authorized: script-execution" in told[2]
    assert "edit_file" not in of_lane(model_server, "project in unable.")[0].tools
    assert view["usage"]["turns"] == 10
    assert [row[0] for row in rows(toka, view["id"], "SELECT tool FROM tool_calls WHERE state = 'denied' ORDER BY seq")] == [
        "run_command", "edit_file", "run_command",
    ]  # fmt: skip
    assert events(toka, view["id"], "gate.passed")


# --- before anything starts ------------------------------------------------------------------------------------------------------------------


def test_what_stands_in_the_way_is_said_with_its_fix_before_anything_starts(toka: Toka) -> None:
    """As somebody meets it who tries this for the first time."""
    prompt(toka, "one", "Say hello.")
    none = toka("orchestrate", toka.root / "specs").expect(6)
    assert "1 task is a prompt and needs a model, and none is named" in none.err
    assert "LLM_MODEL=NAME" in none.err

    for name, model in (("two", "nonsense"), ("three", "gpt-4"), ("four", "claude-3-opus"), ("five", "anthropic/claude-sonnet-4-5")):
        prompt(toka, name, "Say hello.", llm={"model": model})
    bad = toka("orchestrate", toka.root / "specs", "--model", "openai/gpt-4o", "-o", "json").expect(6)
    (error,) = bad.envelope["errors"]
    assert error["code"] == "no_model"
    for problem in (
        "no key for openai/gpt-4o: OPENAI_API_KEY is not set",
        "no provider is known for the model 'nonsense'",
        "no key for openai/gpt-4: OPENAI_API_KEY is not set",
        "no provider is known for the model 'claude-3-opus'",
        "no key for anthropic/claude-sonnet-4-5: ANTHROPIC_API_KEY is not set",
    ):
        assert problem in error["message"].splitlines()
    for fix in ("export OPENAI_API_KEY=...", "export ANTHROPIC_API_KEY=...", "write anthropic/claude-3-opus", "such as anthropic/... or openai/..."):
        assert fix in error["hint"]

    with refusing_port() as port:
        address = f"http://127.0.0.1:{port}/v1"
        prompt_only = toka.root / "specs" / "one.yaml"
        down = toka("orchestrate", prompt_only, "--model", "openai/mine", env={"LLM_BASE_URL": address}).expect(6)
    assert f"error: the model server at {address} cannot be reached: nobody listens there" in down.err
    assert "hint: start it, or correct LLM_BASE_URL" in down.err
    assert toka.folders() == []
    toka.nothing_left()


# --- secrets ---------------------------------------------------------------------------------------------------------------------------------

TOKEN = "ghp_0aZ/planted+in=the-environment"


def test_secrets_reach_neither_the_model_nor_anything_that_is_written_down(toka: Toka, model_server: ModelServer) -> None:
    """They stand in the environment, and with that in a file, in what commands write, in what tools find and in what the model says."""
    connect(toka, model_server, GITHUB_TOKEN=TOKEN)
    secrets = (TOKEN, KEY)
    (toka.work / "settings.ini").write_text(f"user=me\ntoken={TOKEN}\nkey={KEY}\n")
    (toka.work / "blob.json").write_text(json.dumps({"t": base64.b64encode(TOKEN.encode()).decode(), "u": quote(TOKEN, safe="")}))
    # One piece at a time, across the borders of writes, and so much that the whole becomes a file of its own.
    slowly = f"import sys\nfor c in open('settings.ini').read():\n sys.stdout.write(c); sys.stdout.flush()\nprint(('x' * 99 + '{TOKEN}') * 1500)"
    (toka.work / "slowly.py").write_text(slowly)
    grants = ["filesystem-read", "filesystem-write", "script-execution"]
    shown = [sys.executable, "slowly.py"]
    gate = {"description": "shown", "validation": {"run": ["sh", "-c", "cat settings.ini >&2"]}}
    prompt(toka, "asker", "Find the token.", grants=grants, objectives=[gate])
    doing: list[dict[str, Any]] = [
        {"id": "show", "description": "S", "run": shown},
        {"id": "code", "description": "C", "code": {"python": "print(open('settings.ini').read())"}},
        {"id": "tool", "description": "T", "tool": "read_file", "args": {"path": "settings.ini"}},
        {"id": "bad", "description": "B", "run": "cat settings.ini >&2; exit 3", "allow_failure": True},
    ]
    toka.spec("doer", doing, security={"capabilities_required": grants})
    model_server.play(
        [
            calls(call("read_file", path="settings.ini"), call("grep", pattern="token", path="."), call("read_file", path="blob.json")),
            calls(call("run_command", argv=shown), call("run_command", argv=["cat", "no-such-file", f"name-{TOKEN}"])),
            calls(call("write_file", path="copy.txt", content=f"I know {TOKEN}"), call("report_progress", detail=f"found {TOKEN}"), words=f"It is {TOKEN}."),
            finish(f"The token is {TOKEN} and the key {KEY}", evidence=[f"settings.ini: {TOKEN}"]),
        ]
    )
    running = toka.start("orchestrate", toka.root / "specs", "-v", "-o", "jsonl")
    done = running.wait().expect(0)
    run = toka.folders()[0].run_id
    screens = [done.out, done.err]
    commands = [["run", "show", run], ["run", "events", run], ["agent", "logs", f"{run}-1"], ["agent", "logs", f"{run}-2"], ["run", "show", run, "-o", "json"]]
    screens.extend(done.out + done.err for done in (toka(*words).expect(0) for words in commands))
    screens.append(toka("agent", "show", f"{run}-1", "--prompt").expect(0).out)
    written = every_file(toka.state)
    assert len(written) > 6
    assert any(path.parent.name == "artifacts" for path in written)
    forms = [form for secret in secrets for form in (secret, base64.b64encode(secret.encode()).decode(), quote(secret, safe=""))]
    for form in forms:
        for path, data in written.items():
            assert form.encode() not in data, path
        for screen in screens:
            assert form not in screen, screen[:2000]
        for seen in model_server.requests:
            assert form not in seen.words
            assert form.encode() not in seen.raw
    # The key went where it belongs, and nowhere else.
    assert {seen.headers["authorization"] for seen in model_server.requests} == {f"Bearer {KEY}"}
    told = "\n".join(message["content"] for message in model_server.requests[-1].messages if message["role"] == "tool")
    assert "token=[redacted]" in told
    assert "token=[redacted]" in screens[3]
    # What the model wrote down holds the mark: it never knew the secret.
    assert (toka.work / "copy.txt").read_text() == "I know [redacted]"


# --- killed in the middle of a conversation --------------------------------------------------------------------------------------------------


def test_a_conversation_that_was_cut_off_goes_on_at_its_turn(toka: Toka, model_server: ModelServer) -> None:
    connect(toka, model_server)
    grants = ["filesystem-read", "filesystem-write", "script-execution"]
    prompt(toka, "one", "Do three things.", grants=grants)
    started, hold = toka.meeting("started"), threading.Event()
    once = ["sh", "-c", "echo effect >> effects; echo up > started; exec sleep 1000"]
    model_server.play(
        [
            calls(call("run_command", argv=["sh", "-c", "echo first >> effects"])),
            calls(call("write_file", path="made.txt", content="made")),
            Reply(text="never", hold=hold),
            # From here on the second owner asks.
            calls(call("run_command", argv=once)),
            calls(call("read_file", path="effects")),
            finish("all of it"),
        ]
    )
    running = toka.start("orchestrate", toka.root / "specs", "-o", "jsonl")
    for _ in range(3):
        running.event("llm.asked")
    until(lambda: len(model_server.requests) == 3)
    run = toka.folders()[0].run_id
    running.process.kill()
    running.wait()
    toka.nothing_left()
    hold.set()

    # Killed again, while a command runs that must not be repeated.
    second = toka.start("run", "resume", run, "-o", "jsonl")
    started.take()
    second.process.kill()
    second.wait()
    toka.nothing_left()

    view = toka("run", "resume", run, "-o", "json").expect(0).envelope["data"]["run"]
    (agent,) = view["agents"]
    assert (agent["state"], agent["tasks"][0]["output"], agent["usage"]["turns"]) == ("succeeded", "all of it", 5)
    assert (toka.work / "effects").read_text() == "first\neffect\n"
    turns = [seen.turn for seen in model_server.requests]
    assert turns == [1, 2, 3, 3, 4, 5]
    # What had been said before is said again, word for word, and nothing else.
    before, after = model_server.requests[2].messages, model_server.requests[3].messages
    assert after == before
    told = [message["content"] for message in model_server.requests[-1].messages if message["role"] == "tool"]
    assert told[2].startswith("interrupted: this call was cut off, and may or may not have taken effect")
    assert "effect" in told[3]
    # The request that was under way when the first owner was killed may have been paid for: it is on the books.
    assert agent["usage"]["unsettled_tokens"] > 0
    assert [event["cause"] for event in events(toka, run, "llm.failed")] == ["abandoned"]
    toka("audit", "verify", run).expect(0)
