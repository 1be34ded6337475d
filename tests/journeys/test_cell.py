"""What a command finds inside a cell: who it is, and nothing that it must not have."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest

SECRETS = {"OPENAI_API_KEY": "sk-planted-1", "AWS_SECRET_ACCESS_KEY": "planted-2", "MY_TOKEN": "planted-3", "GITHUB_TOKEN": "planted-4"}

LOOK = r"""
import json, os, resource
def of_parent():
    try:
        return open(f"/proc/{os.getppid()}/environ").read()
    except OSError as error:
        return f"refused: {error.strerror}"
stat = open("/proc/self/stat").read().rpartition(")")[2].split()
print(json.dumps({
    "environ": dict(os.environ),
    "fds": {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")},
    "pid": os.getpid(), "ppid": os.getppid(), "pgid": os.getpgid(0), "sid": os.getsid(0), "tty": int(stat[4]),
    "limits": {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in ("CORE", "NOFILE", "FSIZE", "DATA", "CPU", "AS", "NPROC")},
    "status": open("/proc/self/status").read(), "umask": os.umask(0o22), "cwd": os.getcwd(),
    "parent_environ": of_parent(),
}))
"""

LIMITS = {"max_memory": "512MB", "max_open_files": 200, "max_disk_usage": "50MB", "timeout": "2m"}


def look(toka: Any, start_method: str = "forkserver", source: str = LOOK, **limits: Any) -> dict[str, Any]:
    sections: dict[str, Any] = {
        "metadata": {"name": "looker", "workstream": "Look Around", "branch": "feature/x"},
        "spec": {"name": "Looker", "domain": "testing", "priority": "high"},
        "security": {"resource_limits": limits or LIMITS},
    }
    spec = toka.spec("looker", [{"id": "look", "description": "Look", "code": {"python": source}}], **sections)
    done = toka("orchestrate", spec, "-o", "json", env={**SECRETS, "TOKA_PROCESS_START_METHOD": start_method, "FORBIDDEN": "x"}).expect(0)
    agent = done.envelope["data"]["run"]["agents"][0]
    return {**json.loads(agent["tasks"][0]["output"]), "agent": agent, "done": done}


@pytest.mark.parametrize("start_method", ["forkserver", "fresh"])
def test_a_cell_knows_who_it_is_and_holds_no_key(toka: Any, start_method: str) -> None:
    found = look(toka, start_method)
    environment = found["environ"]
    expected = {
        "AGENT_NAME": "looker", "AGENT_ID": found["agent"]["id"], "AGENT_DOMAIN": "testing", "AGENT_PRIORITY": "high",
        "WORKSTREAM": "Look Around", "AGENT_BRANCH": "feature/x", "TERM": "dumb", "AGENT_WORKDIR": str(toka.work),
    }  # fmt: skip
    assert {name: environment.get(name) for name in expected} == expected
    assert not set(environment) & {*SECRETS, "FORBIDDEN", "TOKA_STATE_DIR", "PYTHONPATH"}
    assert Path(environment["HOME"]) != toka.root / "home"
    assert found["parent_environ"].startswith("refused: ") or found["agent"]["isolation"]["level"] == "process"
    for secret in SECRETS.values():
        assert secret not in json.dumps(environment) + found["parent_environ"]
        assert secret not in found["done"].out + found["done"].err
        assert not [path for path in toka.state.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("start_method", ["forkserver", "fresh"])
def test_a_command_has_three_descriptors_and_a_session_without_terminal(toka: Any, start_method: str) -> None:
    found = look(toka, start_method)
    assert set(found["fds"]) == {"0", "1", "2"}
    assert found["fds"]["0"] == "/dev/null"
    assert found["tty"] == 0
    assert found["pgid"] == found["pid"]
    assert found["sid"] == found["ppid"], "the session is its cell's"
    assert found["sid"] != os.getsid(0)
    assert found["cwd"] == str(toka.work)
    assert "NoNewPrivs:\t1" in found["status"]


@pytest.mark.parametrize("start_method", ["forkserver", "fresh"])
def test_the_limits_of_the_spec_are_in_force(toka: Any, start_method: str) -> None:
    found = look(toka, start_method)
    limits = {name: tuple(pair) for name, pair in found["limits"].items()}
    data = 2 * 512 * 1024**2 + 256 * 1024**2
    assert limits["CORE"] == (0, 0)
    assert limits["NOFILE"] == (200, 200)
    assert limits["FSIZE"] == (50 * 1024**2, 50 * 1024**2)
    assert limits["DATA"] == (data, data)
    assert limits["CPU"][0] == 120 * (os.cpu_count() or 1) + 60
    assert limits["AS"] == resource.getrlimit(resource.RLIMIT_AS), "never: node reserves gigabytes"
    assert limits["NPROC"] == resource.getrlimit(resource.RLIMIT_NPROC), "never: it counts the user, not the tree"
    reported = found["agent"]["isolation"]["rlimits"]
    assert (reported["core"], reported["open_files"], reported["file_size_bytes"], reported["data_bytes"]) == (0, 200, 50 * 1024**2, data)


def test_limits_hold(toka: Any) -> None:
    too_much = {
        "memory": "x = bytearray(700 * 1024**2)",
        "file": "open('big', 'wb').write(bytes(3 * 1024**2))",
        "files": "x = [open('/dev/null') for _ in range(100)]",
    }
    for name, source in too_much.items():
        limits = {"max_memory": "100MB", "max_disk_usage": "1MB", "max_open_files": 50}
        spec = toka.spec(name, [{"id": "t", "description": "T", "code": {"python": source}}], security={"resource_limits": limits})
        toka.run(spec, code=1)
    assert (toka.work / "big").stat().st_size <= 1024**2


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node_starts_within_512_megabytes(toka: Any) -> None:
    tasks = [{"id": "js", "description": "JS", "code": {"javascript": "console.log(new Array(1e6).fill(1).length)"}}]
    agent = toka.run(toka.spec("node", tasks, security={"resource_limits": {"max_memory": "512MB"}}))["agents"][0]
    assert agent["tasks"][0]["output"] == "1000000\n"


def test_the_private_folder_is_gone_afterwards(toka: Any) -> None:
    found = look(toka)
    assert not Path(found["environ"]["HOME"]).exists()
    assert list((toka.root / "tmp").iterdir()) == []


def test_signals_that_the_caller_ignored_reach_commands_again(toka: Any) -> None:
    spec = toka.spec("sig", [{"id": "t", "description": "T", "run": ["grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"]}])
    running = toka.start("orchestrate", spec, "-o", "json", prefix=["/bin/sh", "-c", 'trap "" INT TERM HUP PIPE QUIT; exec "$@"', "sh"])
    agent = running.wait().expect(0).envelope["data"]["run"]["agents"][0]
    assert agent["tasks"][0]["output"] == "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
