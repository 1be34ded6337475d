"""The governor: holds limits of whole process trees where no cgroup does, by looking and acting. Memory and processes end the agent; CPU is a duty cycle.

In: cells and their limits. Out: a breach (said once, to the cell's handle), and SIGSTOP/SIGCONT in turns. Held by polling: between two looks a tree can be over
its limit, so the plan calls it `sampled`.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from toka_cli.protocol.messages import Limits
from toka_cli.sandbox.tree import descendants, signal_below
from toka_cli.supervisor.cgroup import Leaf
from toka_cli.supervisor.resources import Sample, sample_process, taken_bytes, without_base
from toka_cli.units import format_bytes

# How soon a tree is looked at again: soon while it is busy or near its limit, late while it is quiet.
NEAR_S: Final = 0.05
FAR_S: Final = 0.25
NEAR_SHARE: Final = 0.5
# What may be saved up for a burst, in seconds of the tree's own share.
BURST_S: Final = 0.1
# A tree that forks faster than it can be stopped is given up on for this round, not for ever.
STOP_ROUNDS: Final = 8


class Breached(Protocol):
    """Whoever owns a cell."""

    shim_pid: int
    leaf: Leaf | None
    own_processes: int

    def breach(self, reason: str, memory_bytes: int | None = None) -> None:
        """The cell passed a limit; its tree took `memory_bytes` then, where that was looked at."""
        ...


@dataclass(slots=True)
class _Tree:
    """One cell under watch. `credit` is CPU seconds it may use now; below zero it rests."""

    cell: Breached
    limits: Limits
    now: float
    next_at: float
    cpu_s: float = 0.0
    dipped: bool = False
    credit: float = 0.0
    resting: bool = False
    frozen: bool = False


class Governor:
    """Watches trees until they are forgotten. One task in the owner's loop; a look at a quiet tree costs about 0.1 ms."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, on_lost: Callable[[set[str]], None] = lambda lost: None) -> None:
        """`on_lost` is told which controllers of a group hold nothing any more; their limits are held by looking from then on."""
        self._clock = clock
        self._on_lost = on_lost
        self._trees: dict[int, _Tree] = {}
        self._limits: dict[int, Limits] = {}
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    def watch(self, cell: Breached, limits: Limits) -> None:
        """Hold the limits of a cell from now on, if it has any that looking can hold."""
        if limits.memory_bytes is None and limits.max_processes is None and limits.cpu_share is None:
            return
        self._limits[cell.shim_pid] = limits
        now = self._clock()
        self._trees[cell.shim_pid] = _Tree(cell, limits, now, now + NEAR_S)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
            # Limits that nobody holds any more must not look as if they held: whoever listens for errors of the loop hears of it.
            self._task.add_done_callback(lambda task: None if task.cancelled() else task.result())
        self._news.set()

    def forget(self, cell: Breached) -> None:
        """The cell has ended. What the kernel did to it between two looks is said now."""
        limits = self._limits.pop(cell.shim_pid, None)
        self._trees.pop(cell.shim_pid, None)
        if limits is not None and cell.leaf is not None:
            _ask_kernel(cell, cell.leaf, limits)

    def release(self, cell: Breached) -> None:
        """The cell is to be stopped: let it run so that it can obey, and hold its CPU no more."""
        self._trees.pop(cell.shim_pid, None)
        if cell.leaf is not None:
            cell.leaf.free_cpu()
        # Whoever stopped it: a tree without limits can be frozen too, and a cell can have stopped itself.
        signal_tree(cell.shim_pid, signal.SIGCONT)

    def freeze(self, cell: Breached) -> None:
        """Stop every process of the tree until `thaw`."""
        self.freeze_tree(cell.shim_pid)

    def freeze_tree(self, shim_pid: int) -> None:
        """Stop every process below this shim until `thaw`."""
        tree = self._trees.get(shim_pid)
        if tree is not None:
            tree.frozen = True
        signal_tree(shim_pid, signal.SIGSTOP)

    def thaw(self, cell: Breached) -> None:
        """Let a frozen tree go on."""
        tree = self._trees.get(cell.shim_pid)
        if tree is not None:
            tree.frozen = tree.resting = False
            tree.now = self._clock()
        signal_tree(cell.shim_pid, signal.SIGCONT)

    async def close(self) -> None:
        """Watch nothing any more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            if not self._trees:
                self._news.clear()
                await self._news.wait()
            due = min(tree.next_at for tree in self._trees.values())
            await asyncio.sleep(max(due - self._clock(), 0.001))
            now = self._clock()
            for tree in [tree for tree in self._trees.values() if tree.next_at <= now]:
                self._look(tree)
                # Calls of other cells are answered between two looks.
                await asyncio.sleep(0)

    def _look(self, tree: _Tree) -> None:
        if tree.frozen:
            # Who forked faster than it could be stopped is met now, or at the next look.
            signal_tree(tree.cell.shim_pid, signal.SIGSTOP)
            tree.next_at = self._clock() + FAR_S
            return
        root = tree.cell.shim_pid
        samples = [sample for pid in descendants(root) if (sample := sample_process(pid)) is not None]
        shim = sample_process(root)
        samples = without_base(samples, shim, tree.cell.own_processes)
        # What ended and was waited for is in the counters of whoever waited; the shim waits for orphans.
        used = sum(sample.cpu_s for sample in samples) + (shim.children_cpu_s if shim is not None else 0.0)
        # Processes first: their memory is looked at one by one.
        leaf = tree.cell.leaf
        held = leaf.held if leaf is not None else set()
        if leaf is not None:
            _ask_kernel(tree.cell, leaf, tree.limits)
            if lost := leaf.lost():
                # From here on its CPU is counted; what it used before was the group's to hold.
                tree.cpu_s, tree.now = used, self._clock()
                self._on_lost(lost)
        near = "pids" not in held and self._hold_processes(tree, samples)
        if not tree.frozen and "memory" not in held:
            near = self._hold_memory(tree, samples) or near
        if not tree.frozen and "cpu" not in held:
            near = self._hold_cpu(tree, used) or near
        if not tree.resting:
            tree.next_at = self._clock() + (NEAR_S if near else FAR_S)

    def _hold_memory(self, tree: _Tree, samples: list[Sample]) -> bool:
        limit = tree.limits.memory_bytes
        if limit is None:
            return False
        resident = sum(sample.resident_bytes for sample in samples)
        if resident > limit:
            # The sum counts pages that processes share once for each; only the proportional sum says what the tree takes.
            shares = [(taken_bytes(sample), sample.name) for sample in samples]
            if sum(size for size, _ in shares) > limit:
                # While processes end, the shares of the others grow, and a sum over several moments can be more than there ever was: only twice is proof.
                shares = [(taken_bytes(sample), sample.name) for sample in samples]
            total = sum(size for size, _ in shares)
            if total > limit:
                largest, name = max(shares)
                self._breach(
                    tree,
                    f"limit.memory: resource limit exceeded: memory usage {format_bytes(total)} > limit {format_bytes(limit)}"
                    f" (largest: {name} {format_bytes(largest)}); held by polling",
                    total,
                )
        return resident > limit * NEAR_SHARE

    def _breach(self, tree: _Tree, reason: str, memory_bytes: int | None = None) -> None:
        """Say it, and let nothing of the tree run until it is ended: it would grow meanwhile."""
        tree.frozen = True
        signal_tree(tree.cell.shim_pid, signal.SIGSTOP)
        tree.cell.breach(reason, memory_bytes)

    def _hold_processes(self, tree: _Tree, samples: list[Sample]) -> bool:
        limit = tree.limits.max_processes
        # The cell itself is toka's, not the agent's, and so is process 1 of its namespace.
        count = len(samples) - tree.cell.own_processes
        if limit is None:
            return False
        if count > limit:
            self._breach(tree, f"limit.processes: resource limit exceeded: {count} processes > limit {limit}; held by polling")
        return count > limit * NEAR_SHARE

    def _hold_cpu(self, tree: _Tree, used: float) -> bool:
        share = tree.limits.cpu_share
        now = self._clock()
        passed, tree.now = now - tree.now, now
        spent = max(0.0, used - tree.cpu_s)
        # /proc can leave out a process for a moment, so one look with less than before says nothing. Two say that processes ended for whom nobody waited:
        # what they used is in no counter any more, and those that follow must not use it again for nothing.
        dipped = used < tree.cpu_s
        if not dipped or tree.dipped:
            tree.cpu_s = used
        tree.dipped = dipped
        if share is None:
            return False
        tree.credit = min(tree.credit + share * passed - spent, share * BURST_S)
        if tree.credit < 0 and not tree.resting:
            tree.resting = True
            signal_tree(tree.cell.shim_pid, signal.SIGSTOP)
        elif tree.credit >= 0 and tree.resting:
            tree.resting = False
            signal_tree(tree.cell.shim_pid, signal.SIGCONT)
        if tree.resting:
            tree.next_at = now + min(max(-tree.credit / share, 0.005), FAR_S)
        return spent > share * passed * NEAR_SHARE


def _ask_kernel(cell: Breached, leaf: Leaf, limits: Limits) -> None:
    """Say what the cgroup did: it ended a process for want of memory, or refused a fork."""
    if leaf.out_of_memory() and limits.memory_bytes is not None:
        peak = leaf.peak_memory_bytes() or limits.memory_bytes
        limit = format_bytes(limits.memory_bytes)
        cell.breach(f"limit.memory: resource limit exceeded: memory usage {format_bytes(peak)} > limit {limit}; held by cgroup", peak)
    elif leaf.refused_processes():
        cell.breach(f"limit.processes: resource limit exceeded: more than {limits.max_processes} processes; held by cgroup")


def signal_tree(root: int, signum: int) -> None:
    """Signal every process below `root`, again until no new one appears: what forks while it is stopped is found in the next round."""
    done: set[int] = set()
    with suppress(ProcessLookupError):
        for _ in range(STOP_ROUNDS):
            if not signal_below(root, signum, done):
                return
