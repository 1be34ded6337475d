"""The one file that knows litellm: names of models, exchanges, prices. In: ModelRequest. Out: a ModelReply that was validated here, or ProviderError.

litellm is a transport: its retries, limits and budgets are off, deadlines and causes are ours. Never decides whether to ask again.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import aiohttp
import litellm
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler, get_async_httpx_client

from toka_cli.llm import replies
from toka_cli.llm.causes import Sighting, failed, timed_out
from toka_cli.llm.keys import has_key, mask
from toka_cli.llm.provider import ModelInfo, ModelReply, ModelRequest, ProviderError
from toka_cli.llm.transport import session, watching
from toka_cli.llm.wire import Begin, Price

VERSION: Final = version("litellm")
GIVE_UP_S: Final = 1.0
"""How long a cancelled exchange may take to notice, before it is left behind."""

DELTA_INTERVAL_S: Final = 0.1
# A constant: litellm keeps one client for each timeout it was ever given. The deadline that counts is ours.
_LITELLM_TIMEOUT_S: Final = 3600.0
# OpenAI's library refuses to start without a key, and a local server does not want one.
_NO_KEY: Final = "not-needed"

_FAMILIES: Final = (
    (r"claude", "anthropic"), (r"gpt|chatgpt|o\d|text-|davinci|codex", "openai"), (r"gemini|gemma", "gemini"), (r"deepseek", "deepseek"),
    (r"(?:mi|code|mini|dev|magi|pix)stral", "mistral"), (r"grok", "xai"), (r"command", "cohere"), (r"llama|qwen|phi", "ollama_chat"),
)  # fmt: skip
# Their keys may come from the machine itself (roles, profiles, a login), so a missing variable proves nothing.
_OWN_CREDENTIALS: Final = frozenset({
    "bedrock", "bedrock_converse", "sagemaker", "sagemaker_chat", "vertex_ai", "vertex_ai_beta", "azure", "azure_ai", "watsonx",
})  # fmt: skip
# Under which name litellm keeps the client of a provider, where it is not its own.
_CLIENT_OF: Final = {"gemini": "vertex_ai", "vertex_ai_beta": "vertex_ai", "bedrock_converse": "bedrock"}
_WALK: Final = "async_maybe_transform"
# Where a mark in the messages reaches Anthropic's models; OpenAI's format has none, and its servers may refuse it.
_CACHE_MARKS: Final = frozenset({"anthropic", "bedrock", "bedrock_converse", "vertex_ai", "vertex_ai_beta", "openrouter", "databricks"})
# What is sent with their keys goes where we say; some others ask the machine for credentials first.
_WARMED: Final = frozenset({"openai", "anthropic"})
_OF_THIS_MACHINE: Final = frozenset({"ollama", "ollama_chat"})

litellm.suppress_debug_info = True
litellm.num_retries = 0
# A parameter that a model does not have (a temperature) is left out; a history that a provider refuses in form (tool results without tools) is mended.
litellm.drop_params = True
litellm.modify_params = True
# It ends a stream in which a hundred pieces are alike, which a table or a row of dashes has; how long an answer may be is decided in replies.py.
litellm.REPEATED_STREAMING_CHUNK_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class Name:
    """A model as litellm asks for it: `full` is `provider/bare`."""

    full: str
    provider: str
    bare: str


class Models:
    """Makes exchanges with the keys and settings of one Begin. Close it inside the loop it was used in."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._providers = frozenset(str(getattr(provider, "value", provider)) for provider in litellm.provider_list)
        self._session: aiohttp.ClientSession | None = None
        self._running: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()

    async def warm(self, model: str) -> None:
        """Let litellm load what it loads with its first exchange, about 0.6 s of CPU, so that no deadline counts it. Asks nobody and raises nothing."""
        with suppress(Exception):
            name = self._resolve(model)
            nothing = {"messages": [{"role": "user", "content": "-"}], "stream": True, "max_retries": 0, "num_retries": 0}
            stream = await litellm.acompletion(model=name.full, mock_response="-", **nothing)
            async for _ in stream:
                pass
            if name.provider in _WARMED:
                self._lend_session(name.provider)
                # Port 0 of this machine takes no connection.
                await litellm.acompletion(model=name.full, api_base="http://127.0.0.1:0", api_key=_NO_KEY, shared_session=self._session, **nothing)

    async def ask(self, request: ModelRequest, on_delta: Callable[[int], None] | None) -> ModelReply:
        """Make one exchange within `request.timeout_s`. Raises ProviderError; its words hold no secret."""
        started = time.monotonic()
        try:
            name = self._resolve(request.model)
            reply = await self._within(request, name, on_delta)
        except ProviderError as error:
            raise ProviderError(
                error.cause, mask(error.message, self._begin.secrets), hint=error.hint, retry_after_s=error.retry_after_s
            ) from None
        return replies.timed(reply, time.monotonic() - started)

    async def _within(self, request: ModelRequest, name: Name, on_delta: Callable[[int], None] | None) -> ModelReply:
        with watching() as seen:
            task = asyncio.create_task(self._exchange(request, name, on_delta, seen))
            self._running.add(task)
            task.add_done_callback(self._forget)
            try:
                await asyncio.wait({task}, timeout=request.timeout_s)
            except asyncio.CancelledError:
                task.cancel()
                raise
            if not task.done():
                # Libraries between us and the socket may swallow a cancellation: it is asked for, and not waited for longer than this.
                task.cancel()
                await asyncio.wait({task}, timeout=GIVE_UP_S)
                raise timed_out(seen, request.timeout_s)
            return task.result()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()

    async def _exchange(self, request: ModelRequest, name: Name, on_delta: Callable[[int], None] | None, seen: Sighting) -> ModelReply:
        if problem := self._missing_key(name):
            raise ProviderError("auth", problem[0], hint=problem[1])
        try:
            self._lend_session(name.provider)
            _spare_the_walk()
            answer = await litellm.acompletion(**self._arguments(request, name, stream=on_delta is not None))
            found = await replies.gather(answer, _paced(on_delta)) if on_delta is not None else replies.whole(answer)
            return replies.checked(found, name.full, request, self._cost)
        except Exception as error:
            # Whatever it is that a third party raises: it is the failure of this exchange, and of no other.
            raise failed(error, seen) from error

    def _lend_session(self, provider: str) -> None:
        """Put clients with our session where litellm looks for one: not every way through it hands `shared_session` on, and it forgets them after an hour."""
        if self._session is None:
            self._session = session()
            litellm.module_level_aclient = AsyncHTTPHandler(shared_session=self._session, timeout=_LITELLM_TIMEOUT_S)
        for params in (None, {"timeout": _LITELLM_TIMEOUT_S}):
            get_async_httpx_client(llm_provider=_CLIENT_OF.get(provider, provider), params=params, shared_session=self._session)

    def _arguments(self, request: ModelRequest, name: Name, *, stream: bool) -> dict[str, Any]:
        messages = [dict(message) for message in request.messages]
        tools = [dict(tool) for tool in request.tools]
        if name.provider in _CACHE_MARKS and "claude" in name.bare:
            mark_prefix(messages, tools)
        given: dict[str, Any] = {
            "model": name.full,
            "messages": messages,
            "timeout": _LITELLM_TIMEOUT_S,
            "max_retries": 0,
            "num_retries": 0,
            "shared_session": self._session,
        }
        if tools:
            given["tools"] = tools
        if request.temperature is not None:
            given["temperature"] = request.temperature
        if request.max_output_tokens is not None:
            given["max_tokens"] = request.max_output_tokens
        if stream:
            given |= {"stream": True, "stream_options": {"include_usage": True}}
        if self._begin.base_url is not None:
            given["api_base"] = self._begin.base_url
            if name.provider not in _OWN_CREDENTIALS and not has_key(self._begin.environment, name.provider):
                given["api_key"] = _NO_KEY
        return given

    def _resolve(self, model: str) -> Name:
        """The name that litellm is asked with. Raises ProviderError for one that says no provider."""
        head, slash, rest = model.partition("/")
        if slash and head in self._providers:
            return Name(model, head, rest)
        chosen = self._begin.provider or ("openai" if self._begin.base_url is not None else None)
        if chosen is not None:
            if chosen not in self._providers:
                close = ", ".join(difflib.get_close_matches(chosen, self._providers, n=3)) or "anthropic, openai, ..."
                raise ProviderError("unknown_model", f"litellm knows no provider {chosen!r}", hint=f"LLM_PROVIDER is such as {close}")
            return Name(f"{chosen}/{model}", chosen, model)
        try:
            bare, provider, _, _ = litellm.get_llm_provider(model)
        except (litellm.exceptions.BadRequestError, ValueError):
            raise ProviderError("unknown_model", f"no provider is known for the model {model!r}", hint=self._suggestion(model)) from None
        return Name(f"{provider}/{bare}", str(provider), str(bare))

    def _suggestion(self, model: str) -> str:
        listed = sorted(key for key in litellm.model_cost if key.endswith(f"/{model}") and key.count("/") == 1)
        family = next((f"{provider}/{model}" for pattern, provider in _FAMILIES if re.match(pattern, model, re.IGNORECASE)), None)
        # The prefix that a family belongs to first: a name that some reseller lists as well is not what was meant.
        names = list(dict.fromkeys([*([family] if family else []), *listed]))[:3]
        if not names:
            names = difflib.get_close_matches(model, list(litellm.model_cost), n=3, cutoff=0.6)
        meant = f"write {' or '.join(names)}" if names else "write it with its provider, such as anthropic/... or openai/..."
        return f"{meant}; LLM_PROVIDER names the provider of bare names, LLM_BASE_URL a server of your own"

    def _missing(self, name: Name) -> list[str]:
        """The variables with keys that litellm wants for this model and that are not set."""
        if name.provider in _OWN_CREDENTIALS | _OF_THIS_MACHINE:
            return []
        found = litellm.validate_environment(name.full)
        names = [str(variable) for variable in found.get("missing_keys", ())]
        return [variable for variable in names if re.search(r"_(?:KEY|TOKEN)$", variable)]

    def _missing_key(self, name: Name) -> tuple[str, str] | None:
        if self._begin.base_url is not None or not (missing := self._missing(name)):
            return None
        names = " or ".join(missing)
        hint = f"export {missing[0]}=... (or {missing[0]}_FILE=path), or point LLM_BASE_URL to a server that needs none"
        return f"no key for {name.full}: {names} is not set", hint

    def _price(self, name: Name) -> Price | None:
        """What the table itself says: litellm's own lookup makes up a price of 0 for names that it only half knows."""
        if (given := self._begin.prices.get(name.full) or self._begin.prices.get(name.bare)) is not None:
            return given
        if name.provider in _OF_THIS_MACHINE:
            return Price(0.0, 0.0, 0.0)
        entry = self._entry(name)
        if not entry.get("input_cost_per_token") or entry.get("output_cost_per_token") is None:
            return None
        cached = entry.get("cache_read_input_token_cost")
        return Price(float(entry["input_cost_per_token"]), float(entry["output_cost_per_token"]), None if cached is None else float(cached))

    @staticmethod
    def _entry(name: Name) -> Mapping[str, Any]:
        for key in (name.full, name.bare):
            entry = litellm.model_cost.get(key)
            if entry is not None and (key == name.full or str(entry.get("litellm_provider", "")).startswith(name.provider)):
                return dict(entry)
        return {}

    def _cost(self, model: str, usage: replies.Usage) -> float | None:
        """USD of an exchange; None when the price is not known. Tiers of a long context and writes to a cache are counted as litellm's table has them."""
        name = self._resolve(model)
        price = self._price(name)
        if price is None:
            return None
        if name.full in self._begin.prices or name.bare in self._begin.prices or usage.given is None or not price.input_usd:
            cached_usd = price.input_usd if price.cached_input_usd is None else price.cached_input_usd
            fresh = usage.input_tokens - usage.cached_tokens
            return fresh * price.input_usd + usage.cached_tokens * cached_usd + usage.output_tokens * price.output_usd
        costs = litellm.cost_per_token(model=name.bare, custom_llm_provider=name.provider, usage_object=usage.given)
        return float(sum(costs))

    def describe(self, model: str) -> ModelInfo:
        """What is known of a model without asking anybody. Raises ProviderError(`internal`) when litellm cannot say."""
        try:
            name = self._resolve(model)
            window, longest = self._sizes(name)
            price = self._price(name)
            missing = self._missing_key(name)
        except ProviderError as error:
            return ModelInfo(model, problem=error.message, fix=error.hint, cause=error.cause)
        except Exception as error:
            raise ProviderError("internal", mask(f"litellm cannot describe {model!r}: {error}", self._begin.secrets)) from error
        return ModelInfo(
            name.full,
            provider=name.provider,
            context_window=window,
            max_output_tokens=longest,
            input_usd=price.input_usd if price is not None else None,
            output_usd=price.output_usd if price is not None else None,
            cached_input_usd=price.cached_input_usd if price is not None else None,
            problem=missing[0] if missing else None,
            fix=missing[1] if missing else None,
            cause="auth" if missing else None,
        )

    def _sizes(self, name: Name) -> tuple[int | None, int | None]:
        found: Mapping[str, Any] = self._entry(name)
        if not found and name.provider not in _OF_THIS_MACHINE:  # of those litellm would ask the server
            try:
                found = dict(litellm.get_model_info(name.full))
            except Exception:  # noqa: BLE001  litellm raises a bare Exception for what it does not know
                return None, None
        window, longest = found.get("max_input_tokens"), found.get("max_output_tokens")
        return window if isinstance(window, int) else None, longest if isinstance(longest, int) else None


def mark_prefix(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> None:
    """Mark what Anthropic's models may keep in their prompt cache: tools, the system's words, and the conversation so far, which the next turn repeats.

    Three of the four marks that the API allows. Too short a prefix is ignored by the provider at no cost.
    """
    mark = {"type": "ephemeral"}
    if tools:
        tools[-1] = {**tools[-1], "cache_control": mark}
    leading = 0
    while leading < len(messages) and messages[leading].get("role") == "system":
        leading += 1
    if leading:
        messages[leading - 1] = _marked(messages[leading - 1], mark)
    if len(messages) > leading and messages[-1].get("role") in {"user", "tool"}:
        messages[-1] = {**messages[-1], "cache_control": mark} if messages[-1]["role"] == "tool" else _marked(messages[-1], mark)


def _marked(message: dict[str, Any], mark: dict[str, str]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, str) and content:
        return {**message, "content": [{"type": "text", "text": content, "cache_control": mark}]}
    if isinstance(content, list) and content and isinstance(content[-1], dict):
        return {**message, "content": [*content[:-1], {**content[-1], "cache_control": mark}]}
    return message


def _spare_the_walk() -> None:
    """Keep OpenAI's library from walking through all messages by their type hints, in search of fields to rename: a chat has none.

    It costs 0.3 ms of CPU a message, 30 ms of the 40 that a long conversation's request takes (measured with openai 2).
    """
    module = sys.modules.get("openai.resources.chat.completions.completions")
    if module is not None and getattr(module, _WALK, _as_it_is) is not _as_it_is:
        setattr(module, _WALK, _as_it_is)


async def _as_it_is(data: Any, *_: Any, **__: Any) -> Any:
    return data


def _paced(on_delta: Callable[[int], None]) -> Callable[[int], None]:
    """Tell of text that came in, at most so often: a frame for each token would cost more than the token."""
    waiting = 0
    last_s = 0.0

    def tell(characters: int) -> None:
        nonlocal waiting, last_s
        waiting += characters
        now_s = time.monotonic()
        if waiting and now_s - last_s >= DELTA_INTERVAL_S:
            on_delta(waiting)
            waiting, last_s = 0, now_s

    return tell


def speak(*, loudly: bool) -> None:
    """Let litellm say everything, whole requests too, to this process's standard error; or nothing."""
    litellm.turn_off_message_logging = not loudly
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "httpx", "openai", "aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.DEBUG if loudly else logging.CRITICAL)
