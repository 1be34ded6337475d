"""A machine full of things that an agent must not reach, and a toka that runs attempts among them, as root or as an ordinary user."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

import toka_cli

HERE = Path(__file__).parent
NOBODY = 65534
RUN_LIMIT_S = 120
GRANTS = {
    "none": (),
    "read": ("filesystem-read",),
    "write": ("filesystem-write",),
    "git": ("filesystem-write", "git-access"),
    "script": ("script-execution",),
    "network": ("network-access",),
}
_TOKA = "import sys; from toka_cli.__main__ import main; sys.exit(main())"


@dataclass
class User:
    """Who runs toka: its uid, and an interpreter that it can start."""

    name: str
    uid: int
    python: str
    environment: dict[str, str]


@cache
def ordinary_python() -> str | None:
    """An interpreter of this version that user nobody can start."""
    for candidate in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        try:
            subprocess.run([candidate, "-c", "pass"], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True, check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        return candidate
    return None


def user_of(name: str) -> User:
    """The user by name; skips where this test process cannot be it."""
    base = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8"}
    if os.geteuid() != 0:
        if name == "root":
            pytest.skip("only root can be root")
        return User(name, os.geteuid(), sys.executable, base)
    if name == "root":
        return User(name, 0, sys.executable, base)
    python = ordinary_python()
    if python is None:
        pytest.skip("no Python interpreter that an ordinary user may start")
    paths = [str(Path(toka_cli.__file__).parent.parent), str(Path(msgspec.__file__).parent.parent)]
    return User(name, NOBODY, python, {**base, "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": ":".join(paths)})


@dataclass
class Machine:
    """The bait, and what the judge looks at afterwards."""

    base: Path
    user: User
    level: str
    facts: dict[str, Any]
    key: str
    udp: socket.socket
    datagrams: socket.socket
    witness: subprocess.Popen[bytes]
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    envelopes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def toka(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """toka as that user, with keys in its environment."""
        environment = {
            **self.user.environment, "HOME": str(self.base / "outside" / "home"), "TOKA_STATE_DIR": str(self.base / "state"), "SECRET_FOR_TESTS": self.key,
            "OPENAI_API_KEY": self.key, "ANTHROPIC_API_KEY": self.key, "TOKA_PROCESS_WALLS": self.level,
        }  # fmt: skip
        identity: dict[str, Any] = {"user": self.user.uid, "group": self.user.uid, "extra_groups": []} if os.geteuid() != self.user.uid else {}
        return subprocess.run(
            [self.user.python, "-c", _TOKA, *arguments], env=environment, cwd=self.base / "workspace", input=stdin, capture_output=True, text=True,
            timeout=RUN_LIMIT_S, check=False, **identity,
        )  # fmt: skip

    def run(self, group: str) -> dict[str, Any]:
        """What came of every attempt of a group; run once."""
        if group not in self.results:
            source = (HERE / "attempts.py").read_text().replace("from __future__ import annotations\n", "", 1)
            grants = [f"--grant={name}" for name in GRANTS[group] if group != "network"]
            if group == "network":
                grants = [f"--grant=network-access=127.0.0.1:{self.facts['granted_port']}"]
            facts = f"FACTS = {dict(self.facts, group=group)!r}\n"
            self.new_repository()
            done = self.toka("runtime", "exec", "--python", "-", "--timeout", "60s", "-o", "json", *grants, stdin=facts + source)
            assert done.stdout, done.stderr
            self.envelopes[group] = json.loads(done.stdout)
            result = self.envelopes[group]["data"]["result"]
            tampered = (result["reason"] or "").startswith("sandbox: .git") and self.level == "standard"
            assert result["ok"] or tampered, f"{result['reason']}\n{result['stderr']}\n{done.stderr}"
            self.results[group] = json.loads(result["output"]) if not result["artifacts"] else json.loads(self._artifact(result["artifacts"][0]))
        return self.results[group]

    def new_repository(self) -> None:
        """A repository as git makes it, whatever the attempts of another group left of the last one."""
        workspace = self.base / "workspace"
        for path in workspace.glob(".git*"):
            shutil.rmtree(path)
        subprocess.run(["git", "init", "-q", str(workspace)], check=True)
        for path in (workspace / ".git", *(workspace / ".git").rglob("*")):
            os.chown(path, self.user.uid, self.user.uid)

    def _artifact(self, digest: str) -> str:
        (path,) = (self.base / "state").glob(f"runs/*/artifacts/{digest}")
        return path.read_text()

    def snapshot(self) -> dict[str, Any]:
        """Everything outside the workspace, as it is now."""
        found: dict[str, Any] = {}
        for path in sorted((self.base / "outside").rglob("*")):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            regular = path.is_file()
            extras = tuple(os.listxattr(path)) if regular else ()
            found[str(path)] = (status.st_mode, status.st_uid, status.st_mtime_ns if regular else 0, content, extras)
        return found


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = self.server.words  # type: ignore[attr-defined]
        self.server.asked += 1  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class _Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


def _http(stack: ExitStack, words: bytes, kind: type[ThreadingHTTPServer] = ThreadingHTTPServer, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    server = kind((host, 0), _Answer)
    server.words, server.asked = words, 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return server


@contextmanager
def baited(name: str, level: str) -> Iterator[Machine]:
    user = user_of(name)
    base = Path(tempfile.mkdtemp(prefix="attacks-", dir="/tmp"))
    neighbour = Path(tempfile.mkdtemp(prefix="toka-neighbour-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        stack.callback(shutil.rmtree, neighbour, ignore_errors=True)
        workspace, outside = base / "workspace", base / "outside"
        for folder in (workspace, outside / "home" / ".ssh", outside / "home" / ".cargo", base / "state"):
            folder.mkdir(parents=True)
        (base / "state").chmod(0o700)
        for path, text in {
            workspace / "readable": "readable", workspace / "planted": "#!/bin/sh\necho planted\n",
            outside / "secret": "secret", outside / "movable": "movable",
            outside / "home" / ".bashrc": "# mine\n", outside / "home" / ".ssh" / "id_test": "key", outside / "home" / ".cargo" / "credentials.toml": "token",
            neighbour / "private": "private",
        }.items():  # fmt: skip
            path.write_text(text)
        (workspace / "planted").chmod(0o755)
        (workspace / "link-out").symlink_to(outside / "secret")
        key = secrets.token_hex(16)
        streams, datagrams, udp, abstract = (
            stack.enter_context(socket.socket(family, kind))
            for family, kind in (
                (socket.AF_UNIX, socket.SOCK_STREAM),
                (socket.AF_UNIX, socket.SOCK_DGRAM),
                (socket.AF_INET, socket.SOCK_DGRAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
            )
        )
        streams.bind(str(outside / "socket"))
        datagrams.bind(str(outside / "datagrams"))
        udp.bind(("127.0.0.1", 0))
        abstract.bind("\0attacks-" + key[:12])
        for listening in (streams, abstract):
            listening.listen()
        for waiting in (datagrams, udp):
            waiting.setblocking(False)
        other, granted = _http(stack, b"other"), _http(stack, b"granted")
        other6 = _http(stack, b"other", _Server6, "::1") if socket.has_dualstack_ipv6() else other
        shm_key = 0x746F6B61 ^ (os.getpid() & 0xFFFF)
        libc = ctypes.CDLL(None)
        segment = libc.shmget(shm_key, 4096, 0o1666)
        stack.callback(libc.shmctl, segment, 0, None)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            free = probe.getsockname()[1]
        for path in (base, *base.rglob("*"), neighbour, *neighbour.rglob("*")):
            os.chown(path, user.uid, user.uid, follow_symlinks=False)
        identity: dict[str, Any] = {"user": user.uid, "group": user.uid, "extra_groups": []} if os.geteuid() != user.uid else {}
        heard = "import os,signal,sys\nsignal.signal(signal.SIGCONT, lambda *_: os.write(1, b'heard'))\nos.write(1, b'ready')\nsys.stdin.read()"
        witness = subprocess.Popen([user.python, "-c", heard], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **identity)
        stack.callback(witness.communicate)
        stack.callback(witness.kill)
        assert witness.stdout is not None
        assert os.read(witness.stdout.fileno(), 5) == b"ready"
        os.set_blocking(witness.stdout.fileno(), False)
        facts = {
            "workdir": str(workspace), "outside": str(outside), "neighbour": str(neighbour), "tcp": other.server_port, "tcp6": other6.server_port,
            "udp": udp.getsockname()[1], "abstract": "attacks-" + key[:12], "free": free, "granted_port": granted.server_port, "shm_key": shm_key,
            "key_reversed": key[::-1], "package": str(Path(toka_cli.__file__).parent), "pid_namespace": os.readlink("/proc/self/ns/pid"), "state": "",
        }  # fmt: skip
        machine = Machine(base, user, level, facts, key, udp, datagrams, witness)
        first = machine.toka("runtime", "exec", "--shell", "true", "-o", "json")
        assert first.returncode == 0, first.stdout + first.stderr
        facts["state"] = str(next((base / "state").glob("runs/*/run.db")))
        yield machine



@pytest.fixture(scope="session")
def machines() -> Iterator[Any]:
    """The machine of a user at a level, made once: `machines(user, level)`."""
    with ExitStack() as stack:
        made: dict[tuple[str, str], Machine] = {}

        def of(user: str, level: str) -> Machine:
            if (user, level) not in made:
                made[user, level] = stack.enter_context(baited(user, level))
            return made[user, level]

        yield of
