"""The owner's handle on a cell: what the kernel knows of a tree that it ended by itself is in the account of its end."""

from __future__ import annotations

import asyncio
import socket

import msgspec

from toka_cli.protocol.frames import pack_bytes
from toka_cli.protocol.messages import Limits, ShimReport
from toka_cli.supervisor.cgroup import Base, Leaf
from toka_cli.supervisor.governor import Governor
from toka_cli.supervisor.process import CellProcess


def end_of(tmp_path, *, killed):
    """The end of a cell whose shim saw little, and whose group of version 2 had these files."""
    (tmp_path / "memory.events").write_text(f"low 0\nhigh 0\nmax 12\noom 1\noom_kill {killed}\noom_group_kill {killed}\n")
    (tmp_path / "memory.peak").write_text("209715200\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 5400000\nuser_usec 5000000\nsystem_usec 400000\n")

    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            cell = CellProcess(ours, Governor())
            cell.leaf = Leaf(folders={"memory": Base(tmp_path, 2)}, held={"memory"})
            cell._take(ShimReport("empty", cpu_time_s=0.03, peak_memory_bytes=150 << 20))
            return await cell.ended

    return asyncio.run(main())


def test_a_group_that_was_out_of_memory_had_reached_its_limit(tmp_path):
    """It is ended as a whole, the cell with it, between two looks of anybody else."""
    end = end_of(tmp_path, killed=3)
    assert end.peak_memory_bytes == 200 << 20
    assert end.cpu_time_s == 5.4


def test_otherwise_the_peak_is_that_of_processes(tmp_path):
    """A group's own counts files that were read as well."""
    assert end_of(tmp_path, killed=0).peak_memory_bytes == 150 << 20


def test_what_the_kernel_did_is_known_once_it_has_settled(tmp_path):
    """Whoever sees the end in the same turn of the loop in which it came must not take an end by the kernel for a failure of the task."""
    (tmp_path / "memory.events").write_text("oom_kill 1\n")
    (tmp_path / "memory.peak").write_text("209715200\n")

    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            governor = Governor()
            cell = CellProcess(ours, governor)
            cell.leaf = Leaf(folders={"memory": Base(tmp_path, 2)}, held={"memory"})
            governor.watch(cell, Limits(memory_bytes=200 << 20))
            cell._take(ShimReport("empty", cpu_time_s=0.03, peak_memory_bytes=150 << 20))
            await cell.settle()
            await governor.close()
            return cell.breached.result()

    assert asyncio.run(main()).startswith("limit.memory: resource limit exceeded: memory usage ")


def test_an_order_that_comes_too_late_loses_no_last_word():
    """The shim has said how it ended and is gone, and the owner, busy elsewhere, wants it killed before it has read that."""

    async def main():
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        cell = CellProcess(ours, Governor())
        await asyncio.get_running_loop().create_connection(lambda: cell, sock=ours)
        with theirs:
            theirs.sendall(pack_bytes(msgspec.json.encode(ShimReport("empty", cpu_time_s=1.5, peak_memory_bytes=150 << 20))))
        cell.order("kill")
        cell.order("kill")
        return await asyncio.wait_for(cell.ended, 10)

    end = asyncio.run(main())
    assert (end.lost, end.peak_memory_bytes, end.cpu_time_s) == (False, 150 << 20, 1.5)
