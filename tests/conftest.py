"""What the tests of whole programs share: toka as a process with a state folder and an environment of its own, pipes to meet it at, and the proof that
nothing of it is left afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.llm.server import ModelServer
from toka_cli.commands.watching import Look, follow
from toka_cli.paths import RunFolder
from toka_cli.state import query

LIMIT_S = 60.0
"""No wait of a test is longer: it fails instead."""

# Tests that were started by nohup(1) or from a background job are about signals all the same: what is ignored here would be ignored in all they start.
for _signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGTSTP):
    if signal.getsignal(_signum) == signal.SIG_IGN:
        signal.signal(_signum, signal.default_int_handler if _signum == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the tests of whole programs, which mostly wait, over each worker's share, so that they wait beside others and none is left for the end."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
    long = sorted((item for item in items if "journeys" in item.path.parts), key=lambda item: item.get_closest_marker("slow") is None)
    short = [item for item in items if "journeys" not in item.path.parts]
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        waiting, quick = long[worker::workers], short[worker * len(short) // workers : (worker + 1) * len(short) // workers]
        places = [(0.9 * place / len(waiting), item) for place, item in enumerate(waiting)]
        places += [(place / len(quick), item) for place, item in enumerate(quick)]
        ordered += [item for _, item in sorted(places, key=lambda it: it[0])]
    items[:] = ordered or items


@dataclass(frozen=True)
class Done:
    """A toka that has ended."""

    code: int
    out: str
    err: str

    @property
    def envelope(self) -> dict[str, Any]:
        """The one JSON document on standard output."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of a JSONL output."""
        return [json.loads(line) for line in self.out.splitlines()]

    def expect(self, code: int) -> Done:
        """Assert the exit code, and show everything if it is another."""
        assert self.code == code, f"exit {self.code}, not {code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"
        assert not any(line.startswith("Traceback") for line in self.err.splitlines()), self.err
        return self


class Running:
    """A toka under way; its standard output can be read line by line with a deadline."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self._rest = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self) -> bytes | None:
        """The next whole line of standard output, None at its end."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + LIMIT_S
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no line in {LIMIT_S:g} seconds; so far {self._rest!r}"
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def next(self) -> dict[str, Any]:
        """The next JSON line."""
        line = self.line()
        assert line is not None, f"the output ended; stderr: {self.wait().err}"
        event = json.loads(line)
        assert isinstance(event, dict)
        self.events.append(event)
        return event

    def event(self, kind: str, *, name: str | None = None, task: str | None = None) -> dict[str, Any]:
        """Read JSON lines up to this event."""
        while (line := self.line()) is not None:
            event = json.loads(line)
            self.events.append(event)
            if event.get("kind") == kind and name in {None, event.get("name")} and task in {None, event.get("task")}:
                return event
        raise AssertionError(f"the output ended without {kind} of {name}; stderr: {self.wait().err}")

    def events_of(self, *wanted: tuple[str, str]) -> None:
        """Read JSON lines until each (kind, agent's name) has been seen, in whatever order."""
        missing = {*wanted} - {(event.get("kind"), event.get("name")) for event in self.events}
        while missing:
            event = self.next()
            missing.discard((event.get("kind"), event.get("name")))

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def wait(self) -> Done:
        """Wait for the end."""
        out, err = self.process.communicate(timeout=LIMIT_S)
        return Done(self.process.returncode, (self._rest + (out or b"")).decode("utf-8", "replace"), (err or b"").decode("utf-8", "replace"))


class Terminal:
    """A toka on a terminal of its own: a session whose controlling terminal the test holds the other end of."""

    def __init__(self, argv: Sequence[str], env: dict[str, str], cwd: Path, columns: int) -> None:
        self.master, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        self.shown = bytearray()
        take_terminal = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", take_terminal, *argv], stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=cwd, start_new_session=True
        )
        os.close(theirs)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing on the terminal in {LIMIT_S:g} seconds; so far {bytes(self.shown)!r}"
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:
            return False
        self.shown += data
        return bool(data)

    def until(self, text: bytes) -> None:
        """Read until `text` was shown."""
        deadline = time.monotonic() + LIMIT_S
        while text not in self.shown:
            assert self._read(deadline), f"the terminal closed without {text!r}: {bytes(self.shown)!r}"

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def close(self) -> None:
        """Hang up, as a closed window does."""
        if self.master >= 0:
            os.close(self.master)
            self.master = -1

    def wait(self) -> int:
        """Read to the end; the exit status."""
        deadline = time.monotonic() + LIMIT_S
        while self.master >= 0 and self._read(deadline):
            pass
        code = self.process.wait(timeout=LIMIT_S)
        self.close()
        return code


class Meeting:
    """A named pipe that a command and a test meet at. Both ends are open all the time, so that neither has to wait for the other's open."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._rest = b""

    def take(self) -> str:
        """The next line that a command wrote into it."""
        deadline = time.monotonic() + LIMIT_S
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"nobody came to {self.path.name} in {LIMIT_S:g} seconds"
            self._rest += os.read(self._fd, 1 << 16)
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def give(self, text: str = "go") -> None:
        """Let one command that reads a line from it go on."""
        os.write(self._fd, text.encode() + b"\n")

    def close(self) -> None:
        os.close(self._fd)


class Toka:
    """The command line, run as a user would, below one folder: `state` is its state folder, `work` the directory that agents work on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.work = root / "work"
        for folder in (self.work, root / "tmp", root / "home"):
            folder.mkdir()
        self.env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(root / "home"),
            "TMPDIR": str(root / "tmp"),
            "TOKA_STATE_DIR": str(self.state),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            # Not the developer's own files: only the checkout that is tested.
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "PYTHONWARNINGS": "default",
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self._terminals: list[Terminal] = []
        self._meetings: list[Meeting] = []

    @property
    def argv(self) -> list[str]:
        return [sys.executable, "-m", "toka_cli"]

    def spec(self, name: str, tasks: Any, **sections: Any) -> Path:
        """Write a spec (JSON is YAML) beside the workdir; `tasks` is the task list or the whole section. Without grants of its own it may use the workdir."""
        sections["security"] = {"capabilities_required": ["script-execution"], **sections.get("security", {})}
        folder = self.root / "specs"
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.yaml"
        path.write_text(json.dumps({"metadata": {"name": name}, "tasks": tasks, **sections}))
        return path

    def start(self, *words: Any, env: dict[str, str | None] | None = None, cwd: Path | None = None, prefix: Sequence[str] = (), **options: Any) -> Running:
        """Start a toka with pipes on its output."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        process = subprocess.Popen([*prefix, *self.argv, *map(str, words)], env=self.environment(env), cwd=cwd or self.work, **options)
        self._processes.append(process)
        return Running(process)

    def __call__(self, *words: Any, stdin: str | bytes | None = None, env: dict[str, str | None] | None = None, cwd: Path | None = None) -> Done:
        """Run a toka to its end."""
        running = self.start(*words, env=env, cwd=cwd, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL)
        data = stdin.encode() if isinstance(stdin, str) else stdin
        out, err = running.process.communicate(data, timeout=LIMIT_S)
        return Done(running.process.returncode, out.decode("utf-8", "surrogateescape"), err.decode("utf-8", "surrogateescape"))

    def shell(self, line: str, env: dict[str, str | None] | None = None) -> Done:
        """Run a shell line in which `$TOKA` is the command."""
        whole = {**self.environment(env), "TOKA": " ".join(self.argv)}
        done = subprocess.run(["bash", "-c", line], env=whole, cwd=self.work, capture_output=True, timeout=LIMIT_S)
        return Done(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))

    def terminal(self, *words: Any, env: dict[str, str | None] | None = None, columns: int = 100) -> Terminal:
        """Start a toka on a terminal of its own."""
        terminal = Terminal([*self.argv, *map(str, words)], self.environment(env), self.work, columns)
        self._processes.append(terminal.process)
        self._terminals.append(terminal)
        return terminal

    def environment(self, changes: dict[str, str | None] | None = None) -> dict[str, str]:
        return {name: value for name, value in {**self.env, **(changes or {})}.items() if value is not None}

    def meeting(self, name: str) -> Meeting:
        """A named pipe in the workdir."""
        meeting = Meeting(self.work / name)
        self._meetings.append(meeting)
        return meeting

    def run(self, *words: Any, code: int = 0, **options: Any) -> dict[str, Any]:
        """`orchestrate -o json`: the RunView."""
        view = self("orchestrate", *words, "-o", "json", **options).expect(code).envelope["data"]["run"]
        assert isinstance(view, dict)
        return view

    def spawn(self, spec: Path, *words: Any) -> dict[str, str]:
        """`agent spawn`: ids and name."""
        data = self("agent", "spawn", spec, *words, "-o", "json").expect(0).envelope["data"]
        assert isinstance(data, dict)
        return data

    def folders(self) -> list[RunFolder]:
        return query.run_folders(self.state)

    def folder(self, run: str) -> RunFolder:
        return query.find_run(self.state, run)

    def until(self, run: str, wanted: Callable[[Look], bool]) -> Look:
        """Follow a run by its control socket until a look at it is what was wanted."""
        deadline = time.monotonic() + LIMIT_S
        with contextlib.closing(follow(self.folder(run))) as looks:
            for look in looks:
                if wanted(look):
                    return look
                assert time.monotonic() < deadline, f"in vain: {look.view}"
        raise AssertionError(f"run {run} ended, and it never came: {look.view}")

    def processes(self) -> list[int]:
        """Every process that works below this folder, or was given it in its environment."""
        mark = str(self.root).encode()
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                here = os.readlink(f"/proc/{entry}/cwd").encode().startswith(mark)
                if here or mark in Path(f"/proc/{entry}/environ").read_bytes():
                    found.append(int(entry))
        return found

    def nothing_left(self) -> None:
        """Assert that every process ends, waiting on each one's own end."""
        deadline = time.monotonic() + 15.0
        while left := self.processes():
            for pid in left:
                assert ended(pid, max(0.0, deadline - time.monotonic())), f"left over: {describe(left)}"

    def tear_down(self) -> None:
        for terminal in self._terminals:
            terminal.close()
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=LIMIT_S)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        for meeting in self._meetings:
            meeting.close()
        try:
            self.nothing_left()
        finally:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def ended(pid: int, limit_s: float = 15.0) -> bool:
    """Wait for the end of any process; False if it does not come in time. A zombie has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], limit_s)[0])
    finally:
        os.close(descriptor)


def describe(pids: Sequence[int]) -> list[str]:
    """Processes as a person knows them."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            found.append(f"{pid}: {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode('utf-8', 'replace')[:200]}")
    return found


@pytest.fixture
def toka(tmp_path: Path) -> Iterator[Toka]:
    """The command line below a folder of its own; at the end no process of it may be left."""
    made = Toka(tmp_path)
    try:
        yield made
    finally:
        made.tear_down()


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """A model server on loopback: `play` a script, read `requests`."""
    with ModelServer() as server:
        yield server
