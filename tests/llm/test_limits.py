"""The governor: how many a minute, whose turn it is, who pauses, and that nobody is forgotten. Time is the loop's own and jumps."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.llm.clock import now, run, wall
from toka_cli.errors import Unavailable
from toka_cli.llm.limits import LONGEST_PAUSE_S, Governor, RateLimits
from toka_cli.llm.provider import ProviderError
from toka_cli.llm.window import WINDOW_S


def most_in_a_minute(times, seconds=60.0):
    """The largest number of times that lie within any window of so many seconds."""
    times = sorted(times)
    return max((sum(start <= other < start + seconds for other in times) for start in times), default=0)


class Scene:
    """A governor and everything that was let through."""

    def __init__(self, **limits):
        self.governor = Governor(RateLimits(**limits), clock=wall)
        self.sent = []
        self.words = []

    async def call(self, agent, *, lane="p", model="p/m", tokens=100, takes=0.2, outcome="ok", used=None, retry_after_s=None):
        turn = await self.governor.enter(agent, lane, model, tokens, self.words.append)
        self.sent.append((now(), agent))
        try:
            await asyncio.sleep(takes)
        finally:
            turn.leave(outcome, tokens=used, retry_after_s=retry_after_s)

    def times(self):
        return [at for at, _ in self.sent]


def test_never_more_than_the_limit_in_any_minute_and_fair_among_twenty_agents():
    async def main():
        scene = Scene(requests_per_minute=60)
        rng = random.Random(7)

        async def agent(name):
            while now() < 600:
                await scene.call(name, takes=rng.uniform(0.05, 2.0))

        tasks = [asyncio.create_task(agent(f"a{number}")) for number in range(20)]
        await asyncio.sleep(600)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return scene

    scene = run(main())
    assert most_in_a_minute(scene.times()) == 60
    # It is a limit, not a wall: nearly all of it is used.
    assert len(scene.sent) >= 0.9 * 600
    counts = Counter(agent for _, agent in scene.sent)
    fair = len(scene.sent) / 20
    assert all(0.8 * fair <= counts[f"a{number}"] <= 1.2 * fair for number in range(20)), counts


def test_turns_go_round_by_agent_and_not_by_call():
    async def main():
        scene = Scene(requests_per_minute=10)
        greedy = [asyncio.create_task(scene.call("greedy")) for _ in range(30)]
        await asyncio.sleep(1)
        modest = [asyncio.create_task(scene.call("modest")) for _ in range(5)]
        await asyncio.gather(*greedy, *modest)
        return scene

    scene = run(main())
    # The first ten went to the only one who asked. Of the next ten each has its half, although twenty calls of the one had come before.
    assert [agent for _, agent in scene.sent[:10]] == ["greedy"] * 10
    assert [agent for _, agent in scene.sent[10:20]] == ["modest", "greedy"] * 5


def test_equals_take_turns():
    async def main():
        scene = Scene(requests_per_minute=1000, concurrency=1)
        tasks = [asyncio.create_task(scene.call(agent)) for agent in "aaabbbccc"]
        await asyncio.gather(*tasks)
        return "".join(agent for _, agent in scene.sent)

    # The very first asked when nobody else did.
    assert run(main()) == "abcabcabc"


def test_requests_that_arrive_late_do_not_meet_the_next_minute_s():
    """The provider process loads for five seconds: its requests arrive then, and the provider counts by arrival."""

    async def main():
        governor = Governor(RateLimits(requests_per_minute=10), clock=wall)
        arrived = []

        async def call(lag):
            turn = await governor.enter("a", "p", "p/m", 1, lambda _: None)
            await asyncio.sleep(lag)
            turn.arrived()
            arrived.append(now())
            await asyncio.sleep(1)
            turn.leave("ok")

        first = [asyncio.create_task(call(5.0)) for _ in range(10)]
        await asyncio.sleep(0)
        rest = [asyncio.create_task(call(0.01)) for _ in range(10)]
        await asyncio.gather(*first, *rest)
        return arrived

    arrived = run(main())
    assert len(arrived) == 20
    assert most_in_a_minute(arrived) == 10


def test_requests_of_a_former_owner_count_too():
    async def main():
        earlier = [wall() - 50.0, wall() - 10.0, wall() - 3600.0, wall() + 7.0]
        governor = Governor(RateLimits(requests_per_minute=3), clock=wall, earlier=earlier)
        sent = []
        for _ in range(3):
            (await governor.enter("a", "p", "p/m", 1, lambda _: None)).leave("ok")
            sent.append(now())
        return sent

    # 50 s, 10 s and, by a clock that was put back since, just now: the fourth is long ago.
    assert run(main()) == pytest.approx([WINDOW_S - 50, WINDOW_S - 10, WINDOW_S])


def test_tokens_of_a_minute_are_reserved_by_estimate_and_settled_by_use():
    async def main():
        scene = Scene(requests_per_minute=1000, tokens_per_minute=1000)
        # Each is estimated at 400, and uses 100.
        await asyncio.gather(*(scene.call(f"a{number}", tokens=400, used=100, takes=1.0) for number in range(6)))
        return scene.times()

    times = run(main())
    # Two at once by the estimate; each answer makes room for what was estimated too much. By the estimates alone it would take three minutes.
    assert times == pytest.approx([0, 0, 1, 1, 2, 3])


def test_tokens_used_beyond_the_estimate_hold_up_the_next():
    async def main():
        scene = Scene(requests_per_minute=1000, tokens_per_minute=1000)
        await scene.call("a", tokens=100, used=950, takes=1.0)
        await scene.call("a", tokens=100, used=100)
        return scene.times()

    first, second = run(main())
    assert first == 0
    assert second == pytest.approx(1 + WINDOW_S)


def test_a_request_larger_than_the_minute_goes_alone_and_is_not_starved():
    async def main():
        scene = Scene(requests_per_minute=1000, tokens_per_minute=1000)
        small = [asyncio.create_task(scene.call("small", tokens=300, takes=0.1)) for _ in range(3)]
        await asyncio.sleep(0.01)
        large = asyncio.create_task(scene.call("large", tokens=5000, takes=0.1))
        await asyncio.sleep(0.01)
        more = [asyncio.create_task(scene.call("small", tokens=300, takes=0.1)) for _ in range(3)]
        await asyncio.gather(*small, large, *more)
        return [agent for _, agent in scene.sent]

    assert run(main()) == ["small"] * 3 + ["large"] + ["small"] * 3


def test_retry_after_stops_everybody_on_that_lane_and_nobody_else():
    async def main():
        scene = Scene(requests_per_minute=1000)
        await scene.call("a", outcome="busy", retry_after_s=3.0, takes=0.0)
        other = asyncio.create_task(scene.call("z", lane="q"))
        await asyncio.gather(*(scene.call(f"a{number}") for number in range(10)), other)
        return scene

    scene = run(main())
    times = sorted(at for at, agent in scene.sent if agent != "z")
    # Four at once after a cut, each takes 0.2 s, and each round lets one more go.
    assert times == pytest.approx([0.0, *[3.0] * 4, *[3.2] * 5, 3.4])
    assert [at for at, agent in scene.sent if agent == "z"] == [0.0]
    until = time.strftime("%H:%M:%S", time.localtime(1_700_000_003))
    assert scene.words == [f"waiting for rate limit until {until}"] * 10


def test_a_pause_that_comes_while_others_wait_is_told_to_them_and_kept():
    async def main():
        scene = Scene(requests_per_minute=1000, concurrency=1)
        first = asyncio.create_task(scene.call("a", takes=5.0, outcome="busy", retry_after_s=20.0))
        await asyncio.sleep(0)
        second = asyncio.create_task(scene.call("b"))
        await asyncio.gather(first, second)
        return scene

    scene = run(main())
    assert [at for at, _ in scene.sent] == pytest.approx([0.0, 25.0])
    assert scene.words[0] == "waiting for other model calls to end (1 under way)"
    assert re.fullmatch(r"waiting for rate limit until \d\d:\d\d:\d\d", scene.words[-1])


def test_a_pause_too_long_to_wait_for_fails_who_waits_and_who_asks():
    async def main():
        scene = Scene(requests_per_minute=1000, concurrency=1)
        first = asyncio.create_task(scene.call("a", takes=1.0, outcome="busy", retry_after_s=LONGEST_PAUSE_S + 100))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(scene.call("b"))
        await first
        with pytest.raises(ProviderError) as waited:
            await waiting
        with pytest.raises(ProviderError) as asked:
            await scene.call("c")
        assert waited.value.cause == asked.value.cause == "rate_limit"
        assert waited.value is not asked.value
        assert asked.value.retry_after_s == pytest.approx(LONGEST_PAUSE_S + 100)
        await asyncio.sleep(LONGEST_PAUSE_S)
        # Now it is short enough.
        await scene.call("c")
        return scene.times()

    assert run(main())[-1] == pytest.approx(1.0 + LONGEST_PAUSE_S + 100)


def test_fewer_at_once_after_too_much_and_slowly_more_again():
    async def main():
        scene = Scene(requests_per_minute=100_000, concurrency=32)
        turns = [await scene.governor.enter(f"a{number}", "p", "p/m", 1, print) for number in range(20)]
        await asyncio.sleep(0.5)
        for turn in turns[:5]:
            turn.leave("busy")
        # One cut for one burst, from what was really under way.
        assert scene.governor.concurrency("p") == 10
        for turn in turns[5:]:
            turn.leave("ok")
        again = await scene.governor.enter("a", "p", "p/m", 1, print)
        await asyncio.sleep(0.5)
        again.leave("busy")
        # There was only this one under way: their number can hardly have been too much.
        assert scene.governor.concurrency("p") == 4
        for _ in range(4):
            turn = await scene.governor.enter("a", "p", "p/m", 1, print)
            await asyncio.sleep(0.5)
            turn.leave("busy")
        assert scene.governor.concurrency("p") == 1
        most = []
        for _ in range(6):
            width = scene.governor.concurrency("p")
            most.append(width)
            await asyncio.gather(*(scene.call("a") for _ in range(width)))
        assert scene.governor.in_flight == 0
        return most

    assert run(main()) == [1, 2, 3, 4, 5, 6]


def test_what_is_not_sent_after_all_leaves_no_trace():
    async def main():
        governor = Governor(RateLimits(requests_per_minute=1), clock=wall)
        turn = await governor.enter("a", "p", "p/m", 1, print)
        turn.refund()
        turn.refund()
        turn.leave("ok")
        assert (governor.in_flight, governor.waiting) == (0, 0)
        await governor.enter("a", "p", "p/m", 1, print)
        return now()

    assert run(main()) == 0


def test_cancelling_a_call_gives_its_turn_to_the_next():
    async def main():
        scene = Scene(requests_per_minute=1000, concurrency=1)
        first = await scene.governor.enter("a", "p", "p/m", 1, print)
        waiting = [asyncio.create_task(scene.call(agent)) for agent in "bcd"]
        await asyncio.sleep(0.5)
        waiting[0].cancel()
        # Let through and cancelled in the same turn of the loop: the place must not be lost.
        first.leave("ok")
        waiting[1].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return [agent for _, agent in scene.sent], scene.governor.in_flight, scene.governor.waiting

    assert run(main()) == (["d"], 0, 0)


def test_failing_those_who_wait_for_a_model_lets_the_others_wait_on():
    async def main():
        scene = Scene(requests_per_minute=1, concurrency=5)
        await scene.call("a")
        wrong = asyncio.create_task(scene.call("b", model="p/wrong"))
        right = asyncio.create_task(scene.call("c", model="p/right"))
        await asyncio.sleep(1)
        scene.governor.fail("p", "p/wrong", lambda: ProviderError("unknown_model", "no such model"))
        with pytest.raises(ProviderError, match="no such model"):
            await wrong
        assert not right.done()
        await right
        return scene.times()

    assert len(run(main())) == 2


def test_closing_fails_everybody_with_an_error_of_their_own():
    async def main():
        scene = Scene(requests_per_minute=1)
        await scene.call("a")
        waiting = [asyncio.create_task(scene.call("b")) for _ in range(3)]
        await asyncio.sleep(1)
        scene.governor.close(lambda: Unavailable("over"))
        found = await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(Unavailable):
            await scene.call("c")
        return found

    found = run(main())
    assert [str(error) for error in found] == ["over"] * 3
    assert len({id(error) for error in found}) == 3


def test_waiting_costs_no_rounds_of_the_loop():
    async def main():
        scene = Scene(requests_per_minute=5)
        tasks = [asyncio.create_task(scene.call(f"a{number}", takes=0.0)) for number in range(50)]
        await asyncio.gather(*tasks)
        return now(), asyncio.get_running_loop().turns

    took, turns = run(main())
    assert took == pytest.approx(9 * WINDOW_S, abs=1.0)
    # A few rounds per call and per word told, and not one per millisecond.
    assert turns < 1000


def test_who_waits_is_told_until_when_and_again_when_that_was_wrong():
    async def main():
        scene = Scene(requests_per_minute=2)
        words = []

        async def call(agent):
            turn = await scene.governor.enter(agent, "p", "p/m", 1, lambda text: words.append((agent, now(), text)))
            turn.leave("ok")

        for agent in "abcde":
            asyncio.get_running_loop().create_task(call(agent))
            await asyncio.sleep(1)
        await asyncio.sleep(300)
        return words

    words = run(main())

    def shown(seconds):
        return "waiting for rate limit until " + time.strftime("%H:%M:%S", time.localtime(1_700_000_000 + seconds))

    # Two went at 0 and 1 s; the places of the others come free a minute after those, rounded up to whole seconds.
    assert words[:3] == [("c", 2.0, shown(61)), ("d", 3.0, shown(62)), ("e", 4.0, shown(121))]
    assert all(text.startswith("waiting for rate limit until ") for _, _, text in words)


def test_a_short_wait_is_not_worth_a_word():
    async def main():
        scene = Scene(requests_per_minute=1000, concurrency=1)
        await asyncio.gather(scene.call("a", takes=0.4), scene.call("b", takes=0.4))
        return scene.words

    assert run(main()) == []


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 4), st.floats(0, 90), st.floats(0, 15), st.sampled_from(["ok", "busy", "failed", "cancel", "refund"])), max_size=40),
)
def test_whatever_happens_the_minute_holds_and_everybody_is_served(limit, concurrency, calls):
    async def main():
        scene = Scene(requests_per_minute=limit, concurrency=concurrency)
        most = 0

        async def one(agent, at, takes, end):
            nonlocal most
            await asyncio.sleep(at)
            turn = await scene.governor.enter(f"a{agent}", "p", "p/m", 1, lambda _: None)
            if end == "refund":
                turn.refund()
                return
            scene.sent.append((now(), agent))
            most = max(most, scene.governor.in_flight)
            try:
                if end == "cancel":
                    asyncio.get_running_loop().call_later(takes / 2, asyncio.current_task().cancel)
                await asyncio.sleep(takes)
            finally:
                turn.leave(end if end in ("ok", "busy", "failed") else "failed", retry_after_s=2.0 if end == "busy" else None)

        await asyncio.gather(*(one(*call) for call in calls), return_exceptions=True)
        assert (scene.governor.in_flight, scene.governor.waiting) == (0, 0)
        return scene, most

    scene, most = run(main())
    assert len(scene.sent) == sum(end != "refund" for *_, end in calls)
    assert most_in_a_minute(scene.times()) <= limit
    assert most <= concurrency


def test_in_real_time_too():
    """The same governor on the ordinary loop: real timers, real tasks."""

    async def main():
        governor = Governor(RateLimits(requests_per_minute=100, concurrency=3))
        under_way, most, done = 0, 0, []

        async def call(agent):
            nonlocal under_way, most
            turn = await governor.enter(agent, "p", "p/m", 1, lambda _: None)
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.001)
            under_way -= 1
            turn.leave("ok", retry_after_s=0.05 if len(done) == 10 else None)
            done.append(agent)

        await asyncio.gather(*(call(f"a{number % 5}") for number in range(40)))
        return most, Counter(done)

    most, done = asyncio.run(main())
    assert most == 3
    assert set(done.values()) == {8}
