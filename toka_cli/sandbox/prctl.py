"""The few prctl(2) calls that processes need of each other. Linux; elsewhere each says that it did nothing by answering False."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

# Numbers from include/uapi/linux/prctl.h.
PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_GET_SECCOMP: Final = 21
PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_GET_NO_NEW_PRIVS: Final = 39
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_RAISE: Final = 2
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
SECCOMP_MODE_FILTER: Final = 2

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _prctl(option: int, argument: int, second: int = 0) -> int:
    if _libc is None:
        return -1
    return int(_libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(second), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def become_subreaper() -> bool:
    """Adopt orphaned descendants, so that waiting for children until ECHILD proves that the whole tree is gone."""
    return _prctl(PR_SET_CHILD_SUBREAPER, 1) == 0


def die_with_parent(signum: int) -> bool:
    """Ask for `signum` when the parent thread ends. The caller checks getppid() afterwards: the parent may already be gone."""
    return _prctl(PR_SET_PDEATHSIG, signum) == 0


def forbid_new_privileges() -> bool:
    """No setuid program gives this process or its children more than it has. Answers what the kernel says afterwards."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    return _prctl(PR_GET_NO_NEW_PRIVS, 0) == 1


def forbid_dumps() -> bool:
    """No core dump, and no reading of this process's memory by others of the same user."""
    return _prctl(PR_SET_DUMPABLE, 0) == 0


def allow_dumps() -> bool:
    """Take `forbid_dumps` back, and what changing the user did alike: /proc/self belongs to this process's user again, so that it can write its maps."""
    return _prctl(PR_SET_DUMPABLE, 1) == 0


def seccomp_mode() -> int:
    """0: no filter around this thread; 2: at least one; negative: the kernel cannot say."""
    return _prctl(PR_GET_SECCOMP, 0)


def bounding_has(capability: int) -> bool | None:
    """Whether programs started from here could still gain this capability; None: the kernel knows none of this number."""
    answer = _prctl(PR_CAPBSET_READ, capability)
    return None if answer < 0 else answer == 1


def drop_from_bounding(capability: int) -> bool:
    """Take a capability from all that will be started. Needs SETPCAP."""
    return _prctl(PR_CAPBSET_DROP, capability) == 0


def clear_ambient() -> bool:
    """No capability is handed on to programs that have none of their own."""
    return _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL) == 0


def raise_ambient(capability: int) -> bool:
    """Hand a capability on to programs that will be started; it has to be permitted and inheritable here."""
    return _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability) == 0
