"""The model server of the tests itself: as a program with a script from a file, by lanes, and its log."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.llm.server import ModelServer, Reply, call, calls, text

SERVER = Path(__file__).with_name("server.py")


def post(url: str, words: str, path: str = "/chat/completions", **more: Any) -> tuple[int, Any]:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": words}], **more}).encode()
    request = urllib.request.Request(url + path, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_list_is_taken_in_order_and_then_over(model_server: ModelServer) -> None:
    model_server.play([text("one"), calls(call("f", a=1)), lambda seen: text(f"turn {seen.turn}")])
    replies = [json.loads(post(model_server.url, "x")[1])["choices"][0] for _ in range(3)]
    assert [reply["finish_reason"] for reply in replies] == ["stop", "tool_calls", "stop"]
    assert replies[2]["message"]["content"] == "turn 1"
    status, body = post(model_server.url, "x")
    assert status == 400
    assert "over" in body
    assert model_server.most_within(60.0) == 4


def test_lanes_keep_apart_who_asks(model_server: ModelServer) -> None:
    model_server.play({"agent one": [text("a"), text("b")], "agent two": [text("c")]}, then=Reply(status=503, body="{}"))
    said = [post(model_server.url, f"I am {who}") for who in ("agent two", "agent one", "agent one", "agent two")]
    assert [status for status, _ in said] == [200, 200, 200, 503]
    assert [json.loads(body)["choices"][0]["message"]["content"] for status, body in said if status == 200] == ["c", "a", "b"]
    assert [seen.lane for seen in model_server.requests] == ["agent two", "agent one", "agent one", "agent two"]


def test_streams_are_events(model_server: ModelServer) -> None:
    model_server.play([text("one two"), text("one two")])
    openai = post(model_server.url, "x", stream=True)[1]
    assert openai.endswith("data: [DONE]\n\n")
    pieces = [json.loads(line[6:]) for line in openai.splitlines() if line.startswith("data: {")]
    assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces if piece["choices"]) == "one two"
    anthropic = post(model_server.anthropic_url, "x", path="/v1/messages", stream=True)[1]
    assert [line[7:] for line in anthropic.splitlines() if line.startswith("event: ")][0::6] == ["message_start", "message_delta"]


def test_as_a_program(tmp_path: Path) -> None:
    script, log = tmp_path / "script.json", tmp_path / "log.jsonl"
    wanted = {"text": None, "calls": [{"name": "read_file", "arguments": {"path": "a"}}], "usage": [7, 3]}
    script.write_text(json.dumps({"replies": [wanted, {"error": {"status": 429, "retry_after": 2}}], "then": {"text": "done"}, "models": ["ours"]}))
    server = subprocess.Popen([sys.executable, str(SERVER), "--script", str(script), "--log", str(log)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().split()[1]
        first = json.loads(post(url, "x")[1])
        assert first["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "read_file", "arguments": '{"path": "a"}'}
        assert first["usage"]["total_tokens"] == 10
        assert post(url, "x")[0] == 429
        assert json.loads(post(url, "x")[1])["choices"][0]["message"]["content"] == "done"
        with urllib.request.urlopen(f"{url}/models", timeout=20) as answer:
            assert json.load(answer)["data"][0]["id"] == "ours"
    finally:
        server.terminate()
        assert server.wait(20) == 0
        server.stdout.close()
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["status"] for line in logged] == [200, 429, 200]
    assert logged[0]["body"]["messages"][0]["content"] == "x"
