"""What a tool is: its arguments, its answer, the grant it needs and what becomes of a call that was cut off.

In: arguments as an agent wrote them, and a context made by whoever runs the call. Out: plain JSON values, bounded in size, or ToolFailed in words that a
model can act on. It never asks whether a call is allowed: the kernel did that before.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec

from toka_cli.errors import TokaError
from toka_cli.protocol.messages import Measure, Note

Effect = Literal["pure", "keyed", "verify", "effect"]
"""What may be done with a call that was started and never ended: run it again (`pure`), run it again under the same key (`keyed`), look whether it happened
(`verify`), or nothing but say so (`effect`)."""

Where = Literal["cell", "kernel"]

OUTPUT_LIMIT: Final = 64 * 1024
"""Bytes of text in an answer when nobody says otherwise: about 16,000 tokens."""

ENCODED_FACTOR: Final = 8
"""JSON writes a control character as six bytes; an answer that is longer than this many times the limit was not bounded by its tool."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PLACE: Final = re.compile(r"(.*) - at `\$\.?([^`]*)`", re.DOTALL)
_WORDS: Final = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


class ToolFailed(TokaError):
    """A call could not be done, for a reason that the caller can understand: the message says what, the hint what to do instead."""

    code = "tool_failed"


class Answer(msgspec.Struct, frozen=True):
    """The base of what tools give back."""


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of what tools take."""


class CommandResult(Answer, frozen=True):
    """How a command ended. `exit_code` or `signal` is set, neither when it could not be waited for.

    `truncated`: part of the output is left out. `reason` says why toka ended it (`limit.timeout`), else it is null.
    """

    exit_code: int | None
    signal: int | None
    stdout: str
    stderr: str
    duration_s: float
    truncated: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Hands:
    """What the kernel lends to the tools that run in it; in a cell there are none.

    `key` names the call: the same when it is made again after a crash, no other call of the run has it. `fetch` takes the arguments of http_fetch and gives
    its answer; `remember` does so for the tools of the memory; `git(*arguments, stdin=b"")` runs one git command on the agent's repository and gives a
    GitEnd (see git.py). Each raises ToolFailed. `sees_secret(text, where)` is True for text that must not leave.
    """

    key: str
    agent: str
    fetch: Callable[[Any], Awaitable[Any]]
    remember: Callable[[Any], Awaitable[Any]]
    git: Callable[..., Awaitable[Any]]
    sees_secret: Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a call works with.

    `workdir` is the only place where files are touched. `command(what, timeout_s=…, language=…)` starts a process and gives a CommandResult: `what` is a
    tuple of arguments, or text for `sh -c`; with a language (python, javascript, shell) it is source text. `report` sends a note or a measure to the kernel.
    `output_limit` bounds the text of an answer, in bytes. `hands` are there for tools that run in the kernel.
    """

    workdir: Path
    command: Callable[..., Awaitable[CommandResult]]
    report: Callable[[Note | Measure], Awaitable[None]]
    output_limit: int = OUTPUT_LIMIT
    hands: Hands | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """One thing that agents can do.

    `power` is the grant that a call needs (None: none). `read_only` tools may run side by side. `verify` tells, after a crash, whether the call had already
    taken effect; tools of the effect class `verify` must have it. `calls_per_task` (of one attempt at a task) and `calls_per_minute` (of one agent) are held
    by the kernel; None: not limited. `alias_of` names the tool that this is a second name of; `schemas` stand for the types
    where only a description of the tool is here. Raises ValueError for a name, effect class or place that does not exist.
    """

    name: str
    description: str
    arguments: type[msgspec.Struct]
    result: Any
    power: str | None
    effect: Effect
    where: Where
    read_only: bool
    run: Callable[[Any, ToolContext], Awaitable[Any]]
    verify: Callable[[Any, ToolContext], bool] | None = None
    calls_per_task: int | None = None
    calls_per_minute: int | None = None
    alias_of: str | None = None
    schemas: tuple[dict[str, Any], dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a tool's name is lower-case letters, digits and _, at most 64: {self.name!r}")
        if self.effect not in get_args(Effect):
            raise ValueError(f"{self.name}: the effect class is one of {', '.join(get_args(Effect))}, not {self.effect!r}")
        if self.where not in get_args(Where):
            raise ValueError(f"{self.name}: a tool runs in the cell or in the kernel, not in {self.where!r}")
        if (self.effect == "verify") != (self.verify is not None):
            raise ValueError(f"{self.name}: the effect class verify and a verify function belong together")

    def decode(self, args: Mapping[str, Any]) -> msgspec.Struct:
        """The arguments as the tool's own type, strictly: no unknown names, no text for a number. Raises ToolFailed."""
        fields = msgspec.structs.fields(self.arguments)
        accepted = [field.encode_name for field in fields]
        unknown = sorted(str(name) for name in args if name not in accepted)
        if unknown:
            raise ToolFailed(
                f"{self.name} has no argument {', '.join(shown(name) for name in unknown)}",
                hint=nearest_hint(unknown[0], accepted) or f"its arguments are: {', '.join(accepted) or '(none)'}",
            )
        missing = [field.encode_name for field in fields if field.required and field.encode_name not in args]
        if missing:
            raise ToolFailed(f"{self.name} needs the argument {', '.join(missing)}", hint=f"its arguments are: {', '.join(accepted)}")
        try:
            return msgspec.convert(dict(args), self.arguments, strict=True)
        except msgspec.ValidationError as error:
            raise ToolFailed(f"{self.name}: {_in_words(str(error))}") from None

    async def call(self, args: Mapping[str, Any], context: ToolContext) -> Any:
        """Decode, run, and give the answer as plain JSON values. Raises ToolFailed, also for an answer that is far above the limit or no JSON."""
        value = await self.run(self.decode(args), context)
        try:
            data = msgspec.json.encode(value)
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise ToolFailed(f"{self.name} gave an answer that cannot be sent: {error}") from error
        if len(data) > max(context.output_limit, 1024) * ENCODED_FACTOR:
            raise ToolFailed(f"{self.name} gave {len(data)} bytes, far above the limit of {context.output_limit}", hint="ask for less")
        return msgspec.json.decode(data)

    def input_schema(self) -> dict[str, Any]:
        """The JSON Schema of the arguments: an object at the top, as models' tool interfaces ask for."""
        if self.schemas is not None:
            return self.schemas[0]
        return _schema(self.arguments)

    def output_schema(self) -> dict[str, Any]:
        """The JSON Schema of the answer. A tool may give the schema itself in place of a type."""
        if self.schemas is not None:
            return self.schemas[1]
        return dict(self.result) if isinstance(self.result, Mapping) else _schema(self.result)


def nearest_hint(name: str, names: Iterable[str]) -> str | None:
    """`did you mean …?`, or None when nothing is near."""
    close = difflib.get_close_matches(name[:200], list(names), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(shown(one) for one in close)}?" if close else None


def shown(text: str) -> str:
    """Text that can stand in any message or answer: bytes that are no UTF-8 are shown in hexadecimal."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") if _sendable(text) else ascii(text)[1:-1]


def _sendable(text: str) -> bool:
    """True unless the text holds a half of a surrogate pair that stands for no byte."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def both_ends(text: str, limit: int) -> tuple[str, bool]:
    """The text, and whether something was left out of its middle so that it fits `limit` bytes: the beginning names the act, the end its outcome."""
    data = shown(text).encode("utf-8")
    if len(data) <= limit:
        return data.decode("utf-8"), False
    head, tail = data[: limit // 2], data[len(data) - limit // 2 :]
    words = f"\n[... {len(data) - len(head) - len(tail)} bytes left out ...]\n"
    return head.decode("utf-8", "ignore") + words + tail.decode("utf-8", "ignore"), True


def _schema(kind: Any) -> dict[str, Any]:
    """The schema of a type, its own definition at the top and those it refers to below `$defs`."""
    (top,), definitions = msgspec.json.schema_components([kind])
    name = str(top.get("$ref", "")).removeprefix("#/$defs/")
    if name in definitions and not any(f'"#/$defs/{name}"' in text for text in _texts(definitions)):
        top = definitions.pop(name)
    return {**top, "$defs": definitions} if definitions else dict(top)


def _texts(definitions: Mapping[str, Any]) -> list[str]:
    return [msgspec.json.encode(one).decode() for one in definitions.values()]


def _in_words(error: str) -> str:
    """The sentence that msgspec made, with the argument's name first and types in words."""
    match = _PLACE.fullmatch(error)
    what, place = (match[1], match[2]) if match else (error, "")
    for kind, words in _WORDS.items():
        what = re.sub(rf"(?<=[`| ]){kind}(?=[`| ])", words, what)
    what = what.replace("`", "").replace(" | ", " or ")
    return f"argument {place}: {what[:1].lower()}{what[1:]}" if place else what
