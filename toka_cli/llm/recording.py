"""The file of a recorded run: a header, then a line of JSON for every exchange with a model, in the order in which they ended.

In: a path. Out: a `Recording`. A line says only what is new since the exchange before it in its lane (agent, task, attempt): conversations grow, and each of
their requests repeats all of the one before. What a crash cut off at the end is passed over. Nothing here writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from toka_cli.errors import NotFound, Unavailable
from toka_cli.llm.budget import Remaining
from toka_cli.llm.provider import Caller, ModelInfo, ModelReply
from toka_cli.llm.untrusted import changed_within

FORMAT: Final = 1
MAX_FILE_BYTES: Final = 1024 * 1024 * 1024


class Lane(msgspec.Struct, frozen=True, order=True):
    """One conversation: an attempt at a task. Agents are known by name, because their ids differ from run to run."""

    agent: str
    task: str
    attempt: int

    def __str__(self) -> str:
        return f"agent {self.agent}, task {self.task}, attempt {self.attempt}"


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exchange that had no reply: `code` is `provider` or `budget`, `cause` that of the provider."""

    code: str
    message: str
    cause: str = ""
    hint: str | None = None


class Line(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="line"):
    """The base of all lines."""


class Header(Line, frozen=True, tag="header"):
    """The first line. `redaction` is the mark that stands in place of secrets; `places` are names that stand in place of folders."""

    format: int
    toka: str
    created: str
    redaction: str
    places: tuple[str, ...] = ()


class Model(Line, frozen=True, tag="model"):
    """What was known of a model when it was first asked."""

    info: ModelInfo


class Tools(Line, frozen=True, tag="tools"):
    """A set of tools that requests name by number, counted from 1 within the file."""

    number: int
    tools: tuple[dict[str, Any], ...]


class Exchange(Line, frozen=True, tag="exchange"):
    """A request and what came of it. `messages` follow the first `keeps` messages of the request before it in the lane."""

    lane: Lane
    turn: int
    model: str
    messages: tuple[dict[str, Any], ...]
    keeps: int = 0
    tools: int = 0
    temperature: float | None = None
    max_output_tokens: int | None = None
    reply: ModelReply | None = None
    failure: Failure | None = None


class Told(Line, frozen=True, tag="told"):
    """What the gateway said of budgets before a turn (`remaining`) or after it (`warning`): with other timing it would say something else."""

    lane: Lane
    turn: int
    warning: str | None = None
    remaining: Remaining | None = None


AnyLine = Header | Model | Tools | Exchange | Told


@dataclass(frozen=True, slots=True)
class Recorded:
    """An exchange, whole."""

    lane: Lane
    turn: int
    model: str
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...]
    reply: ModelReply | None
    failure: Failure | None


@dataclass(slots=True)
class Recording:
    """All of a file. `exchanges` by lane and turn; more than one where a request was made again. `whole_bytes` is where the last whole line ends."""

    path: Path
    header: Header
    models: dict[str, ModelInfo] = field(default_factory=dict)
    tools: dict[int, tuple[dict[str, Any], ...]] = field(default_factory=dict)
    exchanges: dict[tuple[Lane, int], list[Recorded]] = field(default_factory=dict)
    warnings: dict[tuple[Lane, int], str] = field(default_factory=dict)
    remaining: dict[tuple[Lane, int], Remaining] = field(default_factory=dict)
    last: dict[Lane, tuple[dict[str, Any], ...]] = field(default_factory=dict)
    whole_bytes: int = 0

    def lanes(self) -> dict[Lane, list[int]]:
        """Every lane with its turns, in order."""
        found: dict[Lane, list[int]] = {}
        for lane, turn in sorted(self.exchanges):
            found.setdefault(lane, []).append(turn)
        return found


def read(path: Path) -> Recording:
    """Read a recording. Raises NotFound when there is no such file, Unavailable when it is not a recording or of a newer format."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(f"no recording {path}", hint="make one with: toka orchestrate --record FILE") from error
    except OSError as error:
        raise Unavailable(f"the recording {path} cannot be read: {error.strerror}", code="recording") from error
    if len(data) > MAX_FILE_BYTES:
        raise Unavailable(f"the recording {path} is larger than {MAX_FILE_BYTES} bytes", code="recording")
    lines = _lines(path, data)
    header = next(lines, None)
    if not isinstance(header, Header):
        raise _bad(path, 1, "it does not begin with a header")
    if header.format != FORMAT:
        raise Unavailable(
            f"the recording {path} has format {header.format} (of toka {header.toka}); this toka reads {FORMAT}",
            hint="record the run again, or use the toka that made it",
            code="recording",
        )
    recording = Recording(path, header, whole_bytes=data.rfind(b"\n") + 1)
    for number, line in enumerate(lines, start=2):
        if isinstance(line, Model):
            recording.models[line.info.model] = line.info
        elif isinstance(line, Tools):
            recording.tools[line.number] = line.tools
        elif isinstance(line, Exchange):
            _take(recording, line, number)
        elif isinstance(line, Told):
            if line.warning is not None:
                recording.warnings[line.lane, line.turn] = line.warning
            if line.remaining is not None:
                recording.remaining[line.lane, line.turn] = line.remaining
    return recording


def _lines(path: Path, data: bytes) -> Iterator[AnyLine]:
    decoder = msgspec.json.Decoder(AnyLine)
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        # The part after the last line end was cut off by a crash, or is empty.
        try:
            yield decoder.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _bad(path, number, str(error)[:200]) from error


def _take(recording: Recording, line: Exchange, number: int) -> None:
    before = recording.last.get(line.lane, ())
    if line.keeps > len(before) or (line.tools and line.tools not in recording.tools) or (line.reply is None) == (line.failure is None):
        raise _bad(recording.path, number, "it does not follow from the lines before it")
    messages = (*before[: line.keeps], *line.messages)
    recording.last[line.lane] = messages
    tools = recording.tools.get(line.tools, ())
    whole = Recorded(line.lane, line.turn, line.model, messages, tools, line.reply, line.failure)
    recording.exchanges.setdefault((line.lane, line.turn), []).append(whole)


def _bad(path: Path, number: int, why: str) -> Unavailable:
    return Unavailable(f"{path}, line {number}: not a recording of a run: {why}", hint="record the run again with --record FILE", code="recording")


class Places:
    """Folders whose paths differ from run to run (the workdir, an agent's private home), by the names that stand in their place in a recording."""

    def __init__(self, places: Mapping[str, str] | None = None) -> None:
        known = sorted(((path.rstrip("/"), f"⟦{name}⟧") for name, path in (places or {}).items()), key=lambda pair: -len(pair[0]))
        self.names = tuple(sorted(places or {}))
        # `/tmp/a` is no part of `/tmp/ab` or `/tmp/a.b`.
        self._hide = [(re.compile(re.escape(path) + r"(?![\w-]|\.\w)"), mark) for path, mark in known if len(path) > 1]
        self._show = [(mark, path) for path, mark in known if len(path) > 1]

    def hide(self, value: Any) -> Any:
        """JSON data with names in place of paths."""
        return _each_text(value, self._hidden_within) if self._hide else value

    def show(self, value: Any) -> Any:
        """JSON data with the paths of this run in place of names."""
        return _each_text(value, self._shown) if self._show else value

    def _hidden(self, text: str) -> str:
        for path, mark in self._hide:
            text = path.sub(mark.replace("\\", "\\\\"), text)
        return text

    def _hidden_within(self, text: str) -> str:
        hidden = self._hidden(text)
        return changed_within(text, self._hidden) if hidden != text and " source=" in text else hidden

    def _shown(self, text: str) -> str:
        for mark, path in self._show:
            text = text.replace(mark, path)
        return text


def lane_of(caller: Caller) -> Lane:
    """The lane that a caller speaks in."""
    return Lane(caller.agent, caller.task, caller.attempt)


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: _each_text(part, change) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_each_text(part, change) for part in value]
    return value
