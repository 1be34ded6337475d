"""What goes through a door: requests to the fork server, the brief a cell gets, and the parameters and results of every method.

Plain msgspec Structs, decoded and validated on both sides. Nothing here does anything.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from toka_cli.events import Outcome


class Message(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The base of all that is sent."""


# --- what a cell is told -------------------------------------------------------------------------------------------------------------


class Limits(Message, frozen=True):
    """Limits of an agent's whole process tree. Bytes, seconds, shares of one core; None: not limited."""

    memory_bytes: int | None = None
    cpu_share: float | None = None
    timeout_s: float | None = None
    task_timeout_s: float | None = None
    max_open_files: int | None = None
    max_processes: int | None = None
    output_bytes: int | None = None
    disk_bytes: int | None = None
    max_tool_calls: int | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None


class Walls(Message, frozen=True):
    """What the operating system lets a cell, and everything it starts, do. Compiled from grants; applied in the child before anything of the agent runs.

    `level` has to hold: `full` (namespaces, Landlock, seccomp), `standard` (Landlock, seccomp) or `process` (no walls). Paths are absolute with links
    resolved; one that does not exist is passed over. `read`: files below may be read and listed; `execute`: read and run; `write`: read, changed, made and
    removed; `write_execute`: that, and run; `protect`: read-only although below a writable path (by mounts at `full`; at `standard` nothing can hold it,
    and it is checked afterwards). `network`: `none`, `loopback` (a private one, at `full`), `proxy` (toka's own, and nothing else). `sockets`: paths of
    unix sockets that may be reached.
    """

    level: str
    read: tuple[str, ...] = ()
    execute: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    write_execute: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    network: str = "none"
    sockets: tuple[str, ...] = ()


class PromptContext(Message, frozen=True):
    """What an agent's prompts are built from besides the task: who it is, what it is for, and how its model is asked. Empty parts are left out.

    `templates` are the user's own, by name, in place of those that ship with toka; the kernel fills them in. `context_window` is in tokens.
    """

    title: str = ""
    description: str = ""
    domain: str | None = None
    skills: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    directives: str = ""
    criteria: str = ""
    tools: tuple[str, ...] = ()
    model: str = ""
    fallbacks: tuple[str, ...] = ()
    temperature: float | None = None
    max_output_tokens: int | None = None
    context_window: int | None = None
    templates: dict[str, str] = {}


class Check(Message, frozen=True):
    """A command whose exit status decides: argv, or a string for `sh -c`."""

    run: tuple[str, ...] | str
    timeout_s: float | None = None


class TaskBrief(Message, frozen=True):
    """One task as the cell runs it. Which of `run`, `source`, `tool` and `custom` is set follows from `kind`.

    `walls` are those of its commands, where it has its own.
    """

    id: str
    description: str
    kind: str
    priority: str = "medium"
    run: tuple[str, ...] | str | None = None
    language: str | None = None
    source: str | None = None
    tool: str | None = None
    custom: str | None = None
    args: dict[str, Any] = {}
    agent: str | None = None
    input: Any = None
    timeout_s: float | None = None
    retries: int = 0
    retry_delay_s: float = 1.0
    retry_backoff: float = 2.0
    depends_on: tuple[str, ...] = ()
    output_schema: dict[str, Any] | None = None
    verify: Check | None = None
    requires: tuple[str, ...] = ()
    allow_failure: bool = False
    on_interrupted: str = "fail"
    walls: Walls | None = None


class AgentBrief(Message, frozen=True):
    """All that a cell gets to know: who it is, where it works, what to do. Answer to `agent.hello`.

    `walls` are the second layer, around each command; None: commands run within the cell's own. `plugins`: where packages
    lie, if tools of other packages are part of the run.
    """

    agent_id: str
    name: str
    workdir: str
    tasks: tuple[TaskBrief, ...]
    parallel: int = 1
    limits: Limits = Limits()
    task_timeout_s: float | None = None
    python: str = "python3"
    heartbeat_s: float = 5.0
    walls: Walls | None = None
    prompt: PromptContext | None = None
    plugins: tuple[str, ...] = ()


class SpawnRequest(Message, frozen=True):
    """Asks for a cell. Sent to the fork server with three descriptors beside it: the door, the lifeline and the cell's own log.

    `environment` is complete: nothing is inherited. `walls` None: no walls at all (said aloud, or none can be had). `private` is the agent's own folder, which
    it may write whatever the walls say. `proxy_port`: where the kernel's proxy listens, at `standard`; at `full` the cell makes a listener in its own network
    and hands it over through a fourth descriptor (`TOKA_PROXY_TOKEN` in the environment is what clients show there).
    """

    run_id: str
    agent_id: str
    environment: dict[str, str]
    workdir: str
    limits: Limits = Limits()
    owner_pid: int = 0
    sandbox: bool = True
    walls: Walls | None = None
    private: str = ""
    proxy_port: int = 0


# Exit statuses of a cell that did not get to work: something went wrong, or a wall that was planned cannot be put up. Its own words are in its log.
EXIT_NOT_BORN: Final = 120
EXIT_NOT_HELD: Final = 121


class Forked(Message, frozen=True):
    """The fork server's answer: the shim's pid, or why there is none (`error`; `again` when trying later may help)."""

    pid: int = 0
    error: str | None = None
    again: bool = False


# --- methods, cell to kernel ---------------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """`agent.hello`: the cell is up, and these limits and walls hold (checked after they were applied)."""

    pid: int
    isolation: dict[str, Any]


class Note(Message, frozen=True):
    """`agent.note`: what the agent does now, in a few words."""

    detail: str


class Beat(Message, frozen=True):
    """`agent.beat`: the cell's own clock of life, sent by its loop, not by what it runs."""


class StartAttempt(Message, frozen=True):
    """`attempt.start`: may this attempt at a task begin?"""

    task: str
    attempt: int


class Go(Message, frozen=True):
    """The kernel's answer to `attempt.start`. Without `go`, the task is over and `reason` says why."""

    go: bool
    reason: str | None = None


class FinishAttempt(Message, frozen=True):
    """`attempt.finish`: how the attempt ended, as the cell saw it."""

    task: str
    attempt: int
    ok: bool
    reason: str | None = None
    outcome: Outcome = Outcome()


class Verdict(Message, frozen=True):
    """The kernel's answer to `attempt.finish`: `succeeded`, `failed`, `stopped` or `retry` after `delay_s` seconds."""

    verdict: str
    delay_s: float = 0.0
    reason: str | None = None


class SkipTask(Message, frozen=True):
    """`task.skip`: the task will not run, because of another one."""

    task: str
    reason: str


class Output(Message, frozen=True):
    """`task.output`: bytes that a task wrote, in order. `stream` is stdout or stderr."""

    task: str
    stream: str
    data: bytes


class CallTool(Message, frozen=True):
    """`tool.call`: may this call be made? Tools that run in the cell are run by it after a yes."""

    task: str
    call_id: str
    tool: str
    args: dict[str, Any]


class ToolReply(Message, frozen=True):
    """The kernel's answer to `tool.call`. `hint` says what would make a refused call possible.

    When the kernel itself did the work, `result` is set, or `error`, with what to do about it in `hint`; the call ends with `tool.done` like any other.
    """

    go: bool
    reason: str | None = None
    result: Any = None
    hint: str | None = None
    error: str | None = None


class FinishTool(Message, frozen=True):
    """`tool.done`: how the call ended. In a conversation `result` is what the model is told of it."""

    call_id: str
    ok: bool
    error: str | None = None
    result: str | None = None


class Measure(Message, frozen=True):
    """`agent.measure`: a gauge by name."""

    name: str
    value: float


class FinishAgent(Message, frozen=True):
    """`agent.finish`: nothing is left to do. The kernel decides from the tasks' states whether this is a success."""


class Ack(Message, frozen=True):
    """Done and durable."""


# --- methods, kernel to cell ---------------------------------------------------------------------------------------------------------


class StopAgent(Message, frozen=True):
    """`agent.stop`: end what is running, say how it ended, and exit. `grace_s` seconds are left before force."""

    reason: str
    grace_s: float


class PauseAgent(Message, frozen=True):
    """`agent.pause`: start nothing new."""


class ResumeAgent(Message, frozen=True):
    """`agent.resume`: go on. `frozen_s` seconds passed that no deadline of the cell may count."""

    frozen_s: float = 0.0


# --- lifeline: owner and shim --------------------------------------------------------------------------------------------------------


class ShimReport(Message, frozen=True):
    """What a shim says on its lifeline, one frame each.

    `what` is `forked` (pid is the cell's), `exited` (status is that of wait(2)), or `empty` (ECHILD: nothing of the tree is left; CPU seconds and peak bytes
    are those of the whole tree, the peak being that of its largest process; so are the bytes that it asked to write, and those of them that files took).
    """

    what: str
    pid: int = 0
    status: int = 0
    cpu_time_s: float | None = None
    peak_memory_bytes: int | None = None
    asked_bytes: int | None = None
    dirtied_bytes: int | None = None
    message: str | None = None


class ShimOrder(Message, frozen=True):
    """What an owner tells a shim: `term` (SIGTERM to every process of the tree) or `kill` (until nothing is left)."""

    order: str


class Exit(Message, frozen=True):
    """How a cell's process tree ended. CPU seconds are the tree's; the peak is that of its largest process, in bytes. `lost`: its shim died first."""

    exit_code: int | None = None
    signal: int | None = None
    cpu_time_s: float | None = None
    peak_memory_bytes: int | None = None
    lost: bool = False
