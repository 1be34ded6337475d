"""What is left out of a request so that it fits, and what never is."""

from __future__ import annotations

import random

from toka_cli.agent.context import HIGH, Context, Cut
from toka_cli.kernel.conversation import Conversation, normalised
from toka_cli.state.journal import Sent

HEAD = ({"role": "system", "content": "s" * 300}, {"role": "user", "content": "u" * 300})


def reply(*arguments):
    calls = [{"id": f"c{index}", "function": {"name": "read_file", "arguments": text}} for index, text in enumerate(arguments)]
    return {"role": "assistant", "content": None, **({"tool_calls": calls} if calls else {})}


def grown(window, turns, size=3000, reply_tokens=0):
    context = Context(window, reply_tokens)
    for message in HEAD:
        context.add(message)
    for _ in range(turns):
        context.add(reply('{"path": "x"}'))
        context.add({"role": "tool", "tool_call_id": "c0", "content": "r" * size})
    return context


def test_nothing_is_left_out_while_there_is_room():
    assert grown(100_000, 5).fit() == Cut()


def test_old_results_go_first_and_the_last_turns_stay_whole():
    context = grown(10_000, 10)
    before = context.tokens()
    cut = context.fit()
    assert cut.drop == 0
    assert cut.shorten == tuple(sorted(cut.shorten))
    assert cut.shorten[0] == 3
    assert max(cut.shorten) < len(context.roles) - 4
    assert all(context.roles[index] == "tool" for index in cut.shorten)
    assert context.tokens() < before
    assert context.tokens() <= HIGH * context.room
    # What was left out is not left out again.
    assert context.fit() == Cut()


def test_whole_turns_go_when_short_results_are_not_enough():
    context = grown(1500, 60, size=100)
    cut = context.fit()
    assert cut.shorten == ()
    assert context.roles[cut.drop] == "assistant"
    assert 2 < cut.drop < len(context.roles) - 1
    assert context.tokens() <= HIGH * context.room


def test_the_last_result_is_shortened_when_nothing_else_is_left():
    context = grown(3000, 1, size=100_000)
    cut = context.fit()
    assert cut == Cut((3,), 0)
    assert context.tokens() <= context.room


def test_long_arguments_are_left_out_like_results():
    context = Context(4000, 0)
    for message in HEAD:
        context.add(message)
    for _ in range(8):
        context.add(reply('{"path": "x", "content": "' + "c" * 3000 + '"}'))
        context.add({"role": "tool", "tool_call_id": "c0", "content": "ok"})
    cut = context.fit()
    assert cut.shorten
    assert all(context.roles[index] == "assistant" for index in cut.shorten)


def test_the_models_own_count_corrects_the_guess():
    context = grown(10_000, 3)
    guess = context.tokens()
    context.counted(900, 100)
    assert context.tokens() == 1000 < guess
    context.add({"role": "tool", "content": "x" * 3000})
    assert 1900 < context.tokens() < 2200


def test_a_count_of_nothing_is_no_count():
    context = grown(10_000, 3)
    guess = context.tokens()
    context.counted(0, 0)
    assert context.tokens() == guess


def test_pressed_always_leaves_out_what_can_be():
    context = grown(1_000_000, 6)
    assert context.fit() == Cut()
    first = context.fit(pressed=True)
    assert first.shorten
    seen = {first}
    while (cut := context.fit(pressed=True)) != Cut(drop=context.dropped) and cut not in seen and len(seen) < 50:
        seen.add(cut)
    assert len(seen) < 50, "it comes to an end"


def test_what_is_left_out_is_always_something_the_kernel_takes():
    """Random conversations: every cut keeps calls and results together, and the request that follows is below the window."""
    rng = random.Random(11)
    for _ in range(60):
        window = rng.choice((1500, 4000, 20_000))
        context, conversation = Context(window, 200), Conversation("t", 1, 1)
        extra = list(HEAD)
        for message in HEAD:
            context.add(message)
        answers = {}
        for turn in range(40):
            cut = context.fit()
            conversation.send(Sent(answers, tuple(extra), cut.shorten, max(cut.drop, conversation.dropped)))
            request = conversation.request()
            asked = [call["id"] for message in request for call in message.get("tool_calls") or ()]
            given = [message["tool_call_id"] for message in request if message["role"] == "tool"]
            assert asked == given
            assert request[:2] == HEAD
            if turn:
                assert sum(len(str(message)) for message in request) / 4 < max(window, 2500)
            message = normalised(reply(*('{"path": "' + "x" * rng.randrange(800) + '"}' for _ in range(rng.randrange(4)))))
            conversation.reply(message)
            context.add(message)
            if rng.random() < 0.5:
                context.counted(sum(len(str(one)) for one in request) // 4, 50)
            answers = {index: "r" * rng.choice((10, 500, 4000)) for index in range(len(message.get("tool_calls") or ()))}
            for text in answers.values():
                context.add({"role": "tool", "tool_call_id": "", "content": text})
            extra = [{"role": "user", "content": "go on"}] if rng.random() < 0.2 or not answers else []
            for one in extra:
                context.add(one)
