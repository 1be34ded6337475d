"""Landlock: which files, TCP ports and processes this thread and all it starts may reach. In: Walls and a few paths more. Out: a ruleset, then what it holds.

Built once, applied in as many children as wanted: applying needs only the descriptor. Domains nest, and an inner one can only take away. It grants nothing
that permissions refuse, it cannot subtract a place below one that was granted (`Walls.protect`), and it does not see chmod, utime, xattr, stat, UDP or
connections to unix sockets with a path.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from toka_cli.sandbox import syscalls

if TYPE_CHECKING:
    from toka_cli.protocol.messages import Walls

# include/uapi/linux/landlock.h, with the ABI that brought each right.
EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
REMOVE_DIR: Final = 1 << 4
REMOVE_FILE: Final = 1 << 5
MAKE_CHAR: Final = 1 << 6
MAKE_DIR: Final = 1 << 7
MAKE_REG: Final = 1 << 8
MAKE_SOCK: Final = 1 << 9
MAKE_FIFO: Final = 1 << 10
MAKE_BLOCK: Final = 1 << 11
MAKE_SYM: Final = 1 << 12
REFER: Final = 1 << 13
TRUNCATE: Final = 1 << 14
IOCTL_DEV: Final = 1 << 15
BIND_TCP: Final = 1 << 0
CONNECT_TCP: Final = 1 << 1
SCOPE_ABSTRACT_UNIX: Final = 1 << 0
SCOPE_SIGNAL: Final = 1 << 1

# (first ABI, right, word in reports)
FILE_RIGHTS: Final = (
    (1, EXECUTE, "execute"),
    (1, WRITE_FILE, "write_file"),
    (1, READ_FILE, "read_file"),
    (1, READ_DIR, "read_dir"),
    (1, REMOVE_DIR, "remove_dir"),
    (1, REMOVE_FILE, "remove_file"),
    (1, MAKE_CHAR, "make_char"),
    (1, MAKE_DIR, "make_dir"),
    (1, MAKE_REG, "make_reg"),
    (1, MAKE_SOCK, "make_sock"),
    (1, MAKE_FIFO, "make_fifo"),
    (1, MAKE_BLOCK, "make_block"),
    (1, MAKE_SYM, "make_sym"),
    (2, REFER, "refer"),
    (3, TRUNCATE, "truncate"),
    (5, IOCTL_DEV, "ioctl_dev"),
)
TCP_RIGHTS: Final = ((4, BIND_TCP, "bind_tcp"), (4, CONNECT_TCP, "connect_tcp"))
SCOPES: Final = ((6, SCOPE_ABSTRACT_UNIX, "abstract_unix"), (6, SCOPE_SIGNAL, "signal"))

READ: Final = READ_FILE | READ_DIR
RUN: Final = READ | EXECUTE
# No device nodes, and no ioctl of devices: those open everything that hides behind a driver.
WRITE: Final = (
    READ | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM | REFER
)
WRITE_RUN: Final = WRITE | EXECUTE
# What can be said of a file; the kernel refuses a rule that says more of one.
OF_A_FILE: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

_ASK_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
_RULE_NET_PORT: Final = 2
# ABI 7: what a cell is refused is the business of its own log. A cell must not be able to flood the audit log of the machine.
_LOG_SAME_EXEC_OFF: Final = 1 << 0
_LOG_SUBDOMAINS_OFF: Final = 1 << 2
# struct open_how of openat2(2): a path that was granted has no links in it; one that has some now was changed since, by somebody.
_RESOLVE_NO_SYMLINKS: Final = 0x04
_HOW: Final = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_NO_SYMLINKS) if hasattr(os, "O_PATH") else b""


def abi() -> int:
    """The version of Landlock that this kernel offers; 0: none, or refused."""
    with suppress(OSError):
        return ask_abi()
    return 0


def ask_abi() -> int:
    """Like `abi`, but raises OSError: ENOSYS, not built in; EOPNOTSUPP, turned off at boot; EPERM, a filter around this process refuses."""
    return syscalls.call("landlock_create_ruleset", None, 0, _ASK_VERSION)


@dataclass(slots=True)
class Ruleset:
    """A ruleset that can be applied again and again. Holds one descriptor (close-on-exec), and what it will hold, in words.

    `skipped`: paths that got no rule, with the reason: they were missing, could not be reached, or had links in them.
    """

    fd: int
    abi: int
    files: tuple[str, ...]
    network: tuple[str, ...]
    scopes: tuple[str, ...]
    handled: int
    connect_port: int | None = None
    paths: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def restrict(self) -> dict[str, Any]:
        """Confine the calling thread, and what it will start, for ever. Needs no_new_privs. Raises OSError; E2BIG after 16 nested domains.

        Other threads of this process stay as they are: call it where there is only one.
        """
        syscalls.call("landlock_restrict_self", self.fd, _LOG_SAME_EXEC_OFF | _LOG_SUBDOMAINS_OFF if self.abi >= 7 else 0)
        return self.report()

    def report(self) -> dict[str, Any]:
        """What `restrict` brings: the rights that are refused where no rule gives them, as JSON."""
        return {
            "abi": self.abi,
            "files": list(self.files),
            "network": list(self.network),
            "connect_port": self.connect_port,
            "scopes": list(self.scopes),
            "paths": self.paths,
            "skipped": [list(pair) for pair in self.skipped],
        }

    def close(self) -> None:
        """Give the descriptor back. What was restricted stays restricted."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def refuse_all(*, tcp: bool = False, scope: bool = True) -> Ruleset | None:
    """A ruleset that refuses all that this kernel's Landlock can refuse, TCP unless `tcp` leaves it alone; None where there is no Landlock. Raises OSError."""
    version = abi()
    if version == 0:
        return None
    files = _of(FILE_RIGHTS, version)
    network = [] if tcp else _of(TCP_RIGHTS, version)
    scopes = _of(SCOPES, version) if scope else []
    # The kernel takes a structure that is longer than its own as long as the rest is zero.
    attributes = struct.pack("=QQQ", _bits(files), _bits(network), _bits(scopes))
    return Ruleset(
        fd=syscalls.call("landlock_create_ruleset", attributes, len(attributes), 0),
        abi=version,
        files=_words(files),
        network=_words(network),
        scopes=_words(scopes),
        handled=_bits(files),
    )


def build(
    walls: Walls,
    *,
    extra_execute: Iterable[str] = (),
    extra_write: Iterable[str] = (),
    tcp_connect_port: int | None = None,
    scope: bool = True,
) -> Ruleset | None:
    """A ruleset for these walls; None where the kernel has no Landlock. Raises OSError for anything but a path that cannot be opened.

    Every right of this kernel's ABI is handled, so what no rule gives is refused. `extra_execute` and `extra_write` are toka's own places: links in them are
    followed, in those of the walls they are not. TCP is refused but for connecting to `tcp_connect_port`; only a private loopback (`network` "loopback" at
    level `full`) is left alone, because nothing else is there. `scope`: signals and abstract unix sockets end at this domain.
    """
    made = refuse_all(tcp=walls.network == "loopback" and walls.level == "full", scope=scope)
    if made is None:
        return None
    try:
        for path, (rights, follow) in _places(walls, extra_execute, extra_write).items():
            _allow(made, path, rights, follow=follow)
        if tcp_connect_port is not None and made.network:
            syscalls.call("landlock_add_rule", made.fd, _RULE_NET_PORT, struct.pack("=QQ", CONNECT_TCP, tcp_connect_port), 0)
            made.connect_port = tcp_connect_port
    except BaseException:
        made.close()
        raise
    return made


def _places(walls: Walls, extra_execute: Iterable[str], extra_write: Iterable[str]) -> dict[str, tuple[int, bool]]:
    """Each path once, with all rights that somebody gives it, and whether links in it are followed."""
    found: dict[str, tuple[int, bool]] = {}
    for paths, rights, follow in (
        (walls.read, READ, False),
        (walls.execute, RUN, False),
        (walls.write, WRITE, False),
        (walls.write_execute, WRITE_RUN, False),
        (extra_execute, RUN, True),
        (extra_write, WRITE, True),
    ):
        for path in paths:
            before, followed = found.get(path, (0, True))
            found[path] = (before | rights, follow and followed)
    return found


def _allow(ruleset: Ruleset, path: str, rights: int, *, follow: bool) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC) if follow else _open_without_links(path)
    except OSError as error:
        ruleset.skipped.append((path, "has links in it" if error.errno == errno.ELOOP else os.strerror(error.errno or 0)))
        return
    try:
        rights &= ruleset.handled
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= OF_A_FILE
        syscalls.call("landlock_add_rule", ruleset.fd, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
        ruleset.paths += 1
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({path})") from error
    finally:
        os.close(fd)


def _open_without_links(path: str) -> int:
    try:
        return syscalls.call("openat2", -1, os.fsencode(path), _HOW, len(_HOW))
    except OSError as error:
        # Filters of containers that are older than the call answer one of these for it.
        if error.errno not in {errno.ENOSYS, errno.EPERM}:
            raise
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not stat.S_ISLNK(os.fstat(fd).st_mode) and os.readlink(f"/proc/self/fd/{fd}") == path:
        return fd
    os.close(fd)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _of(table: tuple[tuple[int, int, str], ...], version: int) -> list[tuple[int, str]]:
    return [(right, word) for since, right, word in table if since <= version]


def _bits(rights: list[tuple[int, str]]) -> int:
    return sum(right for right, _ in rights)


def _words(rights: list[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(word for _, word in rights)
