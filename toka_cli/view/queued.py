"""A stream that never makes its writer wait for its reader.

Text comes in and is put in a queue; a thread writes it to the file descriptor. The owner of a run answers calls and commands on one thread: a terminal that
was held with Ctrl-S, or a pager that reads on tomorrow, must not hold the run too. What went wrong while writing is raised at the next `write` or `flush`.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import threading
from typing import Final, TextIO, cast

LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Text that may wait for a reader (a guess: two hundred thousand events). Beyond it the writer does wait, so that its memory has a bound."""

_PIECE: Final = 64 * 1024


class QueuedStream(io.TextIOBase):
    """Text for a file descriptor, in order, by a thread that begins with the first text. `backlog` is what is not written yet, in bytes."""

    def __init__(self, number: int, *, encoding: str = "utf-8", errors: str = "strict", limit: int = LIMIT_BYTES) -> None:
        super().__init__()
        self.backlog = 0
        self._number = number
        self._encoding = encoding
        self._errors = errors
        self._limit = limit
        self._queue: list[bytes] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As that of the stream behind it."""
        return self._encoding

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The descriptor that is written to."""
        return self._number

    def isatty(self) -> bool:
        """True if a terminal reads."""
        return os.isatty(self._number)

    def write(self, text: str) -> int:
        """Queue text. Raises the OSError that ended the writing."""
        data = text.encode(self._encoding, self._errors)
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self.backlog < self._limit)
            self._raise()
            self._queue.append(data)
            self.backlog += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._pump, name="output", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Wait for nothing: all text is on its way. Raises the OSError that ended the writing."""
        self._raise()

    def drain(self, timeout_s: float | None = None) -> bool:
        """Wait until all is written (None: as long as it takes); False if it is not. Raises the OSError that ended the writing."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._error is not None or not self.backlog, timeout_s)
            self._raise()
        return done

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _pump(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                data, self._queue = b"".join(self._queue), []
            try:
                self._put(memoryview(data))
            except OSError as error:
                with self._changed:
                    self._error, self._queue, self.backlog = error, [], 0
                    self._changed.notify_all()
                return

    def _put(self, data: memoryview) -> None:
        while data:
            try:
                written = os.write(self._number, data[:_PIECE])
            except BlockingIOError:
                # Whoever shares the terminal or pipe with us has made it non-blocking.
                select.select([], [self._number], [])
                continue
            data = data[written:]
            with self._changed:
                self.backlog -= written
                self._changed.notify_all()


def queued(stream: TextIO) -> TextIO:
    """The same stream with a queue before it; itself if there is no descriptor behind it. What it holds already is written first."""
    try:
        number = stream.fileno()
        stream.flush()
    except (OSError, ValueError, AttributeError):
        return stream
    return cast("TextIO", QueuedStream(number, encoding=stream.encoding or "utf-8", errors=stream.errors or "strict"))


def is_behind(stream: TextIO) -> bool:
    """True if the reader has not taken what was written last."""
    return isinstance(stream, QueuedStream) and stream.backlog > 0


def drain(stream: TextIO, timeout_s: float | None) -> None:
    """Wait until the reader has taken everything, or the time is over. Raises OSError when it cannot be written."""
    if isinstance(stream, QueuedStream):
        stream.drain(timeout_s)
    else:
        with contextlib.suppress(ValueError):
            stream.flush()
