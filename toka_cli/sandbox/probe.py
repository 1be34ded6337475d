"""What walls this machine can put around a cell: each really tried, in children that end at once. Out: facts, and for what is missing why and what to do.

Nothing of the calling process changes. It forks, so it is called before there are threads.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from toka_cli.sandbox import bpf, capabilities, landlock, prctl, seccomp, syscalls

# No trial takes a hundredth of it; a machine that hangs is answered like one that refuses.
LIMIT_S: Final = 5.0

# include/uapi/linux/sched.h: NEWUSER, NEWNS, NEWPID, NEWNET, NEWIPC, NEWUTS. include/uapi/linux/mount.h: REC | PRIVATE; NOSUID | NODEV | NOEXEC.
_NAMESPACES: Final = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000
_PRIVATE: Final = 0x4000 | 0x40000
_PLAIN: Final = 2 | 4 | 8
# The step of a trial that came to no end of its own.
_TRIAL: Final = "trial"
# What a trial may list before it has walls: inside those of another toka, or of anybody, not the root.
_LISTED: Final = ("/", "/usr", "/usr/bin", os.path.dirname(os.__file__))

# What a Landlock of that version does not hold: (first ABI that does, what is missing).
GAPS: Final = (
    (3, "emptying files by their path (truncate): refused altogether"),
    (4, "TCP connections (so no proxy without namespaces)"),
    (5, "ioctl on devices"),
    (6, "signals and abstract unix sockets to processes outside"),
)
KERNEL_OF_ABI: Final = {3: "6.2", 4: "6.7", 5: "6.10", 6: "6.12"}


@dataclass(frozen=True, slots=True)
class WallFacts:
    """What was tried and held. `level` is the highest that can be had; each note is (what is missing or weaker, why, what to do)."""

    landlock_abi: int
    seccomp: bool
    user_namespaces: bool
    namespace_problem: str | None
    level: str
    notes: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the kernel's settings say about user namespaces; None: this kernel has no such setting."""

    uid: int
    filtered: bool = False
    max_user_namespaces: int | None = None
    unprivileged_clone: int | None = None
    apparmor_restricts: int | None = None


@dataclass(frozen=True, slots=True)
class _Failure:
    """The step of a trial that failed, and the kernel's errno; 0: the act was done although it was forbidden, or nothing was heard."""

    step: str
    code: int


def walls() -> WallFacts:
    """Try Landlock, seccomp and namespaces, each in a child, bounded in time. Never raises for what the machine lacks."""
    if sys.platform != "linux":
        note = ("walls", f"{sys.platform} has neither Landlock nor seccomp", "run on Linux, or in a Linux container or virtual machine")
        return WallFacts(0, seccomp=False, user_namespaces=False, namespace_problem=note[1], level="process", notes=(note,))
    notes = []
    files = _trial(_try_landlock)
    version = 0 if files else landlock.abi()
    if files:
        notes.append(explain_landlock(files.step, files.code, os.uname().release))
    notes += [
        (f"Landlock: {what}", f"version {version} of this kernel does not hold it", f"Linux {KERNEL_OF_ABI[since]} or later holds it")
        for since, what in GAPS
        if 0 < version < since
    ]
    calls = _trial(_try_seccomp)
    if calls:
        notes.append(explain_seccomp(calls.step, calls.code, os.uname().machine))
    spaces = _trial(_try_namespaces)
    if spaces:
        notes.append(explain_namespaces(spaces.step, spaces.code, surroundings()))
    level = "process" if files or calls else "standard" if spaces else "full"
    return WallFacts(
        landlock_abi=version,
        seccomp=calls is None,
        user_namespaces=spaces is None,
        namespace_problem=None if spaces is None else f"{notes[-1][0]}: {notes[-1][1]}",
        level=level,
        notes=tuple(notes),
    )


def surroundings() -> Surroundings:
    """The settings that decide about user namespaces, as this process sees them."""
    return Surroundings(
        uid=os.geteuid(),
        filtered=prctl.seccomp_mode() == prctl.SECCOMP_MODE_FILTER,
        max_user_namespaces=_setting("user/max_user_namespaces"),
        unprivileged_clone=_setting("kernel/unprivileged_userns_clone"),
        apparmor_restricts=_setting("kernel/apparmor_restrict_unprivileged_userns"),
    )


def explain_landlock(step: str, code: int, release: str) -> tuple[str, str, str]:
    """Why Landlock cannot be had, in words, with what to do."""
    if code == errno.ENOSYS:
        why = f"Linux {release} has none, or a filter around this process hides it"
        return ("Landlock", why, "use Linux 5.13 or later, built with CONFIG_SECURITY_LANDLOCK")
    if code == errno.EOPNOTSUPP:
        return ("Landlock", "this kernel has it, and it was turned off at boot", "add landlock to the list of lsm= on the kernel's command line")
    if code == errno.EPERM:
        return ("Landlock", "a filter around this process refuses it", "allow landlock_create_ruleset, landlock_add_rule and landlock_restrict_self in it")
    if code == errno.E2BIG:
        return ("Landlock", "16 domains are around this process, and there can be no more", "start it from fewer sandboxes inside each other")
    return ("Landlock", _told(step, code), "toka cannot use it here; use Linux 5.13 or later with Landlock turned on")


def explain_seccomp(step: str, code: int, machine: str) -> tuple[str, str, str]:
    """Why there can be no filter, in words, with what to do."""
    if syscalls.machine() is None:
        return ("seccomp", f"toka has no table of system calls for {machine}", f"use one of {', '.join(syscalls.MACHINES)}, with a 64-bit Python")
    if code in {errno.ENOSYS, errno.EINVAL}:
        return ("seccomp", "this kernel takes no filters", "use a kernel built with CONFIG_SECCOMP_FILTER")
    return ("seccomp", _told(step, code), "allow seccomp(2) and prctl(2) in the filter around this process")


def explain_namespaces(step: str, code: int, around: Surroundings) -> tuple[str, str, str]:
    """Why there are no namespaces, in words, with what to do: from the step that failed, its errno and the kernel's settings."""
    what = "user namespaces" if step in {"unshare", "map", _TRIAL} else f"mounts in namespaces ({step})"
    if around.max_user_namespaces == 0:
        return (what, "user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=15000")
    if around.unprivileged_clone == 0 and around.uid != 0:
        return (what, "kernel.unprivileged_userns_clone is 0", "sysctl -w kernel.unprivileged_userns_clone=1")
    if code in {errno.EPERM, errno.EACCES} and around.apparmor_restricts == 1:
        return (
            what,
            "AppArmor restricts them (kernel.apparmor_restrict_unprivileged_userns is 1)",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with userns for this Python",
        )
    if step == "unshare" and code == errno.EINVAL:
        return (what, "this kernel has no user, pid, network or ipc namespaces", "use a kernel built with CONFIG_USER_NS, PID_NS, NET_NS and IPC_NS")
    if step == "unshare" and code in {errno.ENOSPC, errno.EUSERS}:
        return (what, "there are too many, or too many inside each other", "raise the settings user.max_*_namespaces, or leave the containers around this one")
    if step == "proc" and code in {errno.EPERM, errno.EACCES}:
        return (what, "parts of /proc are hidden here, as in a container", "start the container with --security-opt systempaths=unconfined")
    if code in {errno.EPERM, errno.ENOSYS} and around.filtered:
        return (
            what,
            "a filter around this process refuses them, as Docker's default does",
            "start the container with a seccomp profile that allows unshare, clone, mount, umount2, mount_setattr and pivot_root, or seccomp=unconfined",
        )
    if step == "map" and around.uid == 0:
        return (what, "root without CAP_SETFCAP cannot map itself", "start with CAP_SETFCAP, or as another user")
    if code in {errno.EPERM, errno.EACCES}:
        why = f"{_told(step, code)}: a security module or a chroot around this process"
        return (what, why, "leave the chroot, or allow user namespaces in SELinux or AppArmor")
    return (what, _told(step, code), "toka cannot use them here")


def _told(step: str, code: int) -> str:
    return f"{step} failed: {os.strerror(code)}" if code else f"{step} did not hold"


def _setting(name: str) -> int | None:
    try:
        with open(f"/proc/sys/{name}") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _trial(attempt: Callable[[], _Failure | None]) -> _Failure | None:
    """Run an attempt in a child and hear what failed; None: all of it held."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_tried(attempt, write)
    os.close(write)
    try:
        said = _hear(read, time.monotonic() + LIMIT_S)
    finally:
        os.close(read)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
    if said == "held":
        return None
    step, _, code = said.partition(" ")
    return _Failure(step or _TRIAL, int(code) if code.isdigit() else 0)


def _be_tried(attempt: Callable[[], _Failure | None], write: int) -> None:
    """The child's whole life. It ends here whatever happens, and runs nothing of what the parent had registered for its end."""
    said = ""
    try:
        prctl.die_with_parent(signal.SIGKILL)
        failed = attempt()
        said = "held" if failed is None else f"{failed.step} {failed.code}"
    except OSError as error:
        said = f"{_TRIAL} {error.errno or 0}"
    finally:
        os.write(write, said.encode())
        os._exit(0)


def _hear(read: int, deadline: float) -> str:
    """The first words; what a child of the child may hold open for longer is not waited for. None in time are a failure with ETIME."""
    left = max(0.0, deadline - time.monotonic())
    if not select.select([read], [], [], left)[0]:
        return f"{_TRIAL} {errno.ETIME}"
    return os.read(read, 256).decode()


def _try_landlock() -> _Failure | None:
    """A folder can be listed, and then cannot: the root, or inside walls, where that is refused already, one that everybody may list."""
    folder = next((path for path in _LISTED if _refused(path) is None), None)
    if folder is None:
        return _Failure("landlock", errno.EACCES)
    try:
        landlock.ask_abi()
        ruleset = landlock.refuse_all()
        prctl.forbid_new_privileges()
        if ruleset:
            ruleset.restrict()
    except OSError as error:
        return _Failure("landlock", error.errno or 0)
    return None if _refused(folder) == errno.EACCES else _Failure("landlock", 0)


def _refused(folder: str) -> int | None:
    """The errno with which listing a folder is refused; None: it can be listed."""
    try:
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
    except OSError as error:
        return error.errno
    return None


def _try_seccomp() -> _Failure | None:
    """Capabilities can be asked for, and then, behind a cell's filter and one against that call, cannot. No filter of ours refuses it, so walls may nest."""
    against = bpf.Program()
    against.load(bpf.NUMBER)
    against.refuse_if(bpf.EQUAL, syscalls.number("capget") or 0, errno.EPERM)
    against.answer(bpf.ALLOW)
    capabilities.held()
    try:
        prctl.forbid_new_privileges()
        seccomp.install(inet=False, unix=False, namespaces=False, ipc=False)
        capabilities.held()
        seccomp.load(against.assemble())
    except OSError as error:
        return _Failure("seccomp", error.errno or 0)
    try:
        capabilities.held()
    except PermissionError:
        return None
    return _Failure("seccomp", 0)


def _try_namespaces() -> _Failure | None:
    """All namespaces of a cell, its user mapped, a tmpfs and a fresh /proc mounted, all of which end with this child."""
    uid, gid = os.geteuid(), os.getegid()
    # The maps of a process that gives no dumps belong to root alone, and the caller may be one.
    prctl.allow_dumps()
    step = "unshare"
    try:
        syscalls.call("unshare", _NAMESPACES)
        step = "map"
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        step = "tmpfs"
        syscalls.call("mount", None, b"/", None, _PRIVATE, None)
        syscalls.call("mount", b"tmpfs", b"/tmp", b"tmpfs", _PLAIN, b"size=64k")
        step = "fork"
        pid = os.fork()
    except OSError as error:
        return _Failure(step, error.errno or 0)
    if pid == 0:
        # The first process of the pid namespace: only from in there can its /proc be mounted.
        code = 255
        try:
            prctl.die_with_parent(signal.SIGKILL)
            syscalls.call("mount", b"proc", b"/proc", b"proc", _PLAIN, None)
            code = 0 if os.readlink("/proc/self") == "1" else 255
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None if code == 0 else _Failure("proc", code if 0 < code < 255 else 0)
