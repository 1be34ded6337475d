"""Forbidden acts, really tried: the program that `toka runtime doctor` runs inside a cell. In: FACTS, put before this text. Out: one line of JSON on stdout.

It is never imported: it runs as the code task of a real agent, so that what it finds is true of agents. Each trial answers what happened, never what should.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FACTS: dict[str, Any] = globals().get("FACTS", {})
TRIAL_LIMIT_S = 5
_libc = ctypes.CDLL(None, use_errno=True)
# System call numbers that ctypes needs, by machine: (x86_64, aarch64).
_CALLS = {"ptrace": (101, 117), "process_vm_readv": (310, 270), "keyctl": (250, 219), "bpf": (321, 280), "io_uring_setup": (425, 425), "unshare": (272, 97)}
_MACHINE = 1 if os.uname().machine == "aarch64" else 0
CLONE_NEWUSER = 0x10000000


def main() -> None:
    """Try everything, each in a child of its own, and print what happened."""
    FACTS["agent"] = os.getppid()
    FACTS["namespace"] = Path("/proc/self/ns/pid").readlink() != Path(FACTS["pid_namespace"])
    sys.stdout.write(json.dumps({name: _apart(trial) for name, trial in TRIALS.items()}))


def _apart(trial: Callable[[], object]) -> dict[str, Any]:
    """Run a trial in a child with a bound in time: {"done": bool, "detail": str}."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(TRIAL_LIMIT_S)
        os.close(read)
        os.write(write, json.dumps(_tried(trial)).encode()[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    if said:
        answer: dict[str, Any] = json.loads(said)
        return answer
    return {"done": False, "detail": f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended without a word"}


def _tried(trial: Callable[[], object]) -> dict[str, Any]:
    try:
        detail = trial()
    except OSError as error:
        return {"done": False, "detail": errno.errorcode.get(error.errno or 0, str(error))}
    except Exception as error:  # noqa: BLE001  whatever it was, the act did not happen
        return {"done": False, "detail": f"{type(error).__name__}: {error}"}
    return {"done": True, "detail": str(detail if detail is not None else "")[:500]}


def _call(name: str, *arguments: int) -> int:
    """A system call by its number. Raises OSError."""
    result = int(_libc.syscall(_CALLS[name][_MACHINE], *(ctypes.c_long(argument) for argument in arguments)))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


# --- files ---


def write_private() -> object:
    """The positive twin: its own folder is there to be written."""
    path = Path(os.environ["TMPDIR"]) / "toka-doctor"
    path.write_text("x")
    return path.read_text()


def read_workspace() -> object:
    """The positive twin of reading: filesystem-read was granted."""
    return (Path(FACTS["workdir"]) / "readable").read_text()


def write_workspace() -> object:
    """filesystem-write was not granted."""
    return (Path(FACTS["workdir"]) / "written").write_text("x")


def read_outside() -> object:
    """A file of the caller's, beside the workspace."""
    return Path(FACTS["secret"]).read_text()


def write_outside() -> object:
    """A folder of the caller's, beside the workspace."""
    return (Path(FACTS["secret"]).parent / "written").write_text("x")


def link_outside() -> object:
    """A symbolic link in a place of one's own leads no further than its target allows."""
    link = Path(os.environ["TMPDIR"]) / "toka-doctor-link"
    link.symlink_to(FACTS["secret"])
    return link.read_text()


def change_mode_outside() -> object:
    """Metadata of the caller's files."""
    Path(FACTS["secret"]).chmod(0o644)
    return "changed"


def list_home() -> object:
    """The names of the caller's files."""
    return len(os.listdir(FACTS["home"]))


def read_shadow() -> object:
    """Password hashes."""
    return len(Path("/etc/shadow").read_bytes())


def read_system() -> object:
    """The positive twin: programs need the system's own files."""
    return len(Path("/etc/passwd").read_bytes())


def run_planted() -> object:
    """A program that lies in the workspace; script-execution was not granted."""
    program = str(Path(FACTS["workdir"]) / "planted")
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout


# --- network ---


def connect_tcp() -> object:
    """A server on this machine's loopback."""
    with socket.create_connection(("127.0.0.1", FACTS["port"]), timeout=2):
        return "connected"


def bind_tcp() -> object:
    """A server of one's own that others on this machine can reach: only where the loopback is shared with them."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        if FACTS["namespace"]:
            raise PermissionError(errno.EACCES, "reachable only from inside")
        return server.getsockname()[1]


def send_udp() -> object:
    """A datagram to this machine's loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", FACTS["udp_port"]))
        # The doctor looks whether it came.
        return "sent"


def connect_unix() -> object:
    """A socket of the caller's by its path, as docker.sock would be."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(FACTS["unix"])
        return "connected"


def connect_abstract() -> object:
    """A socket of the caller's in the abstract space."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + FACTS["abstract"])
        return "connected"


def open_netlink() -> object:
    """The kernel's own network interface."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0):
        return "opened"


# --- processes ---


def read_owner_environment() -> object:
    """The environment of the kernel program, where keys may be."""
    data = Path(f"/proc/{FACTS['owner']}/environ").read_bytes()
    if FACTS["canary"].encode() not in data:
        # In a process namespace of its own this number is somebody else's.
        raise ProcessLookupError(errno.ESRCH, "not the kernel program")
    return "found the key"


def find_key() -> object:
    """The key in any environment or command line that can be read."""
    wanted = FACTS["canary"].encode()
    if any(FACTS["canary"] in value for value in os.environ.values()):
        return "in its own environment"
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        for name in ("environ", "cmdline"):
            try:
                if wanted in (entry / name).read_bytes():
                    return f"in /proc/{entry.name}/{name}"
            except OSError:
                continue
    raise FileNotFoundError(errno.ENOENT, "nowhere")


def signal_owner() -> object:
    """A signal to the kernel program."""
    _owner_is_visible()
    os.kill(FACTS["owner"], 0)
    return "allowed"


def trace_owner() -> object:
    """ptrace(PTRACE_SEIZE) of the kernel program."""
    _owner_is_visible()
    return _call("ptrace", 0x4206, FACTS["owner"], 0, 0)


def signal_own_agent() -> object:
    """A signal to the process that runs this agent: a command must not end or stop the one that watches it."""
    os.kill(FACTS["agent"], 0)
    return "allowed"


def _owner_is_visible() -> None:
    if FACTS["namespace"]:
        raise ProcessLookupError(errno.ESRCH, "not in this namespace")


def inherited_descriptors() -> object:
    """Descriptors beside stdin, stdout, stderr and those of this trial."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if int(name) > 2 and target.startswith("socket:"):
            found.append(f"{name} {target}")
    if not found:
        raise FileNotFoundError(errno.ENOENT, "none")
    return ", ".join(found)


# --- the operating system ---


def new_user_namespace() -> object:
    """More room for attacks on the operating system, and capabilities inside."""
    return _call("unshare", CLONE_NEWUSER)


def use_keyring() -> object:
    """Keys of the session (keyctl get id of the session keyring)."""
    return _call("keyctl", 0, -3, 0)


def use_bpf() -> object:
    """bpf(2); an argument error means that it was let through."""
    return _let_through("bpf", 99, 0, 0)


def use_io_uring() -> object:
    """io_uring, which goes past filters of system calls; an argument error means that it was let through."""
    return _let_through("io_uring_setup", 0, 0)


def _let_through(name: str, *arguments: int) -> object:
    try:
        return _call(name, *arguments)
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.EFAULT}:
            return "let through"
        raise


def gain_privileges() -> object:
    """Setuid programs: no_new_privs is not set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("NoNewPrivs:") and line.split()[1] == "1":
            raise PermissionError(errno.EPERM, "no_new_privs is set")
    return "no_new_privs is not set"


def open_terminal() -> object:
    """The caller's terminal."""
    os.close(os.open("/dev/tty", os.O_RDWR))
    return "opened"


TRIALS: dict[str, Callable[[], object]] = {
    trial.__name__: trial
    for trial in (
        write_private, read_workspace, read_system, write_workspace, read_outside, write_outside, link_outside, change_mode_outside, list_home, read_shadow,
        run_planted, connect_tcp, bind_tcp, send_udp, connect_unix, connect_abstract, open_netlink, read_owner_environment, find_key, signal_owner,
        trace_owner, signal_own_agent, inherited_descriptors, new_user_namespace, use_keyring, use_bpf, use_io_uring, gain_privileges, open_terminal,
    )
}  # fmt: skip

if __name__ == "__main__":
    main()
