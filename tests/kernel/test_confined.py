"""Programs of the kernel's own: bounded, confined, and gone when they should be; the kernel itself stays as free as it was."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.kernel.servers import until
from toka_cli.kernel.confined import own_children, run_confined
from toka_cli.kernel.git_place import GitPlace
from toka_cli.kernel.git_run import GitRun, runnable
from toka_cli.protocol.messages import Walls
from toka_cli.sandbox import landlock

SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache")
CAT = Path(os.path.realpath(shutil.which("cat") or "/bin/cat"))


def run(argv, directory, *, walls=None, **more):
    return asyncio.run(run_confined([str(part) for part in argv], environment={"PATH": "/usr/bin:/bin"}, directory=directory, walls=walls, **more))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def left_of(word):
    """Processes that still run and have the word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes() and alive(int(path.parent.name)) and int(path.parent.name) != os.getpid():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_input_goes_in_output_comes_out(tmp_path):
    data = os.urandom(2_000_000)
    ended = run([CAT], tmp_path, stdin=data)
    assert (ended.exit_code, ended.stdout, ended.why) == (0, data, None)
    ended = run(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], tmp_path)
    assert (ended.exit_code, ended.stdout, ended.stderr) == (3, b"out\n", b"err\n")
    # One that does not want its input.
    assert run(["/bin/true"], tmp_path, stdin=data).exit_code == 0


def test_the_environment_is_complete_and_nothing_is_inherited(tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    ended = run(["/bin/sh", "-c", "/usr/bin/env; ls /proc/self/fd; ps -o sid= -p $$ 2>/dev/null"], tmp_path)
    os.close(reader)
    os.close(writer)
    assert b"sk-secret" not in ended.stdout
    descriptors = [line for line in ended.stdout.split() if line.isdigit() and len(line) < 4]
    # Its three, and the folder that ls reads.
    assert len([number for number in descriptors if int(number) < 50]) <= 4


@pytest.mark.parametrize(
    ("script", "bounds", "why"),
    [
        ("while :; do :; done", {"timeout_s": 0.3}, "timeout"),
        ("trap '' TERM; while :; do :; done", {"timeout_s": 0.3}, "timeout"),
        ("exec >&- 2>&-; sleep 100", {"timeout_s": 0.3}, "timeout"),
        ("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done", {"output_limit": 100_000}, "output"),
        ("kill -9 $$", {}, "signal 9"),
    ],
)
def test_what_does_not_end_is_ended(tmp_path, script, bounds, why):
    ended = run(["/bin/sh", "-c", f": {tmp_path}; {script}"], tmp_path, **bounds)
    assert ended.exit_code is None
    assert ended.why == why
    assert left_of(str(tmp_path)) == []


def test_what_it_leaves_in_its_group_is_ended_with_it(tmp_path):
    ended = run(["/bin/sh", "-c", f"sleep 100 >/dev/null 2>&1 & echo $! > {tmp_path}/pid; echo done"], tmp_path)
    assert ended.exit_code == 0
    pid = int((tmp_path / "pid").read_text())
    # It has been killed; how long the system takes to bury it is its own affair.
    for _ in range(2000):
        if not alive(pid):
            return
        time.sleep(0.005)
    raise AssertionError("it goes on")


def test_cancelling_ends_it_first(tmp_path):
    async def main():
        task = asyncio.create_task(
            run_confined(["/bin/sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 100"], environment={}, directory=tmp_path, walls=None)
        )
        async with asyncio.timeout(20):
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():  # noqa: ASYNC110  another process writes it
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not alive(int((tmp_path / "pid").read_text()))

    asyncio.run(main())


def test_what_runs_is_known_as_ours(tmp_path):
    """So that a sweep after a killed cell leaves it alone."""

    async def main():
        before = own_children()
        task = asyncio.create_task(run_confined(["/bin/cat"], environment={}, directory=tmp_path, walls=None, stdin=b"", timeout_s=30))
        await task
        assert own_children() == before
        task = asyncio.create_task(run_confined(["/bin/sleep", "60"], environment={}, directory=tmp_path, walls=None))
        await until(lambda: own_children() > before)
        (pid,) = own_children() - before
        assert alive(pid)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert own_children() == before

    asyncio.run(main())


def test_what_is_no_program_is_an_error(tmp_path):
    with pytest.raises(OSError):
        run([tmp_path / "missing"], tmp_path)


@pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no Landlock")
class TestWalls:
    @pytest.fixture
    def inside(self, tmp_path):
        path = tmp_path / "inside"
        path.mkdir()
        (path / "file").write_text("allowed\n")
        return path

    @pytest.fixture
    def secret(self, tmp_path):
        path = tmp_path / "secret"
        path.write_text("the secret\n")
        return path

    def walls(self, inside, *programs):
        execute = {path for program in programs for path in runnable(Path(os.path.realpath(program)))}
        return Walls("standard", read=(*map(os.path.realpath, SYSTEM), str(inside)), execute=tuple(execute))

    def test_only_what_is_listed_is_read(self, inside, secret):
        walls = self.walls(inside, CAT)
        assert run([CAT, inside / "file"], inside, walls=walls).stdout == b"allowed\n"
        ended = run([CAT, secret], inside, walls=walls)
        assert (ended.exit_code, ended.stdout) == (1, b"")
        assert b"Permission denied" in ended.stderr
        # The same through a link that was not there before.
        (inside / "link").symlink_to(secret)
        assert run([CAT, inside / "link"], inside, walls=walls).stdout == b""
        # This program and its other threads are as free as before.
        assert secret.read_text() == "the secret\n"

    def test_only_what_is_listed_is_run(self, inside):
        walls = self.walls(inside, CAT)
        with pytest.raises(PermissionError):
            run(["/bin/sh", "-c", "echo ran"], inside, walls=walls)
        (inside / "own").write_bytes(CAT.read_bytes())
        (inside / "own").chmod(0o755)
        with pytest.raises(PermissionError):
            run([inside / "own"], inside, walls=walls)

    def test_no_network_for_it(self, inside):
        if landlock.abi() < 4:
            pytest.skip("this kernel's Landlock knows no TCP")
        python = Path(os.path.realpath(sys.executable))
        walls = Walls("standard", read=("/",), execute=("/",))
        code = "import socket\ns = socket.socket()\ntry:\n    s.connect(('127.0.0.1', 9))\nexcept OSError as e:\n    print(type(e).__name__)"
        assert run([python, "-I", "-c", code], inside, walls=walls).stdout == b"PermissionError\n"
        assert run([python, "-I", "-c", code], inside).stdout == b"ConnectionRefusedError\n"

    def test_the_walls_of_git_hold_the_rest_of_the_machine_back(self, inside, secret, tmp_path):
        """Whatever is exchanged for a link while git runs, it reaches nothing but its repository."""
        (inside / ".git").mkdir()
        place = GitPlace(inside, inside / ".git", inside / ".git")
        git = GitRun(place, tmp_path, CAT, ("a", "b"))
        assert run([CAT, inside / "file"], tmp_path, walls=git._walls()).stdout == b"allowed\n"
        for path in (secret, "/etc/shadow", "/root/.bashrc", f"/proc/{os.getpid()}/environ"):
            assert run([CAT, path], tmp_path, walls=git._walls()).stdout == b"", path
