"""The cell's side of a conversation: opens it, adds to it, and gets the next reply. The kernel holds the conversation; here is only what the next step needs.

In: texts to add and results of calls. Out: replies as calls to act on. Keeps the request below the model's window, and counts no time that is spent waiting for
the model to be free.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from toka_cli.agent.client import Client
from toka_cli.agent.context import DEFAULT_REPLY, DEFAULT_WINDOW, Context, Cut
from toka_cli.agent.deadline import Deadline
from toka_cli.agent.strands import Cancelled, Scheduler, Strand
from toka_cli.protocol import messages as m
from toka_cli.protocol import talk as t


class Late(Exception):
    """The time of the attempt is over."""


class Pace(Protocol):
    """What a conversation asks of whoever leads the agent's tasks."""

    async def step(self) -> None:
        """Wait while the agent is paused. Raises Cancelled once it is being stopped."""
        ...

    def asking(self, task: str) -> AbstractContextManager[None]:
        """While in it, a stop waits for the kernel's answer, which comes soon then. Raises Cancelled at its end if a stop came."""
        ...


@dataclass(slots=True)
class Call:
    """A call of the newest reply. `text` is its result for the model, None until there is one; `recorded`: the kernel has it. `well`: it did what it should.

    `doubtful`: it was started in an earlier life, and the tool can tell whether it took effect.
    """

    index: int
    tool: str
    arguments: str
    text: str | None = None
    recorded: bool = False
    doubtful: bool = False
    well: bool = True


@dataclass(slots=True)
class Dialogue:
    """One conversation. `opened` is what the kernel said when it was opened, `turn` how many replies there are; `calls` and `said` are those of the newest.

    `fresh`: nothing was sent yet. `say` is what goes out with the next request, behind the results.
    """

    task: m.TaskBrief
    prompt: m.PromptContext
    client: Client
    scheduler: Scheduler
    pace: Pace
    deadline: Deadline
    opened: t.Talk = field(default_factory=t.Talk)
    turn: int = 0
    replied: bool = False
    calls: list[Call] = field(default_factory=list)
    said: str = ""
    say: list[str] = field(default_factory=list)
    schema_problem: str | None = None
    warning: str | None = None
    last: bool = False
    _head: tuple[str, str] | None = None
    _context: Context = field(default_factory=lambda: Context(DEFAULT_WINDOW, DEFAULT_REPLY))
    _asker: Strand | None = None

    @property
    def fresh(self) -> bool:
        """True before anything was sent."""
        return not self.opened.total

    async def open(self, remember: Callable[[dict[str, Any]], None]) -> None:
        """Begin, or read what there is and be where it was left; `remember` is given each message there is. Raises what `Client.call` raises."""
        self.opened = opened = await self.client.call("talk.open", t.OpenTalk(self.task.id), t.Talk)
        self._context = Context(self.prompt.context_window or DEFAULT_WINDOW, self.prompt.max_output_tokens or DEFAULT_REPLY)
        self.turn, self.last, self.schema_problem = opened.turn, opened.last, opened.schema_problem
        page, known = opened.messages, 0
        while page:
            for message in page:
                self._context.add(message)
                remember(message)
                self.replied = message.get("role") == "assistant"
                if self.replied:
                    self._newest(message)
            known += len(page)
            page = () if known >= opened.total else (await self.client.call("talk.open", t.OpenTalk(self.task.id, known), t.Talk)).messages
        self._context.was_cut(opened.shortened, opened.dropped)
        still = {call.index: call for call in opened.open_calls}
        for call in self.calls if self.replied else ():
            call.recorded = call.index not in still
            call.text = opened.results.get(call.index, "done") if call.recorded else None
            call.doubtful = not call.recorded and still[call.index].doubtful

    def begin(self, system: str, task: str) -> None:
        """Give the two texts that a conversation begins with; they go out with the first request."""
        self._head = system, task

    async def ask(self, tools: tuple[str, ...], temperature: float | None) -> t.TalkError | None:
        """Send what is to be said and get the next reply; an error when there is none to be had. Raises Late, Cancelled, and what `Client.call` raises."""
        messages: list[dict[str, Any]] = []
        if self._head is not None:
            messages += [{"role": "system", "content": self._head[0]}, {"role": "user", "content": self._head[1]}]
        messages += [{"role": "user", "content": text} for text in self.say]
        answers: dict[int, str] = {}
        for call in self.calls if self.replied else ():
            self._context.add({"role": "tool", "tool_call_id": "", "content": call.text or ""})
            if not call.recorded:
                answers[call.index] = call.text or ""
        for message in messages:
            self._context.add(message)
        turn = await self._exchange(answers, tuple(messages), self._context.fit(), tools, temperature)
        self._head, self.say, self.replied, self.calls = None, [], False, []
        while turn.error is not None and turn.error.code == "provider_context" and (cut := self._context.fit(pressed=True)) != Cut():
            # What was sent is in the conversation already; only less of it is shown.
            turn = await self._exchange({}, (), cut, tools, temperature)
        if turn.error is not None:
            if turn.error.code in {"stopped", "abandoned"}:
                raise Cancelled
            return turn.error
        self.turn += 1
        self._context.add(turn.message)
        self._context.counted(turn.input_tokens, turn.output_tokens)
        self._newest(turn.message)
        self.replied = True
        self.schema_problem, self.warning, self.last = turn.schema_problem, turn.warning, self.last or turn.last
        return None

    def waits(self, *, waiting: bool) -> None:
        """The kernel says that the model cannot be asked yet, or that it can: the time in between is not the task's."""
        if waiting:
            self.deadline.stop()
        else:
            self.deadline.go_on()
        if self._asker is not None:
            self.scheduler.wake(self._asker)

    async def _exchange(
        self, answers: dict[int, str], messages: tuple[dict[str, Any], ...], cut: Cut, tools: tuple[str, ...], temperature: float | None
    ) -> t.Turn:
        await self.pace.step()
        params = t.TakeTurn(self.task.id, self.turn + 1, answers, messages, cut.shorten, cut.drop, tools, temperature)
        with self.pace.asking(self.task.id):
            signal = self.client.begin("talk.turn", params)
            self._asker = self.scheduler.current
            try:
                while not signal.is_set:
                    if self.deadline.over:
                        raise Late
                    await signal.wait(None if self.deadline.standing else self.deadline.left())
            finally:
                self._asker = None
                self.deadline.go_on()
        return self.client.answer("talk.turn", signal, t.Turn)

    def _newest(self, message: dict[str, Any]) -> None:
        self.calls = [
            Call(index, call["function"]["name"], call["function"]["arguments"]) for index, call in enumerate(message.get("tool_calls") or ())
        ]
        content = message.get("content")
        self.said = content if isinstance(content, str) else ""
