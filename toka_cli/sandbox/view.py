"""The files that a cell sees at `full`: a small root of its own, in which only what was granted is bound from the machine. What is not there cannot be asked
for: no name, no size, no mode of anything else.

In: walls and a few places, in namespaces of the cell's own. Out: the root is changed for good, and what could not be shown. Permissions hold as ever.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from toka_cli.sandbox import mounts, system
from toka_cli.sandbox.namespaces import HOST_NAME, NotHeld

if TYPE_CHECKING:
    from toka_cli.protocol.messages import Walls

MIB: Final = 1 << 20
# Of memory, each; a limit of the agent's memory or disk makes them smaller.
PRIVATE_BYTES: Final = {"/tmp": 256 * MIB, "/dev/shm": 64 * MIB, "/run": 16 * MIB}  # noqa: S108
# Mount points, links and a few small files: no more is ever in it.
_ROOT_BYTES: Final = 4 * MIB
_INODES: Final = 20_000
# Before this version the one there was belonged to the whole machine.
_OWN_PID_MAX: Final = (6, 14)
# What is always the cell's own, whatever was granted there.
_OWN: Final = ("/proc", "/dev")
# Made for each cell: who it is, and nobody else.
OWN_NAMES: Final = ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts", "/etc/hostname")
# What even a /proc of one's own tells about the machine, to root at least.
_MASKED: Final = ("/proc/kallsyms", "/proc/kcore", "/proc/keys", "/proc/timer_list")

READ_ONLY: Final = "read-only"
WRITABLE: Final = "writable"
PROTECTED: Final = "protected"


@dataclass(slots=True)
class View:
    """A root in the making. `home` is for its list of users; `small` bounds each of its filesystems in memory, in bytes.

    `pids` is the highest number that a process may get, where the kernel keeps one for each pid namespace; `held_pids` what it then says.
    """

    walls: Walls
    read_only: tuple[str, ...]
    writable: tuple[str, ...]
    workdir: str
    home: str
    small: int | None = None
    pids: int | None = None
    held_pids: int | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    _root: int = -1
    _sources: dict[str, int] = field(default_factory=dict)
    _modes: dict[str, str] = field(default_factory=dict)

    def enter(self) -> None:
        """Build it and make it the root; the working directory is `/` afterwards. Raises NotHeld."""
        try:
            self._choose()
            mounts.keep_to_ourselves()
            self._root = mounts.new_filesystem("tmpfs", mounts.NOSUID | mounts.NODEV, size=str(_ROOT_BYTES), mode="755")
            mounts.attach_over_root(self._root)
            self._own_places()
            self._bind_all()
            mounts.set_flags(self._root, mounts.RDONLY | mounts.NOSUID | mounts.NODEV | mounts.NOEXEC, below=False)
            mounts.change_root(self._root)
        except OSError as error:
            raise NotHeld(f"the view of the files cannot be built: {error}") from error
        finally:
            for descriptor in (*self._sources.values(), self._root):
                if descriptor >= 0:
                    os.close(descriptor)

    # --- what is shown, and how ---

    def _choose(self) -> None:
        """Open what is there and decide: the deeper path wins, and what its surroundings show anyway needs no mount of its own."""
        wanted: dict[str, str] = {}
        for path in (*self.read_only, *self.walls.read, *self.walls.execute, *self.walls.sockets):
            wanted.setdefault(path, READ_ONLY)
        for path in (*self.writable, *self.walls.write, *self.walls.write_execute):
            wanted[path] = WRITABLE
        for path in self.walls.protect:
            wanted[path] = PROTECTED
        if wanted.pop("/", READ_ONLY) == WRITABLE or "/" in self.walls.read + self.walls.execute:
            raise NotHeld("`/` as a whole cannot be shown: name the folders that are needed")
        for path in sorted(wanted, key=_depth):
            if _below(path, _OWN):
                continue
            around = next((self._modes[above] for above in _above(path) if above in self._modes), None)
            if around == wanted[path] or (wanted[path] == READ_ONLY and around is not None) or (wanted[path] == PROTECTED and around != WRITABLE):
                continue
            source = self._open(path, needed=wanted[path] == PROTECTED)
            if source is not None:
                self._sources[path] = source
                self._modes[path] = wanted[path]

    def _open(self, path: str, *, needed: bool) -> int | None:
        try:
            return mounts.open_path(path)
        except OSError as error:
            # What was granted had no links in it; if it has some now, somebody has changed it since.
            why = "has links in it" if error.errno == errno.ELOOP else os.strerror(error.errno or 0)
            if needed and error.errno not in {errno.ENOENT, errno.ENOTDIR}:
                raise NotHeld(f"{path} cannot be protected: {why}") from error
            self.skipped.append((path, why))
            return None

    # --- the cell's own places ---

    def _own_places(self) -> None:
        private = {path: size for path, size in PRIVATE_BYTES.items() if path not in self._modes}
        for path in ("/proc", "/dev", "/etc", *private):
            self._folder(path)
        for path, size in private.items():
            options = {"size": str(min(size, self.small or size)), "nr_inodes": str(_INODES), "mode": "1777"}
            self._attach(mounts.new_filesystem("tmpfs", mounts.NOSUID | mounts.NODEV, **options), path)
        self._attach(self._proc(), "/proc")
        for path in _MASKED:
            with suppress(FileNotFoundError):
                self._show_device("/dev/null", path)
        self._devices()
        self._settings()

    def _proc(self) -> int:
        """Read-only as a whole: to a root whose ids are mapped, switches in /proc/sys are real ones."""
        proc = mounts.new_filesystem("proc", mounts.NOSUID | mounts.NODEV | mounts.NOEXEC)
        if self.pids is not None and _kernel() >= _OWN_PID_MAX:
            switch = os.open("sys/kernel/pid_max", os.O_RDWR | os.O_CLOEXEC, dir_fd=proc)
            try:
                os.write(switch, str(self.pids).encode())
                self.held_pids = int(os.pread(switch, 20, 0))
            finally:
                os.close(switch)
        mounts.set_flags(proc, mounts.RDONLY, below=False)
        return proc

    def _devices(self) -> None:
        for path in system.DEVICES:
            with suppress(FileNotFoundError):
                self._file(path)
                self._show_device(path, path)
        for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
            os.symlink(target, f"dev/{name}", dir_fd=self._root)

    def _show_device(self, device: str, path: str) -> None:
        source = mounts.open_path(device)
        try:
            # Read-only means their names, owners and modes: devices can be written all the same.
            self._bind(path, source, mounts.RDONLY | mounts.NOSUID | mounts.NOEXEC)
        finally:
            os.close(source)

    def _settings(self) -> None:
        """Links to programs as they are here, and /etc without anybody's secrets."""
        for path in system.PROGRAMS:
            if os.path.islink(path):
                os.symlink(os.readlink(path), path[1:], dir_fd=self._root)
        if "/etc" in self._modes:
            return
        for path in system.SETTINGS:
            if os.path.islink(path) and path not in self._modes:
                self._folder(os.path.dirname(path))
                os.symlink(os.readlink(path), path[1:], dir_fd=self._root)
        uid, gid = os.geteuid(), os.getegid()
        users, groups = {0: "root", 65534: "nobody"}, {0: "root", 65534: "nogroup"}
        users.setdefault(uid, "agent")
        groups.setdefault(gid, "agent")
        homes = {uid: (gid, self.home, "/bin/sh")}
        texts = (
            "\n".join(f"{name}:x:{at}:" + "{}::{}:{}".format(*homes.get(at, (at, "/", "/bin/false"))) for at, name in users.items()),
            "\n".join(f"{name}:x:{at}:" for at, name in groups.items()),
            "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files",
            f"127.0.0.1 localhost {HOST_NAME}\n::1 localhost ip6-localhost ip6-loopback",
            HOST_NAME,
        )
        for path, text in zip(OWN_NAMES, texts, strict=True):
            if path not in self._modes:
                self._file(path, text + "\n")

    # --- what was granted ---

    def _bind_all(self) -> None:
        inside = [path for path in self._modes if any(above in self._modes for above in _above(path))]
        # All mount points first: folders that lead to them are closed before anything is bound.
        for path in self._modes:
            if path not in inside:
                (self._folder if _is_folder(self._sources[path]) else self._file)(path)
        if not _below(self.workdir, tuple(self._modes)):
            self._folder(self.workdir)
        self._close_ways([path for path in (*self._modes, self.workdir) if path not in inside])
        pinned: set[str] = set()
        for path, mode in self._modes.items():
            if mode == PROTECTED:
                self._pin(path, pinned)
            flags = mounts.NOSUID | mounts.NODEV | (mounts.RDONLY if mode != WRITABLE else 0)
            self._bind(path, self._sources[path], flags)

    def _close_ways(self, paths: list[str]) -> None:
        """The folders that lead to a mount point in a private filesystem cannot be moved away, to put others in their place."""
        done = set()
        for path in paths:
            private = next((place for place in PRIVATE_BYTES if place not in self._modes and path.startswith(f"{place}/")), None)
            if private is None:
                continue
            first = "/".join(path.split("/")[: private.count("/") + 2])
            if first != path and first not in done:
                done.add(first)
                self._bind_again(first, mounts.RDONLY | mounts.NOSUID | mounts.NODEV)

    def _pin(self, path: str, pinned: set[str]) -> None:
        """Folders between what is writable and what is protected in it become mount points: those cannot be moved away."""
        between = []
        for above in _above(path):
            if above in self._modes:
                break
            between.append(above)
        for folder in reversed(between):
            if folder not in pinned:
                pinned.add(folder)
                self._bind_again(folder, mounts.NOSUID | mounts.NODEV)

    # --- in the new root ---

    def _folder(self, path: str) -> None:
        made = ""
        for part in path.strip("/").split("/"):
            made = f"{made}/{part}" if made else part
            with suppress(FileExistsError):
                os.mkdir(made, 0o755, dir_fd=self._root)

    def _file(self, path: str, text: str = "") -> None:
        self._folder(os.path.dirname(path))
        with open(path[1:], "w", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o644, dir_fd=self._root)) as file:
            file.write(text)

    def _bind(self, path: str, source: int, flags: int) -> None:
        mount = mounts.copy(source)
        try:
            mounts.set_flags(mount, flags, below=True)
        except BaseException:
            os.close(mount)
            raise
        self._attach(mount, path)

    def _bind_again(self, path: str, flags: int) -> None:
        """Bind a place of the new root onto itself."""
        source = mounts.open_path(path[1:], self._root)
        try:
            self._bind(path, source, flags)
        finally:
            os.close(source)

    def _attach(self, mount: int, path: str) -> None:
        try:
            if not any(above in self._modes for above in _above(path)):
                mounts.attach_at(mount, self._root, path[1:])
                return
            # This is in somebody's folder: no part of the way may be a link by now.
            target = mounts.open_path(path[1:], self._root)
            try:
                mounts.attach(mount, target)
            finally:
                os.close(target)
        finally:
            os.close(mount)


def _depth(path: str) -> int:
    return path.count("/")


def _above(path: str) -> list[str]:
    """The folders above a path, the nearest first, without the root."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts) - 1, 1, -1)]


def _below(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def _kernel() -> tuple[int, int]:
    """The kernel's version; (0, 0) if it does not look like one."""
    major, minor = (*os.uname().release.split(".")[:2], "")[:2]
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


def _is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)
