"""The way to a model: order of what comes before a request, how many there are at most, what everybody learns from one failure, and the books at the end."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from contextlib import suppress

import msgspec
import pytest

from tests.llm import server
from tests.llm.clock import now, run, wall
from tests.llm.test_limits import most_in_a_minute
from toka_cli.errors import BudgetExhausted, Refused, ReplayMiss, Unavailable
from toka_cli.llm.asking import BUSY, FAILURES, GUARD_S, NOT_BILLED, REQUESTS
from toka_cli.llm.budget import Amount, BudgetLimits, Spent, SpentRow
from toka_cli.llm.cache import ReplyCache
from toka_cli.llm.estimate import Estimator
from toka_cli.llm.gateway import Gateway, GatewayPolicy
from toka_cli.llm.limits import RateLimits
from toka_cli.llm.provider import TERMINAL, Caller, Cause, ModelInfo, ModelReply, ModelRequest, ProviderError
from toka_cli.llm.recorded import Recorder, Replay
from toka_cli.llm.redact import MARK, Redactor
from toka_cli.llm.stagger import HOLD_MODEL_S, HOLD_PREFIX_S
from toka_cli.llm.wire import Price

SECRET = "sk-planted-0123456789"
CAUSES = sorted(Cause.__args__)


class Models:
    """A provider by script: `answer(request, number)` gives a reply, an error, or waits. Keeps what was asked, when, and what was abandoned."""

    def __init__(self, answer=None, *, takes=0.2, price=(1e-6, 1e-5), infos=None):
        self.answer = answer or (lambda request, number: said("ok"))
        self.takes = takes
        self.price = price
        self.infos = infos or {}
        self.asked = []
        self.times = []
        self.abandoned = 0
        self.described = Counter()

    async def complete(self, request, *, on_delta=None):
        self.asked.append(request)
        self.times.append(asyncio.get_running_loop().time())
        number = len(self.asked)
        try:
            if on_delta is not None and self.takes > 0.1:
                await asyncio.sleep(self.takes / 2)
                on_delta(3)
                await asyncio.sleep(self.takes / 2)
            else:
                await asyncio.sleep(self.takes)
            outcome = self.answer(request, number)
            if asyncio.iscoroutine(outcome):
                outcome = await outcome
        except asyncio.CancelledError:
            self.abandoned += 1
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def describe(self, model):
        self.described[model] += 1
        await asyncio.sleep(0)
        if model in self.infos:
            return self.infos[model]
        inward, outward = self.price or (None, None)
        return ModelInfo(model, model.partition("/")[0], 100_000, 4096, inward, outward)

    async def close(self):
        """Nothing was started."""


def said(text, *, inward=100, outward=50, **fields):
    return ModelReply({"role": "assistant", "content": text}, "stop", inward, outward, **fields)


def caller(agent="a", turn=1, task="t1"):
    return Caller(f"id-{agent}", agent, "w", task, 1, turn)


def ask(text="hello", *, model="openai/gpt", system="You are careful.", **fields):
    return ModelRequest(model, ({"role": "system", "content": system}, {"role": "user", "content": text}), **{"max_output_tokens": 100, **fields})


class Scene:
    """A gateway before a scripted provider, and all that it said."""

    def __init__(self, models=None, *, rates=None, prices=None, spent=None, secrets=(), fence=True, provider=None, **options):
        self.models = models or Models()
        self.warned = []
        self.records = []
        self.words = []
        limits = {name: options.pop(name) for name in ("run", "workstreams", "agents", "tasks") if name in options}
        policy = GatewayPolicy(rates or RateLimits(100_000), BudgetLimits(**limits), prices or {}, fence)
        self.gateway = Gateway(
            provider if provider is not None else self.models,
            policy,
            clock=wall,
            rng=random.Random(5),
            spent=spent,
            secrets=Redactor(secrets),
            on_warn=self.warned.append,
            on_call=self.records.append,
            **options,
        )

    async def complete(self, who=None, request=None, **options):
        return await self.gateway.complete(who or caller(), request or ask(), **{"on_wait": self.words.append, **options})

    async def many(self, agents, request=None, **options):
        """Each agent asks once, all at the same time; what came of it, in order."""
        return await asyncio.gather(*(self.complete(caller(f"a{number}"), request, **options) for number in range(agents)), return_exceptions=True)


# --- one call ------------------------------------------------------------------------------------------------------------------------


def test_a_reply_its_cost_and_its_record():
    async def main():
        scene = Scene(Models(takes=2.0))
        heard = []
        reply = await scene.complete(on_delta=heard.append)
        return scene, reply, heard

    scene, reply, heard = run(main())
    assert reply.message == {"role": "assistant", "content": "ok"}
    # By the prices that were described: 100 tokens in, 50 out.
    assert reply.cost_usd == pytest.approx(100e-6 + 500e-6)
    assert reply.duration_s == pytest.approx(2.0)
    assert heard == [3]
    (record,) = scene.records
    assert (record.source, record.number, record.cause, record.estimated) == ("provider", 1, "", False)
    assert (record.charged_usd, record.charged_tokens) == (reply.cost_usd, 150)
    assert (record.caller.agent, record.model, record.input_tokens, record.output_tokens) == ("a", "openai/gpt", 100, 50)
    assert scene.words == []


def test_what_the_provider_side_worked_out_goes_before_what_was_described_and_what_was_given_before_both():
    async def main():
        models = Models(lambda request, number: said("ok", cost_usd=0.5))
        first = await Scene(models).complete()
        second = await Scene(models, prices={"openai/gpt": Price(1.0, 2.0)}).complete()
        return first.cost_usd, second.cost_usd

    assert run(main()) == (0.5, 200.0)


def test_nobody_streams_for_nobody():
    seen = []

    class Quiet(Models):
        async def complete(self, request, *, on_delta=None):
            seen.append(on_delta)
            return await super().complete(request, on_delta=on_delta)

    async def main():
        scene = Scene(Quiet())
        await scene.complete()
        await scene.complete(on_delta=lambda _: None)

    run(main())
    assert seen[0] is None
    assert seen[1] is not None


# --- how many requests ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", CAUSES)
def test_a_failure_for_ever_makes_no_more_requests_than_documented_and_keeps_its_cause(cause):
    async def main():
        scene = Scene(Models(lambda request, number: ProviderError(cause, "no luck")))
        with pytest.raises(ProviderError, match="no luck") as found:
            await scene.complete()
        return scene, found.value, now()

    scene, error, took = run(main())
    expected = 1 if cause in TERMINAL else REQUESTS if cause in BUSY else FAILURES
    assert len(scene.models.asked) == expected
    assert error.cause == cause
    assert [record.cause for record in scene.records] == [cause] * expected
    assert [record.number for record in scene.records] == list(range(1, expected + 1))
    # 0.2 s for each request and 1, 2, 4... s between them, give or take 20 %.
    pauses = sum(2.0**number for number in range(expected - 1))
    assert 0.2 * expected + 0.8 * pauses <= took <= 0.2 * expected + 1.2 * pauses + 0.01


@pytest.mark.parametrize("cause", CAUSES)
def test_a_failure_once_and_then_well(cause):
    async def main():
        scene = Scene(Models(lambda request, number: ProviderError(cause, "once") if number == 1 else said("fine")))
        with suppress(ProviderError):
            return scene, await scene.complete()
        return scene, None

    scene, reply = run(main())
    if cause in TERMINAL:
        assert reply is None
        assert len(scene.models.asked) == 1
    else:
        assert reply.message["content"] == "fine"
        assert len(scene.models.asked) == 2
        assert scene.words[0].startswith("asking the model again in ")
        assert scene.words[-1] == ""


def test_failures_of_both_kinds_share_the_bound():
    causes = ["rate_limit", "timeout", "overloaded", "reset", "rate_limit", "dns"]

    async def main():
        scene = Scene(Models(lambda request, number: ProviderError(causes[number - 1], str(number))))
        with pytest.raises(ProviderError, match="6"):
            await scene.complete()
        return len(scene.models.asked)

    assert run(main()) == 6


def test_each_request_of_a_call_waits_for_its_turn_anew():
    async def main():
        scene = Scene(Models(lambda request, number: ProviderError("reset", "x"), takes=0.0), rates=RateLimits(2))
        with pytest.raises(ProviderError):
            await scene.complete()
        return scene

    scene = run(main())
    assert len(scene.models.asked) == 3
    assert most_in_a_minute(scene.models.times) == 2
    assert any(word.startswith("waiting for rate limit until ") for word in scene.words)


def test_a_provider_that_never_answers_is_given_up_by_the_gateway():
    async def main():
        scene = Scene(Models(lambda request, number: asyncio.sleep(1e6)))
        with pytest.raises(ProviderError, match="did not answer within 2s") as found:
            await scene.complete(request=ask(timeout_s=2.0))
        return scene, found.value, now()

    scene, error, took = run(main())
    assert error.cause == "timeout"
    assert len(scene.models.asked) == scene.models.abandoned == FAILURES
    assert took <= FAILURES * (2 + GUARD_S) + 1.2 * 3 + 0.01


# --- what everybody learns from one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", ["quota", "auth", "unknown_model"])
def test_what_no_asking_can_change_is_asked_once_by_fifty_agents(cause):
    async def main():
        scene = Scene(Models(lambda request, number: ProviderError(cause, "no more", hint="pay")))
        first = await scene.many(50)
        later = await scene.many(5)
        return scene, [*first, *later]

    scene, found = run(main())
    assert len(scene.models.asked) == 1
    assert all(isinstance(error, ProviderError) and (error.cause, error.hint) == (cause, "pay") for error in found)
    assert sum("not asked again" in error.message for error in found) == 54
    # Nobody has been charged, and nobody waited for a second failure.
    assert sum(record.charged_usd for record in scene.records) == 0
    assert len(scene.records) == 1


def test_a_quota_that_ends_in_the_middle_stops_those_who_wait_at_once():
    async def main():
        scene = Scene(Models(lambda request, number: said("ok") if number <= 3 else ProviderError("quota", "no more")), rates=RateLimits(4))
        found = await scene.many(20)
        return scene, found, now()

    scene, found, took = run(main())
    assert len(scene.models.asked) == 4
    assert Counter(type(one).__name__ for one in found) == {"ModelReply": 3, "ProviderError": 17}
    # Those that waited for the next minute did not wait for it.
    assert took < 10


def test_an_unknown_model_does_not_stop_the_others_of_its_provider_and_quota_does_not_stop_another_provider():
    def answer(request, number):
        wrong = {"openai/wrong": "unknown_model", "paid/m": "quota"}.get(request.model)
        return ProviderError(wrong, "no") if wrong else said("ok")

    async def main():
        scene = Scene(Models(answer))
        found = []
        for model in ("openai/wrong", "openai/gpt", "paid/m", "paid/other", "openai/gpt"):
            try:
                found.append((await scene.complete(request=ask(model=model))).message["content"])
            except ProviderError as error:
                found.append(error.cause)
        return found, len(scene.models.asked)

    assert run(main()) == (["unknown_model", "ok", "quota", "quota", "ok"], 4)


def test_a_429_with_retry_after_stops_everybody_for_so_long():
    async def main():
        models = Models(lambda request, number: ProviderError("rate_limit", "slow down", retry_after_s=3.0) if number == 21 else said("ok"), takes=0.05)
        scene = Scene(models)
        limited_at = None

        async def agent(name):
            for turn in range(1, 11):
                await scene.complete(caller(name, turn), on_wait=lambda text: scene.words.append((now(), text)))

        agents = [asyncio.create_task(agent(f"a{number}")) for number in range(20)]
        await asyncio.gather(*agents)
        limited_at = next(record for record in scene.records if record.cause)
        return scene, limited_at

    scene, record = run(main())
    assert len(scene.models.asked) == 201
    stopped = scene.models.times[20] + record.duration_s
    # Nothing starts within the three seconds, and everything goes on after them.
    assert [at for at in scene.models.times if stopped < at < stopped + 3.0 - 1e-6] == []
    assert max(scene.models.times) >= stopped + 3.0
    assert sum(text.startswith("waiting for rate limit until ") for _, text in scene.words) >= 19


def test_twenty_agents_at_sixty_a_minute():
    async def main():
        scene = Scene(Models(takes=0.7), rates=RateLimits(60))
        done = Counter()

        async def agent(name):
            turn = 0
            while now() < 480:
                turn += 1
                await scene.complete(caller(name, turn), ask(f"turn {turn}"))
                done[name] += 1

        agents = [asyncio.create_task(agent(f"a{number}")) for number in range(20)]
        await asyncio.sleep(480)
        for task in agents:
            task.cancel()
        await asyncio.gather(*agents, return_exceptions=True)
        return scene, done

    scene, done = run(main())
    assert most_in_a_minute(scene.models.times) == 60
    fair = sum(done.values()) / 20
    assert all(0.8 * fair <= done[f"a{number}"] <= 1.2 * fair for number in range(20)), done
    assert sum(done.values()) >= 0.9 * 480


def test_the_first_request_to_a_model_goes_alone_and_the_rest_follow_its_answer():
    async def main():
        scene = Scene(Models(takes=1.0))
        await scene.many(10)
        return scene.models.times

    times = run(main())
    assert times[0] == 0
    # Without streaming the answer is the first sign.
    assert times[1:] == pytest.approx([1.0] * 9)


def test_the_first_piece_of_an_answer_is_sign_enough_and_nobody_waits_for_long():
    async def main(takes, on_delta):
        scene = Scene(Models(takes=takes))
        await scene.many(3, on_delta=on_delta)
        return scene.models.times, scene.words

    times, _ = run(main(4.0, lambda _: None))
    assert times[1:] == pytest.approx([2.0] * 2)
    times, words = run(main(25.0, None))
    assert times[1:] == pytest.approx([HOLD_MODEL_S] * 2)
    assert words == ["waiting for the first reply to another agent"] * 2 + [""] * 2


def test_requests_that_begin_alike_let_the_first_fill_the_prompt_cache():
    async def main():
        scene = Scene(Models(takes=5.0))
        await scene.complete()
        begun = now()
        alike = [asyncio.create_task(scene.complete(caller(f"a{number}"), ask(system="the same for all"))) for number in range(3)]
        other = asyncio.create_task(scene.complete(caller("b"), ask(system="quite another")))
        known = asyncio.create_task(scene.complete(caller("c"), ask("another task")))
        await asyncio.gather(*alike, other, known)
        return [at - begun for at in scene.models.times[1:]]

    # One of the three, the other one, and the one whose beginning was asked before, at once; the two followers after the hold.
    assert run(main()) == pytest.approx([0, 0, 0, HOLD_PREFIX_S, HOLD_PREFIX_S])


def test_a_leader_that_is_cancelled_before_it_asked_is_followed_by_another_leader():
    async def main():
        scene = Scene(Models(takes=1.0), run=Amount(tokens=10_000_000), rates=RateLimits(1))
        await scene.complete(request=ask(model="other/m"))
        # It leads, and waits for the next minute.
        leader = asyncio.create_task(scene.complete(caller("l")))
        await asyncio.sleep(0.5)
        follower = asyncio.create_task(scene.complete(caller("f")))
        await asyncio.sleep(0.5)
        leader.cancel()
        await follower
        return [request.model for request in scene.models.asked], scene.gateway.remaining(caller()).tokens

    asked, left = run(main())
    assert asked == ["other/m", "openai/gpt"]
    assert left == 10_000_000 - 300


# --- money ---------------------------------------------------------------------------------------------------------------------------


def test_five_cents_over_fifty_concurrent_agents():
    async def main():
        rng = random.Random(2)
        models = Models(lambda request, number: said("ok", inward=rng.randint(20, 60), outward=rng.randint(10, 100)))
        scene = Scene(models, run=Amount(usd=0.05))

        async def agent(name):
            turn = 0
            while True:
                turn += 1
                await scene.complete(caller(name, turn), ask(f"turn {turn}"))

        found = await asyncio.gather(*(agent(f"a{number}") for number in range(50)), return_exceptions=True)
        return scene, found

    scene, found = run(main())
    assert all(isinstance(error, BudgetExhausted) and error.exit_code == 7 for error in found)
    estimator = Estimator()
    worst = max(estimator.prompt_tokens(request) * 1e-6 + 100 * 1e-5 for request in scene.models.asked)
    spent = sum(record.charged_usd for record in scene.records)
    assert 0.05 <= spent <= 0.05 + worst
    assert [text[:3] for text in scene.warned] == ["70%", "90%"]


def test_a_resumed_run_goes_on_with_its_ledger():
    async def main():
        first = Scene(run=Amount(usd=0.002))
        await first.complete()
        record = first.records[0]
        row = SpentRow(record.caller.workstream, record.caller.agent, record.caller.task, record.charged_usd, record.charged_tokens)
        again = Scene(run=Amount(usd=0.002), spent=Spent((row,)))
        return first.gateway.remaining(caller()), again.gateway.remaining(caller())

    before, after = run(main())
    assert before.usd == pytest.approx(0.0014)
    assert (after.usd, after.share_used) == (before.usd, before.share_used)


def test_a_model_without_a_price_is_refused_under_a_budget_in_usd_and_welcome_under_one_in_tokens():
    async def main():
        scene = Scene(Models(price=None), run=Amount(usd=1.0))
        with pytest.raises(Refused, match="no price is known for openai/gpt") as found:
            await scene.complete()
        assert found.value.exit_code == 5
        assert scene.models.asked == []
        given = Scene(Models(price=None), run=Amount(usd=1.0), prices={"openai/gpt": Price(1e-6, 1e-6)})
        assert (await given.complete()).cost_usd == pytest.approx(150e-6)
        tokens = Scene(Models(price=None), run=Amount(tokens=1000))
        assert (await tokens.complete()).cost_usd is None
        return tokens.gateway.remaining(caller()).tokens

    assert run(main()) == 850


def test_under_a_budget_no_request_is_without_a_bound():
    async def main():
        scene = Scene(run=Amount(tokens=100_000))
        free = Scene()
        for one in (scene, free):
            await one.complete(request=ask(max_output_tokens=None))
        return scene.models.asked[0].max_output_tokens, free.models.asked[0].max_output_tokens

    assert run(main()) == (4096, None)


@pytest.mark.parametrize("cause", [cause for cause in CAUSES if cause in TERMINAL])
def test_only_failures_that_cannot_have_cost_anything_are_free(cause):
    async def main():
        scene = Scene(Models(lambda request, number: ProviderError(cause, "x")), run=Amount(tokens=10_000))
        with suppress(ProviderError):
            await scene.complete()
        return scene.records[0], scene.gateway.remaining(caller()).tokens

    record, left = run(main())
    free = cause in NOT_BILLED
    assert record.estimated == (not free)
    assert (record.charged_tokens == 0) == free
    assert left == 10_000 - record.charged_tokens


def test_the_last_turn_is_told_before_it_and_nothing_comes_after_it():
    async def main():
        # Each costs 150 tokens of 1,000.
        scene = Scene(run=Amount(tokens=1000))
        turns = []
        with pytest.raises(BudgetExhausted):
            for turn in range(1, 100):
                left = scene.gateway.remaining(caller())
                await scene.complete(caller(turn=turn), ask(f"turn {turn}", max_output_tokens=60))
                turns.append((left.wrap_up, scene.gateway.warning(caller())))
        return turns

    turns = run(main())
    assert [last for last, _ in turns] == [False] * 5 + [True]
    assert [text and text[:3] for _, text in turns] == [None] * 4 + ["70%", "90%"]


# --- cancelling and closing ------------------------------------------------------------------------------------------------------------


def test_a_call_cancelled_under_way_is_abandoned_and_charged_at_worst():
    async def main():
        scene = Scene(Models(takes=10.0), run=Amount(tokens=10_000))
        task = asyncio.create_task(scene.complete())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await scene.complete(caller("b"))
        return scene

    scene = run(main())
    assert scene.models.abandoned == 1
    first, second = scene.records
    assert (first.cause, first.estimated) == ("cancelled", True)
    assert first.charged_tokens == Estimator().prompt_tokens(scene.models.asked[0]) + 100
    assert second.charged_tokens == 150


def test_a_call_cancelled_while_it_waits_leaves_nothing_behind():
    async def main():
        scene = Scene(rates=RateLimits(1, concurrency=1), run=Amount(tokens=10_000))
        await scene.complete()
        waiting = [asyncio.create_task(scene.complete(caller(f"a{number}"))) for number in range(5)]
        await asyncio.sleep(2)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        left = scene.gateway.remaining(caller()).tokens
        await scene.complete()
        return left, len(scene.models.asked), now()

    left, asked, took = run(main())
    assert (left, asked) == (9850, 2)
    assert took < 62


def test_closing_ends_waits_lets_requests_end_and_abandons_the_rest():
    def answer(request, number):
        return said("ok") if number < 3 else asyncio.sleep(1e6)

    async def main():
        scene = Scene(Models(answer, takes=4.0), rates=RateLimits(3))
        await scene.complete(caller("first"))
        under_way = [asyncio.create_task(scene.complete(caller(f"u{number}"))) for number in range(2)]
        await asyncio.sleep(1)
        waiting = [asyncio.create_task(scene.complete(caller(f"w{number}"))) for number in range(3)]
        await asyncio.sleep(1)
        begun = now()
        closing = asyncio.create_task(scene.gateway.close(10.0))
        waited = await asyncio.gather(*waiting, return_exceptions=True)
        assert now() == begun
        abandoned = await closing
        ended = await asyncio.gather(*under_way, return_exceptions=True)
        with pytest.raises(Unavailable, match="the run is ending"):
            await scene.complete()
        return waited, abandoned, ended, now() - begun

    waited, abandoned, ended, took = run(main())
    assert all(type(error) is Unavailable and error.code == "stopped" for error in waited)
    assert abandoned == 1
    assert [type(one).__name__ for one in ended] == ["ModelReply", "Unavailable"]
    assert took == pytest.approx(10.0)


def test_closing_ends_a_pause_between_two_requests():
    async def main():
        scene = Scene(Models(lambda request, number: ProviderError("reset", "x")))
        task = asyncio.create_task(scene.complete())
        await asyncio.sleep(0.5)
        await scene.gateway.close()
        with pytest.raises(Unavailable, match="the run is ending"):
            await task
        return len(scene.models.asked), now()

    assert run(main()) == (1, 0.5)


# --- fallbacks -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", CAUSES)
def test_the_next_model_is_asked_when_one_cannot_answer(cause):
    async def main():
        scene = Scene(Models(lambda request, number: ProviderError(cause, "no") if request.model == "openai/gpt" else said(request.model)))
        with suppress(ProviderError):
            return scene, await scene.complete(fallbacks=("anthropic/claude", "local/llama"))
        return scene, None

    scene, reply = run(main())
    if cause in {"bad_request", "too_large"}:
        assert reply is None
    else:
        assert reply.message["content"] == "anthropic/claude"
        assert scene.models.asked[-1].model == "anthropic/claude"
    assert "local/llama" not in {request.model for request in scene.models.asked}


def test_when_no_model_can_answer_the_first_one_s_reason_counts_and_the_others_are_told():
    async def main():
        models = Models(lambda request, number: ProviderError("quota" if request.model == "openai/gpt" else "auth", f"not {request.model}"))
        scene = Scene(models)
        with pytest.raises(ProviderError) as found:
            await scene.complete(fallbacks=("anthropic/claude", "openai/gpt", "local/llama"))
        return found.value, [request.model for request in models.asked]

    error, asked = run(main())
    assert error.cause == "quota"
    assert error.message == "not openai/gpt; fallbacks: anthropic/claude: not anthropic/claude; local/llama: not local/llama"
    assert asked == ["openai/gpt", "anthropic/claude", "local/llama"]


def test_what_is_known_to_be_impossible_is_not_asked():
    infos = {
        "openai/gpt": ModelInfo("openai/gpt", "openai", problem="OPENAI_API_KEY is not set", fix="export OPENAI_API_KEY=...", cause="auth"),
        "local/llama": ModelInfo("local/llama", "local"),
        "cheap/m": ModelInfo("cheap/m", "cheap", input_usd=1e-6, output_usd=1e-6),
    }

    async def main():
        scene = Scene(Models(infos=infos))
        with pytest.raises(ProviderError, match="OPENAI_API_KEY is not set") as found:
            await scene.complete()
        assert (found.value.cause, found.value.hint) == ("auth", "export OPENAI_API_KEY=...")
        budget = Scene(Models(infos=infos), run=Amount(usd=1.0))
        # The first has no key, the second no price.
        await budget.complete(fallbacks=("local/llama", "cheap/m"))
        return [request.model for request in scene.models.asked + budget.models.asked]

    assert run(main()) == ["cheap/m"]


def test_a_model_is_described_once_and_again_after_a_failure():
    class Shy(Models):
        async def describe(self, model):
            info = await super().describe(model)
            if self.described[model] == 1:
                raise ProviderError("crashed", "the provider process ended")
            return info

    async def main():
        scene = Scene(Shy())
        # Unknown, and asked all the same: nothing depends on it.
        await scene.complete()
        await scene.many(10)
        strict = Scene(Shy(), run=Amount(usd=1.0))
        with pytest.raises(ProviderError, match="the provider process ended"):
            await strict.complete()
        await strict.complete()
        return scene.models.described, strict.models.described

    assert run(main()) == ({"openai/gpt": 2}, {"openai/gpt": 2})


# --- what crosses the border -------------------------------------------------------------------------------------------------------------


def test_secrets_and_control_characters_cross_in_neither_direction():
    tools = ({"type": "function", "function": {"name": "f", "description": f"uses {SECRET}"}},)
    messages = (
        {"role": "system", "content": f"the key is {SECRET}"},
        {"role": "user", "content": [{"type": "text", "text": f"a\x1b[31m{SECRET[:9]}\0{SECRET[9:]}"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": f'{{"a":"{SECRET}"}}'}}]},
        {"role": "tool", "tool_call_id": "c", "content": f"found {SECRET} \u202eevil"},
    )

    def answer(request, number):
        if number == 1:
            return ProviderError("timeout", f"with key {SECRET}\x1b]0;x\x07", hint=f"check {SECRET}")
        call = {"id": "d", "type": "function", "function": {"name": "f", "arguments": f'{{"a": "{SECRET}\x01'}}
        return ModelReply({"role": "assistant", "content": f"it is {SECRET}\x1b[2J", "tool_calls": [call]}, "tool_calls", 10, 10, model="gpt\x1b[1m-1")

    async def main():
        scene = Scene(Models(answer), secrets=[SECRET])
        reply = await scene.complete(request=ModelRequest("openai/gpt", messages, tools))
        return scene, reply

    scene, reply = run(main())
    sent = json.dumps(msgspec.to_builtins(scene.models.asked))
    assert SECRET not in sent
    assert not any(word in sent for word in ("\\u001b", "\\u0000", "\\u202e"))
    first = scene.models.asked[0].messages
    assert first[0]["content"] == f"the key is {MARK}"
    assert first[1]["content"][0]["text"] == f"a{MARK}"
    assert first[2]["tool_calls"][0]["function"]["arguments"] == f'{{"a":"{MARK}"}}'
    lines = first[3]["content"].splitlines()
    assert lines[0].startswith('<untrusted source="tool f" id="')
    assert lines[1] == f"found {MARK} evil"
    assert reply.message["content"] == f"it is {MARK}"
    # Masked, and otherwise as broken as it came.
    assert reply.message["tool_calls"][0]["function"]["arguments"] == f'{{"a": "{MARK}\x01'
    assert reply.model == "gpt-1"
    assert scene.records[0].message == f"with key {MARK}"


def test_an_error_that_ends_a_call_shows_no_secret_either():
    async def main():
        scene = Scene(Models(lambda request, number: ProviderError("auth", f"Incorrect API key provided: {SECRET}", hint=SECRET)), secrets=[SECRET])
        with pytest.raises(ProviderError) as found:
            await scene.complete()
        return found.value

    error = run(main())
    assert (error.message, error.hint) == (f"Incorrect API key provided: {MARK}", MARK)
    assert error.__cause__ is None


def test_a_text_beyond_all_bounds_is_cut_and_kept_elsewhere():
    kept = []

    def spill(text):
        kept.append(text)
        return "artifact 1"

    async def main():
        scene = Scene(spill=spill)
        await scene.complete(request=ask("x" * 500_000))
        return scene.models.asked[0].messages[1]["content"]

    sent = run(main())
    assert len(sent) < 401_000
    assert "[... 100,000 characters left out; the whole is in artifact 1 ...]" in sent
    assert kept == ["x" * 500_000]


# --- cache, recording, playing back --------------------------------------------------------------------------------------------------------


def test_a_cached_reply_costs_nothing_and_asks_nobody(tmp_path):
    async def main():
        first = Scene(cache=ReplyCache(tmp_path))
        reply = await first.complete()
        # Another run; its limits say nothing to a reply that is there.
        again = Scene(cache=ReplyCache(tmp_path), run=Amount(usd=0.0), rates=RateLimits(1))
        replies = [await again.complete() for _ in range(5)]
        with pytest.raises(BudgetExhausted):
            await again.complete(request=ask("something new"))
        return reply, replies, again

    reply, replies, again = run(main())
    assert [one.message for one in replies] == [reply.message] * 5
    assert all(one.from_cache and one.cost_usd == 0 for one in replies)
    assert again.models.asked == []
    assert [(record.source, record.charged_usd, record.charged_tokens, record.input_tokens) for record in again.records] == [("cache", 0.0, 0, 100)] * 5


def conversation(scene, agent, turns, *, result=None):
    """An agent that does as it is told: turns of a call and its result, then the end."""

    async def talk():
        messages = [{"role": "system", "content": "You are careful."}, {"role": "user", "content": f"Do the work of {agent}. The key is {SECRET}."}]
        replies = []
        for turn in range(1, turns + 1):
            reply = await scene.complete(caller(agent, turn), ModelRequest("openai/gpt", tuple(messages), max_output_tokens=100))
            replies.append(reply)
            messages += [reply.message, {"role": "tool", "tool_call_id": f"c{turn}", "content": result or f"{agent} at {now()}"}]
        return replies

    return talk()


def messages(talks):
    return [[reply.message for reply in talk] for talk in talks]


def by_turn(request, number):
    turn = sum(message["role"] == "assistant" for message in request.messages) + 1
    call = {"id": f"c{turn}", "type": "function", "function": {"name": "f", "arguments": f'{{"turn":{turn}}}'}}
    return ModelReply({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls", 100, 50)


def recorded(tmp_path, models, work, **options):
    path = tmp_path / "run.jsonl"

    async def main():
        recorder = Recorder.create(path, version="1", clock=wall, on_failed=pytest.fail)
        scene = Scene(models, recorder=recorder, secrets=[SECRET], **options)
        try:
            return await work(scene)
        finally:
            recorder.close()

    return path, run(main())


def played(path, work, **options):
    async def main():
        replay = Replay.open(path)
        scene = Scene(provider=replay, **options)
        return scene, replay, await work(scene)

    return run(main())


def test_a_whole_run_is_played_back_with_nobody_to_ask(tmp_path):
    async def work(scene):
        return await asyncio.gather(*(conversation(scene, f"a{number}", 4) for number in range(5)))

    path, first = recorded(tmp_path, Models(by_turn), work)
    assert SECRET not in path.read_text()
    scene, replay, again = played(path, work)
    assert messages(again) == messages(first)
    assert all(reply.from_cache and reply.cost_usd == 0 and reply.input_tokens == 100 for talk in again for reply in talk)
    assert [record.source for record in scene.records] == ["replay"] * 20
    assert scene.models.asked == []
    # The results of the tools hold times, and those are others now.
    assert replay.unused == 0
    assert replay.differences > 0


def test_one_changed_prompt_ends_with_a_miss(tmp_path):
    path, _ = recorded(tmp_path, Models(by_turn), lambda scene: conversation(scene, "a1", 3))

    async def changed(scene):
        with pytest.raises(ReplayMiss, match="no request of agent a2, task t1, attempt 1, turn 1"):
            await conversation(scene, "a2", 1)
        with pytest.raises(ReplayMiss) as found:
            await scene.complete(caller("a1"), ModelRequest("openai/gpt", ({"role": "system", "content": "You are careless."},)))
        return found.value

    _, _, error = played(path, changed)
    assert error.exit_code == 8
    assert "agent a1, task t1, attempt 1, turn 1: message 1 (system) differs" in error.message
    assert "-You are careful.\n+You are careless." in error.hint


def test_retries_are_inside_an_exchange_and_failures_and_budgets_are_played_back(tmp_path):
    def answer(request, number):
        if request.messages[1]["content"].startswith("Do the work of bad"):
            return ProviderError("bad_request", "malformed")
        return ProviderError("reset", "gone") if number == 1 else by_turn(request, number)

    async def work(scene):
        good = await conversation(scene, "good", 2)
        bad = await asyncio.gather(conversation(scene, "bad", 1), return_exceptions=True)
        poor = await asyncio.gather(conversation(scene, "poor", 50), return_exceptions=True)
        return messages([good]), [(type(one).__name__, str(one)) for one in (*bad, *poor)]

    limits = {"agents": {"poor": Amount(tokens=1000)}}
    path, first = recorded(tmp_path, Models(answer), work, **limits)
    assert first[1][0] == ("ProviderError", "malformed")
    assert first[1][1][0] == "BudgetExhausted"
    # Nothing is paid, so no budget of now counts: the recording knows where those of then ended it.
    for other in (limits, {}, {"run": Amount(tokens=1)}):
        scene, _, again = played(path, work, **other)
        assert again == first
    assert all(record.number == record.charged_tokens == 0 for record in scene.records)


def test_what_models_were_told_of_budgets_is_the_same_when_played_back(tmp_path):
    async def work(scene):
        said = []
        for turn in range(1, 7):
            said.append(scene.gateway.remaining(caller(turn=turn)))
            await scene.complete(caller(turn=turn), ask(f"turn {turn}"))
            said.append(scene.gateway.warning(caller(turn=turn)))
        return said

    path, first = recorded(tmp_path, Models(), work, run=Amount(tokens=1000))
    assert sum(isinstance(one, str) for one in first) == 2
    assert played(path, work)[2] == first


def test_the_recording_says_which_model_answered_for_another(tmp_path):
    def answer(request, number):
        return ProviderError("auth", "no") if request.model == "openai/gpt" else said("ok", model="claude-1")

    async def work(scene):
        return await scene.complete(fallbacks=("anthropic/claude",))

    path, first = recorded(tmp_path, Models(answer), work)
    _, _, again = played(path, lambda scene: scene.complete())
    assert again.model == first.model == "claude-1"


# --- in real time, and through a real process ----------------------------------------------------------------------------------------------


def test_fifty_agents_in_real_time():
    async def main():
        scene = Scene(Models(takes=0.002), rates=RateLimits(100_000, concurrency=8), run=Amount(tokens=10_000_000))

        async def agent(name):
            for turn in range(1, 5):
                await scene.complete(caller(name, turn), ask(f"turn {turn}"))

        await asyncio.gather(*(agent(f"a{number}") for number in range(50)))
        return scene

    scene = asyncio.run(main())
    assert len(scene.models.asked) == len(scene.records) == 200
    assert scene.gateway.remaining(caller()).tokens == 10_000_000 - 200 * 150


def through(shared, work):
    """A gateway before real litellm in its process, which asks a real server; what the work gave, and the records."""
    records = []

    async def main():
        gateway = Gateway(
            shared.provider, GatewayPolicy(), clock=time.time, rng=random.Random(1), secrets=Redactor([SECRET]), on_warn=pytest.fail, on_call=records.append
        )
        try:
            return await work(gateway)
        finally:
            await gateway.close()

    return shared.run(main()), records


REQUEST = ModelRequest("openai/gpt-4o-mini", ({"role": "user", "content": f"the key is {SECRET}"},), timeout_s=20.0)


def test_a_429_at_a_real_server_is_waited_for_and_no_secret_reaches_it(shared):
    shared.server.play([server.rate_limited(2), server.text("hello")])
    heard, words = [], []

    async def work(gateway):
        return await gateway.complete(caller(), REQUEST, on_wait=words.append, on_delta=heard.append)

    reply, records = through(shared, work)
    first, second = shared.server.requests
    assert reply.message["content"] == "hello"
    assert sum(heard) > 0
    assert second.at_s - first.answered_at_s >= 2.0
    assert words[0].startswith("waiting for rate limit until ")
    assert words[-1] == ""
    assert [record.cause for record in records] == ["rate_limit", ""]
    assert SECRET.encode() not in first.raw + second.raw
    assert MARK.encode() in first.raw


def test_a_used_up_quota_at_a_real_server_is_found_out_by_one_request_of_twenty_agents(shared):
    shared.server.play([], then=server.quota())

    async def work(gateway):
        return await asyncio.gather(*(gateway.complete(caller(f"a{number}"), REQUEST, on_wait=str) for number in range(20)), return_exceptions=True)

    found, records = through(shared, work)
    assert [error.cause for error in found] == ["quota"] * 20
    assert len(shared.server.requests) == 1
    assert [record.cause for record in records] == ["quota"]
