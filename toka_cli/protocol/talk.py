"""What goes through a door for the sake of a conversation with a model: opening it, asking for the next turn, and being told to wait.

Plain msgspec Structs, like those of `messages`. The conversation itself lives in the kernel: a cell sends only what it adds, and gets back what it must act on.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from toka_cli.protocol.messages import Message

FINISH: Final = "finish"
ASK: Final = "ask"
"""The two tools that end a conversation. The cell acts on them itself; they are offered with every other one."""


class OpenTalk(Message, frozen=True):
    """`talk.open`: begin or go on with the conversation of this task's attempt; `after` is how many of its messages are known already."""

    task: str
    after: int = 0


class OpenCall(Message, frozen=True):
    """A call of the newest reply that has no result yet. `doubtful`: it was started and cut off, and the tool can tell whether it took effect."""

    index: int
    doubtful: bool = False


class Left(Message, frozen=True):
    """What is left to the agent: tool calls, tokens, US dollars; None: not limited."""

    tool_calls: int | None = None
    tokens: int | None = None
    cost_usd: float | None = None


class Earlier(Message, frozen=True):
    """What an earlier task came to. `agent` is set for a task of another agent, one that had to succeed first."""

    task: str
    description: str
    state: str
    output: str
    agent: str | None = None


class Talk(Message, frozen=True):
    """The kernel's answer to `talk.open`. Messages from `after` on, as many as fit into a frame; `total` says how many there are.

    `attempt` counts conversations about this task from 1; of a later one `failed` says why the one before it did not succeed. `turn` is the number of
    replies so far, `open_calls` are the calls of the newest one that still need a result, `results` how those of the others begin. `schema_problem` says
    why the output given by its `finish` is not what the task has to produce. With `last` the budget leaves one turn. `shortened` and `dropped`: see `TakeTurn`.
    """

    attempt: int = 1
    turn: int = 0
    total: int = 0
    messages: tuple[dict[str, Any], ...] = ()
    shortened: tuple[int, ...] = ()
    dropped: int = 0
    open_calls: tuple[OpenCall, ...] = ()
    results: dict[int, str] = msgspec.field(default_factory=dict)
    schema_problem: str | None = None
    failed: str | None = None
    earlier: tuple[Earlier, ...] = ()
    left: Left = Left()
    last: bool = False


class TakeTurn(Message, frozen=True):
    """`talk.turn`: add this to the conversation and ask the model.

    `turn` is the number of the reply that is asked for. `answers` are the results, by place in the last reply, of calls that never started (the results of
    the others are known from `tool.done`); then come `messages`, with the role user, or system at the very beginning. From now on the model is not shown
    the long texts of the messages with the numbers in `shorten`, and none of those from the third up to the number `drop`.
    """

    task: str
    turn: int
    answers: dict[int, str] = msgspec.field(default_factory=dict)
    messages: tuple[dict[str, Any], ...] = ()
    shorten: tuple[int, ...] = ()
    drop: int = 0
    tools: tuple[str, ...] = ()
    temperature: float | None = None


class TalkError(Message, frozen=True):
    """Why there is no reply: a stable word (`provider_context`, `budget`, `stopped`, ...), and what to tell people."""

    code: str
    message: str
    hint: str | None = None


class Turn(Message, frozen=True):
    """The kernel's answer to `talk.turn`: the reply, an assistant message in the OpenAI chat shape, or an error.

    `warning` is what the model should know of its budget; with `last` there is only enough for one more turn. `input_tokens` is 0 when nobody knows.
    """

    message: dict[str, Any] = msgspec.field(default_factory=dict)
    finish_reason: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    warning: str | None = None
    last: bool = False
    schema_problem: str | None = None
    error: TalkError | None = None


class TalkWait(Message, frozen=True):
    """`talk.wait`: the turn that was asked for waits (or no longer waits) for the model to be free; this is not the task's time."""

    task: str
    waiting: bool


def call_id(task: str, attempt: int, turn: int, index: int) -> str:
    """The name of a planned call, the same after every restart: conversation, reply and place in it."""
    return f"{task}.{attempt}.{turn}.{index}"
