"""seccomp: which system calls this process and all it starts may make. In: what was granted, in a few words. Out: a filter, then what it holds.

Everything that is not refused here is allowed, except calls newer than our table, which answer ENOSYS as on an older kernel. Arguments that the kernel takes
as 32-bit integers are compared as such. A filter cannot look behind pointers: paths, addresses of sockets and the like are the business of other walls.
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from typing import Any, Final

from toka_cli.sandbox import bpf, prctl, syscalls
from toka_cli.sandbox.bpf import ANY_BIT, EQUAL, GREATER, Program, low_half

# Refused whatever the arguments are.
OTHER_PROCESSES: Final = (
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "pidfd_getfd", "kcmp", "migrate_pages", "move_pages",
)  # fmt: skip
VIEW_OF_FILES: Final = (
    "mount", "umount2", "chroot", "pivot_root", "unshare", "setns", "open_tree", "open_tree_attr", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr", "open_by_handle_at", "fanotify_init", "fanotify_mark",
)  # fmt: skip
THE_KERNEL: Final = (
    "keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd", "init_module", "finit_module", "delete_module", "kexec_load",
    "kexec_file_load", "reboot",
)  # fmt: skip
THE_MACHINE: Final = (
    "settimeofday", "clock_settime", "adjtimex", "clock_adjtime", "sethostname", "setdomainname", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd",
    "syslog", "vhangup", "iopl", "ioperm",
)  # fmt: skip
# Objects of SysV and POSIX that belong to nobody's file: only an ipc namespace keeps them apart.
MESSAGE_OBJECTS: Final = (
    "shmget", "shmat", "shmctl", "semget", "semop", "semctl", "semtimedop", "msgget", "msgsnd", "msgrcv", "msgctl",
    "mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr",
)  # fmt: skip
# Programs try these first and fall back when the kernel seems too old; EPERM would end some of them. The filter cannot look into clone3's structure.
ABSENT: Final = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")

# Calls whose first argument is a process, a thread or (negative) a group.
AIMED_BY_FIRST: Final = (
    "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "prlimit64", "sched_setaffinity", "sched_setscheduler",
    "sched_setparam", "sched_setattr",
)  # fmt: skip
# Calls whose first argument says what the second is, and the number there that means "all processes of a user" (PRIO_USER, IOPRIO_WHO_USER).
AIMED_BY_SECOND: Final = (("setpriority", 2), ("ioprio_set", 3))

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (include/uapi/linux/sched.h). NEWTIME is a bit of the signal for clone(2).
NEW_NAMESPACES: Final = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
TIOCSTI: Final = 0x5412
TIOCLINUX: Final = 0x541C
# Signals sent by the kernel to whoever was named as the owner of a descriptor.
FIOSETOWN: Final = 0x8901
SIOCSPGRP: Final = 0x8902
F_SETOWN: Final = 8
F_SETOWN_EX: Final = 15

AF_UNIX: Final = 1
AF_INET: Final = 2
AF_INET6: Final = 10
AF_NETLINK: Final = 16
STREAM: Final = 1
DATAGRAM: Final = 2
SEQPACKET: Final = 5
_TYPE_MASK: Final = 0xF
TCP: Final = 6
UDP: Final = 17
TCP_ULP: Final = 31
MSG_FASTOPEN: Final = 0x20000000

_SET_MODE_FILTER: Final = 1
_TSYNC: Final = 1


class _Fprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def available() -> bool:
    """True where filters can be made and installed: a machine whose numbers are known, and a kernel that takes them. Changes nothing."""
    if syscalls.machine() is None:
        return False
    try:
        # Without a program the kernel that has filters fails with EFAULT, and nothing happens.
        syscalls.call("seccomp", _SET_MODE_FILTER, 0, None)
    except OSError as error:
        return error.errno == errno.EFAULT
    return False


def install(
    *, inet: bool, unix: bool, namespaces: bool, ipc: bool, netlink: bool = False, protect_pids: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Build a filter and install it for all threads of this process and all it will start, for ever. See `program` and `load`."""
    return load(program(inet=inet, unix=unix, namespaces=namespaces, ipc=ipc, netlink=netlink, protect_pids=protect_pids))


def load(filter_bytes: bytes) -> dict[str, Any]:
    """Install a filter that `program` made. Needs no_new_privs. Raises OSError. Answers what holds, read back, as JSON."""
    code = ctypes.create_string_buffer(filter_bytes, len(filter_bytes))
    block = _Fprog(len(filter_bytes) // 8, ctypes.addressof(code))
    stray = syscalls.call("seccomp", _SET_MODE_FILTER, _TSYNC, ctypes.addressof(block))
    if stray or prctl.seccomp_mode() != prctl.SECCOMP_MODE_FILTER:
        raise OSError(errno.EPERM, f"the filter was not installed: thread {stray} has one of its own")
    here = syscalls.machine()
    return {"seccomp": True, "instructions": len(filter_bytes) // 8, "machine": here.name if here else ""}


def program(
    *,
    inet: bool,
    unix: bool,
    namespaces: bool,
    ipc: bool,
    netlink: bool = False,
    truncate: bool = True,
    protect_pids: tuple[int, ...] = (),
    machine: syscalls.Machine | None = None,
) -> bytes:
    """The filter, for `load` in a child later. Raises OSError (ENOSYS) on a machine whose numbers are not known.

    `namespaces`: this process lives in a network and a pid namespace of its own. It decides what `inet` means: there TCP and UDP, on what is a private
    loopback; elsewhere only TCP clients (Landlock says to which port; listening is refused, because the kernel would choose a port that Landlock does not see).
    `unix`: unix sockets of every kind; without it only connected pairs that can send to nobody else. `ipc`: SysV and POSIX message objects, for an own ipc
    namespace. `netlink`: asking for routes and interfaces. `truncate`: emptying files by their path, which Landlock sees from ABI 3 on; what was opened for
    writing can always be emptied. Making namespaces is refused always.
    `protect_pids`: processes, as numbered here, at which no signal, priority, affinity or limit may be aimed, nor at their groups, nor at everybody. Other
    threads' numbers are not among them, and a number may be given to another process later: this stands behind Landlock's scope or a pid namespace.
    """
    here = machine or syscalls.machine()
    if here is None:
        raise OSError(errno.ENOSYS, "no system call filter is known for this machine")
    made = _Filter(here)
    made.begin()
    made.clone()
    made.ioctl(guarded=bool(protect_pids))
    made.sockets(inet=inet, unix=unix, netlink=netlink, namespaces=namespaces)
    if inet and not namespaces:
        made.only_tcp_clients()
    made.aimed(_numbers_of(protect_pids))
    made.refuse_calls(ABSENT, errno.ENOSYS)
    made.refuse_calls(OTHER_PROCESSES + VIEW_OF_FILES + THE_KERNEL + THE_MACHINE + (() if ipc else MESSAGE_OBJECTS), errno.EPERM)
    if not truncate:
        made.refuse_calls(("truncate",), errno.EPERM)
    made.code.answer(bpf.ALLOW)
    return made.code.assemble()


def _numbers_of(pids: tuple[int, ...]) -> list[int]:
    """All that kill(2) understands as one of these: themselves, their groups, and both as negative numbers."""
    found = set(pids)
    for pid in pids:
        with suppress(OSError):
            found.add(os.getpgid(pid))
    # A group outside of this pid namespace is 0 here, and so is that of the kernel's threads: that means one's own everywhere else.
    found.discard(0)
    return sorted(found | {-number for number in found})


class _Filter:
    """The parts of a filter, each of which leaves the accumulator holding the number of the call again, or answers."""

    def __init__(self, machine: syscalls.Machine) -> None:
        self.machine = machine
        self.code = Program()

    def _number(self, name: str) -> int | None:
        return syscalls.NUMBERS[name][self.machine.column]

    def _for(self, name: str) -> str:
        """What follows, up to the mark of the answered name, is for this call only."""
        self.code.test(EQUAL, self._number(name) or 0, no=f"not {name}")
        return f"not {name}"

    def begin(self) -> None:
        """Another ABI (32-bit programs) has other numbers: its programs are killed. x32 has large numbers: no such call."""
        self.code.load(bpf.MACHINE)
        self.code.test(EQUAL, self.machine.audit, yes="native")
        self.code.answer(bpf.KILL_PROCESS)
        self.code.mark("native")
        self.code.load(bpf.NUMBER)
        self.code.refuse_if(GREATER, syscalls.LAST_KNOWN, errno.ENOSYS)

    def clone(self) -> None:
        """Processes and threads, but no namespaces."""
        after = self._for("clone")
        self.code.load(low_half(0))
        self.code.refuse_if(ANY_BIT, NEW_NAMESPACES, errno.EPERM)
        self.code.answer(bpf.ALLOW)
        self.code.mark(after)

    def ioctl(self, *, guarded: bool) -> None:
        """No typing into terminals; with `guarded`, no owners of descriptors either: they are signalled."""
        after = self._for("ioctl")
        self.code.load(low_half(1))
        for request in (TIOCSTI, TIOCLINUX, *((FIOSETOWN, SIOCSPGRP) if guarded else ())):
            self.code.refuse_if(EQUAL, request, errno.EPERM)
        self.code.answer(bpf.ALLOW)
        self.code.mark(after)

    def sockets(self, *, inet: bool, unix: bool, netlink: bool, namespaces: bool) -> None:
        """Only listed families: those that a grant would open answer EACCES, others as if the kernel had none."""
        code = self.code
        after = self._for("socket")
        code.load(low_half(0))
        if unix:
            code.test(EQUAL, AF_UNIX, yes="allow socket")
        else:
            code.refuse_if(EQUAL, AF_UNIX, errno.EACCES)
        code.test(EQUAL, AF_NETLINK, yes="netlink")
        code.test(EQUAL, AF_INET, yes="inet")
        code.test(EQUAL, AF_INET6, yes="inet")
        code.refuse(errno.EAFNOSUPPORT)
        code.mark("netlink")
        if netlink:
            # NETLINK_ROUTE, the protocol 0, is the only one that says nothing about anybody else.
            code.load(low_half(2))
            code.test(EQUAL, 0, yes="allow socket")
            code.refuse(errno.EPROTONOSUPPORT)
        else:
            code.refuse(errno.EACCES)
        code.mark("inet")
        if inet:
            self._inet(datagrams=namespaces)
        else:
            code.refuse(errno.EACCES)
        code.mark("allow socket")
        code.answer(bpf.ALLOW)
        code.mark(after)
        after = self._for("socketpair")
        code.load(low_half(0))
        code.test(EQUAL, AF_UNIX, yes="pair")
        code.refuse(errno.EAFNOSUPPORT)
        code.mark("pair")
        if not unix:
            # A pair of datagram sockets can still send to any path.
            code.load(low_half(1))
            code.keep(_TYPE_MASK)
            code.test(EQUAL, STREAM, yes="allow pair")
            code.test(EQUAL, SEQPACKET, yes="allow pair")
            code.refuse(errno.EACCES)
            code.mark("allow pair")
        code.answer(bpf.ALLOW)
        code.mark(after)

    def _inet(self, *, datagrams: bool) -> None:
        """TCP, and UDP where it can reach nobody else. Not MPTCP or SCTP, which Landlock does not see, and nothing raw."""
        code = self.code
        code.load(low_half(1))
        code.keep(_TYPE_MASK)
        code.test(EQUAL, STREAM, yes="stream")
        if datagrams:
            code.test(EQUAL, DATAGRAM, yes="datagram")
        code.refuse(errno.EACCES)
        for mark, protocol in (("stream", TCP), *((("datagram", UDP),) if datagrams else ())):
            code.mark(mark)
            code.load(low_half(2))
            code.test(EQUAL, 0, yes="allow socket")
            code.test(EQUAL, protocol, yes="allow socket")
            code.refuse(errno.EPROTONOSUPPORT)

    def only_tcp_clients(self) -> None:
        """Close the ways by which a TCP socket reaches or is reached without bind(2) or connect(2), which are what Landlock sees."""
        after = self._for("listen")
        self.code.refuse(errno.EACCES)
        self.code.mark(after)
        for name, flags in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
            after = self._for(name)
            self.code.load(low_half(flags))
            self.code.refuse_if(ANY_BIT, MSG_FASTOPEN, errno.EOPNOTSUPP)
            self.code.answer(bpf.ALLOW)
            self.code.mark(after)
        after = self._for("setsockopt")
        self.code.load(low_half(1))
        self.code.test(EQUAL, TCP, no="other option")
        self.code.load(low_half(2))
        # Another protocol on top (SMC) takes the socket away from Landlock's eyes.
        self.code.refuse_if(EQUAL, TCP_ULP, errno.ENOPROTOOPT)
        self.code.mark("other option")
        self.code.answer(bpf.ALLOW)
        self.code.mark(after)

    def aimed(self, numbers: list[int]) -> None:
        """Nothing aimed at these, and no signal to everybody (kill(-1)), which nothing inside a cell has a use for."""
        code = self.code
        for name in AIMED_BY_FIRST if numbers else ("kill",):
            code.test(EQUAL, self._number(name) or 0, yes="aimed by first")
        code.jump("not by first")
        code.mark("aimed by first")
        code.load(low_half(0))
        for number in (-1, *numbers):
            code.test(EQUAL, number, yes="refuse aimed by first")
        code.answer(bpf.ALLOW)
        code.mark("refuse aimed by first")
        code.refuse(errno.EPERM)
        code.mark("not by first")
        if not numbers:
            return
        # A descriptor of a process can be had without pidfd_open: from /proc, or from somebody who has one.
        self.refuse_calls(("pidfd_send_signal",), errno.ENOSYS)
        for name, whole_user in AIMED_BY_SECOND:
            after = self._for(name)
            code.load(low_half(0))
            code.refuse_if(EQUAL, whole_user, errno.EPERM)
            code.load(low_half(1))
            for number in numbers:
                code.refuse_if(EQUAL, number, errno.EPERM)
            code.answer(bpf.ALLOW)
            code.mark(after)
        after = self._for("fcntl")
        code.load(low_half(1))
        code.refuse_if(EQUAL, F_SETOWN, errno.EPERM)
        code.refuse_if(EQUAL, F_SETOWN_EX, errno.EPERM)
        code.answer(bpf.ALLOW)
        code.mark(after)

    def refuse_calls(self, names: tuple[str, ...], code: int) -> None:
        """These calls fail, whatever their arguments are."""
        refuse, after = f"refuse {names[0]}", f"after {names[0]}"
        for name in names:
            number = self._number(name)
            if number is not None:
                self.code.test(EQUAL, number, yes=refuse)
        self.code.jump(after)
        self.code.mark(refuse)
        self.code.refuse(code)
        self.code.mark(after)
