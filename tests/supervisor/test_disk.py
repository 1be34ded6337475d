"""What agents take on disk: folders and open files measured as the kernel keeps them, and who is charged with what, on real cells."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from toka_cli.sandbox.tree import written_by
from toka_cli.supervisor.disk import _Account, _meet
from toka_cli.supervisor.folders import measure, unnamed_bytes

MIB = 1 << 20


def fill(path, size):
    with open(path, "wb") as file:
        file.write(os.urandom(MIB) * (size // MIB))
        file.flush()
        os.fsync(file.fileno())


# --- measuring -------------------------------------------------------------------------------------------------------------------------------


def test_a_folder_takes_what_its_files_take(tmp_path):
    before = measure(str(tmp_path))
    assert before.whole
    (tmp_path / "a" / "b").mkdir(parents=True)
    fill(tmp_path / "a" / "b" / "one", 3 * MIB)
    fill(tmp_path / "two", 2 * MIB)
    taken = measure(str(tmp_path)).taken_bytes - before.taken_bytes
    assert 5 * MIB <= taken < 6 * MIB


def test_what_is_not_really_there_and_what_is_there_twice_is_not_counted(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    fill(outside / "big", 4 * MIB)
    inside = tmp_path / "inside"
    inside.mkdir()
    fill(inside / "one", 2 * MIB)
    os.link(inside / "one", inside / "again")
    os.symlink(outside, inside / "folder")
    os.symlink(outside / "big", inside / "file")
    with open(inside / "sparse", "wb") as file:
        file.truncate(1 << 40)
    taken = measure(str(inside)).taken_bytes
    assert 2 * MIB <= taken < 3 * MIB


def test_what_is_to_be_left_out_is(tmp_path):
    (tmp_path / "private").mkdir()
    fill(tmp_path / "private" / "x", 2 * MIB)
    assert measure(str(tmp_path), frozenset({str(tmp_path / "private")})).taken_bytes < MIB


def test_a_look_is_bounded_and_can_be_broken_off(tmp_path):
    for n in range(30):
        (tmp_path / str(n)).write_bytes(b"x" * 5000)
    found = measure(str(tmp_path), most=10)
    assert not found.whole
    assert 0 < found.taken_bytes <= 10 * 8192
    assert measure(str(tmp_path), stop=lambda: True) == (0, False)
    assert measure(str(tmp_path / "none")) == (0, True)


def test_files_without_a_name_are_found_at_who_holds_them(tmp_path):
    with open(tmp_path / "gone", "w+b") as held, open(tmp_path / "named", "wb") as named:
        os.unlink(tmp_path / "gone")
        for file in (held, named):
            file.write(b"x" * 3 * MIB)
            file.flush()
            os.fsync(file.fileno())
        device = os.stat(tmp_path).st_dev
        again = os.dup(held.fileno())
        try:
            assert 3 * MIB <= unnamed_bytes([os.getpid()], {device}) < 4 * MIB
        finally:
            os.close(again)
        assert unnamed_bytes([os.getpid()], set()) == 0
    assert unnamed_bytes([2**22 + 1], {device}) == 0


def test_the_kernel_keeps_an_account_of_what_a_process_and_its_dead_children_wrote(tmp_path):
    program = f"""
import os, subprocess, sys
sys.path.insert(0, {os.getcwd()!r})
from toka_cli.sandbox.tree import written_by
subprocess.run([sys.executable, "-I", "-S", "-c", "import os; f = open('x', 'wb'); f.write(os.urandom(1 << 20) * 4); f.flush(); os.fsync(f.fileno())"])
found = written_by("self")
print(found.asked, found.dirtied)
"""
    if written_by("self") is None:
        pytest.skip("this kernel keeps no account of what processes write")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    asked, dirtied = map(int, done.stdout.split())
    assert asked >= 4 * MIB
    if os.major(os.stat(tmp_path).st_dev):
        assert dirtied >= 4 * MIB
    assert written_by(2**22 + 1) is None


# --- who is charged --------------------------------------------------------------------------------------------------------------------------


def account(*, alone=True, baseline=100):
    return _Account(1000, "/private", "/work", baseline, alone)


def test_who_is_alone_is_charged_with_all_that_the_workspace_grew():
    one = account()
    assert one.charged(5, 400) == 305
    assert one.charged(5, 50) == 5, "a workspace that shrank is no credit for the private folder"
    assert account(baseline=None).charged(5, 10**9) == 5, "a workspace that is too large is not watched"


def test_who_is_not_alone_never_answers_for_more_than_its_own_tree_has_written():
    one = account(alone=False)
    one.written_before, one.written[7] = 20, 30
    assert one.charged(5, 10**9) == 55
    assert one.charged(5, 110) == 15


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("/a", "/a", True), ("/a/b", "/a", True), ("/a", "/a/b", True), ("/a", "/ab", False), ("/", "/x", True), ("/a/b", "/a/c", False)],
)
def test_workspaces_meet_where_one_lies_in_the_other(one, other, same):
    assert _meet(one, other) is same


# --- real cells ------------------------------------------------------------------------------------------------------------------------------

PLACES = """
def folders(name):
    private = ROOT / f"private-{name}"
    work = ROOT / "work"
    private.mkdir()
    work.mkdir(exist_ok=True)
    return private, work

async def start_in(manager, name, run, disk_bytes):
    import msgspec
    private, work = folders(name)
    limits = m.Limits(disk_bytes=disk_bytes)
    asked = msgspec.structs.replace(request(name, limits=limits), workdir=str(work), environment={"PATH": "/usr/bin:/bin", "HOME": str(private)})
    cell = await manager.start(asked, ROOT / f"{name}.log")
    kernel = Kernel(cell, run, name=name)
    kernel.brief = msgspec.structs.replace(kernel.brief, workdir=str(work))
    return cell, await kernel.open()

async def breach(cell):
    return await asyncio.wait_for(asyncio.shield(cell.breached), 60)
"""
MANY = "for i in 1 2 3 4 5 6 7 8; do head -c 1000000 /dev/urandom > {where}/$i; done; sync; echo done; exec sleep 1000"


@pytest.mark.parametrize("where", [".", "$HOME", "$HOME/deep"])
def test_many_files_are_added_up_and_the_tree_stands_still(with_manager, where):
    body = (
        PLACES
        + f"""
async with AgentProcessManager("forkserver") as manager:
    held = {{}}
    cell, kernel = await start_in(manager, "r-1", "mkdir -p $HOME/deep; {MANY.format(where=where)}", 5_000_000)
    reason = await breach(cell)
    assert cell.also_held == {{"disk": "sampled"}}, cell.also_held
    # A signal is delivered a moment after it was sent.
    give_up = time.monotonic() + 20
    while (states := {{Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[0] for pid in tree.descendants(cell.shim_pid)}}) != {{"T"}}:
        assert time.monotonic() < give_up, states
    cell.order("kill")
    await end(cell)
    return reason
"""
    )
    reason = with_manager(body)
    assert reason.startswith("limit.disk: resource limit exceeded: disk usage ")
    assert "> limit 4.8 MB" in reason


def test_a_file_without_a_name_counts_too(with_manager):
    # Several: one alone could not be larger than the limit.
    source = """
import os, time
held = []
for n in range(8):
    held.append(open("gone", "w+b"))
    os.unlink("gone")
    held[-1].write(os.urandom(1 << 20))
    held[-1].flush()
time.sleep(1000)
"""
    body = (
        PLACES
        + f"""
async with AgentProcessManager("forkserver") as manager:
    cell, kernel = await start_in(manager, "r-1", (sys.executable, "-I", "-S", "-c", {source!r}), 5_000_000)
    reason = await breach(cell)
    cell.order("kill")
    await end(cell)
    return reason
"""
    )
    assert with_manager(body).startswith("limit.disk: ")


def test_who_ended_between_two_looks_is_looked_at_once_more(with_manager):
    body = (
        PLACES
        + """
async with AgentProcessManager("forkserver") as manager:
    cell, kernel = await start_in(manager, "r-1", "for i in 1 2 3 4 5 6; do head -c 1000000 /dev/urandom > $i; done", 5_000_000)
    await end(cell)
    await cell.settle()
    small, kernel = await start_in(manager, "r-2", "head -c 1000000 /dev/urandom > small", 5_000_000)
    await end(small)
    await small.settle()
    return [cell.breached.result(), small.breached.done()]
"""
    )
    reason, again = with_manager(body)
    assert reason.startswith("limit.disk: ")
    assert not again, "what was there before it began is not its own"


def test_an_agent_answers_for_all_its_cells_together(with_manager):
    body = (
        PLACES
        + """
PLACES_MADE = folders
def folders(name):
    return ROOT / "private-r-1", ROOT / "work"
PLACES_MADE("r-1")
async with AgentProcessManager("forkserver") as manager:
    ends = []
    for n in range(3):
        cell, kernel = await start_in(manager, "r-1", f"for i in 1 2; do head -c 1000000 /dev/urandom > {n}-$i; done", 5_000_000)
        await end(cell)
        await cell.settle()
        ends.append(cell.breached.done())
    return ends
"""
    )
    assert with_manager(body) == [False, False, True]


def test_a_neighbour_is_not_charged_with_what_it_did_not_write(with_manager):
    body = (
        PLACES
        + """
os.mkfifo("gate")
async with AgentProcessManager("forkserver") as manager:
    quiet, quiet_kernel = await start_in(manager, "r-1", "echo up; read x < ../gate; echo some > mine", 5_000_000)
    await quiet_kernel.until(b"up")
    loud, loud_kernel = await start_in(manager, "r-2", "for i in 1 2 3 4 5 6 7 8; do head -c 1000000 /dev/urandom > $i; done; sync; exec sleep 1000", 5_000_000)
    reason = await breach(loud)
    assert not quiet.breached.done()
    loud.order("kill")
    await end(loud)
    with open("gate", "w") as file:
        file.write("x\\n")
    await end(quiet)
    await quiet.settle()
    return [reason, quiet.breached.done()]
"""
    )
    reason, quiet = with_manager(body)
    assert reason.startswith("limit.disk: ")
    assert not quiet


def test_a_workspace_that_is_too_large_is_said_not_to_be_watched(with_manager):
    body = (
        PLACES
        + """
import toka_cli.supervisor.disk as disk, toka_cli.supervisor.folders as folders_module
disk.measure.__defaults__ = (*disk.measure.__defaults__[:-1], 10)
(ROOT / "work").mkdir()
for n in range(20):
    (ROOT / "work" / str(n)).touch()
async with AgentProcessManager("forkserver") as manager:
    cell, kernel = await start_in(manager, "r-1", "head -c 8000000 /dev/urandom > big", 5_000_000_0)
    await end(cell)
    await cell.settle()
    return [cell.also_held["disk"], cell.breached.done(), manager.troubles()]
"""
    )
    held, breached, troubles = with_manager(body)
    assert held.startswith("sampled; not in the workspace")
    assert not breached
    assert [code for code, _ in troubles] == ["disk"]
