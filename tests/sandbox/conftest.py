"""Programs beside the test: whatever becomes a subreaper, lowers its limits or kills its children does so in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from tests.sandbox.cells import Player, users


@pytest.fixture(params=users())
def player(request):
    """Plays bodies with real cells, as root and as an ordinary user."""
    made = Player(request.param)
    yield made
    made.close()


@pytest.fixture
def beside(tmp_path):
    """Runs Python code in a fresh process; the JSON it printed last."""

    def run(code, *words, **options):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, words)],
            capture_output=True,
            text=True,
            timeout=100,
            cwd=tmp_path,
            **options,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


PRELUDE = """
import ctypes, errno, fcntl, json, os, resource, signal, socket, struct, subprocess, sys, termios, threading, time
from toka_cli.protocol.messages import Walls
from toka_cli.sandbox import bpf, capabilities, landlock, prctl, probe, seccomp, syscalls

def tried(act, *words, **named):
    "done, or the name of the errno that it ended with."
    try:
        act(*words, **named)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return "done"

def child(act, *words):
    "What an act in a forked child returned, as JSON."
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = b""
        signal.alarm(40)
        try:
            os.close(read)
            said = json.dumps(act(*words)).encode()
        except BaseException as error:
            said = json.dumps(f"{type(error).__name__}: {error}").encode()
        finally:
            os.write(write, said)
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    status = os.waitpid(pid, 0)[1]
    return json.loads(said) if said else f"signal {os.WTERMSIG(status)}"

def show(found):
    print(json.dumps(found), flush=True)

def run(*argv, **options):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, **options)
    return [done.returncode, done.stdout, done.stderr]

def restrict(*words, **named):
    "Put walls around this process; what they say they hold."
    extra = {key: named.pop(key) for key in ("extra_execute", "extra_write", "tcp_connect_port", "scope") if key in named}
    ruleset = landlock.build(Walls(*(words or ("standard",)), **named), **extra)
    prctl.forbid_new_privileges()
    return ruleset.restrict()

def filtered(**options):
    prctl.forbid_new_privileges()
    return seccomp.install(**{"inet": False, "unix": False, "namespaces": False, "ipc": False, **options})

SYSTEM = tuple(path for path in ("/usr", "/bin", "/lib", "/lib64", "/etc") if os.path.isdir(path) and not os.path.islink(path))
"""

USERS = ["root", "nobody"]


@pytest.fixture
def act(beside):
    """Runs code that ends with `show(...)` in a fresh process, as root or as nobody, behind the words above and `given` ones; what it showed."""

    def run(code, *words, user="root", given=""):
        if user != "root" and os.geteuid() != 0:
            pytest.skip("only root can become somebody else")
        become = "" if user == "root" else f"entry = pwd.getpwnam({user!r}); os.setgroups([]); os.setgid(entry.pw_gid); os.setuid(entry.pw_uid)\n"
        return beside(f"{PRELUDE}\nimport pwd\n{become}prctl.allow_dumps()\n{given}\n{textwrap.dedent(code)}", *words)

    return run


@pytest.fixture
def place():
    """A folder that everybody may reach and write, not one below which only its maker may look."""
    with tempfile.TemporaryDirectory(prefix="toka-walls-") as folder:
        made = Path(folder).resolve()
        made.chmod(0o777)
        yield made
