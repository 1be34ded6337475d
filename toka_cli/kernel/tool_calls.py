"""Runs the tools whose place is the kernel, beside its loop and within bounds, and holds how often a tool may be called.

In: a call that was allowed, counted and made durable as started. Out: its result or its failure, once, to whoever asked; then the call's end can be recorded.
The order (decision, started, effect, done) is the session's; nothing here decides whether a call is allowed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from toka_cli.errors import TokaError
from toka_cli.kernel.egress import Egress
from toka_cli.kernel.fetch import Fetcher
from toka_cli.kernel.git_place import GitPlace, find_git
from toka_cli.kernel.git_run import GitRun, find_program
from toka_cli.kernel.threats import ThreatWatch
from toka_cli.protocol.messages import CallTool, Measure, Note, ToolReply
from toka_cli.protocol.peer import Answer
from toka_cli.state.memory import Memory
from toka_cli.tools.git import GitEnd
from toka_cli.tools.tool import CommandResult, Hands, Tool, ToolContext, ToolFailed

MAX_CALL_S: Final = 300.0
"""No call of the kernel's own takes longer, whatever the task's time."""
MAX_RESULT_BYTES: Final = 512 * 1024
"""A result goes through a door in one frame (protocol/frames.py: 1 MiB)."""
MAX_AT_ONCE: Final = 4
"""Calls of one agent that run beside each other; more wait."""
MINUTE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class CallEnd:
    """How a call ended: its result, or why there is none."""

    result: Any = None
    error: str | None = None
    hint: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """An answer that comes later: `begin` is called with the way to give it once what was recorded is durable."""

    begin: Callable[[Answer], None]


@dataclass(slots=True)
class CallLimits:
    """How often one agent may call each tool. `clock` gives seconds."""

    clock: Callable[[], float] = time.monotonic
    _by_attempt: dict[tuple[str, int, str], int] = field(default_factory=dict)
    _recent: dict[str, deque[float]] = field(default_factory=dict)

    def refusal(self, tool: Tool, task: str, attempt: int, kernel_tools: AgentTools | None) -> str | None:
        """Why this call may not be made now, a stable word first; None if it may, and then it is counted."""
        if tool.where == "kernel" and kernel_tools is None:
            return f"not_started: {tool.name} runs in the kernel, and this one has no tools of its own"
        name = tool.alias_of or tool.name
        made = self._by_attempt.get((task, attempt, name), 0)
        if tool.calls_per_task is not None and made >= tool.calls_per_task:
            return f"limit.tool_calls: {tool.name} may be called {tool.calls_per_task} times in a task"
        recent = self._recent.setdefault(name, deque())
        now = self.clock()
        while recent and now - recent[0] >= MINUTE_S:
            recent.popleft()
        if tool.calls_per_minute is not None and len(recent) >= tool.calls_per_minute:
            wait = max(1, round(MINUTE_S - (now - recent[0])))
            return f"limit.tool_rate: {tool.name} may be called {tool.calls_per_minute} times a minute; it can be called again in {wait} s"
        self._by_attempt[task, attempt, name] = made + 1
        if tool.calls_per_minute is not None:
            recent.append(now)
        return None


@dataclass(slots=True)
class KernelTools:
    """What the kernel's own tools need, for all agents of a run. `close` ends every call.

    `state_dir` holds the notes; `place` is the directory that they belong to (that of the run). `caller` is the environment toka was started with, from
    which only PATH, TZ and the names and addresses of git's authors are taken. `walls` False: the run was started without walls, and so is git.
    """

    egress: Egress
    state_dir: Path
    place: str
    caller: Mapping[str, str]
    fetcher: Fetcher | None = None
    walls: bool = True
    _agents: dict[str, AgentTools] = field(default_factory=dict)
    _threads: ThreadPoolExecutor | None = None
    _scratch: Path | None = None

    def agent(self, agent_id: str, name: str, workdir: str | Path, hosts: tuple[str, ...] = (), threats: ThreatWatch | None = None) -> AgentTools:
        """The kernel's tools of one agent, the same over its restarts. To be called before anything of the agent runs: what its repository is, is seen now.

        `hosts` are those of its plan. Raises ValueError for a host that is none.
        """
        way = self.egress.way(agent_id, hosts, threats)
        tools = self._agents.get(agent_id)
        if tools is None:
            tools = self._agents[agent_id] = AgentTools(self, agent_id, name, Path(workdir))
        tools.way = way
        return tools

    async def close(self) -> None:
        """End every call and remove what was made for them. May be called again."""
        await asyncio.gather(*(agent.close() for agent in self._agents.values()))
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def scratch(self) -> Path:
        """A folder that no agent can reach (0700; agents have a private /tmp or no right to this one)."""
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="toka-kernel-"))
        return self._scratch

    async def in_thread(self, act: Callable[[], Any]) -> Any:
        """Run something that may wait for a disk. One thread, so that notes are asked for one after the other."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="memory")
        return await asyncio.get_running_loop().run_in_executor(self._threads, act)

    def fetching(self) -> Fetcher:
        """The one fetcher of the run."""
        if self.fetcher is None:
            self.fetcher = Fetcher(self.egress)
        return self.fetcher


class AgentTools:
    """The kernel's tools of one agent."""

    def __init__(self, run: KernelTools, agent_id: str, name: str, workdir: Path) -> None:
        self.run = run
        self.agent_id = agent_id
        self.name = name
        self.workdir = workdir
        self.way = run.egress.way(agent_id, ())
        self._calls: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)
        # One at a time: two git commands would meet at the lock of the index.
        self._git_turn = asyncio.Lock()
        self._known: GitPlace | None = None
        try:
            self._known = find_git(workdir)
        except (ToolFailed, OSError):
            # None yet, or none that can be used: said when it is asked for.
            pass

    def later(self, tool: Tool, params: CallTool, timeout_s: float | None) -> Later:
        """The answer to a call of the cell, which begins when it is asked to."""

        def begin(answer: Answer) -> None:
            self.begin(
                tool, params.task, params.call_id, params.args, timeout_s,
                lambda end: answer(ToolReply(go=True, result=end.result, error=end.error, hint=end.hint)),
            )  # fmt: skip

        return Later(begin)

    def begin(self, tool: Tool, task: str, call_id: str, args: dict[str, Any], timeout_s: float | None, done: Callable[[CallEnd], None]) -> None:
        """Run a call; `done` is called once with its end, never if it is cancelled. `timeout_s` is what the task has (None: not limited)."""
        limit = MAX_CALL_S if timeout_s is None else min(timeout_s, MAX_CALL_S)

        async def work() -> None:
            try:
                end = await self._call(tool, call_id, args, limit)
            finally:
                self._calls.pop(call_id, None)
            done(end)

        call = asyncio.get_running_loop().create_task(work())
        call.add_done_callback(_say_bug)
        self._calls[call_id] = task, call

    def cancel(self, task: str | None = None) -> None:
        """End the calls of one task, or all."""
        for of_task, call in list(self._calls.values()):
            if task is None or task == of_task:
                call.cancel()

    def running(self, call_id: str) -> bool:
        """Whether this call is under way."""
        return call_id in self._calls

    async def close(self) -> None:
        """End every call, and wait for that."""
        calls = [call for _, call in self._calls.values()]
        self.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    async def _call(self, tool: Tool, call_id: str, args: dict[str, Any], limit_s: float) -> CallEnd:
        try:
            async with asyncio.timeout(limit_s), self._turns:
                with _GitOfCall(self) as git:
                    result = await tool.call(args, self._context(call_id, args, git))
            if len(msgspec.json.encode(result)) > MAX_RESULT_BYTES:
                return CallEnd(error=f"{tool.name} gave more than {MAX_RESULT_BYTES} bytes", hint="ask for less")
        except TimeoutError:
            return CallEnd(error=f"{tool.name} did not end within {limit_s:g} s", code="limit.task_timeout")
        except TokaError as error:
            return CallEnd(error=error.message, hint=error.hint, code=error.code)
        except OSError as error:
            return CallEnd(error=f"{tool.name}: {error.strerror or error}")
        return CallEnd(result)

    def _context(self, call_id: str, args: dict[str, Any], git: _GitOfCall) -> ToolContext:
        key = call_key(self.agent_id, call_id, args)

        async def remember(asked: object) -> Any:
            memory = Memory(self.run.state_dir)
            return await self.run.in_thread(lambda: memory.answer(self.run.place, self.name, key, asked))

        async def fetch(asked: Any) -> Any:
            return await self.run.fetching().fetch(self.way, asked)

        def sees_secret(text: str, where: str) -> bool:
            return self.way.threats is not None and self.way.threats.sees(text, where)

        hands = Hands(key, self.name, fetch, remember, git.git, sees_secret)
        return ToolContext(self.workdir, _no_command, _no_report, hands=hands)


class _GitOfCall:
    """Git for one call: its own view of the repository, made when it is first asked for and removed at the end."""

    def __init__(self, tools: AgentTools) -> None:
        self._tools = tools
        self._run: GitRun | None = None

    def __enter__(self) -> _GitOfCall:
        return self

    def __exit__(self, *_: object) -> None:
        if self._run is not None:
            self._run.close()
            self._tools._git_turn.release()

    async def git(self, *arguments: str, stdin: bytes = b"") -> GitEnd:
        """Run one git command. Raises ToolFailed."""
        if self._run is None:
            await self._tools._git_turn.acquire()
            try:
                self._run = self._made()
            except BaseException:
                self._tools._git_turn.release()
                raise
        return await self._run.git(*arguments, stdin=stdin)

    def _made(self) -> GitRun:
        tools = self._tools
        try:
            place = find_git(tools.workdir, tools._known)
            program = find_program("git", tools.run.caller.get("PATH", ""), outside=Path(os.path.realpath(tools.workdir)))
        except OSError as error:
            raise ToolFailed(f"the repository cannot be looked at: {error.strerror or error}") from error
        tools._known = place
        author = (f"{tools.name} (toka)", f"{tools.name}@toka.invalid")
        return GitRun(place, tools.run.scratch(), program, author, tools.run.caller, secure=tools.run.walls)


def end_calls(tools: AgentTools | None, task: str | None = None) -> None:
    """End what the kernel does for one task, or for all, where it does anything."""
    if tools is not None:
        tools.cancel(task)


def note_refusal(tools: AgentTools | None, act: str) -> None:
    """Let the watch over an agent, where there is one, know that it was refused something."""
    if tools is not None and tools.way.threats is not None:
        tools.way.threats.denied(act)


def kept_arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the log keeps them: long texts cut, so that one write_file does not double the state file."""
    return {name: value if len(text := str(value)) <= 2000 else f"{text[:2000]}... ({len(text)} characters)" for name, value in args.items()}


def call_key(agent_id: str, call_id: str, args: Mapping[str, Any]) -> str:
    """The name of a call: the same when the same call is made again after a crash. Its arguments are a part of it, since a cell counts its calls anew."""
    digest = hashlib.sha256(msgspec.json.encode(args, order="sorted")).hexdigest()
    return f"{agent_id}/{call_id}/{digest[:12]}"


def _say_bug(call: asyncio.Task[None]) -> None:
    """What a call raised that is no refusal is a bug, and is to be known at once: its cell waits for an answer."""
    if not call.cancelled() and (error := call.exception()) is not None:
        call.get_loop().call_exception_handler({"message": "a tool of the kernel broke", "exception": error, "task": call})


async def _no_command(*_: object, **__: object) -> CommandResult:
    raise ToolFailed("tools of the kernel start no commands of an agent")


async def _no_report(_: Note | Measure) -> None:
    raise ToolFailed("tools of the kernel report nothing of an agent")
