"""What is said about this machine's walls: true here, and true where something is taken away. Everything is taken away for real where that can be done."""

from __future__ import annotations

import errno
import os

import pytest

from toka_cli.sandbox import landlock, probe, seccomp
from toka_cli.sandbox.probe import Surroundings

USERS = ["root", "nobody"]
FACTS = """
def facts():
    found = probe.walls()
    return {name: getattr(found, name) for name in ("landlock_abi", "seccomp", "user_namespaces", "namespace_problem", "level", "notes")}
def without(number, code):
    "A filter around this process that answers a system call with an errno."
    program = bpf.Program()
    program.load(bpf.NUMBER)
    program.refuse_if(bpf.EQUAL, syscalls.number(number), code)
    program.answer(bpf.ALLOW)
    prctl.forbid_new_privileges()
    seccomp.load(program.assemble())
"""


def missing(found):
    """The notes but for those about what an older Landlock does not hold, which are there in any case."""
    gaps = {f"Landlock: {what}" for since, what in probe.GAPS if found["landlock_abi"] < since} if found["landlock_abi"] else set()
    assert gaps <= {note[0] for note in found["notes"]}
    return [note for note in found["notes"] if note[0] not in gaps]


def test_on_this_machine_it_says_what_can_be_seen_otherwise(act):
    found = act("show(facts())", given=FACTS)
    assert found["landlock_abi"] == landlock.abi()
    assert found["seccomp"] is seccomp.available()
    assert found["user_namespaces"] is (found["namespace_problem"] is None)
    expected = "process" if not (found["landlock_abi"] and found["seccomp"]) else "full" if found["user_namespaces"] else "standard"
    assert found["level"] == expected
    if found["level"] == "full" and found["landlock_abi"] >= 6:
        assert found["notes"] == []


@pytest.mark.skipif(probe.walls().level != "full", reason="this machine does not reach the level full")
@pytest.mark.parametrize("user", USERS)
def test_the_level_full_is_reached_by_root_and_by_anybody(act, user):
    code = """
    show([facts(), child(lambda: [prctl.forbid_dumps(), facts()["level"]]), child(lambda: [capabilities.drop(keep=("setfcap",)), facts()["level"]][1])])
    """
    found, quiet, powerless = act(code, user=user, given=FACTS)
    assert found["level"] == "full"
    # The kernel program gives no dumps, which makes its /proc root's: the trials must not be misled by it.
    assert quiet == [True, "full"]
    assert powerless == "full"


@pytest.mark.skipif(os.geteuid() != 0 or probe.walls().level != "full", reason="needs root and the level full")
def test_root_that_cannot_map_itself_is_told_why(act):
    found = act("capabilities.drop()\nshow(facts())", given=FACTS)
    assert found["level"] == "standard"
    assert "CAP_SETFCAP" in missing(found)[0][1]


def test_nothing_of_the_caller_changes(act):
    code = """
    def state():
        text = open("/proc/self/status").read()
        words = [line for line in text.splitlines() if line.startswith(("NoNewPrivs", "Seccomp", "Cap", "Threads", "NSpid"))]
        spaces = [os.readlink(f"/proc/self/ns/{name}") for name in ("user", "mnt", "pid", "net")]
        return [words, sorted(os.listdir("/proc/self/fd")), spaces, open("/proc/self/mounts").read()]
    before = state()
    probe.walls()
    try:
        os.waitpid(-1, os.WNOHANG)
        left = "a child"
    except ChildProcessError:
        left = "no child"
    show([before == state(), left, tried(os.listdir, "/"), tried(socket.socket)])
    """
    assert act(code) == [True, "no child", "done", "done"]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    ("call", "code", "level", "what", "why"),
    [
        ("unshare", errno.EPERM, "standard", "user namespaces", "a filter around this process"),
        ("unshare", errno.ENOSPC, "standard", "user namespaces", "too many"),
        ("unshare", errno.EINVAL, "standard", "user namespaces", "this kernel has no"),
        ("mount", errno.EPERM, "standard", "mounts in namespaces (tmpfs)", "a filter around this process"),
        ("mount", errno.EACCES, "standard", "mounts in namespaces (tmpfs)", "security module"),
        ("landlock_create_ruleset", errno.ENOSYS, "process", "Landlock", "has none"),
        ("landlock_create_ruleset", errno.EOPNOTSUPP, "process", "Landlock", "turned off at boot"),
        ("landlock_create_ruleset", errno.EPERM, "process", "Landlock", "filter around this process"),
        ("landlock_restrict_self", errno.EPERM, "process", "Landlock", "filter around this process"),
        ("seccomp", errno.ENOSYS, "process", "seccomp", "no filters"),
        ("seccomp", errno.EPERM, "process", "seccomp", "failed"),
    ],
)
def test_where_a_container_refuses_it_says_what_and_why_and_what_to_do(act, user, call, code, level, what, why):
    found = act(f"without({call!r}, {code})\nshow(facts())", user=user, given=FACTS)
    assert found["level"] == level
    (note,) = missing(found)
    assert note[0] == what
    assert why in note[1]
    assert note[2]
    assert found["user_namespaces"] is (level == "process")
    assert (found["namespace_problem"] is None) is (level == "process")
    assert found["seccomp"] is (call != "seccomp")
    assert found["landlock_abi"] == (0 if call.startswith("landlock") else landlock.abi())


def test_inside_of_our_own_walls_the_level_standard_remains(act):
    """A toka that is started by an agent of toka: no namespaces, but walls inside the walls."""
    code = """
    restrict("standard", read=("/",))
    filtered()
    show([facts(), child(lambda: [filtered(), restrict("standard", read=("/",)), facts()["level"]][2])])
    """
    found, deeper = act(code, given=FACTS)
    assert (found["level"], deeper) == ("standard", "standard")
    assert "filter around this process" in found["namespace_problem"]


@pytest.mark.skipif(probe.walls().level != "full", reason="needs user namespaces to forbid them in one")
def test_where_the_kernels_settings_allow_none_it_names_the_setting(act):
    code = """
    def inside():
        uid, gid = os.getuid(), os.getgid()
        syscalls.call("unshare", 0x10000000)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            open(f"/proc/self/{name}", "w").write(text)
        before = facts()["level"]
        # This setting belongs to the user namespace that it is written in.
        open("/proc/sys/user/max_user_namespaces", "w").write("0")
        return [before, facts()]
    show(child(inside))
    """
    before, found = act(code, user="nobody", given=FACTS)
    assert before == "full"
    assert found["level"] == "standard"
    assert found["namespace_problem"] == "user namespaces: user.max_user_namespaces is 0"
    assert missing(found)[0][2] == "sysctl -w user.max_user_namespaces=15000"


def test_in_a_chroot_there_are_none(act, place):
    code = """
    os.chroot(sys.argv[1])
    os.chdir("/")
    for name in ("proc", "tmp"):
        os.mkdir(name)
    show(facts())
    """
    if os.geteuid() != 0:
        pytest.skip("only root can chroot")
    found = act(code, place, given=FACTS)
    assert found["level"] == "standard"
    assert "chroot" in found["namespace_problem"]


@pytest.mark.parametrize(
    ("step", "code", "around", "why", "fix"),
    [
        ("map", errno.EPERM, Surroundings(uid=1000, apparmor_restricts=1), "AppArmor", "kernel.apparmor_restrict_unprivileged_userns=0"),
        ("tmpfs", errno.EACCES, Surroundings(uid=1000, apparmor_restricts=1), "AppArmor", "profile with userns"),
        ("unshare", errno.EPERM, Surroundings(uid=1000, unprivileged_clone=0), "unprivileged_userns_clone", "kernel.unprivileged_userns_clone=1"),
        ("unshare", errno.EPERM, Surroundings(uid=0, unprivileged_clone=0, filtered=True), "filter", "seccomp profile"),
        ("unshare", errno.ENOSPC, Surroundings(uid=0, max_user_namespaces=0), "max_user_namespaces", "user.max_user_namespaces=15000"),
        ("unshare", errno.EUSERS, Surroundings(uid=0, max_user_namespaces=99), "too many", "max_"),
        ("proc", errno.EPERM, Surroundings(uid=0, filtered=True), "hidden", "systempaths=unconfined"),
        ("map", errno.EPERM, Surroundings(uid=0), "CAP_SETFCAP", "CAP_SETFCAP"),
        ("unshare", errno.EPERM, Surroundings(uid=1000), "chroot", "SELinux"),
        ("fork", errno.ENOMEM, Surroundings(uid=1000), "fork failed", "cannot use"),
        ("proc", 0, Surroundings(uid=1000), "did not hold", "cannot use"),
    ],
)
def test_settings_that_cannot_be_had_here_are_explained(step, code, around, why, fix):
    what, said, todo = probe.explain_namespaces(step, code, around)
    assert what.startswith("user namespaces" if step in {"unshare", "map"} else "mounts in namespaces")
    assert why in said
    assert fix in todo


def test_an_unknown_machine_is_told_which_are_known(monkeypatch):
    monkeypatch.setattr(probe.syscalls, "machine", lambda: None)
    what, why, fix = probe.explain_seccomp("seccomp", errno.ENOSYS, "riscv64")
    assert (what, "riscv64" in why, "aarch64" in fix) == ("seccomp", True, True)


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6, 7])
def test_an_older_landlock_is_said_to_hold_less(monkeypatch, version):
    monkeypatch.setattr(landlock, "abi", lambda: version)
    monkeypatch.setattr(probe, "_trial", lambda attempt: None)
    found = probe.walls()
    assert found.level == "full"
    assert len(found.notes) == {1: 4, 2: 4, 3: 3, 4: 2, 5: 1}.get(version, 0)
    assert all(note[0].startswith("Landlock: ") and f"version {version}" in note[1] and "Linux 6." in note[2] for note in found.notes)


def test_elsewhere_than_on_linux_there_is_no_confinement(monkeypatch):
    monkeypatch.setattr(probe.sys, "platform", "darwin")
    found = probe.walls()
    assert (found.level, found.landlock_abi, found.seccomp, found.user_namespaces) == ("process", 0, False, False)
    assert "darwin" in found.notes[0][1]


def test_a_trial_that_hangs_is_ended_and_is_no_success(act):
    code = """
    probe.LIMIT_S = 0.05
    hung = probe._trial(lambda: time.sleep(600))
    def odd():
        raise ValueError("odd")
    def dead():
        os.kill(os.getpid(), signal.SIGKILL)
    found = [probe._trial(attempt) for attempt in (odd, dead, lambda: None)]
    # A child that has spoken would be waited for by nobody.
    try:
        os.waitpid(-1, os.WNOHANG)
        left = True
    except ChildProcessError:
        left = False
    show([hung.step, hung.code == errno.ETIME, [one is not None for one in found], left])
    """
    assert act(code) == ["trial", True, [True, True, False], False]
