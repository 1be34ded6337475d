"""A place for cgroups of version 2: this process's own group where it was delegated to it, else a scope that systemd makes and delegates, once per process.

In: what the kernel says of this process's group, and the environment. Out: a Place. It asks only a manager that is there, waits a bounded time, takes no
group that another manages, and leaves none that was given limits; whoever asked then goes on without, and knows why.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

CONTROLLERS: Final = ("memory", "cpu", "pids")
# The owner's own group beside those of its cells: a group that gives controllers to others must hold no process itself (cgroups(7)).
OWNER: Final = "toka-owner"
ANSWER_TIMEOUT_S: Final = 5.0
MOVE_TIMEOUT_S: Final = 5.0
# Characters of a refusal that are shown.
MAX_ANSWER: Final = 200
# Never from the caller's PATH: what is started here speaks for the user.
TRUSTED_PATH: Final = "/usr/bin:/bin:/usr/local/bin"
# Where systemd is process 1, that process is in this group (systemd.special(7)); in a container with another first process, pids would not be what it knows.
INIT_GROUP: Final = "/init.scope"
FIRST_PROCESS: Final = Path("/proc/1/cgroup")
SYSTEMD: Final = "org.freedesktop.systemd1"
SYSTEMD_PATH: Final = "/org/freedesktop/systemd1"
SYSTEM_BUS: Final = Path("/run/dbus/system_bus_socket")
RUNTIME_FOLDERS: Final = Path("/run/user")
# loginctl(1), enable-linger: a file with the user's name.
LINGERING: Final = Path("/var/lib/systemd/linger")


@dataclass(frozen=True, slots=True)
class Place:
    """Where groups can be made; without `folder`, why nowhere, and what a person can do about it."""

    folder: Path | None
    why: str = ""
    fix: str = ""


def delegated(group: Path, own_group: Callable[[], Path | None], environment: Mapping[str, str], *, outlives_login: bool = False) -> Place:
    """Find the folder below which this process may make groups: in its own group, or in a new scope.

    `group` is the folder of this process's group, `own_group` looks for it again once it may have changed. `outlives_login` says that the run is to go on
    when its user's last session ends.
    """
    if not _given(group / "cgroup.controllers"):
        # The kernel keeps its controllers elsewhere (version 1), or this group was given none.
        return Place(None, "no controller of cgroup v2 is given to this process", "have whoever manages its group give it memory, cpu and pids")
    if _read_only(group):
        return Place(None, "the cgroup file system is mounted read-only here", "give the container a cgroup of its own that it may write to")
    if str(os.getpid()) not in _words(group / "cgroup.procs"):
        # A namespace for groups without a file system of its own: the folder of that name is another group.
        return Place(None, "this process's own group of cgroup v2 cannot be seen here", "mount a cgroup2 file system inside of the cgroup namespace")
    if group.name == OWNER:
        # An owner's child: a detached run, or one toka below another.
        return Place(group.parent) if _given(group.parent / "cgroup.subtree_control") else Place(None, "cgroup v2 is not delegated")
    if (group.parent / OWNER).is_dir():
        return Place(None, "it runs inside the group of another toka's agent, and stays there")
    systemd = _systemd_is_first()
    if systemd and not _is_delegated(group, environment):
        # What is made here would be lost: systemd takes controllers that it did not give back at its next reload.
        return _asked(group, own_group, environment, outlives_login)
    if _is_root(group) and os.access(group / "cgroup.subtree_control", os.W_OK) and _divided(group):
        return Place(group)
    if _alone_in(group):
        return Place(group) if _moved_below(group) and _divided(group) else Place(None, "this process's group of cgroup v2 cannot be divided")
    if systemd:
        return _asked(group, own_group, environment, outlives_login)
    why = "cgroup v2 is not delegated, and there is no systemd to ask"
    return Place(None, why, "start toka as the only process of a group of its own that it may write to")


def _asked(group: Path, own_group: Callable[[], Path | None], environment: Mapping[str, str], outlives_login: bool) -> Place:
    """Have systemd make a scope around this process: its system manager for root, else the user's own."""
    root = os.geteuid() == 0
    user = "" if root else "--user "
    by_hand = f"start it with: systemd-run {user}--scope -p Delegate=yes toka ..."
    unit = _unit(group)
    if unit.name.endswith(".service") and not _is_users(unit):
        # To leave would be to outlive the service's stop, and to escape from its limits.
        return Place(None, f"{unit.name} is not delegated to toka alone, and toka does not leave it", f"set Delegate=yes in that unit, or {by_hand}")
    if _bounded(unit):
        why = f"{unit.name} has limits of its own and is not delegated to toka alone, and toka does not leave it"
        return Place(None, why, f"set Delegate=yes there, or {by_hand}")
    bus = _system_bus() if root else _bus(environment)
    manager = "systemd" if root else "systemd's user manager"
    if bus is None:
        return Place(None, f"cgroup v2 is not delegated, and {manager} is not there to ask", f"log in with a session of systemd, or {by_hand}")
    if not root and (outlives_login or _stays(environment)) and not _lingers():
        why = "a scope of systemd's user manager would end, and the run with it, when your last session does"
        return Place(None, why, "loginctl enable-linger")
    name = f"toka-{os.getpid()}.scope"
    refused = _ask(name, bus, slice_of(group, user=not root))
    if refused is not None:
        return Place(None, f"cgroup v2 is not delegated, and {manager} does not make a scope ({refused})", by_hand)
    give_up = time.monotonic() + MOVE_TIMEOUT_S
    while (moved := own_group()) is None or moved.name != name:
        if time.monotonic() > give_up:
            return Place(None, f"{manager} did not move this process into its scope", by_hand)
        time.sleep(0.005)
    return Place(moved) if _moved_below(moved) and _divided(moved) else Place(None, f"the scope that {manager} made cannot be divided", by_hand)


def slice_of(group: Path, *, user: bool) -> str | None:
    """The slice that a scope belongs into to stay under the limits that hold now: the innermost around `group` that the manager to be asked knows."""
    parts = group.parts
    users = next((place for place, part in enumerate(parts) if part.startswith("user@")), len(parts))
    return next((part for part in reversed(parts[users:] if user else parts[:users]) if part.endswith(".slice")), None)


def _unit(group: Path) -> Path:
    """The group of systemd's unit that `group` belongs to; `group` itself where there is none."""
    return next((each for each in (group, *group.parents) if each.name.endswith((".service", ".scope", ".slice"))), group)


def _systemd_is_first() -> bool:
    with suppress(OSError, UnicodeDecodeError):
        return any(line.startswith("0::") and line.endswith(INIT_GROUP) for line in FIRST_PROCESS.read_text("utf-8").splitlines())
    return False


def _is_delegated(group: Path, environment: Mapping[str, str]) -> bool:
    """True if systemd gave this group's unit away. It marks those (user.delegate since version 251; trusted.delegate can be read by root alone).

    Users' managers leave no mark; they, and older ones, are asked where it would be of use.
    """
    unit = _unit(group)
    for name in ("user.delegate", "trusted.delegate"):
        with suppress(OSError):
            return os.getxattr(unit, name) == b"1"
    bus = _bus(environment) if _is_users(unit) else _system_bus()
    kind = {".service": "Service", ".scope": "Scope"}.get(unit.suffix)
    if bus is None or kind is None or not _alone_in(group):
        return False
    answer = _busctl(bus, "get-property", SYSTEMD, f"{SYSTEMD_PATH}/unit/{_label(unit.name)}", f"{SYSTEMD}.{kind}", "Delegate")
    return answer.code == 0 and answer.out.split() == ["b", "true"]


def _label(name: str) -> str:
    """A unit's name as systemd writes it in paths: letters, and digits but the first character, as they are; the rest as _xx."""
    kept = [char.isascii() and (char.isalpha() or (place > 0 and char.isdigit())) for place, char in enumerate(name)]
    return "".join(char if keep else "".join(f"_{byte:02x}" for byte in char.encode()) for char, keep in zip(name, kept, strict=True))


def _is_users(unit: Path) -> bool:
    """True for units of a user's manager."""
    return any(part.startswith("user@") for part in unit.parts)


def _is_root(group: Path) -> bool:
    """True for the kernel's root group, which alone may hold processes and give controllers: it has no type (cgroups(7))."""
    return not (group / "cgroup.type").exists()


def _read_only(group: Path) -> bool:
    with suppress(OSError):
        return bool(os.statvfs(group).f_flag & os.ST_RDONLY)
    return False


def _bounded(group: Path) -> bool:
    """True if somebody gave the group limits of its own. That of processes is not counted: systemd sets one everywhere."""
    return any(_words(group / name)[:1] not in ([], ["max"]) for name in ("memory.max", "memory.high", "cpu.max"))


def _alone_in(group: Path) -> bool:
    """True if this process is the only one of the group, and may write to it: then nobody else is moved or limited by what follows."""
    return _words(group / "cgroup.procs") == [str(os.getpid())] and os.access(group / "cgroup.subtree_control", os.W_OK)


def _moved_below(group: Path) -> bool:
    """Move this process into a group of its own below; False if the kernel does not let us."""
    own = group / OWNER
    try:
        own.mkdir(exist_ok=True)
        (own / "cgroup.procs").write_text(str(os.getpid()), "ascii")
    except OSError:
        return False
    return True


def _divided(group: Path) -> bool:
    """Let the group give its controllers to those below it; False if it gives none."""
    for controller in CONTROLLERS:
        # One by one: a controller that is missing must not take the others with it.
        with suppress(OSError):
            (group / "cgroup.subtree_control").write_text(f"+{controller}", "ascii")
    return _given(group / "cgroup.subtree_control")


def _given(path: Path) -> bool:
    return bool(set(_words(path)) & set(CONTROLLERS))


def _stays(environment: Mapping[str, str]) -> bool:
    """True if this process was started so that it goes on when its terminal is gone: by nohup(1), or in tmux or screen."""
    return signal.getsignal(signal.SIGHUP) == signal.SIG_IGN or "TMUX" in environment or "STY" in environment


def _lingers() -> bool:
    """True if this user's manager lasts when no session of theirs does."""
    with suppress(KeyError):
        return (LINGERING / pwd.getpwuid(os.geteuid()).pw_name).exists()
    return False


def _system_bus() -> tuple[str, str] | None:
    return ("--system", f"unix:path={SYSTEM_BUS}") if SYSTEM_BUS.is_socket() else None


def _bus(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """How busctl is told, and the address of, the user's bus, if somebody can be there."""
    address = environment.get("DBUS_SESSION_BUS_ADDRESS", "")
    for runtime in (environment.get("XDG_RUNTIME_DIR"), RUNTIME_FOLDERS / str(os.geteuid())):
        if runtime is not None and Path(runtime, "bus").is_socket():
            return "--user", f"unix:path={runtime}/bus"
    known = address.startswith("unix:path=") and Path(address.removeprefix("unix:path=").partition(",")[0]).is_socket()
    return ("--user", address) if known else None


def _ask(name: str, bus: tuple[str, str], inside: str | None) -> str | None:
    """Ask a manager for a scope around this process, in a slice (org.freedesktop.systemd1, StartTransientUnit); why not, or None if it said yes."""
    properties = [("PIDs", "au", "1", str(os.getpid())), ("Delegate", "b", "true"), ("CollectMode", "s", "inactive-or-failed")]
    properties += [("Slice", "s", inside)] if inside is not None else []
    said = [word for each in properties for word in each]
    call = (SYSTEMD, SYSTEMD_PATH, f"{SYSTEMD}.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", str(len(properties)), *said, "0")
    answer = _busctl(bus, "call", *call)
    return None if answer.code == 0 else answer.refusal[:MAX_ANSWER] or f"busctl: exit {answer.code}"


class _Answer(NamedTuple):
    """What a call over the bus came to: busctl's exit status (-1: it did not get to one), its output, and why not."""

    code: int
    out: str = ""
    refusal: str = ""


def _busctl(bus: tuple[str, str], *words: str) -> _Answer:
    program = shutil.which("busctl", path=TRUSTED_PATH)
    if program is None:
        return _Answer(-1, refusal="busctl is not installed")
    which, address = bus
    environment = {"PATH": TRUSTED_PATH, "LANG": "C", "DBUS_SESSION_BUS_ADDRESS" if which == "--user" else "DBUS_SYSTEM_BUS_ADDRESS": address}
    command = [program, which, f"--timeout={ANSWER_TIMEOUT_S:g}", *words]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=ANSWER_TIMEOUT_S * 2, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return _Answer(-1, refusal=f"busctl: {type(error).__name__}")
    return _Answer(done.returncode, done.stdout.decode("utf-8", "replace"), " ".join(done.stderr.decode("utf-8", "replace").split()))


def _words(path: Path) -> list[str]:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text("ascii").split()
    return []
