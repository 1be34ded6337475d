"""Capabilities: root without them is an ordinary user, and nothing that is started gets them back."""

from __future__ import annotations

import os

import pytest

from toka_cli.sandbox import capabilities, probe

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to give up")

STATUS = """
def sets(pid="self"):
    "The five sets as the kernel shows them, as numbers."
    return {line[:6]: int(line.split()[1], 16) for line in open(f"/proc/{pid}/status") if line.startswith("Cap")}
def started():
    "The sets (permitted, effective, bounding, ambient) of a program that is started from here."
    text = run("/bin/cat", "/proc/self/status")[1]
    return [int(line.split()[1], 16) for line in text.splitlines() if line.startswith(("CapPrm", "CapEff", "CapBnd", "CapAmb"))]
def bits(*names):
    return sum(1 << capabilities.NAMES.index(name) for name in names)
"""


@root_only
def test_all_sets_are_empty_afterwards_here_and_in_what_is_started(act):
    code = """
    before = sets()
    show([before["CapPrm"] != 0, capabilities.drop(), sets(), started(), capabilities.held()])
    """
    had, kept, now, later, held = act(code, given=STATUS)
    assert had
    assert kept == held == []
    assert now == dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0)
    assert later == [0, 0, 0, 0]


@root_only
def test_what_is_kept_is_kept_by_what_is_started_and_nothing_else_is(act):
    code = """
    kept = capabilities.drop(keep=("CHOWN", "cap_fowner", "Dac_Override"))
    expected = bits("chown", "fowner", "dac_override")
    prctl.forbid_new_privileges()
    show([kept, [number == expected for number in sets().values()], [number == expected for number in started()]])
    """
    kept, now, later = act(code, given=STATUS)
    assert kept == ["chown", "dac_override", "fowner"]
    assert now == [True] * 5
    assert later == [True] * 4


@root_only
def test_root_without_them_is_an_ordinary_user(act, place):
    (place / "others").write_text("secret")
    code = """
    path = sys.argv[1] + "/others"
    os.chown(path, 65534, 65534)
    os.chmod(path, 0o600)
    def acts():
        return {
            "read": tried(open, path), "chown": tried(os.chown, path, 0, 0), "chmod": tried(os.chmod, path, 0o600),
            "mknod": tried(os.mknod, f"{path}-{os.getpid()}", 0o20600, 259), "kill": tried(os.kill, victim, 0), "chroot": tried(os.chroot, "/"),
            "nice": tried(os.nice, -1),
            "raw": tried(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1),
            "setuid": tried(os.setuid, 12345),
        }
    victim = os.fork()
    if victim == 0:
        os.setuid(65534)
        time.sleep(60)
        os._exit(0)
    while open(f"/proc/{victim}/status").read().split("Uid:")[1].split()[0] == "0":
        time.sleep(0.001)
    free = child(acts)
    os.chown(path, 65534, 65534)
    held = child(lambda: [capabilities.drop(), acts()][1])
    some = child(lambda: [capabilities.drop(keep=("chown", "dac_override", "fowner")), acts()][1])
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    show([free, held, some])
    """
    free, held, some = act(code, place)
    assert {name for name, came in free.items() if came != "done"} == set()
    assert {name for name, came in held.items() if came not in {"EPERM", "EACCES"}} == set()
    assert {name for name, came in some.items() if came == "done"} == {"read", "chown", "chmod"}


@root_only
def test_it_can_be_done_again_and_only_takes_away(act):
    code = """
    first = capabilities.drop(keep=("chown", "kill"))
    second = capabilities.drop(keep=("kill", "sys_admin"))
    show([first, second, capabilities.drop(), capabilities.drop(), sets()["CapPrm"]])
    """
    assert act(code, given=STATUS) == [["chown", "kill"], ["kill"], [], [], 0]


def test_an_ordinary_user_has_none_to_drop(act):
    code = """
    capabilities.drop(keep=("chown",))
    prctl.forbid_new_privileges()
    show([capabilities.drop(), sets()["CapPrm"], sets()["CapAmb"], started()[:2]])
    """
    assert act(code, user="nobody", given=STATUS) == [[], 0, 0, [0, 0]]


@pytest.mark.skipif(not probe.walls().user_namespaces, reason="no user namespaces here")
def test_in_a_user_namespace_they_are_dropped_too(act):
    """Making one gives every capability in it: an agent must not be born with them."""
    code = """
    def inside():
        uid, gid = os.getuid(), os.getgid()
        syscalls.call("unshare", 0x10000000)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            open(f"/proc/self/{name}", "w").write(text)
        before = sets()["CapEff"]
        some = capabilities.drop(keep=("chown",))
        later = started()
        return [before != 0, some, [number == bits("chown") for number in later], capabilities.drop(), started()[:2]]
    show(child(inside))
    """
    found = act(code, user="nobody", given=STATUS)
    assert found == [True, ["chown"], [True] * 4, [], [0, 0]]


def test_an_unknown_name_drops_nothing_and_says_so(act):
    code = """
    before = sets()
    try:
        capabilities.drop(keep=("chwon",))
        said = ""
    except ValueError as error:
        said = str(error)
    show([said, before == sets()])
    """
    said, unchanged = act(code, given=STATUS)
    assert said.startswith("chwon: no capability")
    assert unchanged is True


def test_the_names_are_the_kernels():
    path = "/usr/include/linux/capability.h"
    if not os.path.exists(path):
        pytest.skip("no kernel headers here")
    with open(path) as file:
        words = [line.split() for line in file if line.startswith("#define CAP_")]
    named = {word[1].removeprefix("CAP_").lower(): int(word[2]) for word in words if len(word) == 3 and word[2].isdigit()}
    assert {name: number for number, name in enumerate(capabilities.NAMES)} == named
