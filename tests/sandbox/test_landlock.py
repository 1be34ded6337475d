"""Landlock: every forbidden act is really tried, beside the one that is allowed and looks like it."""

from __future__ import annotations

import os

import pytest

from toka_cli.protocol.messages import Walls
from toka_cli.sandbox import landlock

ABI = landlock.abi()
pytestmark = pytest.mark.skipif(ABI < 2, reason=f"needs Landlock ABI 2; this kernel has {ABI}")


def needs(version):
    return pytest.mark.skipif(version > ABI, reason=f"Landlock holds this from ABI {version}; this kernel has {ABI}")


USERS = ["root", "nobody"]


@pytest.fixture
def tree(place):
    """Folders and files that everybody may read and change, so that only walls stand between."""
    for name in ("open", "shut", "both"):
        (place / name).mkdir()
        (place / name).chmod(0o777)
        for file, text in (("text", "words"), ("script", "#!/bin/sh\necho ran\n")):
            (place / name / file).write_text(text)
            (place / name / file).chmod(0o777)
    return place


FILE_ACTS = """
def acts(folder):
    "Everything that can be done in a folder, each with what came of it; what it makes it removes."
    at = lambda name: os.path.join(folder, name)
    def write(name, flags=0):
        os.close(os.open(at(name), os.O_WRONLY | flags, 0o666))
    def sock(name):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(at(name))
    found = {
        "list": tried(os.listdir, folder),
        "read": tried(lambda: open(at("text")).read()),
        "run": tried(subprocess.run, [at("script")], stdout=subprocess.PIPE, check=True),
        "write": tried(write, "text"),
        "truncate": tried(write, "text", os.O_TRUNC),
        "truncate by path": tried(os.truncate, at("text"), 5),
        "create": tried(write, "new", os.O_CREAT | os.O_EXCL),
        "rename": tried(os.rename, at("text"), at("moved")),
        "rename back": tried(os.rename, at("moved"), at("text")),
        "link": tried(os.link, at("text"), at("hard")),
        "symlink": tried(os.symlink, "text", at("soft")),
        "mkdir": tried(os.mkdir, at("folder")),
        "rmdir": tried(os.rmdir, at("folder")),
        "fifo": tried(os.mkfifo, at("fifo")),
        "socket": tried(sock, "socket"),
        "device": tried(os.mknod, at("null"), 0o20666, os.makedev(1, 3)),
        "block device": tried(os.mknod, at("loop"), 0o60666, os.makedev(7, 0)),
    }
    found["unlink"] = tried(os.unlink, at("new"))
    for name in ("hard", "soft", "fifo", "socket", "null", "loop"):
        tried(os.unlink, at(name))
    return found
"""

ALL_ACTS = [
    "list", "read", "run", "write", "truncate", "truncate by path", "create", "rename", "rename back", "link", "symlink", "mkdir", "rmdir", "fifo", "socket",
    "device", "block device", "unlink",
]  # fmt: skip
LOOKING = {"list", "read"}
# What can be done everywhere, because this kernel's Landlock does not see it.
UNSEEN = set() if ABI >= 3 else {"truncate by path"}
DEVICES = {"device", "block device"}


def done(found):
    return {name for name, came in found.items() if came == "done"}


@pytest.mark.skipif(os.geteuid() != 0, reason="root could do it, and is shown to be able to no more")
def test_without_walls_all_of_it_can_be_done(act, tree):
    """The positive twin of every refusal below."""
    found = act("show(acts(sys.argv[1]))", tree / "open", given=FILE_ACTS)
    assert list(found) == ALL_ACTS
    assert done(found) == set(ALL_ACTS)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    ("grant", "allowed"),
    [
        ("read", LOOKING),
        ("execute", LOOKING | {"run"}),
        ("write", set(ALL_ACTS) - DEVICES - {"run"}),
        ("write_execute", set(ALL_ACTS) - DEVICES),
    ],
)
def test_a_grant_gives_what_it_says_and_nothing_beside_it(act, tree, user, grant, allowed):
    code = """
    walls = {"execute": SYSTEM, sys.argv[2]: (sys.argv[1] + "/open",)} if sys.argv[2] != "execute" else {"execute": (*SYSTEM, sys.argv[1] + "/open")}
    restrict("standard", **walls)
    show([acts(sys.argv[1] + "/open"), acts(sys.argv[1] + "/shut")])
    """
    inside, outside = act(code, tree, grant, user=user, given=FILE_ACTS)
    assert done(inside) == allowed | UNSEEN
    assert done(outside) == UNSEEN
    # A name that was never made is missing; everything else was refused, not impossible.
    assert {outside[name] for name in set(outside) - UNSEEN} <= {"EACCES", "ENOENT", "EXDEV", "EPERM"}
    assert {outside[name] for name in {"read", "list", "write", "truncate", "truncate by path"} - UNSEEN} == {"EACCES"}


def test_without_any_rule_nothing_can_be_reached(act, tree):
    code = """
    restrict()
    show([acts(sys.argv[1] + "/open"), tried(os.listdir, "/"), tried(open, "/etc/passwd"), tried(os.execv, "/bin/true", ["true"])])
    """
    found, *others = act(code, tree, given=FILE_ACTS)
    assert done(found) == UNSEEN
    assert others == ["EACCES"] * 3


def test_a_rule_for_a_file_is_for_that_file_only(act, tree):
    code = """
    folder = sys.argv[1]
    report = restrict("standard", read=(folder + "/open/text",), write=(folder + "/both/text", "/dev/null"), execute=SYSTEM,
                      write_execute=(folder + "/shut/script",))
    show([
        report["paths"] - len(SYSTEM), report["skipped"],
        tried(open, folder + "/open/text"), tried(open, folder + "/open/script"), tried(open, folder + "/open/text", "a"), tried(os.listdir, folder + "/open"),
        tried(open, folder + "/both/text", "w"), tried(os.unlink, folder + "/both/text"), tried(open, "/dev/null", "w"), tried(open, "/dev/zero"),
        run(folder + "/shut/script")[1], tried(subprocess.run, [folder + "/open/script"]),
    ])
    """
    assert act(code, tree) == [
        4, [], "done", "EACCES", "EACCES", "EACCES", "done", "EACCES", "done", "EACCES", "ran\n", "EACCES",
    ]  # fmt: skip


def test_no_way_round_by_links_renames_or_dots(act, tree):
    code = """
    inside, outside = sys.argv[1] + "/open", sys.argv[1] + "/shut"
    os.symlink(outside + "/text", inside + "/soft")
    restrict("standard", write=(inside, sys.argv[1] + "/both"))
    show([
        tried(open, inside + "/soft"), tried(open, inside + "/../shut/text"), tried(os.link, outside + "/text", inside + "/stolen"),
        tried(os.rename, outside + "/text", inside + "/stolen"), tried(os.rename, inside + "/text", outside + "/gone"),
        tried(os.link, inside + "/text", sys.argv[1] + "/both/linked"), tried(os.rename, inside + "/text", sys.argv[1] + "/both/moved"),
    ])
    """
    soft, dots, link, stolen, gone, *inside = act(code, tree)
    assert (soft, dots) == ("EACCES", "EACCES")
    assert {link, stolen, gone} <= {"EACCES", "EXDEV"}
    assert inside == ["done", "done"]


def test_nothing_becomes_executable_by_being_moved(act, tree):
    code = """
    inside, runnable = sys.argv[1] + "/open", sys.argv[1] + "/both"
    restrict("standard", write=(inside,), write_execute=(runnable,), execute=SYSTEM)
    show([tried(os.rename, inside + "/script", runnable + "/planted"), tried(os.link, inside + "/script", runnable + "/planted"),
          tried(os.rename, runnable + "/script", inside + "/moved"), tried(subprocess.run, [inside + "/moved"])])
    """
    assert act(code, tree) == ["EXDEV", "EXDEV", "done", "EACCES"]


def test_what_was_open_before_stays_open(act, tree):
    """So descriptors are closed by whoever starts a cell; walls do not do it."""
    code = """
    before = open(sys.argv[1] + "/shut/text")
    restrict()
    show([before.read(), tried(open, sys.argv[1] + "/shut/text")])
    """
    assert act(code, tree) == ["words", "EACCES"]


def test_paths_that_cannot_be_opened_are_passed_over_and_named(act, tree):
    code = """
    folder = sys.argv[1]
    report = restrict("standard", read=(folder + "/missing", folder + "/open"), write=(folder + "/open/text/below",), extra_write=(folder + "/gone",))
    show([report["skipped"], report["paths"], tried(open, folder + "/open/text"), tried(open, folder + "/shut/text")])
    """
    skipped, *others = act(code, tree)
    assert skipped == [
        [f"{tree}/missing", "No such file or directory"],
        [f"{tree}/open/text/below", "Not a directory"],
        [f"{tree}/gone", "No such file or directory"],
    ]
    assert others == [1, "done", "EACCES"]


def test_links_are_followed_for_toka_itself_only(act, tree):
    code = """
    folder = sys.argv[1]
    os.symlink(folder + "/shut", folder + "/link")
    def first():
        report = restrict("standard", read=(folder + "/link",))
        return [report["skipped"], tried(open, folder + "/shut/text")]
    def second():
        report = restrict("standard", extra_execute=(folder + "/link",))
        return [report["skipped"], tried(open, folder + "/shut/text"), tried(open, folder + "/shut/text", "a")]
    def third():
        report = restrict("standard", extra_write=(folder + "/link",))
        return [report["skipped"], tried(open, folder + "/shut/text"), tried(open, folder + "/shut/text", "a")]
    show([child(first), child(second), child(third)])
    """
    walls, execute, write = act(code, tree)
    assert walls == [[[f"{tree}/link", "has links in it"]], "EACCES"]
    assert execute == [[], "done", "EACCES"]
    assert write == [[], "done", "done"]


def test_without_openat2_links_are_found_all_the_same(act, tree):
    """Filters of old containers refuse the call."""
    code = """
    folder = sys.argv[1]
    os.symlink(folder + "/shut", folder + "/link")
    real = syscalls.call
    def refused(name, *words):
        if name == "openat2":
            raise OSError(errno.EPERM, "refused")
        return real(name, *words)
    syscalls.call = refused
    report = restrict("standard", read=(folder + "/link", folder + "/link/text", folder + "/open"))
    show([report["skipped"], tried(open, folder + "/shut/text"), tried(open, folder + "/open/text")])
    """
    skipped, shut, opened = act(code, tree)
    assert skipped == [[f"{tree}/link", "has links in it"], [f"{tree}/link/text", "has links in it"]]
    assert (shut, opened) == ("EACCES", "done")


@pytest.mark.parametrize("user", USERS)
def test_domains_nest_and_the_inner_one_only_takes_away(act, tree, user):
    code = """
    folder = sys.argv[1]
    restrict("standard", write=(folder + "/open", folder + "/both"))
    def inner():
        # More than the outer one gives is asked for, and not given.
        report = restrict("standard", read=(folder + "/shut", folder + "/open"), write=("/",))
        return [report["abi"], tried(open, folder + "/shut/text"), tried(open, folder + "/open/text", "a"), tried(os.listdir, "/")]
    def narrower():
        restrict("standard", read=(folder + "/open",))
        return [tried(open, folder + "/open/text"), tried(open, folder + "/open/text", "a"), tried(open, folder + "/both/text")]
    show([child(inner)[1:], child(narrower), tried(open, folder + "/both/text")])
    """
    assert act(code, tree, user=user) == [["EACCES", "done", "EACCES"], ["done", "EACCES", "EACCES"], "done"]


def test_one_ruleset_serves_many_children_and_spares_its_owner(act, tree):
    code = """
    folder = sys.argv[1]
    ruleset = landlock.build(Walls("standard", read=(folder + "/open",)))
    def confined():
        prctl.forbid_new_privileges()
        ruleset.restrict()
        return [tried(open, folder + "/open/text"), tried(open, folder + "/shut/text")]
    found = [child(confined), child(confined), tried(open, folder + "/shut/text"), os.get_inheritable(ruleset.fd)]
    ruleset.close()
    ruleset.close()
    found.append(child(confined))
    show(found)
    """
    *good, closed = act(code, tree)
    assert good == [["done", "EACCES"], ["done", "EACCES"], "done", False]
    assert "Bad file descriptor" in closed


def test_no_descriptor_is_left_behind(act, tree):
    code = """
    before = sorted(os.listdir("/proc/self/fd"))
    landlock.build(Walls("standard", read=(sys.argv[1], "/missing"), write=("/dev/null",)), tcp_connect_port=1).close()
    real = syscalls.call
    def refused(name, *words):
        if name == "landlock_add_rule":
            raise OSError(errno.EBADFD, "a place that no rule can be about")
        return real(name, *words)
    syscalls.call = refused
    failed = tried(landlock.build, Walls("standard", read=(sys.argv[1],)))
    show([failed, before == sorted(os.listdir("/proc/self/fd"))])
    """
    assert act(code, tree) == ["EBADFD", True]


def test_without_no_new_privs_an_ordinary_user_is_refused(act):
    code = """
    ruleset = landlock.build(Walls("standard"))
    show([child(lambda: tried(ruleset.restrict)), child(lambda: [prctl.forbid_new_privileges(), tried(ruleset.restrict), tried(os.listdir, "/")])])
    """
    assert act(code, user="nobody") == ["EPERM", [True, "done", "EACCES"]]


def test_sixteen_domains_and_no_more(act):
    code = """
    def deep():
        prctl.forbid_new_privileges()
        ruleset = landlock.build(Walls("standard"))
        return [tried(ruleset.restrict) for _ in range(17)]
    show(child(deep))
    """
    assert act(code) == ["done"] * 16 + ["E2BIG"]


def test_only_the_calling_thread_is_confined(act):
    """Why cells have one thread when walls go up."""
    code = """
    found = []
    def confined():
        restrict()
        found.append(tried(os.listdir, "/"))
    thread = threading.Thread(target=confined)
    thread.start()
    thread.join()
    found.append(tried(os.listdir, "/"))
    show(found)
    """
    assert act(code) == ["EACCES", "done"]


TCP = """
servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
first, second = (server.getsockname()[1] for server in servers)
six = socket.create_server(("::1", 0), family=socket.AF_INET6) if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6") else None
def connect(port, family=socket.AF_INET, host="127.0.0.1"):
    with socket.socket(family) as made:
        made.settimeout(10)
        made.connect((host, port))
def bind(port=0):
    with socket.socket() as made:
        made.bind(("127.0.0.1", port))
def net():
    return [tried(connect, first), tried(connect, second), tried(bind)] + ([tried(connect, six.getsockname()[1], socket.AF_INET6, "::1")] if six else [])
"""


@needs(4)
@pytest.mark.parametrize("user", USERS)
def test_tcp_reaches_one_port_or_none(act, user):
    code = """
    def none():
        report = restrict()
        return [report["network"], report["connect_port"], *net()]
    def proxy():
        report = restrict("standard", network="proxy", tcp_connect_port=first)
        return [report["connect_port"] == first, *net()]
    def private():
        report = restrict("full", network="loopback")
        return [report["network"], *net()]
    def not_private():
        return [restrict("standard", network="loopback")["network"], *net()]
    show([net(), child(none), child(proxy), child(private), child(not_private)])
    """
    free, none, proxy, private, not_private = act(code, user=user, given=TCP)
    six = len(free) - 3
    assert free == ["done"] * len(free)
    assert none == [["bind_tcp", "connect_tcp"], None] + ["EACCES"] * (3 + six)
    assert proxy == [True, "done", "EACCES", "EACCES"] + ["EACCES"] * six
    assert private == [[]] + ["done"] * len(free)
    assert not_private == [["bind_tcp", "connect_tcp"]] + ["EACCES"] * len(free)


@needs(6)
@pytest.mark.parametrize("user", USERS)
def test_signals_and_abstract_sockets_end_at_the_domain(act, user):
    code = """
    outside = os.fork()
    if outside == 0:
        time.sleep(60)
        os._exit(0)
    name = f"\\0toka-test-{os.getpid()}"
    server = socket.socket(socket.AF_UNIX)
    server.bind(name)
    server.listen()
    def reach():
        with socket.socket(socket.AF_UNIX) as made:
            made.connect(name)
    def acts():
        inside = os.fork()
        if inside == 0:
            time.sleep(60)
            os._exit(0)
        found = [tried(os.kill, outside, 0), tried(os.kill, os.getppid(), 0), tried(reach), tried(os.kill, inside, signal.SIGKILL)]
        return [*found, os.waitstatus_to_exitcode(os.waitpid(inside, 0)[1])]
    found = [child(acts), child(lambda: [restrict(), *acts()][1:]), child(lambda: [restrict(scope=False), *acts()][1:])]
    os.kill(outside, signal.SIGKILL)
    os.waitpid(outside, 0)
    show(found)
    """
    free, scoped, unscoped = act(code, user=user)
    assert free == unscoped == ["done", "done", "done", "done", -9]
    assert scoped == ["EPERM", "EPERM", "EPERM", "done", -9]


@pytest.mark.parametrize("user", USERS)
def test_a_second_layer_cannot_look_into_or_signal_the_first(act, user):
    """A command and its own agent: the same user, both confined, the command once more."""
    code = """
    walls = {"read": ("/proc",), "execute": SYSTEM}
    def look(me):
        libc = ctypes.CDLL(None, use_errno=True)
        attached = libc.ptrace(16, me, None, None)
        code = ctypes.get_errno()
        if attached == 0:
            os.waitpid(me, 0x40000000)
            libc.ptrace(17, me, None, None)
        return [tried(open, f"/proc/{me}/environ"), tried(open, f"/proc/{me}/mem", "rb"), tried(os.readlink, f"/proc/{me}/cwd"),
                tried(os.readlink, f"/proc/{me}/fd/1"), "done" if attached == 0 else errno.errorcode[code], tried(os.kill, me, 0)]
    def agent(second_layer):
        restrict("standard", **walls)
        capabilities.drop()
        prctl.allow_dumps()
        me = os.getpid()
        return child(lambda: [second_layer and restrict("standard", **walls), *look(me)][1:])
    show([child(agent, False), child(agent, True)])
    """
    plain, command = act(code, user=user)
    assert plain == ["done"] * 6
    # Signals are refused by the filter of system calls where Landlock does not see them; here stands none.
    assert command == ["EACCES", "EACCES", "EACCES", "EACCES", "EPERM", "EPERM" if ABI >= 6 else "done"]


@needs(5)
def test_devices_answer_no_ioctl(act):
    code = """
    def ask():
        fd = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
        return tried(fcntl.ioctl, fd, 0x80045430, b"\\0" * 4)
    show([child(ask), child(lambda: [restrict("standard", write=("/dev/ptmx",)), ask()][1])])
    """
    assert act(code) == ["done", "EACCES"]


@pytest.mark.parametrize("version", range(1, 8))
def test_older_kernels_get_what_they_know(act, tree, version):
    """A kernel of an older ABI takes fewer bits; asking this one for those only shows what such a kernel holds."""
    code = """
    version = int(sys.argv[2])
    landlock.abi = lambda: version
    folder = sys.argv[1]
    def outside():
        report = restrict("standard", write=(folder + "/open",), read=(folder + "/shut",), tcp_connect_port=1)
        with socket.socket() as made:
            bound = tried(made.bind, ("127.0.0.1", 0))
        return [report, tried(open, folder + "/both/text"), tried(os.truncate, folder + "/shut/text", 5), bound, tried(os.kill, os.getppid(), 0),
                tried(open, folder + "/open/text", "w"), tried(open, folder + "/shut/text", "a")]
    show(child(outside))
    """
    if version > ABI:
        pytest.skip(f"this kernel has Landlock ABI {ABI}")
    report, read, truncate, bind, signalled, write, append = act(code, tree, version)
    assert report["abi"] == version
    assert len(report["files"]) == {1: 13, 2: 14, 3: 15, 4: 15, 5: 16, 6: 16, 7: 16}[version]
    assert report["network"] == (["bind_tcp", "connect_tcp"] if version >= 4 else [])
    assert report["connect_port"] == (1 if version >= 4 else None)
    assert report["scopes"] == (["abstract_unix", "signal"] if version >= 6 else [])
    assert (read, write, append) == ("EACCES", "done", "EACCES")
    assert truncate == ("EACCES" if version >= 3 else "done")
    assert bind == ("EACCES" if version >= 4 else "done")
    assert signalled == ("EPERM" if version >= 6 else "done")


def test_a_kernel_without_it_is_not_pretended_to_have_it(monkeypatch):
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    assert landlock.build(Walls("standard", read=("/",))) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="reads root's files")
def test_root_is_confined_like_anybody(act):
    code = """
    show([tried(open, "/etc/shadow"), child(lambda: [restrict("standard", execute=("/usr",)), tried(open, "/etc/shadow")][1])])
    """
    assert act(code) == ["done", "EACCES"]
