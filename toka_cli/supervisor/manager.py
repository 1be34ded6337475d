"""AgentProcessManager: starts cells and leaves none behind. In: SpawnRequests. Out: CellProcess handles.

This process is a subreaper: if a shim is killed, what it held becomes our child and is ended here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from toka_cli.errors import Unavailable
from toka_cli.protocol.messages import SpawnRequest
from toka_cli.sandbox import prctl
from toka_cli.sandbox.tree import children, is_alive
from toka_cli.supervisor.cgroup import Leaf, make_leaf, remove_stale
from toka_cli.supervisor.governor import Governor
from toka_cli.supervisor.process import CellProcess
from toka_cli.supervisor.spawn import ForkServer, FreshInterpreters, Spawner

KILL_TIMEOUT_S: Final = 10.0
EMPTY_LOOKS: Final = 3


class AgentProcessManager:
    """Owns every cell process of a run. `async with`: at the end of the block no process is left."""

    def __init__(self, start_method: str, *, cgroups: bool = True) -> None:
        """`start_method` is `forkserver` or `fresh`; without `cgroups` limits of trees are held by polling alone."""
        self._start_method = start_method
        self._cgroups = cgroups
        self._spawner: Spawner | None = None
        self._governor = Governor()
        self._cells: set[CellProcess] = set()
        self._sweeps: set[asyncio.Task[None]] = set()
        self._leaves: list[Leaf] = []

    async def __aenter__(self) -> Self:
        prctl.become_subreaper()
        # Keys are in this process's environment: no other process of the same user may read it from /proc. (Root may.)
        prctl.forbid_dumps()
        if self._cgroups:
            remove_stale()
        self._spawner = ForkServer() if self._start_method == "forkserver" else FreshInterpreters()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for cell in self._cells:
            cell.order("kill")
        waiting = [cell.ended for cell in self._cells if not cell.ended.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=KILL_TIMEOUT_S)
        await self._governor.close()
        await self.sweep()
        for leaf in self._leaves:
            leaf.remove()
        assert self._spawner is not None
        self._spawner.close()

    async def start(self, request: SpawnRequest, cell_log: Path) -> CellProcess:
        """A new cell; its pid is known and its door is open. Raises Unavailable."""
        assert self._spawner is not None
        door, their_door = socket.socketpair()
        lifeline, their_lifeline = socket.socketpair()
        cell = CellProcess(door, self._governor)
        log = os.open(cell_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            cell.shim_pid = await self._spawner.spawn(request, (their_door.fileno(), their_lifeline.fileno(), log))
        except BaseException:
            door.close()
            lifeline.close()
            raise
        finally:
            os.close(log)
            their_door.close()
            their_lifeline.close()
        lifeline.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: cell, sock=lifeline)
        self._cells.add(cell)
        cell.ended.add_done_callback(lambda _: self._forget(cell))
        if not await asyncio.shield(cell.forked):
            cell.door.close()
            raise Unavailable("the cell ended before it began", hint=f"its own words are in {cell_log}")
        # The cell waits for its brief: nothing of the agent runs before it is in its group.
        cell.leaf = self._leaf(request, cell.pid)
        self._governor.watch(cell, request.limits)
        return cell

    def _leaf(self, request: SpawnRequest, pid: int) -> Leaf | None:
        leaf = make_leaf(request.agent_id, request.limits) if self._cgroups else None
        if leaf is None:
            return None
        try:
            leaf.add(pid)
        except OSError:
            # What the plan promised to hold by a group is held by polling then; the cell's record says so.
            leaf.remove()
            return None
        return leaf

    def _forget(self, cell: CellProcess) -> None:
        self._cells.discard(cell)
        self._governor.forget(cell)
        if cell.leaf is not None:
            self._leaves.append(cell.leaf)
        self._leaves = [leaf for leaf in self._leaves if not leaf.remove()]
        if cell.ended.result().lost:
            task = asyncio.get_running_loop().create_task(self.sweep(cell.shim_pid, cell.pid))
            self._sweeps.add(task)
            task.add_done_callback(self._sweeps.discard)

    async def sweep(self, *dying: int) -> None:
        """End everything that this process adopted: what a killed shim left behind. Bounded in time.

        `dying` are processes that are at their end already: what they leave is adopted only once they are gone. Shims whose fork server was killed are
        adopted too; they go on.
        """
        assert self._spawner is not None
        deadline = asyncio.get_running_loop().time() + KILL_TIMEOUT_S
        empty_looks = 0
        while True:
            settled = not any(is_alive(pid) for pid in dying)
            kept = self._spawner.own_children() | {cell.shim_pid for cell in self._cells}
            strays = [pid for pid in children(os.getpid()) if pid not in kept]
            # /proc can leave out a child while its siblings die (proc(5)): one look that finds nothing proves nothing.
            empty_looks = empty_looks + 1 if settled and not strays else 0
            if empty_looks == EMPTY_LOOKS:
                return
            for pid in strays:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            for pid in strays:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222  it does not wait
            if asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(0.002)
