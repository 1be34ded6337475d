"""Attempts to break out, run inside a cell: FACTS is put before this text, the name of a group in FACTS["group"]; one line of JSON comes out.

Every attempt has a twin: the same kind of act where it is permitted, which must work, or the refusal proves nothing. An attempt that returns was done; one
that raises, or is killed, was refused. Each runs in a child of its own with a bound in time.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

FACTS = globals().get("FACTS", {})
LIMIT_S = 8
LIBC = ctypes.CDLL(None, use_errno=True)
ARM = os.uname().machine == "aarch64"
# x86_64, aarch64: from the kernel's tables of system calls.
NUMBERS = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "keyctl": (250, 219), "add_key": (248, 217),
    "bpf": (321, 280), "io_uring_setup": (425, 425), "unshare": (272, 97), "clone": (56, 220), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "kexec_load": (246, 104), "reboot": (169, 142),
    "settimeofday": (164, 170), "sethostname": (170, 161), "init_module": (175, 105), "delete_module": (176, 106), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "swapon": (167, 224), "acct": (163, 89), "quotactl": (179, 60), "kcmp": (312, 272), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "mq_open": (240, 180), "shmget": (29, 194), "shmat": (30, 196), "prlimit64": (302, 261),
    "rt_sigqueueinfo": (129, 138), "pidfd_send_signal": (424, 424), "name_to_handle_at": (303, 264), "syslog": (103, 116), "setxattr": (188, 5),
    "process_madvise": (440, 440), "migrate_pages": (256, 238), "lookup_dcookie": (212, 18),
}  # fmt: skip
TMP = Path(os.environ.get("TMPDIR", "/tmp"))
ATTEMPTS = {}


def attempt(group, *, twin):
    def keep(function):
        ATTEMPTS[function.__name__] = (group, function, twin)
        return function

    return keep


def call(name, *arguments):
    result = LIBC.syscall(NUMBERS[name][ARM], *(argument if isinstance(argument, ctypes.Array) else ctypes.c_long(argument) for argument in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def let_through(name, *arguments):
    """An answer that complains about the arguments was not the wall's."""
    try:
        return call(name, *arguments)
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.EFAULT, errno.ENOENT, errno.EBADF, errno.ENODEV, errno.E2BIG, errno.ENOTDIR, errno.ESRCH, errno.ENOTBLK}:
            return "let through"
        raise


def outside(name="secret"):
    return str(Path(FACTS["outside"]) / name)


def inside(name):
    return str(Path(FACTS["workdir"]) / name)


# --- twins: the permitted acts ---


def t_tmp():
    (TMP / "twin").write_text("x")
    assert (TMP / "twin").read_text() == "x"


def t_system():
    assert Path("/etc/passwd").read_bytes()
    assert subprocess.run(["/bin/sh", "-c", "exit 0"], check=False).returncode == 0


def t_read():
    assert Path(inside("readable")).read_text() == "readable"


def t_write():
    path = Path(inside("twin-written"))
    path.write_text("x")
    path.rename(inside("twin-renamed"))
    Path(inside("twin-renamed")).chmod(0o600)
    os.utime(inside("twin-renamed"))
    os.truncate(inside("twin-renamed"), 0)
    os.link(inside("twin-renamed"), inside("twin-linked"))
    os.unlink(inside("twin-linked"))
    os.unlink(inside("twin-renamed"))


def t_run():
    assert subprocess.run([inside("planted")], capture_output=True, check=True).stdout == b"planted\n"


def t_git():
    env = {**os.environ, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.c", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b.c"}
    Path(inside("committed")).write_text(str(time.time()))
    for command in (["git", "add", "committed"], ["git", "commit", "-q", "-m", "twin"]):
        subprocess.run(command, cwd=FACTS["workdir"], env=env, check=True, capture_output=True)


def t_child():
    """A process of one's own can be signalled, renamed, traced in /proc."""
    child = subprocess.Popen(["/bin/sleep", "5"])
    try:
        os.kill(child.pid, 0)
        for _ in range(2000):
            # What is started has its new name a moment after it has begun.
            if b"sleep" in Path(f"/proc/{child.pid}/cmdline").read_bytes():
                break
            time.sleep(0.001)
        assert b"sleep" in Path(f"/proc/{child.pid}/cmdline").read_bytes()
        os.setpriority(os.PRIO_PROCESS, child.pid, 5)
        assert os.sched_getaffinity(child.pid)
    finally:
        child.kill()
        child.wait()


def t_socketpair():
    one, other = socket.socketpair()
    one.sendall(b"x")
    assert other.recv(1) == b"x"


def t_loopback():
    """Its own loopback, where it was granted one."""
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname(), timeout=2)
    accepted, _ = server.accept()
    client.sendall(b"x")
    assert accepted.recv(1) == b"x"


def t_proxy():
    """The one host that was granted, through the proxy."""
    import urllib.request

    body = urllib.request.urlopen(f"http://127.0.0.1:{FACTS['granted_port']}/", timeout=5).read()
    assert body == b"granted"


def t_memory():
    mapped = mmap.mmap(-1, 1 << 20)
    mapped[:4] = b"abcd"
    assert mapped[:4] == b"abcd"


def t_own_proc():
    assert Path("/proc/self/status").read_text()
    assert Path("/proc/self/maps").read_text()


# --- files ---


@attempt("none", twin=t_system)
def read_secret():
    return Path(outside()).read_text()


@attempt("read", twin=t_read)
def read_by_traversal():
    return Path(inside("../outside/secret")).read_text()


@attempt("read", twin=t_read)
def read_by_symlink_of_the_workspace():
    return Path(inside("link-out")).read_text()


@attempt("none", twin=t_tmp)
def read_by_own_symlink():
    (TMP / "own-link").symlink_to(outside())
    return (TMP / "own-link").read_text()


@attempt("none", twin=t_tmp)
def hardlink_in():
    os.link(outside(), TMP / "hard")
    return (TMP / "hard").read_text()


@attempt("write", twin=t_write)
def rename_in():
    os.rename(outside("movable"), inside("moved"))
    return Path(inside("moved")).read_text()


@attempt("write", twin=t_write)
def rename_out():
    Path(inside("goes")).write_text("x")
    return os.rename(inside("goes"), outside("came"))


@attempt("write", twin=t_write)
def exchange_with_outside():
    Path(inside("exchange")).write_text("x")
    result = LIBC.renameat2(-100, inside("exchange").encode(), -100, outside("movable").encode(), 2)
    if result < 0:
        raise OSError(ctypes.get_errno(), "renameat2")
    return "exchanged"


@attempt("write", twin=t_write)
def symlink_race():
    """A directory of the workspace is exchanged for a link to the outside while it is written through."""
    real, link, name = inside("racing"), inside("racing-link"), inside("race")
    os.makedirs(real, exist_ok=True)
    os.symlink(FACTS["outside"], link)
    os.rename(real, name)
    for _ in range(300):
        os.rename(name, real)
        os.rename(link, name)
        try:
            Path(name, "raced").write_text("x")
            return "written outside"
        except OSError:
            pass
        finally:
            os.rename(name, link)
            os.rename(real, name)
    raise PermissionError(errno.EACCES, "never")


@attempt("none", twin=t_tmp)
def write_startup_file():
    with open(outside("home/.bashrc"), "a") as file:
        return file.write("evil")


@attempt("none", twin=t_tmp)
def make_startup_file():
    return Path(outside("home/.profile")).write_text("evil")


@attempt("write", twin=t_write)
def truncate_outside():
    return os.truncate(outside(), 0)


@attempt("write", twin=t_write)
def change_mode():
    return os.chmod(outside(), 0o777)


@attempt("write", twin=t_write)
def change_times():
    return os.utime(outside(), (0, 0))


@attempt("write", twin=t_write)
def change_owner():
    return os.chown(outside(), os.getuid(), os.getgid())


@attempt("write", twin=t_write)
def set_xattr():
    return os.setxattr(outside(), "user.evil", b"x")


@attempt("write", twin=t_write)
def remove_outside():
    return os.unlink(outside("movable"))


@attempt("write", twin=t_write)
def make_directory_outside():
    return os.mkdir(outside("made"))


@attempt("git", twin=t_git)
def plant_git_hook():
    path = Path(inside(".git/hooks/pre-commit"))
    path.write_text("#!/bin/sh\ntouch /tmp/evil\n")
    return path.chmod(0o755)


@attempt("git", twin=t_git)
def change_git_config():
    with open(inside(".git/config"), "a") as file:
        return file.write("[core]\n\tfsmonitor = evil\n")


@attempt("git", twin=t_git)
def replace_git_config():
    Path(inside(".git/config.new")).write_text("[core]\n\tfsmonitor = evil\n")
    return os.rename(inside(".git/config.new"), inside(".git/config"))


@attempt("git", twin=t_git)
def move_git_directory():
    return os.rename(inside(".git"), inside(".git-old"))


@attempt("write", twin=t_write)
def write_git_objects_without_grant():
    return Path(inside(".git/objects/evil")).write_text("x")


@attempt("write", twin=t_write)
def write_git_head_without_grant():
    return Path(inside(".git/HEAD")).write_text("ref: refs/heads/evil\n")


@attempt("read", twin=t_read)
def write_workspace_read_only():
    return Path(inside("written")).write_text("x")


@attempt("read", twin=t_read)
def remove_in_workspace_read_only():
    return os.unlink(inside("readable"))


@attempt("none", twin=t_tmp)
def read_workspace_without_grant():
    return Path(inside("readable")).read_text()


@attempt("none", twin=t_tmp)
def read_state_file():
    return len(Path(FACTS["state"]).read_bytes())


@attempt("write", twin=t_write)
def write_state_file():
    with open(FACTS["state"], "r+b") as file:
        return file.write(b"evil")


@attempt("write", twin=t_write)
def list_state_folder():
    return os.listdir(Path(FACTS["state"]).parent)


@attempt("none", twin=t_tmp)
def read_private_folder_of_another():
    return (Path(FACTS["neighbour"]) / "private").read_text()


@attempt("none", twin=t_tmp)
def list_home():
    return os.listdir(outside("home"))


@attempt("none", twin=t_tmp)
def stat_home():
    return os.stat(outside("home/.ssh/id_test")).st_size


@attempt("none", twin=t_tmp)
def read_ssh_key():
    return Path(outside("home/.ssh/id_test")).read_text()


@attempt("none", twin=t_system)
def read_shadow():
    return Path("/etc/shadow").read_bytes()


@attempt("none", twin=t_tmp)
def list_shared_tmp():
    return FACTS["neighbour"].rsplit("/", 1)[1] in os.listdir("/tmp") or refuse()


@attempt("none", twin=t_tmp)
def make_device_node():
    os.mknod(TMP / "node", 0o600 | 0o020000, os.makedev(1, 1))
    with open(TMP / "node", "rb") as device:
        return device.read(1)


@attempt("none", twin=t_tmp)
def make_block_device():
    return os.mknod(TMP / "disk", 0o600 | 0o060000, os.makedev(8, 0))


@attempt("none", twin=t_system)
def open_kernel_memory():
    return os.open("/dev/mem", os.O_RDONLY)


@attempt("none", twin=t_system)
def open_kernel_log():
    return os.open("/dev/kmsg", os.O_RDONLY)


@attempt("none", twin=t_system)
def write_passwd():
    with open("/etc/passwd", "a") as file:
        return file.write("evil")


@attempt("none", twin=t_system)
def plant_on_path():
    return Path("/usr/local/bin/toka-evil").write_text("x")


@attempt("write", twin=t_write)
def change_tokas_own_code():
    return Path(FACTS["package"], "evil.py").write_text("x")


@attempt("none", twin=t_tmp)
def open_by_handle():
    return let_through("open_by_handle_at", -100, 0, 0)


@attempt("read", twin=t_read)
def run_program_of_workspace():
    return subprocess.run([inside("planted")], capture_output=True, check=True).stdout


@attempt("none", twin=t_own_proc)
def read_through_root_of_init():
    return Path(f"/proc/1/root{outside()}").read_text()


@attempt("none", twin=t_own_proc)
def read_through_root_of_agent():
    return Path(f"/proc/{FACTS['agent']}/root{outside()}").read_text()


@attempt("none", twin=t_own_proc)
def watch_outside():
    handle = LIBC.inotify_init()
    if LIBC.inotify_add_watch(handle, outside().encode(), 0x20) < 0:
        raise OSError(ctypes.get_errno(), "inotify_add_watch")
    return "watching"


# --- processes ---


def owner(name):
    if FACTS["namespace"] or not FACTS["owner"]:
        # Whoever has this number here is not the kernel program; all of them are looked at by find_key_anywhere.
        raise ProcessLookupError(errno.ESRCH, "not in this namespace")
    return f"/proc/{FACTS['owner']}/{name}"


def owner_pid():
    owner("")
    return FACTS["owner"]


def refuse():
    raise PermissionError(errno.EACCES, "did not happen")


@attempt("none", twin=t_own_proc)
def read_environment_of_owner():
    return Path(owner("environ")).read_bytes()


@attempt("none", twin=t_own_proc)
def read_memory_of_owner():
    return open(owner("mem"), "rb")


@attempt("none", twin=t_own_proc)
def list_descriptors_of_owner():
    return os.listdir(owner("fd"))


@attempt("none", twin=t_own_proc)
def find_key_anywhere():
    wanted = FACTS["key_reversed"][::-1].encode()
    for entry in Path("/proc").iterdir():
        for name in ("environ", "cmdline"):
            try:
                if wanted in (entry / name).read_bytes():
                    return f"{entry}/{name}"
            except OSError:
                continue
    return refuse()


@attempt("none", twin=t_own_proc)
def find_key_in_own_memory():
    """As an environment block would hold it; what is compared is its reverse, so that the search does not find itself."""
    name = b"SECRET_FOR_TESTS" + b"="
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb") as memory:
        for line in maps:
            span, rights = line.split()[:2]
            start, end = (int(number, 16) for number in span.split("-"))
            if rights[0] != "r" or end - start > 64 << 20 or "[v" in line:
                continue
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except (OSError, ValueError, OverflowError):
                continue
            for piece in data.split(name)[1:]:
                if piece[:32][::-1].decode("latin-1") == FACTS["key_reversed"]:
                    return "in its own memory"
    return refuse()


@attempt("none", twin=t_own_proc)
def read_environment_of_agent():
    return Path(f"/proc/{FACTS['agent']}/environ").read_bytes() or refuse()


@attempt("none", twin=t_own_proc)
def read_memory_of_agent():
    return open(f"/proc/{FACTS['agent']}/mem", "rb")


@attempt("none", twin=t_child)
def trace_owner():
    return call("ptrace", 0x4206, owner_pid(), 0, 0)


@attempt("none", twin=t_child)
def trace_agent():
    return call("ptrace", 0x4206, FACTS["agent"], 0, 0)


@attempt("none", twin=t_child)
def read_vm_of_agent():
    return let_through("process_vm_readv", FACTS["agent"], 0, 0, 0, 0, 0)


@attempt("none", twin=t_child)
def take_descriptor_of_agent():
    handle = call("pidfd_open", FACTS["agent"], 0)
    return call("pidfd_getfd", handle, 0, 0)


@attempt("none", twin=t_child)
def compare_with_agent():
    return call("kcmp", os.getpid(), FACTS["agent"], 0, 0, 0)


@attempt("none", twin=t_child)
def signal_owner():
    return os.kill(owner_pid(), 0)


@attempt("none", twin=t_child)
def signal_group_of_owner():
    return os.killpg(FACTS["owner_group"], 0) if not FACTS["namespace"] else refuse()


@attempt("none", twin=t_child)
def signal_agent():
    return os.kill(FACTS["agent"], 0)


@attempt("none", twin=t_child)
def queue_signal_to_agent():
    information = ctypes.create_string_buffer(128)
    struct.pack_into("iii", information, 0, 0, 0, -1)
    return call("rt_sigqueueinfo", FACTS["agent"], 0, information)


@attempt("none", twin=t_child)
def signal_agent_by_descriptor():
    return call("pidfd_send_signal", call("pidfd_open", FACTS["agent"], 0), 0, 0, 0)


@attempt("none", twin=t_child)
def signal_everybody():
    """The judge looks whether its witness outside heard it."""
    os.kill(-1, signal.SIGCONT)
    return refuse()


@attempt("none", twin=t_child)
def limit_owner():
    return call("prlimit64", owner_pid(), 7, 0, 0)


@attempt("none", twin=t_child)
def slow_owner():
    return os.setpriority(os.PRIO_PROCESS, owner_pid(), 19)


@attempt("none", twin=t_child)
def bind_owner_to_processor():
    return os.sched_setaffinity(owner_pid(), {0})


@attempt("none", twin=t_socketpair)
def use_inherited_descriptor():
    for number in range(3, 1024):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target.startswith("socket:") and number not in FACTS.get("mine", ()):
            return target
    return refuse()


# --- network ---


@attempt("none", twin=t_socketpair)
def connect_tcp():
    return socket.create_connection(("127.0.0.1", FACTS["tcp"]), timeout=2)


@attempt("script", twin=t_loopback)
def connect_tcp_from_private_loopback():
    return socket.create_connection(("127.0.0.1", FACTS["tcp"]), timeout=2)


@attempt("none", twin=t_socketpair)
def connect_tcp6():
    return socket.create_connection(("::1", FACTS["tcp6"]), timeout=2)


@attempt("none", twin=t_socketpair)
def send_udp():
    """The judge looks whether it arrived."""
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"evil", ("127.0.0.1", FACTS["udp"]))
    return "sent" if not FACTS["namespace"] else refuse()


@attempt("none", twin=t_socketpair)
def ask_dns():
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(1)
    client.sendto(b"\0\1\1\0\0\1\0\0\0\0\0\0\4evil\4test\0\0\1\0\1", ("127.0.0.53", 53))
    return client.recv(512)


@attempt("none", twin=t_socketpair)
def open_icmp():
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    client.connect(("127.0.0.1", 0))
    return client.send(b"\x08\0\0\0\0\0\0\0") if not FACTS["namespace"] else refuse()


@attempt("none", twin=t_socketpair)
def open_raw():
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)


@attempt("none", twin=t_socketpair)
def open_packet():
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)


@attempt("none", twin=t_socketpair)
def listen_for_others():
    """The judge tries to connect."""
    server = socket.create_server(("127.0.0.1", FACTS["free"]))
    server.settimeout(0.2)
    return "listening" if not FACTS["namespace"] else refuse()


@attempt("none", twin=t_socketpair)
def connect_by_fast_open():
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM).sendto(b"evil", 0x20000000, ("127.0.0.1", FACTS["tcp"]))


@attempt("none", twin=t_socketpair)
def connect_by_mptcp():
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    client.settimeout(2)
    return client.connect(("127.0.0.1", FACTS["tcp"])) or "connected"


@attempt("none", twin=t_socketpair)
def open_netlink():
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)


@attempt("none", twin=t_socketpair)
def open_vsock():
    return socket.socket(40, socket.SOCK_STREAM)


@attempt("none", twin=t_socketpair)
def open_crypto_socket():
    return socket.socket(38, socket.SOCK_SEQPACKET)


@attempt("none", twin=t_socketpair)
def connect_unix_by_path():
    client = socket.socket(socket.AF_UNIX)
    return client.connect(outside("socket")) or "connected"


@attempt("none", twin=t_socketpair)
def connect_unix_abstract():
    client = socket.socket(socket.AF_UNIX)
    return client.connect("\0" + FACTS["abstract"]) or "connected"


@attempt("none", twin=t_socketpair)
def send_unix_datagram():
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"evil", outside("datagrams"))


@attempt("none", twin=t_socketpair)
def send_unix_datagram_by_socketpair():
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return one.sendto(b"evil", outside("datagrams"))


@attempt("none", twin=t_socketpair)
def connect_docker():
    client = socket.socket(socket.AF_UNIX)
    return client.connect("/var/run/docker.sock") or "connected"


@attempt("network", twin=t_proxy)
def connect_past_the_proxy():
    return socket.create_connection(("127.0.0.1", FACTS["tcp"]), timeout=2)


@attempt("network", twin=t_proxy)
def proxy_to_host_that_is_not_listed():
    import urllib.request

    return urllib.request.urlopen(f"http://127.0.0.1:{FACTS['tcp']}/", timeout=3).read()


@attempt("network", twin=t_proxy)
def proxy_to_private_address():
    import urllib.request

    return urllib.request.urlopen("http://169.254.169.254/latest/meta-data/", timeout=3).read()


@attempt("network", twin=t_proxy)
def proxy_by_another_name_of_loopback():
    import urllib.request

    return urllib.request.urlopen(f"http://localtest.me.127.0.0.1.nip.io:{FACTS['tcp']}/", timeout=3).read()


@attempt("network", twin=t_proxy)
def proxy_with_forged_token():
    client = socket.create_connection(("127.0.0.1", int(os.environ["HTTP_PROXY"].rsplit(":", 1)[1].strip("/"))), timeout=3)
    client.sendall(f"CONNECT 127.0.0.1:{FACTS['granted_port']} HTTP/1.1\r\nProxy-Authorization: Basic eDp5\r\n\r\n".encode())
    assert b" 200 " in client.recv(100).split(b"\r\n")[0], "refused"
    return "tunnel"


# --- the operating system ---


def system_call(name, *arguments, group="none", twin=t_memory):
    def function():
        return let_through(name, *arguments)

    function.__name__ = f"call_{name}"
    attempt(group, twin=twin)(function)


system_call("mount", 0, 0, 0, 0, 0)
system_call("umount2", 0, 0)
system_call("pivot_root", 0, 0)
system_call("chroot", 0)
system_call("unshare", 0x10000000)
system_call("setns", -1, 0x10000000)
system_call("io_uring_setup", 1, 0)
system_call("bpf", 99, 0, 0)
system_call("keyctl", 0, -3, 0)
system_call("add_key", 0, 0, 0, 0, 0)
system_call("userfaultfd", 0)
system_call("perf_event_open", 0, 0, -1, -1, 0)
system_call("kexec_load", 0, 0, 0, 0)
system_call("reboot", 0, 0, 0, 0)
system_call("settimeofday", 1, 0)
system_call("sethostname", 0, 0)
system_call("init_module", 0, 0, 0)
system_call("delete_module", 0, 0)
system_call("fanotify_init", 0, 0)
system_call("swapon", 0, 0)
system_call("acct", 0)
system_call("move_mount", -1, 0, -1, 0, 0)
system_call("open_tree", -1, 0, 0)
system_call("fsopen", 0, 0)
system_call("process_vm_readv", 1, 0, 0, 0, 0, 0)


@attempt("none", twin=t_child)
def clone_into_namespace():
    result = call("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    return os.waitpid(result, 0)


@attempt("none", twin=t_system)
def become_root():
    os.setresuid(0, 0, 0)
    # An identity that cannot do what root can is only a number.
    return Path("/etc/shadow").read_bytes()


@attempt("none", twin=t_own_proc)
def gain_by_setuid_program():
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    return "no_new_privs is not set" if status["NoNewPrivs"].strip() != "1" else refuse()


@attempt("none", twin=t_own_proc)
def hold_admin_capability():
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    dangerous = (1 << 21) | (1 << 19) | (1 << 12) | (1 << 16) | (1 << 17) | (1 << 2)  # SYS_ADMIN SYS_PTRACE NET_ADMIN SYS_MODULE SYS_RAWIO DAC_READ_SEARCH
    return "held" if int(status["CapEff"], 16) & dangerous else refuse()


@attempt("none", twin=t_memory)
def attach_shared_memory():
    identifier = LIBC.shmget(FACTS["shm_key"], 0, 0)
    if identifier < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    return call("shmat", identifier, 0, 0)


@attempt("none", twin=t_memory)
def use_foreign_abi():
    """getpid by the 32-bit entry: filters that look at numbers alone would let something else through."""
    if ARM:
        return refuse()
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3")
    result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    return result if result > 0 else refuse()


@attempt("none", twin=t_system)
def type_into_terminal():
    return fcntl.ioctl(os.open("/dev/tty", os.O_RDWR), 0x5412, b"x")


@attempt("none", twin=t_own_proc)
def write_core_pattern():
    return Path("/proc/sys/kernel/core_pattern").write_text("|/tmp/evil")


@attempt("none", twin=t_own_proc)
def trigger_sysrq():
    return os.open("/proc/sysrq-trigger", os.O_WRONLY)


@attempt("none", twin=t_own_proc)
def avoid_oom_killer():
    return Path("/proc/self/oom_score_adj").write_text("-1000")


@attempt("none", twin=t_own_proc)
def change_kernel_setting():
    return os.open("/proc/sys/kernel/randomize_va_space", os.O_WRONLY)


@attempt("none", twin=t_own_proc)
def leave_control_group():
    for line in Path("/proc/mounts").read_text().splitlines():
        if " cgroup" in line:
            with open(Path(line.split()[1]) / "cgroup.procs", "w") as file:
                return file.write(str(os.getpid()))
    return refuse()


@attempt("none", twin=t_own_proc)
def write_sysfs():
    return os.open("/sys/kernel/mm/transparent_hugepage/enabled", os.O_WRONLY)


@attempt("none", twin=t_memory)
def raise_own_limits():
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    return resource.setrlimit(resource.RLIMIT_CORE, (1, max(1, hard + 1)))


# --- run ---


def apart(function):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        signal.alarm(LIMIT_S)
        try:
            answer = {"done": True, "detail": repr(function())[:200]}
        except OSError as error:
            answer = {"done": False, "detail": f"{errno.errorcode.get(error.errno, error.errno)}: {error}"[:200]}
        except BaseException as error:  # noqa: BLE001  a child that must not go on as its parent
            answer = {"done": False, "detail": f"{type(error).__name__}: {error}"[:200]}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(said) if said else {"done": False, "detail": f"ended with status {status}"}


def owner_of(pid):
    """The kernel program, two above the shim; 0 where it cannot be seen."""
    try:
        for _ in range(3):
            status = Path(f"/proc/{pid}/status").read_text()
            pid = int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))
    except OSError:
        return 0
    return pid


def main():
    FACTS["namespace"] = os.readlink("/proc/self/ns/pid") != FACTS["pid_namespace"]
    FACTS["agent"] = os.getppid()
    FACTS["owner"] = owner_of(FACTS["agent"])
    FACTS["owner_group"] = os.getpgid(FACTS["owner"]) if FACTS["owner"] else 0
    chosen = {name: pair for name, (group, *pair) in ATTEMPTS.items() if group == FACTS["group"]}
    sys.stdout.write(json.dumps({name: {"attempt": apart(function), "twin": apart(twin)} for name, (function, twin) in chosen.items()}))


if __name__ == "__main__":
    main()
