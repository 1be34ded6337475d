"""What stands in the way of a run with models is told before it starts, with its fix; servers of this machine are suggested and never used."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.llm.conftest import Shared
from tests.llm.server import ModelServer, refusing_port, silent_port
from toka_cli.errors import NoModel, Refused, Unavailable
from toka_cli.llm.preflight import Checked, LocalServer, ModelProblem, local_servers, preflight, suggestion
from toka_cli.llm.provider import ModelInfo, ModelReply, ModelRequest


class Described:
    """A Provider that knows these models and is asked nothing else."""

    def __init__(self, *infos: ModelInfo) -> None:
        self._infos = {info.model: info for info in infos}

    async def describe(self, model: str) -> ModelInfo:
        return self._infos[model]

    async def complete(self, request: ModelRequest, *, on_delta: Callable[[int], None] | None = None) -> ModelReply:
        raise AssertionError("preflight asked a model")

    async def close(self) -> None:
        pass


GOOD = ModelInfo("openai/test-model", provider="openai", input_usd=1e-6, output_usd=2e-6)
LOCAL = ModelInfo("ollama_chat/llama3", provider="ollama_chat", input_usd=0.0, output_usd=0.0)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


def check(*infos: ModelInfo, **more: Any) -> Checked:
    found = run(preflight(Described(*infos), [info.model for info in infos], **more))
    assert isinstance(found, Checked)
    return found


def test_a_model_that_can_be_asked_has_no_problem(model_server: ModelServer) -> None:
    found = check(GOOD, base_url=model_server.url, need_prices=True)
    assert found.problems == ()
    assert found.refusal() is None
    assert found.infos == {GOOD.model: GOOD}
    assert model_server.probes == ["GET /v1/models"]
    assert model_server.requests == []


def test_a_wrong_name_and_a_missing_key_are_told_together() -> None:
    name = ModelInfo("claude-2", problem="no provider is known for the model 'claude-2'", fix="write anthropic/claude-2", cause="unknown_model")
    key = ModelInfo("openai/gpt-4o", provider="openai", problem="no key for openai/gpt-4o", fix="export OPENAI_API_KEY=...", cause="auth")
    found = check(name, key)
    refusal = found.refusal()
    assert isinstance(refusal, NoModel)
    assert refusal.exit_code == 6
    assert not refusal.retryable
    assert refusal.message.split("\n") == [name.problem, key.problem]
    assert (refusal.hint or "").split("\n") == [name.fix, key.fix]
    assert [problem.cause for problem in found.problems] == ["unknown_model", "auth"]


def test_a_budget_in_usd_needs_a_price() -> None:
    unpriced = ModelInfo("openai/ours", provider="openai")
    assert check(unpriced).refusal() is None
    refusal = check(unpriced, need_prices=True).refusal()
    assert isinstance(refusal, Refused)
    assert refusal.exit_code == 5
    assert "--budget-tokens" in (refusal.hint or "")
    assert check(LOCAL, environment={"HTTPS_PROXY": "x", "OLLAMA_API_BASE": "http://example.invalid"}, need_prices=True).refusal() is None


def test_a_server_that_nobody_started() -> None:
    with refusing_port() as port:
        url = f"http://127.0.0.1:{port}/v1"
        refusal = check(GOOD, base_url=url).refusal()
    assert type(refusal) is Unavailable
    assert refusal.exit_code == 6
    assert url in refusal.message
    assert "nobody listens there" in refusal.message
    assert refusal.hint == "start it, or correct LLM_BASE_URL"


def test_a_server_that_says_nothing_is_given_two_seconds() -> None:
    with silent_port() as port:
        found = check(GOOD, base_url=f"http://127.0.0.1:{port}/v1")
    assert [problem.cause for problem in found.problems] == ["timeout"]
    assert "2 s" in found.problems[0].message


@pytest.mark.parametrize(
    ("url", "cause"),
    [("http://no-such-host.invalid/v1", "dns"), ("http://127.0.0.1:99999/v1", "bad_request"), ("http://[::1/v1", "bad_request")],
    ids=["name", "port", "address"],
)
def test_an_address_that_leads_nowhere(url: str, cause: str) -> None:
    found = check(GOOD, base_url=url)
    assert [problem.cause for problem in found.problems] == [cause]
    assert found.refusal() is not None


def test_https_to_a_plain_server(model_server: ModelServer) -> None:
    found = check(GOOD, base_url=model_server.url.replace("http:", "https:"))
    assert [problem.cause for problem in found.problems] == ["tls"]


def test_something_that_is_no_web_server() -> None:
    async def work() -> Checked:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            return await preflight(Described(GOOD), [GOOD.model], base_url=f"http://127.0.0.1:{port}/v1")
        finally:
            server.close()
            await server.wait_closed()

    found = run(work())
    assert [problem.cause for problem in found.problems] == ["bad_reply"]


def test_a_model_that_the_server_does_not_list_is_a_warning(model_server: ModelServer) -> None:
    model_server.models = ["llama3:latest", "qwen3"]
    listed = ModelInfo("openai/llama3", provider="openai")
    other = ModelInfo("openai/mistral", provider="openai")
    found = check(listed, other, base_url=model_server.url)
    assert [(problem.model, problem.warning) for problem in found.problems] == [("openai/mistral", True)]
    assert "llama3:latest, qwen3" in found.problems[0].message
    assert found.refusal() is None
    # A server that lists nothing, or has no such path, still answers.
    model_server.models = []
    assert check(other, base_url=model_server.url).problems == ()


def test_a_local_provider_is_looked_for_where_it_says(model_server: ModelServer) -> None:
    assert check(LOCAL, environment={"OLLAMA_API_BASE": model_server.origin}).refusal() is None
    with refusing_port() as port:
        refusal = check(LOCAL, environment={"OLLAMA_API_BASE": f"http://127.0.0.1:{port}"}).refusal()
    assert refusal is not None
    assert "OLLAMA_API_BASE" in (refusal.hint or "")


def test_behind_a_proxy_a_distant_server_is_not_judged() -> None:
    found = check(GOOD, base_url="http://no-such-host.invalid/v1", environment={"HTTPS_PROXY": "http://proxy:3128"})
    assert found.problems == ()


def test_local_servers_are_found_and_suggested(model_server: ModelServer) -> None:
    model_server.models = ["llama3", "qwen3"]
    with refusing_port() as closed, silent_port() as silent:
        found = run(local_servers((closed, silent, model_server.port)))
    assert found == [LocalServer(model_server.url, ("llama3", "qwen3"))]
    said = suggestion(found)
    assert said is not None
    assert f"LLM_BASE_URL={model_server.url} LLM_MODEL=llama3" in said
    assert suggestion([]) is None
    assert model_server.requests == []


def test_names_that_a_server_lists_are_fit_to_be_shown(model_server: ModelServer) -> None:
    model_server.models = ["good", "\x1b]52;c;evil\x07", "x" * 500]
    assert run(local_servers((model_server.port,))) == [LocalServer(model_server.url, ("good",))]


def test_a_refusal_of_servers_alone_can_be_tried_again() -> None:
    gone = ModelProblem("m", "refused", "nobody there", "start it")
    name = ModelProblem("n", "unknown_model", "no such name", "another")
    assert type(Checked({}, (gone,)).refusal()) is Unavailable
    assert isinstance(Checked({}, (gone, name)).refusal(), NoModel)
    assert Checked({}, (ModelProblem("m", "unknown_model", "not listed", warning=True),)).refusal() is None


def test_the_real_provider_process_answers_it(shared: Shared) -> None:
    found = shared.run(preflight(shared.provider, ["gpt-4o-mini", "anthropic/claude-sonnet-4-5"], base_url=shared.server.url, need_prices=True))
    assert found.refusal() is None
    assert {info.provider for info in found.infos.values()} == {"openai", "anthropic"}
    assert shared.server.requests == []
    assert socket.gethostname()
