"""The governor on real trees below a process of the test, and its bookkeeping of CPU time on made-up looks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from toka_cli.protocol.messages import Limits
from toka_cli.sandbox.tree import descendants
from toka_cli.supervisor import governor as module
from toka_cli.supervisor.cgroup import Leaf
from toka_cli.supervisor.governor import Governor, signal_tree
from toka_cli.supervisor.resources import Sample, taken_bytes

MIB = 1 << 20


class Cell:
    """What owns a tree; the root itself is never signalled."""

    def __init__(self, shim_pid):
        self.shim_pid = shim_pid
        self.leaf = None
        self.own_processes = 1
        self.breaches = []
        self.breached = asyncio.Event()

    def breach(self, reason, memory_bytes=None):
        self.breaches.append((reason, memory_bytes))
        self.breached.set()


@pytest.fixture
def tree():
    """Starts a shell with what it runs below it; `up` lines of its output say that everything is there."""
    started = []

    def start(script, lines=1):
        process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
        started.append(process)
        for _ in range(lines):
            assert process.stdout.readline()
        return process.pid

    yield start
    for process in started:
        # Known before the first of them ends: a session of its own whose parent is gone is nobody's descendant any more.
        known = list(descendants(process.pid))
        signal_tree(process.pid, signal.SIGKILL)
        for pid in known:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
        process.stdout.close()
        # What lost its parent on the way is nobody's descendant any more; it is still of the group.
        give_up = time.monotonic() + 10
        while time.monotonic() < give_up:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                break


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def states(root):
    return {state(pid) for pid in descendants(root)}


def settled(root, wanted):
    """A signal is delivered a moment after it was sent: look again until the tree is in one of these states, at most ten seconds."""
    give_up = time.monotonic() + 10
    while not (found := states(root)) <= wanted:
        assert time.monotonic() < give_up, found
    return True


# In its own session a child is in a process group of its own.
TREE = "(setsid sh -c 'sleep 1000 & echo up; wait' & sleep 1000 & wait) & wait"


@pytest.mark.parametrize("limits", [Limits(), Limits(memory_bytes=1 << 40)], ids=["without limits", "with limits"])
@pytest.mark.parametrize("end", ["thaw", "release"])
def test_a_frozen_tree_stands_still_until_it_is_let_go(tree, limits, end):
    root = tree(TREE)

    async def main():
        governor, cell = Governor(), Cell(root)
        governor.watch(cell, limits)
        governor.freeze(cell)
        assert settled(root, {"T"})
        assert state(root) != "T"
        getattr(governor, end)(cell)
        assert settled(root, {"S", "R"})
        await governor.close()

    asyncio.run(main())


def test_only_the_tree_is_signalled(tree):
    """Neither its root, nor what shares the root's process group from above, nor a neighbour."""
    root, neighbour = tree(TREE), tree(TREE)
    signal_tree(root, signal.SIGSTOP)
    assert settled(root, {"T"})
    assert state(root) != "T"
    assert "T" not in states(neighbour)
    assert state(os.getpid()) != "T"


def test_too_much_memory_is_a_breach_and_the_tree_stands_still(tree):
    root = tree("python3 -I -S -c 'x = b\"x\" * (60 << 20); print(flush=True); import time; time.sleep(1000)' & wait")

    async def main():
        governor, cell = Governor(), Cell(root)
        governor.watch(cell, Limits(memory_bytes=40 * MIB))
        await asyncio.wait_for(cell.breached.wait(), 30)
        assert settled(root, {"T"})
        await governor.close()
        return cell.breaches

    ((reason, size),) = asyncio.run(main())
    assert reason.startswith("limit.memory: resource limit exceeded: memory usage ")
    assert "held by polling" in reason
    assert size >= 60 * MIB


def test_memory_below_the_limit_is_none(tree):
    root = tree("python3 -I -S -c 'x = b\"x\" * (60 << 20); print(flush=True); import time; time.sleep(1000)' & wait")
    looks = []

    async def main():
        governor, cell = Governor(), Cell(root)
        looked = asyncio.Event()
        original = governor._look

        def look(watched):
            original(watched)
            looks.append(watched)
            if len(looks) == 3:
                looked.set()

        governor._look = look
        governor.watch(cell, Limits(memory_bytes=200 * MIB, max_processes=5))
        await asyncio.wait_for(looked.wait(), 30)
        await governor.close()
        return cell.breaches

    assert asyncio.run(main()) == []


def test_processes_that_are_ending_are_not_taken_for_what_they_were(tree, monkeypatch):
    """Between the look at a process and the look at its memory it can end; and one odd sum proves nothing."""
    root = tree("sleep 1000 & echo up; wait")
    (pid,) = descendants(root)
    gone = Sample(2**22 + 1, "gone", 500 * MIB, 0.0, 0.0)
    assert taken_bytes(gone) == 0
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    assert taken_bytes(Sample(zombie.pid, "zombie", 500 * MIB, 0.0, 0.0)) == 0
    zombie.wait()
    cell, sizes = Cell(root), [500 * MIB, 10 * MIB, 500 * MIB, 500 * MIB]
    monkeypatch.setattr(module, "taken_bytes", lambda sample: sizes.pop(0))
    governor, watched = Governor(), module._Tree(cell, Limits(memory_bytes=100 * MIB), 0.0, 0.0)
    large = [Sample(pid, "x", 600 * MIB, 0.0, 0.0)]
    governor._hold_memory(watched, large)
    assert cell.breaches == []
    governor._hold_memory(watched, large)
    assert len(cell.breaches) == 1


def test_a_fork_bomb_is_stopped_as_a_whole(tree):
    """It doubles as fast as it can, up to 1023 processes; none of them runs on after the breach."""
    root = tree("f() { [ $1 -gt 0 ] || exec sleep 1000; f $(($1 - 1)) & f $(($1 - 1)) & wait; }; echo up; (f 9) & wait")

    async def main():
        governor, cell = Governor(), Cell(root)
        governor.watch(cell, Limits(max_processes=20))
        await asyncio.wait_for(cell.breached.wait(), 60)
        # In a thread: who forked while it was being stopped is met at the next look, which is another turn of this loop.
        assert await asyncio.to_thread(settled, root, {"T", "Z"})
        await governor.close()
        return cell.breaches

    ((reason, _),) = asyncio.run(main())
    assert reason.startswith("limit.processes: resource limit exceeded: ")


def test_where_a_group_lost_its_limit_looking_holds_it(tree, tmp_path):
    """A daemon-reload of systemd takes the controllers of a group that it did not give away: the files are gone then, with what they held."""
    root = tree("for i in 1 2 3 4 5; do sleep 1000 & done; echo; wait")
    lost = []

    async def main():
        governor, cell = Governor(on_lost=lost.append), Cell(root)
        limit = tmp_path / "pids.max"
        limit.write_text("3\n")
        cell.leaf = Leaf(held={"pids"}, written={"pids": (limit, "3")})
        governor.watch(cell, Limits(max_processes=2))
        governor._look(governor._trees[root])
        held = list(cell.breaches)
        limit.unlink()
        await asyncio.wait_for(cell.breached.wait(), 30)
        await governor.close()
        return held, cell.breaches

    held, ((reason, _),) = asyncio.run(main())
    assert held == [], "the group's to hold, as long as it does"
    assert reason.startswith("limit.processes: resource limit exceeded: ")
    assert "held by polling" in reason
    assert lost == [{"pids"}]


def test_what_was_forgotten_is_not_looked_at(tree):
    root, second = tree("sleep 1000 & sleep 1000 & echo up; wait"), tree("sleep 1000 & sleep 1000 & sleep 1000 & echo up; wait")

    async def main():
        governor, cell, other = Governor(), Cell(root), Cell(second)
        governor.watch(cell, Limits(max_processes=1))
        # One of two is the cell itself: at the limit is not above it.
        governor.watch(other, Limits(max_processes=1))
        governor.forget(cell)
        await asyncio.wait_for(other.breached.wait(), 30)
        await governor.close()
        return cell.breaches, len(other.breaches)

    assert asyncio.run(main()) == ([], 1)


def test_a_governor_that_breaks_is_heard_of(tree, monkeypatch):
    """Limits that nobody holds any more must not look as if they held."""
    root = tree("sleep 1000 & echo up; wait")

    def broken(pid):
        raise RuntimeError("broken")

    monkeypatch.setattr(module, "sample_process", broken)

    async def main():
        heard = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.set_result(str(context["exception"])))
        governor = Governor()
        governor.watch(Cell(root), Limits(max_processes=1))
        assert await asyncio.wait_for(heard, 30) == "broken"
        with pytest.raises(RuntimeError):
            await governor.close()

    asyncio.run(main())


# --- the account of CPU time ------------------------------------------------------------------------------------------------------------------


class Account:
    """A tree of one process whose CPU time the test says; the clock too."""

    def __init__(self, monkeypatch, share):
        self.used, self.now, self.signals = 0.0, 0.0, []
        monkeypatch.setattr(module, "descendants", lambda root: [1])
        monkeypatch.setattr(module, "sample_process", lambda pid: Sample(pid, "x", 0, self.used if pid == 1 else 0.0, 0.0))
        monkeypatch.setattr(module, "signal_tree", lambda root, signum: self.signals.append(signum))
        self.governor = Governor(lambda: self.now)
        self.tree = module._Tree(Cell(2), Limits(cpu_share=share), 0.0, 0.0)

    def look(self, passed, used):
        self.now += passed
        self.used = used
        self.governor._look(self.tree)
        return self.tree.resting


def test_who_used_more_than_its_share_rests_until_it_is_paid_back(monkeypatch):
    account = Account(monkeypatch, 0.5)
    assert not account.look(0.1, 0.05)
    assert account.look(0.1, 0.25)
    assert account.look(0.1, 0.25)
    assert not account.look(0.3, 0.25)
    assert account.signals == [signal.SIGSTOP, signal.SIGCONT]


def test_nothing_is_saved_up_for_long(monkeypatch):
    account = Account(monkeypatch, 0.5)
    account.look(1000.0, 0.0)
    assert account.look(0.2, 0.4)


def test_what_was_used_while_a_group_held_it_is_no_debt(monkeypatch, tmp_path):
    account = Account(monkeypatch, 0.5)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    account.tree.cell.leaf = Leaf(held={"cpu"}, written={"cpu": (tmp_path / "cpu.max", "50000 100000")})
    assert not account.look(1.0, 20.0)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert not account.look(0.05, 20.1)
    assert account.tree.cell.leaf.held == set()
    assert account.look(0.1, 20.3), "from then on it is counted"


def test_a_gap_in_one_look_is_not_counted_twice(monkeypatch):
    account = Account(monkeypatch, 1.0)
    account.look(1.0, 1.0)
    account.look(0.05, 0.0)
    assert not account.look(0.05, 1.1)


def test_children_that_nobody_waits_for_do_not_work_for_nothing(monkeypatch):
    """Their time is in nobody's account once they are gone; what the next ones use must be seen again."""
    account = Account(monkeypatch, 0.5)
    account.look(2.0, 1.0)
    account.look(0.05, 0.0)
    account.look(0.05, 0.0)
    assert account.look(0.05, 0.5), "below what the dead had used, and still more than its share"


def test_time_while_frozen_gives_no_credit_and_no_debt(monkeypatch):
    account = Account(monkeypatch, 0.5)
    account.look(0.1, 0.2)
    assert account.tree.resting
    account.governor._trees[2] = account.tree
    account.governor.freeze(account.tree.cell)
    account.look(100.0, 0.2)
    account.governor.thaw(account.tree.cell)
    assert account.signals[-1] == signal.SIGCONT
    assert account.tree.now == account.now
    assert account.look(0.1, 0.4), "the debt from before is still there"


def test_the_hot_path_reads_real_processes(tree):
    root = tree("while :; do :; done & echo up; wait")
    (busy,) = descendants(root)
    give_up = time.monotonic() + 30
    while (sample := module.sample_process(busy)).cpu_s <= 0.05:
        assert time.monotonic() < give_up
    assert sample.name == "sh"
    assert sample.resident_bytes > 0
    assert module.sample_process(2**22 + 1) is None
