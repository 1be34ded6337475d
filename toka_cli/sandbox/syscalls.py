"""System call numbers of x86_64 and aarch64, and the one way to make calls that Python and libc have no name for. It decides nothing."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from dataclasses import dataclass
from functools import cache
from typing import Final


@dataclass(frozen=True, slots=True)
class Machine:
    """A processor family as system call filters know it: `audit` from include/uapi/linux/audit.h, `column` that of NUMBERS."""

    name: str
    audit: int
    column: int


MACHINES: Final = {"x86_64": Machine("x86_64", 0xC000003E, 0), "aarch64": Machine("aarch64", 0xC00000B7, 1)}

# The highest number this table was checked against (Linux 6.18); later calls are unknown to it. It is the same for all machines since 424.
LAST_KNOWN: Final = 469

# arch/x86/entry/syscalls/syscall_64.tbl and scripts/syscall.tbl (aarch64). None: this machine has no such call.
# fmt: off
NUMBERS: Final[dict[str, tuple[int, int | None]]] = {
    # own use
    "capget": (125, 90), "capset": (126, 91), "seccomp": (317, 277), "openat2": (437, 437), "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "pidfd_getfd": (438, 438), "kcmp": (312, 272), "migrate_pages": (256, 238), "move_pages": (279, 239),
    # the view of files
    "mount": (165, 40), "umount2": (166, 39), "chroot": (161, 51), "pivot_root": (155, 41), "unshare": (272, 97), "setns": (308, 268),
    "open_tree": (428, 428), "open_tree_attr": (467, 467), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    # files by their path, where Landlock does not see it
    "truncate": (76, 45),
    # the kernel
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    # the machine
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161),
    "setdomainname": (171, 162), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "syslog": (103, 116), "vhangup": (153, 58), "iopl": (172, None), "ioperm": (173, None),
    # message objects
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191),
    "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "mq_open": (240, 180),
    "mq_unlink": (241, 181), "mq_timedsend": (242, 182), "mq_timedreceive": (243, 183), "mq_notify": (244, 184), "mq_getsetattr": (245, 185),
    # looked into
    "clone": (56, 220), "clone3": (435, 435), "socket": (41, 198), "socketpair": (53, 199), "ioctl": (16, 29), "sendto": (44, 206),
    "sendmsg": (46, 211), "sendmmsg": (307, 269), "setsockopt": (54, 208), "listen": (50, 201), "fcntl": (72, 25),
    # aimed at a process
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "prlimit64": (302, 261), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
}
# fmt: on

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@cache
def machine() -> Machine | None:
    """This processor family, if its numbers are known and this is a 64-bit process on it; else None."""
    if sys.platform != "linux" or sys.maxsize < 1 << 32:
        return None
    return MACHINES.get(os.uname().machine)


def number(name: str) -> int | None:
    """The number of a call here; None where there is none. Raises KeyError for a name that the table does not hold."""
    here = machine()
    return None if here is None else NUMBERS[name][here.column]


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make a system call; integers go as 64 bits. Answers its result. Raises OSError with the kernel's errno, ENOSYS where the number is not known."""
    found = number(name)
    if _libc is None or found is None:
        raise OSError(errno.ENOSYS, f"{name}: not known on this machine")
    result = int(_libc.syscall(ctypes.c_long(found), *(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result
