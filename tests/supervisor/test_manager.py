"""AgentProcessManager with real cells, through the fork server and through fresh interpreters."""

from __future__ import annotations

import os

import pytest


def test_a_cell_works_and_leaves(with_manager, start_method):
    body = """
    async with AgentProcessManager(METHOD) as manager:
        cell, kernel = await start(manager, ("echo", "hi"), "exit 3")
        hello = await asyncio.wait_for(kernel.hello, 60)
        assert hello.pid == cell.pid
        exit = await end(cell)
        ends = [kernel.outcomes[task].reason for task in ("t1", "t2")]
        return [exit.exit_code, exit.signal, exit.lost, exit.cpu_time_s > 0, exit.peak_memory_bytes > 0, kernel.output.decode(), ends, kernel.finished.is_set()]
    """
    assert with_manager(body, start_method) == [0, None, False, True, True, "hi\n", [None, "exit 3"], True]


def test_twenty_cells_at_once(with_manager, start_method):
    body = """
    async with AgentProcessManager(METHOD) as manager:
        async def one(n):
            cell, kernel = await start(manager, ("echo", f"I am {n}"), name=f"r-{n}")
            exit = await end(cell)
            return [exit.exit_code, kernel.output.decode(), cell.pid]
        found = await asyncio.gather(*(one(n) for n in range(20)))
    assert len({pid for _, _, pid in found}) == 20
    assert tree.descendants(os.getpid()) == []
    return [[code, output] for code, output, _ in found]
    """
    assert with_manager(body, start_method) == [[0, f"I am {n}\n"] for n in range(20)]


def test_at_the_end_of_the_block_nothing_is_left(with_manager, start_method):
    body = """
    async with AgentProcessManager(METHOD) as manager:
        cell, kernel = await start(manager, "trap '' TERM; setsid sh -c 'trap \\"\\" TERM; echo up; while :; do sleep 60; done' & wait")
        await kernel.until(b"up")
        pids = tree.descendants(os.getpid())
        assert len(pids) >= 4
    return [tree.descendants(os.getpid()), [pid for pid in pids if alive(pid)], cell.ended.done()]
    """
    assert with_manager(body, start_method) == [[], [], True]


def test_told_to_kill_everything_of_a_cell_ends_and_its_neighbour_goes_on(with_manager, start_method):
    body = """
    os.mkfifo("go")
    async with AgentProcessManager(METHOD) as manager:
        victim, kernel = await start(manager, "setsid sleep 600 & echo up; exec sleep 600", name="r-1")
        other, other_kernel = await start(manager, "echo up; read x < go; echo went on", name="r-2")
        await kernel.until(b"up")
        await other_kernel.until(b"up")
        victim.order("kill")
        exit = await end(victim)
        with open("go", "w") as file:
            file.write("x\\n")
        await end(other)
        return [exit.signal, exit.lost, other_kernel.output.decode()]
    """
    assert with_manager(body, start_method) == [9, False, "up\nwent on\n"]


def test_told_to_ask_the_whole_tree_is_asked(with_manager, start_method):
    body = """
    async with AgentProcessManager(METHOD) as manager:
        cell, kernel = await start(manager, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done")
        await kernel.until(b"up")
        cell.order("term")
        exit = await end(cell)
        return exit.signal
    """
    assert with_manager(body, start_method) == 15


def test_when_a_shim_is_killed_its_cell_and_all_that_it_started_are_ended(with_manager, start_method):
    body = """
    async with AgentProcessManager(METHOD) as manager:
        for n in range(10):
            other, other_kernel = await start(manager, "echo up; exec sleep 600", name=f"o-{n}")
            await other_kernel.until(b"up")
            cell, kernel = await start(manager, "setsid sh -c 'setsid sleep 600 & sleep 600' & setsid sleep 600 & echo up; exec sleep 600", name=f"r-{n}")
            await kernel.until(b"up")
            before = set(tree.descendants(cell.shim_pid))
            assert len(before) >= 3
            os.kill(cell.shim_pid, signal.SIGKILL)
            exit = await end(cell)
            assert exit.lost
            while manager._sweeps:
                await asyncio.wait(set(manager._sweeps))
            assert [pid for pid in before if alive(pid)] == [], f"left of trial {n}"
            assert alive(other.shim_pid) and alive(other.pid)
            other.order("kill")
            assert not (await end(other)).lost
    return tree.descendants(os.getpid())
    """
    assert with_manager(body, start_method) == []


def test_when_the_fork_server_is_killed_the_next_cell_gets_another_and_old_ones_go_on(with_manager):
    body = """
    os.mkfifo("go")
    async with AgentProcessManager("forkserver") as manager:
        cell, kernel = await start(manager, "echo up; read x < go; echo went on")
        lost, lost_kernel = await start(manager, "setsid sleep 600 & echo up; exec sleep 600", name="r-2")
        await kernel.until(b"up")
        await lost_kernel.until(b"up")
        server = manager._spawner._process.pid
        os.kill(server, signal.SIGKILL)
        assert await gone(server)
        another, another_kernel = await start(manager, ("echo", "born later"), name="r-3")
        assert (await end(another)).exit_code == 0
        # The shims of the dead server are ours now; sweeping after one of them must not end the others.
        os.kill(lost.shim_pid, signal.SIGKILL)
        assert (await end(lost)).lost
        while manager._sweeps:
            await asyncio.wait(set(manager._sweeps))
        with open("go", "w") as file:
            file.write("x\\n")
        exit = await end(cell)
        return [another_kernel.output.decode(), exit.exit_code, exit.lost, kernel.output.decode()]
    """
    assert with_manager(body) == ["born later\n", 0, False, "up\nwent on\n"]


def test_a_fork_server_that_cannot_work_is_unavailable_and_says_what_to_do(with_manager):
    body = """
    import toka_cli.supervisor.spawn as spawn
    spawn._BOOT = "import sys; sys.exit(3)"
    async with AgentProcessManager("forkserver") as manager:
        try:
            await manager.start(request(), ROOT / "r-1.log")
        except Unavailable as error:
            return [error.code, "start_method" in error.hint]
    """
    assert with_manager(body) == ["unavailable", True]


def test_when_the_owner_is_killed_nothing_is_left(tmp_path, start_method):
    """The owner of the cells is a process of its own; every process of the tree holds a pipe of this test."""
    import runpy
    import select
    import subprocess
    import sys

    prelude = runpy.run_path(os.path.join(os.path.dirname(__file__), "conftest.py"))["PRELUDE"]
    body = """
async def main():
    async with AgentProcessManager(METHOD) as manager:
        kernels = []
        for n in range(3):
            _, kernel = await start(manager, "trap '' TERM HUP; setsid sh -c 'setsid sleep 600 & sleep 600' & echo up; setsid sleep 600", name=f"r-{n}")
            await kernel.until(b"up")
            kernels.append(kernel)
        print(json.dumps(tree.descendants(os.getpid())), flush=True)
        await asyncio.sleep(600)
play(main)
"""
    owner = subprocess.Popen([sys.executable, "-c", prelude + body, start_method], stdout=subprocess.PIPE, cwd=tmp_path)
    pids = [int(word.strip(b"[],\n")) for word in owner.stdout.readline().split()]
    assert len(pids) >= 9
    watches = [os.pidfd_open(pid) for pid in pids]
    owner.kill()
    owner.wait()
    owner.stdout.close()
    try:
        for watch in watches:
            assert select.select([watch], [], [], 30)[0], "a process outlived its owner"
    finally:
        for watch in watches:
            os.close(watch)


# --- what a cell is ------------------------------------------------------------------------------------------------------------------

LOOK = """
import json, os, resource
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps({
    "fds": sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")),
    "stdin": os.readlink("/proc/self/fd/0"), "environment": sorted(os.environ), "umask": os.umask(0),
    "cwd": os.getcwd(), "sid": os.getsid(0), "nofile": resource.getrlimit(resource.RLIMIT_NOFILE), "core": resource.getrlimit(resource.RLIMIT_CORE),
    "nnp": status["NoNewPrivs"],
}))
"""


@pytest.fixture
def look(with_manager, tmp_path):
    (tmp_path / "look.py").write_text(LOOK)

    def run(method, more=""):
        body = f"""
        os.environ["SECRET_API_KEY"] = "sk-1"
        async with AgentProcessManager(METHOD) as manager:
            cell, kernel = await start(manager, (sys.executable, "-I", "-S", "look.py"), "grep SigIgn /proc/self/status"{more})
            hello = await asyncio.wait_for(kernel.hello, 60)
            # The cell itself, from outside.
            own = f"/proc/{{cell.pid}}/fd"
            mine = {{"fds": {{name: os.readlink(f"{{own}}/{{name}}") for name in os.listdir(own)}}, "sid": os.getsid(cell.pid)}}
            environ = Path(f"/proc/{{cell.shim_pid}}/environ").read_text()
            await end(cell)
        seen, ignored = kernel.output.decode().splitlines()
        return [json.loads(seen) | {{"ignored": ignored.split()[1]}}, hello.isolation, mine, "SECRET" in environ, cell.pid, str(ROOT)]
        """
        return with_manager(body, method)

    return run


def test_what_a_cell_and_its_commands_hold(look, start_method):
    seen, isolation, mine, leaked, pid, root = look(start_method)
    assert seen["fds"][:3] == [0, 1, 2]
    assert len(seen["fds"]) == 3
    assert seen["stdin"] == "/dev/null"
    assert set(seen["environment"]) - {"LC_CTYPE"} == {"PATH", "HOME", "AGENT_NAME"}
    assert not leaked
    assert seen["cwd"] == root
    assert seen["umask"] == 0o077
    assert seen["core"] == [0, 0]
    assert seen["nnp"].strip() == "1"
    assert seen["ignored"] == "0000000000000000"
    assert mine["sid"] == seen["sid"] == pid
    assert isolation["level"] == "process"
    # Its own: nothing to read, its log, one door, and what its own waiting needs.
    links = list(mine["fds"].values())
    # (Once more while it starts a command.)
    assert links.count("/dev/null") in {1, 2}
    assert sum(link.startswith("socket:") for link in links) == 1
    assert all(link.startswith(("/dev/null", "socket:", "anon_inode:", "pipe:", root)) for link in links), links


def test_limits_are_in_force_in_the_commands_of_a_cell(look, start_method):
    seen, isolation, *_ = look(start_method, ", limits=m.Limits(max_open_files=99, memory_bytes=100 << 20)")
    assert seen["nofile"] == [99, 99]
    assert isolation["rlimits"]["open_files"] == 99
    assert isolation["rlimits"]["data_bytes"] == (2 * 100 + 256) << 20


def test_without_walls_only_they_are_missing(look):
    seen, isolation, *_ = look("forkserver", ", sandbox=False")
    assert seen["umask"] == 0o022
    assert isolation["no_new_privs"] is False


def test_a_cell_that_cannot_be_born_says_so_in_its_log(with_manager, start_method):
    body = """
    async with AgentProcessManager(METHOD) as manager:
        lost = m.SpawnRequest("r", "r-1", {}, str(ROOT / "gone"), owner_pid=os.getpid())
        cell = await manager.start(lost, ROOT / "r-1.log")
        cell.door.close()
        exit = await end(cell)
    return [exit.exit_code, "FileNotFoundError" in (ROOT / "r-1.log").read_text()]
    """
    assert with_manager(body, start_method) == [120, True]


def test_usage_is_of_the_whole_tree_and_unknown_afterwards(with_manager):
    body = """
    os.mkfifo("go")
    async with AgentProcessManager(METHOD) as manager:
        code = "x = bytearray(60 << 20); print('up', flush=True); input_ = open('go').read()"
        cell, kernel = await start(manager, (sys.executable, "-I", "-S", "-c", code))
        await kernel.until(b"up")
        memory, cpu = cell.usage()
        with open("go", "w") as file:
            file.write("x")
        await end(cell)
    return [60 << 20 < memory < 200 << 20, cpu >= 0, cell.usage()]
    """
    assert with_manager(body) == [True, True, [None, None]]


def test_an_early_order_to_stop_is_kept_until_the_cell_knows_its_tasks(with_manager, start_method):
    body = """
    async with AgentProcessManager(METHOD) as manager:
        cell = await manager.start(request(), ROOT / "r-1.log")
        kernel = Kernel(cell, "touch ran")
        cell.door.sendall(frames.request("agent.stop", m.StopAgent("enough", 1.0)))
        await kernel.open()
        exit = await end(cell)
    return [exit.exit_code, kernel.heard, (ROOT / "ran").exists()]
    """
    assert with_manager(body, start_method) == [0, ["agent.hello", "agent.finish"], False]


def test_when_the_kernel_closes_the_door_a_cell_ends_by_itself(with_manager, start_method):
    body = """
    async with AgentProcessManager(METHOD) as manager:
        cell, kernel = await start(manager, "setsid sleep 600 & echo up; exec sleep 600")
        await kernel.until(b"up")
        kernel.peer.close()
        exit = await end(cell)
    return [exit.exit_code, exit.lost]
    """
    assert with_manager(body, start_method) == [3, False]


def test_where_no_group_can_be_made_any_more_polling_holds_and_that_is_said(with_manager):
    body = """
    import toka_cli.supervisor.manager as module
    made, limits = module.make_leaf, m.Limits(memory_bytes=1 << 40, max_processes=50)
    if not module.wanted(limits):
        return "skip"
    async with AgentProcessManager("forkserver") as manager:
        cell, kernel = await start(manager, ("echo", "hi"), limits=limits)
        first = [cell.limits_held()["processes"], manager.troubles()]
        await end(cell)
        module.make_leaf = lambda *_: None
        cell, kernel = await start(manager, ("echo", "hi"), name="r-2", limits=limits)
        second = [cell.limits_held()["processes"], manager.troubles()]
        await end(cell)
        return [first, second, manager.troubles()]
    """
    found = with_manager(body)
    if found == "skip":
        pytest.skip("this process may make no cgroup")
    first, second, rest = found
    assert first[1] == rest == []
    assert (first[0], second[0]) == ("cgroup", "sampled")
    assert [code for code, _ in second[1]] == ["cgroup"]
    assert "held by polling" in second[1][0][1]


@pytest.mark.parametrize(("number", "code", "again"), [("ENOSPC", "disk_full", False), ("EMFILE", "unavailable", True), ("EACCES", "unavailable", False)])
def test_what_the_system_refuses_is_unavailable_and_never_a_crash(with_manager, number, code, again):
    body = f"""
    import errno
    async with AgentProcessManager("forkserver") as manager:
        real = os.open
        def refuse(path, *more, **rest):
            if str(path).endswith("r-1.log"):
                raise OSError(errno.{number}, os.strerror(errno.{number}))
            return real(path, *more, **rest)
        os.open = refuse
        try:
            await manager.start(request(), ROOT / "r-1.log")
        except Unavailable as error:
            return [error.code, error.retryable, error.message]
        finally:
            os.open = real
    """
    found = with_manager(body)
    assert found[:2] == [code, again]
    assert found[2].startswith("no process can be started: ")
