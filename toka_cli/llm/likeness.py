"""Compares a request with a recorded one, and two recordings with each other: what has to be the same, what may differ, and how to say what does.

In: exchanges. Out: the first difference, as a short unified diff. Instructions are compared word for word; what tools returned and what stands in fences
is data, and only noted.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from toka_cli.errors import ReplayMiss
from toka_cli.llm import recording as r
from toka_cli.llm.provider import Caller, ModelRequest
from toka_cli.llm.untrusted import unfenced

MAX_DIFF_LINES: Final = 40
MAX_LINE_CHARS: Final = 200
_COMPARED_LINES: Final = 2000
"""Lines of one text that a diff looks at: its cost grows with their square."""

Same = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing that is not the same: what it is, as a clause, and what stands there in the recording and in the request."""

    clause: str
    recorded: str
    asked: str

    def excerpt(self) -> str:
        """A unified diff, at most MAX_DIFF_LINES lines."""
        old, new = _from_first_difference(_lines(self.recorded), _lines(self.asked))
        lines = list(difflib.unified_diff(old, new, "recorded", "asked", lineterm="", n=2))
        shown = lines[:MAX_DIFF_LINES]
        if len(lines) > MAX_DIFF_LINES:
            shown.append(f"[... {len(lines) - MAX_DIFF_LINES} more lines]")
        return "\n".join(shown)


def compare(recorded: r.Recorded, asked: ModelRequest, same: Same) -> Difference | None:
    """The first difference between the instructions of two requests; None when they are the same. `same` compares texts."""
    old = _parts(recorded.model, recorded.tools, recorded.messages)
    new = _parts(asked.model, asked.tools, asked.messages)
    for (where, text), (where_asked, text_asked) in zip(old, new, strict=False):
        if where != where_asked:
            return Difference(f"{where} differs", f"{where}\n{text}", f"{where_asked}\n{text_asked}")
        if not same(text, text_asked):
            return Difference(f"{where} differs", text, text_asked)
    if len(old) != len(new):
        longer, shorter = (old, len(new)) if len(old) > len(new) else (new, len(old))
        where, text = longer[shorter]
        return Difference(f"{where} is missing", text, "") if longer is old else Difference(f"{where} is new", "", text)
    return None


def notes_on_data(recorded: r.Recorded, asked: ModelRequest, same: Same) -> Iterator[tuple[str, str]]:
    """(message, what differs in it) where the data of two requests, whose instructions are the same, is not."""
    for number, (old, new) in enumerate(zip(recorded.messages, asked.messages, strict=True), start=1):
        before, after = _data(old), _data(new)
        if len(before) == len(after) and all(same(*pair) for pair in zip(before, after, strict=True)):
            continue
        kind = f"result of {new.get('tool_call_id')}" if new.get("role") == "tool" else "data in a prompt"
        yield f"message {number}", f"{kind} is not as recorded ({sum(map(len, before)):,} characters then, {sum(map(len, after)):,} now)"


def miss(recording: r.Recording, caller: Caller, asked: ModelRequest, difference: Difference | None) -> ReplayMiss:
    """The error for a request that a recording does not hold, naming who asked and what is nearest."""
    lane = r.lane_of(caller)
    who = f"{lane}, turn {caller.turn}"
    if difference is not None:
        return ReplayMiss(
            f"the recording has another request of {who}: {difference.clause}",
            hint=f"record the run again, or undo the change\n{difference.excerpt()}",
        )
    lanes = recording.lanes()
    if lane in lanes:
        hint = f"the recording ends this conversation after turn {lanes[lane][-1]}"
        nearest = recording.exchanges[lane, lanes[lane][-1]][-1]
        extra = Difference("", _conversation(nearest.messages), _conversation(asked.messages)).excerpt()
        hint = f"{hint}\n{extra}" if extra else hint
    else:
        names = {str(one): one for one in lanes}
        close = difflib.get_close_matches(str(lane), list(names), n=3, cutoff=0.0)
        hint = f"nearest in the recording: {'; '.join(close)}" if close else "the recording holds no exchange at all"
    return ReplayMiss(f"the recording holds no request of {who}", hint=hint)


def diff_recordings(old: r.Recording, new: r.Recording) -> list[str]:
    """What two recordings differ in, a line for each lane: lanes of one of them, and the first exchange of a lane whose request or outcome is not the same."""
    found = []
    lanes, others = old.lanes(), new.lanes()
    for lane in sorted({*lanes, *others}):
        if lane not in others or lane not in lanes:
            found.append(f"{lane}: only in {old.path.name if lane in lanes else new.path.name}")
            continue
        found += [f"{lane}, {text}" for text in _first_difference(old, new, lane, sorted({*lanes[lane], *others[lane]}))]
    return found


def _first_difference(old: r.Recording, new: r.Recording, lane: r.Lane, turns: list[int]) -> list[str]:
    for turn in turns:
        before, after = old.exchanges.get((lane, turn)), new.exchanges.get((lane, turn))
        if before is None or after is None:
            return [f"turn {turn}: only in {(old if after is None else new).path.name}"]
        request = ModelRequest(after[-1].model, after[-1].messages, after[-1].tools)
        difference = compare(before[-1], request, str.__eq__)
        if difference is not None:
            return [f"turn {turn}: {difference.clause}\n{difference.excerpt()}"]
        outcomes = _outcome(before[-1]), _outcome(after[-1])
        if outcomes[0] != outcomes[1]:
            return [f"turn {turn}: what came of it differs\n{Difference('', *outcomes).excerpt()}"]
    return []


def _parts(model: str, tools: tuple[dict[str, Any], ...], messages: tuple[dict[str, Any], ...]) -> list[tuple[str, str]]:
    """What has to be the same, in order: (where, text)."""
    parts = [("the model", model), ("the list of tools", "\n".join(_tool_name(tool) for tool in tools))]
    parts += [(f"tool {_tool_name(tool)}", _json(tool)) for tool in tools]
    return parts + [(f"message {number} ({message.get('role')})", _instructions(message)) for number, message in enumerate(messages, start=1)]


def _instructions(message: dict[str, Any]) -> str:
    if message.get("role") == "tool":
        return f"result of {message.get('tool_call_id')}"
    parts = [unfenced(text)[0] for text in _texts(message.get("content"))]
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        parts.append(f"call {call.get('id')}: {function.get('name')} {function.get('arguments')}")
    return "\n".join(parts)


def _data(message: dict[str, Any]) -> list[str]:
    texts = _texts(message.get("content"))
    if message.get("role") == "tool":
        return texts
    return [inside for text in texts for inside in unfenced(text)[1]]


def _texts(content: Any) -> list[str]:
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if isinstance(content, (list, tuple)):
        return [part["text"] if isinstance(part, dict) and isinstance(part.get("text"), str) else _json(part) for part in content]
    return [_json(content)]


def _conversation(messages: tuple[dict[str, Any], ...]) -> str:
    return "\n".join(f"[{message.get('role')}] {_instructions(message)}" for message in messages)


def _outcome(exchange: r.Recorded) -> str:
    return _instructions(exchange.reply.message) if exchange.reply is not None else f"{exchange.failure.cause if exchange.failure else ''} failure"


def _tool_name(tool: dict[str, Any]) -> str:
    function = tool.get("function")
    return str(function.get("name")) if isinstance(function, dict) else _json(tool)


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=1).decode("utf-8")


def _lines(text: str) -> list[str]:
    """Lines, long ones in pieces: a difference far to the right is shown as well."""
    return [line[at : at + MAX_LINE_CHARS] for line in text.splitlines() for at in range(0, max(len(line), 1), MAX_LINE_CHARS)]


def _from_first_difference(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    start = next((place for place, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), min(len(old), len(new)))
    start = max(0, start - 2)
    return old[start : start + _COMPARED_LINES], new[start : start + _COMPARED_LINES]
