"""What every cell sees of the machine, whatever was granted: programs and libraries, a few harmless settings, devices without a driver behind them.

Only lists. Never a file that holds a secret or names a person: no shadow, no ssh, no sudoers, no credentials of package managers.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Final

# Read and run. /bin and its like are links to /usr on most systems; the stores are where others keep everything.
PROGRAMS: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")

# Settings of libraries and toolchains. Certificates without their private keys.
SETTINGS: Final = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/locale.conf",
    "/etc/default/locale",
    "/etc/os-release",
    "/etc/debian_version",
    "/etc/lsb-release",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/protocols",
    "/etc/services",
    "/etc/mime.types",
    "/etc/magic",
    "/etc/inputrc",
    "/etc/terminfo",
    "/etc/fonts",
    "/etc/perl",
    "/etc/python3",
    "/etc/ssl/openssl.cnf",
    "/etc/ssl/certs",
    "/etc/ca-certificates",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/crypto-policies",
)
# Who is who: at `full` the cell has its own; elsewhere it sees the machine's.
NAMES: Final = ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts")

# Facts about the machine that runtimes size themselves by. At `full` all of /proc is there, because it is the cell's own.
FACTS: Final = (
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/uptime",
    "/proc/version",
    "/proc/sys/kernel/cap_last_cap",
    "/proc/sys/kernel/ngroups_max",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/kernel/random/boot_id",
    "/proc/sys/kernel/threads-max",
    "/proc/sys/net/core/somaxconn",
    "/proc/sys/vm/max_map_count",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/kernel/mm/transparent_hugepage",
)

DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


@cache
def programs() -> tuple[str, ...]:
    """The places of PROGRAMS that are there, links resolved, each once."""
    return _there(PROGRAMS)


@cache
def settings() -> tuple[str, ...]:
    """The places of SETTINGS that are there, links resolved, each once."""
    return _there(SETTINGS)


@cache
def names() -> tuple[str, ...]:
    """The places of NAMES that are there, links resolved."""
    return _there(NAMES)


def _there(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(os.path.realpath(path) for path in paths if os.path.exists(path)))
