"""The cell: one agent at work behind its door. In: the door, and an environment that is complete. Out: exit status 0 once the kernel knows everything.

Says hello with the limits that hold, gets its brief, executes, says finish. Never has a key, the state file or the terminal.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from toka_cli.agent.client import Client, OwnerGone
from toka_cli.agent.command import CommandRunner
from toka_cli.agent.executor import AgentExecutor
from toka_cli.agent.strands import Scheduler
from toka_cli.agent.task import TaskExecutor
from toka_cli.protocol import messages as m
from toka_cli.protocol import talk as t
from toka_cli.sandbox.inner import Inner
from toka_cli.tools.plugins import add_loaded

# Without a limit in the spec, a command may still not fill the disk of the machine.
DEFAULT_OUTPUT_BYTES = 10 << 20


def run(door: socket.socket, isolation: dict[str, Any], inner: Inner | None = None) -> int:
    """Work until done; the exit status of the cell: 0 done, 3 the kernel is gone. `inner` makes the second walls, around each command."""
    scheduler = Scheduler()
    cell = Cell(door, scheduler, isolation, inner)
    try:
        scheduler.run(cell.work())
    except OwnerGone:
        return 3
    return 0


class Cell:
    """One agent at work: `work` is all it does."""

    def __init__(self, door: socket.socket, scheduler: Scheduler, isolation: dict[str, Any], inner: Inner | None = None) -> None:
        self.scheduler = scheduler
        self.isolation = isolation
        self.inner = inner
        self.client = Client(door, scheduler, self.order)
        self.executor: AgentExecutor | None = None
        self.early: list[m.Message] = []

    def order(self, message: m.Message) -> None:
        """An order of the kernel. One that comes before the brief is kept."""
        executor = self.executor
        if executor is None:
            self.early.append(message)
        elif isinstance(message, m.StopAgent):
            executor.stop(message.reason)
        elif isinstance(message, m.PauseAgent):
            executor.pause()
        elif isinstance(message, m.ResumeAgent):
            executor.resume(message.frozen_s)
        elif isinstance(message, t.TalkWait):
            executor.tasks.talk_waits(message)

    async def work(self) -> None:
        """From hello to finish. Raises OwnerGone."""
        brief = await self.client.call("agent.hello", m.Hello(os.getpid(), self.isolation), m.AgentBrief)
        for broken in add_loaded(brief.plugins) if brief.plugins else ():
            # Into the cell's own log: whoever misses the tool will look there.
            os.write(2, f"tools of the package entry {broken.name} cannot be used here: {broken.reason}\n".encode("utf-8", "replace"))
        output_bytes = brief.limits.output_bytes if brief.limits.output_bytes is not None else DEFAULT_OUTPUT_BYTES
        runner = CommandRunner(self.scheduler, dict(os.environ), brief.workdir, output_bytes, self.inner, brief.walls)
        # The private folder is the owner's to remove.
        tasks = TaskExecutor(brief, self.client, runner, Path(os.environ.get("TMPDIR", "/tmp")))  # noqa: S108  only where a cell has no folder
        self.executor = AgentExecutor(brief, self.client, self.scheduler, tasks)
        for message in self.early:
            self.order(message)
        self.scheduler.spawn(self._beat(brief.heartbeat_s))
        await self.executor.run()
        await self.client.call("agent.finish", m.FinishAgent(), m.Ack)

    async def _beat(self, every_s: float) -> None:
        with suppress(OwnerGone):
            while True:
                await self.scheduler.rest((), every_s)
                self.client.notify("agent.beat", m.Beat())
