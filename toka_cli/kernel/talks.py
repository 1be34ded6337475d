"""The conversations of one agent's tasks, answered: opened from the journal, continued turn by turn, each step written down before the next one is taken.

In: calls of a cell. Out: events, and answers that come when the model has answered. Order of a turn: `llm.started` is durable, the model is asked, the reply
with its planned calls and its usage is one event, and only when that is durable does the cell hear of it. Policy (budget, rate, retries) is the gateway's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import msgspec

from toka_cli import events as e
from toka_cli.errors import ProtocolError, StateUnavailable, TokaError
from toka_cli.kernel.conversation import INTERRUPTED, Conversation, PlannedCall, again, cut_off, normalised
from toka_cli.kernel.exchange import Exchange, Models
from toka_cli.kernel.offers import earlier, offered
from toka_cli.kernel.outputs import AgentLog
from toka_cli.kernel.schemas import schema_problem
from toka_cli.kernel.tool_calls import Later
from toka_cli.llm.provider import Caller, ModelReply, ModelRequest, ProviderError
from toka_cli.plan.plan import PlannedAgent
from toka_cli.protocol import frames
from toka_cli.protocol import messages as m
from toka_cli.protocol import talk as t
from toka_cli.protocol.peer import Answer
from toka_cli.state.journal import Sent
from toka_cli.state.log import EventLog

PAGE_BYTES: Final = frames.MAX_FRAME_BYTES // 2
MAX_REPLY_BYTES: Final = frames.MAX_FRAME_BYTES // 2
"""A reply goes through a door whole; one that is larger was no answer to anything."""
INLINE_RESULT_BYTES: Final = 32 * 1024
"""Results of tools up to this size are kept in the state file, longer ones as artifacts."""
STOP_WAIT_S: Final = 10.0
"""How long a model call under way may go on after a stop: it is paid for in any case (RELIABILITY, "Shutdown order")."""
SAID_CHARS: Final = 4000
_FEW_CHARS: Final = 2000


@dataclass(slots=True)
class Talks:
    """The conversations of one agent. `redact` takes known secrets out of a text before it is kept or sent; `timeout_s` bounds one exchange.

    `tell` notifies the cell; `on_wait` is told when a wait that is nobody's fault begins (+1) and ends (-1), `on_progress` that something came.
    `on_blocked` is told of an error of a model call before the cell is.
    """

    log: EventLog
    agent_id: str
    planned: PlannedAgent
    models: Models | None
    output: AgentLog
    redact: Callable[[str], str] = str
    tell: Callable[[str, m.Message], None] = lambda _method, _params: None
    on_wait: Callable[[int], None] = lambda _: None
    on_progress: Callable[[], None] = lambda: None
    on_blocked: Callable[[TokaError], None] = lambda _: None
    timeout_s: float = 30.0
    _open: dict[str, Conversation] = field(default_factory=dict)
    _asked: dict[str, tuple[Exchange, Answer]] = field(default_factory=dict)
    _starting: dict[str, Caller] = field(default_factory=dict)
    _stopping: bool = False

    # --- calls of the cell ---

    def open(self, task: m.TaskBrief, attempt: int, params: t.OpenTalk, tool_calls_left: int | None) -> t.Talk:
        """Answer `talk.open` for attempt number `attempt`, as the log counts them."""
        conversation = self._open.get(task.id)
        if conversation is None:
            self._open[task.id] = conversation = self._again(task, attempt)
        total = len(conversation.messages)
        if not 0 <= params.after <= total:
            raise ProtocolError(f"a conversation has no message {params.after}")
        page = conversation.page(params.after, PAGE_BYTES)
        if params.after:
            return t.Talk(total=total, messages=page)
        left = self.models.remaining(self._caller(conversation)) if self.models is not None else None
        return t.Talk(
            attempt=conversation.attempt,
            turn=conversation.turn,
            total=total,
            messages=page,
            shortened=tuple(sorted(conversation.shortened)),
            dropped=conversation.dropped,
            open_calls=tuple(t.OpenCall(call.index, call.index in conversation.doubtful) for call in conversation.open_calls()),
            schema_problem=self._schema_problem(conversation),
            results={index: text[:_FEW_CHARS] for index, text in conversation.results.items()},
            failed=conversation.failed,
            earlier=() if conversation.messages else earlier(self.log.view, self.planned, self.agent_id, task.id),
            left=t.Left(tool_calls_left, left.tokens if left else None, left.usd if left else None),
            last=left.wrap_up if left else False,
        )

    def turn(self, task: m.TaskBrief, params: t.TakeTurn) -> m.Message | Later:
        """Answer `talk.turn`: with a reply, when the model has given one. Raises ProtocolError for what does not continue the conversation."""
        conversation = self._open.get(task.id)
        if conversation is None or task.id in self._asked or task.id in self._starting or params.turn != conversation.turn + 1:
            raise ProtocolError(f"turn {params.turn} of task {task.id} is out of order")
        if self._stopping:
            return _no("stopped", "the agent is being stopped")
        sent = self._cleaned(params, conversation.dropped)
        conversation.send(sent)
        caller = self._caller(conversation)
        prompt = self.planned.prompt or m.PromptContext()
        started = e.LlmStarted(caller.turn, prompt.model, conversation.began)
        self.log.append(started, agent=self.agent_id, task=task.id, body=msgspec.json.encode(sent).decode())
        request = ModelRequest(
            model=prompt.model,
            messages=conversation.request(),
            tools=offered(params.tools, self.planned, task),
            temperature=params.temperature,
            max_output_tokens=prompt.max_output_tokens,
            timeout_s=self.timeout_s,
        )
        self._starting[task.id] = caller
        return Later(partial(self._ask, caller, request, prompt.fallbacks))

    def _ask(self, caller: Caller, request: ModelRequest, fallbacks: tuple[str, ...], answer: Answer) -> None:
        """What is asked is durable: ask, unless the attempt has ended meanwhile."""
        if self._starting.get(caller.task) is not caller:
            return
        del self._starting[caller.task]
        if self._stopping:
            self._failed(caller, "stopped", "the agent was stopped before it was asked")
            self.log.after_commit(partial(answer, _no("stopped", "the agent is being stopped")))
            return
        self._asked[caller.task] = Exchange(self.models, caller, request, fallbacks, watcher=self), answer

    def planned_call(self, task_id: str, call_id: str) -> PlannedCall:
        """The call without a result that a reply of this task's conversation asked for. Raises ProtocolError when there is none."""
        conversation = self._open.get(task_id)
        call = conversation.planned(call_id) if conversation is not None else None
        if call is None:
            raise ProtocolError(f"no reply asked for the call {call_id[:80]!r}")
        return call

    def doubtful_task(self, call_id: str) -> str | None:
        """The task of a call that was started in an earlier life and that the cell may end without making it again; None when it is no such call."""
        for task_id, conversation in self._open.items():
            call = conversation.planned(call_id)
            if call is not None and call.index in conversation.doubtful:
                return task_id
        return None

    def tool_done(self, task_id: str, params: m.FinishTool) -> tuple[e.ToolDone, str | None]:
        """The event for the end of a call, and its result as it is kept beside it."""
        call = self.planned_call(task_id, params.call_id)
        text = self.redact(params.result if params.result is not None else (params.error or "done"))
        data = text.encode("utf-8", "backslashreplace")
        artifact = None
        if len(data) > INLINE_RESULT_BYTES:
            artifact = self.log.add_artifact(data, name=f"{params.call_id}.txt", agent=self.agent_id, task=task_id)
        self._open[task_id].result(call.index, text)
        error = self.redact(params.error) if params.error is not None else None
        return e.ToolDone(params.call_id, params.ok, error, len(data), artifact), text if artifact is None else None

    def close(self, task_id: str, *, ok: bool) -> None:
        """The attempt has ended. Raises ProtocolError when the cell says that the task succeeded and the model did not."""
        conversation = self._open.get(task_id)
        finish = conversation.finish() if conversation is not None else None
        if ok and (finish is None or finish.get("status") != "success"):
            raise ProtocolError(f"task {task_id} succeeded, and its model did not say so")
        self._open.pop(task_id, None)
        self._give_up(task_id, "its attempt ended")

    # --- stopping ---

    def stop(self, wait_s: float) -> None:
        """Ask nothing more; end waits at once, and calls under way after `wait_s` seconds or STOP_WAIT_S, whichever is less."""
        self._stopping = True
        for exchange, _ in list(self._asked.values()):
            if exchange.waiting:
                exchange.cancel("stopped")
            else:
                asyncio.get_running_loop().call_later(max(0.0, min(wait_s, STOP_WAIT_S)), exchange.cancel, "abandoned")

    def abandon(self) -> None:
        """The cell is gone: nobody is left to answer."""
        for task_id in [*self._asked, *self._starting]:
            # Written down now: what comes next may be the end of the log.
            self._give_up(task_id, "its process ended")
        self._open.clear()

    def _give_up(self, task_id: str, why: str) -> None:
        caller = self._starting.pop(task_id, None)
        if caller is not None:
            self._failed(caller, "stopped", f"{why} before it was asked")
        if task_id in self._asked:
            exchange, _ = self._asked.pop(task_id)
            exchange.forget()
            self._failed(exchange.caller, "abandoned", f"{why}; it may have been paid for")

    # --- what an exchange says ---

    def waits(self, exchange: Exchange, waiting: bool) -> None:
        """Called by an exchange."""
        self.on_wait(1 if waiting else -1)
        self.tell("talk.wait", t.TalkWait(exchange.task, waiting))

    def notes(self, exchange: Exchange, text: str) -> None:
        """Called by an exchange."""
        self.on_progress()
        if self.log.agent(self.agent_id).detail != text:
            with suppress(StateUnavailable):
                self.log.append(e.AgentNoted(self.redact(text)[:500]), agent=self.agent_id)

    def ended(self, exchange: Exchange, reply: ModelReply | None, error: TokaError | None) -> None:
        """Called by an exchange: write down how it ended, and tell the cell when that is durable."""
        _, answer = self._asked.pop(exchange.task)
        if reply is not None:
            answered = self._replied(exchange, reply)
        elif error is not None:
            answered = self._refused(exchange, error)
        else:
            self._failed(exchange.caller, exchange.cancelled_as, "the agent was stopped")
            answered = _no(exchange.cancelled_as, "the agent is being stopped")
        self.log.after_commit(partial(answer, answered))

    def _replied(self, exchange: Exchange, reply: ModelReply) -> t.Turn:
        message = self._clean(normalised(reply.message))
        body = msgspec.json.encode(message)
        if len(body) > MAX_REPLY_BYTES:
            return self._refused(exchange, ProviderError("too_large", f"the reply has {len(body)} bytes; the limit is {MAX_REPLY_BYTES}"))
        conversation = self._open[exchange.task]
        conversation.reply(message)
        event = e.LlmReplied(
            turn=exchange.caller.turn,
            model=reply.model or exchange.model,
            finish_reason=reply.finish_reason,
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            cost_usd=reply.cost_usd,
            cached_tokens=reply.cached_tokens,
            from_cache=reply.from_cache,
            calls=tuple(call.tool[:64] for call in conversation.calls),
            duration_s=round(exchange.took_s, 6),
            waited_s=round(exchange.waited_s, 6),
        )
        self._append(event, exchange.task, body.decode())
        self._log_words(exchange, conversation, message.get("content"))
        assert self.models is not None
        return t.Turn(
            message=message,
            finish_reason=reply.finish_reason,
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            warning=self.models.warning(exchange.caller),
            last=self.models.remaining(self._caller(conversation)).wrap_up,
            schema_problem=self._schema_problem(conversation),
        )

    def _refused(self, exchange: Exchange, error: TokaError) -> t.Turn:
        message, hint = self.redact(error.message), self.redact(error.hint) if error.hint else None
        self._failed(exchange.caller, error.cause if isinstance(error, ProviderError) else error.code, message)
        for line in (hint or "").splitlines():
            self.output.say(exchange.task, line)
        self.on_blocked(error)
        return _no(error.code, message, hint)

    def _failed(self, caller: Caller, cause: str, message: str) -> None:
        self._append(e.LlmFailed(caller.turn, cause, message[:2000]), caller.task)
        self.output.say(caller.task, f"turn {caller.turn}: no answer: {cause}: {message[:SAID_CHARS]}")

    def _log_words(self, exchange: Exchange, conversation: Conversation, text: Any) -> None:
        turn = exchange.caller.turn
        if isinstance(text, str) and text.strip():
            self.output.say(exchange.task, f"turn {turn}: {text.strip()[:SAID_CHARS]}")
        for call in conversation.calls:
            self.output.say(exchange.task, f"turn {turn}: {call.tool[:64]} {call.arguments[:300]}")

    def _append(self, event: e.AnyEvent, task_id: str, body: str | None = None) -> None:
        self.on_progress()
        # A log that failed has told everybody who can do something about it.
        with suppress(StateUnavailable):
            self.log.append(event, agent=self.agent_id, task=task_id, body=body)

    # --- small parts ---

    def _caller(self, conversation: Conversation) -> Caller:
        planned = self.planned
        return Caller(self.agent_id, planned.name, planned.workstream, conversation.task, conversation.attempt, conversation.turn + 1)

    def _again(self, task: m.TaskBrief, attempt: int) -> Conversation:
        """The conversation from the journal. What was cut off is written down as that."""
        journal = self.log.journal(self.agent_id, task.id)
        conversation = again(journal, task.id, attempt, self._artifact)
        if journal.exchanges and journal.exchanges[-1].state == "started":
            self._append(e.LlmFailed(journal.exchanges[-1].turn, "abandoned", "interrupted; it may have been paid for"), task.id)
        for call, kept in cut_off(conversation, journal):
            if kept.effect == "verify":
                conversation.doubtful.add(call.index)
            elif kept.effect == "effect":
                self._append(e.ToolDone(conversation.call_id(call), ok=False, error=INTERRUPTED), task.id, INTERRUPTED)
                conversation.result(call.index, INTERRUPTED)
        return conversation

    def _artifact(self, digest: str) -> str:
        try:
            return (self.log.folder.artifacts / digest).read_text("utf-8", "replace")
        except OSError:
            return "this result is not kept any more"

    def _schema_problem(self, conversation: Conversation) -> str | None:
        schema = next((task.output_schema for task in self.planned.tasks if task.id == conversation.task), None)
        finish = conversation.finish()
        if schema is None or finish is None or finish.get("status") != "success":
            return None
        if "output" not in finish:
            return "output_schema: finish came without output"
        return schema_problem(schema, e.Outcome(value=finish["output"], output="null"))

    def _cleaned(self, params: t.TakeTurn, dropped: int) -> Sent:
        answers = {index: self.redact(text) for index, text in params.answers.items()}
        return Sent(answers, self._clean(params.messages), params.shorten, max(params.drop, dropped), params.tools, params.temperature)

    def _clean(self, value: Any) -> Any:
        """The same without secrets, wherever a text is."""
        match value:
            case str():
                return self.redact(value)
            case dict():
                return {name: self._clean(one) for name, one in value.items()}
            case list() | tuple():
                return type(value)(self._clean(one) for one in value)
            case _:
                return value


def _no(code: str, message: str, hint: str | None = None) -> t.Turn:
    return t.Turn(error=t.TalkError(code, message, hint))
