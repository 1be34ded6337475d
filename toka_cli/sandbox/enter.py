"""Into the walls, step by step, in an order that fails closed: what cannot be put up, or does not hold when it is tried, ends the cell before it has work.

In: walls, limits and a few places; at `full` in new namespaces, which the cell furnishes for itself. Out: what really holds, and walls for its commands.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

import toka_cli
from toka_cli.sandbox import capabilities, landlock, namespaces, prctl, seccomp, system
from toka_cli.sandbox.inner import Calls, Inner
from toka_cli.sandbox.limits import RESERVED_PIDS, apply_rlimits, most_threads
from toka_cli.sandbox.namespaces import NotHeld, Threshold
from toka_cli.sandbox.view import OWN_NAMES, PRIVATE_BYTES, View

if TYPE_CHECKING:
    from toka_cli.protocol.messages import SpawnRequest, Walls

FULL: Final = "full"
STANDARD: Final = "standard"
HERE: Final = "localhost,127.0.0.1,::1"
TOKEN: Final = "TOKA_PROXY_TOKEN"  # noqa: S105  the name of a variable
# Without them root could not write a workspace that belongs to somebody else.
ROOT_KEEPS: Final = ("chown", "dac_override", "fowner")
# What `standard` cannot hold, whatever the kernel.
STANDARD_GAPS: Final = (
    "mode, owner, times and attributes of files outside can be changed where permissions allow it",
    "names, sizes and modes of files outside can be asked for",
    "the .git of a writable folder can be written; its hooks and config are looked at afterwards",
    "no loopback: programs that serve and ask themselves fail",
)
# The first Landlock that sees truncate(2). With an older one a filter refuses that call to everybody.
TRUNCATE_ABI: Final = 3
# Forbidden, whatever was granted: tried after the walls are up.
_LISTABLE: Final = ("/var", "/home", "/boot", "/srv", "/mnt", "/media", "/opt", "/root")
_ELSEWHERE: Final = ("192.0.2.1", 9)
_PTRACE_TRACEME: Final = 0


def prepare() -> None:
    """In the fork server: once, what is the same for all cells."""
    for known in (system.programs, system.settings, system.names, own_places):
        known()
    with suppress(OSError):
        for full, inet in itertools.product((True, False), repeat=2):
            Calls(inet=inet, unix=full, namespaces=full, ipc=full, netlink=full and inet).template(2 if full else 3)


@dataclass(slots=True)
class Apart:
    """What a cell at `full` knows of its namespaces. `hidden` is a folder that was there before, and must not be any more."""

    spaces: list[str]
    ids: str
    hidden: str | None = None
    pids: int | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


def arrive(threshold: Threshold) -> Apart:
    """In process 1: wait until it has users. Nobody looks into it or what it will fork. Raises NotHeld."""
    ids = threshold.enter()
    shut()
    return Apart(threshold.entered(), ids)


def furnish(request: SpawnRequest, apart: Apart, handover: socket.socket | None) -> None:
    """In the cell, which still has all power over its namespaces: host name, loopback, proxy listener and view of the files. Raises NotHeld."""
    walls = request.walls
    assert walls is not None
    for path in filter(None, (request.workdir, request.private)):
        # What was granted has no links in it: this place would be empty, and nobody would know why.
        if (real := os.path.realpath(path)) != path:
            raise NotHeld(f"{path} has a link in it: name it {real}")
    apart.hidden = _forbidden_folder(walls, _Places(request, full=True))
    try:
        socket.sethostname(namespaces.HOST_NAME)
        if walls.network != "none":
            namespaces.raise_loopback()
        if walls.network == "proxy":
            apart.environment = _listen(request, handover)
    except OSError as error:
        raise NotHeld(f"the cell's own network cannot be made: {error}") from error
    if handover is not None:
        handover.close()
    small = [size for size in (request.limits.memory_bytes, request.limits.disk_bytes) if size is not None]
    view = View(
        walls,
        read_only=(*system.programs(), *system.settings(), *(path for path in system.FACTS if path.startswith("/sys")), *own_places()),
        writable=_private(request),
        workdir=request.workdir,
        home=request.environment.get("HOME", "/"),
        small=min(small) if small else None,
        pids=None if request.limits.max_processes is None else most_threads(request.limits.max_processes) + RESERVED_PIDS,
    )
    os.umask(0o022)
    view.enter()
    apart.skipped, apart.pids = view.skipped, view.held_pids


def shut() -> None:
    """No program gives this process or its children new powers, and nobody looks into it. Raises NotHeld."""
    if not prctl.forbid_new_privileges():
        raise NotHeld("no_new_privs cannot be set")
    if not prctl.forbid_dumps():
        raise NotHeld("the cell's memory cannot be closed to others")


def give_up(keep: tuple[str, ...]) -> list[str]:
    """All capabilities but these; answers what is kept. Raises NotHeld."""
    try:
        return capabilities.drop(keep)
    except OSError as error:
        raise NotHeld(f"capabilities cannot be given up: {error}") from error


def _listen(request: SpawnRequest, handover: socket.socket | None) -> dict[str, str]:
    """A listener inside for the kernel's proxy, handed over; the variables by which programs find it."""
    if handover is None:
        raise NotHeld("nobody is there to take the proxy's listener")
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        socket.send_fds(handover, [b"l"], [listener.fileno()])
        port = listener.getsockname()[1]
    token = request.environment.get(TOKEN, "")
    url = f"http://toka:{token}@127.0.0.1:{port}" if token else f"http://127.0.0.1:{port}"
    names = ("http_proxy", "https_proxy", "all_proxy")
    # What serves and asks itself on the private loopback needs no proxy for it; the kernel leaves out what its own loopback is granted for.
    here = request.environment.get("NO_PROXY", HERE)
    return {spelled: url for name in names for spelled in (name, name.upper())} | {"no_proxy": here, "NO_PROXY": here}


def confine(request: SpawnRequest, apart: Apart | None, protect: tuple[int, ...]) -> tuple[dict[str, Any], Inner]:
    """In the cell: limits, capabilities, no new privileges, Landlock, seccomp, then three forbidden acts. Raises NotHeld.

    `protect`: processes, as numbered here, at which nothing may be aimed. Answers the record of what holds, and the walls for commands.
    """
    walls = request.walls
    assert walls is not None
    places = _Places(request, full=apart is not None)
    forbidden = _forbidden_folder(walls, places) if apart is None else apart.hidden
    step = "limits"
    try:
        limits = _limit(request, apart)
        kept = give_up(ROOT_KEEPS if os.geteuid() == 0 else ())
        shut()
        step = "Landlock"
        files = _landlock(walls, places, request.proxy_port)
        step = "seccomp"
        seccomp.load(places.calls(walls).program((*protect, os.getpid())))
    except (OSError, ValueError) as error:
        raise NotHeld(f"{step} cannot be put up: {error}") from error
    record = {
        "level": walls.level,
        "filesystem": "landlock" if apart is None else "view+landlock",
        "network": _network_word(walls, apart),
        "seccomp": True,
        "namespaces": [] if apart is None else apart.spaces,
        "landlock_abi": files["abi"],
        "no_new_privs": True,
        "rlimits": limits,
        "capabilities": kept,
        "gaps": _gaps(walls, apart, files),
        "selfcheck": self_check(walls, apart, forbidden, request.proxy_port),
    }
    return record, Inner(walls, places.around_command, places.calls, request.proxy_port)


class _Places:
    """What every layer gets beside what the walls say."""

    def __init__(self, request: SpawnRequest, *, full: bool) -> None:
        walls = request.walls
        assert walls is not None
        self._private = _private(request)
        self._full = full
        self._read = (*system.settings(), *((*OWN_NAMES, "/dev", "/proc", "/sys") if full else (*system.FACTS, *system.names())))
        # What lies below a private filesystem of the cell's is reached through any rule for that.
        shown = {*walls.read, *walls.execute, *walls.write, *walls.write_execute}
        self._within = {place: {path for path in shown if path.startswith(f"{place}/")} for place in (PRIVATE_BYTES if full else ())}
        # What the view shows read-only cannot be written through such a rule.
        self._read_only = shown - {*walls.write, *walls.write_execute}

    def around_command(self, walls: Walls) -> tuple[Walls, tuple[str, ...]]:
        """Walls with the system in them, and where toka's own writable places are."""
        runnable = {*walls.execute, *walls.write_execute}
        writable = {*walls.write, *walls.write_execute} | (self._read_only & ({*walls.read} | runnable))
        places = [place for place, within in self._within.items() if within <= writable]
        # What may run anywhere it was written may run here too.
        own = (*self._private, *(place for place in places if self._within[place] <= runnable)) if walls.write_execute else ()
        return msgspec.structs.replace(
            walls,
            read=(*walls.read, *self._read),
            execute=(*walls.execute, *system.programs()),
            write_execute=(*walls.write_execute, *own),
            # On a private loopback nobody else listens: connecting there needs no leave.
            network="loopback" if self._full and walls.network == "proxy" else walls.network,
        ), (*system.DEVICES, *self._private, *places)

    def around_cell(self, walls: Walls) -> tuple[Walls, tuple[str, ...]]:
        """The same, with the code that the cell itself runs."""
        full, writable = self.around_command(walls)
        # Its view makes read-only what is: for the cell itself its private filesystems may be open as a whole.
        return msgspec.structs.replace(full, read=(*full.read, *own_places())), (*writable, *self._within)

    def calls(self, walls: Walls) -> Calls:
        """What seccomp leaves to these walls. In a network of one's own unix sockets lead only to what was granted by its path."""
        inet = walls.network == "proxy" or (self._full and walls.network == "loopback")
        unix = self._full or bool(walls.sockets)
        # Older kernels empty any file by its path that permissions let be written; a view of its own holds that, Landlock does not.
        truncate = self._full or landlock.abi() >= TRUNCATE_ABI
        return Calls(inet=inet, unix=unix, namespaces=self._full, ipc=self._full, netlink=self._full and inet, truncate=truncate)


@cache
def own_places() -> tuple[str, ...]:
    """Where the code lies that the cell itself runs; links resolved."""
    found = (os.__file__, toka_cli.__file__, msgspec.__file__)
    library, own, packages = (os.path.realpath(os.path.dirname(path)) for path in found)
    return tuple(dict.fromkeys((library, own, os.path.dirname(packages))))


def _private(request: SpawnRequest) -> tuple[str, ...]:
    return (os.path.realpath(request.private),) if request.private else ()


def _limit(request: SpawnRequest, apart: Apart | None) -> dict[str, int]:
    limits = request.limits
    # Elsewhere it would count all processes of the user; root is not counted at all.
    counted = apart is not None and os.geteuid() != 0
    in_force = apply_rlimits(
        memory_bytes=limits.memory_bytes,
        disk_bytes=limits.disk_bytes,
        max_open_files=limits.max_open_files,
        timeout_s=limits.timeout_s,
        max_processes=limits.max_processes if counted else None,
        message_bytes=0,
    )
    return in_force if apart is None or apart.pids is None else in_force | {"pids": apart.pids}


def _landlock(walls: Walls, places: _Places, port: int) -> dict[str, Any]:
    around, writable = places.around_cell(walls)
    ruleset = landlock.build(around, extra_write=writable, tcp_connect_port=port if walls.network == "proxy" and port else None)
    if ruleset is None:
        raise NotHeld("this kernel has no Landlock")
    try:
        if walls.level == STANDARD and walls.network == "proxy" and "connect_tcp" not in ruleset.network:
            raise NotHeld(f"Landlock {ruleset.abi} does not hold TCP connections: the network cannot be granted without namespaces")
        return ruleset.restrict()
    finally:
        ruleset.close()


def _network_word(walls: Walls, apart: Apart | None) -> str:
    if apart is not None:
        return "namespace"
    return "landlock" if walls.network == "proxy" else "seccomp"


def _gaps(walls: Walls, apart: Apart | None, files: dict[str, Any]) -> list[str]:
    gaps = [] if apart is not None else list(STANDARD_GAPS)
    if apart is not None and os.geteuid() == 0 and apart.ids == "own":
        gaps.append("root is mapped alone: files of others are closed to it where permissions close them")
    if apart is None and not any(path in {"/dev", "/dev/shm"} for path in (*walls.write, *walls.write_execute)):  # noqa: S108
        gaps.append("no shared memory by name: programs that make semaphores in /dev/shm fail")
    if apart is None and walls.sockets:
        gaps.append("unix sockets: every one that permissions allow can be reached")
    missing = [word for _, _, word in (*landlock.FILE_RIGHTS, *landlock.SCOPES) if word not in (*files["files"], *files["scopes"])]
    if apart is None and "truncate" in missing:
        missing.remove("truncate")
        gaps.append("no truncate(2): files are emptied by opening them")
    if missing:
        gaps.append(f"Landlock {files['abi']} does not hold: {', '.join(missing)}")
    asked = {*walls.read, *walls.execute, *walls.write, *walls.write_execute, *walls.protect, *walls.sockets}
    skipped = dict([*map(tuple, files["skipped"]), *(apart.skipped if apart is not None else ())])
    gaps += [f"{path}: {why}" for path, why in skipped.items() if path in asked]
    return gaps


# --- the self-check ---


def _forbidden_folder(walls: Walls, places: _Places) -> str | None:
    """A folder that can be listed now and must not be afterwards; at `full` none on the way to what is shown, because its name must be gone."""
    around, writable = places.around_cell(walls)
    shown = (*around.read, *around.execute, *around.write, *around.write_execute, *writable)
    for path in _LISTABLE:
        try:
            os.listdir(path)
        except OSError:
            continue
        if not any(path == each or path.startswith(f"{each}/") or each.startswith(f"{path}/") for each in shown):
            return path
    return None


def self_check(walls: Walls, apart: Apart | None, forbidden: str | None, port: int) -> list[str]:
    """Try a file, the network and another process; how each was refused. Raises NotHeld if one was not."""
    done = []
    acts: tuple[tuple[str, Callable[[], object], set[int]], ...] = (
        _file_act(apart, forbidden),
        _network_act(walls, apart, port),
        ("trace", _trace, {errno.EPERM}),
    )
    for name, attempt, expected in acts:
        try:
            attempt()
        except OSError as error:
            if error.errno not in expected:
                raise NotHeld(f"self-check: {name} ended with {error.strerror}, which no wall says") from error
            done.append(f"{name}: {errno.errorcode.get(error.errno or 0, '?')}")
        else:
            raise NotHeld(f"self-check: {name} was possible")
    return done


def _file_act(apart: Apart | None, forbidden: str | None) -> tuple[str, Callable[[], object], set[int]]:
    if forbidden is None:
        # Everything that is worth a try was granted; nothing grants the root itself.
        return "list /", lambda: os.listdir("/"), {errno.EACCES}
    if apart is None:
        return f"list {forbidden}", lambda: os.listdir(forbidden), {errno.EACCES}
    return f"look at {forbidden}", lambda: os.stat(forbidden), {errno.ENOENT}


def _network_act(walls: Walls, apart: Apart | None, port: int) -> tuple[str, Callable[[], object], set[int]]:
    if walls.network == "none" or (apart is None and walls.network == "loopback"):
        return "open a TCP socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(), {errno.EACCES, errno.EPERM}
    if apart is not None:
        return "reach a network", lambda: _connect(socket.SOCK_DGRAM, _ELSEWHERE), {errno.ENETUNREACH}
    return "connect elsewhere", lambda: _connect(socket.SOCK_STREAM, ("127.0.0.1", 1 if port != 1 else 2)), {errno.EACCES}


def _connect(kind: int, where: tuple[str, int]) -> None:
    """A connected UDP socket has sent nothing yet."""
    with socket.socket(socket.AF_INET, kind) as asking:
        asking.connect(where)


def _trace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform != "linux" or libc.ptrace(_PTRACE_TRACEME, 0, None, None) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
