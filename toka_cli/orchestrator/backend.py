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
    ended: asyncio.Future[Exit]
    breached: asyncio.Future[str]

    @property
    def door(self) -> socket.socket:
        """The kernel's end of the door; whoever takes it owns it."""
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


class AgentBackend(Protocol):
    """Starts cells."""

    async def start(self, request: SpawnRequest, cell_log: Path) -> Cell:
        """A new cell. Raises TokaError with `retryable` set when trying later may help."""
        ...
