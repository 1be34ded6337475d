"""Every attempt of `attempts.py`, as root and as an ordinary user, at both levels of walls: refused or contained, each beside a permitted act that works."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from toka_cli.sandbox import probe

_SPEC = importlib.util.spec_from_file_location("attempts", Path(__file__).parent / "attempts.py")
assert _SPEC is not None
assert _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
GROUP_OF: dict[str, str] = {name: group for name, (group, _, _) in _MODULE.ATTEMPTS.items()}
LEVELS = ("full", "standard")
USERS = ("root", "ordinary")
# What Landlock and a filter of system calls cannot hold without namespaces. Each is one of the gaps that the record of isolation names.
GAPS_AT_STANDARD: dict[str, str] = {
    **dict.fromkeys(("change_mode", "change_times", "change_owner", "set_xattr"), "Landlock holds contents, not the metadata of files that one owns"),
    **dict.fromkeys(("stat_home", "watch_outside"), "Landlock holds opening, not looking at names that are known"),
    **dict.fromkeys(
        ("plant_git_hook", "change_git_config", "replace_git_config", "move_git_directory"),
        "Landlock cannot subtract from a granted folder: it is looked at afterwards, and the agent fails",
    ),
    **dict.fromkeys(
        ("write_git_objects_without_grant", "write_git_head_without_grant"),
        "Landlock cannot subtract from a granted folder, and what starts no program is not looked at",
    ),
    "list_descriptors_of_owner": "root sees the numbers of descriptors, not what they are",
}

REACHED = probe.walls().level
needs_walls = pytest.mark.skipif(REACHED == "process", reason="this kernel has neither Landlock nor a filter of system calls")


def machine_at(machines: Any, user: str, level: str) -> Any:
    if level == "full" and REACHED != "full":
        pytest.skip("no user namespaces on this machine")
    return machines(user, level)


def test_there_are_at_least_ninety() -> None:
    assert len(GROUP_OF) >= 90


@needs_walls
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", sorted(GROUP_OF))
def test_attempt(machines: Any, user: str, level: str, name: str) -> None:
    found = machine_at(machines, user, level).run(GROUP_OF[name])[name]
    if level == "full" or GROUP_OF[name] not in {"script", "git"}:
        assert found["twin"]["done"], f"what is permitted failed: {found['twin']['detail']}"
    if level == "standard" and name in GAPS_AT_STANDARD:
        return
    assert not found["attempt"]["done"], found["attempt"]["detail"]


@needs_walls
@pytest.mark.parametrize("user", USERS)
def test_what_no_wall_holds_at_standard_is_found_afterwards(machines: Any, user: str) -> None:
    machine = machine_at(machines, user, "standard")
    machine.run("git")
    result = machine.envelopes["git"]["data"]["result"]
    assert not result["ok"]
    assert result["reason"].startswith("sandbox: .git"), result["reason"]
    assert machine.envelopes["git"]["exit_code"] == 5


@needs_walls
@pytest.mark.parametrize("user", USERS)
def test_the_record_says_what_is_not_covered(machines: Any, user: str) -> None:
    machine = machine_at(machines, user, "standard")
    machine.run("write")
    isolation = machine.envelopes["write"]["data"]["result"]["isolation"]
    assert isolation["level"] == "standard"
    gaps = " ".join(isolation["gaps"])
    for word in ("mode", ".git"):
        assert word in gaps, gaps


@needs_walls
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("user", USERS)
def test_nothing_outside_has_changed(machines: Any, user: str, level: str) -> None:
    machine = machine_at(machines, user, level)
    for group in sorted(set(GROUP_OF.values())):
        before = machine.snapshot()
        machine.results.pop(group, None)
        machine.run(group)
        assert _without_metadata(machine.snapshot(), level) == _without_metadata(before, level), group
    for waiting in (machine.udp, machine.datagrams):
        with pytest.raises(BlockingIOError):
            waiting.recv(64)
    assert machine.witness.stdout.read() is None, "a process outside got a signal"
    assert not Path("/usr/local/bin/toka-evil").exists()
    assert not (Path(machine.facts["package"]) / "evil.py").exists()


def _without_metadata(found: dict[str, Any], level: str) -> dict[str, Any]:
    return found if level == "full" else {path: (facts[1], facts[3]) for path, facts in found.items()}


@needs_walls
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("user", USERS)
def test_keys_of_the_caller_are_nowhere_in_what_is_kept(machines: Any, user: str, level: str) -> None:
    machine = machine_at(machines, user, level)
    machine.run("none")
    for folder, _, names in os.walk(machine.base):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                assert machine.key.encode() not in path.read_bytes(), path
    assert machine.key not in str(machine.envelopes)
