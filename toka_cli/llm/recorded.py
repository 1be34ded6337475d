"""Writes every exchange of a run to a file, and plays such a file back in place of a provider.

In: who asked, the redacted request, what came of it. Out: lines of a recording; or, from a recording, the reply to the same request, and `ReplayMiss` for any
other. Playing back asks nobody and needs no key; tools really run, so what they return may differ, which is counted and told, not refused.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self, cast

import msgspec

from toka_cli.errors import BudgetExhausted, ReplayMiss, TokaError, Unavailable, UsageError
from toka_cli.llm import recording as r
from toka_cli.llm.budget import Remaining
from toka_cli.llm.likeness import compare, miss, notes_on_data
from toka_cli.llm.provider import Caller, Cause, ModelInfo, ModelReply, ModelRequest, ProviderError
from toka_cli.llm.redact import MARK

NOTES_KEPT: Final = 50


class Recorder:
    """Appends to a recording. Each exchange is with the operating system before its reply is used: a killed toka loses none of them.

    Made by `create` or `resume`. `places` are folders whose paths change from run to run, by name. When the file cannot be written any more `failed` says
    why, `on_failed` is told once, and the run goes on without being recorded.
    """

    def __init__(self, descriptor: int, path: Path, places: r.Places, on_failed: Callable[[str], None]) -> None:
        self._descriptor = descriptor
        self._places = places
        self._on_failed = on_failed
        self._last: dict[r.Lane, tuple[dict[str, Any], ...]] = {}
        self._models: set[str] = set()
        self._tools: dict[bytes, int] = {}
        self.path = path
        self.failed: str | None = None

    @classmethod
    def create(
        cls, path: Path, *, version: str, clock: Callable[[], float], places: Mapping[str, str] | None = None, on_failed: Callable[[str], None]
    ) -> Self:
        """Begin a new file. Raises UsageError where one is there already, Unavailable where none can be made."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise UsageError(f"--record: {path} is there already", hint="name another file, or remove this one") from error
        except OSError as error:
            raise Unavailable(f"--record: {path} cannot be written: {error.strerror}", code="recording") from error
        made = cls(descriptor, path, r.Places(places), on_failed)
        created = datetime.fromtimestamp(clock(), UTC).isoformat(timespec="seconds")
        made._write(r.Header(r.FORMAT, version, created, MARK, made._places.names))
        return made

    @classmethod
    def resume(cls, path: Path, *, places: Mapping[str, str] | None = None, on_failed: Callable[[str], None]) -> Self:
        """Go on with the file of a run that was interrupted. A line that was cut off is removed. Raises what `recording.read` raises."""
        known = r.read(path)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            os.ftruncate(descriptor, known.whole_bytes)
        except OSError as error:
            raise Unavailable(f"--record: {path} cannot be written: {error.strerror}", code="recording") from error
        made = cls(descriptor, path, r.Places(places), on_failed)
        made._last = known.last
        made._models = set(known.models)
        made._tools = {msgspec.json.encode(tools): number for number, tools in known.tools.items()}
        return made

    def model(self, info: ModelInfo) -> None:
        """Note what is known of a model, once."""
        if info.model not in self._models:
            self._models.add(info.model)
            self._write(r.Model(info))

    def exchange(self, caller: Caller, request: ModelRequest, outcome: ModelReply | TokaError) -> None:
        """Note an exchange. Request and outcome are redacted already."""
        lane = r.lane_of(caller)
        messages = tuple(self._places.hide(message) for message in request.messages)
        before = self._last.get(lane, ())
        keeps = next((place for place, (old, new) in enumerate(zip(before, messages, strict=False)) if old != new), min(len(before), len(messages)))
        self._last[lane] = messages
        self._write(
            r.Exchange(
                lane,
                caller.turn,
                request.model,
                messages[keeps:],
                keeps,
                self._tools_number(tuple(self._places.hide(tool) for tool in request.tools)),
                request.temperature,
                request.max_output_tokens,
                self._reply(outcome) if isinstance(outcome, ModelReply) else None,
                _failure(outcome) if isinstance(outcome, TokaError) else None,
            )
        )

    def told(self, caller: Caller, *, warning: str | None = None, remaining: Remaining | None = None) -> None:
        """Note what was said of budgets."""
        self._write(r.Told(r.lane_of(caller), caller.turn, warning, remaining))

    def close(self) -> None:
        """Put everything on the disk."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _reply(self, reply: ModelReply) -> ModelReply:
        return msgspec.structs.replace(reply, message=self._places.hide(reply.message))

    def _tools_number(self, tools: tuple[dict[str, Any], ...]) -> int:
        if not tools:
            return 0
        key = msgspec.json.encode(tools)
        if key not in self._tools:
            self._tools[key] = len(self._tools) + 1
            self._write(r.Tools(self._tools[key], tools))
        return self._tools[key]

    def _write(self, line: r.Line) -> None:
        if self.failed is not None or self._descriptor < 0:
            return
        data = memoryview(msgspec.json.encode(line) + b"\n")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self.failed = f"the recording {self.path} ends early: {error.strerror}"
            self._on_failed(self.failed)


class Replay:
    """A recording in place of a provider. `places` as for the recorder, with the paths of this run.

    `differences` counts results of tools and fenced data that were not as recorded, `notes` describes the first of them; `missed` is the first request that
    was not recorded. For one event loop.
    """

    def __init__(self, recording: r.Recording, *, places: Mapping[str, str] | None = None) -> None:
        self._recording = recording
        self._places = r.Places(places)
        self._asked: dict[tuple[r.Lane, int], int] = {}
        self._noted: set[tuple[r.Lane, str, str]] = set()
        self.differences = 0
        self.notes: list[str] = []
        self.missed: ReplayMiss | None = None

    @classmethod
    def open(cls, path: Path, *, places: Mapping[str, str] | None = None) -> Self:
        """Read a recording. Raises NotFound, or Unavailable for what is no recording."""
        return cls(r.read(path), places=places)

    @property
    def models(self) -> dict[str, ModelInfo]:
        """What was known of the models that were asked."""
        return dict(self._recording.models)

    @property
    def unused(self) -> int:
        """Exchanges of the recording that nobody asked for."""
        return sum(key not in self._asked for key in self._recording.exchanges)

    def describe(self, model: str) -> ModelInfo:
        """What was known of a model; a model that was not asked is one of which nothing is known."""
        return self._recording.models.get(model, ModelInfo(model))

    def exchange(self, caller: Caller, request: ModelRequest) -> ModelReply:
        """What came of this request when it was recorded; nobody is asked and nothing paid now, so it is marked `from_cache` and costs 0.

        Raises ReplayMiss where it was not recorded, and the recorded failure where it failed.
        """
        key = (r.lane_of(caller), caller.turn)
        asked = msgspec.structs.replace(
            request, messages=tuple(self._places.hide(message) for message in request.messages), tools=tuple(self._places.hide(tool) for tool in request.tools)
        )
        found = self._choose(key)
        difference = compare(found, asked, _as_masked) if found is not None else None
        if found is None or difference is not None:
            error = miss(self._recording, caller, asked, difference)
            self.missed = self.missed or error
            raise error
        self._asked[key] = self._asked.get(key, 0) + 1
        for place, note in notes_on_data(found, asked, _as_masked):
            if (key[0], place, note) not in self._noted:
                # A result is repeated in every later request of its conversation.
                self._noted.add((key[0], place, note))
                self.differences += 1
                if len(self.notes) < NOTES_KEPT:
                    self.notes.append(f"{key[0]}, turn {caller.turn}, {place}: {note}")
        if found.reply is None:
            raise _error(found.failure)
        return msgspec.structs.replace(found.reply, message=self._places.show(found.reply.message), from_cache=True, cost_usd=0.0)

    def warning(self, caller: Caller) -> str | None:
        """What was said of budgets after this turn."""
        return self._recording.warnings.get((r.lane_of(caller), caller.turn))

    def remaining(self, caller: Caller) -> Remaining:
        """What was left before this turn; nothing was limited where the recording says nothing."""
        return self._recording.remaining.get((r.lane_of(caller), caller.turn), Remaining(None, None, 0.0, None, wrap_up=False))

    def _choose(self, key: tuple[r.Lane, int]) -> r.Recorded | None:
        """Failures come first, in their order; of several replies the last one counts: those before it were lost with the toka that had asked."""
        found = self._recording.exchanges.get(key, [])
        replies = [one for one in found if one.reply is not None]
        failures = [one for one in found if one.reply is None]
        asked = self._asked.get(key, 0)
        if asked < len(failures):
            return failures[asked]
        return replies[-1] if replies else failures[-1] if failures else None


def _as_masked(recorded: str, asked: str) -> bool:
    """True where the texts are the same but for secrets: who plays back need not know them."""
    if recorded == asked:
        return True
    if MARK not in recorded:
        return False
    pieces = re.split(f"(?:{re.escape(MARK)})+", recorded)
    if not asked.startswith(pieces[0]) or not asked.endswith(pieces[-1]):
        return False
    at, end = len(pieces[0]), len(asked) - len(pieces[-1])
    for piece in pieces[1:-1]:
        place = asked.find(piece, at, max(at, end))
        if place < 0:
            return False
        at = place + len(piece)
    return at <= end


def _failure(error: TokaError) -> r.Failure:
    if isinstance(error, ProviderError):
        return r.Failure("provider", error.message, error.cause, error.hint)
    return r.Failure("budget" if isinstance(error, BudgetExhausted) else error.code, error.message, "", error.hint)


def _error(failure: r.Failure | None) -> TokaError:
    if failure is None:
        return ReplayMiss("the recording holds neither a reply nor a failure here")
    if failure.code == "provider":
        return ProviderError(cast(Cause, failure.cause), failure.message, hint=failure.hint)
    return BudgetExhausted(failure.message, hint=failure.hint)
