"""What tasks write: the agent's log (lines of JSON, for `toka agent logs`) and the whole bytes of outputs too long to be shown inline.

In: chunks of bytes in order. Out: lines in the log; a file to keep as an artifact; the last words of an attempt that was cut off. Writes only below the
run's folder, and no known secret. A full disk is no error here: lines wait in memory, within bounds, and what could not be kept is counted and said.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

import msgspec

from toka_cli.events import Outcome
from toka_cli.llm.redact import Redactor
from toka_cli.paths import RunFolder

# Outputs up to this many bytes are in the state file already; longer ones become artifacts.
INLINE_BYTES: Final = 64 * 1024
MAX_LINE_CHARS: Final = 8 * 1024
# Of an attempt that was cut off, so much of the end of each stream is shown.
TAIL_BYTES: Final = 16 * 1024
# Lines that wait for room on the disk, per agent.
MAX_WAITING_BYTES: Final = 1 << 20


class LogLine(msgspec.Struct, frozen=True):
    """A line of an agent's log: when, which task, which stream (stdout, stderr, toka), and the text."""

    at: datetime
    task: str
    stream: str
    text: str


class AgentLog:
    """The log file of one agent. `on_write` is called after lines were added, for those who follow it. `secrets` do not stand in anything that is written.

    `stalled` says why nothing can be written now (None: all is well); `retry` tries again, and so does every further line.
    """

    def __init__(self, path: Path, clock: Callable[[], float], on_write: Callable[[], None], secrets: Redactor | None = None) -> None:
        self.secrets = secrets or Redactor()
        # Unbuffered: what a full disk did not take is known, and nothing is written twice.
        self._file: IO[bytes] = path.open("ab", buffering=0)
        self._clock = clock
        self._on_write = on_write
        self._pending: dict[tuple[str, str], tuple[codecs.IncrementalDecoder, str]] = {}
        self._waiting = bytearray()
        self._lost: tuple[str, int] | None = None
        self.stalled: str | None = None

    def begin(self, task: str, spool: Spool | None = None) -> TaskOutput:
        """An attempt at a task begins to write; what it writes is kept in `spool` as well."""
        return TaskOutput(self, task, spool)

    def write(self, task: str, stream: str, data: bytes) -> None:
        """Add bytes that hold no secret; whole lines go to the file at once, the rest waits for its end."""
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
        self._put(task, "toka", [self.secrets.text(text)])

    def end_task(self, task: str) -> None:
        """The task wrote its last byte: what waited for a line's end is written."""
        for stream in ("stdout", "stderr"):
            pending = self._pending.pop((task, stream), None)
            if pending is not None:
                rest = pending[1] + pending[0].decode(b"", final=True)
                if rest:
                    self._put(task, stream, [rest])

    def retry(self) -> bool:
        """Write what waits for room; True if nothing waits any more."""
        if self.stalled is not None:
            self._drain()
        return self.stalled is None

    def close(self) -> None:
        """Close the file. What still finds no room is lost."""
        self.retry()
        with suppress(OSError):
            self._file.close()

    def _put(self, task: str, stream: str, lines: list[str]) -> None:
        if not lines:
            return
        at = datetime.fromtimestamp(self._clock(), UTC)
        for line in lines:
            encoded = msgspec.json.encode(LogLine(at, task, stream, line)) + b"\n"
            if self._lost is not None or (self.stalled is not None and len(self._waiting) + len(encoded) > MAX_WAITING_BYTES):
                # From the first line on that is left out, so that the gap is in one place.
                self._lost = (task, (self._lost[1] if self._lost is not None else 0) + 1)
            else:
                self._waiting += encoded
        self._drain()

    def _drain(self) -> None:
        try:
            while self._waiting:
                written = self._file.write(self._waiting)
                del self._waiting[:written]
        except OSError as error:
            self.stalled = error.strerror or type(error).__name__
            return
        self.stalled = None
        if self._lost is not None:
            (task, count), self._lost = self._lost, None
            self._put(task, "toka", [f"{count} lines are missing here: there was no room on the disk"])
        self._on_write()


class TaskOutput:
    """What one attempt writes, on its way to the log and the spool: without secrets, also those that lie across the borders of what comes at a time."""

    def __init__(self, log: AgentLog, task: str, spool: Spool | None) -> None:
        self._log = log
        self._task = task
        self._spool = spool
        self._streams = {stream: log.secrets.stream() for stream in ("stdout", "stderr")} if log.secrets.count else {}

    def add(self, stream: str, data: bytes) -> None:
        """Add bytes of a stream, `stdout` or `stderr`."""
        self._take(stream, self._streams[stream].feed_data(data) if self._streams else data)

    def end(self) -> None:
        """The attempt wrote its last byte."""
        for stream, kept in self._streams.items():
            self._take(stream, kept.flush_data())
        self._streams = {}
        self._log.end_task(self._task)

    def clean(self, outcome: Outcome) -> Outcome:
        """What its cell says of it."""
        secrets = self._log.secrets
        return msgspec.structs.replace(
            outcome,
            output=secrets.text(outcome.output),
            stderr=secrets.text(outcome.stderr),
            value=secrets.value(outcome.value),
            evidence=secrets.value(outcome.evidence),
        )

    def cut_off(self) -> Outcome:
        """The outcome of an attempt that never said how it ended: what it had written."""
        return self._spool.cut_off() if self._spool is not None else Outcome()

    def finish(self) -> tuple[Path | None, str | None]:
        """The file to keep, None if the output was short; and why it is not whole, None if it is."""
        return (self._spool.finish(), self._spool.broken) if self._spool is not None else (None, None)

    def _take(self, stream: str, data: bytes) -> None:
        if not data:
            return
        if self._spool is not None:
            self._spool.add(stream, data)
        self._log.write(self._task, stream, data)


class Spool:
    """The whole output of one attempt: in memory while it is short, in a file once it is not; and the end of each stream, always in memory.

    `broken` says why the file is not whole, None while it is.
    """

    def __init__(self, folder: RunFolder, name: str) -> None:
        self._path = folder.artifacts / f".partial-{name}"
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._tails = {"stdout": bytearray(), "stderr": bytearray()}
        self._total = 0
        self.broken: str | None = None

    def add(self, stream: str, data: bytes) -> None:
        """Add bytes of a stream, `stdout` or `stderr`."""
        self._total += len(data)
        tail = self._tails[stream]
        tail += data
        if len(tail) > 2 * TAIL_BYTES:
            del tail[:-TAIL_BYTES]
        if self.broken is not None:
            return
        try:
            self._keep(data)
        except OSError as error:
            self.broken = error.strerror or type(error).__name__

    def _keep(self, data: bytes) -> None:
        if self._file is None:
            self._memory += data
            if len(self._memory) <= INLINE_BYTES:
                return
            self._file = self._path.open("wb", buffering=0)
            data = bytes(self._memory)
            self._memory.clear()
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) or 0 :]

    def finish(self) -> Path | None:
        """The file to keep, or None if the output was short."""
        if self._file is None:
            return None
        self._file.close()
        return self._path

    def cut_off(self) -> Outcome:
        """The outcome of an attempt that never said how it ended: what it had written, the end of each stream."""
        out, err = (bytes(tail[-TAIL_BYTES:]) for tail in self._tails.values())
        return Outcome(
            output=out.decode("utf-8", "replace"),
            stderr=err.decode("utf-8", "replace"),
            output_bytes=self._total,
            truncated=self._total > len(out) + len(err),
        )

    def drop(self) -> None:
        """Keep nothing."""
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)
