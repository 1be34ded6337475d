"""Into the walls: what a cell reports is what it cannot do, at `full` and at `standard`; what cannot be put up ends it. Each refusal has a positive twin."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from toka_cli.sandbox import landlock


@pytest.fixture(params=["full", "standard"])
def level(request):
    return request.param


def test_what_holds_is_reported(player, level):
    done = player.play("""return await run(walls(level, write=[workspace]), "true", limits=m.Limits(memory_bytes=64 << 20, max_open_files=99))""", level=level)
    assert done["exit"] == 0
    record = done["isolation"]
    assert record["level"] == level
    assert record["seccomp"] is True
    assert record["no_new_privs"] is True
    assert record["landlock_abi"] >= 1
    assert record["capabilities"] == (["chown", "dac_override", "fowner"] if player.user == "root" else [])
    assert record["rlimits"]["core"] == record["rlimits"]["message_queue_bytes"] == 0
    assert record["rlimits"]["open_files"] == 99
    assert record["rlimits"]["data_bytes"] == (2 * 64 + 256) << 20
    if level == "full":
        assert record["filesystem"] == "view+landlock"
        assert record["network"] == "namespace"
        assert record["namespaces"] == ["user", "mnt", "pid", "net", "ipc", "uts"]
        assert record["selfcheck"][0].endswith("ENOENT")
    else:
        assert record["filesystem"] == "landlock"
        assert record["network"] == "seccomp"
        assert record["namespaces"] == []
        assert record["selfcheck"][0].endswith("EACCES")
        assert any("loopback" in gap for gap in record["gaps"])
    assert record["selfcheck"][1:] == ["open a TCP socket: EACCES", "trace: EPERM"]


def test_files_at_standard(player):
    tried = player.play("""
        os.symlink(outside / "secret", workspace / "link")
        return await attempts(walls("standard", read=[workspace], write=[workspace / "given"]), {
            "read": "open(f'{workspace}/given').read()",
            "write": "open(f'{workspace}/given', 'w').write('x')",
            "truncate": "os.truncate(f'{workspace}/given', 0)",
            "private": "open(f'{private}/new', 'w').write('x')",
            "shell": "subprocess.run(['/bin/sh', '-c', 'exit 7']).returncode",
            "add": "open(f'{workspace}/new', 'w')",
            "read outside": "open(f'{outside}/secret').read()",
            "through a link": "open(f'{workspace}/link').read()",
            "list outside": "os.listdir(outside)",
            "truncate outside": "os.truncate(f'{outside}/secret', 0)",
            "move in": "os.rename(f'{outside}/secret', f'{private}/secret')",
            "link in": "os.link(f'{outside}/secret', f'{private}/secret')",
            "run": "subprocess.run([f'{workspace}/given'])",
            "run private": "(open(f'{private}/run', 'w').write('#!/bin/sh\\\\n'), os.chmod(f'{private}/run', 0o755), subprocess.run([f'{private}/run']))",
            "shadow": "open('/etc/shadow').read()",
            "temporary": "open('/tmp/toka-never', 'w')",
        })
    """)
    allowed = {"read": "ok what was given", "write": "ok 1", "truncate": "ok", "private": "ok 1", "shell": "ok 7"}
    if landlock.abi() < 3:
        # Landlock does not see the call there, so that nobody may make it.
        allowed["truncate"] = "EPERM"
        assert tried.pop("truncate outside") == "EPERM"
    assert {name: tried.pop(name) for name in allowed} == allowed
    # Linking and moving between places with different rights is another device to Landlock.
    assert set(tried.values()) <= {"EACCES", "EXDEV"}, tried
    assert (player.outside / "secret").read_text() == "the secret\n"


def test_what_was_written_runs_only_where_that_was_granted(player, level):
    steps = "(open(PLACE + '/run', 'w').write('#!/bin/sh\\nexit 3'), os.chmod(PLACE + '/run', 0o755), subprocess.run([PLACE + '/run']).returncode)[2]"
    acts = {place: steps.replace("PLACE", place) for place in ("workspace", "private")}
    granted = player.play("""return await attempts(walls(level, write_execute=[workspace]), acts)""", level=level, acts=acts)
    refused = player.play("""return await attempts(walls(level, write=[workspace]), acts)""", level=level, acts=acts)
    assert granted == {"workspace": "ok 3", "private": "ok 3"}
    assert refused == {"workspace": "EACCES", "private": "EACCES"}


PROCESSES = {
    "signal its own": "os.kill(os.getpid(), 0)",
    "signal its child": "(lambda child: (child.kill(), child.wait())[1])(subprocess.Popen(['sleep', '60']))",
    "signal the agent": "os.kill(agent, 0)",
    "signal the agent's group": "os.killpg(agent, 0)",
    "signal everybody": "os.kill(-1, 9)",
    "limit the agent": "__import__('resource').prlimit(agent, 0, (1, 1))",
    "slow the agent": "os.setpriority(os.PRIO_PROCESS, agent, 19)",
    "move the agent": "os.sched_setaffinity(agent, {0})",
    "trace": "checked(libc.ptrace(0, 0, None, None))",
    "memory of the agent": "open(f'/proc/{agent}/mem', 'rb')",
    "environment of the agent": "open(f'/proc/{agent}/environ').read()",
    "a namespace": "checked(libc.unshare(0x10000000))",
    "a mount": "checked(libc.mount(b'x', private.encode(), b'tmpfs', 0, None))",
    "a root": "os.chroot(private)",
    "a user": "os.setuid(12345)",
    "setuid program": "os.geteuid() == 0 or subprocess.run(['su', '-c', 'true'], input='', text=True, capture_output=True).returncode",
}


def test_processes(player, level):
    tried = player.play("""
        async with AgentProcessManager("forkserver") as manager:
            cell, kernel = await start(manager, walls(level), "cat /proc/sys/kernel/pid_max; exec sleep 600")
            await kernel.hello
            # As the command sees it: the agent is the first child of process 1, or itself.
            agent = 2 if level == "full" else cell.pid
            cell.order("kill")
            await end(cell)
        async with AgentProcessManager("forkserver") as manager:
            command = (sys.executable, "-I", "-S", "-c", ATTEMPTS.replace("facts, acts = json.loads(sys.argv[1])",
                "facts, acts = json.loads(sys.argv[1]); facts['agent'] = os.getppid()"), json.dumps([{"private": str(private)}, acts]))
            cell, kernel = await start(manager, walls(level), command)
            await end(cell)
        return json.loads(kernel.outcomes["t1"].outcome.output)
    """, level=level, acts=PROCESSES)
    assert tried.pop("signal its own") == "ok"
    assert tried.pop("signal its child") == "ok -9"
    assert tried.pop("setuid program") in {"ok 1", "ok True"}
    # A user that is not mapped is no user at all.
    assert tried.pop("a user") in {"EPERM", "EINVAL"}
    assert set(tried.values()) <= {"EPERM", "EACCES"}, tried


def test_the_owner_and_the_shim_are_out_of_reach(player, level):
    tried = player.play("""
        acts = {
            "the owner": "os.kill(owner, 0)",
            "its group": "os.killpg(owner, 0)",
            "its environment": "open(f'/proc/{owner}/environ').read()",
            "its command line": "open(f'/proc/{owner}/cmdline').read()",
            "its root": "os.listdir(f'/proc/{owner}/root')",
            "a descriptor of it": "os.pidfd_open(owner)",
        }
        return await attempts(walls(level), acts)
    """, level=level)
    assert set(tried.values()) <= ({"EPERM", "EACCES"} if level == "standard" else {"EPERM", "EACCES", "ENOENT", "ESRCH"}), tried


NETWORK = {
    "pair": "len(socket.socketpair())",
    "tcp": "socket.socket().connect(('127.0.0.1', port))",
    "tcp6": "socket.socket(socket.AF_INET6).connect(('::1', port))",
    "listen": "socket.create_server(('127.0.0.1', 0)).close()",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', port))",
    "away": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))",
    "raw": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "ping": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1)",
    "multipath": "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)",
    "packet": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)",
    "vsock": "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
    "cipher": "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)",
    "abstract": "socket.socket(socket.AF_UNIX).connect('\\0' + name)",
    "by path": "socket.socket(socket.AF_UNIX).connect(path)",
    "datagram": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', path)",
}
NET_BODY = """
    import socket
    server = socket.create_server(("127.0.0.1", 0))
    named = socket.socket(socket.AF_UNIX)
    name = f"toka-walls-{os.getpid()}"
    named.bind("\\0" + name)
    named.listen()
    pathed = socket.socket(socket.AF_UNIX)
    pathed.bind(str(outside / "socket"))
    pathed.listen()
    facts = {"port": server.getsockname()[1], "name": name, "path": str(outside / "socket")}
    tried = await attempts(walls(level, network=network), acts, facts=facts)
    for each in (server, named, pathed):
        each.close()
    return tried
"""
REFUSED = {"EACCES", "EPERM", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ENOENT", "ECONNREFUSED", "ENETUNREACH"}


def test_without_a_grant_there_is_no_network(player, level):
    tried = player.play(NET_BODY, level=level, network="none", acts=NETWORK)
    assert tried.pop("pair") == "ok 2"
    assert set(tried.values()) <= REFUSED, tried
    assert {tried[name] for name in ("tcp", "tcp6", "listen", "udp", "away")} == {"EACCES"}


def test_the_loopback_is_private_at_full_and_none_at_standard(player, level):
    both = "(lambda s: socket.create_connection(s.getsockname()).close())(socket.create_server(('127.0.0.1', 0)))"
    tried = player.play(NET_BODY, level=level, network="loopback", acts=NETWORK | {"its own": both})
    assert tried.pop("pair") == "ok 2"
    if level == "full":
        assert tried.pop("its own") == "ok"
        assert tried.pop("listen") == "ok"
        # A datagram to nobody is sent, and reaches nobody.
        assert tried.pop("udp") == "ok 1"
        assert tried["tcp"] == tried["tcp6"] == "ECONNREFUSED"
        assert tried["away"] == "ENETUNREACH"
    assert set(tried.values()) <= REFUSED, tried


@pytest.mark.skipif(landlock.abi() < 4, reason=f"Landlock holds TCP from ABI 4; this kernel has {landlock.abi()}")
def test_at_standard_only_the_proxy_can_be_connected_to(player):
    tried = player.play("""
        import socket
        proxy, other = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        port = proxy.getsockname()[1]
        facts = {"port": other.getsockname()[1], "proxy": port, "name": "x", "path": str(outside / "socket")}
        tried = await attempts(walls("standard", network="proxy"), acts | {"proxy": "socket.socket().connect(('127.0.0.1', proxy))",
            "fast open": "socket.socket().sendto(b'x', 0x20000000, ('127.0.0.1', port))"}, facts=facts, proxy_port=port)
        proxy.close(), other.close()
        return tried
    """, acts=NETWORK)
    assert tried.pop("proxy") == "ok"
    assert tried.pop("pair") == "ok 2"
    assert set(tried.values()) <= REFUSED | {"EOPNOTSUPP", "ENOTSUP"}, tried
    assert tried["tcp"] == "EACCES"


FETCH = """
import os, socket
place = os.environ["https_proxy"].rpartition("@")[2].split(":")
with socket.create_connection((place[0], int(place[1]))) as asking:
    asking.sendall(b"hello")
    print(asking.recv(100).decode(), os.environ["HTTP_PROXY"].partition("@")[0], "TOKA_PROXY_TOKEN" in os.environ)
"""


@pytest.mark.parametrize("method", ["forkserver", "fresh"])
def test_at_full_the_proxy_listens_inside_and_is_handed_over(player, method):
    found = player.play("""
        async with AgentProcessManager(method) as manager:
            around = walls("full", network="proxy")
            cell, kernel = await start(manager, around, (sys.executable, "-I", "-S", "-c", fetch), environment={"TOKA_PROXY_TOKEN": "t0ken"})
            listener = cell.proxy_listener
            connection, address = await asyncio.get_running_loop().sock_accept(listener)
            said = await asyncio.get_running_loop().sock_recv(connection, 100)
            await asyncio.get_running_loop().sock_sendall(connection, b"world")
            connection.close(), listener.close()
            exit = await end(cell)
            return said.decode(), report(kernel, exit)["said"], exit.exit_code
    """, method=method, fetch=FETCH)
    said, ((code, output, _),), end = found
    assert said == "hello"
    assert (code, output) == (0, "world http://toka:t0ken False\n")
    assert end == 0


def test_a_command_is_confined_more_than_its_agent(player, level):
    tried = player.play("""
        acts = {
            "read": "open(f'{workspace}/given').read()",
            "write": "open(f'{workspace}/new', 'w')",
            "own code of toka": "os.listdir(toka)",
        }
        if network == "loopback":
            acts["serve"] = "socket.create_server(('127.0.0.1', 0))"
        return await attempts(walls(level, write_execute=[workspace], network=network), acts, inner=walls(level, read=[workspace]),
            facts={"toka": os.path.dirname(sys.modules["toka_cli"].__file__)})
    """, level=level, network="loopback" if level == "full" else "none")
    assert tried["read"] == "ok what was given"
    assert tried["write"] == "EACCES"
    assert tried["own code of toka"] == "EACCES"
    assert tried.get("serve", "EACCES") == "EACCES"


def test_a_task_has_walls_of_its_own(player, level):
    done = player.play("""
        def task(name, around):
            return m.TaskBrief(id=name, description="d", kind="command", run="cat given; echo x > new; ls new", walls=around, allow_failure=True)
        return await run(walls(level, write=[workspace]), task("none", walls(level)), task("some", walls(level, read=[workspace])), task("all", None))
    """, level=level)
    none, some, whole = (output for _, output, _ in done["said"])
    assert "what was given" not in none
    assert "what was given" in some
    assert "cannot create new" in some
    assert whole == "what was given\nnew\n"


def test_what_lies_in_a_private_folder_of_the_cell_is_not_opened_by_the_rule_for_that(player):
    tried = player.play("""
        acts = {"read": "open(f'{workspace}/given').read()", "write": "open(f'{workspace}/new', 'w')", "shared memory": "open('/dev/shm/x', 'w').write('x')"}
        return await attempts(walls("full", write=[workspace]), acts, inner=walls("full"))
    """)
    assert str(player.workspace).startswith("/tmp/")
    assert tried == {"read": "EACCES", "write": "EACCES", "shared memory": "ok 1"}


def test_limits_hold_in_commands(player, level):
    tried = player.play("""
        import resource
        return await attempts(walls(level), {
            "core": "__import__('resource').getrlimit(4)",
            "queue": "__import__('resource').getrlimit(12)",
            "threads": "__import__('resource').getrlimit(6)",
            "raise it": "__import__('resource').setrlimit(7, (10000, 10000))",
        }, limits=m.Limits(max_processes=5, max_open_files=64))
    """, level=level)
    assert tried["core"] == tried["queue"] == "ok (0, 0)"
    assert tried["raise it"].startswith("ValueError")
    counted = level == "full" and player.user != "root"
    assert (tried["threads"] == f"ok ({5 * 32 + 64}, {5 * 32 + 64})") is counted


FORKS = """
import os, signal, time
made = []
try:
    while len(made) < 600:
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        made.append(pid)
except OSError as error:
    os.write(1, f"{error.errno} ".encode())
for pid in made:
    os.kill(pid, signal.SIGKILL)
os.write(1, str(len(made)).encode())
"""


def test_forks_without_end_are_refused_by_the_kernel(player):
    version = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if player.user == "root" and version < (6, 14):
        pytest.skip("the kernel does not count the processes of root, and has one highest number for all pid namespaces")
    highest = Path("/proc/sys/kernel/pid_max")
    before = highest.read_text()
    said, limits = player.play("""
        from toka_cli.supervisor.governor import Governor
        # Otherwise whoever is first would end it.
        Governor.watch = lambda *_: None
        async with AgentProcessManager("forkserver", cgroups=False) as manager:
            cell, kernel = await start(manager, walls("full"), (sys.executable, "-I", "-S", "-c", forks), limits=m.Limits(max_processes=2))
            await end(cell)
            return kernel.outcomes["t1"].outcome.output, kernel.hello.result().isolation["rlimits"]
    """, forks=FORKS)
    code, made = said.split()
    assert code == "11"
    # Process 1, the cell and the command are counted with them.
    if player.user == "root":
        assert limits["pids"] == 2 * 32 + 64 + 300
        assert int(made) <= limits["pids"] - 3
    else:
        assert limits["threads"] == 2 * 32 + 64
        assert int(made) == limits["threads"] - 3
    # The machine's own number is as it was.
    assert highest.read_text() == before


CONFINED = """
from toka_cli.protocol.messages import Limits, SpawnRequest
from toka_cli.sandbox import enter
from toka_cli.sandbox.namespaces import NotHeld

def confined(version, look, **named):
    "What `look` finds in a child behind the walls of `standard`, on a kernel with this Landlock."
    real = landlock.abi()
    def behind():
        landlock.abi = lambda: min(version, real)
        request = SpawnRequest("r", "r-1", {}, "/", walls=Walls("standard", execute=SYSTEM, **named.pop("walls", {})), owner_pid=os.getppid(), **named)
        try:
            record, inner = enter.confine(request, None, (os.getppid(),))
        except NotHeld as error:
            return str(error)
        return [record, look(inner)]
    return child(behind)
"""


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_an_older_landlock_leaves_gaps_that_are_said(act, version, tmp_path):
    if version > landlock.abi():
        pytest.skip(f"this kernel has Landlock ABI {landlock.abi()}")
    (tmp_path / "text").write_text("text")
    record, (signalled, read, emptied, opened) = act("""
        given = os.getppid()
        text = sys.argv[2] + "/text"
        def look(inner):
            secret = "/root/.profile" if os.geteuid() else "/var/log"
            return [tried(os.kill, os.getppid(), 0), tried(open, secret), tried(os.truncate, text, 0), tried(open, text, "w")]
        show(confined(int(sys.argv[1]), look, walls={"write": (sys.argv[2],)}))
    """, version, str(tmp_path), given=CONFINED)
    assert record["landlock_abi"] == version
    missing = [gap for gap in record["gaps"] if gap.startswith("Landlock")]
    words = {1: "refer, ioctl_dev", 2: "ioctl_dev", 3: "ioctl_dev", 4: "ioctl_dev", 5: "signal", 6: ""}[version]
    assert words in "".join(missing)
    assert bool(missing) is (version < 6)
    # Emptying a file by its path is refused by the filter where Landlock does not see it: to everybody.
    assert (emptied, opened) == ("done" if version >= 3 else "EPERM", "done")
    assert any("truncate(2)" in gap for gap in record["gaps"]) is (version < 3)
    # Signals are refused by the filter where Landlock does not see them.
    assert signalled == "EPERM"
    assert read == "EACCES"


def test_a_network_that_this_landlock_cannot_hold_is_not_granted_without_namespaces(act):
    found = act("""
        show([confined(version, lambda inner: None, walls={"network": "proxy"}, proxy_port=9) for version in (3, 4)])
    """, given=CONFINED)
    assert found[0] == f"Landlock {min(3, landlock.abi())} does not hold TCP connections: the network cannot be granted without namespaces"
    if landlock.abi() >= 4:
        assert found[1][0]["network"] == "landlock"
    else:
        assert found[1] == found[0]


def test_walls_of_commands_are_built_once_for_each_set_and_few_are_kept(act):
    descriptors, signalled = act("""
        def count():
            return sum("landlock" in os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}"))
        def look(inner):
            counts = []
            for number in [0, 0, 1, *range(30)]:
                inner.around(Walls("standard", read=(f"/usr/{number}",)))
                counts.append(count())
            def within():
                inner.around(None)()
                return tried(os.kill, os.getppid(), 0)
            return [counts, child(within)]
        show(confined(99, look, walls={"read": ("/proc",)})[1])
    """, given=CONFINED)
    assert descriptors[:3] == [1, 1, 2]
    assert max(descriptors) == 8
    # Nothing that a command does reaches the agent that started it.
    assert signalled == "EPERM"


# --- failing closed ---


def test_without_landlock_a_cell_that_needs_it_ends(player, level):
    done = player.play("""
        from toka_cli.sandbox import bpf, prctl, seccomp, syscalls
        code = bpf.Program()
        code.load(bpf.NUMBER)
        code.test(bpf.EQUAL, syscalls.number("landlock_create_ruleset"), no="other")
        code.refuse(38)
        code.mark("other")
        code.answer(bpf.ALLOW)
        prctl.forbid_new_privileges()
        seccomp.load(code.assemble())
        return await run(walls(level, write=[workspace]), "touch ran")
    """, level=level)
    assert done["exit"] == 121
    assert done["isolation"] is None
    assert done["log"] == "sandbox: this kernel has no Landlock\n"
    assert not (player.workspace / "ran").exists()


def test_without_namespaces_a_cell_that_needs_them_ends_and_one_that_does_not_works(player):
    ended, worked = player.play("""
        from toka_cli.sandbox import prctl, seccomp
        prctl.forbid_new_privileges()
        seccomp.install(inet=True, unix=True, namespaces=True, ipc=True)
        done = await run(walls("full", write=[workspace]), "touch ran")
        (folder / "r-1.log").unlink()
        return done, await run(walls("standard", write=[workspace]), "echo worked")
    """)
    assert ended["exit"] == 121
    assert ended["log"] == "sandbox: the system does not allow namespaces of one's own: Operation not permitted\n"
    assert worked["said"][0][1] == "worked\n"
    assert not (player.workspace / "ran").exists()


def test_nobody_to_take_the_listener_of_a_proxy_is_an_end(player):
    done = player.play("""
        from toka_cli.supervisor.spawn import ForkServer
        spawn = ForkServer.spawn
        async def without(self, request, descriptors):
            return await spawn(self, request, descriptors[:3])
        ForkServer.spawn = without
        return await run(walls("full", network="proxy"), "true")
    """)
    assert done["exit"] == 121
    assert done["log"] == "sandbox: nobody is there to take the proxy's listener\n"


def test_what_is_possible_although_it_is_forbidden_is_noticed(act):
    found = act("""
        from toka_cli.sandbox import enter
        from toka_cli.sandbox.namespaces import NotHeld

        def check(walls, **named):
            try:
                return enter.self_check(walls, None, "/usr", 0, **named)
            except NotHeld as error:
                return str(error)

        around = Walls("standard", execute=SYSTEM)
        first = child(lambda: check(around))
        def behind_landlock():
            landlock.build(around, extra_execute=("/proc",)).restrict()
            return enter.self_check.__name__ and check(Walls("standard"))
        prctl.forbid_new_privileges()
        second = child(lambda: (restrict("standard"), check(around))[1])
        third = child(lambda: (restrict("standard"), filtered(), check(around))[2])
        show([first, second, third])
    """)
    assert found[0] == "self-check: list /usr was possible"
    assert found[1] == "self-check: open a TCP socket was possible"
    assert found[2] == ["list /usr: EACCES", "open a TCP socket: EACCES", "trace: EPERM"]
