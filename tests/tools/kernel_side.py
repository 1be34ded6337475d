"""Calls tools of the kernel as it does itself: a real run's KernelTools, real git, a real file for notes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from toka_cli.kernel.egress import Egress
from toka_cli.kernel.threats import SecretFinder, ThreatWatch
from toka_cli.kernel.tool_calls import CallEnd, KernelTools
from toka_cli.tools.catalog import CATALOG

SECRET = "sk-known-secret-123456"


class Desk:
    """One agent's kernel tools over a directory. `desk("git_status")` is one call; a refusal is raised as Failed."""

    def __init__(self, state: Path, workdir: Path, *, name: str = "builder", walls: bool = True, caller: dict[str, str] | None = None) -> None:
        self.state, self.workdir, self.name, self.walls = state, workdir, name, walls
        self.caller = caller if caller is not None else {"PATH": os.environ["PATH"]}
        self.threats: list[tuple[str, str]] = []
        self.calls = 0
        self.runner = asyncio.Runner()
        self.run = KernelTools(Egress(on_decision=lambda *_: None), state, str(workdir), self.caller, walls=walls)
        self.tools = self.runner.run(self._agent())

    async def _agent(self) -> Any:
        watch = ThreatWatch("run-1", lambda *what: self.threats.append(what), lambda: 0.0, SecretFinder(lambda text: text.replace(SECRET, "*")))
        return self.run.agent("run-1", self.name, self.workdir, (), watch)

    def end(self, tool: str, /, *, call_id: str | None = None, timeout_s: float | None = None, **args: Any) -> CallEnd:
        self.calls += 1

        async def main() -> CallEnd:
            future: asyncio.Future[CallEnd] = asyncio.get_running_loop().create_future()
            self.tools.begin(CATALOG[tool], "t", call_id or f"t.{self.calls}", args, timeout_s, future.set_result)
            return await asyncio.wait_for(future, 60)

        return self.runner.run(main())

    def __call__(self, tool: str, /, **more: Any) -> Any:
        end = self.end(tool, **more)
        if end.error is not None:
            raise Failed(end)
        return end.result

    def close(self) -> None:
        self.runner.run(self.run.close())
        self.runner.run(self.run.egress.close())
        self.runner.close()


class Failed(Exception):
    def __init__(self, end: CallEnd) -> None:
        super().__init__(f"{end.error} ({end.hint})")
        self.end = end
