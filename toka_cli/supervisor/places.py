"""Collects the places of this machine: what every agent may run and read, toolchains on PATH, the repository of the workdir. Out: Places, links resolved.

Cheap (a few hundred lstat calls, no process) and explicit: nothing of a home is ever opened but folders that are recognised as a toolchain. It opens nothing.
"""

# Paths are text here: pathlib drops what realpath needs to see, and costs more than all of the lstat calls.
# ruff: noqa: PTH110, PTH111, PTH112, PTH116, PTH118, PTH120, PTH123, PTH208

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Final

import toka_cli
from toka_cli.policy.confine import within
from toka_cli.policy.places import Named, Places
from toka_cli.sandbox.system import DEVICES, FACTS, programs, settings
from toka_cli.sandbox.system import names as names_of_users
from toka_cli.supervisor.repository import git_places

SETTINGS: Final = ("/etc/python3*", "/etc/java*", "/etc/ssl/cert.pem", "/etc/pki/tls/cert.pem", "/etc/networks", "/etc/rpc", "/etc/locale.alias")
"""Settings of interpreters and libraries beside those of `sandbox.system`; all else of /etc is closed: it also holds passwords, tokens and keys of services."""

PROC: Final = "/proc"
"""Read by agents that have none of their own, because runtimes look themselves up there. Memory, environment and descriptors of others are refused all the
same, by ptrace's rules; what is told is which commands run on the machine."""

GIT_SETTINGS: Final = ("/etc/gitconfig", "/etc/gitattributes")

PROGRAMS: Final = (
    "python3", "python", "node", "npm", "pnpm", "yarn", "bun", "deno", "pytest", "tox", "uv", "poetry", "ruff", "mypy", "go", "java", "ruby", "php", "dotnet",
)  # fmt: skip
"""Programs whose toolchains are looked for on PATH; where they lie outside the system, they come with script-execution."""

RUST: Final = ("cargo", "rustc", "rustup")
_NOT_SEARCHED: Final = "/mnt/"
"""Drives of Windows under WSL: a look there takes milliseconds, and nothing on them runs here."""

# What lies in the folder of a toolchain, one of these: a virtual environment or conda's, pyenv, asdf and rbenv, volta, node's, Python's, Go's, Java's, Rust's.
_MARKS: Final = (
    "pyvenv.cfg", "conda-meta", "libexec/pyenv", "installs", "versions", "tools/image", "lib/node_modules", "include/node", "include/python3*",
    "lib/python3*", "pkg/tool", "lib/modules", "lib/rustlib", "lib/ruby", "sdk",
)  # fmt: skip
_HOME_PARTS: Final = (".local", ".local/share", ".config", ".cache", ".ssh", ".gnupg", "bin", "src", "code", "Documents", "Desktop", "Downloads")


def collect(
    workdir: str, environment: Mapping[str, str], *, names: Iterable[str] = (), sockets: Iterable[str] = (), own: Iterable[str] = ()
) -> Places:
    """Return the places for agents that work in `workdir`.

    `names` are paths relative to the workdir that grants name, `sockets` absolute paths of unix sockets; `own` are folders of toka itself that lie outside
    its package and interpreter. Never raises for what is missing or cannot be read.
    """
    root = os.path.realpath(workdir)
    home = os.path.realpath(environment.get("HOME") or os.path.expanduser("~"))
    system = programs()
    path = [folder for folder in environment.get("PATH", "").split(":") if folder.startswith("/") and not folder.startswith(_NOT_SEARCHED)]
    python = tuple(folder for folder in _python(home) if not _inside(folder, system))
    cargo, crates = _rust(path, environment, home, system)
    package = os.path.realpath(os.path.dirname(toka_cli.__file__))
    return Places(
        workdir=root,
        system=system,
        settings=tuple(dict.fromkeys((*settings(), *_settings()))),
        shared=tuple(dict.fromkeys((*names_of_users(), *_existing((*FACTS, PROC))))),
        devices=DEVICES,
        python=python,
        own=tuple(dict.fromkeys((package, *python, *(os.path.realpath(folder) for folder in own)))),
        scripts=tuple(folder for folder in _toolchains(path, PROGRAMS, home, root) if not _inside(folder, (*system, *python))),
        cargo=cargo,
        crates=crates,
        git_settings=_existing(GIT_SETTINGS),
        git=git_places(root),
        named={name: _named(root, name) for name in dict.fromkeys((*names, "target", "Cargo.toml", "Cargo.lock"))},
        sockets={name: _socket(name) for name in sockets},
        home=home,
    )


def _existing(paths: Iterable[str]) -> tuple[str, ...]:
    """The real paths of those that exist, each once and none that lies in another one."""
    real = dict.fromkeys(os.path.realpath(path) for path in paths if os.path.exists(path))
    return tuple(path for path in real if not _inside(path, [other for other in real if other != path]))


def _inside(path: str, folders: Iterable[str]) -> bool:
    return any(within(path, folder) for folder in folders)


def _settings() -> tuple[str, ...]:
    try:
        there = os.listdir("/etc")
    except OSError:
        there = []
    wanted = [f"/etc/{name}" for pattern in SETTINGS if "*" in pattern for name in sorted(there) if fnmatchcase(f"/etc/{name}", pattern)]
    # A link out of /etc opens what it leads to, unless that is something else altogether.
    return tuple(path for path in _existing((*wanted, *(name for name in SETTINGS if "*" not in name))) if path.startswith(("/etc/", "/usr/", "/nix/store/")))


def _python(home: str) -> Iterator[str]:
    """The interpreter that toka runs in: the environment that it was started in, and the one that this was made from."""
    program = os.path.realpath(sys.executable) if sys.executable else ""
    for prefix in dict.fromkeys((sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)):
        real = os.path.realpath(prefix)
        if not _too_wide(real, home):
            yield real
        else:
            # Installed straight into a home, or into /: only the interpreter itself and its libraries.
            yield program
            yield os.path.realpath(os.path.dirname(os.__file__))
            yield from (os.path.realpath(path) for path in sys.path if path.endswith(("site-packages", "dist-packages", "lib-dynload")))


def _toolchains(path: list[str], programs: Iterable[str], home: str, workdir: str) -> tuple[str, ...]:
    """The folders of these programs' toolchains, in the order of PATH; a program that lies among other things comes alone."""
    found: dict[str, None] = {}
    for program in programs:
        for folder in path:
            place = f"{folder}/{program}"
            try:
                mode = os.stat(place).st_mode
            except OSError:
                continue
            if not (stat.S_ISREG(mode) and mode & 0o111):
                continue
            for root in _roots(place):
                real = os.path.realpath(root)
                # A toolchain in the workdir is a part of the workdir.
                if within(real, workdir):
                    continue
                if real != root and not os.path.isdir(real):
                    found[real] = None
                elif _too_wide(real, home) or within(workdir, real) or not _marked(real):
                    found[os.path.realpath(place)] = None
                else:
                    found[real] = None
            break
    return tuple(folder for folder in found if not _inside(folder, [other for other in found if other != folder]))


def _roots(place: str) -> Iterator[str]:
    """The folders that a program may belong to: that above its `bin` (or `shims`), as it was found and as its links lead, and an environment's base."""
    for each in dict.fromkeys((place, os.path.realpath(place))):
        folder, _, _ = each.rpartition("/")
        above, _, last = folder.rpartition("/")
        yield above if last in {"bin", "sbin", "shims", "condabin", "Scripts"} else folder
        try:
            with open(f"{above}/pyvenv.cfg", encoding="utf-8", errors="replace") as file:
                lines = file.read(4096).splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition("=")
            if key.strip() == "home" and value.strip().startswith("/"):
                yield os.path.dirname(os.path.realpath(value.strip()))


def _marked(folder: str) -> bool:
    for mark in _MARKS:
        if "*" not in mark:
            if os.path.exists(f"{folder}/{mark}"):
                return True
            continue
        above, _, pattern = mark.rpartition("/")
        try:
            if any(fnmatchcase(name, pattern) for name in os.listdir(f"{folder}/{above}")):
                return True
        except OSError:
            continue
    return False


def _too_wide(folder: str, home: str) -> bool:
    """True for what holds more than a toolchain: a home, or anything that a home lies in, and the usual folders of one."""
    return (
        within(home, folder)
        or folder in {"/", "/home", "/root", "/Users", "/opt", "/srv", "/var", "/tmp", "/mnt", "/media", "/etc", "/run"}  # noqa: S108
        or any(folder == f"{home}/{part}" for part in _HOME_PARTS)
        or (folder.startswith(("/home/", "/Users/")) and folder.count("/") == 2)
    )


def _rust(path: list[str], environment: Mapping[str, str], home: str, system: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what runs, what is read) of Rust: toolchains, proxies and the registry. Credentials and config.toml, which may hold a token, are never among them."""
    cargo_home = os.path.realpath(environment.get("CARGO_HOME") or f"{home}/.cargo")
    rustup_home = os.path.realpath(environment.get("RUSTUP_HOME") or f"{home}/.rustup")
    run = [f"{cargo_home}/bin", *([rustup_home] if os.path.isdir(f"{rustup_home}/toolchains") else [])]
    run += [folder for folder in _toolchains(path, RUST, home, "//") if not within(folder, cargo_home)]
    run = [folder for folder in _existing(run) if not _inside(folder, system)]
    crates = _existing((f"{cargo_home}/registry", f"{cargo_home}/git"))
    return tuple(run), tuple(folder for folder in crates if within(folder, cargo_home))


def _named(workdir: str, name: str) -> Named:
    path = os.path.join(workdir, name)
    real = os.path.realpath(path)
    if not within(real, workdir):
        return Named("outside", real)
    try:
        mode = os.stat(real).st_mode
    except FileNotFoundError:
        return Named("missing", real)
    except OSError:
        return Named("outside", real)
    return Named("folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "outside", real)


def _socket(name: str) -> str | None:
    real = os.path.realpath(name)
    try:
        return real if stat.S_ISSOCK(os.stat(real).st_mode) else None
    except OSError:
        return None
