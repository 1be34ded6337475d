"""Runs one task that another package offers, in a process of its own. In: the name of an entry point and the task's arguments, as JSON. Out: what it gave, as
JSON on stdout; whatever it printed itself goes to stderr. Standard library only: this text is run as it is by whatever interpreter has the package.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

GROUP = "toka.tasks"
FINAL_EXIT = 77
"""The exit code of a task that another attempt would not help."""
SHOWN_FRAMES = 20


class Context:
    """What a task gets to know: where it works, its id in the spec, and whose it is."""

    def __init__(self, task: str) -> None:
        self.workdir = Path(os.environ.get("AGENT_WORKDIR") or ".").absolute()
        self.task = task
        self.agent = os.environ.get("AGENT_NAME", "")
        self.run_id = os.environ.get("TOKA_RUN_ID", "")


def main(name: str, task: str, arguments: str) -> int:
    """Run it; the exit code."""
    answer = os.dup(1)
    os.set_inheritable(answer, False)
    # What it prints is for people; only what it gives back is the result.
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        made = _made(name, json.loads(arguments))
    # Somebody else's code: whatever it raises is its failure.
    except Exception as error:  # noqa: BLE001
        return _failed(f"the task {name} could not be made", error, retryable=False)
    try:
        _say(f"{_of(made, 'task_id', name)}: {_of(made, 'description', inspect.getdoc(type(made)) or name)}{_expected(made)}")
        value = _executed(made.execute, Context(task))
        text = "null" if value is None else json.dumps(value, allow_nan=False)
    except Exception as error:  # noqa: BLE001
        return _failed(f"the task {name} failed", error, retryable=bool(_of(made, "is_retryable", True)))
    with os.fdopen(answer, "w", encoding="utf-8") as out:
        out.write(text + "\n")
    return 0


def _made(name: str, arguments: dict[str, Any]) -> Any:
    """The task. Raises whatever its package raises, and LookupError, TypeError."""
    points = [point for point in importlib.metadata.entry_points(group=GROUP) if point.name == name]
    if not points:
        raise LookupError(f"no package that is installed here offers a task {name} (entry point group {GROUP})")
    if len(points) > 1:
        raise LookupError(f"{len(points)} packages offer a task {name}")
    made = points[0].load()(**arguments)
    if not callable(getattr(made, "execute", None)):
        raise TypeError(f"{points[0].value} makes a {type(made).__name__}, which has no execute")
    return made


def _executed(execute: Callable[..., Any], context: Context) -> Any:
    """What execute gives; it may take the context, and it may be a coroutine."""
    parameters = inspect.signature(execute).parameters.values()
    takes = any(each.default is each.empty and each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD} for each in parameters)
    given = execute(context) if takes else execute()
    if inspect.isawaitable(given):
        # Only tasks that wait pay for this import.
        import asyncio

        async def whole() -> Any:
            return await given

        return asyncio.run(whole())
    return given


def _of(made: Any, name: str, default: Any) -> Any:
    """What a task says of itself: an attribute, or a method without arguments."""
    value = getattr(made, name, default)
    return value() if callable(value) else value


def _expected(made: Any) -> str:
    expected = _of(made, "estimated_duration", None)
    seconds = expected.total_seconds() if hasattr(expected, "total_seconds") else expected
    return f" (about {float(seconds):g} s)" if seconds is not None else ""


def _failed(words: str, error: Exception, *, retryable: bool) -> int:
    # The frames of this file say nothing about the task.
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    for line in traceback.format_list(own[-SHOWN_FRAMES:]):
        _say(line.rstrip("\n"))
    _say(f"{words}: {type(error).__name__}: {error}")
    return 1 if retryable else FINAL_EXIT


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
