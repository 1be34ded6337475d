"""Watches what agents take on disk: their private folders, and what they add to the workspace. Looks every two seconds and once more when a cell has ended.

In: cells, their folders and limits. Out: a breach, said once to the cell's handle. A workspace counts by its growth since the agent began. An agent that was
the run's only one in it all that time is charged with all of it; one that shared it never with more than its own tree has written, by the kernel's account:
what a neighbour wrote must not end it. (Space that is reserved and not written is in nobody's account.) A look is bounded in entries.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from toka_cli.protocol.messages import SpawnRequest
from toka_cli.sandbox.tree import Written, descendants, written_by
from toka_cli.supervisor.folders import MAX_ENTRIES, Measure, measure, unnamed_bytes
from toka_cli.units import format_bytes

LOOK_S: Final = 2.0
# Looking takes at most a fifth of the time, however slow the disk is.
REST_FACTOR: Final = 4.0


class Watched(Protocol):
    """Whoever owns a cell. `written` is what its tree has written in all, once nothing of it is left; None until then, or where nobody could say."""

    shim_pid: int
    pid: int
    written: Written | None

    def breach(self, reason: str) -> None:
        """The cell passed a limit."""
        ...


@dataclass(slots=True)
class _Account:
    """What one agent has taken, over all its cells. `baseline` is the workspace's size when it began, None if that is too large to watch."""

    limit: int
    private: str
    workspace: str
    baseline: int | None
    alone: bool
    cells: dict[int, Watched] = field(default_factory=dict)
    # Bytes that trees of its have written: of cells that are gone, and of those that are looked at, by shim.
    written_before: int = 0
    written: dict[int, int] = field(default_factory=dict)

    def charged(self, private: int, workspace: int) -> int:
        """Bytes that it answers for, of those that its private folder holds and those that the workspace does."""
        grown = max(0, workspace - self.baseline) if self.baseline is not None else 0
        return private + (grown if self.alone else min(grown, self.written_before + sum(self.written.values())))


class DiskWatch:
    """Watches cells until they are forgotten. `freeze(shim)` stops a tree that is over its limit, so that it takes no more while it is being ended."""

    def __init__(self, freeze: Callable[[int], None]) -> None:
        self._freeze = freeze
        self._accounts: dict[str, _Account] = {}
        # Where each cell works, also those of agents without a limit; and every private folder, because one can lie in a workspace.
        self._workspaces: dict[int, str] = {}
        self._privates: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._walks: dict[str, asyncio.Task[Measure]] = {}
        self._news = asyncio.Event()
        self._closed = False

    async def begin(self, request: SpawnRequest) -> Measure | None:
        """Measure the workspace before a cell starts in it; None if its agent has no limit, or was measured before an earlier cell."""
        self._privates.add(_private(request))
        if request.limits.disk_bytes is None or request.agent_id in self._accounts:
            return None
        workspace = _workspace(request)
        if workspace not in self._walks:
            # Agents that start together have one baseline.
            walk = asyncio.to_thread(measure, workspace, frozenset(self._privates), lambda: self._closed)
            self._walks[workspace] = asyncio.get_running_loop().create_task(walk)
            self._walks[workspace].add_done_callback(lambda _: self._walks.pop(workspace))
        return await asyncio.shield(self._walks[workspace])

    def watch(self, cell: Watched, request: SpawnRequest, before: Measure | None) -> dict[str, str]:
        """Watch a cell from now on; by which mechanism its limit (`disk`) is held, nothing if it has none."""
        workspace = _workspace(request)
        shared = any(_meet(workspace, there) for there in self._workspaces.values())
        self._workspaces[cell.shim_pid] = workspace
        for agent_id, other in self._accounts.items():
            other.alone = other.alone and not (agent_id != request.agent_id and other.cells and _meet(workspace, other.workspace))
        if request.limits.disk_bytes is None:
            return {}
        account = self._accounts.get(request.agent_id)
        if account is None:
            baseline = before.taken_bytes if before is not None and before.whole else None
            account = self._accounts[request.agent_id] = _Account(request.limits.disk_bytes, _private(request), workspace, baseline, alone=True)
        account.alone = account.alone and not shared
        account.cells[cell.shim_pid] = cell
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
            # Limits that nobody holds any more must not look as if they held: whoever listens for errors of the loop hears of it.
            self._task.add_done_callback(lambda task: None if task.cancelled() else task.result())
        self._news.set()
        return {"disk": "sampled" if account.baseline is not None else f"sampled; not in the workspace, which has more than {MAX_ENTRIES} entries"}

    async def last_look(self, cell: Watched) -> None:
        """The cell has ended: whether it had taken too much."""
        account = next((account for account in self._accounts.values() if cell.shim_pid in account.cells), None)
        if account is not None:
            await self._look([account])
            self._settle(account, cell)

    def forget(self, cell: Watched) -> None:
        """Nothing is left of the cell. Its agent's account stays for a next one."""
        self._workspaces.pop(cell.shim_pid, None)

    async def close(self) -> None:
        """Watch nothing any more."""
        self._closed = True
        for task in [*self._walks.values(), *([self._task] if self._task is not None else [])]:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            if not self._live():
                self._news.clear()
                await self._news.wait()
            await asyncio.sleep(LOOK_S)
            began = time.monotonic()
            await self._look(self._live())
            await asyncio.sleep((time.monotonic() - began) * REST_FACTOR)

    def _live(self) -> list[_Account]:
        return [account for account in self._accounts.values() if any(shim in self._workspaces for shim in account.cells)]

    async def _look(self, accounts: Sequence[_Account]) -> None:
        """Measure beside the loop, then judge."""
        # Of a cell that is gone its shim has said what it had written, and its pid may be somebody else's.
        cells = [cell for account in accounts for shim, cell in account.cells.items() if shim in self._workspaces]
        folders = {account.workspace for account in accounts} | {account.private for account in accounts}
        found = await asyncio.to_thread(self._measure, folders, frozenset(self._privates), cells)
        for account in accounts:
            private = found.folders[account.private].taken_bytes
            for shim, cell in account.cells.items():
                private += found.elsewhere.get(shim, 0)
                written = cell.written or found.written.get(shim)
                if written is not None:
                    now = written.dirtied if _on_a_device(account.workspace) else written.asked
                    account.written[shim] = max(now, account.written.get(shim, 0))
            taken = account.charged(private, found.folders[account.workspace].taken_bytes)
            if taken > account.limit:
                self._breach(account, taken)

    def _breach(self, account: _Account, taken: int) -> None:
        reason = f"limit.disk: resource limit exceeded: disk usage {format_bytes(taken)} > limit {format_bytes(account.limit)}; held by polling"
        for shim, cell in account.cells.items():
            if shim in self._workspaces:
                self._freeze(shim)
            cell.breach(reason)

    def _settle(self, account: _Account, cell: Watched) -> None:
        account.cells.pop(cell.shim_pid, None)
        account.written_before += account.written.pop(cell.shim_pid, 0)

    def _measure(self, folders: set[str], privates: frozenset[str], cells: Iterable[Watched]) -> _Found:
        """What these folders hold, and what these cells' trees have written and hold beside them. In a thread of its own."""
        found = _Found({folder: measure(folder, privates, lambda: self._closed) for folder in folders}, {}, {})
        devices = {device for folder in folders if (device := _device(folder)) is not None}
        for cell in cells:
            tree = [cell.shim_pid, *descendants(cell.shim_pid)]
            accounts = [account for pid in tree if (account := written_by(pid)) is not None]
            if accounts:
                found.written[cell.shim_pid] = Written(sum(each.asked for each in accounts), sum(each.dirtied for each in accounts))
            found.elsewhere[cell.shim_pid] = unnamed_bytes(tree, devices)
        return found


@dataclass(frozen=True, slots=True)
class _Found:
    """What one look found: by folder; by shim what its tree has written, and what it holds in files that have no name any more."""

    folders: dict[str, Measure]
    written: dict[int, Written]
    elsewhere: dict[int, int]


def _workspace(request: SpawnRequest) -> str:
    return os.path.realpath(request.workdir)


def _private(request: SpawnRequest) -> str:
    return os.path.realpath(request.private or request.environment.get("HOME", ""))


def _meet(one: str, other: str) -> bool:
    """True if one folder is the other, or lies in it."""
    return one == other or one.startswith(f"{other.rstrip('/')}/") or other.startswith(f"{one.rstrip('/')}/")


def _on_a_device(folder: str) -> bool:
    """True for a file system on a device of its own, where the kernel counts pages that were made dirty; elsewhere only calls of write(2) are counted."""
    device = _device(folder)
    return device is not None and os.major(device) != 0


def _device(folder: str) -> int | None:
    try:
        return Path(folder).stat().st_dev
    except OSError:
        return None
