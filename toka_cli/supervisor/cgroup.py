"""Control groups: exact limits of a whole process tree, where this process may make a group of its own. Version 2 where a subtree is delegated, or is once
it is asked for (see `scope`), else the hierarchies of version 1 that can be written. In: limits. Out: a Leaf that holds some of them, each read back.

Whether it works is found out by trying: a group is made, limited, read back and removed. What cannot be held here is the governor's.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from toka_cli.protocol.messages import Limits
from toka_cli.supervisor.scope import CONTROLLERS, Place, delegated

CPU_PERIOD_US: Final = 100_000
_NUMBERS: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Base:
    """Where groups for one controller can be made, and by which version's file names."""

    folder: Path
    version: int


@dataclass(slots=True)
class Leaf:
    """The group (one folder per hierarchy) of one cell. `held` names what it really limits: memory, cpu, pids."""

    folders: dict[str, Base] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    written: dict[str, tuple[Path, str]] = field(default_factory=dict)

    def add(self, pid: int) -> None:
        """Put a process, and all it will start, into the group. Raises OSError."""
        for folder in {base.folder for base in self.folders.values()}:
            _write(folder / "cgroup.procs", str(pid))

    def lost(self) -> set[str]:
        """Say which limits do not stand any more as they were written: whoever manages the groups above took them away. From then on they are not `held`."""
        gone = {controller for controller in self.held if not _reads(*self.written[controller])}
        self.held -= gone
        return gone

    def free_cpu(self) -> None:
        """Let the group have all the CPU that there is: it is to be stopped, and who is held back obeys late."""
        base = self.folders.get("cpu")
        if base is not None:
            with suppress(OSError):
                _write(base.folder / ("cpu.max" if base.version == 2 else "cpu.cfs_quota_us"), "max" if base.version == 2 else "-1")

    def out_of_memory(self) -> bool:
        """True if the kernel ended a process of the group for want of memory."""
        base = self.folders.get("memory")
        if base is None:
            return False
        name = "memory.events" if base.version == 2 else "memory.oom_control"
        return _counter(base.folder / name, "oom_kill") > 0

    def refused_processes(self) -> bool:
        """True if the kernel refused a fork because the group was full."""
        base = self.folders.get("pids")
        return base is not None and _counter(base.folder / "pids.events", "max") > 0

    def peak_memory_bytes(self) -> int | None:
        """The most that the whole group used at one moment; None if the kernel does not say."""
        base = self.folders.get("memory")
        if base is None:
            return None
        with suppress(OSError, ValueError):
            return int((base.folder / ("memory.peak" if base.version == 2 else "memory.max_usage_in_bytes")).read_text("ascii"))
        return None

    def cpu_time_s(self) -> float:
        """CPU seconds of all that was ever in the group, those of the dead included; 0 where the kernel does not say (version 1)."""
        folder = next((base.folder for base in self.folders.values() if base.version == 2), None)
        return 0.0 if folder is None else _counter(folder / "cpu.stat", "usage_usec") / 1e6

    def remove(self) -> bool:
        """Remove the group; False while something is still in it."""
        done = True
        for folder in {base.folder for base in self.folders.values()}:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                done = False
        return done


@dataclass(slots=True)
class _Run:
    """What is known of the run before places for its groups are looked for."""

    outlives_login: bool = False


_RUN: Final = _Run()


def outlive_login() -> None:
    """Make groups only where they last when the user's last session ends: the run goes on then. Said before the first look at `bases`."""
    _RUN.outlives_login = True


@cache
def bases() -> dict[str, Base]:
    """Controllers for which this process can make groups, found out by trying. Empty where there are none."""
    found: dict[str, Base] = {}
    for controller, base in _candidates():
        if controller not in found and _works(controller, base):
            found[controller] = base
    return found


def why_none(controller: str) -> tuple[str, str] | None:
    """Why this process can make no group for a controller, and what a person can do (may be empty); None where it can."""
    if controller in bases():
        return None
    _, mounts = _groups()
    group = _unified_group()
    if any(mount[2] == "cgroup" and controller in mount[3].split(",") for mount in mounts):
        return "groups of cgroup v1 take only root here", "boot with systemd.unified_cgroup_hierarchy=1 to have cgroup v2"
    if group is None:
        return "no cgroup file system is mounted here", ""
    place = _place(group)
    if place.folder is None:
        return place.why, place.fix
    if controller in _enabled(place.folder):
        return f"a group for {controller} was tried below {place.folder}, and its limit did not hold", ""
    return f"the controller {controller} is not given to {place.folder.name}", f"systemctl edit user@.service, with Delegate={' '.join(CONTROLLERS)}"


def wanted(limits: Limits) -> dict[str, float]:
    """Of these limits those that a group would hold here, by controller."""
    values = {"memory": limits.memory_bytes, "cpu": limits.cpu_share, "pids": limits.max_processes}
    return {controller: value for controller, value in values.items() if value is not None and controller in bases()}


def make_leaf(name: str, limits: Limits) -> Leaf | None:
    """A group that holds what it can of the limits; None if that is nothing."""
    asked = wanted(limits)
    if not asked:
        return None
    leaf = Leaf()
    unique = f"toka-{name}-{os.getpid()}-{next(_NUMBERS)}"
    for controller, value in asked.items():
        base = bases()[controller]
        folder = base.folder / unique
        try:
            folder.mkdir(exist_ok=True)
            leaf.written[controller] = _limit(controller, Base(folder, base.version), value)
        except OSError:
            if all(folder != held.folder for held in leaf.folders.values()):
                with suppress(OSError):
                    folder.rmdir()
            continue
        leaf.folders[controller] = Base(folder, base.version)
        leaf.held.add(controller)
    return leaf if leaf.held else None


def remove_stale() -> int:
    """Remove empty groups of owners that are gone; how many there were. A group that is not empty refuses, and stays."""
    removed = 0
    for folder in {base.folder for base in bases().values()}:
        for stale in folder.glob("toka-*-*-*"):
            owner = stale.name.rsplit("-", 2)[1]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                with suppress(OSError):
                    stale.rmdir()
                    removed += 1
    return removed


def _limit(controller: str, base: Base, value: float) -> tuple[Path, str]:
    """Write a limit and read it back; where it stands. Raises OSError if it does not hold."""
    if controller == "pids":
        # The cell itself is toka's, not the agent's.
        return _write_and_check(base.folder / "pids.max", str(int(value) + 1))
    if controller == "memory":
        size = str(_pages(int(value)))
        held = _write_and_check(base.folder / ("memory.max" if base.version == 2 else "memory.limit_in_bytes"), size)
        # Else a tree goes on into swap space when it has reached its limit. A kernel without such space, or that does not count it, has no such file.
        swap = base.folder / ("memory.swap.max" if base.version == 2 else "memory.memsw.limit_in_bytes")
        if swap.exists():
            _write_and_check(swap, "0" if base.version == 2 else size)
        if base.version == 2:
            _write(base.folder / "memory.oom.group", "1")
        return held
    quota = str(max(1000, int(value * CPU_PERIOD_US)))
    if base.version == 2:
        return _write_and_check(base.folder / "cpu.max", f"{quota} {CPU_PERIOD_US}")
    _write_and_check(base.folder / "cpu.cfs_period_us", str(CPU_PERIOD_US))
    return _write_and_check(base.folder / "cpu.cfs_quota_us", quota)


def _candidates() -> Iterator[tuple[str, Base]]:
    """Folders of this process's own groups, version 2 first."""
    own, mounts = _groups()
    if (group := _unified_group()) is not None:
        folder = _place(group).folder
        if folder is not None:
            for controller in _enabled(folder):
                yield controller, Base(folder, 2)
    for mount in mounts:
        if mount[2] == "cgroup":
            for controller in CONTROLLERS:
                if controller in mount[3].split(",") and controller in own:
                    yield controller, Base(Path(mount[1] + own[controller].rstrip("/")), 1)


@cache
def _place(group: Path) -> Place:
    """Where groups of version 2 can be made, or why nowhere; asked for once."""
    return delegated(group, _unified_group, os.environ, outlives_login=_RUN.outlives_login)


def _groups() -> tuple[dict[str, str], list[list[str]]]:
    """This process's groups by controller ("" for version 2), and the mounts."""
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines()]
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text("utf-8").splitlines()]
    except OSError:
        return {}, []
    return {name: path for _, names, path in groups for name in names.split(",")}, mounts


def _unified_group() -> Path | None:
    """The folder of this process's group of version 2; None where there is no such hierarchy."""
    own, mounts = _groups()
    return next((Path(mount[1] + own[""].rstrip("/")) for mount in mounts if mount[2] == "cgroup2" and "" in own), None)


def _enabled(group: Path) -> list[str]:
    """Controllers that groups made below get."""
    with suppress(OSError):
        return [controller for controller in (group / "cgroup.subtree_control").read_text("ascii").split() if controller in CONTROLLERS]
    return []


def _works(controller: str, base: Base) -> bool:
    probe = Base(base.folder / f"toka-probe-{os.getpid()}-{next(_NUMBERS)}", base.version)
    try:
        probe.folder.mkdir()
    except OSError:
        return False
    try:
        _limit(controller, probe, {"memory": 64 << 20, "cpu": 0.5, "pids": 32}[controller])
    except OSError:
        return False
    finally:
        with suppress(OSError):
            probe.folder.rmdir()
    return True


def _pages(size: int) -> int:
    page = os.sysconf("SC_PAGE_SIZE")
    return size // page * page


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="ascii") as file:
        file.write(text)


def _write_and_check(path: Path, text: str) -> tuple[Path, str]:
    _write(path, text)
    if not _reads(path, text):
        raise OSError(f"{path} did not take {text}")
    return path, text


def _reads(path: Path, text: str) -> bool:
    with suppress(OSError):
        return path.read_text("ascii").split() == text.split()
    return False


def _counter(path: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        for line in path.read_text("ascii").splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0
