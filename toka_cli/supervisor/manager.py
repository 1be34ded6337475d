"""AgentProcessManager: starts cells and leaves none behind. In: SpawnRequests. Out: CellProcess handles.

This process is a subreaper: if a shim is killed, what it held becomes our child and is ended here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from toka_cli.errors import Unavailable
from toka_cli.protocol.messages import SpawnRequest
from toka_cli.sandbox import prctl
from toka_cli.sandbox.tree import children, descendants, is_alive
from toka_cli.supervisor.cgroup import Leaf, make_leaf, remove_stale, wanted
from toka_cli.supervisor.disk import DiskWatch
from toka_cli.supervisor.folders import MAX_ENTRIES
from toka_cli.supervisor.governor import Governor
from toka_cli.supervisor.process import CellProcess
from toka_cli.supervisor.scarcity import Scarcity
from toka_cli.supervisor.spawn import ForkServer, FreshInterpreters, Spawner

KILL_TIMEOUT_S: Final = 10.0
EMPTY_LOOKS: Final = 3


class AgentProcessManager:
    """Owns every cell process of a run. `async with`: at the end of the block no process is left."""

    def __init__(self, start_method: str, *, cgroups: bool = True, spare: Callable[[], set[int]] = set) -> None:
        """`start_method` is `forkserver` or `fresh`; without `cgroups` limits of trees are held by polling alone. `spare`: children that are not strays."""
        self._spare = spare
        self._start_method = start_method
        self._cgroups = cgroups
        self._spawner: Spawner | None = None
        self._governor = Governor(on_lost=self._lost)
        self._cells: set[CellProcess] = set()
        self._sweeps: set[asyncio.Task[None]] = set()
        self._leaves: list[Leaf] = []
        self._troubles: list[tuple[str, str]] = []
        self._scarcity = Scarcity()
        self._disk = DiskWatch(self._governor.freeze_tree)

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
        await self._disk.close()
        await self.sweep()
        for leaf in self._leaves:
            leaf.remove()
        assert self._spawner is not None
        self._spawner.close()

    def troubles(self) -> list[tuple[str, str]]:
        """What could not be done as planned since the last call and was done in a weaker way: a code and a sentence each."""
        said, self._troubles = self._troubles, []
        return said

    def shortage(self, places: tuple[Path, ...]) -> str | None:
        """Why nothing more should be started now; None while memory and the file systems of `places` have room."""
        return self._scarcity.look(places)

    async def start(self, request: SpawnRequest, cell_log: Path) -> CellProcess:
        """A new cell; its pid is known and its door is open. Raises Unavailable, with the code `disk_full` where there is no room for its log."""
        before = await self._disk.begin(request)
        try:
            cell = await self._start(request, cell_log)
        except OSError as error:
            # Too few descriptors pass like too few processes do; a full disk is waited for.
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            failure = Unavailable(f"no process can be started: {error.strerror}", code="disk_full" if full else None)
            failure.retryable = error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
            raise failure from error
        if not cell.ended.done():
            cell.also_held = self._disk.watch(cell, request, before)
            cell.last_look = lambda: self._disk.last_look(cell)
            if cell.also_held.get("disk", "sampled") != "sampled":
                self._troubles.append(("disk", f"max_disk_usage is held for private folders only: {request.workdir} has more than {MAX_ENTRIES} entries"))
        return cell

    async def _start(self, request: SpawnRequest, cell_log: Path) -> CellProcess:
        assert self._spawner is not None
        apart = request.walls is not None and request.walls.level == "full"
        with ExitStack() as theirs:
            log = os.open(cell_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            theirs.callback(os.close, log)
            door, their_door = socket.socketpair()
            theirs.enter_context(their_door)
            lifeline, their_lifeline = socket.socketpair()
            theirs.enter_context(their_lifeline)
            handover = their_handover = None
            if apart and request.walls is not None and request.walls.network == "proxy":
                handover, their_handover = socket.socketpair()
                theirs.enter_context(their_handover)
            # Process 1 of a cell with namespaces of its own is toka's too.
            cell = CellProcess(door, self._governor, own_processes=2 if apart else 1)
            descriptors = (their_door.fileno(), their_lifeline.fileno(), log)
            try:
                cell.shim_pid = await self._spawner.spawn(request, descriptors if their_handover is None else (*descriptors, their_handover.fileno()))
            except BaseException:
                door.close()
                lifeline.close()
                if handover is not None:
                    handover.close()
                raise
        lifeline.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: cell, sock=lifeline)
        self._cells.add(cell)
        cell.ended.add_done_callback(lambda _: self._forget(cell))
        if handover is not None:
            with handover:
                await cell.receive_listener(handover)
        if not await asyncio.shield(cell.forked):
            cell.door.close()
            if cell.proxy_listener is not None:
                cell.proxy_listener.close()
            raise Unavailable("the cell ended before it began", hint=f"its own words are in {cell_log}")
        # The cell waits for its brief: nothing of the agent runs before it is in its group.
        cell.leaf = self._leaf(request, cell)
        self._governor.watch(cell, request.limits)
        return cell

    def _leaf(self, request: SpawnRequest, cell: CellProcess) -> Leaf | None:
        limits = request.limits
        if limits.max_processes is not None:
            # A leaf leaves room for one process of toka's.
            limits = msgspec.structs.replace(limits, max_processes=limits.max_processes + cell.own_processes - 1)
        promised = set(wanted(limits)) if self._cgroups else set()
        leaf = make_leaf(request.agent_id, limits) if promised else None
        if leaf is not None:
            try:
                _add_tree(leaf, cell.pid)
            except OSError:
                leaf.remove()
                leaf = None
        missing = promised - (leaf.held if leaf is not None else set())
        if missing:
            # What the plan promised to hold by a group is held by polling then; the cell's record says so.
            self._troubles.append(("cgroup", f"no cgroup can be made any more for {', '.join(sorted(missing))}: these limits are held by polling"))
        return leaf

    def _lost(self, controllers: set[str]) -> None:
        """Groups hold nothing any more that somebody else divides anew."""
        self._troubles.append(("cgroup", f"the cgroup limits of {', '.join(sorted(controllers))} were taken away: these limits are held by polling"))

    def _forget(self, cell: CellProcess) -> None:
        self._cells.discard(cell)
        self._governor.forget(cell)
        self._disk.forget(cell)
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
            kept = self._spawner.own_children() | self._spare() | {cell.shim_pid for cell in self._cells}
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


def _add_tree(leaf: Leaf, pid: int) -> None:
    """Put a process into the group, and what it has forked already; what is forked from now on is born there. Raises OSError."""
    done = {pid}
    leaf.add(pid)
    while news := [each for each in descendants(pid) if each not in done]:
        for each in news:
            done.add(each)
            # It can have ended; a process that ends needs no group.
            with suppress(ProcessLookupError):
                leaf.add(each)
