"""Starts the cells of one agent: tried again while the machine is short of processes, and for as long as its disk is full.

In: a planned agent and a backend. Out: cells, and the agent's private folder, which all its cells use. Decides nothing about how a cell ends.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from toka_cli.errors import TokaError, Unavailable
from toka_cli.kernel.environment import make_private
from toka_cli.kernel.folders import make_granted
from toka_cli.kernel.home import furnish_home
from toka_cli.kernel.kernel import Kernel
from toka_cli.orchestrator.backend import AgentBackend, Cell
from toka_cli.orchestrator.room import Room
from toka_cli.plan.plan import PlannedAgent
from toka_cli.retry import delay_s

SPAWN_TRIES: Final = 5
ROOM_RETRY_S: Final = 1.0
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(slots=True)
class Starter:
    """Makes the cells of one agent. `rest(seconds)` waits and answers False if the agent is to be stopped."""

    planned: PlannedAgent
    agent_id: str
    kernel: Kernel
    backend: AgentBackend
    room: Room
    rest: Callable[[float], Awaitable[bool]]
    _private: Path | None = None

    async def start(self) -> Cell | None:
        """A cell, or None if a stop came first. Raises TokaError when there can be none."""
        tries = 0
        while True:
            try:
                cell = await self._spawn()
            except Unavailable as error:
                if error.code == "disk_full":
                    self.room.disk_full(error.message)
                    if not await self.rest(ROOM_RETRY_S):
                        return None
                    continue
                tries += 1
                if not error.retryable or tries == SPAWN_TRIES:
                    raise
                self.room.crowded(error.message)
                await anyio.sleep(delay_s(tries, first_s=0.2, factor=2.0, rng=self.kernel.rng))
                continue
            try:
                self.room.take_troubles()
            except TokaError:
                cell.order("kill")
                cell.door.close()
                await asyncio.shield(cell.ended)
                raise
            return cell

    async def clean(self) -> None:
        """Remove the private folder, beside the loop: nobody has to wait for that."""
        if self._private is not None:
            await anyio.to_thread.run_sync(shutil.rmtree, self._private, True)

    async def _spawn(self) -> Cell:
        try:
            if self._private is None:
                self._private = Path(tempfile.mkdtemp(prefix=f"toka-{self.agent_id}-"))
            make_private(self._private)
            furnish_home(self._private, self.planned, self.kernel.caller)
            make_granted(self.kernel.workdir, self.planned.folders, self.planned.files)
            # Opened before there is a process that would have to wait for it.
            self.kernel.agent_log(self.agent_id)
        except OSError as error:
            failure = Unavailable(
                f"{error.filename or 'its folder'}: {error.strerror}",
                hint="TMPDIR says where the private folders of agents are made",
                code="disk_full" if error.errno in FULL else None,
            )
            failure.retryable = False
            raise failure from error
        request = self.kernel.request(self.planned, self.agent_id, self._private, os.getpid())
        return await self.backend.start(request, self.kernel.folder.logs / f"{self.agent_id}.cell.log")
