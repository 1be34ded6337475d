"""What a request and a reply look like when they cross the border: without secrets and control characters, bounded, results of tools fenced.

In: requests of conversations, replies and errors of providers. Out: the same, clean. The arguments of tool calls are masked and otherwise left as they are:
text that does not parse is the model's to mend, and must not turn into another command here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from toka_cli.llm.provider import ModelReply, ModelRequest, ProviderError
from toka_cli.llm.redact import Redactor
from toka_cli.llm.untrusted import cap, changed_within, fence

MAX_TEXT_CHARS: Final = 400_000
"""The longest text of one message, about 100,000 tokens: a bound for the provider side, far above what tools return."""
MAX_ERROR_CHARS: Final = 2000
_MEMO_BYTES: Final = 2 * 1024 * 1024


class Cleaner:
    """Cleans both ways. `spill` keeps a text that is cut and says where, in words; None: the cut is only told."""

    def __init__(self, secrets: Redactor, *, fence_results: bool, spill: Callable[[str], str] | None = None) -> None:
        self._secrets = secrets
        self._fence_results = fence_results
        self._spill = spill
        self._memo: dict[bytes, list[Any]] = {}
        self._memo_bytes = 0

    def request(self, request: ModelRequest) -> ModelRequest:
        """A request that may leave the kernel."""
        names = _tool_names(request.messages) if self._fence_results else {}
        messages = tuple(self._outgoing(message, names) for message in request.messages)
        return msgspec.structs.replace(request, messages=messages, tools=tuple(self._masked(request.tools)))

    def reply(self, reply: ModelReply) -> ModelReply:
        """A reply that may be shown, kept and acted upon."""
        model = self._secrets.clean(reply.model)[:200] if reply.model is not None else None
        return msgspec.structs.replace(reply, message=self._message(reply.message), finish_reason=self._secrets.clean(reply.finish_reason)[:100], model=model)

    def error(self, error: ProviderError) -> ProviderError:
        """An error whose words may be shown."""
        message = cap(self._secrets.clean(error.message), MAX_ERROR_CHARS)
        hint = cap(self._secrets.clean(error.hint), MAX_ERROR_CHARS) if error.hint is not None else None
        if (message, hint) == (error.message, error.hint):
            return error
        return ProviderError(error.cause, message, hint=hint, retry_after_s=error.retry_after_s)

    def _outgoing(self, message: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
        clean = self._message(message)
        if self._fence_results and message.get("role") == "tool" and isinstance(clean.get("content"), str):
            clean["content"] = fence(clean["content"], f"tool {names.get(str(message.get('tool_call_id')), '')}".strip())
        return clean

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        clean = {name: self._value(part) for name, part in message.items() if name != "tool_calls"}
        if message.get("tool_calls"):
            clean["tool_calls"] = self._masked(message["tool_calls"])
        return clean

    def _masked(self, values: Sequence[Any]) -> list[Any]:
        """JSON data without secrets. Every request repeats the tools and the calls of those before it, so that they are kept for a while."""
        key = msgspec.json.encode((self._secrets.version, values))
        known = self._memo.get(key)
        if known is None:
            known = [self._secrets.value(value) for value in values]
            self._memo[key] = known
            self._memo_bytes += len(key)
            while self._memo_bytes > _MEMO_BYTES:
                oldest = next(iter(self._memo))
                del self._memo[oldest]
                self._memo_bytes -= len(oldest)
        return known

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            clean = self._secrets.clean(value)
            if clean != value and " source=" in value:
                # Fences of the prompt stay genuine although something in them was masked.
                clean = changed_within(value, self._secrets.clean)
            return self._bounded(clean)
        if isinstance(value, dict):
            return {name: self._value(part) for name, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._value(part) for part in value]
        return value

    def _bounded(self, text: str) -> str:
        if len(text) <= MAX_TEXT_CHARS:
            return text
        return cap(text, MAX_TEXT_CHARS, whole=self._spill(text) if self._spill is not None else None)


def prefix_of(request: ModelRequest) -> str:
    """A digest of how a prompt begins: model, tools and the messages before the first that is not of the system."""
    system = []
    for message in request.messages:
        if message.get("role") != "system":
            break
        system.append(message)
    return hashlib.sha256(msgspec.json.encode((request.model, request.tools, system))).hexdigest()


def _tool_names(messages: tuple[dict[str, Any], ...]) -> dict[str, str]:
    """The tool's name by the id of the call."""
    return {
        str(call.get("id")): str((call.get("function") or {}).get("name"))
        for message in messages
        for call in message.get("tool_calls") or ()
    }  # fmt: skip
