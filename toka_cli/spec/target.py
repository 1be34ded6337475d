"""What can be executed without a model: code, a command, a line for the shell, a tool. Built from a task or from parts of a command line.

`toka runtime exec` and the tasks of a spec both become one of these. Describes only; runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from toka_cli.errors import UsageError
from toka_cli.spec.model import TaskSpec


@dataclass(frozen=True, slots=True)
class CodeTarget:
    """Source for an interpreter of its own."""

    language: Literal["python", "javascript", "shell"]
    source: str
    kind: Literal["code"] = "code"


@dataclass(frozen=True, slots=True)
class CommandTarget:
    """A program with its arguments; no shell reads them."""

    argv: tuple[str, ...]
    kind: Literal["command"] = "command"


@dataclass(frozen=True, slots=True)
class ShellTarget:
    """Text for `sh -c`."""

    command: str
    kind: Literal["shell"] = "shell"


@dataclass(frozen=True, slots=True)
class ToolTarget:
    """A tool of the catalog or of an MCP server, with its arguments as JSON values."""

    tool: str
    args: dict[str, Any] = field(default_factory=dict)
    kind: Literal["tool"] = "tool"


ExecutionTarget: TypeAlias = CodeTarget | CommandTarget | ShellTarget | ToolTarget


def target_of(task: TaskSpec) -> ExecutionTarget | None:
    """Return what a task executes, or None for a prompt or a task for another agent."""
    if task.code is not None:
        return CodeTarget(task.code.language, task.code.source)
    if task.tool is not None:
        return ToolTarget(task.tool, dict(task.args))
    if task.run is None:
        return None
    return ShellTarget(task.run) if isinstance(task.run, str) else CommandTarget(task.run)


def target_from_parts(
    *,
    python: str | None = None,
    javascript: str | None = None,
    shell: str | None = None,
    argv: Sequence[str] = (),
    tool: str | None = None,
    args: Sequence[str] = (),
) -> ExecutionTarget:
    """Return what a command line asks for: source texts, a shell line, an argv, or a tool with `name=value` arguments.

    Raises UsageError unless exactly one of them is given.
    """
    given = [
        name
        for name, part in (("python", python), ("js", javascript), ("shell", shell), ("command", argv or None), ("tool", tool))
        if part is not None
    ]
    if len(given) != 1:
        said = f"not {' and '.join(given)}" if given else "and nothing was given"
        raise UsageError(f"one thing can be executed at a time, {said}", hint="give one of --python, --js, --shell, --tool")
    if args and tool is None:
        raise UsageError("arguments name=value are for --tool", hint="put arguments of a command into the command itself")
    if python is not None or javascript is not None:
        source = python if python is not None else javascript or ""
        if not source.strip():
            raise UsageError("there is no code to execute")
        return CodeTarget("python" if python is not None else "javascript", source)
    if tool is not None:
        if not tool.strip():
            raise UsageError("--tool needs a name", hint="toka runtime tools lists them")
        return ToolTarget(tool, parse_arguments(args))
    if shell is not None:
        if not shell.strip():
            raise UsageError("there is no command to execute")
        return ShellTarget(shell)
    return CommandTarget(tuple(argv))


def parse_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """Return {name: value} of `name=value` texts. A value that is JSON is that JSON (`n=3`, `on=true`, `ids=[1,2]`), any other is text;
    `n='"3"'` is the text 3. Raises UsageError for a text without `=`, without a name, or with a name that was given before.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"an argument of a tool is name=value, not {pair[:60]!r}")
        if name in found:
            raise UsageError(f"the argument {name[:60]!r} is given twice")
        found[name] = _value(text)
    return found


def _value(text: str) -> Any:
    """Return JSON where the text is JSON, else the text."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> Any:
    """NaN and infinity are no JSON: they stay text."""
    raise ValueError(constant)
