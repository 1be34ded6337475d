"""The few prctl(2) calls that processes need of each other. Linux; elsewhere each says that it did nothing by answering False."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

# Numbers from include/uapi/linux/prctl.h.
PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_GET_NO_NEW_PRIVS: Final = 39

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _prctl(option: int, argument: int) -> int:
    if _libc is None:
        return -1
    return int(_libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


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
