"""Turns events and views into rows, and rows into views: which column holds what.

In: Records, views, and an open connection of `schema`. Out: SQL statements with their values, or a RunView. Begins and ends no transaction.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import msgspec

from toka_cli import events as e
from toka_cli.errors import Bug
from toka_cli.state.fold import Fold
from toka_cli.state.snapshot import AgentView, RunView, TaskView

Statement = tuple[str, tuple[Any, ...]]

EVENT: Final = "INSERT INTO events (seq, at, kind, agent, task, event) VALUES (?, ?, ?, ?, ?, ?)"
AUDIT: Final = "INSERT INTO audit (seq, at, action, decision, subject, context, prev_hash, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
ARTIFACT: Final = "INSERT INTO artifacts (at, sha256, name, size_bytes, agent, task) VALUES (?, ?, ?, ?, ?, ?)"
SAMPLE: Final = "INSERT OR REPLACE INTO samples (agent, slot, n, at, memory_bytes, cpu_time_s) VALUES (?, ?, ?, ?, ?, ?)"

_AGENT_COLUMNS: Final = (
    "id", "position", "name", "workstream", "state", "reason", "pid", "progress", "tasks_done", "tasks_total", "attempts", "restarts", "started_at",
    "ended_at", "memory_bytes", "peak_memory_bytes", "cpu_time_s", "view",
)  # fmt: skip
_TASK_COLUMNS: Final = (
    "agent", "id", "position", "kind", "state", "reason", "attempts", "started_at", "ended_at", "duration_s", "exit_code", "artifact", "view",
)  # fmt: skip


def _upsert(table: str, key: tuple[str, ...], columns: tuple[str, ...]) -> str:
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"  # noqa: S608  constants


AGENT: Final = _upsert("agents", ("id",), _AGENT_COLUMNS)
TASK: Final = _upsert("tasks", ("agent", "id"), _TASK_COLUMNS)
RUN: Final = "UPDATE run SET state = ?, reason = ?, exit_code = ?, workdir = ?, started_at = ?, ended_at = ?, view = ?"

_ATTEMPT_END: Final = (
    "UPDATE attempts SET ended_at = ?, ended_by = ?, reason = ?, exit_code = ?, signal = ?, duration_s = ?, cpu_time_s = ?, peak_memory_bytes = ?, "
    "artifact = ? WHERE agent = ? AND task = ? AND attempt = ?"
)
# A task that waited to be tried again had ended its last attempt, and how stays known.
_ATTEMPT_CUT: Final = "UPDATE attempts SET ended_at = ?, ended_by = ? WHERE agent = ? AND task = ? AND attempt = ? AND ended_at IS NULL"
_PROCESS_END: Final = """
    UPDATE processes SET ended_at = ?, exit_code = ?, signal = ?, rung = ?, cpu_time_s = ?, peak_memory_bytes = ? WHERE agent = ? AND attempt = ?
"""
_TOOL_DENIED: Final = """
    INSERT INTO tool_calls (seq, agent, task, tool, state, ok, started_at, ended_at, capability, error)
    VALUES (?, ?, ?, ?, 'denied', 0, ?, ?, ?, ?)
"""
# A call id is the model's choice and may come again after a restart: the newest call that is still open is meant.
_TOOL_END: Final = (
    "UPDATE tool_calls SET state = 'done', ok = ?, ended_at = ?, error = ?, result = ?, artifact = ? "
    "WHERE seq = (SELECT MAX(seq) FROM tool_calls WHERE agent = ? AND call_id = ? AND state = 'started')"
)
_LLM_START: Final = """
    INSERT INTO llm_calls (id, agent, task, attempt, turn, state, model, started_at, request) VALUES (?, ?, ?, ?, ?, 'started', ?, ?, ?)
"""
# One conversation of a task has one call under way at a time.
_LLM_OPEN: Final = "WHERE id = (SELECT MAX(id) FROM llm_calls WHERE agent = ? AND task = ? AND turn = ? AND state = 'started')"
_LLM_REPLY: Final = (
    "UPDATE llm_calls SET state = 'replied', model = ?, ended_at = ?, finish_reason = ?, input_tokens = ?, output_tokens = ?, cached_tokens = ?, "  # noqa: S608  constants
    "cost_usd = ?, duration_s = ?, waited_s = ?, response = ? " + _LLM_OPEN
)
_LLM_FAILURE: Final = f"UPDATE llm_calls SET state = ?, ended_at = ?, error = ? {_LLM_OPEN}"  # noqa: S608  constants


def text(value: Any) -> str:
    """A value as JSON text."""
    return msgspec.json.encode(value).decode()


def agent_row(fold: Fold, agent: AgentView) -> tuple[Any, ...]:
    """The row of an agent. Its view goes without tasks: they have rows of their own, so that one task's news does not rewrite the others' output."""
    bare = msgspec.structs.replace(agent, tasks=[])
    return (
        agent.id, fold.agent_positions[agent.id], agent.name, agent.workstream, agent.state.value, agent.reason, _column(agent.pid), agent.progress,
        agent.tasks_done, agent.tasks_total, agent.attempts, agent.restarts, _seconds(agent.started_at), _seconds(agent.ended_at),
        _column(agent.memory_bytes), _column(agent.peak_memory_bytes), agent.cpu_time_s, text(bare),
    )  # fmt: skip


def task_row(fold: Fold, key: tuple[str, str], task: TaskView) -> tuple[Any, ...]:
    """The row of a task."""
    return (
        key[0], task.id, fold.task_positions[key], task.kind, task.state.value, task.reason, task.attempts, _seconds(task.started_at),
        _seconds(task.ended_at), task.duration_s, _column(task.exit_code), task.artifact, text(task),
    )  # fmt: skip


def run_row(view: RunView) -> tuple[Any, ...]:
    """The changing part of the run's row. Its view goes without agents."""
    bare = msgspec.structs.replace(view, agents=[])
    return (
        view.state.value,
        view.reason,
        _column(view.exit_code),
        view.workdir,
        _seconds(view.started_at),
        _seconds(view.ended_at),
        text(bare),
    )


def derived(fold: Fold, record: e.Record, body: str | None = None) -> Iterator[Statement]:
    """What an event adds to the tables that people query, beside the event itself. Call after the event was folded.

    `body` is what the event is about in full, where that is too long for an event: messages as JSON, or the result of a tool.
    """
    event, at, agent, task = record.event, record.at, record.agent, record.task
    match event:
        case e.AgentCreated():
            for required, names in ((1, event.info.depends_on), (0, event.info.after)):
                for name in names:
                    yield "INSERT OR IGNORE INTO deps (agent, on_name, required) VALUES (?, ?, ?)", (agent, name, required)
        case e.AgentStarting() | e.AgentStarted() | e.AgentExited():
            yield _process(event, at, str(agent), fold.agents[str(agent)].attempts)
        case e.TaskStarted():
            yield "INSERT INTO attempts (agent, task, attempt, started_at) VALUES (?, ?, ?, ?)", (agent, task, _attempt(fold, record), at)
        case e.TaskRetrying() | e.TaskSucceeded() | e.TaskFailed() | e.TaskStopped():
            reason, it = getattr(event, "reason", None), event.outcome
            ended = (_column(it.exit_code), _column(it.signal), it.duration_s, it.cpu_time_s, _column(it.peak_memory_bytes), it.artifact)
            yield _ATTEMPT_END, (at, event.kind, reason, *ended, agent, task, _attempt(fold, record))
        case e.TaskRequeued():
            yield _ATTEMPT_CUT, (at, event.kind, agent, task, _attempt(fold, record))
        case e.ToolCalled():
            yield (
                "INSERT INTO tool_calls (seq, agent, task, call_id, tool, effect, state, started_at, arguments) VALUES (?, ?, ?, ?, ?, ?, 'started', ?, ?)",
                (record.seq, agent, task, event.call_id, event.tool, event.effect, at, text(event.arguments)),
            )
        case e.ToolDone():
            yield _TOOL_END, (event.ok, at, event.error, body, event.artifact, agent, event.call_id)
        case e.ToolDenied():
            yield _TOOL_DENIED, (record.seq, agent, task, event.tool, at, at, event.capability, event.message)
        case e.LlmStarted() | e.LlmReplied() | e.LlmFailed():
            yield _model(event, record, body)
        case e.CommandReceived():
            yield (
                "INSERT INTO commands (seq, at, command, by, target, arguments) VALUES (?, ?, ?, ?, ?, ?)",
                (record.seq, at, event.command, event.by, event.target, text(event.arguments)),
            )
        case _:
            pass


def _model(event: e.LlmStarted | e.LlmReplied | e.LlmFailed, record: e.Record, body: str | None) -> Statement:
    of = (record.agent, record.task, event.turn)
    match event:
        case e.LlmStarted():
            return _LLM_START, (record.seq, record.agent, record.task, event.attempt, event.turn, event.model, record.at, body)
        case e.LlmReplied():
            tokens = (_column(event.input_tokens), _column(event.output_tokens), _column(event.cached_tokens))
            paid = (event.cost_usd, event.duration_s, event.waited_s)
            return _LLM_REPLY, (event.model, record.at, event.finish_reason, *tokens, *paid, body, *of)
        case e.LlmFailed():
            state = event.cause if event.cause in {"stopped", "abandoned"} else "failed"
            return _LLM_FAILURE, (state, record.at, f"{event.cause}: {event.message}", *of)


def _process(event: e.AgentStarting | e.AgentStarted | e.AgentExited, at: float, agent: str, attempt: int) -> Statement:
    match event:
        case e.AgentStarting():
            return "INSERT INTO processes (agent, attempt, started_at) VALUES (?, ?, ?)", (agent, attempt, at)
        case e.AgentStarted():
            return "UPDATE processes SET pid = ? WHERE agent = ? AND attempt = ?", (_column(event.pid), agent, attempt)
        case e.AgentExited():
            usage = (event.cpu_time_s, _column(event.peak_memory_bytes))
            return _PROCESS_END, (at, _column(event.exit_code), _column(event.signal), event.rung, *usage, agent, attempt)


def _attempt(fold: Fold, record: e.Record) -> int:
    return fold.tasks[str(record.agent), str(record.task)].attempts


def _column(number: int | None) -> int | None:
    """A number that fits a column of 64 bits: what an agent reports must not be able to stop the log."""
    return None if number is None else max(-(2**63), min(number, 2**63 - 1))


def _seconds(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


# --- from rows to views --------------------------------------------------------------------------------------------------------------


@functools.cache
def record_decoder() -> msgspec.json.Decoder[e.AnyEvent]:
    """Made once and only when events are read: listing agents does without."""
    return msgspec.json.Decoder(e.AnyEvent)


def encode(event: e.AnyEvent) -> tuple[e.AnyEvent, str]:
    """An event as it can be stored, and its JSON text. Bytes that are not UTF-8 (a file name may hold them) become escapes.

    Raises Bug when the event does not hold what its type says: what is written here must be readable for ever.
    """
    try:
        try:
            encoded = msgspec.json.encode(event)
        except UnicodeEncodeError:
            event = msgspec.convert(_cleaned(msgspec.to_builtins(event)), e.AnyEvent)
            encoded = msgspec.json.encode(event)
        record_decoder().decode(encoded)
    except (TypeError, ValueError, OverflowError) as error:
        raise Bug(f"the event {event.kind} cannot be stored: {error}") from error
    return event, encoded.decode()


def clean(text: str) -> str:
    """The text with bytes that are not UTF-8 (a file name may hold them) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _cleaned(value: Any) -> Any:
    match value:
        case str():
            return clean(value)
        case dict():
            return {_cleaned(key): _cleaned(item) for key, item in value.items()}
        case list() | tuple():
            return [_cleaned(item) for item in value]
        case _:
            return value


def read_view(connection: sqlite3.Connection, *, tasks: bool = True) -> RunView:
    """The stored view of a run; its agents come without tasks when they are not asked for. Raises sqlite3.Error, msgspec.ValidationError."""
    (stored,) = connection.execute("SELECT view FROM run").fetchone()
    view = msgspec.json.decode(stored, type=RunView)
    decode_agent, decode_task = msgspec.json.Decoder(AgentView).decode, msgspec.json.Decoder(TaskView).decode
    view.agents = [decode_agent(row[0]) for row in connection.execute("SELECT view FROM agents ORDER BY position")]
    if tasks:
        by_id = {agent.id: agent.tasks for agent in view.agents}
        for agent_id, task in connection.execute("SELECT agent, view FROM tasks ORDER BY agent, position"):
            by_id[agent_id].append(decode_task(task))
    (view.last_seq,) = connection.execute("SELECT COALESCE(MAX(seq), 0) FROM events").fetchone()
    head = connection.execute("SELECT hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    view.audit_head = head[0] if head else None
    return view


def read_records(connection: sqlite3.Connection, after: int = 0, limit: int = -1) -> Iterator[e.Record]:
    """Events above `after` in order, at most `limit` if it is not negative. Raises sqlite3.Error, msgspec.ValidationError."""
    decode = record_decoder().decode
    rows = connection.execute("SELECT seq, at, agent, task, event FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
    for seq, at, agent, task, event in rows:
        yield e.Record(seq, at, decode(event), agent, task)
