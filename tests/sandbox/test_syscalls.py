"""Numbers of system calls: as the headers of this system have them, and distinct."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from toka_cli.sandbox import syscalls

HEADERS = {
    "x86_64": [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")],
    "aarch64": [Path("/usr/include/asm-generic/unistd.h")],
}
# Newer than the headers of some systems, and two of aarch64 whose header names them through a macro.
ELSEWHERE = {"open_tree_attr": (467, 467), "open_by_handle_at": (304, 265)}


@pytest.mark.parametrize("machine", list(HEADERS))
def test_numbers_are_those_of_the_headers(machine):
    found = [path for path in HEADERS[machine] if path.exists()]
    if not found:
        pytest.skip(f"no kernel headers for {machine} here")
    named = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)\n", found[0].read_text())}
    column = syscalls.MACHINES[machine].column
    wrong = {}
    for name, numbers in syscalls.NUMBERS.items():
        expected = named.get(name)
        if expected is None and name in ELSEWHERE:
            expected = ELSEWHERE[name][column]
        if numbers[column] != expected:
            wrong[name] = (numbers[column], expected)
    assert wrong == {}


@pytest.mark.parametrize("column", [0, 1])
def test_no_number_is_there_twice_or_beyond_the_last_known(column):
    numbers = [numbers[column] for numbers in syscalls.NUMBERS.values() if numbers[column] is not None]
    assert len(numbers) == len(set(numbers))
    assert max(numbers) <= syscalls.LAST_KNOWN


def test_a_call_is_made_and_its_errors_come_back():
    before = os.sched_getaffinity(0)
    assert before
    assert syscalls.call("kill", os.getpid(), 0) == 0
    with pytest.raises(OSError) as caught:
        syscalls.call("kill", os.getpid(), 4000)
    assert caught.value.errno == errno.EINVAL
    assert "kill" in str(caught.value)


def test_unknown_machines_are_not_guessed(monkeypatch):
    monkeypatch.setattr(syscalls, "machine", lambda: None)
    assert syscalls.number("kill") is None
    with pytest.raises(OSError) as caught:
        syscalls.call("kill", os.getpid(), 0)
    assert caught.value.errno == errno.ENOSYS


def test_a_name_outside_the_table_is_a_mistake():
    with pytest.raises(KeyError):
        syscalls.number("no_such_call")
