"""The conversations of an agent as they were sent, read back from a state file that an EventLog wrote."""

from __future__ import annotations

import msgspec
import pytest

from toka_cli import events as e
from toka_cli.errors import StateUnavailable
from toka_cli.protocol.talk import call_id
from toka_cli.state.journal import Sent
from toka_cli.state.prompts import Said, read_prompts

SYSTEM = {"role": "system", "content": "You are an agent."}
TODO = {"role": "user", "content": "Mend it."}


def body(value):
    return msgspec.json.encode(value).decode()


def answer(content, *calls):
    made = [{"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": arguments}} for n, (name, arguments) in enumerate(calls)]
    return {"role": "assistant", "content": content, **({"tool_calls": made} if made else {})}


@pytest.fixture
def talk(log, tools):
    """A log with an agent at work on t1, and short ways to ask, to hear, and to run a tool."""
    (agent,) = tools.begin(log, "one")
    tools.up(log, agent)

    class Talking:
        id = agent

        def note(self, event, task="t1"):
            log.append(event, agent=agent, task=task)

        def attempt(self, task="t1"):
            self.note(e.TaskStarted(), task)

        def ask(self, turn, *messages, attempt=1, task="t1", **more):
            log.append(e.LlmStarted(turn, "openai/x", attempt), agent=agent, task=task, body=body(Sent(messages=messages, **more)))

        def hear(self, turn, message, task="t1"):
            log.append(e.LlmReplied(turn, "openai/x-1", "tool_calls", 10, 2, 0.5), agent=agent, task=task, body=body(message))

        def run(self, conversation, turn, index, result=None, *, tool="read_file", artifact=None, ok=True, error=None, task="t1"):
            name = call_id(task, conversation, turn, index)
            log.append(e.ToolCalled(name, tool), agent=agent, task=task)
            log.append(e.ToolDone(name, ok, error, 3, artifact), agent=agent, task=task, body=result)

        def read(self):
            log.flush()
            return read_prompts(log.folder, agent)

    return Talking()


def test_nothing_was_asked(talk):
    assert talk.read() == []


def test_a_conversation_turn_by_turn(talk):
    talk.attempt()
    talk.ask(1, SYSTEM, TODO, tools=("read_file", "finish"), temperature=0.2)
    talk.hear(1, answer("I look.", ("read_file", '{"path":"a"}'), ("http_fetch", "{}"), ("read_file", '{"path":"big"}')))
    talk.run(1, 1, 0, "text of a")
    talk.run(1, 1, 2, artifact="ab" * 32)
    talk.ask(2, {"role": "user", "content": "Go on."}, answers={1: "denied: network-access"}, shortened=(2,), dropped=0)
    talk.hear(2, answer(None, ("finish", "{}")))
    ((first, second),) = [it.turns for it in talk.read()]
    assert first.messages == (Said("system", "You are an agent."), Said("user", "Mend it."))
    assert first.reply == Said("assistant", "I look.", (("read_file", '{"path":"a"}'), ("http_fetch", "{}"), ("read_file", '{"path":"big"}')))
    assert (first.model, first.tools, first.temperature, first.input_tokens, first.cost_usd) == ("openai/x-1", ("read_file", "finish"), 0.2, 10, 0.5)
    assert second.messages == (
        Said("tool", "text of a", tool="read_file"), Said("tool", "denied: network-access", tool="http_fetch"),
        Said("tool", None, tool="read_file", artifact="ab" * 32), Said("user", "Go on."),
    )  # fmt: skip
    assert (second.shortened, second.reply.content, second.reply.calls) == ((2,), None, (("finish", "{}"),))


def test_every_conversation_of_every_task_is_there(talk):
    talk.attempt()
    talk.ask(1, SYSTEM, TODO)
    talk.hear(1, answer("no", ("run_command", "{}")))
    talk.run(1, 1, 0, "first life", tool="run_command")
    talk.ask(2)
    talk.hear(2, answer("I give up"))
    talk.note(e.TaskRetrying(1, "gave up", 0.0))
    talk.attempt()
    talk.ask(1, SYSTEM, {"role": "user", "content": "Another way."}, attempt=2)
    talk.hear(1, answer("ok", ("run_command", "{}")))
    talk.run(2, 1, 0, None, tool="run_command", ok=False, error="exit status 1")
    talk.ask(2, attempt=2)
    talk.note(e.TaskFailed("x"))
    talk.attempt("t2")
    talk.ask(1, SYSTEM, TODO, task="t2")
    found = talk.read()
    assert [(it.task, it.number, it.attempt, len(it.turns)) for it in found] == [("t1", 1, 1, 2), ("t1", 2, 2, 2), ("t2", 1, 1, 1)]
    assert found[0].turns[1].messages == (Said("tool", "first life", tool="run_command"),)
    assert found[1].turns[1].messages == (Said("tool", "exit status 1", tool="run_command"),)
    assert (found[2].turns[0].state, found[2].turns[0].reply) == ("started", None)


def test_a_turn_without_an_answer_says_why(talk):
    talk.attempt()
    talk.ask(1, SYSTEM, TODO)
    talk.note(e.LlmFailed(1, "rate_limit", "later"))
    talk.ask(1)
    talk.hear(1, answer("done"))
    ((failed, replied),) = [it.turns for it in talk.read()]
    assert (failed.state, failed.error, failed.reply) == ("failed", "rate_limit: later", None)
    assert (replied.messages, replied.reply.content) == ((), "done")


def test_what_is_no_journal_is_damage(talk, log):
    talk.attempt()
    log.append(e.LlmStarted(1, "x", 1), agent=talk.id, task="t1", body="[not a journal")
    with pytest.raises(StateUnavailable, match="damaged"):
        talk.read()


def test_parts_that_are_no_text_are_shown_as_json(talk):
    talk.attempt()
    talk.ask(1, SYSTEM, TODO)
    talk.hear(1, {"role": "assistant", "content": [{"type": "text", "text": "hi"}]})
    assert talk.read()[0].turns[0].reply.content == '[{"type":"text","text":"hi"}]'
