"""Reads what an agent's models were asked and what they answered, from the journal in its run's state file. In: a run's folder. Out: plain data.

All conversations of all its prompt tasks, in the order in which they were sent. Secrets were taken out before anything was written down; long results of
tools lie in artifacts and are named by their sha256. Writes nothing and sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from toka_cli.paths import RunFolder
from toka_cli.protocol.talk import call_id
from toka_cli.state import schema
from toka_cli.state.journal import Sent

_FIRST_WITH_JOURNAL: Final = 2
"""Before this version of the state file no conversation was kept."""


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a conversation. `calls` are those of an answer: name and arguments as the model wrote them.

    `tool` names the tool whose result it is; a result that is not in the state file lies in `artifact`.
    """

    role: str
    content: str | None = None
    calls: tuple[tuple[str, str], ...] = ()
    tool: str | None = None
    artifact: str | None = None


class Turn(msgspec.Struct, frozen=True):
    """One time that a model was asked. `messages` are what was added to the conversation, `reply` what came back (None: nothing did, `error` says why).

    `tools` are the names of those offered. `shortened` and `dropped`: what the model was no longer shown of the earlier messages (see `journal.Sent`).
    """

    turn: int
    state: str
    model: str | None
    messages: tuple[Said, ...]
    reply: Said | None
    error: str | None
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    tools: tuple[str, ...]
    temperature: float | None
    shortened: tuple[int, ...]
    dropped: int


class Talk(msgspec.Struct, frozen=True):
    """One conversation about a task; `number` counts them from 1, `attempt` is the attempt at the task that it began with."""

    task: str
    number: int
    attempt: int
    turns: tuple[Turn, ...]


_Result = tuple[str, bool | None, str | None, str | None, str | None]


def read_prompts(folder: RunFolder, agent: str) -> list[Talk]:
    """The conversations of one agent (by id), oldest first. Raises StateUnavailable."""
    with schema.reading(folder.database) as connection:
        if schema.check_version(connection, folder.database) < _FIRST_WITH_JOURNAL:
            return []
        asked = connection.execute(
            "SELECT task, attempt, turn, state, model, request, response, error, finish_reason, input_tokens, output_tokens, cost_usd FROM llm_calls "
            "WHERE agent = ? ORDER BY id",
            (agent,),
        ).fetchall()
        done = connection.execute(
            "SELECT call_id, tool, ok, result, artifact, error FROM tool_calls WHERE agent = ? AND call_id IS NOT NULL ORDER BY seq", (agent,)
        ).fetchall()
    # Of a call that was run again after it had been cut off the newest row counts.
    results: dict[str, _Result] = {row[0]: row[1:] for row in done}
    try:
        return list(_talks(asked, results))
    except (ValueError, KeyError, TypeError) as error:
        raise schema.unavailable(folder.database, ValueError(str(error))) from error


def _talks(asked: list[tuple[Any, ...]], results: dict[str, _Result]) -> Iterator[Talk]:
    rows: dict[tuple[str, int], list[tuple[Any, ...]]] = {}
    for row in asked:
        rows.setdefault((row[0], row[1] or 1), []).append(row[2:])
    numbers: dict[str, int] = {}
    for (task, attempt), turns in rows.items():
        numbers[task] = number = numbers.get(task, 0) + 1
        yield Talk(task, number, attempt, tuple(_turns(task, number, turns, results)))


def _turns(task: str, number: int, rows: list[tuple[Any, ...]], results: dict[str, _Result]) -> Iterator[Turn]:
    waiting: list[tuple[str, int, str]] = []
    for turn, state, model, request, response, error, finish_reason, tokens_in, tokens_out, cost in rows:
        sent = msgspec.json.decode(request or "{}", type=Sent)
        answers = [_result(results.get(name), sent.answers.get(index), tool) for name, index, tool in waiting]
        added = [Said(str(message["role"]), _text(message.get("content"))) for message in sent.messages]
        reply = None if response is None else msgspec.json.decode(response, type=dict[str, Any])
        calls = _calls(reply)
        # A turn that brought no answer leaves the calls of the one before answered.
        waiting = [(call_id(task, number, turn, index), index, tool) for index, (tool, _) in enumerate(calls)]
        said = None if reply is None else Said("assistant", _text(reply.get("content")), calls)
        yield Turn(
            turn, state, model, (*answers, *added), said, error, finish_reason, tokens_in, tokens_out, cost, sent.tools, sent.temperature, sent.shortened,
            sent.dropped,
        )  # fmt: skip


def _calls(reply: dict[str, Any] | None) -> tuple[tuple[str, str], ...]:
    functions = [call.get("function") or {} for call in ((reply or {}).get("tool_calls") or ())]
    return tuple((str(function.get("name") or ""), str(function.get("arguments") or "")) for function in functions)


def _result(found: _Result | None, answer: str | None, tool: str) -> Said:
    """The message that answered a call: what the cell said of one that never started, else the tool's result."""
    if answer is not None or found is None:
        return Said("tool", answer, tool=tool)
    _, ok, result, artifact, error = found
    return Said("tool", None if artifact else result or error or ("done" if ok else "failed"), tool=tool, artifact=artifact)


def _text(content: Any) -> str | None:
    """The text of a message. Parts that are no text (a provider's own) are shown as JSON."""
    return content if content is None or isinstance(content, str) else msgspec.json.encode(content).decode()
