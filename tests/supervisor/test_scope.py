"""Where groups of version 2 can be made: the decision, on folders that look like those of the kernel, and what systemd's user manager is asked.

Whether a real manager says yes is not shown here: machines with one, and with version 2, are needed for that.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from toka_cli.supervisor import cgroup, scope

CONTROLLERS = "cpu memory pids"


def make_group(folder, *, offered=CONTROLLERS, enabled="", pids=()):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.controllers").write_text(offered)
    (folder / "cgroup.subtree_control").write_text(enabled)
    (folder / "cgroup.procs").write_text("\n".join(map(str, pids)))
    return folder


@pytest.fixture
def kernel(monkeypatch):
    """Does what the kernel does when a controller is switched on: it then stands in the list of those that are."""
    written = []
    original = Path.write_text

    def write_text(path, text, *rest, **more):
        written.append((path.name, path.parent.name, text))
        if path.name == "cgroup.subtree_control" and text.startswith("+"):
            text = f"{path.read_text()} {text.removeprefix('+')}"
        return original(path, text, *rest, **more)

    monkeypatch.setattr(Path, "write_text", write_text)
    return written


@pytest.fixture
def bus(tmp_path):
    """A user's runtime folder with a bus in it, at which nobody answers."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(runtime / "bus"))
        yield {"XDG_RUNTIME_DIR": str(runtime)}


def never(*_):
    raise AssertionError("nobody was to be asked")


def test_without_controllers_there_is_nothing_to_ask_for(tmp_path, monkeypatch, bus):
    monkeypatch.setattr(scope, "_ask", never)
    place, why = scope.delegated(make_group(tmp_path / "group", offered=""), never, bus)
    assert place is None
    assert "no controller" in why


def test_a_group_of_its_own_is_divided_without_asking_anybody(tmp_path, monkeypatch, kernel, bus):
    monkeypatch.setattr(scope, "_ask", never)
    group = make_group(tmp_path / "run-1.scope", pids=[os.getpid()])
    assert scope.delegated(group, never, bus) == (group, "")
    assert ("cgroup.procs", scope.OWNER, str(os.getpid())) in kernel, "a group that gives controllers must be empty itself"
    assert kernel.index(("cgroup.procs", scope.OWNER, str(os.getpid()))) < kernel.index(("cgroup.subtree_control", "run-1.scope", "+memory"))


def test_in_a_group_with_others_nobody_is_moved_and_the_manager_is_asked(tmp_path, monkeypatch, kernel, bus):
    group = make_group(tmp_path / "session.scope", pids=[1, os.getpid()])
    asked = []

    def ask(name, address):
        asked.append((name, address))
        make_group(tmp_path / name, pids=[os.getpid()])
        return True

    monkeypatch.setattr(scope, "_ask", ask)
    place, why = scope.delegated(group, lambda: tmp_path / asked[0][0], bus)
    assert (place, why) == (tmp_path / f"toka-{os.getpid()}.scope", "")
    assert asked == [(f"toka-{os.getpid()}.scope", f"unix:path={bus['XDG_RUNTIME_DIR']}/bus")]
    assert not (group / scope.OWNER).exists()
    assert set((place / "cgroup.subtree_control").read_text().split()) == {"cpu", "memory", "pids"}


def test_without_a_manager_nothing_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(scope, "_ask", never)
    group = make_group(tmp_path / "session.scope", pids=[1, os.getpid()])
    for environment in ({}, {"XDG_RUNTIME_DIR": str(tmp_path)}, {"DBUS_SESSION_BUS_ADDRESS": "tcp:host=example.org"}):
        place, why = scope.delegated(group, never, environment)
        assert place is None
        assert "no user manager" in why


def test_a_manager_that_says_no_or_moves_nobody_is_given_up(tmp_path, monkeypatch, bus):
    group = make_group(tmp_path / "session.scope", pids=[1, os.getpid()])
    monkeypatch.setattr(scope, "_ask", lambda name, address: False)
    assert scope.delegated(group, never, bus)[0] is None
    monkeypatch.setattr(scope, "_ask", lambda name, address: True)
    monkeypatch.setattr(scope, "MOVE_TIMEOUT_S", 0.01)
    place, why = scope.delegated(group, lambda: group, bus)
    assert place is None
    assert "did not move" in why


def test_a_child_of_an_owner_uses_the_owners_place(tmp_path, monkeypatch, bus):
    monkeypatch.setattr(scope, "_ask", never)
    own = make_group(make_group(tmp_path / "toka-1.scope", enabled="memory pids") / scope.OWNER, pids=[os.getpid()])
    assert scope.delegated(own, never, bus) == (tmp_path / "toka-1.scope", "")


def test_the_manager_is_asked_for_exactly_this_process_by_a_trusted_program(tmp_path, monkeypatch):
    trusted = tmp_path / "bin"
    trusted.mkdir()
    program = trusted / "busctl"
    program.write_text('#!/bin/sh\nfor word in "$@" "$DBUS_SESSION_BUS_ADDRESS" "${SECRET-none}"; do echo "$word"; done > "${0%/*}/asked"\nexit 0\n')
    program.chmod(0o755)
    monkeypatch.setattr(scope, "TRUSTED_PATH", f"{trusted}:/usr/bin:/bin")
    monkeypatch.setenv("SECRET", "planted")
    assert scope._ask("toka-1.scope", "unix:path=/x")
    words = (trusted / "asked").read_text().splitlines()
    assert words[-2:] == ["unix:path=/x", "none"]
    called = words[words.index("StartTransientUnit") :]
    assert called[:5] == ["StartTransientUnit", "ssa(sv)a(sa(sv))", "toka-1.scope", "fail", "3"]
    assert called[5:9] == ["PIDs", "au", "1", str(os.getpid())]
    assert called[9:12] == ["Delegate", "b", "true"]
    program.write_text("#!/bin/sh\nexit 1\n")
    assert not scope._ask("toka-1.scope", "unix:path=/x")
    program.unlink()
    monkeypatch.setattr(scope, "TRUSTED_PATH", str(trusted))
    assert not scope._ask("toka-1.scope", "unix:path=/x")


def test_a_manager_that_does_not_answer_is_waited_for_only_so_long(tmp_path, monkeypatch):
    program = tmp_path / "busctl"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    monkeypatch.setattr(scope, "TRUSTED_PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(scope, "ANSWER_TIMEOUT_S", 0.05)
    assert not scope._ask("toka-1.scope", "unix:path=/x")


def test_groups_are_made_where_the_scope_was_divided(tmp_path, monkeypatch, kernel):
    group = make_group(tmp_path / "session.scope", pids=[1])
    place = make_group(tmp_path / "toka-1.scope", enabled=CONTROLLERS)
    cgroup._place.cache_clear()
    monkeypatch.setattr(cgroup, "_unified_group", lambda: group)
    monkeypatch.setattr(cgroup, "_groups", lambda: ({}, []))
    monkeypatch.setattr(cgroup, "delegated", lambda *_: (place, ""))
    try:
        assert sorted(cgroup._candidates()) == sorted((name, cgroup.Base(place, 2)) for name in CONTROLLERS.split())
        assert cgroup.why_none() is None
        cgroup._place.cache_clear()
        monkeypatch.setattr(cgroup, "delegated", lambda *_: (None, "nobody is there"))
        assert list(cgroup._candidates()) == []
        assert cgroup.why_none() == "nobody is there"
    finally:
        cgroup._place.cache_clear()
