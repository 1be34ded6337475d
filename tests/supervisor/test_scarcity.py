"""Whether the machine has room for one more: where holding begins and where it ends, and what is read of the real machine."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from toka_cli.supervisor import scarcity as module
from toka_cli.supervisor.resources import available_memory_bytes, machine_memory_bytes
from toka_cli.supervisor.scarcity import Scarcity, low_disk, memory_pressure

GB = 1 << 30


class Machine:
    """What the machine says, at the test's word; each look is a new one."""

    def __init__(self, monkeypatch):
        self.now, self.free, self.pressure, self.disk = 0.0, 8 * GB, 0.0, (100 * GB, 200 * GB)
        monkeypatch.setattr(module, "available_memory_bytes", lambda: self.free)
        monkeypatch.setattr(module, "machine_memory_bytes", lambda: 10 * GB)
        monkeypatch.setattr(module, "memory_pressure", lambda: self.pressure)
        monkeypatch.setattr(module.os, "statvfs", self.statvfs)
        self.scarcity = Scarcity(lambda: self.now)

    def statvfs(self, place):
        free, whole = self.disk
        return SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_blocks=whole // 4096)

    def look(self, **news):
        for name, value in news.items():
            setattr(self, name, value)
        self.now += 10.0
        return self.scarcity.look(("/work",))


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def test_with_room_nothing_is_said(machine):
    assert machine.look() is None


def test_short_memory_holds_until_there_is_clearly_more(machine):
    assert machine.look(free=int(0.051 * 10 * GB)) is None
    assert machine.look(free=int(0.049 * 10 * GB)) == "memory is short: 502 MB of 10 GB available"
    assert machine.look(free=int(0.07 * 10 * GB)) is not None, "it does not flicker"
    assert machine.look(free=int(0.09 * 10 * GB)) is None


def test_programs_that_wait_for_memory_hold_too(machine):
    assert machine.look(pressure=15.0) is None
    assert machine.look(pressure=35.0) == "memory is short: programs waited for it 35% of the last ten seconds"
    assert machine.look(pressure=10.0) is not None
    assert machine.look(pressure=1.0) is None
    assert machine.look(pressure=None) is None, "a kernel that does not say"


def test_a_disk_that_is_nearly_full_holds_and_a_small_one_only_when_it_is_small(machine):
    assert machine.look(disk=(63 << 20, 200 * GB)) == "the disk is nearly full: 63 MB left for /work"
    assert machine.look(disk=(90 << 20, 200 * GB)) is not None
    assert machine.look(disk=(97 << 20, 200 * GB)) is None
    assert machine.look(disk=(5 << 20, 100 << 20)) is None
    assert machine.look(disk=(1 << 20, 100 << 20)) is not None


def test_many_looks_at_once_are_one(machine):
    assert machine.look() is None
    machine.free = 0
    assert machine.scarcity.look(("/work",)) is None
    assert machine.look() is not None


def test_the_real_machine_is_read(tmp_path):
    assert 0 < available_memory_bytes() <= machine_memory_bytes()
    assert low_disk(tmp_path, 0) is None or os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize < 64 << 20
    assert low_disk(tmp_path / "none", 0) is None
    pressure = memory_pressure()
    assert pressure is None or 0.0 <= pressure <= 100.0


def test_pressure_is_that_of_everything_standing_still(tmp_path):
    file = tmp_path / "memory"
    file.write_text("some avg10=40.00 avg60=1.00 avg300=0.00 total=1\nfull avg10=12.50 avg60=1.00 avg300=0.00 total=1\n")
    assert memory_pressure(str(file)) == 12.5
    file.write_text("nonsense")
    assert memory_pressure(str(file)) is None
    assert memory_pressure(str(tmp_path / "none")) is None
