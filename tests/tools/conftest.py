from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from toka_cli.protocol.messages import Measure, Note
from toka_cli.tools.catalog import CATALOG
from toka_cli.tools.tool import CommandResult, ToolContext


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits; one that does is a failure."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError("the tool waited")


class Outside:
    """What a cell would do for a tool, written down."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, float | None, str | None]] = []
        self.reported: list[Note | Measure] = []
        self.result = CommandResult(exit_code=0, signal=None, stdout="out", stderr="", duration_s=0.5)

    async def command(self, what: Any, *, timeout_s: float | None, language: str | None) -> CommandResult:
        self.asked.append((what, timeout_s, language))
        return self.result

    async def report(self, message: Note | Measure) -> None:
        self.reported.append(message)


@pytest.fixture
def outside() -> Outside:
    return Outside()


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.mkdir()
    (path / "key.txt").write_text("the key\n")
    return path


@pytest.fixture
def context(workdir: Path, outside: Outside) -> ToolContext:
    return ToolContext(workdir=workdir, command=outside.command, report=outside.report)


@pytest.fixture
def call(context: ToolContext) -> Callable[..., Any]:
    """`call("read_file", path="a")`: the answer as plain values. `limit=` sets the output limit."""

    def one(name: str, /, *, limit_bytes: int | None = None, **arguments: Any) -> Any:
        here = context if limit_bytes is None else ToolContext(context.workdir, context.command, context.report, limit_bytes)
        return drive(CATALOG[name].call(arguments, here))

    return one
