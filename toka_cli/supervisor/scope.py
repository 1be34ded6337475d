"""A place for cgroups of version 2 where this process has none: a scope that systemd's user manager makes and delegates to it, once per process.

In: what the kernel says of this process's group, and the user's bus. Out: the folder below which groups can be made, or None. Asks only a manager that is
there, waits a bounded time, and fails silently: whoever asked goes on without.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

CONTROLLERS: Final = ("memory", "cpu", "pids")
# The owner's own group beside those of its cells: a group that gives controllers to others must hold no process itself (cgroups(7)).
OWNER: Final = "toka-owner"
ANSWER_TIMEOUT_S: Final = 2.0
MOVE_TIMEOUT_S: Final = 2.0
# Never from the caller's PATH: what is started here speaks for the user.
TRUSTED_PATH: Final = "/usr/bin:/bin:/usr/local/bin"


def delegated(group: Path, own_group: Callable[[], Path | None], environment: Mapping[str, str]) -> tuple[Path | None, str]:
    """The folder below which this process may make groups: in its own group, or in a new scope; None if neither can be had, and why.

    `group` is the folder of this process's group, `own_group` looks for it again once it may have changed.
    """
    if not set(_words(group / "cgroup.controllers")) & set(CONTROLLERS):
        # The kernel keeps its controllers elsewhere (version 1), or this group was given none.
        return None, "no controller of cgroup v2 is given to this process"
    if group.name == OWNER:
        # An owner's child: a detached run, or one toka below another.
        return (group.parent, "") if set(_words(group.parent / "cgroup.subtree_control")) & set(CONTROLLERS) else (None, "cgroup v2 is not delegated")
    if _alone_in(group) and (place := _prepared(group)) is not None:
        return place, ""
    bus = _bus(environment)
    if bus is None:
        return None, "cgroup v2 is not delegated, and no user manager of systemd is there to ask"
    name = f"toka-{os.getpid()}.scope"
    if not _ask(name, bus):
        return None, "cgroup v2 is not delegated, and systemd's user manager does not make a scope"
    give_up = time.monotonic() + MOVE_TIMEOUT_S
    while (moved := own_group()) is None or moved.name != name:
        if time.monotonic() > give_up:
            return None, "systemd's user manager did not move this process into its scope"
        time.sleep(0.005)
    place = _prepared(moved)
    return place, "" if place is not None else "the scope that systemd's user manager made cannot be divided"


def _alone_in(group: Path) -> bool:
    """True if this process is the only one of the group, and may write to it: then nobody else is moved or limited by what follows."""
    return _words(group / "cgroup.procs") == [str(os.getpid())] and os.access(group / "cgroup.subtree_control", os.W_OK)


def _prepared(group: Path) -> Path | None:
    """Move this process into a group of its own below, and let the group give its controllers to the others; None if the kernel does not let us."""
    own = group / OWNER
    try:
        own.mkdir(exist_ok=True)
        (own / "cgroup.procs").write_text(str(os.getpid()), "ascii")
    except OSError:
        return None
    for controller in CONTROLLERS:
        # One by one: a controller that is missing must not take the others with it.
        with suppress(OSError):
            (group / "cgroup.subtree_control").write_text(f"+{controller}", "ascii")
    return group if set(_words(group / "cgroup.subtree_control")) & set(CONTROLLERS) else None


def _bus(environment: Mapping[str, str]) -> str | None:
    """The address of the user's bus, if somebody can be there."""
    address = environment.get("DBUS_SESSION_BUS_ADDRESS")
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime is not None and Path(runtime, "bus").is_socket():
        return f"unix:path={runtime}/bus"
    return address if address and address.startswith("unix:path=") and Path(address.removeprefix("unix:path=").partition(",")[0]).is_socket() else None


def _ask(name: str, bus: str) -> bool:
    """Ask the user manager for a scope around this process (org.freedesktop.systemd1, StartTransientUnit); True if it said yes."""
    program = shutil.which("busctl", path=TRUSTED_PATH)
    if program is None:
        return False
    manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
    properties = ("PIDs", "au", "1", str(os.getpid()), "Delegate", "b", "true", "CollectMode", "s", "inactive-or-failed")
    call = (*manager, "StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", "3", *properties, "0")
    words = [program, "--user", f"--timeout={ANSWER_TIMEOUT_S:g}", "call", *call]
    environment = {"PATH": TRUSTED_PATH, "DBUS_SESSION_BUS_ADDRESS": bus, "LANG": "C"}
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=ANSWER_TIMEOUT_S * 2, check=False
        )
        return done.returncode == 0
    return False


def _words(path: Path) -> list[str]:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text("ascii").split()
    return []
