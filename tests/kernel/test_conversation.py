"""Conversations in the kernel: the order of their steps, what is durable when, what a lying cell is told, and that a new life goes on where the old one was."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.kernel.talkers import Desk, ScriptedModels, agent_of, finish, prompt_task, reply
from toka_cli.errors import BudgetExhausted, ProtocolError, ReplayMiss
from toka_cli.kernel.conversation import INTERRUPTED, MAX_CALLS, Conversation, normalised, shortened
from toka_cli.kernel.talks import INLINE_RESULT_BYTES
from toka_cli.llm.provider import ProviderError
from toka_cli.protocol import messages as m
from toka_cli.protocol import talk as t
from toka_cli.state.journal import Sent

HEAD = ({"role": "system", "content": "who"}, {"role": "user", "content": "what"})
LOOK = reply(("list_dir", {"path": "."}))


@pytest.fixture
def desk(folder):
    """Runs a coroutine function of a Desk in a loop; more lives may follow in the same test."""

    def run(play, *script, agent=None, **options):
        async def main():
            models = ScriptedModels(*script)
            with Desk(folder, agent or agent_of(), models, **options) as made:
                return await asyncio.wait_for(play(made), 60)

        return asyncio.run(main())

    return run


# --- a conversation by itself --------------------------------------------------------------------------------------------------------


def begun(*calls):
    conversation = Conversation("p", 1, 1)
    conversation.send(Sent(messages=HEAD))
    conversation.reply(normalised(reply(*calls).message))
    return conversation


def test_results_stand_behind_their_reply_in_its_order():
    conversation = begun(("a", {}), ("b", {}), ("c", {}))
    conversation.result(2, "third")
    conversation.result(0, "first")
    conversation.send(Sent({1: "second"}, ({"role": "user", "content": "and?"},)))
    assert [message["content"] for message in conversation.request()[3:]] == ["first", "second", "third", "and?"]
    assert [message.get("tool_call_id") for message in conversation.request()[3:]] == ["c1", "c2", "c3", None]


@pytest.mark.parametrize(
    "sent",
    [
        Sent(),
        Sent({0: "x"}),
        Sent({0: "x", 1: "y", 2: "z"}),
        Sent({0: "x", 1: "y"}, ({"role": "system", "content": "x"},)),
        Sent({0: "x", 1: "y"}, ({"role": "assistant", "content": "x"},)),
        Sent({0: "x", 1: "y"}, ({"role": "tool", "content": "x", "tool_call_id": "c1"},)),
        Sent({0: "x", 1: "y"}, ({"role": "user", "content": [1]},)),
        Sent({0: "x", 1: "y"}, ({"role": "user", "content": "x", "name": "root"},)),
        Sent({0: "x", 1: "y"}, shortened=(0,)),
        Sent({0: "x", 1: "y"}, shortened=(99,)),
        Sent({0: "x", 1: "y"}, dropped=3),
        Sent({0: "x", 1: "y"}, dropped=-1),
        Sent({0: "x", 1: "y"}, dropped=9),
        Sent({0: "x", 1: "y" * (9 << 20)}),
    ],
)
def test_what_would_break_the_pairs_is_refused_and_changes_nothing(sent):
    conversation = begun(("a", {}), ("b", {}))
    before = conversation.request()
    with pytest.raises(ProtocolError):
        conversation.send(sent)
    assert conversation.request() == before
    conversation.send(Sent({0: "x", 1: "y"}))
    assert len(conversation.request()) == len(before) + 2


def test_a_conversation_begins_with_two_texts():
    for first in ((), HEAD[:1], HEAD[1:], (HEAD[1], HEAD[0])):
        with pytest.raises(ProtocolError):
            Conversation("p", 1, 1).send(Sent(messages=first))


def test_what_is_left_out_is_said_and_pairs_stay_whole():
    conversation = begun(("a", {"text": "x" * 1000}))
    conversation.send(Sent({0: "r" * 1000}))
    conversation.reply(normalised(reply(("b", {})).message))
    conversation.send(Sent({0: "s"}, shortened=(2, 3)))
    _, _, call, result, *_ = conversation.request()
    assert len(call["tool_calls"][0]["function"]["arguments"]) < 300
    assert json.loads(call["tool_calls"][0]["function"]["arguments"])["text"].endswith("characters left out]")
    assert result["content"] == "1000 characters of this result were left out to save room. Call the tool again if you need it."
    conversation.reply(normalised(reply(("c", {})).message))
    conversation.send(Sent({0: "t"}, dropped=4))
    assert [message["role"] for message in conversation.request()] == ["system", "user", "user", "assistant", "tool", "assistant", "tool"]
    assert "2 earlier messages of this conversation were left out" in conversation.request()[2]["content"]
    assert conversation.page(0, 10_000)[2:4] == ({}, {})


def test_short_messages_are_not_made_longer_by_leaving_out():
    for message in ({"role": "tool", "content": "ok", "tool_call_id": "c"}, {"role": "user", "content": "x" * 999}, reply(text="x" * 999).message):
        assert shortened(message) == message


def test_odd_replies_are_made_sound():
    calls = [{"id": "same", "function": {"name": "a", "arguments": "{}"}}] * 2 + [{"function": {}}, {}] + [{"id": f"n{n}"} for n in range(200)]
    message = normalised({"content": None, "tool_calls": calls})
    assert len(message["tool_calls"]) == MAX_CALLS
    assert len({call["id"] for call in message["tool_calls"]}) == MAX_CALLS
    assert all(isinstance(call["function"]["arguments"], str) for call in message["tool_calls"])
    assert "tool_calls" not in normalised({"content": "x", "tool_calls": []})
    assert normalised({"role": "system", "content": "x"})["role"] == "assistant"


# --- the order of a turn -------------------------------------------------------------------------------------------------------------


def test_each_step_is_durable_before_the_next_one(desk):
    async def play(it):
        await it.up()

        def when_asked():
            it.seen = it.kinds()[-1], it.durable("SELECT state, turn FROM llm_calls")

        it.models.on_ask = when_asked
        answered = await it.first()
        assert it.seen == ("llm.started", [("started", 1)])
        assert answered.message["tool_calls"][0]["function"]["name"] == "list_dir"
        assert it.kinds()[-1] == "llm.replied"
        assert it.durable("SELECT state, input_tokens, output_tokens, cost_usd, model FROM llm_calls") == [("replied", 100, 10, 0.01, "m")]
        assert (await it.call("p.1.1.0", "list_dir", path=".")).go
        assert it.kinds()[-1] == "tool.called"
        assert it.durable("SELECT decision FROM audit WHERE action = 'tool.call'") == [("allowed",)]
        await it.done("p.1.1.0", "a b c")
        assert it.kinds()[-1] == "tool.done"
        assert it.durable("SELECT state, ok, result FROM tool_calls") == [("done", 1, "a b c")]
        await it.turn(2)
        assert await it.end(output="done") == m.Verdict("succeeded")
        return it.models.asked

    asked = desk(play, LOOK, finish())
    caller, request, fallbacks = asked[1]
    assert (caller.task, caller.attempt, caller.turn, fallbacks) == ("p", 1, 2, ("n",))
    assert [message["role"] for message in request.messages] == ["system", "user", "assistant", "tool"]
    assert request.messages[-1] == {"role": "tool", "tool_call_id": "c1", "content": "a b c"}


def test_only_tools_of_held_powers_are_offered_and_finish_always(desk):
    async def play(it):
        await it.up()
        await it.first()
        return it.models.asked[0][1].tools

    schema = {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}
    agent = agent_of(prompt_task(output_schema=schema), tools=("read_file",))
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in desk(play, finish(output={"n": 1}), agent=agent)}
    assert set(tools) == {"read_file", "finish", "ask"}
    assert tools["finish"]["properties"]["output"]["properties"] == {"n": {"$ref": "#/$defs/n"}}
    assert tools["finish"]["$defs"]["n"] == {"type": "integer"}
    assert tools["read_file"]["properties"]["path"]["type"] == "string"


def test_usage_adds_up_for_task_agent_and_run(desk):
    async def play(it):
        await it.up()
        await it.first()
        for turn in (2, 3):
            await it.turn(turn, answers={0: "x"})
        views = it.task(), it.view(), it.log.view
        return [(it.usage.turns, it.usage.llm_requests, it.usage.input_tokens, it.usage.output_tokens, it.usage.cost_usd) for it in views]

    cached = reply(("list_dir", {}), from_cache=True, cost_usd=0.01)
    assert desk(play, LOOK, cached, reply(text="x", cost_usd=0.02)) == [(3, 2, 200, 20, 0.03)] * 3


def test_one_unknown_price_makes_the_sum_unknown(desk):
    async def play(it):
        await it.up()
        await it.first()
        await it.turn(2, answers={0: "x"})
        return it.view().usage.cost_usd

    assert desk(play, reply(("list_dir", {}), cost_usd=None), finish()) is None


def test_what_goes_on_is_said_with_since_when(desk):
    async def play(it):
        seen = []
        it.models.on_ask = lambda: seen.append((it.view().detail, it.view().detail_since))
        await it.up()
        await it.first()
        return seen, it.view().detail

    ((asking, since),), after = desk(play, LOOK)
    assert asking == "asking m, turn 1"
    assert since is not None
    assert after == "executing task p"


def test_waiting_for_a_limit_is_told_noted_and_excused(desk):
    async def wait(models, on_wait, on_delta):
        on_wait("waiting for the rate limit until 12:04")
        models.seen = models.session.excused, models.session.resting, models.log.agent(models.session.agent_id).detail
        await asyncio.sleep(0.05)
        on_wait("")
        on_delta(10)
        return LOOK

    async def play(it):
        it.models.session, it.models.log = it.session, it.log
        await it.up()
        await it.first()
        assert it.models.seen == (1, True, "waiting for the rate limit until 12:04")
        assert it.session.excused == 0
        assert it.told == [("talk.wait", t.TalkWait("p", True)), ("talk.wait", t.TalkWait("p", False))]
        ((event,),) = it.durable("SELECT event FROM events WHERE kind = 'llm.replied'")
        return json.loads(event)

    event = desk(play, wait)
    assert 0.04 < event["waited_s"] <= event["duration_s"]


def test_a_warning_and_the_last_turn_are_passed_on(desk):
    async def play(it):
        it.models.left.wrap_up, it.models.left.tokens, it.models.warnings = True, 7, ["90 % used"]
        talk = await it.up()
        return talk, await it.first()

    talk, turn = desk(play, LOOK)
    assert (talk.last, talk.left.tokens) == (True, 7)
    assert (turn.last, turn.warning) == (True, "90 % used")


# --- errors --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "again"),
    [
        (ProviderError("timeout", "slow"), "provider_timeout", True),
        (ProviderError("quota", "no money", hint="pay"), "provider_quota", False),
        (ProviderError("context", "too long"), "provider_context", True),
        (BudgetExhausted("used up"), "budget", False),
        (ReplayMiss("not recorded"), "replay_miss", False),
    ],
)
def test_an_error_of_the_gateway_is_the_answer(desk, error, code, again):
    async def play(it):
        await it.up()
        answered = await it.first()
        assert answered.error.code == code
        assert answered.error.hint == error.hint
        assert it.kinds()[-1] == "llm.failed"
        assert it.durable("SELECT state, error FROM llm_calls") == [("failed", f"{code.removeprefix('provider_')}: {error.message}")]
        return await it.end(ok=False, reason=f"{code}: {error.message}")

    verdict = desk(play, error, agent=agent_of(prompt_task(retries=1)))
    assert verdict.verdict == ("retry" if again else "failed")


def test_without_a_model_the_reason_says_so(folder):
    async def main():
        with Desk(folder, agent_of(), None) as it:
            await it.up()
            return await it.first()

    assert asyncio.run(main()).error.code == "no_model"


def test_a_reply_that_fits_through_no_door_is_an_error(desk):
    async def play(it):
        await it.up()
        return await it.first()

    assert desk(play, reply(text="x" * 600_000)).error.code == "provider_too_large"


def test_a_turn_that_failed_may_be_asked_again_with_less(desk):
    async def play(it):
        await it.up()
        await it.first()
        await it.call("p.1.1.0", "list_dir", path=".")
        await it.done("p.1.1.0", "x" * 5000)
        assert (await it.turn(2)).error.code == "provider_context"
        assert (await it.turn(2, shorten=(3,))).error is None
        return it.models.asked

    asked = desk(play, LOOK, ProviderError("context", "too long"), finish())
    assert len(asked[1][1].messages[3]["content"]) == 5000
    assert "left out" in asked[2][1].messages[3]["content"]
    assert len(asked[1][1].messages) == len(asked[2][1].messages)


def test_an_error_that_interrupts_the_run_leaves_the_task_open(desk):
    blocked = []

    async def play(it):
        await it.up()
        await it.first()
        verdict = await it.end(ok=False, reason="provider_quota: x")
        assert await it("agent.finish", m.FinishAgent()) == m.Ack()
        return verdict.verdict, str(it.task().state)

    def on_blocked(error):
        blocked.append(error.code)
        return True

    assert desk(play, ProviderError("quota", "x"), on_blocked=on_blocked) == ("stopped", "running")
    assert blocked == ["provider_quota"]

    async def resumed(it):
        talk = await it.up()
        assert (talk.turn, talk.attempt) == (0, 1)
        assert [message["content"] for message in talk.messages] == ["who", "what"]
        assert (await it.turn(1)).error is None
        return [message["content"] for message in it.models.asked[0][1].messages]

    assert desk(resumed, finish(), resume=True) == ["who", "what"]


# --- stopping ------------------------------------------------------------------------------------------------------------------------


async def never(models, on_wait, on_delta):
    await asyncio.Event().wait()


def test_a_stop_ends_waits_at_once(desk):
    async def queued(models, on_wait, on_delta):
        on_wait("waiting for its turn")
        await asyncio.Event().wait()

    async def play(it):
        await it.up()
        turn = it.turn_later(1, "who", "what")
        await it.models.began.wait()
        await asyncio.sleep(0)
        it.session.stop("user", resumable=True, wait_s=3600.0)
        answered = await asyncio.wait_for(turn, 5)
        assert answered.error.code == "stopped"
        assert it.session.excused == 0
        assert it.durable("SELECT state FROM llm_calls") == [("stopped",)]
        return (await it.end(ok=False, reason="stopped: user")).verdict, str(it.task().state)

    assert desk(play, queued) == ("stopped", "running")


def test_a_stop_lets_a_call_under_way_end_and_keeps_its_reply(desk):
    async def slow(models, on_wait, on_delta):
        await models.go.wait()
        return LOOK

    async def play(it):
        it.models.go = asyncio.Event()
        await it.up()
        turn = it.turn_later(1, "who", "what")
        await it.models.began.wait()
        it.session.stop("user", resumable=True, wait_s=3600.0)
        it.models.go.set()
        answered = await asyncio.wait_for(turn, 5)
        assert answered.error is None
        assert (await it.turn(2, answers={0: "x"})).error.code == "stopped"
        return it.durable("SELECT state FROM llm_calls")

    assert desk(play, slow) == [("replied",)]


def test_a_call_that_does_not_end_after_a_stop_is_abandoned(desk):
    async def play(it):
        await it.up()
        turn = it.turn_later(1, "who", "what")
        await it.models.began.wait()
        it.session.stop("user", resumable=True, wait_s=0.05)
        answered = await asyncio.wait_for(turn, 5)
        return answered.error.code, it.durable("SELECT state FROM llm_calls")

    assert desk(play, never) == ("abandoned", [("abandoned",)])


def test_a_cell_that_is_gone_takes_its_questions_with_it(desk):
    async def play(it):
        await it.up()
        turn = it.turn_later(1, "who", "what")
        await it.models.began.wait()
        it.session.abandon()
        await it.log.committed()
        await asyncio.sleep(0)
        assert not turn.done()
        return it.durable("SELECT state FROM llm_calls")

    assert desk(play, never) == [("abandoned",)]


def test_an_attempt_that_ends_early_gives_up_its_question(desk):
    async def play(it):
        await it.up()
        it.turn_later(1, "who", "what")
        await it.models.began.wait()
        assert (await it.end(ok=False, reason="limit.task_timeout: x")).verdict == "failed"
        return it.durable("SELECT state FROM llm_calls")

    assert desk(play, never) == [("abandoned",)]


# --- what a lying cell says ----------------------------------------------------------------------------------------------------------


async def lie_unplanned(it):
    await it.call("p.1.1.9", "list_dir", path=".")


async def lie_done_unplanned(it):
    await it.done("p.1.1.0", "x")


async def lie_twice(it):
    await it.call("p.1.1.0", "list_dir", path=".")
    await it.done("p.1.1.0", "x")
    await it.call("p.1.1.0", "list_dir", path=".")


async def lie_turn(it):
    await it.turn(3, answers={0: "x"})


async def lie_first_turn_again(it):
    await it.turn(1, answers={0: "x"})


async def lie_two_at_once(it):
    it.turn_later(2, answers={0: "x"})
    it.turn_later(2)


async def lie_no_result(it):
    await it.turn(2)


async def lie_success(it):
    await it.end(ok=True)


async def lie_beyond(it):
    await it.open(after=99)


async def lie_command(it):
    await it.start("c")
    await it.open("c")


async def lie_not_running(it):
    await it.open("q")


LIES = [
    lie_unplanned, lie_done_unplanned, lie_twice, lie_turn, lie_first_turn_again, lie_two_at_once, lie_no_result, lie_success, lie_beyond, lie_command,
    lie_not_running,
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_a_breach_and_the_log_stays_whole(desk, lie):
    async def play(it):
        await it.up()
        await it.first()
        with pytest.raises(ProtocolError):
            await lie(it)
        await it.log.committed()
        assert it.log.failed is None

    command = m.TaskBrief(id="c", description="c", kind="command", run=("true",))
    desk(play, LOOK, never, agent=agent_of(prompt_task(), prompt_task("q"), command))


def test_a_turn_before_the_talk_is_open_is_a_breach(desk):
    async def play(it):
        await it.hello()
        await it.start()
        with pytest.raises(ProtocolError):
            await it.first()

    desk(play)


# --- secrets and sizes ---------------------------------------------------------------------------------------------------------------


def test_a_known_secret_is_neither_kept_nor_sent_nor_shown(desk, folder):
    async def play(it):
        await it.up()
        answered = await it.turn(1, "who", "the key is sk-planted")
        await it.call("p.1.1.0", "read_file", path="x")
        await it.done("p.1.1.0", "in the file: sk-planted", error="sk-planted")
        await it.turn(2, "again sk-planted")
        return answered, it.models.asked

    script = [reply(("read_file", {"path": "sk-planted"}), text="I saw sk-planted"), finish(summary="sk-planted")]
    answered, asked = desk(play, *script, redact=lambda text: text.replace("sk-planted", "***"))
    assert "sk-planted" not in json.dumps(answered.message)
    assert all("sk-planted" not in json.dumps(request.messages) for _, request, _ in asked)
    assert "***" in json.dumps(asked[1][1].messages)
    for path in folder.root.rglob("*"):
        assert not path.is_file() or b"sk-planted" not in path.read_bytes(), path


@pytest.mark.parametrize("size", [INLINE_RESULT_BYTES, INLINE_RESULT_BYTES + 1, 400_000])
def test_a_long_result_is_kept_as_an_artifact_and_comes_back_whole(desk, size):
    async def play(it):
        await it.up()
        await it.first()
        await it.call("p.1.1.0", "list_dir", path=".")
        await it.done("p.1.1.0", "ä" + "x" * (size - 2))
        ((result, artifact),) = it.durable("SELECT result, artifact FROM tool_calls")
        assert (artifact is None) == (size <= INLINE_RESULT_BYTES)
        assert (result is None) == (artifact is not None)
        return len(it.durable("SELECT event FROM events WHERE kind = 'tool.done'")[0][0])

    assert desk(play, LOOK) < 1000

    async def resumed(it):
        talk = await it.up()
        assert talk.turn == 1
        assert talk.open_calls == ()
        assert talk.results[0].startswith("äx")
        await it.turn(2)
        return it.models.asked[0][1].messages[-1]["content"]

    assert desk(resumed, finish(), resume=True) == "ä" + "x" * (size - 2)


def test_a_long_conversation_comes_back_in_pages(desk):
    async def play(it):
        await it.up()
        await it.first()
        for turn in range(2, 8):
            await it.turn(turn, answers={0: "r" * 200_000})

    desk(play, *[LOOK] * 7)

    async def resumed(it):
        talk = await it.up()
        known = list(talk.messages)
        while len(known) < talk.total:
            more = await it.open(after=len(known))
            assert more.messages
            assert sum(len(json.dumps(message)) for message in more.messages) < 1 << 20
            known += more.messages
        return known, talk

    known, talk = desk(resumed, resume=True)
    assert [message["role"] for message in known] == ["system", "user", *["assistant", "tool"] * 6, "assistant"]
    assert talk.turn == 7
    assert [call.index for call in talk.open_calls] == [0]


# --- a new life ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [False, True])
def test_what_was_left_out_stays_left_out_in_a_new_life(desk, resume):
    async def play(it):
        await it.up()
        await it.first()
        await it.turn(2, answers={0: "a" * 500})
        await it.turn(3, answers={0: "b" * 500}, shorten=(3,))
        await it.turn(4, answers={0: "c"}, drop=4)
        if resume:
            return it.models.asked[-1][1].messages, None
        it.begin()
        talk = await it.up()
        await it.turn(5, answers={0: "d"})
        return it.models.asked[-2][1].messages, it.models.asked[-1][1].messages, talk

    script = [LOOK] * 5 if not resume else [LOOK] * 4
    before, after, *talk = desk(play, *script)

    async def resumed(it):
        talk = await it.up()
        await it.turn(5, answers={0: "d"})
        return it.models.asked[-1][1].messages, talk

    if resume:
        after, *talk = desk(resumed, LOOK, resume=True)
    assert after[: len(before)] == before
    assert (talk[0].shortened, talk[0].dropped) == ((3,), 4)


def cut_off_call(desk, tool, args, state):
    """A life that ends with a call in this state; what the next one is told."""

    async def play(it):
        await it.up()
        await it.first()
        if state != "planned":
            assert (await it.call("p.1.1.0", tool, **args)).go
        if state == "done":
            await it.done("p.1.1.0", "fine")

    desk(play, reply((tool, args), ("list_dir", {})))

    async def resumed(it):
        talk = await it.up()
        return talk, it.durable("SELECT state, ok, result FROM tool_calls"), it.kinds()

    return desk(resumed, resume=True)


@pytest.mark.parametrize(
    ("tool", "args"), [("run_command", {"argv": ["true"]}), ("write_file", {"path": "a", "content": "x"}), ("read_file", {"path": "a"})]
)
def test_calls_that_never_began_are_open_and_calls_that_ended_are_not(desk, tool, args, folder, tmp_path):
    talk, _, _ = cut_off_call(desk, tool, args, "planned")
    assert [(call.index, call.doubtful) for call in talk.open_calls] == [(0, False), (1, False)]
    assert talk.results == {}


@pytest.mark.parametrize("tool", ["run_command", "write_file", "read_file"])
def test_a_call_that_ended_is_not_made_again(desk, tool):
    args = {"run_command": {"argv": ["true"]}, "write_file": {"path": "a", "content": "x"}, "read_file": {"path": "a"}}[tool]
    talk, rows, _ = cut_off_call(desk, tool, args, "done")
    assert [call.index for call in talk.open_calls] == [1]
    assert talk.results == {0: "fine"}
    assert rows == [("done", 1, "fine")]


def test_a_call_with_an_effect_that_was_cut_off_is_told_and_never_made_again(desk):
    talk, rows, kinds = cut_off_call(desk, "run_command", {"argv": ["true"]}, "started")
    assert [call.index for call in talk.open_calls] == [1]
    assert talk.results == {0: INTERRUPTED}
    assert rows == [("done", 0, INTERRUPTED)]
    assert kinds[-1] == "tool.done"


def test_a_call_that_can_be_checked_is_left_to_its_tool(desk):
    talk, rows, _ = cut_off_call(desk, "write_file", {"path": "a", "content": "x"}, "started")
    assert [(call.index, call.doubtful) for call in talk.open_calls] == [(0, True), (1, False)]
    assert rows == [("started", None, None)]


def test_a_pure_call_that_was_cut_off_is_made_again(desk):
    talk, _, _ = cut_off_call(desk, "read_file", {"path": "a"}, "started")
    assert [(call.index, call.doubtful) for call in talk.open_calls] == [(0, False), (1, False)]


def test_a_checked_call_may_end_without_being_made_again(desk):
    cut_off_call(desk, "write_file", {"path": "a", "content": "x"}, "started")

    async def resumed(it):
        await it.up()
        await it.done("p.1.1.0", "it is there")
        await it.turn(2, answers={1: "y"})
        return it.models.asked[0][1].messages[3]["content"], it.durable("SELECT state, result FROM tool_calls")

    assert desk(resumed, finish(), resume=True) == ("it is there", [("done", "it is there")])


def test_a_model_call_that_was_cut_off_is_said_and_made_again(desk, folder):
    async def play(it):
        await it.up()
        it.turn_later(1, "who", "what")
        await it.models.began.wait()
        # As if the owner died here: nothing of this session is written any more.
        it.session, it.models.script = None, []
        it.log.flush()

    desk(play, never)

    async def resumed(it):
        talk = await it.up()
        assert (talk.turn, talk.total) == (0, 2)
        assert it.durable("SELECT state, error FROM llm_calls") == [("abandoned", "abandoned: interrupted; it may have been paid for")]
        await it.turn(1)
        return it.durable("SELECT turn, state FROM llm_calls ORDER BY id"), it.models.asked[0][0].turn

    assert desk(resumed, finish(), resume=True) == ([(1, "abandoned"), (1, "replied")], 1)


def test_another_attempt_is_another_conversation_and_knows_why(desk):
    async def play(it):
        await it.up()
        await it.first()
        assert (await it.end(ok=False, reason="stuck: in circles")).verdict == "retry"
        await it.start(attempt=2)
        talk = await it.open()
        assert (talk.attempt, talk.turn, talk.total, talk.failed) == (2, 0, 0, "stuck: in circles")
        await it.first()
        assert it.models.asked[-1][0].attempt == 2
        it.begin()
        talk = await it.up()
        # A crash after that goes on with the second one, which still knows.
        assert (talk.attempt, talk.turn, talk.failed) == (2, 1, "stuck: in circles")
        return await it.call("p.2.1.0", "list_dir", path=".")

    assert desk(play, LOOK, LOOK, agent=agent_of(prompt_task(retries=3))).go


def test_an_attempt_that_only_lacked_a_model_goes_on_with_the_same_conversation(desk):
    async def play(it):
        await it.up()
        await it.first()
        await it.turn(2, answers={0: "x"})
        assert (await it.end(ok=False, reason="provider_overloaded: x")).verdict == "retry"
        await it.start(attempt=2)
        talk = await it.open()
        return talk.attempt, talk.turn, talk.total, talk.failed

    assert desk(play, LOOK, ProviderError("overloaded", "x"), agent=agent_of(prompt_task(retries=1))) == (1, 1, 4, None)


def test_a_failed_attempt_whose_owner_died_before_the_next_is_not_gone_on_with(desk):
    async def play(it):
        await it.up()
        await it.first()
        assert (await it.end(ok=False, reason="reported_failure: no")).verdict == "retry"

    desk(play, LOOK, agent=agent_of(prompt_task(retries=3)))

    async def resumed(it):
        talk = await it.up()
        return talk.attempt, talk.total, talk.failed

    assert desk(resumed, agent=agent_of(prompt_task(retries=3)), resume=True) == (2, 0, "reported_failure: no")


def test_earlier_tasks_and_agents_that_came_before_are_told(desk):
    async def play(it):
        await it.up("a")
        await it.first(task="a")
        await it.end(task="a", output="result of a " + "x" * 5000)
        await it.start("b")
        talk = await it.open("b")
        return [(one.task, one.state, one.agent, len(one.output)) for one in talk.earlier]

    told = desk(play, finish(), agent=agent_of(prompt_task("a"), prompt_task("b", depends_on=("a",))))
    assert told == [("a", "succeeded", None, 4000)]


def test_the_limit_of_calls_counts_over_all_lives(desk):
    agent = agent_of(limits=m.Limits(max_tool_calls=2))

    async def play(it):
        talk = await it.up()
        assert talk.left.tool_calls == 2
        await it.first()
        assert (await it.call("p.1.1.0", "list_dir", path=".")).go
        it.begin()
        talk = await it.up()
        assert talk.left.tool_calls == 1
        assert (await it.call("p.1.1.0", "list_dir", path=".")).go
        await it.done("p.1.1.0", "x")
        await it.turn(2)
        return await it.call("p.1.2.0", "list_dir", path=".")

    refused = desk(play, LOOK, LOOK, agent=agent)
    assert (refused.go, refused.reason) == (False, "limit.tool_calls: more than 2 tool calls")


def test_a_refusal_names_the_grant_and_the_lines_to_add(desk):
    async def play(it):
        await it.up()
        await it.first()
        return await it.call("p.1.1.0", "write_file", path="a", content="x")

    refused = desk(play, reply(("write_file", {"path": "a", "content": "x"})), agent=agent_of(grants=("filesystem-read",)))
    assert refused.reason.startswith("capability_denied: filesystem-write")
    assert "capabilities_required:" in refused.hint


# --- outputs with a schema -----------------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"output": {"n": 1}}, None),
        ({"output": {"n": "1"}}, "output_schema: n: '1' is not of type 'integer'"),
        ({}, "output_schema: finish came without output"),
        ({"output": None}, "output_schema: the output: None is not of type 'object'"),
    ],
)
def test_an_output_is_checked_when_the_model_gives_it(desk, arguments, problem):
    async def play(it):
        await it.up()
        first = (await it.first()).schema_problem
        it.begin()
        return first, (await it.up()).schema_problem

    assert desk(play, finish(**arguments), agent=agent_of(prompt_task(output_schema=SCHEMA))) == (problem, problem)


def test_a_failure_needs_no_output(desk):
    async def play(it):
        await it.up()
        return (await it.first()).schema_problem

    assert desk(play, finish("failure"), agent=agent_of(prompt_task(output_schema=SCHEMA))) is None
