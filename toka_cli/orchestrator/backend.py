"""What the orchestrator asks of whatever runs agents: start a cell, give orders, say how it ended. The supervisor is one; another machine would be another."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Protocol

from toka_cli.protocol.messages import Exit, SpawnRequest


class Cell(Protocol):
    """One running cell."""

    pid: int
    # Its own process has ended; of its tree something may be left until `ended`.
    exited: bool
    ended: asyncio.Future[Exit]
    breached: asyncio.Future[str]

    @property
    def door(self) -> socket.socket:
        """The kernel's end of the door; whoever takes it owns it."""
        ...

    @property
    def proxy_listener(self) -> socket.socket | None:
        """A listener in the cell's own network, for the kernel's proxy; whoever takes it closes it."""
        ...

    def order(self, order: str) -> None:
        """`term` or `kill` the whole process tree. Nothing happens if it has ended."""
        ...

    def limits_held(self) -> dict[str, str]:
        """By which mechanism limits of this tree are held now: `cgroup` or `sampled`."""
        ...

    def release(self) -> None:
        """Let a tree that is held back or frozen run, so that it can obey."""
        ...

    def freeze(self) -> None:
        """Stop every process of the tree until `thaw`."""
        ...

    def thaw(self) -> None:
        """Let a frozen tree go on."""
        ...

    def usage(self) -> tuple[int | None, float | None]:
        """Bytes and CPU seconds of the tree now; None where it cannot be known."""
        ...

    async def settle(self) -> None:
        """Once it has ended: a last look at what is only looked at now and then, such as the disk. `breached` is set if that was too much."""
        ...


class AgentBackend(Protocol):
    """Starts cells."""

    async def start(self, request: SpawnRequest, cell_log: Path) -> Cell:
        """A new cell. Raises TokaError with `retryable` set when trying later may help; its code is `disk_full` when room on the disk is what is missing."""
        ...

    def troubles(self) -> list[tuple[str, str]]:
        """What could not be done as planned since the last call and was done in a weaker way: a code and a sentence each."""
        ...

    def shortage(self, places: tuple[Path, ...]) -> str | None:
        """Why nothing more should be started now (memory, room in the file systems of `places`); None while there is enough."""
        ...
