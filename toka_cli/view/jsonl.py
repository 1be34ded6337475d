"""Shows a run as JSON lines: one event per line, as it happens.

Records come in; lines `{"seq", "at", "kind", "run", "agent", "name", "task", ...what the event says}` go to the stream, flushed after each batch.
It adds no line of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from toka_cli.events import AgentInfo, Record
from toka_cli.state.snapshot import RunView
from toka_cli.view.json import encode_json
from toka_cli.view.queued import drain
from toka_cli.view.terminal import is_utf8

_TAKEN: Final = frozenset({"seq", "at", "kind", "run", "agent", "name", "task"})
_RENAMED: Final = {"name": "metric"}
"""A gauge's own name; `name` is the agent's."""


class JsonLinesRenderer:
    """Writes events to a stream. BrokenPipeError goes up to the caller."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._ascii_only = not is_utf8(stream)
        self._names: dict[str, str] = {}

    def start(self, view: RunView) -> None:
        """Learn the names of agents that are already part of the run."""
        self._names = {agent.id: agent.name for agent in view.agents}

    def show(self, records: Sequence[Record], view: RunView) -> None:
        """Write the records."""
        for record in records:
            info = getattr(record.event, "info", None)
            if record.agent and isinstance(info, AgentInfo):
                self._names[record.agent] = info.name
            line = event_line(record, run=view.id, name=self._names.get(record.agent or ""))
            self._stream.write(encode_json(line, ascii_only=self._ascii_only) + "\n")
        self._stream.flush()

    def tick(self, view: RunView, now: float) -> None:
        """Time alone is no event, but a reader that went away is noticed."""
        self._stream.flush()

    def finish(self, view: RunView) -> None:
        """The last event says how the run ended."""
        self._stream.flush()

    def close(self) -> None:
        """The stream belongs to the caller."""

    def drain(self, timeout_s: float | None) -> None:
        """Wait until the reader has taken everything (None: as long as it takes)."""
        drain(self._stream, timeout_s)


def event_line(record: Record, *, run: str, name: str | None) -> dict[str, Any]:
    """Return a record as the object of one line. `at` is RFC 3339; `name` is the agent's name."""
    line: dict[str, Any] = {
        "seq": record.seq,
        "at": datetime.fromtimestamp(record.at, UTC),
        "kind": record.event.kind,
        "run": run,
        "agent": record.agent,
        "name": name,
        "task": record.task,
    }
    for name_of_field in record.event.__struct_fields__:
        value = getattr(record.event, name_of_field)
        key = _RENAMED.get(name_of_field, name_of_field)
        line[f"event_{key}" if key in _TAKEN else key] = value
    return line
