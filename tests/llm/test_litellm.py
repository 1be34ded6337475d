"""Real litellm in a provider process against a real HTTP server: both wire formats, whole and streamed, and every fault by its cause."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from tests.llm.conftest import KEYS, WIRES, LoopThread, Shared, ask, keys, secrets
from tests.llm.server import (
    Call,
    Reply,
    call,
    calls,
    error,
    overloaded,
    quota,
    rate_limited,
    refusing_port,
    silent_port,
    text,
    too_long,
    unauthorized,
)  # fmt: skip
from toka_cli.llm.child import ProviderSetup
from toka_cli.llm.process import MAX_STREAMS, ProviderProcess
from toka_cli.llm.provider import TERMINAL, ModelRequest, ProviderError

both_wires = pytest.mark.parametrize("wire", sorted(WIRES))
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "read_file", "description": "Reads.", "parameters": PARAMETERS}}
OTHER_TOOL = {"type": "function", "function": {"name": "grep", "description": "Searches.", "parameters": PARAMETERS}}


@both_wires
@both_ways
def test_words_and_usage_come_back(shared: Shared, wire: str, stream: bool) -> None:
    shared.server.play([text("Good morning.", usage=(1000, 20), cached_tokens=400)])
    reply = shared.complete(ask(WIRES[wire]), stream=stream)
    assert reply.message == {"role": "assistant", "content": "Good morning."}
    assert (reply.finish_reason, reply.input_tokens, reply.output_tokens, reply.cached_tokens) == ("stop", 1000, 20, 400)
    prices = {"openai": (0.15e-6, 0.075e-6, 0.6e-6), "anthropic": (3e-6, 0.3e-6, 15e-6)}[wire]
    assert reply.cost_usd == pytest.approx(600 * prices[0] + 400 * prices[1] + 20 * prices[2])
    assert reply.model == WIRES[wire]
    assert reply.duration_s is not None
    assert reply.duration_s > 0


@both_wires
@both_ways
def test_tool_calls_come_back_with_their_arguments_as_text(shared: Shared, wire: str, stream: bool) -> None:
    shared.server.play([calls(call("read_file", path="a b"), call("read_file", path="ü"), words="Let me look.")])
    reply = shared.complete(ask(WIRES[wire], tools=(TOOL,)), stream=stream)
    assert reply.finish_reason == "tool_calls"
    assert reply.message["content"] == "Let me look."
    wanted = [(made["type"], made["function"]["name"]) for made in reply.message["tool_calls"]]
    assert wanted == [("function", "read_file")] * 2
    assert [eval(made["function"]["arguments"]) for made in reply.message["tool_calls"]] == [{"path": "a b"}, {"path": "ü"}]
    assert len({made["id"] for made in reply.message["tool_calls"]}) == 2
    assert shared.server.requests[0].tools == ["read_file"]


@both_ways
def test_broken_arguments_are_passed_on_and_not_repaired(shared: Shared, stream: bool) -> None:
    shared.server.play([calls(Call("run_command", '{"argv": ["rm", "-rf", "/tmp/x'))])
    reply = shared.complete(ask(tools=(TOOL,)), stream=stream)
    assert reply.message["tool_calls"][0]["function"]["arguments"] == '{"argv": ["rm", "-rf", "/tmp/x'


def test_calls_without_ids_or_with_the_same_get_ids_of_their_own(shared: Shared) -> None:
    shared.server.play([calls(Call("a", {}, id="x"), Call("b", {}, id="x"))])
    reply = shared.complete(ask(tools=(TOOL,)))
    ids = [made["id"] for made in reply.message["tool_calls"]]
    assert ids[0] == "x"
    assert ids[1] not in {"x", ""}


@both_wires
def test_a_conversation_with_tool_results_reaches_the_provider_whole(shared: Shared, wire: str) -> None:
    shared.server.play([text("Done.")])
    made = {"id": "call_1", "type": "function", "function": {"name": "read_file", "arguments": '{"path": "a"}'}}
    messages = (
        {"role": "system", "content": "You are careful."},
        {"role": "user", "content": "Read a."},
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "call_1", "content": "the content of a"},
    )
    shared.complete(ModelRequest(WIRES[wire], messages, tools=(TOOL,), temperature=0.1, max_output_tokens=77))
    seen = shared.server.requests[0]
    assert (seen.body["temperature"], seen.body["max_tokens"]) == (0.1, 77)
    assert "the content of a" in seen.words
    assert "You are careful." in seen.words
    assert seen.turn == 2
    key = seen.headers.get("x-api-key") or seen.headers["authorization"].removeprefix("Bearer ")
    assert key == KEYS[f"{wire.upper()}_API_KEY"]
    if wire == "openai":
        assert seen.headers["openai-organization"] == "org-planted"
        assert "cache_control" not in seen.raw.decode()


def test_the_stable_prefix_is_marked_for_anthropics_prompt_cache(shared: Shared) -> None:
    shared.server.play([text("Yes.")])
    messages = ({"role": "system", "content": "You are careful."}, {"role": "user", "content": "Well?"})
    shared.complete(ModelRequest(WIRES["anthropic"], messages, tools=(TOOL, OTHER_TOOL)))
    body = shared.server.requests[0].body
    mark = {"type": "ephemeral"}
    assert body["system"][-1]["cache_control"] == mark
    assert [tool.get("cache_control") for tool in body["tools"]] == [None, mark]
    assert body["messages"][-1]["content"][-1]["cache_control"] == mark


def test_deltas_say_how_an_answer_grows(shared: Shared) -> None:
    heard: list[int] = []
    shared.server.play([text("x" * 400, pieces=8, between_s=0.05)])
    reply = shared.complete(ask(), stream=True, deltas=heard)
    assert len(reply.message["content"]) == 400
    # Told at intervals, not for each piece; the last pieces may go untold, the reply is there then.
    assert 2 <= len(heard) <= 8
    assert 0 < sum(heard) <= 400


@both_wires
def test_a_stream_of_like_pieces_is_an_answer(shared: Shared, wire: str) -> None:
    shared.server.play([text("-" * 300, pieces=300)])
    assert shared.complete(ask(WIRES[wire]), stream=True).message["content"] == "-" * 300


def test_only_so_many_answers_are_streamed_at_once(shared: Shared) -> None:
    gate = threading.Event()
    shared.server.play(lambda seen: text("hi", hold=gate))

    async def all_of_them() -> None:
        asked = [asyncio.create_task(shared.provider.complete(ask(), on_delta=lambda _: None)) for _ in range(MAX_STREAMS + 4)]
        async with asyncio.timeout(20):
            while len(shared.server.requests) < len(asked):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        gate.set()
        await asyncio.gather(*asked)

    shared.run(all_of_them())
    assert sum(seen.streams for seen in shared.server.requests) == MAX_STREAMS


def test_an_unknown_price_is_none_and_a_missing_count_an_estimate(shared: Shared) -> None:
    shared.server.play([text("a reply", usage=None), text("a reply", usage=None)])
    priced, unpriced = shared.complete(ask(words="w" * 4000)), shared.complete(ask("openai/a-model-of-ours", words="w" * 4000))
    assert unpriced.cost_usd is None
    assert priced.cost_usd is not None
    assert priced.cost_usd > 0
    assert 1000 <= priced.input_tokens <= 1100
    assert priced.output_tokens == 2


FAULTS: dict[str, tuple[Reply, str]] = {
    "reset": (Reply(fault="reset"), "reset"),
    "closed": (Reply(fault="close"), "reset"),
    "truncated": (text("hello there", fault="truncate"), "truncated"),
    "empty": (Reply(), "bad_reply"),
    "only blanks": (text(" \n"), "bad_reply"),
    "filtered": (text("", finish="content_filter"), "content_filter"),
    "nameless call": (calls(Call("", {})), "bad_reply"),
    "401": (unauthorized(), "auth"),
    "403": (error(403, "Your key does not have permission to use this model"), "auth"),
    "402": (error(402, "Insufficient Balance"), "quota"),
    "429": (rate_limited(), "rate_limit"),
    "quota": (quota(), "quota"),
    "credit": (error(400, "Your credit balance is too low to access the Anthropic API.", kind="invalid_request_error"), "quota"),
    "500": (error(500), "overloaded"),
    "502 page": (Reply(status=502, body="<html><h1>Bad Gateway</h1></html>"), "overloaded"),
    "503": (error(503), "overloaded"),
    "529": (overloaded(), "overloaded"),
    "context": (too_long(), "context"),
    "context of Anthropic": (error(400, "prompt is too long: 210000 tokens > 200000 maximum", kind="invalid_request_error"), "context"),
    "413": (error(413, "Request exceeds the maximum size", kind="request_too_large"), "context"),
    "no such model": (error(404, "The model `gpt-9` does not exist or you do not have access to it.", code="model_not_found"), "unknown_model"),
    "no such path": (error(404, "404 page not found"), "bad_request"),
    "filter of Azure": (error(400, "The response was filtered by the content management policy.", code="content_filter"), "content_filter"),
    "bad request": (error(400, "messages.3: unexpected role"), "bad_request"),
    "422": (error(422, "unprocessable"), "bad_request"),
}  # fmt: skip


@both_wires
@both_ways
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_by_its_cause_after_one_request(shared: Shared, name: str, wire: str, stream: bool) -> None:
    reply, cause = FAULTS[name]
    shared.server.play([], then=reply)
    failed = shared.fail(ask(WIRES[wire]), stream=stream)
    assert (failed.cause, failed.code, failed.exit_code) == (cause, f"provider_{cause}", 6)
    assert failed.retryable == (cause not in TERMINAL)
    assert len(shared.server.requests) == 1, "litellm tried again by itself"
    assert all(secret not in f"{failed} {failed.hint}" for secret in secrets())
    assert "Traceback" not in failed.message


@both_wires
@both_ways
@pytest.mark.parametrize(
    "reply", [Reply(fault="bad_json"), Reply(body="<html>hello</html>"), text("x", fault="empty_choices")], ids=["cut JSON", "a page", "no choices"]
)
def test_what_is_no_reply_is_a_bad_one(shared: Shared, reply: Reply, wire: str, stream: bool) -> None:
    shared.server.play([], then=reply)
    failed = shared.fail(ask(WIRES[wire]), stream=stream)
    # A stream without a single event cannot be told from one that broke off.
    assert failed.cause in ({"bad_reply", "truncated"} if stream else {"bad_reply"})
    assert len(shared.server.requests) == 1


@both_wires
def test_a_reply_without_a_message_is_a_bad_one(shared: Shared, wire: str) -> None:
    shared.server.play([text("x", fault="no_message")])
    assert shared.fail(ask(WIRES[wire])).cause == "bad_reply"


@both_wires
def test_a_stream_that_stops_without_an_end_is_truncated(shared: Shared, wire: str) -> None:
    shared.server.play([text("one two three", fault="no_end", pieces=6)])
    assert shared.fail(ask(WIRES[wire]), stream=True).cause == "truncated"


@both_wires
def test_an_error_inside_of_a_stream_is_told(shared: Shared, wire: str) -> None:
    shared.server.play([text("one two three", fault="error_event", pieces=6)])
    assert shared.fail(ask(WIRES[wire]), stream=True).cause == "overloaded"


@both_wires
def test_retry_after_is_read_as_seconds_milliseconds_and_date(shared: Shared, wire: str) -> None:
    shared.server.play([rate_limited(3), error(429, "slow down", retry_after="0.5"), error(529, "Overloaded", retry_after=7), error(429, "slow down")])
    waits = [shared.fail(ask(WIRES[wire])).retry_after_s for _ in range(4)]
    assert waits == [3.0, 0.5, 7.0, None]
    at = datetime.now(UTC) + timedelta(seconds=30)
    shared.server.play([rate_limited(format_datetime(at, usegmt=True)), rate_limited("Wed, 21 Oct 2015 07:28:00 GMT")])
    future_s, past_s = (shared.fail(ask(WIRES[wire])).retry_after_s for _ in range(2))
    assert future_s is not None
    assert 20 < future_s <= 30
    assert past_s == 0.0


def test_a_quota_that_is_over_in_a_minute_is_a_rate_limit(shared: Shared) -> None:
    body = '{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "You exceeded your current quota. Please retry in 32.5s."}}'
    shared.server.play([Reply(status=429, body=body)])
    failed = shared.fail(ask())
    assert (failed.cause, failed.retry_after_s) == ("rate_limit", 32.5)


@both_wires
@both_ways
@pytest.mark.parametrize("reply", [Reply(fault="hang"), text("hello", fault="drip", between_s=0.05)], ids=["hangs", "drips"])
def test_a_deadline_ends_what_never_ends(shared: Shared, reply: Reply, wire: str, stream: bool) -> None:
    shared.server.play([], then=reply)
    began_s = time.monotonic()
    failed = shared.fail(ask(WIRES[wire], timeout_s=0.5), stream=stream)
    took_s = time.monotonic() - began_s
    assert failed.cause == "timeout"
    assert "0.5 s" in failed.message
    assert took_s < 10, "the deadline did not end it"
    wait_until(lambda: shared.server.requests[0].abandoned, "the connection stayed open")


@both_ways
def test_an_answer_without_end_is_cut_off(shared: Shared, stream: bool) -> None:
    # Whole: more bytes than a body may have. Streamed: more text than a reply may have.
    shared.server.play([Reply(fault="huge", size_bytes=(17 if not stream else 5) << 20, pieces=100)])
    failed = shared.fail(ask(), stream=stream)
    assert failed.cause == "too_large"
    shared.server.play([text("small again")])
    assert shared.complete(ask()).message["content"] == "small again"


def test_a_redirect_is_not_followed(shared: Shared) -> None:
    shared.server.play([Reply(status=308, body="{}", headers=(("location", f"{shared.server.origin}/elsewhere/chat/completions"),))])
    failed = shared.fail(ask())
    assert failed.cause == "bad_request"
    assert "redirects" in failed.message
    assert len(shared.server.requests) == 1


@pytest.mark.parametrize("provider", ["groq", "mistral", "openrouter", "together_ai", "hosted_vllm", "lm_studio", "deepseek"])
def test_other_providers_of_the_same_wire_format_are_reached(shared: Shared, provider: str) -> None:
    shared.server.play([text("hi"), rate_limited(2)])
    assert shared.complete(ask(f"{provider}/some-model")).message["content"] == "hi"
    # Through the session that sees everything, whichever client litellm takes for it.
    assert shared.server.requests[0].headers["accept-encoding"] == "identity"
    failed = shared.fail(ask(f"{provider}/some-model"))
    assert (failed.cause, failed.retry_after_s, len(shared.server.requests)) == ("rate_limit", 2.0, 2)


@pytest.mark.parametrize("provider", ["gemini", "ollama_chat", "cohere_chat"])
def test_other_wire_formats_go_through_the_same_session(shared: Shared, provider: str) -> None:
    """The server does not speak them: that it is named with its address shows that the session saw its answer."""
    failed = shared.fail(ask(f"{provider}/some-model"))
    assert failed.cause == "bad_request"
    assert f"{shared.server.origin}/" in failed.message
    assert "(404)" in failed.message


def test_bare_names_go_to_the_server_that_was_named(shared: Shared) -> None:
    shared.server.play([text("one"), text("two")])
    assert shared.complete(ask("gpt-4o-mini")).model == "openai/gpt-4o-mini"
    assert shared.complete(ask("meta-llama/Llama-3-8B")).model == "openai/meta-llama/Llama-3-8B"
    assert [seen.model for seen in shared.server.requests] == ["gpt-4o-mini", "meta-llama/Llama-3-8B"]


def test_many_exchanges_at_once_are_told_apart(shared: Shared) -> None:
    shared.server.play(lambda seen: text(f"you said {seen.messages[-1]['content']}", delay_s=0.2))

    async def all_of_them() -> list[str]:
        replies = await asyncio.gather(*(shared.provider.complete(ask(words=f"number {number}")) for number in range(40)))
        return [reply.message["content"] for reply in replies]

    assert shared.run(all_of_them()) == [f"you said number {number}" for number in range(40)]
    assert shared.server.most_at_once >= 20


def test_what_was_cancelled_is_given_up_at_the_server_too(shared: Shared) -> None:
    shared.server.play([Reply(fault="hang"), text("next")])

    async def cancelled() -> bool:
        task = asyncio.create_task(shared.provider.complete(ask()))
        async with asyncio.timeout(20):
            while not shared.server.requests:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return task.cancelled()

    assert shared.run(cancelled())
    wait_until(lambda: shared.server.requests[0].abandoned, "the connection stayed open")
    assert shared.complete(ask()).message["content"] == "next"
    assert shared.provider.exchanges == 0


def test_nobody_listens(loop_thread: LoopThread, shared: Shared) -> None:
    port = shared.server.port
    shared.server.close()
    try:
        failed = shared.fail(ask())
        assert failed.cause == "refused"
        assert f"127.0.0.1:{port}" in failed.message
        assert "LLM_BASE_URL" in (failed.hint or "")
        assert shared.fail(ask(WIRES["anthropic"])).cause == "refused"
    finally:
        shared.server.__init__(port=port)  # type: ignore[misc]
        shared.server.start()
    shared.server.play([text("back")])
    assert shared.complete(ask()).message["content"] == "back"


class RawServer:
    """A port whose every connection is given to a function in a thread of its own."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.serve: Any = lambda connection: connection.close()
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self._kept.append(connection)
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self.serve(connection)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self._kept:
            connection.close()


@pytest.fixture(scope="module")
def secure(loop_thread: LoopThread) -> Iterator[tuple[RawServer, Any]]:
    """A provider process that believes in https, and the port that it knocks at."""
    server = RawServer()
    provider = ProviderProcess(ProviderSetup(environment=keys(), secrets=secrets(), base_url=f"https://127.0.0.1:{server.port}/v1"))
    loop_thread.run(provider.__aenter__())

    def fail(request: ModelRequest) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            loop_thread.run(provider.complete(request))
        return caught.value

    yield server, fail
    loop_thread.run(provider.close())
    server.close()


@both_wires
def test_https_to_a_plain_port_that_says_so(secure: tuple[RawServer, Any], wire: str) -> None:
    server, fail = secure

    def plain(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        connection.close()

    server.serve = plain
    failed = fail(ask(WIRES[wire]))
    assert failed.cause == "tls"
    assert "https" in (failed.hint or "")


@both_wires
def test_https_to_a_plain_port_that_says_nothing(secure: tuple[RawServer, Any], wire: str) -> None:
    server, fail = secure
    server.serve = lambda connection: None
    began_s = time.monotonic()
    failed = fail(ask(WIRES[wire], timeout_s=0.7))
    assert failed.cause == "timeout"
    assert "no connection" in failed.message
    assert "plain http" in failed.message
    assert time.monotonic() - began_s < 10


def test_a_certificate_that_nobody_vouches_for(secure: tuple[RawServer, Any], tmp_path: Path) -> None:
    server, fail = secure
    pem = tmp_path / "both.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x", "-keyout", str(pem), "-out", str(tmp_path / "c.pem")],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", pem)

    def secured(connection: socket.socket) -> None:
        context.wrap_socket(connection, server_side=True)

    server.serve = secured
    failed = fail(ask())
    assert failed.cause == "tls"
    assert "SSL_CERT_FILE" in (failed.hint or "")


def test_names_keys_and_prices_without_a_server_of_ones_own(loop_thread: LoopThread) -> None:
    """Without LLM_BASE_URL: what describe says of good and bad names, and that a missing key is told before anybody is asked."""
    from toka_cli.llm.wire import Price

    setup = ProviderSetup(environment={"ANTHROPIC_API_KEY": keys()["ANTHROPIC_API_KEY"]}, prices={"openai/ours": Price(1e-6, 2e-6)})
    provider = ProviderProcess(setup)
    loop_thread.run(provider.__aenter__())
    try:
        known = loop_thread.run(provider.describe("claude-sonnet-4-5"))
        assert (known.model, known.provider, known.problem) == ("anthropic/claude-sonnet-4-5", "anthropic", None)
        assert (known.context_window, known.input_usd, known.output_usd) == (200_000, 3e-6, 15e-6)
        old = loop_thread.run(provider.describe("claude-2"))
        assert old.cause == "unknown_model"
        assert "anthropic/claude-2" in old.fix
        missing = loop_thread.run(provider.describe("gpt-4o"))
        assert missing.cause == "auth"
        assert "OPENAI_API_KEY" in missing.problem
        assert "export OPENAI_API_KEY=" in missing.fix
        ours = loop_thread.run(provider.describe("openai/ours"))
        assert (ours.input_usd, ours.output_usd) == (1e-6, 2e-6)
        # litellm makes up a price of 0 for names that it half knows.
        unpriced = loop_thread.run(provider.describe("anthropic/claude-that-is-not-listed"))
        assert (unpriced.input_usd, unpriced.problem) == (None, None)
        local = loop_thread.run(provider.describe("ollama_chat/llama3"))
        assert (local.input_usd, local.problem) == (0.0, None)
        for model, cause in (("gpt-4o", "auth"), ("no-such-model-anywhere", "unknown_model"), ("claude-2", "unknown_model")):
            with pytest.raises(ProviderError) as caught:
                loop_thread.run(provider.complete(ask(model)))
            assert caught.value.cause == cause
    finally:
        loop_thread.run(provider.close())


def test_a_name_that_no_server_has(loop_thread: LoopThread) -> None:
    provider = ProviderProcess(ProviderSetup(environment=keys(), base_url="http://no-such-host.invalid/v1"))
    loop_thread.run(provider.__aenter__())
    try:
        with pytest.raises(ProviderError) as caught:
            loop_thread.run(provider.complete(ask()))
        assert caught.value.cause == "dns"
        with silent_port() as port, refusing_port():
            assert port
    finally:
        loop_thread.run(provider.close())


def test_importing_litellm_asks_nobody_and_reads_no_project_file(tmp_path: Path) -> None:
    """As the provider process imports it: no connection, no name looked up, and a .env in the directory is not read."""
    (tmp_path / ".env").write_text("OPENAI_API_KEY=from-the-project\n")
    program = """
import sys
asked = []
sys.addaudithook(lambda event, args: asked.append((event, str(args)[:80])) if event in ("socket.connect", "socket.getaddrinfo") else None)
import toka_cli.llm.litellm
import os
print(asked, os.environ.get("OPENAI_API_KEY"))
"""
    env = {"PATH": "/usr/bin:/bin", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=env, cwd=tmp_path, check=False)
    assert done.stdout.strip() == "[] None", done.stderr


def wait_until(condition: Any, why: str, limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.005)
