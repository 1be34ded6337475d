"""What tasks write: the agent's log (lines of JSON, for `toka agent logs`) and the whole bytes of outputs too long to be shown inline.

In: chunks of bytes in order. Out: lines in the log; a file to keep as an artifact. Writes only below the run's folder.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

import msgspec

from toka_cli.paths import RunFolder

# Outputs up to this many bytes are in the state file already; longer ones become artifacts.
INLINE_BYTES: Final = 64 * 1024
MAX_LINE_CHARS: Final = 8 * 1024


class LogLine(msgspec.Struct, frozen=True):
    """A line of an agent's log: when, which task, which stream (stdout, stderr, toka), and the text."""

    at: datetime
    task: str
    stream: str
    text: str


class AgentLog:
    """The log file of one agent. `on_write` is called after lines were added, for those who follow it."""

    def __init__(self, path: Path, clock: Callable[[], float], on_write: Callable[[], None]) -> None:
        self._file: IO[bytes] = path.open("ab")
        self._clock = clock
        self._on_write = on_write
        self._pending: dict[tuple[str, str], tuple[codecs.IncrementalDecoder, str]] = {}

    def write(self, task: str, stream: str, data: bytes) -> None:
        """Add bytes; whole lines go to the file at once, the rest waits for its end."""
        decoder, rest = self._pending.get((task, stream)) or (codecs.getincrementaldecoder("utf-8")("replace"), "")
        lines = (rest + decoder.decode(data)).split("\n")
        rest = lines.pop()
        if len(rest) > MAX_LINE_CHARS:
            lines.append(rest)
            rest = ""
        self._pending[task, stream] = (decoder, rest)
        self._put(task, stream, lines)

    def say(self, task: str, text: str) -> None:
        """A line of toka itself, about the task."""
        self._put(task, "toka", [text])

    def end_task(self, task: str) -> None:
        """The task wrote its last byte: what waited for a line's end is written."""
        for stream in ("stdout", "stderr"):
            pending = self._pending.pop((task, stream), None)
            if pending is not None:
                rest = pending[1] + pending[0].decode(b"", final=True)
                if rest:
                    self._put(task, stream, [rest])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _put(self, task: str, stream: str, lines: list[str]) -> None:
        if not lines:
            return
        at = datetime.fromtimestamp(self._clock(), UTC)
        self._file.write(b"".join(msgspec.json.encode(LogLine(at, task, stream, line)) + b"\n" for line in lines))
        self._file.flush()
        self._on_write()


class Spool:
    """The whole output of one attempt: in memory while it is short, in a file once it is not."""

    def __init__(self, folder: RunFolder, name: str) -> None:
        self._path = folder.artifacts / f".partial-{name}"
        self._memory = bytearray()
        self._file: IO[bytes] | None = None

    def add(self, data: bytes) -> None:
        """Add bytes."""
        if self._file is None:
            self._memory += data
            if len(self._memory) <= INLINE_BYTES:
                return
            self._file = self._path.open("wb")
            data = bytes(self._memory)
            self._memory.clear()
        self._file.write(data)

    def finish(self) -> Path | None:
        """The file to keep, or None if the output was short."""
        if self._file is None:
            return None
        self._file.close()
        return self._path

    def drop(self) -> None:
        """Keep nothing."""
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)
