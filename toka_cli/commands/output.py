"""The output half of every command: data on standard output, everything else on standard error.

What a command found, or the error that ended it, comes in; text, one JSON envelope or JSON lines go out. All text is cleaned here once more, so that no
command can forget it. It decides no exit code and knows no command.

A reader that went away (`toka run list | head`) is no error: writing ends quietly, and the command keeps the exit code that its own work earned, because
the reader had what it wanted. A command that would stream for ever (`logs -f`) ends with 0 inside `quiet_pipe`.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TextIO

from toka_cli.errors import InvalidSpecs, Problem, TokaError, Unavailable
from toka_cli.view.json import encode_json
from toka_cli.view.style import Span, paint, warning_lines
from toka_cli.view.terminal import Terminal, judge
from toka_cli.view.text import clean

SCHEMA: Final = 1
"""Version of the envelope. New fields do not change it; a changed meaning would."""

Format = Literal["text", "json", "jsonl"]
Text = str | Sequence[Span]
"""A line: text that is cleaned before it is shown, or spans that already are."""


class Output:
    """Where a command says things. `out` and `err` say what each stream can show. `format` is text, json or jsonl.

    With `quiet` only data and errors are written. `verbosity` counts the -v.
    """

    def __init__(
        self,
        *,
        format: Format = "text",  # noqa: A002  the name of the option
        quiet: bool = False,
        verbosity: int = 0,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        color: str = "auto",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.format: Format = format
        self.quiet = quiet
        self.verbosity = verbosity
        # Python has no stream at all where the shell closed it (`>&-`).
        self.closed = stdout is None and sys.stdout is None
        """True once the reader of standard output went away."""
        self.stdout: TextIO = stdout or sys.stdout or io.StringIO()
        self.stderr: TextIO = stderr or sys.stderr or io.StringIO()
        for stream in (self.stdout, self.stderr):
            if isinstance(stream, io.TextIOWrapper) and (stream.errors or "strict") in {"strict", "surrogateescape"}:
                # A stream that is not UTF-8 gets escapes instead of a crash, and no raw bytes that were hidden in a file name.
                stream.reconfigure(errors="backslashreplace")
        self.out: Terminal = judge(self.stdout, color=color, environ=environ)
        self.err: Terminal = judge(self.stderr, color=color, environ=environ)

    @property
    def is_json(self) -> bool:
        """True if programs read standard output."""
        return self.format != "text"

    def emit(self, command: str, data: Any, *, exit_code: int = 0, text: Callable[[], Iterable[Text]] | Iterable[Text] = ()) -> int:
        """Write what a command found: the lines of `text`, or the envelope around `data` (a dict or Struct). Returns `exit_code`.

        Raises Unavailable when standard output cannot be written (a full disk), not when its reader went away.
        """
        if self.is_json:
            self._data([self._envelope(command, data, exit_code, [])])
        else:
            self._data(self._line(line, self.out) for line in (text() if callable(text) else text))
        return exit_code

    def event(self, event: Any) -> None:
        """Write one event of a `jsonl` stream, at once. Raises BrokenPipeError when the reader went away, Unavailable when nothing can be written."""
        self.line(encode_json(event, ascii_only=self.out.ascii_only))
        if self.closed:
            raise BrokenPipeError

    def line(self, line: Text) -> None:
        """Write one line of text to standard output, at once. Raises Unavailable when it cannot be written."""
        self._data([self._line(line, self.out)])

    def fail(self, command: str, error: TokaError) -> int:
        """Write an error: what happened, where, what to do next, on standard error; for programs the envelope too. Returns the exit code."""
        if self.is_json:
            with contextlib.suppress(Unavailable):
                self._data([self._envelope(command, None, error.exit_code, error_entries(error))])
        safe = _Safe(self.err.ascii_only)
        self._aside(_problems(error, safe) if isinstance(error, InvalidSpecs) and error.problems else _error(error, safe))
        return error.exit_code

    def note(self, text: Text) -> None:
        """Say something of interest, unless -q."""
        if not self.quiet:
            self._aside([text])

    def detail(self, text: Text, level: int = 1) -> None:
        """Say something that only -v (or as many as `level`) wants to know."""
        if self.verbosity >= level and not self.quiet:
            self._aside([text])

    def warn(self, text: str) -> None:
        """Say that something is not as it should be, unless -q."""
        if not self.quiet:
            self._aside(warning_lines(text, lambda line: self._clean(line, self.err)))

    def hint(self, text: str) -> None:
        """Say what to do next, unless -q."""
        if not self.quiet:
            self._aside([[Span("hint: ", "busy"), Span(self._clean(text, self.err))]])

    @contextlib.contextmanager
    def quiet_pipe(self) -> Iterator[None]:
        """Inside, a reader that went away ends the block quietly; a BrokenPipeError of anything else is not touched."""
        try:
            yield
            if not self.closed:
                self.stdout.flush()
        except BrokenPipeError:
            if not self.closed and not self._reader_gone():
                raise
            self._close()

    def _envelope(self, command: str, data: Any, exit_code: int, errors: list[dict[str, Any]]) -> str:
        indent = 2 if self.format == "json" and self.out.tty else 0
        return encode_json(envelope(command, data, exit_code, errors), ascii_only=self.out.ascii_only, indent=indent)

    def _line(self, line: Text, terminal: Terminal) -> str:
        return self._clean(line, terminal) if isinstance(line, str) else paint(line, color=terminal.color)

    def _clean(self, text: str, terminal: Terminal) -> str:
        return clean(text, ascii_only=terminal.ascii_only)

    def _data(self, lines: Iterable[str]) -> None:
        """Write lines that are ready to standard output and flush."""
        if self.closed:
            return
        try:
            for line in lines:
                self.stdout.write(line + "\n")
            self.stdout.flush()
        except BrokenPipeError:
            self._close()
        except OSError as error:
            self._close()
            raise Unavailable(
                f"cannot write to standard output: {error.strerror or error}",
                code="output",
                hint="free some space, or send the output somewhere else",
            ) from error

    def _aside(self, lines: Iterable[Text]) -> None:
        # Nobody can be told that standard error is gone.
        with contextlib.suppress(OSError, ValueError):
            for line in lines:
                self.stderr.write(self._line(line, self.err) + "\n")
            self.stderr.flush()

    def _reader_gone(self) -> bool:
        try:
            self.stdout.flush()
        except BrokenPipeError:
            return True
        except (OSError, ValueError):
            return False
        # What could not be written may be dropped from the buffer, and then flushing says nothing.
        try:
            poll = select.poll()
            poll.register(self.stdout.fileno(), 0)
            return any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0))
        except (OSError, ValueError):
            return False

    def _close(self) -> None:
        """Lead standard output into the void: what is still buffered would raise again when Python flushes it at exit."""
        self.closed = True
        with contextlib.suppress(OSError, ValueError):
            number = self.stdout.fileno()
            void = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(void, number)
            os.close(void)


def envelope(command: str, data: Any, exit_code: int, errors: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return the one envelope that every command writes for programs."""
    return {"schema": SCHEMA, "command": command, "exit_code": exit_code, "data": data, "errors": list(errors)}


def error_entries(error: TokaError) -> list[dict[str, Any]]:
    """Return an error as the entries of the envelope's `errors`: one, or one for each problem of InvalidSpecs, in the order of their places."""
    if isinstance(error, InvalidSpecs) and error.problems:
        return [
            {"code": it.code, "message": it.message, "hint": it.hint, "where": it.where, "severity": it.severity} for it in _sorted(error)
        ]
    return [{"code": error.code, "message": error.message, "hint": error.hint, "where": error.where}]


def _sorted(error: InvalidSpecs) -> list[Problem]:
    # Not the dataclass's own order: hints may be None, which does not compare.
    return sorted(error.problems, key=lambda it: (it.path, it.line, it.column, it.message))


class _Safe:
    """Cleans text into spans for a stream."""

    def __init__(self, ascii_only: bool) -> None:
        self.ascii_only = ascii_only

    def __call__(self, text: str, style: str = "") -> Span:
        return Span(clean(text, ascii_only=self.ascii_only), style)


def _error(error: TokaError, safe: _Safe) -> Iterator[Text]:
    first, *more = error.message.split("\n")
    yield [Span("error: ", "bad"), safe(first)]
    yield from ([Span("  "), safe(line)] for line in more)
    if error.where:
        yield [Span("  at "), safe(error.where)]
    yield from _hint(error.hint, safe)


def _problems(error: InvalidSpecs, safe: _Safe) -> Iterator[Text]:
    errors = warnings = 0
    for problem in _sorted(error):
        warning = problem.severity == "warning"
        errors, warnings = errors + (not warning), warnings + warning
        first, *more = problem.message.split("\n")
        yield [safe(f"{problem.where}: ", "bold"), *([Span("warning: ", "warn")] if warning else ()), safe(first)]
        yield from ([Span("  "), safe(line)] for line in more)
        yield from _hint(problem.hint, safe)
    counts = [f"{count} {noun}{'s' if count != 1 else ''}" for count, noun in ((errors, "error"), (warnings, "warning")) if count]
    yield [Span("error: ", "bad"), Span(" and ".join(counts) + " found")]
    yield from _hint(error.hint, safe)


def _hint(hint: str | None, safe: _Safe) -> Iterator[Text]:
    for number, line in enumerate((hint or "").split("\n")):
        if line.strip():
            yield [Span("        ") if number else Span("  hint: ", "busy"), safe(line)]
