"""Real cells behind real walls for tests: a manager and a kernel that a test plays, in a process of its own, as root and as an ordinary user.

The program is this file itself: `python cells.py BODY.json`. A body is the text of an `async def` with the names below in sight; what it returns is printed.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import textwrap
from functools import cache
from pathlib import Path

try:
    import pytest
except ImportError:
    # The program's side runs where there may be none.
    pytest = None

LIMIT_S = 60.0

# Tries acts, each in a child of its own: `ok` and what came back, the name of an errno, or how the child died.
ATTEMPTS = """
import ctypes, errno, json, os, signal, socket, stat, struct, subprocess, sys, time
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def syscall(number, *arguments):
    return checked(libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)))
facts, acts = json.loads(sys.argv[1])
found = {}
for name, act in acts.items():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                said = "ok " + str(eval(act, globals() | facts) or "")
            except OSError as error:
                said = errno.errorcode.get(error.errno, str(error))
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            os.write(write, said.strip().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitpid(pid, 0)[1]
    found[name] = said or f"signal {os.WTERMSIG(status)}"
print(json.dumps(found))
"""


# --- the side of the tests ---


class Player:
    """Runs bodies as one user, in a folder of that user's. `workspace` is in it, and `outside` is what nobody granted."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.folder = Path(tempfile.mkdtemp(prefix="toka-walls-"))
        self.workspace, self.outside, self.private = (self.folder / name for name in ("workspace", "outside", "private"))
        for path in (self.workspace, self.outside, self.private):
            path.mkdir()
        (self.outside / "secret").write_text("the secret\n")
        (self.workspace / "given").write_text("what was given\n")
        if self.user == "nobody":
            entry = pwd.getpwnam("nobody")
            subprocess.run(["chown", "-R", f"{entry.pw_uid}:{entry.pw_gid}", str(self.folder)], check=True)

    def play(self, body: str, **facts: object) -> object:
        """What the body returned."""
        program = {"body": textwrap.dedent(body), "folder": str(self.folder), "facts": facts}
        entry = pwd.getpwnam("nobody")
        identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []} if self.user == "nobody" else {}
        interpreter, packages = _ordinary() if self.user == "nobody" else (sys.executable, str(Path(__file__).parent.parent.parent))
        done = subprocess.run(
            [interpreter, str(Path(packages) / "cells.py" if self.user == "nobody" else __file__)],
            input=json.dumps(program),
            capture_output=True,
            text=True,
            timeout=110,
            cwd=self.folder,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "PYTHONPATH": packages, "LANG": "C.UTF-8"},
            **identity,
        )
        logs = "\n".join(path.read_text() for path in self.folder.glob("*.log"))
        assert done.returncode == 0, f"{done.stderr}\n{logs}"
        return json.loads(done.stdout.splitlines()[-1])

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def users() -> list[str]:
    """As whom tests are run: whoever we are, and an ordinary user where we are root."""
    return ["root", "nobody"] if os.geteuid() == 0 else ["own"]


@cache
def _ordinary() -> tuple[str, str]:
    """An interpreter, and a folder with what it has to import, that an ordinary user may reach. Copied: a checkout may lie where nobody else may look."""
    import msgspec
    import psutil

    import toka_cli

    folder = Path(tempfile.mkdtemp(prefix="toka-ordinary-"))
    atexit.register(shutil.rmtree, folder, True)
    for package in (toka_cli, msgspec, psutil):
        source = Path(package.__file__).parent
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(__file__, folder / "cells.py")
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    entry = pwd.getpwnam("nobody")
    for interpreter in dict.fromkeys((sys.executable, "/usr/bin/python3", "/usr/local/bin/python3")):
        try:
            done = subprocess.run(
                [interpreter, "-c", "import msgspec, psutil, toka_cli"],
                env={"PYTHONPATH": str(folder)},
                user=entry.pw_uid,
                group=entry.pw_gid,
                extra_groups=[],
                capture_output=True,
            )
        except OSError:
            continue
        if done.returncode == 0:
            return interpreter, str(folder)
    raise pytest.skip.Exception(f"no interpreter of version {sys.version_info.major}.{sys.version_info.minor} that an ordinary user may run")


# --- the side of the program ---


def _program() -> None:
    from toka_cli.protocol import messages as m
    from toka_cli.protocol.methods import TO_KERNEL
    from toka_cli.protocol.peer import Peer
    from toka_cli.supervisor.manager import AgentProcessManager

    given = json.load(sys.stdin)
    folder = Path(given["folder"])
    workspace, outside, private = (folder / name for name in ("workspace", "outside", "private"))

    class Kernel:
        """Plays the kernel for one cell: hands out these tasks, says yes to everything, keeps what it heard."""

        def __init__(self, cell, brief):
            self.cell, self.brief, self.outcomes, self.output = cell, brief, {}, b""
            self.written, self.finished = asyncio.Event(), asyncio.Event()
            self.hello = asyncio.get_running_loop().create_future()
            self.peer = Peer(TO_KERNEL, self.serve, on_broken=lambda why: None, on_closed=lambda: None)

        async def open(self):
            self.cell.door.setblocking(False)
            await asyncio.get_running_loop().create_connection(lambda: self.peer, sock=self.cell.door)
            return self

        def serve(self, method, params, answer):
            match params:
                case m.Hello():
                    self.hello.set_result(params)
                    answer(self.brief)
                case m.StartAttempt():
                    answer(m.Go(go=True))
                case m.FinishAttempt():
                    self.outcomes[params.task] = params
                    answer(m.Verdict("succeeded" if params.ok else "allowed"))
                case m.CallTool():
                    answer(m.ToolReply(go=True))
                case m.Output():
                    self.output += params.data
                    self.written.set()
                case m.FinishAgent():
                    self.finished.set()
                    answer(m.Ack())
                case _:
                    answer(m.Ack())

        async def until(self, text):
            while text not in self.output:
                self.written.clear()
                await asyncio.wait_for(self.written.wait(), LIMIT_S)

    python = tuple(dict.fromkeys(os.path.realpath(path) for path in (sys.base_prefix, sys.prefix)))

    def walls(level, **more):
        """Walls with the interpreter of the tests in them."""
        made = {name: value if isinstance(value, str) else tuple(str(path) for path in value) for name, value in more.items()}
        return m.Walls(level, **made | {"execute": (*made.get("execute", ()), *python)})

    async def attempts(around, acts, method="forkserver", inner=None, facts=None, **more):
        """What came of each act, tried by a command of a cell: {name: `ok ...` or an errno}."""
        known = {"workspace": str(workspace), "outside": str(outside), "private": str(private), "owner": os.getpid()} | (facts or {})
        command = (sys.executable, "-I", "-S", "-c", ATTEMPTS, json.dumps([known, acts]))
        done = await run(around, command, method=method, inner=inner, **more)
        assert done["said"], done
        assert done["said"][0][0] == 0, done["said"]
        return json.loads(done["said"][0][1])

    def tasks(*runs):
        made = []
        for number, run in enumerate(runs, 1):
            if isinstance(run, m.TaskBrief):
                made.append(run)
            else:
                made.append(m.TaskBrief(id=f"t{number}", description="d", kind="command", run=run, allow_failure=True))
        return tuple(made)

    no_limits = m.Limits()

    async def start(manager, around, *runs, inner=None, name="r-1", limits=no_limits, environment=None, workdir=None, **more):
        variables = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(private), "TMPDIR": str(private), "TOKA_RUN_ID": "q0walls0run"} | (environment or {})
        place = str(workdir or workspace)
        request = m.SpawnRequest("r", name, variables, place, limits=limits, owner_pid=os.getpid(), walls=around, private=str(private), **more)
        cell = await manager.start(request, folder / f"{name}.log")
        brief = m.AgentBrief(name, name, place, tasks(*runs), limits=limits, python=sys.executable, walls=inner)
        return cell, await Kernel(cell, brief).open()

    async def end(cell):
        return await asyncio.wait_for(asyncio.shield(cell.ended), LIMIT_S)

    def report(kernel, end):
        """What tests mostly want: how the cell ended, what holds, and what each command said."""
        return {
            "exit": end.exit_code,
            "signal": end.signal,
            "lost": end.lost,
            "isolation": kernel.hello.result().isolation if kernel.hello.done() else None,
            "said": [(done.outcome.exit_code, done.outcome.output + done.outcome.stderr, done.reason) for done in kernel.outcomes.values()],
            "log": (folder / "r-1.log").read_text(),
        }

    async def run(around, *runs, method="forkserver", **more):
        async with AgentProcessManager(method) as manager:
            cell, kernel = await start(manager, around, *runs, **more)
            return report(kernel, await end(cell))

    names = globals() | locals() | given["facts"]
    exec("async def body():\n" + textwrap.indent(given["body"], "    "), names)
    print(json.dumps(asyncio.run(names["body"]())))


if __name__ == "__main__":
    _program()
