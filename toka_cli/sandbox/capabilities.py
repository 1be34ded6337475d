"""Capabilities: the parts of root's power. In: the few to keep. Out: what this process still has, read back. It gives none that was not there."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterable
from typing import Final

from toka_cli.sandbox import prctl, syscalls

# include/uapi/linux/capability.h, in the order of their numbers.
NAMES: Final = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "linux_immutable", "net_bind_service",
    "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin",
    "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap", "mac_override",
    "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore",
)  # fmt: skip
_VERSION_3: Final = 0x20080522
# Two words of 32 bits for each of effective, permitted, inheritable, interleaved.
_DATA: Final = "=6I"
_HEADER: Final = struct.pack("=Ii", _VERSION_3, 0)
_LAST_POSSIBLE: Final = 63


def held() -> list[str]:
    """The permitted capabilities of this thread: the most it can make effective. Raises OSError where the kernel cannot say."""
    _, permitted, _ = _read()
    return _words(permitted)


def drop(keep: Iterable[str] = ()) -> list[str]:
    """Give up all but `keep` in every set, for ever; answers what is still permitted. What is kept is handed on to programs that are started.

    Names in any case, with or without `cap_`. The calling thread only: call it where there is one. Raises ValueError for an unknown name, and OSError when the
    kernel refuses or a set is not what it should be. Without SETPCAP the bounding set stays as it is: no_new_privs then keeps programs from gaining from it.
    """
    wanted = _mask(keep)
    effective, permitted, _ = _read()
    kept = wanted & permitted
    # The bounding set first: lowering it needs SETPCAP, which is gone afterwards. Also what this table does not know yet is dropped.
    if effective & 1 << NAMES.index("setpcap"):
        for number in range(_LAST_POSSIBLE + 1):
            if kept & 1 << number or prctl.drop_from_bounding(number):
                continue
            if prctl.bounding_has(number) is None:
                break
            raise OSError(errno.EPERM, f"capability {number} cannot be dropped from the bounding set")
    prctl.clear_ambient()
    low, high = kept & 0xFFFFFFFF, kept >> 32
    syscalls.call("capset", _HEADER, struct.pack(_DATA, low, low, low, high, high, high))
    for number in range(_LAST_POSSIBLE + 1):
        # Programs of uid 0 get them anyway; others only so.
        if kept & 1 << number:
            prctl.raise_ambient(number)
    if _read() != (kept, kept, kept):
        raise OSError(errno.EPERM, "capabilities are not what they were set to")
    return _words(kept)


def _read() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of this thread, as bits."""
    data = ctypes.create_string_buffer(struct.calcsize(_DATA))
    syscalls.call("capget", _HEADER, data)
    words = struct.unpack(_DATA, data.raw)
    return words[0] | words[3] << 32, words[1] | words[4] << 32, words[2] | words[5] << 32


def _mask(names: Iterable[str]) -> int:
    mask = 0
    for name in names:
        word = name.lower().removeprefix("cap_")
        if word not in NAMES:
            raise ValueError(f"{name}: no capability of Linux; the names are those of capabilities(7)")
        mask |= 1 << NAMES.index(word)
    return mask


def _words(mask: int) -> list[str]:
    return [NAMES[number] if number < len(NAMES) else str(number) for number in range(_LAST_POSSIBLE + 1) if mask & 1 << number]
