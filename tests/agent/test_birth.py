"""Cells behind walls, from birth to their end: what is promised of every cell holds at every level, as root and as an ordinary user."""

from __future__ import annotations

import pytest

STUBBORN = "trap '' TERM; (setsid sh -c \"trap '' TERM; (setsid sleep 1000 &) ; echo up; while :; do sleep 60; done\" &) ; while :; do sleep 60; done"

# Names that bodies below use.
WORDS = """
import select, signal
from toka_cli.sandbox import tree

def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

def states(pids):
    return sorted({Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids})

async def gone(*pids):
    give_up = asyncio.get_running_loop().time() + LIMIT_S
    while any(alive(pid) for pid in pids):
        assert asyncio.get_running_loop().time() < give_up, [pid for pid in pids if alive(pid)]
        await asyncio.sleep(0.01)
    return True

def agent_of(cell):
    "The process of the agent itself: at `full` the first child of process 1."
    return tree.children(cell.pid)[0] if cell.own_processes == 2 else cell.pid
"""


@pytest.fixture
def play(player, level):
    """Plays a body at this level, with the words above."""

    def run(body, **facts):
        lines = "\n".join(f"    {line}" for line in WORDS.strip().splitlines())
        return player.play(f"if True:\n{lines}\n" + __import__("textwrap").dedent(body), level=level, **facts)

    run.player, run.level = player, level
    return run


@pytest.mark.parametrize("method", ["forkserver", "fresh"])
def test_a_cell_works_and_leaves(play, method):
    found = play("""
        async with AgentProcessManager(method) as manager:
            cell, kernel = await start(manager, walls(level, write_execute=[workspace]), ("echo", "hi"), "exit 3")
            hello = await asyncio.wait_for(kernel.hello, LIMIT_S)
            exit = await end(cell)
        return [
            exit.exit_code, exit.signal, exit.lost, exit.cpu_time_s > 0, exit.peak_memory_bytes > 0, kernel.output.decode(),
            [kernel.outcomes[task].reason for task in ("t1", "t2")], kernel.finished.is_set(), hello.isolation["level"], hello.pid == cell.pid, hello.pid,
        ]
    """, method=method)
    assert found[:9] == [0, None, False, True, True, "hi\n", [None, "exit 3"], True, play.level]
    # Outside its number is another one.
    assert found[9:] == ([False, 2] if play.level == "full" else [True, found[10]])


LOOK = """
import json, os
def is_open(number):
    try:
        os.fstat(number)
        return True
    except OSError:
        return False
held = [number for number in range(256) if is_open(number)]
print(json.dumps([held, os.readlink("/proc/self/fd/0"), sorted(os.environ), os.umask(0), os.getcwd()]), flush=True)
"""


def test_what_a_command_and_its_cell_hold(play):
    (held, stdin, names, umask, where), shown, leaders, links, leaked = play("""
        os.environ["SECRET_API_KEY"] = "sk-1"
        async with AgentProcessManager("forkserver") as manager:
            cell, kernel = await start(manager, walls(level), (sys.executable, "-I", "-S", "-c", look + "import time; time.sleep(600)"))
            await kernel.until(b"\\n")
            agent = agent_of(cell)
            shown = [os.access(f"/proc/{pid}/mem", os.R_OK) for pid in (cell.pid, agent, cell.shim_pid)]
            leaders = [os.getsid(pid) == pid for pid in (cell.pid, agent)]
            links = []
            if os.geteuid() == 0:
                links = [os.readlink(f"/proc/{pid}/fd/{name}") for pid in {cell.pid, agent} for name in os.listdir(f"/proc/{pid}/fd")]
            environ = b""
            for pid in [cell.shim_pid, *tree.descendants(cell.shim_pid)]:
                if os.access(f"/proc/{pid}/environ", os.R_OK):
                    environ += Path(f"/proc/{pid}/environ").read_bytes()
            cell.order("kill")
            await end(cell)
        return json.loads(kernel.output), shown, leaders, links, b"SECRET" in environ
    """, look=LOOK)
    assert held == [0, 1, 2]
    assert stdin == "/dev/null"
    assert set(names) - {"LC_CTYPE"} == {"PATH", "HOME", "TMPDIR", "TOKA_RUN_ID"}
    assert umask == 0o077
    assert where == str(play.player.workspace)
    # Process 1, the agent and the shim show their memory to nobody but root.
    assert set(shown) == {play.player.user == "root"}
    assert all(leaders)
    assert not leaked
    # Process 1 and the agent: nothing to read, the log, one door, and what their own waiting needs. No way back to a folder of the machine.
    log = str(play.player.folder / "r-1.log")
    assert all(link in {"/dev/null", log} or link.startswith(("socket:", "pipe:", "anon_inode:")) for link in links), links
    assert sum(link.startswith("socket:") for link in links) == (1 if play.player.user == "root" else 0)


def test_told_to_kill_everything_ends_and_its_neighbour_goes_on(play):
    found = play("""
        async with AgentProcessManager("forkserver") as manager:
            victim, kernel = await start(manager, walls(level), stubborn, name="r-1")
            waiting = "echo up; while ! [ -e go ]; do sleep 0.05; done; echo went on"
            other, other_kernel = await start(manager, walls(level, write=[workspace]), waiting, name="r-2")
            await kernel.until(b"up")
            await other_kernel.until(b"up")
            pids = tree.descendants(victim.shim_pid)
            victim.order("kill")
            exit = await end(victim)
            still = [pid for pid in pids if alive(pid)]
            (workspace / "go").touch()
            await end(other)
        return [len(pids) >= 5, exit.signal, exit.lost, still, other_kernel.output.decode()]
    """, stubborn=STUBBORN)
    assert found == [True, 9, False, [], "up\nwent on\n"]


def test_told_to_ask_the_tree_is_asked_and_the_end_is_that_of_the_agent(play):
    found = play("""
        async with AgentProcessManager("forkserver") as manager:
            cell, kernel = await start(manager, walls(level), "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done")
            await kernel.until(b"up")
            cell.order("term")
            exit = await end(cell)
        return [exit.signal, exit.exit_code, exit.lost]
    """)
    assert found == [15, None, False]


@pytest.mark.parametrize("whom", ["agent", "first", "shim"])
def test_whoever_of_the_cell_is_killed_all_of_it_ends(play, whom):
    found = play("""
        async with AgentProcessManager("forkserver") as manager:
            cell, kernel = await start(manager, walls(level), stubborn)
            await kernel.until(b"up")
            pids = tree.descendants(cell.shim_pid)
            os.kill({"agent": agent_of(cell), "first": cell.pid, "shim": cell.shim_pid}[whom], signal.SIGKILL)
            exit = await end(cell)
            return [len(pids) >= 5, await gone(*pids), exit.lost, exit.signal]
    """, stubborn=STUBBORN, whom=whom)
    assert found == [True, True, whom == "shim", None if whom == "shim" else 9]


def test_what_a_cell_leaves_behind_is_ended_with_it(play):
    found = play("""
        async with AgentProcessManager("forkserver") as manager:
            cell, kernel = await start(manager, walls(level), leaving, "exit 0")
            await kernel.until(b"up")
            await asyncio.wait_for(kernel.finished.wait(), LIMIT_S)
            exit = await end(cell)
            strays = set(tree.descendants(os.getpid())) - manager._spawner.own_children()
            return [exit.exit_code, exit.lost, tree.descendants(cell.shim_pid), await gone(*strays)]
    """, leaving="(setsid sleep 1000 >/dev/null 2>&1 &); (setsid sh -c \"trap '' TERM; sleep 1000\" >/dev/null 2>&1 &); echo up")
    assert found == [0, False, [], True]


def test_when_the_owner_is_killed_nothing_is_left(play):
    found = play("""
        read, write = os.pipe()
        owner = os.fork()
        if owner == 0:
            async def work():
                async with AgentProcessManager("forkserver") as manager:
                    cell, kernel = await start(manager, walls(level), stubborn)
                    await kernel.until(b"up")
                    os.write(write, json.dumps([cell.shim_pid, *tree.descendants(cell.shim_pid)]).encode())
                    await asyncio.sleep(1000)
            import threading
            # (A loop of its own: this one belongs to the parent.)
            thread = threading.Thread(target=lambda: asyncio.run(work()))
            thread.start()
            thread.join()
            os._exit(1)
        pids = json.loads(await asyncio.to_thread(os.read, read, 4096))
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        return [len(pids) >= 5, await gone(*pids)]
    """, stubborn=STUBBORN)
    assert found == [True, True]


def test_when_the_kernel_closes_the_door_a_cell_ends_by_itself(play):
    found = play("""
        async with AgentProcessManager("forkserver") as manager:
            cell, kernel = await start(manager, walls(level), "setsid sleep 600 & echo up; exec sleep 600")
            await kernel.until(b"up")
            kernel.peer.close()
            exit = await end(cell)
        return [exit.exit_code, exit.lost]
    """)
    assert found == [3, False]


def test_a_tree_is_frozen_and_thawed_from_outside(play):
    found = play("""
        async with AgentProcessManager("forkserver") as manager:
            cell, kernel = await start(manager, walls(level), "echo up; while :; do :; done")
            await kernel.until(b"up")
            pids = tree.descendants(cell.shim_pid)
            cell.freeze()
            while states(pids) != ["T"]:
                await asyncio.sleep(0.01)
            frozen = cell.usage()[1]
            cell.thaw()
            while cell.usage()[1] <= frozen:
                await asyncio.sleep(0.01)
            cell.order("kill")
            exit = await end(cell)
        return [len(pids), exit.signal]
    """)
    assert found == [3 if play.level == "full" else 2, 9]


def test_what_the_whole_tree_uses_is_seen_from_outside(play):
    found = play("""
        async with AgentProcessManager("forkserver") as manager:
            before, kernel = await start(manager, walls(level), "echo up; sleep 600", name="r-1")
            await kernel.until(b"up")
            alone, _ = before.usage()
            before.order("kill")
            code = "x = bytearray(60 << 20); print('up', flush=True); import time; time.sleep(600)"
            cell, kernel = await start(manager, walls(level), (sys.executable, "-I", "-S", "-c", code), name="r-2")
            await kernel.until(b"up")
            memory, cpu = cell.usage()
            cell.order("kill")
            exit = await end(cell)
            await end(before)
        return [alone, memory, cpu > 0, exit.peak_memory_bytes]
    """)
    alone, memory, used, peak = found
    # The runtime itself is forked: what it shares with the fork server is not counted as the agent's.
    assert alone < 15 << 20
    assert 60 << 20 < memory < 90 << 20
    assert used
    assert peak > 60 << 20


@pytest.mark.parametrize("cgroups", [True, False])
def test_memory_and_processes_of_the_tree_are_limited(play, cgroups):
    found = play("""
        async with AgentProcessManager("forkserver", cgroups=cgroups) as manager:
            code = "import time\\nheld = []\\nprint('up', flush=True)\\nwhile True:\\n    held.append(bytearray(b'x') * (4 << 20)); time.sleep(0.01)"
            hungry, kernel = await start(manager, walls(level), (sys.executable, "-I", "-S", "-c", code), limits=m.Limits(memory_bytes=100 << 20), name="r-1")
            broken = await asyncio.wait_for(asyncio.shield(hungry.breached), LIMIT_S)
            hungry.order("kill")
            await end(hungry)
            many = "i=0; while [ $i -lt 9 ]; do sleep 600 & i=$((i + 1)); done; wait"
            fertile, kernel = await start(manager, walls(level), many, limits=m.Limits(max_processes=4), name="r-2")
            crowded = await asyncio.wait_for(asyncio.shield(fertile.breached), LIMIT_S)
            fertile.order("kill")
            await end(fertile)
            enough, kernel = await start(manager, walls(level), "sleep 600 & sleep 600 & echo up; wait", limits=m.Limits(max_processes=4), name="r-3")
            await kernel.until(b"up")
            within = enough.breached.done()
            groups = {Path(f"/proc/{pid}/cgroup").read_text() for pid in tree.descendants(enough.shim_pid)}
            enough.order("kill")
            await end(enough)
        return [broken, crowded, within, len(groups), enough.leaf is not None]
    """, cgroups=cgroups)
    broken, crowded, within, groups, by_group = found
    assert broken.startswith("limit.memory: resource limit exceeded")
    assert crowded.startswith("limit.processes: resource limit exceeded")
    assert not within
    # Process 1, the agent and its commands are in one group.
    assert groups == 1
    if not cgroups:
        assert not by_group


def test_a_sweep_finds_what_a_run_started(play):
    found = play("""
        from toka_cli.supervisor.sweep import run_processes, sweep_processes
        async with AgentProcessManager("forkserver") as manager:
            run = f"q0swept{os.getpid()}"
            cell, kernel = await start(manager, walls(level), "echo up; setsid sleep 600 & sleep 600", environment={"TOKA_RUN_ID": run})
            await kernel.until(b"up")
            while len(run_processes(run)) < 3:
                await asyncio.sleep(0.01)
            below = set(tree.descendants(cell.shim_pid))
            found = set(run_processes(run)) <= below
            ended = await asyncio.to_thread(sweep_processes, run)
            left = [pid for pid in run_processes(run) if alive(pid)]
            cell.order("kill")
            await end(cell)
        return [found, ended >= 3, left]
    """)
    assert found == [True, True, []]


def test_twenty_cells_at_once(play):
    found = play("""
        async with AgentProcessManager("forkserver") as manager:
            async def one(n):
                cell, kernel = await start(manager, walls(level, write=[workspace]), ("echo", f"I am {n}"), name=f"r-{n}")
                exit = await end(cell)
                return [exit.exit_code, kernel.output.decode(), cell.pid]
            found = await asyncio.gather(*(one(n) for n in range(20)))
        return [[code, output] for code, output, _ in found], len({pid for _, _, pid in found}), tree.descendants(os.getpid())
    """)
    assert found == [[[0, f"I am {n}\n"] for n in range(20)], 20, []]


def test_a_cell_that_cannot_be_born_says_so_in_its_log(play):
    found = play("""
        async with AgentProcessManager("forkserver") as manager:
            broken = m.SpawnRequest("r", "r-1", {}, str(workspace / "gone"), owner_pid=os.getpid(), walls=walls(level, write=[workspace]))
            cell = await manager.start(broken, folder / "r-1.log")
            cell.door.close()
            exit = await end(cell)
        return [exit.exit_code, (folder / "r-1.log").read_text().splitlines()[-1][:17]]
    """)
    assert found == [120, "FileNotFoundError"]


def test_the_private_folder_can_be_removed_by_its_owner(play):
    found = play("""
        import shutil
        done = await run(walls(level, write=[workspace]), "umask 077; mkdir -p $HOME/a/b; echo x > $HOME/a/b/c; chmod 500 $HOME/a/b; mkdir made")
        owner = (private / "a" / "b" / "c").stat().st_uid
        os.chmod(private / "a" / "b", 0o700)
        shutil.rmtree(private / "a")
        (workspace / "made").rmdir()
        return done["said"][0][0], owner == os.geteuid(), os.listdir(private)
    """)
    assert found == [0, True, []]
