"""The owner's handle on one cell: its door, its shim's lifeline, and the future that says how its whole process tree ended."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from toka_cli.errors import ProtocolError
from toka_cli.protocol import frames
from toka_cli.protocol.messages import Exit, ShimOrder, ShimReport
from toka_cli.sandbox.tree import Written
from toka_cli.supervisor.cgroup import Leaf
from toka_cli.supervisor.governor import Governor
from toka_cli.supervisor.resources import tree_usage

# Limits by the controller that would hold them.
_CONTROLLERS: Final = {"memory": "memory", "cpu": "cpu", "processes": "pids"}


class CellProcess(asyncio.Protocol):
    """One cell. `forked` is set once its pid is known, `ended` once nothing of its tree is left (or its shim is lost).

    `pid` is that of the cell, or of process 1 of its namespaces, as numbered here; `own_processes` of its tree are toka's. `proxy_listener` listens in the
    cell's own network, for the kernel's proxy; whoever takes it closes it.
    """

    def __init__(self, door: socket.socket, governor: Governor, own_processes: int = 1) -> None:
        loop = asyncio.get_running_loop()
        self.door = door
        self._governor = governor
        self.own_processes = own_processes
        self.proxy_listener: socket.socket | None = None
        self.leaf: Leaf | None = None
        self.shim_pid = 0
        self.pid = 0
        self.forked: asyncio.Future[int] = loop.create_future()
        self.ended: asyncio.Future[Exit] = loop.create_future()
        self.breached: asyncio.Future[str] = loop.create_future()
        # What holds limits that neither a group nor the governor does, by limit, and the last look at them.
        self.also_held: dict[str, str] = {}
        self.last_look: Callable[[], Awaitable[None]] | None = None
        self.written: Written | None = None
        self.exited = False
        self._status: int | None = None
        self._seen_bytes = 0
        self._reader = frames.FrameReader()
        self._transport: asyncio.Transport | None = None

    async def receive_listener(self, handover: socket.socket) -> None:
        """Wait for the listener from inside the cell's network, or until nobody is left who could send one."""
        loop = asyncio.get_running_loop()
        # Every end of the cell closes the other side, which is readable too.
        readable = asyncio.Event()
        loop.add_reader(handover, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(handover)
        with suppress(BlockingIOError):
            _, descriptors, _, _ = socket.recv_fds(handover, 1, 1, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
            if descriptors:
                self.proxy_listener = socket.socket(fileno=descriptors[0])
                self.proxy_listener.setblocking(False)

    def order(self, order: str) -> None:
        """Tell the shim `term` or `kill`; nothing happens if it is gone."""
        if self._transport is None or self._transport.is_closing():
            return
        # Past the transport: when a write fails, because the shim has just ended, that would throw away the shim's last words, which wait to be read.
        with suppress(OSError):
            os.write(self._transport.get_extra_info("socket").fileno(), frames.pack_bytes(msgspec.json.encode(ShimOrder(order))))

    def breach(self, reason: str, memory_bytes: int | None = None) -> None:
        """Called by the governor: the tree passed a limit, and took `memory_bytes` in all. The first reason stands."""
        self._seen_bytes = max(self._seen_bytes, memory_bytes or 0)
        if not self.breached.done():
            self.breached.set_result(reason)

    def limits_held(self) -> dict[str, str]:
        """By which mechanism limits of this tree are held now: `cgroup`, `sampled`, or `sampled` in part with what is left out."""
        held = self.leaf.held if self.leaf is not None else set()
        return {name: "cgroup" if controller in held else "sampled" for name, controller in _CONTROLLERS.items()} | self.also_held

    def release(self) -> None:
        """Let a tree that is held back or frozen run, so that it can obey."""
        self._governor.release(self)

    def freeze(self) -> None:
        """Stop every process of the tree until `thaw`."""
        self._governor.freeze(self)

    def thaw(self) -> None:
        """Let a frozen tree go on."""
        self._governor.thaw(self)

    def usage(self) -> tuple[int | None, float | None]:
        """Bytes and CPU seconds of the tree now; None where it cannot be known."""
        found = tree_usage(self.shim_pid, self.own_processes)
        return found.memory_bytes, found.cpu_time_s

    async def settle(self) -> None:
        """Once it has ended: a last look at what is only looked at now and then. `breached` is set if that was too much."""
        # Whoever waits for the end may be woken before those who were told of it first.
        self._governor.forget(self)
        if self.last_look is not None:
            await self.last_look()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio. A lifeline that speaks nonsense counts as lost."""
        try:
            for body in self._reader.feed(data):
                self._take(msgspec.json.decode(body, type=ShimReport))
        except (ProtocolError, msgspec.MsgspecError):
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio. Without the shim's last word the tree may not be empty: `lost`."""
        self._transport = None
        self._end(Exit(**self._decoded_status(), peak_memory_bytes=self._seen_bytes or None, lost=True))

    def _take(self, report: ShimReport) -> None:
        if report.what == "forked":
            self.pid = report.pid
            if not self.forked.done():
                self.forked.set_result(report.pid)
        elif report.what == "exited":
            self._status, self.exited = report.status, True
        elif report.what == "empty":
            # The shim knows the largest single process; a tree of many small ones takes more.
            if report.asked_bytes is not None and report.dirtied_bytes is not None:
                self.written = Written(report.asked_bytes, report.dirtied_bytes)
            peak, cpu_s = max(report.peak_memory_bytes or 0, self._seen_bytes), report.cpu_time_s
            if self.leaf is not None:
                # The kernel ends a group that is out of memory as a whole, before anybody looked; and nobody waited for what it ended, or was told its time.
                peak = max(peak, (self.leaf.peak_memory_bytes() or 0) if self.leaf.out_of_memory() else 0)
                cpu_s = max(cpu_s or 0.0, self.leaf.cpu_time_s()) or cpu_s
            self._end(Exit(**self._decoded_status(), cpu_time_s=cpu_s, peak_memory_bytes=peak or None))

    def _decoded_status(self) -> dict[str, Any]:
        if self._status is None:
            return {}
        code = os.waitstatus_to_exitcode(self._status)
        return {"exit_code": code} if code >= 0 else {"signal": -code}

    def _end(self, end: Exit) -> None:
        if not self.forked.done():
            self.forked.set_result(0)
        if not self.ended.done():
            self.ended.set_result(end)
        if self._transport is not None:
            self._transport.close()
