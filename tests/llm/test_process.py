"""Provider processes: started early, ended always, replaced when they grow or die; and no key of theirs where anybody could look."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import ended
from tests.llm.conftest import KEYS, ask, keys, secrets, started
from tests.llm.server import ModelServer, Reply, error, text
from toka_cli.llm import child as child_module
from toka_cli.llm.child import ProviderSetup
from toka_cli.llm.process import ProviderProcess
from toka_cli.llm.provider import ProviderError
from toka_cli.llm.wire import Begin

ROOT = Path(__file__).parents[2]
LIMIT_S = 110.0


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(LIMIT_S):
            await work

    asyncio.run(bounded())


async def until(condition: Callable[[], Any], why: str, limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, why
        await asyncio.sleep(0.005)


def one_pid(provider: ProviderProcess) -> int:
    (pid,) = provider.own_children()
    return pid


async def failure(exchange: Coroutine[Any, Any, Any]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await exchange
    return caught.value


def test_requests_wait_for_the_import_and_start_does_not(model_server: ModelServer) -> None:
    async def work() -> None:
        model_server.play(lambda seen: text("hi"))
        provider = ProviderProcess(ProviderSetup(environment=keys(), base_url=model_server.url))
        # No loop is needed, and nothing is waited for.
        provider.start()
        pid = one_pid(provider)
        replies = await asyncio.gather(*(provider.complete(ask()) for _ in range(5)))
        assert {reply.message["content"] for reply in replies} == {"hi"}
        assert provider.own_children() == {pid}
        await provider.close()
        assert provider.own_children() == set()
        assert ended(pid)
        assert (await failure(provider.complete(ask()))).cause == "internal"

    run(work())


def test_close_ends_a_process_that_is_still_loading_and_those_that_wait() -> None:
    async def work() -> None:
        provider = ProviderProcess(ProviderSetup())
        provider.start()
        pid = one_pid(provider)
        waiting = asyncio.create_task(failure(provider.complete(ask())))
        await asyncio.sleep(0)
        await provider.close()
        assert (await waiting).cause == "crashed"
        assert ended(pid)

    run(work())


def test_close_before_anything_was_asked_leaves_nothing() -> None:
    async def work() -> None:
        provider = ProviderProcess(ProviderSetup())
        provider.start()
        pid = one_pid(provider)
        await provider.close()
        await provider.close()
        assert ended(pid)

    run(work())


def test_a_killed_process_fails_its_exchanges_and_the_next_one_gets_another(model_server: ModelServer) -> None:
    async def work() -> None:
        model_server.play([Reply(fault="hang"), Reply(fault="hang"), text("again")])
        async with started(base_url=model_server.url) as provider:
            pid = one_pid(provider)
            waiting = [asyncio.create_task(failure(provider.complete(ask()))) for _ in range(2)]
            await until(lambda: len(model_server.requests) == 2, "the requests never came")
            os.kill(pid, signal.SIGKILL)
            for failed in await asyncio.gather(*waiting):
                assert failed.cause == "crashed"
                assert failed.retryable
                assert "signal 9" in failed.message
            assert (await provider.complete(ask())).message["content"] == "again"
            assert one_pid(provider) != pid

    run(work())


def test_a_process_that_hangs_is_ended_after_its_deadline_and_a_margin(model_server: ModelServer) -> None:
    async def work() -> None:
        model_server.play([text("once"), Reply(fault="hang"), text("again")])
        async with started(base_url=model_server.url, margin_s=0.3) as provider:
            pid = one_pid(provider)
            await provider.complete(ask())
            waiting = asyncio.create_task(failure(provider.complete(ask(timeout_s=1.0))))
            await until(lambda: len(model_server.requests) == 2, "the request never came")
            # Now it cannot keep its own deadline.
            os.kill(pid, signal.SIGSTOP)
            began_s = time.monotonic()
            other = asyncio.create_task(failure(provider.complete(ask(timeout_s=30.0))))
            assert (await waiting).cause == "timeout"
            assert (await other).cause == "crashed"
            assert time.monotonic() - began_s < 15
            assert ended(pid)
            assert (await provider.complete(ask())).message["content"] == "again"

    run(work())


def test_a_process_that_grew_is_replaced_without_failing_anything(model_server: ModelServer) -> None:
    async def work() -> None:
        model_server.play(lambda seen: text("hi", delay_s=0.05))
        # Every process is larger than this: each is replaced after it has served.
        async with started(base_url=model_server.url, max_rss_bytes=1 << 20) as provider:
            pid = one_pid(provider)
            deadline = time.monotonic() + 80
            while pid in provider.own_children():
                assert (await provider.complete(ask())).message["content"] == "hi"
                assert time.monotonic() < deadline, "the process that grew stayed"
            assert len(provider.own_children()) <= 2
            assert ended(pid)

    run(work())


def test_more_processes_come_when_there_is_more_to_do_and_go_again(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toka_cli.llm.process.QUIET_S", 0.0)

    async def work() -> None:
        model_server.play(lambda seen: text("hi", delay_s=0.02))
        async with started(base_url=model_server.url, exchanges_each=4, max_processes=2) as provider:
            most = 1
            busy = True

            async def lane() -> None:
                nonlocal most
                while busy:
                    await provider.complete(ask())
                    most = max(most, len(provider.own_children()))

            lanes = [asyncio.create_task(lane()) for _ in range(12)]
            await until(lambda: len(provider.own_children()) == 2, "no second process came")
            await until(lambda: all(child.was_ready and child.waiting for child in provider._children), "the second one got nothing to do")
            busy = False
            await asyncio.gather(*lanes)
            assert most == 2

            async def alone() -> bool:
                await provider.complete(ask())
                return len(provider.own_children()) == 1

            deadline = time.monotonic() + 60
            while not await alone():
                assert time.monotonic() < deadline, "the second process stayed"

    run(work())


def test_a_process_that_never_gets_ready_is_told_after_three_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "_BOOT", "raise SystemExit(7)")

    async def work() -> None:
        provider = ProviderProcess(ProviderSetup())
        causes = []
        for _ in range(8):
            failed = await failure(provider.complete(ask()))
            causes.append(failed.cause)
            if failed.cause == "internal":
                assert "3 times" in failed.message
                assert "LLM_DEBUG" in (failed.hint or "")
        assert causes[-1] == "internal"
        assert causes.count("crashed") == 3
        await provider.close()
        assert provider.own_children() == set()

    run(work())


def test_a_litellm_that_cannot_be_loaded_is_told_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = child_module._BOOT.replace("import sys;", "import sys; sys.modules['litellm'] = None;")
    monkeypatch.setattr(child_module, "_BOOT", blocked)

    async def work() -> None:
        provider = ProviderProcess(ProviderSetup())
        for _ in range(2):
            failed = await failure(provider.complete(ask()))
            assert failed.cause == "internal"
            assert "litellm cannot be loaded" in failed.message
            assert failed.hint == "pip install 'litellm>=1.84,<2'"
        await provider.close()

    run(work())


OWNER = """
import asyncio, sys
from toka_cli.llm.process import ProviderProcess
from toka_cli.llm.child import ProviderSetup
from toka_cli.llm.keys import Secret
async def main():
    provider = ProviderProcess(ProviderSetup(environment={"OPENAI_API_KEY": Secret(sys.argv[2])}))
    provider.start()
    if sys.argv[1] == "ready":
        await provider.ready()
    print(*provider.own_children(), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["loading", "ready"])
def test_it_dies_with_its_owner(when: str) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, when, "sk-x"], stdout=subprocess.PIPE, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)})
    assert owner.stdout is not None
    try:
        pid = int(owner.stdout.readline())
        owner.kill()
        assert ended(pid), "the provider process outlived its owner"
    finally:
        owner.kill()
        owner.wait(LIMIT_S)
        owner.stdout.close()


def test_signals_of_the_terminal_do_not_reach_it(model_server: ModelServer) -> None:
    async def work() -> None:
        model_server.play([text("still here")])
        async with started(base_url=model_server.url) as provider:
            pid = one_pid(provider)
            assert os.getsid(pid) == pid
            for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTSTP):
                os.kill(pid, signum)
            assert (await provider.complete(ask())).message["content"] == "still here"

    run(work())


def everything_of_proc(names: tuple[str, ...]) -> list[tuple[str, bytes]]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            for name in names:
                with contextlib.suppress(OSError):
                    found.append((f"/proc/{entry}/{name}", Path(f"/proc/{entry}/{name}").read_bytes()))
    return found


def test_keys_are_in_no_environment_and_on_no_command_line(model_server: ModelServer, tmp_path: Path) -> None:
    async def work() -> None:
        model_server.play([text("hi")])
        async with started(base_url=model_server.url, debug_log=tmp_path / "provider.log") as provider:
            pid = one_pid(provider)
            await provider.complete(ask())
            assert model_server.requests[0].headers["authorization"] == f"Bearer {KEYS['OPENAI_API_KEY']}", "the key was not in use"
            looked_at = everything_of_proc(("environ", "cmdline"))
            assert any(path == f"/proc/{pid}/environ" for path, _ in looked_at)
            for path, data in looked_at:
                assert not any(secret.encode() in data for secret in secrets()), path
            # Nor anything that it does not need of the environment it was started from.
            own = dict(looked_at)[f"/proc/{pid}/environ"]
            names = {line.partition(b"=")[0].decode() for line in own.split(b"\0") if line}
            assert names <= {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LITELLM_MODE", "LITELLM_LOCAL_MODEL_COST_MAP"}
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
            # Its standard streams are nobody's terminal.
            assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)} == {"/dev/null"}
            assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)

    run(work())


def _runs(python: str, options: dict[str, Any]) -> bool:
    with contextlib.suppress(OSError):
        return subprocess.run([python, "-c", "import toka_cli.llm.process"], capture_output=True, check=False, **options).returncode == 0
    return False


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_an_ordinary_users_process_cannot_be_read_by_that_user() -> None:
    """A process that is not dumpable belongs to root in /proc: its environment, memory and descriptors are closed to its own user."""
    paths = f"{ROOT}:{Path(msgspec.__file__).parent.parent}"
    as_nobody: dict[str, Any] = {"user": "nobody", "env": {"PATH": "/usr/bin:/bin", "PYTHONPATH": paths}, "cwd": "/"}
    python = next((path for path in (sys.executable, "/usr/bin/python3") if _runs(path, as_nobody)), None)
    if python is None:
        pytest.skip("no Python here that this user may run imports this checkout")
    owner = subprocess.Popen([python, "-c", OWNER, "loading", "sk-of-nobody"], stdout=subprocess.PIPE, **as_nobody)
    assert owner.stdout is not None
    try:
        pid = int(owner.stdout.readline())
        deadline = time.monotonic() + LIMIT_S
        while os.stat(f"/proc/{pid}/environ").st_uid != 0:
            assert time.monotonic() < deadline, "the process stayed readable"
            time.sleep(0.005)
        read = subprocess.run(["cat", f"/proc/{pid}/environ", f"/proc/{pid}/mem"], user="nobody", capture_output=True, check=False)
        assert read.stdout == b""
        assert b"Permission denied" in read.stderr
    finally:
        owner.kill()
        owner.wait(LIMIT_S)
        owner.stdout.close()


def test_the_debug_log_is_written_only_when_wanted_and_holds_no_key(model_server: ModelServer, tmp_path: Path) -> None:
    async def work() -> None:
        model_server.play(lambda seen: text("hi"))
        log = tmp_path / "provider.log"
        planted = "correct-horse-battery"
        async with started(base_url=model_server.url, debug_log=log, secrets=(*secrets(), planted)) as provider:
            await provider.complete(ask(words=f"my key is {KEYS['OPENAI_API_KEY']}, and my password {planted}"))
            assert planted in model_server.requests[0].words, "what is sent is not this process's to change"
            await until(lambda: log.exists() and b"hi" in log.read_bytes(), "nothing was logged")
        written = log.read_text("utf-8")
        assert "gpt-4o-mini" in written
        assert "my password [secret]" in written
        assert not any(secret in written for secret in (*secrets(), planted))
        assert log.stat().st_mode & 0o777 == 0o600
        before = os.listdir(tmp_path)
        async with started(base_url=model_server.url) as provider:
            await provider.complete(ask())
        assert os.listdir(tmp_path) == before

    run(work())


def test_what_a_provider_says_about_a_key_is_masked(model_server: ModelServer) -> None:
    async def work() -> None:
        model_server.play([error(401, f"Incorrect API key provided: {KEYS['OPENAI_API_KEY']}. You can find yours ...", code="invalid_api_key")])
        async with started(base_url=model_server.url) as provider:
            failed = await failure(provider.complete(ask()))
            assert failed.cause == "auth"
            assert "[secret]" in failed.message
            assert KEYS["OPENAI_API_KEY"] not in f"{failed} {failed.hint} {failed!r}"

    run(work())


def test_no_setup_prints_a_key() -> None:
    setup = ProviderSetup(environment=keys(), secrets=secrets())
    shown = f"{setup} {setup!r} {setup.environment} {setup.begin()!r} {setup.begin()}"
    assert isinstance(setup.begin(), Begin)
    assert setup.begin().environment == KEYS
    assert not any(secret in shown for secret in secrets())
