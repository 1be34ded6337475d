"""Where groups of version 2 can be made: the decision, on folders that look like those of the kernel, and what systemd is asked.

What real managers answer was seen on Debian 12 (systemd 252, Linux 6.1); the folders, marks and file contents here are those seen there.
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
    (folder / "cgroup.type").write_text("domain\n")
    (folder / "memory.max").write_text("max\n")
    (folder / "cpu.max").write_text("max 100000\n")
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


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """No systemd is the first process, no group is delegated, and this is an ordinary user who stays logged in, until a test says otherwise."""
    first = tmp_path / "first"
    first.write_text("0::/\n")
    marks = {}

    def getxattr(path, name):
        if Path(path) not in marks:
            raise OSError(61, "No data available")
        return marks[Path(path)]

    monkeypatch.setattr(scope, "FIRST_PROCESS", first)
    monkeypatch.setattr(scope, "LINGERING", tmp_path / "linger")
    monkeypatch.setattr(scope, "RUNTIME_FOLDERS", tmp_path / "none")
    monkeypatch.setattr(scope, "SYSTEM_BUS", tmp_path / "none")
    monkeypatch.setattr(scope.os, "geteuid", lambda: 65534)
    monkeypatch.setattr(scope.os, "getxattr", getxattr)
    return marks


@pytest.fixture
def systemd(machine, tmp_path):
    """systemd is process 1. In: folders that it marked as given away."""
    (tmp_path / "first").write_text("0::/init.scope\n")
    return machine


@pytest.fixture
def bus(tmp_path):
    """A user's runtime folder with a bus in it, at which nobody answers."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(runtime / "bus"))
        yield {"XDG_RUNTIME_DIR": str(runtime)}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What a manager that does as it is asked was asked for."""
    calls = []

    def ask(name, address, inside):
        calls.append((name, address, inside))
        make_group(tmp_path / name, pids=[os.getpid()])

    monkeypatch.setattr(scope, "_ask", ask)
    return calls


def never(*_):
    raise AssertionError("nobody was to be asked")


def moved(tmp_path):
    return lambda: tmp_path / f"toka-{os.getpid()}.scope"


def test_without_controllers_there_is_nothing_to_ask_for(tmp_path, monkeypatch, systemd, bus):
    monkeypatch.setattr(scope, "_ask", never)
    place = scope.delegated(make_group(tmp_path / "group", offered=""), never, bus)
    assert place.folder is None
    assert "no controller" in place.why


def test_a_folder_that_another_group_has_is_not_taken_for_its_own(tmp_path, monkeypatch, kernel, bus):
    """In a cgroup namespace without a mount of its own, every process is in `/`, and that folder is the machine's root."""
    group = make_group(tmp_path / "cgroup", pids=[1, 2])
    (group / "cgroup.type").unlink()
    place = scope.delegated(group, never, bus)
    assert place.folder is None
    assert "cannot be seen" in place.why
    assert not (group / "cgroup.subtree_control").read_text()


def test_a_group_of_its_own_is_divided_without_asking_anybody(tmp_path, monkeypatch, kernel, bus):
    monkeypatch.setattr(scope, "_ask", never)
    group = make_group(tmp_path / "run-1.scope", pids=[os.getpid()])
    assert scope.delegated(group, never, bus) == scope.Place(group)
    assert ("cgroup.procs", scope.OWNER, str(os.getpid())) in kernel, "a group that gives controllers must be empty itself"
    assert kernel.index(("cgroup.procs", scope.OWNER, str(os.getpid()))) < kernel.index(("cgroup.subtree_control", "run-1.scope", "+memory"))


def test_under_systemd_a_group_is_divided_only_if_it_was_given_away(tmp_path, monkeypatch, kernel, systemd):
    """Otherwise the next `systemctl daemon-reload` takes its controllers back, and every limit below is gone without a word."""
    monkeypatch.setattr(scope, "_ask", never)
    group = make_group(tmp_path / "system.slice" / "run-1.service", pids=[os.getpid()])
    place = scope.delegated(group, never, {})
    assert place.folder is None
    assert place.why == "run-1.service is not delegated to toka alone, and toka does not leave it"
    assert "Delegate=yes" in place.fix
    assert not (group / scope.OWNER).exists()
    systemd[group] = b"1"
    assert scope.delegated(group, never, {}) == scope.Place(group)
    # A group below one that was given away belongs to whoever is in it.
    below = make_group(group / "payload", pids=[os.getpid()])
    (group / scope.OWNER / "cgroup.procs").unlink()
    (group / scope.OWNER).rmdir()
    assert scope.delegated(below, never, {}) == scope.Place(below)


def test_a_users_manager_is_asked_whether_it_gave_a_group_away(tmp_path, monkeypatch, kernel, systemd, bus):
    """It leaves no mark (seen with systemd 252): only its own word is there."""
    asked = []

    def busctl(*words):
        asked.append(words)
        return scope._Answer(0, "b true\n")

    monkeypatch.setattr(scope, "_busctl", busctl)
    group = make_group(tmp_path / "user@1000.service" / "app.slice" / "1-a.scope", pids=[os.getpid()])
    (group / "memory.max").write_text("1073741824\n")
    assert scope.delegated(group, never, bus) == scope.Place(group)
    ((address, *words),) = asked
    assert address == ("--user", f"unix:path={bus['XDG_RUNTIME_DIR']}/bus")
    assert words == [
        "get-property", "org.freedesktop.systemd1", "/org/freedesktop/systemd1/unit/_31_2da_2escope", "org.freedesktop.systemd1.Scope", "Delegate",
    ]  # fmt: skip


def test_the_kernels_root_group_gives_controllers_although_processes_are_in_it(tmp_path, monkeypatch, kernel):
    group = make_group(tmp_path / "cgroup", pids=[1, 2, os.getpid()])
    assert "no systemd to ask" in scope.delegated(group, never, {}).why
    (group / "cgroup.type").unlink()
    assert scope.delegated(group, never, {}) == scope.Place(group)
    assert not (group / scope.OWNER).exists(), "nobody is moved"
    monkeypatch.setattr(scope.os, "access", lambda path, mode: False)
    assert scope.delegated(group, never, {}).folder is None


def test_a_read_only_file_system_is_called_that(tmp_path, monkeypatch, systemd, bus):
    monkeypatch.setattr(scope, "_ask", never)
    group = make_group(tmp_path / "session.scope", pids=[os.getpid()])
    real = os.statvfs(group)
    fields = {name: getattr(real, name) for name in dir(real) if name.startswith("f_")} | {"f_flag": os.ST_RDONLY}
    monkeypatch.setattr(scope.os, "statvfs", lambda path: type("Stat", (), fields))
    assert "read-only" in scope.delegated(group, never, bus).why


def test_in_a_group_with_others_nobody_is_moved_and_the_manager_is_asked(tmp_path, kernel, systemd, bus, asked):
    group = make_group(tmp_path / "session.scope", pids=[1, os.getpid()])
    place = scope.delegated(group, moved(tmp_path), bus)
    assert place == scope.Place(tmp_path / f"toka-{os.getpid()}.scope")
    assert asked == [(f"toka-{os.getpid()}.scope", ("--user", f"unix:path={bus['XDG_RUNTIME_DIR']}/bus"), None)]
    assert not (group / scope.OWNER).exists()
    assert set((place.folder / "cgroup.subtree_control").read_text().split()) == {"cpu", "memory", "pids"}


def test_without_a_manager_nothing_is_tried(tmp_path, monkeypatch, systemd):
    monkeypatch.setattr(scope, "_ask", never)
    group = make_group(tmp_path / "session.scope", pids=[1, os.getpid()])
    for environment in ({}, {"XDG_RUNTIME_DIR": str(tmp_path)}, {"DBUS_SESSION_BUS_ADDRESS": "tcp:host=example.org"}):
        place = scope.delegated(group, never, environment)
        assert place.folder is None
        assert place.why == "cgroup v2 is not delegated, and systemd's user manager is not there to ask"


def test_where_systemd_is_not_the_first_process_its_bus_is_not_asked(tmp_path, monkeypatch, bus):
    """A bus from outside of a container knows other processes by the same numbers."""
    monkeypatch.setattr(scope, "_ask", never)
    assert scope.delegated(make_group(tmp_path / "session.scope", pids=[1, os.getpid()]), never, bus).folder is None


def test_a_bus_is_found_without_variables_too(tmp_path, monkeypatch, kernel, systemd, bus, asked):
    folders = tmp_path / "users"
    folders.mkdir()
    (folders / "65534").symlink_to(bus["XDG_RUNTIME_DIR"])
    monkeypatch.setattr(scope, "RUNTIME_FOLDERS", folders)
    assert scope.delegated(make_group(tmp_path / "session.scope", pids=[1, os.getpid()]), moved(tmp_path), {}).folder is not None
    assert asked[0][1] == ("--user", f"unix:path={folders}/65534/bus")


def test_root_asks_the_systems_manager_whatever_the_variables_say(tmp_path, monkeypatch, kernel, systemd, bus, asked):
    """`su` without a login shell keeps the bus of the user that it was called by."""
    monkeypatch.setattr(scope.os, "geteuid", lambda: 0)
    monkeypatch.setattr(scope, "SYSTEM_BUS", Path(bus["XDG_RUNTIME_DIR"], "bus"))
    group = make_group(tmp_path / "user.slice" / "user-0.slice" / "session-c1.scope", pids=[1, os.getpid()])
    assert scope.delegated(group, moved(tmp_path), {**bus, "TMUX": "x"}, outlives_login=True).folder is not None
    assert asked == [(f"toka-{os.getpid()}.scope", ("--system", f"unix:path={scope.SYSTEM_BUS}"), "user-0.slice")]


def test_a_run_that_outlives_the_login_takes_no_scope_that_does_not(tmp_path, monkeypatch, kernel, systemd, bus, asked):
    """The user's manager, and all its scopes, end with the last session, unless the user lingers."""
    group = make_group(tmp_path / "session.scope", pids=[1, os.getpid()])
    for environment, outlives in (({}, True), ({"TMUX": "/tmp/tmux-1/default,1,0"}, False), ({"STY": "1.pts"}, False)):
        place = scope.delegated(group, moved(tmp_path), {**bus, **environment}, outlives_login=outlives)
        assert place.folder is None
        assert "when your last session does" in place.why
        assert place.fix == "loginctl enable-linger"
    assert asked == []
    monkeypatch.setattr(scope.pwd, "getpwuid", lambda uid: type("Entry", (), {"pw_name": "somebody"}))
    scope.LINGERING.mkdir()
    (scope.LINGERING / "somebody").touch()
    assert scope.delegated(group, moved(tmp_path), bus, outlives_login=True).folder is not None


def test_a_group_with_limits_is_not_left(tmp_path, monkeypatch, systemd, bus):
    monkeypatch.setattr(scope, "_ask", never)
    monkeypatch.setattr(scope, "_busctl", lambda *_: scope._Answer(0, "b false\n"))
    group = make_group(tmp_path / "user@1000.service" / "app.slice" / "run-1.service", pids=[os.getpid()])
    (group / "memory.max").write_text("1073741824\n")
    place = scope.delegated(group, never, bus)
    assert place.why == "run-1.service has limits of its own and is not delegated to toka alone, and toka does not leave it"


def test_a_toka_below_another_ones_agent_stays_under_its_limits(tmp_path, monkeypatch, systemd, bus):
    monkeypatch.setattr(scope, "_ask", never)
    above = make_group(tmp_path / "toka-1.scope", enabled=CONTROLLERS)
    make_group(above / scope.OWNER, pids=[1])
    assert "inside the group of another toka" in scope.delegated(make_group(above / "toka-a-1-2", pids=[os.getpid()]), never, bus).why


def test_a_manager_that_says_no_or_moves_nobody_is_given_up(tmp_path, monkeypatch, systemd, bus):
    group = make_group(tmp_path / "session.scope", pids=[1, os.getpid()])
    monkeypatch.setattr(scope, "_ask", lambda *_: "Call failed: Access denied")
    place = scope.delegated(group, never, bus)
    assert place.folder is None
    assert place.why == "cgroup v2 is not delegated, and systemd's user manager does not make a scope (Call failed: Access denied)"
    monkeypatch.setattr(scope, "_ask", lambda *_: None)
    monkeypatch.setattr(scope, "MOVE_TIMEOUT_S", 0.01)
    place = scope.delegated(group, lambda: group, bus)
    assert place.folder is None
    assert "did not move" in place.why


def test_a_child_of_an_owner_uses_the_owners_place(tmp_path, monkeypatch, systemd, bus):
    monkeypatch.setattr(scope, "_ask", never)
    own = make_group(make_group(tmp_path / "toka-1.scope", enabled="memory pids") / scope.OWNER, pids=[os.getpid()])
    assert scope.delegated(own, never, bus) == scope.Place(tmp_path / "toka-1.scope")


@pytest.mark.parametrize(
    ("group", "user", "expected"),
    [
        ("user.slice/user-1000.slice/session-3.scope", True, None),
        ("user.slice/user-1000.slice/user@1000.service/app.slice/vte-1.scope", True, "app.slice"),
        ("user.slice/user-0.slice/session-3.scope", False, "user-0.slice"),
        ("user.slice/user-0.slice/user@0.service/app.slice/a.scope", False, "user-0.slice"),
        ("init.scope", False, None),
    ],
)
def test_a_scope_stays_in_the_slice_that_its_manager_knows(group, user, expected):
    assert scope.slice_of(Path("/sys/fs/cgroup", group), user=user) == expected


def test_the_manager_is_asked_for_exactly_this_process_by_a_trusted_program(tmp_path, monkeypatch):
    trusted = tmp_path / "bin"
    trusted.mkdir()
    program = trusted / "busctl"
    program.write_text('#!/bin/sh\nfor word in "$@" "$DBUS_SESSION_BUS_ADDRESS" "${SECRET-none}"; do echo "$word"; done > "${0%/*}/asked"\nexit 0\n')
    program.chmod(0o755)
    monkeypatch.setattr(scope, "TRUSTED_PATH", f"{trusted}:/usr/bin:/bin")
    monkeypatch.setenv("SECRET", "planted")
    assert scope._ask("toka-1.scope", ("--user", "unix:path=/x"), None) is None
    words = (trusted / "asked").read_text().splitlines()
    assert words[-2:] == ["unix:path=/x", "none"]
    called = words[words.index("StartTransientUnit") :]
    assert called[:5] == ["StartTransientUnit", "ssa(sv)a(sa(sv))", "toka-1.scope", "fail", "3"]
    assert called[5:9] == ["PIDs", "au", "1", str(os.getpid())]
    assert called[9:12] == ["Delegate", "b", "true"]
    assert "--user" in words
    assert scope._ask("toka-1.scope", ("--system", "unix:path=/x"), "user-0.slice") is None
    words = (trusted / "asked").read_text().splitlines()
    assert "--system" in words
    assert words[words.index("StartTransientUnit") + 4] == "4"
    assert words[words.index("Slice") :][:3] == ["Slice", "s", "user-0.slice"]
    program.write_text("#!/bin/sh\necho Call failed: Process 1 >&2\necho is not yours. >&2\nexit 1\n")
    assert scope._ask("toka-1.scope", ("--user", "unix:path=/x"), None) == "Call failed: Process 1 is not yours."
    program.unlink()
    monkeypatch.setattr(scope, "TRUSTED_PATH", str(trusted))
    assert scope._ask("toka-1.scope", ("--user", "unix:path=/x"), None) == "busctl is not installed"


def test_a_manager_that_does_not_answer_is_waited_for_only_so_long(tmp_path, monkeypatch):
    program = tmp_path / "busctl"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    monkeypatch.setattr(scope, "TRUSTED_PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(scope, "ANSWER_TIMEOUT_S", 0.05)
    assert scope._ask("toka-1.scope", ("--user", "unix:path=/x"), None) == "busctl: TimeoutExpired"


@pytest.fixture
def unified(monkeypatch, tmp_path):
    """A machine with version 2 alone; what `delegated` answers is put into `place`."""
    place = [scope.Place(None, "nobody is there", "call somebody")]
    monkeypatch.setattr(cgroup, "_unified_group", lambda: tmp_path / "session.scope")
    monkeypatch.setattr(cgroup, "_groups", lambda: ({"": "/session.scope"}, [["cgroup2", str(tmp_path), "cgroup2", "rw", "0", "0"]]))
    monkeypatch.setattr(cgroup, "delegated", lambda *_, **__: place[0])
    cgroup._place.cache_clear()
    cgroup.bases.cache_clear()
    yield place
    cgroup._place.cache_clear()
    cgroup.bases.cache_clear()


def test_groups_are_made_where_the_scope_was_divided(tmp_path, monkeypatch, unified):
    place = make_group(tmp_path / "toka-1.scope", enabled=CONTROLLERS)
    unified[0] = scope.Place(place)
    assert sorted(cgroup._candidates()) == sorted((name, cgroup.Base(place, 2)) for name in CONTROLLERS.split())


def test_why_there_is_no_group_is_said_with_what_to_do(unified):
    assert list(cgroup._candidates()) == []
    assert cgroup.why_none("memory") == ("nobody is there", "call somebody")


def test_a_controller_that_the_user_was_not_given_is_named(tmp_path, monkeypatch, unified):
    """systemd before version 252 gives users memory and pids, and not cpu."""
    unified[0] = scope.Place(make_group(tmp_path / "toka-1.scope", enabled="memory pids"))
    monkeypatch.setattr(cgroup, "_works", lambda *_: False)
    why, fix = cgroup.why_none("cpu")
    assert why == "the controller cpu is not given to toka-1.scope"
    assert "Delegate=memory cpu pids" in fix
    assert "did not hold" in cgroup.why_none("pids")[0]


def test_on_version_1_and_without_any_it_is_said_too(monkeypatch, unified):
    monkeypatch.setattr(cgroup, "_groups", lambda: ({}, [["cgroup", "/none", "cgroup", "rw,memory", "0", "0"]]))
    monkeypatch.setattr(cgroup, "_unified_group", lambda: None)
    assert "v1" in cgroup.why_none("memory")[0]
    assert "no cgroup file system" in cgroup.why_none("pids")[0]


def test_a_run_without_terminal_says_so_before_a_place_is_looked_for(monkeypatch, unified):
    asked = []
    monkeypatch.setattr(cgroup, "delegated", lambda *_, outlives_login: asked.append(outlives_login) or unified[0])
    monkeypatch.setattr(cgroup, "_RUN", cgroup._Run())
    cgroup.outlive_login()
    list(cgroup._candidates())
    assert asked == [True]
