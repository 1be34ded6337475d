"""The filter of system calls: every refused one is really made, beside one like it that is allowed; and the filter of either machine is read by a small
interpreter, number by number, so that the tables of the machine that this is not are held as well."""

from __future__ import annotations

import errno
import json
import os
import platform
import struct

import pytest

from toka_cli.sandbox import bpf, seccomp, syscalls

pytestmark = pytest.mark.skipif(not seccomp.available(), reason="this kernel or machine takes no filters of system calls")

USERS = ["root", "nobody"]
CLOSED = {"inet": False, "unix": False, "namespaces": False, "ipc": False}


# --- the program, read -------------------------------------------------------------------------------------------------------------------


def answer(program, number, arguments=(), audit=syscalls.MACHINES["x86_64"].audit):
    """What the kernel would answer: "allow", "kill" or the name of an errno. Also proof that every way through the program ends."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, audit, 0, *[value & (1 << 64) - 1 for value in values])
    code = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        kind, yes, no, value = code[at]
        at += 1
        if kind == bpf.LOAD:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif kind == bpf.AND:
            accumulator &= value
        elif kind == bpf.JUMP:
            at += value
        elif kind == bpf.RETURN:
            if value == bpf.ALLOW:
                return "allow"
            return "kill" if value == bpf.KILL_PROCESS else errno.errorcode[value & 0xFFFF]
        else:
            holds = {bpf.EQUAL: accumulator == value, bpf.GREATER: accumulator > value, bpf.ANY_BIT: bool(accumulator & value)}[kind]
            at += yes if holds else no


OPTIONS = [
    CLOSED,
    {**CLOSED, "inet": True},
    {**CLOSED, "inet": True, "unix": True, "netlink": True, "protect_pids": (7, 8, 9, 10, 11, 12, 13, 14)},
    {"inet": True, "unix": True, "namespaces": True, "ipc": True, "netlink": True},
    {"inet": True, "unix": False, "namespaces": True, "ipc": True, "protect_pids": (7,)},
]


@pytest.mark.parametrize("machine", list(syscalls.MACHINES))
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_every_number_of_both_machines_is_answered_as_its_name_says(machine, options):
    here = syscalls.MACHINES[machine]
    program = seccomp.program(**options, machine=here)
    names = {numbers[here.column]: name for name, numbers in syscalls.NUMBERS.items() if numbers[here.column] is not None}
    always = {*seccomp.OTHER_PROCESSES, *seccomp.VIEW_OF_FILES, *seccomp.THE_KERNEL, *seccomp.THE_MACHINE}
    wrong = {}
    for number in range(600):
        name = names.get(number, str(number))
        expected = "allow"
        if name in always or (name in seccomp.MESSAGE_OBJECTS and not options["ipc"]):
            expected = "EPERM"
        elif number > syscalls.LAST_KNOWN or name in seccomp.ABSENT or (name == "pidfd_send_signal" and options.get("protect_pids")):
            expected = "ENOSYS"
        elif name in {"socket", "socketpair"}:
            expected = "EAFNOSUPPORT"
        elif name == "listen" and options["inet"] and not options["namespaces"]:
            expected = "EACCES"
        if (found := answer(program, number, audit=here.audit)) != expected:
            wrong[name] = (found, expected)
    assert wrong == {}


@pytest.mark.parametrize("machine", list(syscalls.MACHINES))
def test_other_machines_programs_are_killed_and_x32_has_no_calls(machine):
    here = syscalls.MACHINES[machine]
    program = seccomp.program(**CLOSED, machine=here)
    others = [0x40000003, 0x40000028, 0, *(other.audit for other in syscalls.MACHINES.values() if other is not here)]
    assert {answer(program, 1, audit=audit) for audit in others} == {"kill"}
    assert answer(program, 1, audit=here.audit) == "allow"
    assert {answer(program, 0x40000000 | number, audit=here.audit) for number in (0, 1, 41, 59, 512, 520)} == {"ENOSYS"}


@pytest.mark.parametrize("machine", list(syscalls.MACHINES))
def test_what_stands_above_32_bits_changes_nothing(machine):
    """The kernel takes these arguments as ints; a filter that looked at all 64 bits would be walked round."""
    here = syscalls.MACHINES[machine]
    program = seccomp.program(**CLOSED, protect_pids=(77777,), machine=here)

    def ask(name, *arguments):
        return answer(program, syscalls.NUMBERS[name][here.column], arguments, here.audit)

    for high in (0, 1 << 32, 0xFFFFFFFF << 32):
        assert ask("socket", high | 1, 1, 0) == "EACCES"
        assert ask("socket", high | 2, 1, 0) == "EACCES"
        assert ask("socketpair", high | 1, high | 2, 0) == "EACCES"
        assert ask("socketpair", high | 1, high | 1, 0) == "allow"
        assert ask("ioctl", 0, high | seccomp.TIOCSTI) == "EPERM"
        assert ask("ioctl", 0, high | 0x5413) == "allow"
        assert ask("kill", high | 77777, 9) == "EPERM"
        assert ask("kill", high | 77778, 9) == "allow"
        assert ask("kill", high | 0xFFFFFFFF, 9) == "EPERM"
        assert ask("clone", high | 0x10000000 | 17) == "EPERM"
        assert ask("setpriority", high, high | 77777, 5) == "EPERM"


@pytest.mark.parametrize("machine", list(syscalls.MACHINES))
def test_who_is_protected_is_so_from_every_call_and_as_a_group(machine, monkeypatch):
    here = syscalls.MACHINES[machine]
    monkeypatch.setattr(os, "getpgid", lambda pid: {70001: 70001, 70002: 70003}[pid])
    program = seccomp.program(**CLOSED, protect_pids=(70001, 70002), machine=here)

    def ask(name, *arguments):
        return answer(program, syscalls.NUMBERS[name][here.column], arguments, here.audit)

    for name in seccomp.AIMED_BY_FIRST:
        for target in (70001, 70002, 70003, -70001, -70003, -1):
            assert ask(name, target) == "EPERM", (name, target)
        for target in (0, 1, 70000, 70004, -70004):
            assert ask(name, target) == "allow", (name, target)
    for name, everybody in (("setpriority", 2), ("ioprio_set", 3)):
        assert ask(name, everybody, 0) == "EPERM"
        assert ask(name, 0, 70001) == ask(name, 1, 70003) == "EPERM"
        assert ask(name, 0, 0) == ask(name, 1, 70000) == "allow"
    for command in (seccomp.F_SETOWN, seccomp.F_SETOWN_EX):
        assert ask("fcntl", 0, command, 70001) == "EPERM"
    assert ask("kill", 0) == ask("kill", -2) == ask("tgkill", 0) == "allow"
    assert ask("fcntl", 0, 1) == ask("fcntl", 0, 1030) == "allow"
    assert ask("ioctl", 0, seccomp.FIOSETOWN) == ask("ioctl", 0, seccomp.SIOCSPGRP) == "EPERM"


@pytest.mark.parametrize("machine", list(syscalls.MACHINES))
def test_only_what_goes_round_landlock_is_taken_from_tcp_clients(machine):
    here = syscalls.MACHINES[machine]
    program = seccomp.program(**{**CLOSED, "inet": True}, machine=here)

    def ask(name, *arguments):
        return answer(program, syscalls.NUMBERS[name][here.column], arguments, here.audit)

    assert ask("setsockopt", 3, 6, 31) == ask("setsockopt", 3, 1 << 32 | 6, 1 << 32 | 31) == "ENOPROTOOPT"
    assert ask("setsockopt", 3, 6, 1) == ask("setsockopt", 3, 1, 31) == ask("setsockopt", 3, 41, 31) == "allow"
    for name, place in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
        assert getattr(errno, ask(name, *[0] * place, 0x20004000)) == errno.EOPNOTSUPP
        assert ask(name, *[0] * place, 0x4000) == ask(name, *[0x20000000] * place, 0) == "allow"


def test_a_group_that_cannot_be_named_here_is_not_taken_for_ones_own(monkeypatch):
    """Seen from a pid namespace, the group of a process outside is 0."""
    monkeypatch.setattr(os, "getpgid", lambda pid: 0)
    program = seccomp.program(**CLOSED, protect_pids=(70001,), machine=syscalls.MACHINES["x86_64"])
    kill, setpriority = syscalls.NUMBERS["kill"][0], syscalls.NUMBERS["setpriority"][0]
    assert answer(program, kill, (0, 9)) == answer(program, setpriority, (0, 0, 5)) == "allow"
    assert answer(program, kill, (70001, 9)) == "EPERM"


def test_a_program_is_of_a_moderate_size():
    assert len(seccomp.program(**CLOSED)) // 8 < 160
    assert len(seccomp.program(**{**CLOSED, "inet": True}, protect_pids=(1, 2, 3))) // 8 < 300


def test_an_unknown_machine_gets_no_filter(monkeypatch):
    monkeypatch.setattr(syscalls, "machine", lambda: None)
    assert not seccomp.available()
    with pytest.raises(OSError) as caught:
        seccomp.program(**CLOSED)
    assert caught.value.errno == errno.ENOSYS


# --- the filter, installed ---------------------------------------------------------------------------------------------------------------


def test_what_is_reported_is_read_back(act):
    code = """
    before = prctl.seccomp_mode()
    report = filtered()
    show([before, report, prctl.seccomp_mode(), [line.split()[1] for line in open("/proc/self/status") if line.startswith("Seccomp:")]])
    """
    before, report, mode, status = act(code)
    assert before in {0, 2}
    assert report == {"seccomp": True, "instructions": len(seccomp.program(**CLOSED)) // 8, "machine": platform.machine()}
    assert (mode, status) == (2, ["2"])


# Arguments with which each refused call is harmless, and answers something else than EPERM to root without a filter.
HARMLESS = {
    "ptrace": (0x4200, 0, 0, 0), "process_vm_readv": (-1, 0, 0, 0, 0, 0), "process_vm_writev": (-1, 0, 0, 0, 0, 0), "process_madvise": (-1, 0, 0, 0, 0),
    "process_mrelease": (-1, 0), "pidfd_getfd": (-1, 0, 0), "kcmp": (-1, -1, 0, 0, 0), "migrate_pages": (-1, 0, 0, 0), "move_pages": (-1, 0, 0, 0, 0, 0),
    "mount": (0, 0, 0, 0, 0), "umount2": (0, 0xFFFF), "chroot": (0,), "pivot_root": (0, 0), "unshare": (0,), "setns": (-1, 0), "open_tree": (-1, 0, 0xFFFF),
    "open_tree_attr": (-1, 0, 0xFFFF, 0, 0), "move_mount": (-1, 0, -1, 0, 0xFFFFFF), "fsopen": (0, 0xFF), "fsconfig": (-1, 99, 0, 0, 0),
    "fsmount": (-1, 0xFF, 0), "fspick": (-1, 0, 0xFFFF), "mount_setattr": (-1, 0, 0xFFFFFF, 0, 0), "open_by_handle_at": (-1, 0, 0),
    "fanotify_init": (0xFFFFFFF, 0), "fanotify_mark": (-1, 0, 0, 0, 0), "keyctl": (99999, 0, 0, 0, 0), "add_key": (0, 0, 0, 0, 0),
    "request_key": (0, 0, 0, 0), "bpf": (99999, 0, 0), "perf_event_open": (0, 0, 0, 0, 0xFFFFFF), "userfaultfd": (0xFFFFFF,), "init_module": (0, 0, 0),
    "finit_module": (-1, 0, 0xFFFF), "delete_module": (0, 0), "kexec_load": (0, 99999, 0, 0xFFFF), "kexec_file_load": (-1, -1, 0, 0, 0xFFFFFF),
    "reboot": (0, 0, 0, 0), "settimeofday": (0, 0), "clock_settime": (99, 0), "adjtimex": (0,), "clock_adjtime": (99, 0), "sethostname": (0, -1),
    "setdomainname": (0, -1), "swapon": (0, 0xFFFFFFF), "swapoff": (0,), "acct": (1,), "quotactl": (99999, 0, 0, 0), "quotactl_fd": (-1, 99999, 0, 0),
    "syslog": (99, 0, 0), "iopl": (0,), "ioperm": (0, 0, 0),
}  # fmt: skip
# Would hang up the terminal of whoever runs the tests.
NOT_TWICE = {"vhangup": ()}


@pytest.mark.parametrize("user", USERS)
def test_each_refused_call_is_refused(act, user):
    code = """
    def calls():
        return {name: tried(syscalls.call, name, *words) for name, words in json.loads(sys.argv[1]).items()}
    show([child(calls), child(lambda: [filtered(), calls()][1])])
    """
    names = (*seccomp.OTHER_PROCESSES, *seccomp.VIEW_OF_FILES, *seccomp.THE_KERNEL, *seccomp.THE_MACHINE)
    assert set(names) == {*HARMLESS, *NOT_TWICE}
    here = syscalls.machine()
    known = {name: words for name, words in HARMLESS.items() if syscalls.NUMBERS[name][here.column] is not None}
    free, held = act(code, json.dumps(known), user=user)
    assert {name: came for name, came in held.items() if came != "EPERM"} == {}
    if user == "root" and os.geteuid() == 0:
        # ENOSYS: this kernel was built without.
        assert {name for name, came in free.items() if came == "EPERM"} == set()
    assert act("filtered()\nshow(tried(syscalls.call, 'vhangup'))") == "EPERM"


def test_what_programs_probe_for_seems_to_be_missing_and_threads_go_on(act):
    code = """
    filtered()
    found = [tried(syscalls.call, name, 0, 0, 0) for name in ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")]
    words = []
    thread = threading.Thread(target=words.append, args=("ran",))
    thread.start()
    thread.join()
    show([found, words, child(lambda: "forked"), run("/bin/sh", "-c", "echo $(echo piped)")[1]])
    """
    assert act(code) == [["ENOSYS"] * 4, ["ran"], "forked", "piped\n"]


def test_calls_of_the_future_seem_to_be_missing(act):
    code = """
    libc = ctypes.CDLL(None, use_errno=True)
    def raw(number):
        libc.syscall(number, -1, -1, -1, -1, -1, -1)
        return errno.errorcode[ctypes.get_errno()]
    filtered()
    show([raw(number) for number in (470, 471, 547, 100000)])
    """
    assert act(code) == ["ENOSYS"] * 4


CLONE = """
def clone(flags):
    def make():
        pid = syscalls.call("clone", flags | signal.SIGCHLD, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return tried(make)
FLAGS = [0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000]
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="root could do it, and is shown to be able to no more")
def test_no_namespaces_by_clone(act):
    code = """
    show([child(lambda: [clone(flag) for flag in FLAGS]), child(lambda: [filtered(), *[clone(flag) for flag in FLAGS], clone(0), clone(1 << 32)][1:])])
    """
    free, held = act(code, given=CLONE)
    assert free == ["done"] * 7
    assert held == ["EPERM"] * 7 + ["done"] * 2


SOCKETS = """
def make(family, kind=1, protocol=0):
    fd = syscalls.call("socket", family, kind, protocol)
    os.close(fd)
def pair(family, kind=1):
    fds = (ctypes.c_char * 8)()
    syscalls.call("socketpair", family, kind, 0, fds)
    for fd in struct.unpack("=ii", fds.raw):
        os.close(fd)
STREAM, DGRAM, RAW, SEQ, PACKET, MORE = 1, 2, 3, 5, 10, 0x80800
"""


@pytest.mark.parametrize("user", USERS)
def test_without_a_grant_only_connected_pairs_remain(act, user):
    code = """
    filtered()
    show([[tried(make, family) for family in (1, 2, 10, 16)], sorted({tried(make, family) for family in range(64) if family not in (1, 2, 10, 16)}),
          [tried(make, family, kind) for family in (1, 2, 10) for kind in (DGRAM, RAW, SEQ, PACKET)],
          [tried(pair, 1, kind) for kind in (STREAM, SEQ, STREAM | MORE, DGRAM, RAW, DGRAM | MORE)], [tried(pair, family) for family in (2, 16, 30)],
          tried(make, (1 << 32) | 1), tried(make, (1 << 40) | 2)])
    """
    plain, others, kinds, pairs, foreign, *high = act(code, user=user, given=SOCKETS)
    assert plain == ["EACCES"] * 4
    assert others == ["EAFNOSUPPORT"]
    assert kinds == ["EACCES"] * 12
    assert pairs == ["done"] * 3 + ["EACCES"] * 3
    assert foreign == ["EAFNOSUPPORT"] * 3
    assert high == ["EACCES"] * 2


def test_a_datagram_pair_would_have_been_a_way_out_and_a_stream_pair_is_none(act, place):
    code = """
    path = os.path.join(sys.argv[1], "service")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(path)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path + "2")
    listening.listen()
    def out():
        def send():
            ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            ends[0].sendto(b"out", path)
        def stream():
            ends = socket.socketpair()
            ends[0].sendto(b"out", path + "2")
        def reconnect():
            ends = socket.socketpair()
            ends[1].close()
            ends[0].connect(path + "2")
        def packets():
            ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ends[0].connect(path)
        return [tried(act) for act in (send, stream, reconnect, packets)]
    show([child(out), child(lambda: [filtered(), out()][1])])
    """
    free, held = act(code, place)
    assert free[0] == "done"
    assert held[0] == "EACCES"
    assert "done" not in held


@pytest.mark.parametrize("user", USERS)
def test_a_grant_opens_its_family_and_no_other(act, user):
    code = """
    def unix():
        filtered(unix=True)
        return [tried(make, 1), tried(make, 1, DGRAM), tried(pair, 1, DGRAM), tried(make, 2), tried(make, 16), tried(make, 40)]
    def netlink():
        filtered(netlink=True)
        return [tried(make, 16, RAW, 0), tried(make, 16, RAW | MORE, 0), *[tried(make, 16, RAW, kind) for kind in (9, 15, 16)], tried(make, 1)]
    def tcp():
        filtered(inet=True)
        return [tried(make, 2), tried(make, 2, STREAM | MORE, 6), tried(make, 2, DGRAM), tried(make, 2, STREAM, 262), tried(make, 2, STREAM, 132),
                tried(make, 2, RAW, 1), tried(make, 2, PACKET), tried(make, 2, DGRAM, 1), tried(make, 1), tried(make, 17, RAW), tried(make, 38, SEQ)]
    def private():
        filtered(inet=True, namespaces=True)
        return [tried(make, 2), tried(make, 2, DGRAM), tried(make, 2, DGRAM | MORE, 17),
                *[tried(make, 2, *words) for words in ((DGRAM, 136), (RAW, 1), (STREAM, 262))]]
    show([child(unix), child(netlink), child(tcp), child(private)])
    """
    unix, netlink, tcp, private = act(code, user=user, given=SOCKETS)
    assert unix == ["done"] * 3 + ["EACCES"] * 2 + ["EAFNOSUPPORT"]
    assert netlink == ["done"] * 2 + ["EPROTONOSUPPORT"] * 3 + ["EACCES"]
    assert tcp == ["done"] * 2 + ["EACCES"] + ["EPROTONOSUPPORT"] * 2 + ["EACCES"] * 4 + ["EAFNOSUPPORT"] * 2
    assert private == ["done"] * 3 + ["EPROTONOSUPPORT", "EACCES", "EPROTONOSUPPORT"]


def test_a_tcp_client_cannot_go_round_bind_and_connect(act):
    code = """
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    def acts():
        def fast(send):
            with socket.socket() as made:
                made.settimeout(10)
                send(made)
        def layered():
            with socket.socket() as made:
                made.connect(("127.0.0.1", port))
                made.setsockopt(6, 31, b"smc")
        def listen():
            with socket.socket() as made:
                made.listen()
        def plain():
            with socket.create_connection(("127.0.0.1", port)) as made:
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                made.sendall(b"words")
                made.sendmsg([b"more"])
        return [
            tried(fast, lambda made: made.sendto(b"out", 0x20000000, ("127.0.0.1", port))),
            tried(fast, lambda made: made.sendmsg([b"out"], [], 0x20000000, ("127.0.0.1", port))),
            tried(layered), tried(listen), tried(plain),
        ]
    show([child(acts), child(lambda: [filtered(inet=True), acts()][1]), child(lambda: [filtered(inet=True, namespaces=True), acts()][1])])
    """
    free, client, private = act(code)
    # Two names of one number.
    assert [came.replace("ENOTSUP", "EOPNOTSUPP") for came in client] == ["EOPNOTSUPP", "EOPNOTSUPP", "ENOPROTOOPT", "EACCES", "done"]
    assert free == private
    assert free[3:] == ["done", "done"]
    assert "ENOPROTOOPT" not in free[:3]


@pytest.mark.skipif(os.geteuid() != 0, reason="root could do it, and is shown to be able to no more")
def test_no_typing_into_terminals(act):
    code = """
    ours, theirs = os.openpty()
    def acts():
        return [tried(fcntl.ioctl, theirs, seccomp.TIOCSTI, b"x"), tried(fcntl.ioctl, theirs, seccomp.TIOCLINUX, b"\\0"),
                tried(syscalls.call, "ioctl", theirs, (1 << 32) | seccomp.TIOCSTI, b"x"), tried(fcntl.ioctl, theirs, termios.TIOCGWINSZ, b"\\0" * 8)]
    show([child(acts), child(lambda: [filtered(), acts()][1])])
    """
    free, held = act(code)
    assert held == ["EPERM", "EPERM", "EPERM", "done"]
    assert free[0] == free[2] == "done"
    assert free[1] != "EPERM"


AIMED = """
def sleeper():
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        time.sleep(60)
        os._exit(0)
    tried(os.setpgid, pid, pid)
    return pid
def aim(pid, group=None):
    group = group or pid
    info = ctypes.create_string_buffer(struct.pack("=iii", 0, 0, -1), 128)
    def own(command, value):
        with socket.socketpair()[0] as end:
            fcntl.fcntl(end, command, value)
    def own_by_ioctl(request):
        with socket.socketpair()[0] as end:
            fcntl.ioctl(end, request, struct.pack("=i", pid))
    return {
        "kill": tried(os.kill, pid, 0), "killpg": tried(os.killpg, group, 0), "tkill": tried(syscalls.call, "tkill", pid, 0),
        "tgkill": tried(syscalls.call, "tgkill", pid, pid, 0), "sigqueue": tried(syscalls.call, "rt_sigqueueinfo", pid, 0, info),
        "tgsigqueue": tried(syscalls.call, "rt_tgsigqueueinfo", pid, pid, 0, info), "pidfd": tried(lambda: os.close(os.pidfd_open(pid))),
        "prlimit": tried(resource.prlimit, pid, resource.RLIMIT_NOFILE), "priority": tried(os.setpriority, os.PRIO_PROCESS, pid, 1),
        "group priority": tried(os.setpriority, os.PRIO_PGRP, group, 1), "affinity": tried(os.sched_setaffinity, pid, os.sched_getaffinity(0)),
        "scheduler": tried(os.sched_setscheduler, pid, os.SCHED_BATCH, os.sched_param(0)), "parameters": tried(os.sched_setparam, pid, os.sched_param(0)),
        "attributes": tried(syscalls.call, "sched_setattr", pid, ctypes.create_string_buffer(struct.pack("=IIQiIQQQ", 48, 0, 0, 1, 0, 0, 0, 0)), 0),
        "io priority": tried(syscalls.call, "ioprio_set", 1, pid, 2 << 13 | 7), "owner": tried(own, fcntl.F_SETOWN, pid),
        "owner group": tried(own, fcntl.F_SETOWN, -group), "owner by struct": tried(own, 15, struct.pack("=ii", 1, pid)),
        "owner by ioctl": tried(own_by_ioctl, 0x8901), "owner by socket": tried(own_by_ioctl, 0x8902),
        "kill, high bits": tried(syscalls.call, "kill", (1 << 32) | pid, 0), "prlimit, high bits": tried(syscalls.call, "prlimit64", (7 << 32) | pid, 7, 0, 0),
    }
"""
# What no grant inside a cell needs is refused whoever it is aimed at: the filter cannot see at whom, or need not.
BLUNT = {"owner", "owner group", "owner by struct", "owner by ioctl", "owner by socket"}


@pytest.mark.parametrize("user", USERS)
def test_nothing_can_be_aimed_at_who_is_protected(act, user):
    code = """
    kernel, other = sleeper(), sleeper()
    own_group = os.getpgrp()
    def held():
        filtered(protect_pids=(kernel, os.getppid()))
        return [aim(kernel), aim(other), aim(os.getppid(), own_group), tried(os.kill, os.getpid(), 0), tried(os.kill, 0, 0), tried(os.kill, -1, 0),
                tried(os.setpriority, os.PRIO_USER, 0, 5), tried(syscalls.call, "ioprio_set", 3, 0, 2 << 13 | 7), tried(os.setpriority, os.PRIO_PROCESS, 0, 5),
                tried(resource.prlimit, 0, resource.RLIMIT_NOFILE), tried(os.sched_setaffinity, 0, os.sched_getaffinity(0)),
                tried(syscalls.call, "pidfd_send_signal", -1, 0, 0, 0)]
    found = [child(lambda: aim(kernel)), child(held)]
    for pid in (kernel, other):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    show(found)
    """
    free, (kernel, other, parent, *rest) = act(code, user=user, given=AIMED)
    assert {name: came for name, came in free.items() if came != "done"} == {}
    assert {name: came for name, came in kernel.items() if came != "EPERM"} == {}
    assert {name: came for name, came in other.items() if came != "done"} == dict.fromkeys(BLUNT, "EPERM")
    assert {name: came for name, came in parent.items() if came != "EPERM"} == {}
    own, group, everybody, whole_user, whole_user_io, *ordinary, by_descriptor = rest
    assert (own, everybody, whole_user, whole_user_io) == ("done", "EPERM", "EPERM", "EPERM")
    # Its own group is the protected parent's here; a cell has a session of its own, and then this means its own group only.
    assert group == "done"
    assert ordinary == ["done"] * 3
    assert by_descriptor == "ENOSYS"


@pytest.mark.skipif(os.geteuid() != 0, reason="root could do it, and is shown to be able to no more")
def test_a_signal_to_everybody_is_refused_always(act):
    """Signal 0 only asks; without a filter the answer is yes."""
    code = "show([child(lambda: tried(os.kill, -1, 0)), child(lambda: [filtered(namespaces=True), tried(os.kill, -1, 0), tried(os.kill, os.getpid(), 0)][1:])])"
    assert act(code) == ["done", ["EPERM", "done"]]


IPC = """
libc = ctypes.CDLL(None, use_errno=True)
def made(remove, name, *words):
    found = syscalls.call(name, *words)
    if remove:
        syscalls.call(remove, found, 0, 0) if remove != "semctl" else syscalls.call(remove, found, 0, 0, 0)
def queue():
    name = f"toka-test-{os.getpid()}".encode()
    os.close(syscalls.call("mq_open", name, os.O_CREAT | os.O_RDWR, 0o600, 0))
    syscalls.call("mq_unlink", name)
def objects():
    kinds = ("shmctl", "shmget", 0, 4096, 0o1600), ("semctl", "semget", 0, 1, 0o1600), ("msgctl", "msgget", 0, 0o1600)
    return [*[tried(made, *words) for words in kinds], tried(queue)]
"""


@pytest.mark.parametrize("user", USERS)
def test_message_objects_need_a_namespace_of_their_own(act, user):
    code = """
    show([child(objects), child(lambda: [filtered(), objects(), tried(syscalls.call, "shmat", 0, 0, 0), tried(syscalls.call, "msgrcv", 0, 0, 0, 0, 0)][1:]),
          child(lambda: [filtered(ipc=True), objects()][1])])
    """
    free, (held, *by_number), granted = act(code, user=user, given=IPC)
    assert free == granted == ["done"] * 4
    assert held == ["EPERM"] * 4
    assert by_number == ["EPERM"] * 2


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the 32-bit calls of x86_64")
def test_32_bit_calls_end_the_process(act):
    code = """
    import mmap
    # mov eax, 20 (getpid); int 0x80; ret
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("b814000000cd80c3"))
    getpid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    x32 = lambda: tried(syscalls.call, "listen", 0, 0) and ctypes.CDLL(None, use_errno=True).syscall(0x40000000 | 39)
    show([child(lambda: getpid() == os.getpid()), child(lambda: [resource.setrlimit(resource.RLIMIT_CORE, (0, 0)), filtered(), getpid()]),
          child(lambda: [filtered(), x32(), ctypes.get_errno()][1:])])
    """
    free, held, x32 = act(code)
    if free is not True:
        pytest.skip("this kernel runs no 32-bit calls")
    assert held == f"signal {31}"
    assert x32[0] == -1


def test_a_second_filter_only_takes_away(act):
    code = """
    def outer():
        filtered()
        filtered(inet=True, unix=True, namespaces=True, ipc=True, netlink=True)
        return [tried(socket.socket, socket.AF_INET), tried(socket.socket, socket.AF_UNIX), tried(syscalls.call, "shmget", 0, 4096, 0o1600)]
    def inner():
        filtered(unix=True)
        first = tried(socket.socket, socket.AF_UNIX)
        filtered()
        return [first, tried(socket.socket, socket.AF_UNIX)]
    show([child(outer), child(inner)])
    """
    assert act(code) == [["EACCES", "EACCES", "EPERM"], ["done", "EACCES"]]


def test_all_threads_get_it_and_all_programs_too(act):
    code = """
    go, found = threading.Event(), []
    def other():
        go.wait()
        found.append(tried(socket.socket))
    thread = threading.Thread(target=other)
    thread.start()
    filtered()
    go.set()
    thread.join()
    found.append(run(sys.executable, "-c", "import socket\\ntry: socket.socket()\\nexcept OSError as error: print(error)")[1])
    show(found)
    """
    assert act(code) == ["EACCES", "[Errno 13] Permission denied\n"]


def test_a_thread_with_a_filter_of_its_own_is_not_passed_over_in_silence(act):
    code = """
    ready, go = threading.Event(), threading.Event()
    def other():
        prctl.forbid_new_privileges()
        program = bpf.Program()
        program.answer(bpf.ALLOW)
        text = program.assemble()
        buffer = ctypes.create_string_buffer(text, len(text))
        block = seccomp._Fprog(1, ctypes.addressof(buffer))
        syscalls.call("seccomp", 1, 0, ctypes.addressof(block))
        ready.set()
        go.wait()
    thread = threading.Thread(target=other)
    thread.start()
    ready.wait()
    came = tried(filtered)
    go.set()
    thread.join()
    show([came, prctl.seccomp_mode()])
    """
    came, mode = act(code)
    assert came == "EPERM"
    assert mode in {0, 2}


def test_without_no_new_privs_an_ordinary_user_is_refused(act):
    code = """
    program = seccomp.program(inet=False, unix=False, namespaces=False, ipc=False)
    show([child(lambda: tried(seccomp.load, program)), child(lambda: [prctl.forbid_new_privileges(), tried(seccomp.load, program)])])
    """
    assert act(code, user="nobody") == ["EACCES", [True, "done"]]


def test_a_filter_is_built_once_and_loaded_in_many_children(act):
    code = """
    program = seccomp.program(inet=False, unix=False, namespaces=False, ipc=False)
    def confined():
        prctl.forbid_new_privileges()
        seccomp.load(program)
        return tried(socket.socket)
    show([child(confined), child(confined), tried(socket.socket)])
    """
    assert act(code) == ["EACCES", "EACCES", "done"]
