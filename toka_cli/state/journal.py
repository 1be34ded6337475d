"""The journal of a task's conversations with a model, as the state file has it: what was sent, what came back, and how far its tool calls got.

In: an open connection of `schema`. Out: plain data. Decides nothing: whether a conversation goes on, and what a call that was cut off means, is the kernel's.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec


class Sent(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one exchange added to a conversation, as it is kept in `llm_calls.request`.

    `answers` are the results of planned calls that never started, by their place in the reply; `messages` came after all results. `shortened` and `dropped`
    say what the model is no longer shown: the long texts of the messages with these numbers, and everything after the first two messages up to a number.
    """

    answers: dict[int, str] = {}
    messages: tuple[dict[str, Any], ...] = ()
    shortened: tuple[int, ...] = ()
    dropped: int = 0
    tools: tuple[str, ...] = ()
    temperature: float | None = None


class Exchange(msgspec.Struct, frozen=True):
    """One time that a model was asked. `state` is started, replied, failed, stopped or abandoned; `reply` is the message that came back."""

    attempt: int
    turn: int
    state: str
    sent: Sent
    reply: dict[str, Any] | None


class ToolCall(msgspec.Struct, frozen=True):
    """How far a tool call got: `started` or `done`. A long result lies in the artifact of this sha256."""

    tool: str
    effect: str
    state: str
    ok: bool | None
    result: str | None
    artifact: str | None


class Attempt(msgspec.Struct, frozen=True):
    """One attempt at the task: the kind of the event that ended it (None: it has not ended), and why."""

    number: int
    ended_by: str | None
    reason: str | None


class Journal(msgspec.Struct, frozen=True):
    """All that is kept of one task. `exchanges` are those of the last conversation, oldest first; `conversations` says how many there were."""

    attempts: tuple[Attempt, ...]
    conversations: int
    exchanges: tuple[Exchange, ...]
    calls: dict[str, ToolCall]


_decode_sent = msgspec.json.Decoder(Sent).decode
_decode_reply = msgspec.json.Decoder(dict[str, Any]).decode


def read_journal(connection: sqlite3.Connection, agent: str, task: str) -> Journal:
    """What is kept of the conversations of one task. Raises sqlite3.Error, and ValueError for a row that does not hold what was written into it."""
    ask, of = connection.execute, (agent, task)
    attempts = tuple(
        Attempt(*row) for row in ask("SELECT attempt, ended_by, reason FROM attempts WHERE agent = ? AND task = ? ORDER BY attempt", of)
    )
    newest, count = ask("SELECT MAX(attempt), COUNT(DISTINCT attempt) FROM llm_calls WHERE agent = ? AND task = ?", of).fetchone()
    exchanges = tuple(
        Exchange(attempt, turn, state, _decode_sent(request or "{}"), _decode_reply(response) if response is not None else None)
        for attempt, turn, state, request, response in ask(
            "SELECT attempt, turn, state, request, response FROM llm_calls WHERE agent = ? AND task = ? AND attempt IS ? ORDER BY id",
            (*of, newest),
        )
    )
    # A call that was run again after it had been cut off has two rows: the newest says how far it got.
    rows = ask(
        "SELECT call_id, tool, effect, state, ok, result, artifact FROM tool_calls WHERE agent = ? AND task = ? AND call_id IS NOT NULL ORDER BY seq", of
    )
    calls = {
        call_id: ToolCall(tool, effect or "effect", state, None if ok is None else bool(ok), result, artifact)
        for call_id, tool, effect, state, ok, result, artifact in rows
    }
    return Journal(attempts, count, exchanges, calls)
