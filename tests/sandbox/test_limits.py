"""rlimits: what is reported is what is in force, and nothing is ever raised."""

from __future__ import annotations

import os

import pytest

APPLY = """
import json, resource, sys
from toka_cli.sandbox.limits import apply_rlimits
NAMES = ["RLIMIT_" + word for word in "CORE NOFILE FSIZE DATA CPU MEMLOCK AS NPROC".split()]
before = json.loads(sys.argv[1])
for name, value in before.items():
    resource.setrlimit(getattr(resource, name), (value, value))
found = apply_rlimits(**json.loads(sys.argv[2]))
now = {name: resource.getrlimit(getattr(resource, name)) for name in NAMES}
print(json.dumps([found, now]))
"""
NONE = '{"memory_bytes": null, "disk_bytes": null, "max_open_files": null, "timeout_s": null}'
MIB = 1 << 20


def test_without_limits_only_dumps_and_locked_memory_are_bounded(beside):
    found, now = beside(APPLY, "{}", NONE)
    assert set(found) == {"core", "memlock_bytes"}
    assert found["core"] == 0
    assert now["RLIMIT_CORE"] == [0, 0]


def test_limits_are_in_force_soft_and_hard(beside):
    found, now = beside(APPLY, "{}", f'{{"memory_bytes": {100 * MIB}, "disk_bytes": {MIB}, "max_open_files": 77, "timeout_s": 10}}')
    assert now["RLIMIT_NOFILE"] == [77, 77]
    assert now["RLIMIT_FSIZE"] == [MIB, MIB]
    assert now["RLIMIT_DATA"] == [456 * MIB, 456 * MIB]
    assert now["RLIMIT_CPU"] == [10 * (os.cpu_count() or 1) + 60] * 2
    assert (found["open_files"], found["file_size_bytes"], found["data_bytes"], found["cpu_time_s"]) == (
        77,
        MIB,
        456 * MIB,
        now["RLIMIT_CPU"][0],
    )


@pytest.mark.parametrize(
    ("name", "key"), [("RLIMIT_NOFILE", "open_files"), ("RLIMIT_FSIZE", "file_size_bytes"), ("RLIMIT_CPU", "cpu_time_s")]
)
def test_a_stricter_limit_that_was_there_stays_and_is_what_is_reported(beside, name, key):
    found, now = beside(
        APPLY, f'{{"{name}": 40}}', f'{{"memory_bytes": null, "disk_bytes": {MIB}, "max_open_files": 1000, "timeout_s": 1000}}'
    )
    assert now[name] == [40, 40]
    assert found[key] == 40


def test_address_space_and_the_count_of_processes_are_not_touched(beside):
    import resource

    _, now = beside(APPLY, "{}", f'{{"memory_bytes": {MIB}, "disk_bytes": 1, "max_open_files": 50, "timeout_s": 1}}')
    assert now["RLIMIT_AS"] == list(resource.getrlimit(resource.RLIMIT_AS))
    assert now["RLIMIT_NPROC"] == list(resource.getrlimit(resource.RLIMIT_NPROC))


def test_the_limits_hold(beside):
    code = """
    import json, os, sys
    from toka_cli.sandbox.limits import apply_rlimits
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    apply_rlimits(memory_bytes=10 << 20, disk_bytes=1000, max_open_files=20, timeout_s=None)
    told = []
    try:
        bytearray(600 << 20)
    except MemoryError:
        told.append("memory")
    with open("file", "wb", buffering=0) as file:
        file.write(b"x" * 1000)
        try:
            file.write(b"x")
        except OSError:
            told.append("file")
    held = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        told.append("descriptors")
    print(json.dumps(told))
    """
    assert beside(code) == ["memory", "file", "descriptors"]
