"""The ledger: what many calls at once may spend, what is said on the way, what happens at the end, and that a resumed run goes on where it stood."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.llm.clock import now, run
from toka_cli.errors import BudgetExhausted, Unavailable
from toka_cli.llm.budget import Amount, Budget, BudgetLimits, Spent, SpentRow
from toka_cli.llm.provider import Caller


def caller(agent="a", task="t1", workstream="w", attempt=1, turn=1):
    return Caller(f"id-{agent}", agent, workstream, task, attempt, turn)


def silent(_text):
    """Nobody listens."""


def make(on_warn=silent, spent=None, **limits):
    return Budget(BudgetLimits(**limits), spent=spent, on_warn=on_warn)


async def spend(budget, who, usd, tokens=0):
    """One call that costs exactly what it reserved."""
    (await budget.reserve(who, usd, tokens, silent)).settle(usd, tokens)


def test_fifty_concurrent_calls_pass_the_limit_by_one_call_at_most():
    reserved, real = 0.004, 0.003

    async def main():
        budget = make(run=Amount(usd=0.05))
        spent, refused, most = 0.0, 0, 0
        under_way = 0
        rng = random.Random(3)

        async def agent(number):
            nonlocal spent, refused, under_way, most
            try:
                while True:
                    held = await budget.reserve(caller(f"a{number}"), reserved, 100, silent)
                    under_way += 1
                    most = max(most, under_way)
                    await asyncio.sleep(rng.uniform(0.1, 3))
                    under_way -= 1
                    held.settle(real, 80)
                    spent += real
            except BudgetExhausted:
                refused += 1

        await asyncio.gather(*(agent(number) for number in range(50)))
        return spent, refused, most

    spent, refused, most = run(main())
    assert refused == 50
    # Used to the end, and past it by no more than one call.
    assert 0.05 <= spent <= 0.05 + reserved
    # Many went at once as long as their worst case fitted.
    assert most == 12


def test_a_call_whose_worst_case_does_not_fit_goes_alone():
    async def main():
        budget = make(run=Amount(usd=0.05))
        order = []

        async def call(name):
            held = await budget.reserve(caller(name), 0.06, 10, silent)
            order.append((name, now()))
            await asyncio.sleep(1)
            held.settle(0.01, 10)

        await asyncio.gather(*(call(f"a{number}") for number in range(5)))
        with pytest.raises(BudgetExhausted):
            await budget.reserve(caller("late"), 0.06, 10, silent)
        return order

    assert run(main()) == [(f"a{number}", float(number)) for number in range(5)]


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"run": Amount(tokens=100)}, "the run"),
        ({"workstreams": {"w": Amount(tokens=100)}}, "workstream w"),
        ({"agents": {"a": Amount(tokens=100)}}, "agent a"),
        ({"tasks": {("a", "t1"): Amount(tokens=100)}}, "task t1 of agent a"),
    ],
)
def test_each_place_of_the_tree_can_be_limited(limits, name):
    async def main():
        budget = make(**limits)
        await spend(budget, caller(), 0.0, 100)
        with pytest.raises(BudgetExhausted, match=f"the budget of {name} is used up: 100 of 100 tokens") as found:
            await spend(budget, caller(), 0.0, 1)
        assert found.value.code == "budget"
        assert found.value.hint
        # Whoever is elsewhere in the tree goes on, unless it is the run's.
        if name != "the run":
            await spend(budget, caller("b", "t1", "v"), 0.0, 1000)
        return budget.remaining(caller("b", "t1", "v"))

    left = run(main())
    assert left.tokens == (0 if name == "the run" else None)
    assert left.place == ("the run" if name == "the run" else None)


def test_usd_and_tokens_are_limited_apart():
    async def main():
        budget = make(agents={"a": Amount(usd=1.0, tokens=1000)})
        await spend(budget, caller(), 0.1, 990)
        left = budget.remaining(caller())
        await spend(budget, caller(), 0.0, 10)
        with pytest.raises(BudgetExhausted, match=r"0\.1000 of 1\.0000 USD, 1,000 of 1,000 tokens"):
            await spend(budget, caller(), 0.0, 0)
        return left

    left = run(main())
    assert (left.usd, left.tokens, left.share_used, left.place) == (pytest.approx(0.9), 10, pytest.approx(0.99), "agent a")


def test_what_is_held_is_not_left_for_others_until_it_is_given_back():
    async def main():
        budget = make(run=Amount(usd=1.0))
        first = await budget.reserve(caller("a"), 0.8, 0, silent)
        assert budget.remaining(caller("b")).usd == pytest.approx(0.2)
        words = []
        second = asyncio.create_task(budget.reserve(caller("b"), 0.5, 0, words.append))
        await asyncio.sleep(1)
        assert not second.done()
        assert words == ["waiting for what other model calls leave of the budget of the run"]
        first.release()
        held = await second
        assert budget.remaining(caller("a")).usd == pytest.approx(0.5)
        held.forfeit()
        held.settle(100.0, 5)
        held.release()
        return budget.remaining(caller("a")).usd

    # Forfeited: the worst case counts, once.
    assert run(main()) == pytest.approx(0.5)


def test_a_large_call_that_waits_is_not_passed_by_small_ones():
    async def main():
        budget = make(run=Amount(tokens=100), agents={"other": Amount(tokens=100)})
        order = []

        async def call(name, tokens, takes):
            held = await budget.reserve(caller(name), 0.0, tokens, silent)
            order.append(name)
            await asyncio.sleep(takes)
            held.release()

        first = asyncio.create_task(call("first", 50, 2))
        await asyncio.sleep(0.1)
        large = asyncio.create_task(call("large", 90, 1))
        await asyncio.sleep(0.1)
        small = asyncio.create_task(call("small", 10, 1))
        await asyncio.gather(first, large, small)
        return order

    assert run(main()) == ["first", "large", "small"]


def test_cancelling_who_waits_frees_the_way_and_takes_nothing():
    async def main():
        budget = make(run=Amount(tokens=100))
        first = await budget.reserve(caller(), 0.0, 60, silent)
        large = asyncio.create_task(budget.reserve(caller(), 0.0, 90, silent))
        small = asyncio.create_task(budget.reserve(caller(), 0.0, 40, silent))
        third = asyncio.create_task(budget.reserve(caller(), 0.0, 70, silent))
        await asyncio.sleep(0)
        large.cancel()
        held = await small
        # Let through and cancelled in the same turn of the loop: what it held comes back.
        first.release()
        held.release()
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
        return budget.remaining(caller()).tokens

    assert run(main()) == 100


def test_warnings_are_said_once_per_level_to_people_and_to_each_model():
    said = []

    async def main():
        budget = make(said.append, run=Amount(usd=1.0))
        heard = []
        for _ in range(10):
            await spend(budget, caller("a"), 0.1)
            heard.append((budget.warning(caller("a")), budget.warning(caller("a"))))
        return heard, budget.warning(caller("b"))

    heard, other = run(main())
    assert said == ["70% of the budget of the run is used (0.7000 of 1.0000 USD)", "90% of the budget of the run is used (0.9000 of 1.0000 USD)"]
    assert [first for first, _ in heard] == [None] * 6 + [said[0], None, said[1], None]
    assert all(second is None for _, second in heard)
    # Who comes later hears only what holds now.
    assert other == "90% of the budget of the run is used (1.0000 of 1.0000 USD)"


def test_a_resumed_ledger_goes_on_and_does_not_repeat_itself():
    said = []
    rows = (SpentRow("w", "a", "t1", 0.5, 500), SpentRow("w", "a", "t2", 0.1, 100), SpentRow("v", "b", "t1", 0.15, 50))

    async def main():
        budget = make(said.append, spent=Spent(rows), run=Amount(usd=1.0), agents={"a": Amount(usd=0.6)}, tasks={("a", "t1"): Amount(tokens=800)})
        assert budget.remaining(caller("b", "t9", "v")).usd == pytest.approx(0.25)
        assert budget.remaining(caller("a", "t1")).tokens == 300
        with pytest.raises(BudgetExhausted, match="the budget of agent a is used up"):
            await spend(budget, caller("a"), 0.01)
        await spend(budget, caller("b", "t9", "v"), 0.16)

    run(main())
    # 70 % had been said before the run was interrupted.
    assert said == ["90% of the budget of the run is used (0.9100 of 1.0000 USD)"]


def test_the_last_turn_is_announced_taken_and_then_it_is_over():
    async def main():
        budget = make(agents={"a": Amount(usd=1.0)})
        turns = []
        with pytest.raises(BudgetExhausted, match="the budget of agent a is used up"):
            while True:
                last = budget.remaining(caller()).wrap_up
                await spend(budget, caller(), 0.15)
                turns.append(last)
        return turns, budget.remaining(caller()).usd

    turns, left = run(main())
    # It is said while there is still room for a turn as large as those before.
    assert turns == [False] * 5 + [True]
    assert left == pytest.approx(0.10)


def test_a_last_turn_that_costs_less_than_feared_is_not_the_last():
    async def main():
        budget = make(agents={"a": Amount(usd=1.0)})
        for _ in range(5):
            await spend(budget, caller(), 0.15)
        assert budget.remaining(caller()).wrap_up
        await spend(budget, caller(), 0.01)
        assert not budget.remaining(caller()).wrap_up
        await spend(budget, caller(), 0.01)
        await spend(budget, caller(), 0.20)
        # Announced anew, and taken anew.
        assert budget.remaining(caller()).wrap_up
        await spend(budget, caller(), 0.01)
        with pytest.raises(BudgetExhausted):
            await spend(budget, caller(), 0.20)

    run(main())


def test_a_request_that_fails_is_not_the_last_turn():
    async def main():
        budget = make(agents={"a": Amount(usd=1.0)})
        await spend(budget, caller(), 0.45)
        assert budget.remaining(caller()).wrap_up
        (await budget.reserve(caller(), 0.1, 0, silent)).release()
        (await budget.reserve(caller(), 0.1, 0, silent)).forfeit()
        await spend(budget, caller(), 0.40)
        with pytest.raises(BudgetExhausted):
            await budget.reserve(caller(), 0.1, 0, silent)

    run(main())


def test_each_task_has_its_last_turn_as_long_as_there_is_anything_left():
    async def main():
        budget = make(run=Amount(usd=1.0))
        await spend(budget, caller("z"), 0.96)
        granted = []
        for agent in "abcdef":
            assert budget.remaining(caller(agent)).wrap_up
            try:
                await spend(budget, caller(agent), 0.01)
                granted.append(agent)
            except BudgetExhausted:
                pass
            with pytest.raises(BudgetExhausted):
                await spend(budget, caller(agent), 0.01)
        return granted

    assert run(main()) == ["a", "b", "c", "d"]


def test_nothing_is_asked_for_where_nothing_is_limited():
    async def main():
        budget = make()
        held = [await budget.reserve(caller(f"a{number}"), 1e6, 10**9, silent) for number in range(100)]
        for one in held:
            one.settle(None, 5)
        return budget.remaining(caller()), budget.limited(caller()), budget.in_usd

    left, limited, in_usd = run(main())
    assert (left.usd, left.tokens, left.wrap_up, limited, in_usd) == (None, None, False, False, False)


def test_a_budget_of_nothing_is_used_up_at_once():
    async def main():
        budget = make(run=Amount(usd=0.0))
        with pytest.raises(BudgetExhausted) as found:
            await spend(budget, caller(), 0.0)
        assert found.value.exit_code == 7
        return budget.in_usd

    assert run(main())


def test_closing_ends_every_wait():
    async def main():
        budget = make(run=Amount(tokens=10))
        held = await budget.reserve(caller(), 0.0, 10, silent)
        waiting = [asyncio.create_task(budget.reserve(caller(), 0.0, 10, silent)) for _ in range(3)]
        await asyncio.sleep(0)
        budget.close(lambda: Unavailable("over"))
        found = await asyncio.gather(*waiting, return_exceptions=True)
        held.release()
        return [str(error) for error in found]

    assert run(main()) == ["over"] * 3


calls = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["t1", "t2"]),
        st.integers(1, 60),
        st.floats(0, 1),
        st.floats(0, 20),
        st.sampled_from(["settle", "forfeit", "cancel"]),
    ),
    max_size=30,
)


@settings(max_examples=80, deadline=None)
@given(calls, st.integers(1, 200), st.integers(1, 100))
def test_whatever_happens_no_limit_is_passed_by_more_than_one_call(made, run_limit, agent_limit):
    async def main():
        budget = make(run=Amount(tokens=run_limit), agents={"a": Amount(tokens=agent_limit)})
        spent = {"a": 0, "b": 0, "c": 0}

        async def one(agent, task, worst, share, takes, end):
            await asyncio.sleep(takes / 4)
            try:
                held = await budget.reserve(caller(agent, task), 0.0, worst, silent)
            except BudgetExhausted:
                return
            real = worst if end == "forfeit" else int(worst * share)
            try:
                if end == "cancel":
                    asyncio.get_running_loop().call_later(takes / 2, asyncio.current_task().cancel)
                await asyncio.sleep(takes)
                if end != "forfeit":
                    held.settle(0.0, real)
            except asyncio.CancelledError:
                real = worst
            finally:
                held.forfeit()
                spent[agent] += real

        await asyncio.gather(*(one(*call) for call in made), return_exceptions=True)
        left = budget.remaining(caller("a")), budget.remaining(caller("b"))
        return spent, left

    spent, (a, b) = run(main())
    largest = max((worst for _, _, worst, *_ in made), default=0)
    assert sum(spent.values()) < run_limit + largest or not made
    assert spent["a"] < agent_limit + largest or not made
    # The books are right: what is left is the limit less what was spent.
    assert b.tokens == max(0, run_limit - sum(spent.values()))
    assert a.tokens == max(0, min(run_limit - sum(spent.values()), agent_limit - spent["a"]))
