"""Control groups on the real thing: what a leaf says it holds is held by the kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

from toka_cli.protocol.messages import Limits
from toka_cli.supervisor import cgroup

MIB = 1 << 20


@pytest.fixture(autouse=True)
def fresh_bases():
    cgroup.bases.cache_clear()
    yield
    cgroup.bases.cache_clear()


@pytest.fixture
def leaf():
    made: list[cgroup.Leaf] = []

    def make(controller: str, limits: Limits) -> cgroup.Leaf:
        if controller not in cgroup.bases():
            pytest.skip(f"this process may not make a cgroup for {controller}")
        one = cgroup.make_leaf("test", limits)
        assert one is not None
        made.append(one)
        return one

    yield make
    for one in made:
        assert one.remove(), "something is left in the group"


def start(leaf: cgroup.Leaf, code: str) -> subprocess.Popen[str]:
    """A process that runs `code` once it is in the group."""
    process = subprocess.Popen([sys.executable, "-I", "-c", f"input()\n{code}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    leaf.add(process.pid)
    return process


def test_a_tree_cannot_take_more_memory_than_its_group(leaf):
    group = leaf("memory", Limits(memory_bytes=60 * MIB))
    process = start(group, "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'bytearray(200 << 20)']).returncode)")
    out, _ = process.communicate("\n", timeout=60)
    assert out.strip() in {"-9", ""}
    assert group.out_of_memory()
    assert (group.peak_memory_bytes() or 0) <= 60 * MIB


def test_a_tree_below_its_limit_is_left_alone(leaf):
    group = leaf("memory", Limits(memory_bytes=200 * MIB))
    out, _ = start(group, "x = bytearray(50 << 20); print(len(x))").communicate("\n", timeout=60)
    assert out.strip() == str(50 * MIB)
    assert not group.out_of_memory()


def test_a_fork_beyond_the_limit_is_refused(leaf):
    group = leaf("pids", Limits(max_processes=5))
    code = """
import os, time
made = 0
for _ in range(20):
    try:
        pid = os.fork()
    except BlockingIOError:
        break
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    made += 1
print(made, flush=True)
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.killpg(0, signal.SIGTERM)
"""
    process = start(group, "import os; os.setpgid(0, 0)\n" + code)
    out, _ = process.communicate("\n", timeout=60)
    # The group holds one more than the limit: an agent's cell is toka's own.
    assert out.strip() == "5"
    assert group.refused_processes()


def test_a_share_of_a_core_is_written_as_quota_and_period(leaf):
    group = leaf("cpu", Limits(cpu_share=0.25))
    base = group.folders["cpu"]
    names = ("cpu.max",) if base.version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    assert " ".join((base.folder / name).read_text().strip() for name in names) == "25000 100000"


def test_only_what_is_limited_is_held(leaf):
    group = leaf("pids", Limits(max_processes=3))
    assert group.held == {"pids"}
    assert not group.out_of_memory()
    assert group.peak_memory_bytes() is None


def test_where_no_group_can_be_made_nothing_is_claimed(monkeypatch, tmp_path):
    (tmp_path / "cgroup.subtree_control").write_text("memory pids\n")
    monkeypatch.setattr(cgroup, "_candidates", lambda: iter([("memory", cgroup.Base(tmp_path, 2)), ("pids", cgroup.Base(tmp_path / "none", 1))]))
    # An ordinary folder takes files and gives them back; the group is only claimed for what can be read as one.
    assert cgroup.make_leaf("test", Limits(max_processes=3)) is None
    assert "pids" not in cgroup.bases()


def test_a_limit_that_does_not_read_back_is_not_held(monkeypatch, tmp_path):
    monkeypatch.setattr(cgroup, "_candidates", lambda: iter([("pids", cgroup.Base(tmp_path, 1))]))
    monkeypatch.setattr(cgroup, "_write", lambda path, text: path.write_text("max"))
    assert cgroup.bases() == {}
    assert cgroup.make_leaf("test", Limits(max_processes=3)) is None


def test_groups_of_owners_that_are_gone_are_removed_and_others_stay(leaf):
    group = leaf("pids", Limits(max_processes=3))
    folder = group.folders["pids"].folder.parent
    gone = subprocess.Popen(["true"])
    gone.wait()
    stale = folder / f"toka-someone-1-{gone.pid}-1"
    stale.mkdir()
    assert cgroup.remove_stale() >= 1
    assert not stale.exists()
    assert group.folders["pids"].folder.exists()


def test_memory_that_is_limited_does_not_go_on_in_swap_space(leaf):
    group = leaf("memory", Limits(memory_bytes=64 * MIB))
    base = group.folders["memory"]
    name, most = ("memory.swap.max", "0") if base.version == 2 else ("memory.memsw.limit_in_bytes", str(64 * MIB))
    if not (base.folder / name).exists():
        pytest.skip(f"this kernel has no {name}")
    assert (base.folder / name).read_text().strip() == most


def test_a_limit_that_somebody_else_took_away_is_not_held_any_more(leaf):
    group = leaf("pids", Limits(max_processes=3))
    assert group.lost() == set()
    assert group.held == {"pids"}
    (group.folders["pids"].folder / "pids.max").write_text("max")
    assert group.lost() == {"pids"}
    assert group.held == set()
    assert group.lost() == set(), "it is said once"


def test_no_empty_group_is_left_when_a_limit_is_not_taken(leaf, monkeypatch):
    group = leaf("pids", Limits(max_processes=3))
    folder = group.folders["pids"].folder.parent
    before = set(folder.glob("toka-*"))

    def refuse(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(cgroup, "_limit", refuse)
    assert cgroup.make_leaf("test", Limits(max_processes=3)) is None
    assert set(folder.glob("toka-*")) == before


def test_a_group_that_is_to_be_stopped_gets_all_the_cpu(leaf):
    group = leaf("cpu", Limits(cpu_share=0.05))
    group.free_cpu()
    base = group.folders["cpu"]
    assert (base.folder / ("cpu.max" if base.version == 2 else "cpu.cfs_quota_us")).read_text().split()[0] in {"max", "-1"}


def test_cpu_time_is_the_kernels_account(leaf, tmp_path):
    group = leaf("pids", Limits(max_processes=3))
    start(group, "x = sum(range(2000000))").communicate("\n", timeout=60)
    if group.folders["pids"].version == 2:
        assert group.cpu_time_s() > 0
    else:
        assert group.cpu_time_s() == 0
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n")
    assert cgroup.Leaf(folders={"pids": cgroup.Base(tmp_path, 2)}).cpu_time_s() == 1.5
