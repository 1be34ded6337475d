"""From what litellm gives back, whole or in pieces, to a ModelReply. In: its answer objects, read by attribute. Out: a validated reply.

litellm lets through what is no answer at all: no choices, no content, an end that it made up itself. Arguments of tool calls are passed on as
text, never repaired.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from toka_cli.llm.causes import Invalid, TooLarge
from toka_cli.llm.provider import ModelReply, ModelRequest

MAX_TEXT_CHARACTERS: Final = 4 << 20
MAX_CALLS: Final = 512
MAX_NAME: Final = 200
# What a token is worth where a server does not count: about four characters (OpenAI's rule of thumb).
CHARACTERS_PER_TOKEN: Final = 4


@dataclass(slots=True)
class Usage:
    """Tokens of an exchange. `given` is litellm's own object, None where toka had to estimate."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    given: Any = None


@dataclass(slots=True)
class Wanted:
    """One tool call as it was wanted; what is missing is empty."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Found:
    """What came in, before anybody judged it."""

    text: str = ""
    calls: list[Wanted] = field(default_factory=list)
    finish: str | None = None
    usage: Any = None
    refusal: str | None = None


def whole(answer: Any) -> Found:
    """From an answer that came in one piece. Raises Invalid when it holds no message."""
    choices = getattr(answer, "choices", None) or []
    message = getattr(choices[0], "message", None) if choices else None
    if message is None:
        raise Invalid("bad_reply", "the provider answered without a message (no choices)")
    found = Found(text=_text(getattr(message, "content", None)), finish=getattr(choices[0], "finish_reason", None), usage=getattr(answer, "usage", None))
    found.refusal = getattr(message, "refusal", None)
    for call in getattr(message, "tool_calls", None) or []:
        function = getattr(call, "function", None)
        arguments = getattr(function, "arguments", None)
        found.calls.append(Wanted(getattr(call, "id", None) or "", getattr(function, "name", None) or "", _arguments(arguments)))
    return found


async def gather(stream: Any, on_text: Callable[[int], None]) -> Found:
    """From an answer that comes in pieces; `on_text(characters)` as they come. Raises Invalid when it ends before its end, TooLarge."""
    found = Found()
    pieces: list[str] = []
    by_index: dict[int, tuple[Wanted, list[str]]] = {}
    total = 0
    async for chunk in stream:
        if (usage := getattr(chunk, "usage", None)) is not None:
            found.usage = usage
        for choice in (getattr(chunk, "choices", None) or [])[:1]:
            found.finish = getattr(choice, "finish_reason", None) or found.finish
            delta = getattr(choice, "delta", None)
            came = _text(getattr(delta, "content", None))
            pieces.append(came)
            grown = len(came) + len(getattr(delta, "reasoning_content", None) or "")
            for call in getattr(delta, "tool_calls", None) or []:
                grown += _add(call, by_index)
            total += grown
            if total > MAX_TEXT_CHARACTERS:
                raise TooLarge(f"the answer is longer than {MAX_TEXT_CHARACTERS} characters")
            if grown:
                on_text(grown)
    # litellm makes up a "stop" for a stream that just ends; it keeps apart what the provider itself said.
    if not _said_its_end(stream):
        raise Invalid("truncated", "the answer broke off before its end")
    found.text = "".join(pieces)
    for call, parts in by_index.values():
        call.arguments = "".join(parts)
        found.calls.append(call)
    return found


def _said_its_end(stream: Any) -> bool:
    names = ("received_finish_reason", "intermittent_finish_reason")
    return not hasattr(stream, names[0]) or any(getattr(stream, name, None) is not None for name in names)


def _add(call: Any, by_index: dict[int, tuple[Wanted, list[str]]]) -> int:
    """Put a piece of a tool call to its call; how many characters it brought."""
    function = getattr(call, "function", None)
    index = getattr(call, "index", None)
    wanted, parts = by_index.setdefault(index if isinstance(index, int) else len(by_index), (Wanted(), []))
    if len(by_index) > MAX_CALLS:
        raise TooLarge(f"the answer wants more than {MAX_CALLS} tool calls")
    wanted.id = wanted.id or getattr(call, "id", None) or ""
    wanted.name = wanted.name or getattr(function, "name", None) or ""
    piece = getattr(function, "arguments", None) or ""
    parts.append(piece)
    return len(piece)


def checked(found: Found, model: str, request: ModelRequest, cost: Callable[[str, Usage], float | None]) -> ModelReply:
    """A reply that can be worked with. Raises Invalid with the cause of what it lacks."""
    finish = found.finish or ("tool_calls" if found.calls else "stop")
    if finish == "content_filter":
        raise Invalid("content_filter", "the provider's filter stopped the answer", "say the task in other words")
    if len(found.text) > MAX_TEXT_CHARACTERS or len(found.calls) > MAX_CALLS:
        raise Invalid("too_large", f"the answer is longer than {MAX_TEXT_CHARACTERS} characters, or wants more than {MAX_CALLS} tool calls")
    if not found.calls and not found.text.strip():
        if found.refusal:
            raise Invalid("content_filter", f"the model refused: {found.refusal[:300]}", "say the task in other words")
        if finish == "length":
            raise Invalid("bad_reply", "the model used up its output tokens before it said anything", "allow it more output tokens")
        raise Invalid("bad_reply", "the provider answered with an empty message")
    calls = _checked_calls(found.calls)
    usage = _usage(found, request)
    message: dict[str, Any] = {"role": "assistant", "content": found.text or None}
    if calls:
        message["tool_calls"] = calls
    return ModelReply(message, finish, usage.input_tokens, usage.output_tokens, cost_usd=cost(model, usage), cached_tokens=usage.cached_tokens, model=model)


def timed(reply: ModelReply, duration_s: float) -> ModelReply:
    """The reply, with how long it took."""
    return msgspec.structs.replace(reply, duration_s=round(duration_s, 6))


def _checked_calls(wanted: list[Wanted]) -> list[dict[str, Any]]:
    seen: set[str] = set()
    calls = []
    for call in wanted:
        if not call.name or len(call.name) > MAX_NAME or not call.name.isprintable():
            raise Invalid("bad_reply", "the provider answered with a tool call that names no tool")
        # Some servers give no ids, or the same to all: results could not be told apart.
        call_id = call.id if call.id and call.id not in seen else f"call_{uuid.uuid4().hex[:24]}"
        seen.add(call_id)
        calls.append({"id": call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}})
    return calls


def _usage(found: Found, request: ModelRequest) -> Usage:
    """What was counted; where a server counts nothing, an estimate from the text, so that a budget is not for nothing."""
    given = found.usage
    came = _number(getattr(given, "prompt_tokens", None))
    went = _number(getattr(given, "completion_tokens", None))
    if not came and not went:
        read = sum(len(msgspec.json.encode(part)) for part in (*request.messages, *request.tools))
        made = len(found.text) + sum(len(call.name) + len(call.arguments) for call in found.calls)
        return Usage(-(-read // CHARACTERS_PER_TOKEN), max(1, -(-made // CHARACTERS_PER_TOKEN)))
    details = getattr(given, "prompt_tokens_details", None)
    return Usage(came, went, min(_number(getattr(details, "cached_tokens", None)), came), given)


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return ""


def _arguments(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()
