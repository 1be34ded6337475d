"""One conversation of a task with a model, as the kernel keeps it: its messages, what the newest reply still waits for, and what the model is shown of it.

In: what a cell adds, replies, results of tools; or the journal, from which the same conversation is made again. Out: the messages of the next request, whole
pairs of calls and results always. Talks to nobody and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from toka_cli.errors import ProtocolError
from toka_cli.protocol import talk as t
from toka_cli.state.journal import Journal, Sent, ToolCall

INTERRUPTED: Final = "interrupted: this call was cut off, and may or may not have taken effect. Look at what is there before you do it again."
MAX_BYTES: Final = 8 << 20
"""What one conversation may hold in memory. Models take less than that; a cell that lies could send more."""
MAX_CALLS: Final = 64
"""Calls of one reply that are looked at; a reply with more is cut there, and the model is told by what is missing."""

# The first message says who the agent is, the second what it has to do: they are always shown.
_HEAD: Final = 2
_LONG_CHARS: Final = 400
_DONE: Final = "done"


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A call that a reply asks for: its place in it, the provider's name for it, the tool and the arguments as the model wrote them."""

    index: int
    name: str
    tool: str
    arguments: str


@dataclass(slots=True)
class Conversation:
    """`attempt` counts the conversations about this task from 1, `began` is the attempt of the log that it began with. `turn` is how many replies came.

    `results` are those of the newest reply's calls, by place; `doubtful` the places of calls whose effect the tool itself can look for.
    """

    task: str
    attempt: int
    began: int
    failed: str | None = None
    turn: int = 0
    messages: list[dict[str, Any] | None] = field(default_factory=list)
    shortened: set[int] = field(default_factory=set)
    dropped: int = 0
    calls: tuple[PlannedCall, ...] = ()
    results: dict[int, str] = field(default_factory=dict)
    doubtful: set[int] = field(default_factory=set)
    _sizes: list[int] = field(default_factory=list)
    _replied: bool = False

    # --- growing ---

    def send(self, sent: Sent) -> None:
        """Take in what comes before the next request. Raises ProtocolError, with nothing changed, for what would break the conversation."""
        added = [*self._paired(sent.answers), *sent.messages]
        self._check(sent, added)
        for message in added:
            self._append(message)
        self.calls, self.results, self._replied = (), {}, False
        self.doubtful.clear()
        for index in sent.shortened:
            self._shorten(index)
        self._drop(sent.dropped)

    def reply(self, message: dict[str, Any]) -> None:
        """Take in an answer of the model, as `normalised` gives it."""
        self._append(message)
        self.turn += 1
        self._replied = True
        self.calls = tuple(_planned(message))
        self.results = {}

    def result(self, index: int, text: str) -> None:
        """Take in what a planned call came to."""
        self.results[index] = text
        self.doubtful.discard(index)

    # --- asking ---

    def open_calls(self) -> tuple[PlannedCall, ...]:
        """Calls of the newest reply without a result, in order."""
        return tuple(call for call in self.calls if call.index not in self.results)

    def planned(self, call_id: str) -> PlannedCall | None:
        """The open call of this name, None when there is none."""
        return next((call for call in self.open_calls() if self.call_id(call) == call_id), None)

    def call_id(self, call: PlannedCall) -> str:
        """The name under which a planned call is made."""
        return t.call_id(self.task, self.attempt, self.turn, call.index)

    def finish(self) -> dict[str, Any] | None:
        """The arguments of the first readable `finish` in the newest reply, None when there is none."""
        for call in self.calls:
            if call.tool == t.FINISH and (arguments := parsed(call.arguments)) is not None:
                return arguments
        return None

    def request(self) -> tuple[dict[str, Any], ...]:
        """The messages for the model."""
        shown = [message for message in self.messages if message is not None]
        if self.dropped > _HEAD:
            words = f"[toka] {self.dropped - _HEAD} earlier messages of this conversation were left out to save room."
            shown.insert(_HEAD, {"role": "user", "content": words})
        return tuple(shown)

    def page(self, after: int, limit_bytes: int) -> tuple[dict[str, Any], ...]:
        """Messages from number `after` on, as many as fit; dropped ones are empty."""
        found: list[dict[str, Any]] = []
        for message, size in zip(self.messages[after:], self._sizes[after:], strict=True):
            if found and size > limit_bytes:
                break
            limit_bytes -= size
            found.append(message or {})
        return tuple(found)

    # --- small parts ---

    def _paired(self, answers: dict[int, str]) -> list[dict[str, Any]]:
        """The tool messages for the newest reply: every call gets its result, and none gets two."""
        if not self._replied and answers:
            raise ProtocolError("answers to calls that no reply asked for")
        open_places = {call.index for call in self.open_calls()}
        if set(answers) != open_places:
            raise ProtocolError(f"calls without a result {sorted(open_places)}, answered are {sorted(answers)[:MAX_CALLS]}")
        texts = {**self.results, **answers}
        return [{"role": "tool", "tool_call_id": call.name, "content": texts[call.index]} for call in self.calls]

    def _check(self, sent: Sent, added: list[dict[str, Any]]) -> None:
        for place, message in enumerate(sent.messages):
            allowed = "system" if not self.messages and place == 0 else "user"
            if set(message) != {"role", "content"} or message["role"] != allowed or not isinstance(message["content"], str):
                raise ProtocolError(f"a cell adds texts of the role {allowed}, nothing else")
        if not self.messages and len(sent.messages) < _HEAD:
            raise ProtocolError("a conversation begins with what the agent is and what it has to do")
        if any(not _HEAD <= index < len(self.messages) + len(added) for index in sent.shortened):
            raise ProtocolError("a message that does not exist cannot be shortened")
        if not 0 <= sent.dropped <= len(self.messages):
            raise ProtocolError("only what was said before can be left out")
        first = next(iter([*self.messages[sent.dropped :], *added]), None)
        if sent.dropped > _HEAD and first is not None and first["role"] == "tool":
            raise ProtocolError("a result cannot be shown without its call")
        if sum(self._sizes) + sum(len(message["content"]) for message in added) > MAX_BYTES:
            raise ProtocolError(f"a conversation of more than {MAX_BYTES} bytes")

    def _append(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self._sizes.append(len(msgspec.json.encode(message)))

    def _shorten(self, index: int) -> None:
        message = self.messages[index]
        if message is None or index in self.shortened:
            return
        self.shortened.add(index)
        self.messages[index] = short = shortened(message)
        self._sizes[index] = len(msgspec.json.encode(short))

    def _drop(self, until: int) -> None:
        for index in range(max(self.dropped, _HEAD), until):
            self.messages[index] = None
            self._sizes[index] = 0
        self.dropped = max(self.dropped, until)


def again(journal: Journal, task: str, present: int, read: Callable[[str], str]) -> Conversation:
    """The conversation that attempt number `present` has: the last one where it was left, or a new one. `read` gives the text of an artifact.

    A conversation goes on when its attempt was cut off, or ended because no model could be reached; after any other end another way is tried.
    """
    exchanges = journal.exchanges
    if not exchanges or not _goes_on(journal, exchanges[0].attempt, present):
        failed = next((one.reason for one in reversed(journal.attempts) if one.number < present and one.ended_by == "task.retrying"), None)
        return Conversation(task, journal.conversations + 1, present, failed)
    began = exchanges[0].attempt
    failed = next((one.reason for one in reversed(journal.attempts) if one.number < began and one.ended_by == "task.retrying"), None)
    conversation = Conversation(task, journal.conversations, began, failed)
    for exchange in exchanges:
        conversation.send(exchange.sent)
        if exchange.reply is not None:
            conversation.reply(exchange.reply)
            for call in conversation.calls:
                kept = journal.calls.get(conversation.call_id(call))
                if kept is not None and kept.state == _DONE:
                    conversation.result(call.index, _text(kept, read))
    return conversation


def cut_off(conversation: Conversation, journal: Journal) -> Iterator[tuple[PlannedCall, ToolCall]]:
    """Open calls that had been started: they may or may not have taken effect."""
    for call in conversation.open_calls():
        kept = journal.calls.get(conversation.call_id(call))
        if kept is not None and kept.state != _DONE:
            yield call, kept


def parsed(arguments: str) -> dict[str, Any] | None:
    """Arguments as the model wrote them, None for anything but a JSON object. No text at all stands for no arguments."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def shortened(message: dict[str, Any]) -> dict[str, Any]:
    """A message without its long texts: the result of a tool, or the long arguments of calls."""
    if message["role"] == "tool":
        size = len(message["content"])
        words = f"{size} characters of this result were left out to save room. Call the tool again if you need it."
        return {**message, "content": words} if size > len(words) else message
    calls = message.get("tool_calls")
    if message["role"] != "assistant" or not calls:
        return message
    return {**message, "tool_calls": [{**call, "function": {**call["function"], "arguments": _short(call)}} for call in calls]}


def _short(call: dict[str, Any]) -> str:
    text = str(call["function"].get("arguments") or "")
    arguments = parsed(text)
    if arguments is None or len(text) <= _LONG_CHARS:
        return text
    cut = {
        name: f"{value[:100]} [{len(value) - 100} characters left out]" if isinstance(value, str) and len(value) > _LONG_CHARS else value
        for name, value in arguments.items()
    }
    return msgspec.json.encode(cut).decode()


def normalised(message: dict[str, Any]) -> dict[str, Any]:
    """A reply as it is kept: an assistant message whose calls are bounded in number and have names of their own, so that each result finds its call."""
    kept = {**message, "role": "assistant", "content": message.get("content")}
    calls: list[dict[str, Any]] = []
    names: set[str] = set()
    for index, call in enumerate((message.get("tool_calls") or ())[:MAX_CALLS]):
        function = call.get("function") or {}
        name = str(call.get("id") or f"call_{index}")
        name = name if name not in names else f"{name}_{index}"
        names.add(name)
        written = {"name": str(function.get("name") or ""), "arguments": str(function.get("arguments") or "")}
        calls.append({**call, "id": name, "type": "function", "function": {**function, **written}})
    kept.pop("tool_calls", None)
    return {**kept, "tool_calls": calls} if calls else kept


def _planned(message: dict[str, Any]) -> Iterator[PlannedCall]:
    for index, call in enumerate(message.get("tool_calls") or ()):
        yield PlannedCall(index, call["id"], call["function"]["name"], call["function"]["arguments"])


def _goes_on(journal: Journal, began: int, present: int) -> bool:
    ends = [one for one in journal.attempts if began <= one.number < present]
    return all(one.ended_by == "task.requeued" or (one.ended_by == "task.retrying" and unreached(one.reason)) for one in ends)


def unreached(reason: str | None) -> bool:
    """True for the reason of an attempt that ended because no model could be reached: nothing was wrong with what had been done."""
    return (reason or "").startswith("provider_")


def _text(call: ToolCall, read: Callable[[str], str]) -> str:
    if call.artifact is not None:
        return read(call.artifact)
    return call.result or ("done" if call.ok else "failed")
