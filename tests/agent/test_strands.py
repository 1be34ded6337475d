"""The cell's scheduler: waits on descriptors, deadlines and signals, with a clock that only the test moves."""

from __future__ import annotations

import gc
import os

import pytest

from toka_cli.agent import strands
from toka_cli.agent.strands import Cancelled, Scheduler, Signal


class Clock:
    """Seconds that pass only when somebody rests on them: each look at it without work in between moves on to the next deadline."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Skipping(Scheduler):
    """A scheduler that moves its clock to the next deadline instead of waiting for it."""

    def __init__(self):
        self.time = Clock()
        super().__init__(self.time)

    def _poll(self):
        while self._timers and self._timers[0][2].wait is not self._timers[0][3]:
            del self._timers[0]
            self._timers.sort(key=lambda timer: timer[:2])
        if self._timers:
            self.time.now = max(self.time.now, self._timers[0][0])
        super()._poll()


@pytest.fixture
def skipping():
    return Skipping()


@pytest.fixture
def pipe():
    made = []

    def make():
        ends = os.pipe()
        made.extend(ends)
        return ends

    yield make
    for end in made:
        try:
            os.close(end)
        except OSError:
            pass


def test_the_result_and_the_error_of_the_main_strand_come_out():
    async def good():
        return 7

    async def bad():
        raise ValueError("no")

    assert Scheduler().run(good()) == 7
    with pytest.raises(ValueError, match="no"):
        Scheduler().run(bad())


def test_timers_fire_in_order_of_time_and_then_of_asking(skipping):
    order = []

    async def sleeper(name, seconds):
        assert await skipping.rest((), seconds) == ()
        order.append((name, skipping.time.now))

    async def main():
        sleepers = [skipping.spawn(sleeper(name, seconds)) for name, seconds in (("c", 30), ("a", 10), ("b", 20), ("a2", 10))]
        for one in sleepers:
            await skipping.join(one)

    skipping.run(main())
    assert order == [("a", 110.0), ("a2", 110.0), ("b", 120.0), ("c", 130.0)]


def test_a_thousand_waits_at_once(skipping):
    done = []

    async def one(number):
        await skipping.rest((), (number * 7919) % 1000)
        done.append(number)

    async def main():
        for waiting in [skipping.spawn(one(number)) for number in range(1000)]:
            await skipping.join(waiting)

    skipping.run(main())
    assert sorted(done) == list(range(1000))
    assert done == sorted(range(1000), key=lambda number: (number * 7919) % 1000)


def test_a_negative_time_is_no_time(skipping):
    async def main():
        await skipping.rest((), -5.0)

    skipping.run(main())
    assert skipping.time.now == 100.0


def test_readable_descriptors_are_named_and_the_others_are_not(pipe):
    scheduler = Scheduler()
    (one, write_one), (two, _) = pipe(), pipe()

    async def main():
        os.write(write_one, b"x")
        return await scheduler.rest((one, two))

    assert scheduler.run(main()) == (one,)


def test_of_a_descriptor_and_a_deadline_the_first_counts_and_the_other_is_forgotten(skipping, pipe):
    read, write = pipe()

    async def main():
        os.write(write, b"x")
        first = await skipping.rest((read,), 1000.0)
        os.read(read, 1)
        second = await skipping.rest((read,), 5.0)
        return first, second

    assert skipping.run(main()) == ((read,), ())


def test_a_descriptor_that_was_closed_and_made_again_can_be_waited_for_again():
    scheduler = Scheduler()
    seen = set()

    async def main():
        for _ in range(50):
            read, write = os.pipe()
            seen.add(read)
            os.write(write, b"x")
            assert await scheduler.rest((read,)) == (read,)
            os.close(read)
            os.close(write)

    scheduler.run(main())
    assert len(seen) < 50


def test_a_signal_set_before_the_wait_is_not_missed(skipping):
    async def main():
        signal = Signal(skipping)
        signal.set("early")
        signal.set("late")
        return await signal.wait(), signal.value

    assert skipping.run(main()) == (True, "early")


def test_a_signal_wakes_everybody_who_waits(skipping):
    signal = Signal(skipping)
    woken = []

    async def waiter(name):
        woken.append((name, await signal.wait()))

    async def main():
        waiting = [skipping.spawn(waiter(name)) for name in "abc"]
        await skipping.rest((), 1.0)
        assert woken == []
        signal.set()
        for one in waiting:
            await skipping.join(one)

    skipping.run(main())
    assert woken == [("a", True), ("b", True), ("c", True)]


def test_a_signal_that_does_not_come_in_time_is_false_and_may_come_later(skipping):
    signal = Signal(skipping)

    async def main():
        assert not await signal.wait(3.0)
        signal.set(5)
        return await signal.wait(3.0), skipping.time.now

    assert skipping.run(main()) == (True, 103.0)


def test_a_wake_without_a_reason_ends_a_rest_with_nothing_ready(skipping, pipe):
    read, _ = pipe()

    async def sleeper():
        return await skipping.rest((read,), 1000.0)

    async def main():
        strand = skipping.spawn(sleeper())
        await skipping.rest((), 1.0)
        skipping.wake(strand)
        skipping.wake(strand)
        return await skipping.join(strand), skipping.time.now

    assert skipping.run(main()) == ((), 101.0)


def test_join_raises_what_the_strand_raised_also_when_it_ended_before(skipping):
    async def bad():
        raise KeyError("x")

    async def main():
        strand = skipping.spawn(bad())
        with pytest.raises(KeyError):
            await skipping.join(strand)
        with pytest.raises(KeyError):
            await skipping.join(strand)
        return "went on"

    assert skipping.run(main()) == "went on"


def test_two_can_join_one(skipping):
    async def slow():
        await skipping.rest((), 2.0)
        return "result"

    async def joiner(strand):
        return await skipping.join(strand)

    async def main():
        strand = skipping.spawn(slow())
        both = [skipping.spawn(joiner(strand)), skipping.spawn(joiner(strand))]
        return [await skipping.join(one) for one in both]

    assert skipping.run(main()) == ["result", "result"]


def test_cancelling_is_seen_where_the_strand_rests(skipping):
    told = []

    async def sleeper():
        try:
            await skipping.rest((), 1000.0)
        except Cancelled:
            told.append(skipping.time.now)
            await skipping.rest((), 5.0)
            told.append(skipping.time.now)
            raise

    async def main():
        strand = skipping.spawn(sleeper())
        await skipping.rest((), 1.0)
        skipping.cancel(strand)
        with pytest.raises(Cancelled):
            await skipping.join(strand)
        skipping.cancel(strand)

    skipping.run(main())
    assert told == [101.0, 106.0]


def test_a_strand_that_is_cancelled_when_it_is_already_on_its_way_leaves_no_descriptor_behind(pipe):
    """Both in one turn: its descriptor became readable, and somebody cancels it. It rests again before the cancellation reaches it."""
    scheduler = Scheduler()
    (read, write), (other, _) = pipe(), pipe()

    async def reader():
        try:
            while True:
                for ready in await scheduler.rest((read, other)):
                    os.read(ready, 1)
        except Cancelled:
            await scheduler.rest((read, other), 0.0)
            raise

    async def canceller(strand):
        await scheduler.rest((), 0.0)
        # Ready, and not run yet: exactly what a descriptor that is readable in the same turn does.
        scheduler.wake(strand)
        scheduler.cancel(strand)

    async def main():
        strand = scheduler.spawn(reader())
        await scheduler.rest((), 0.0)
        os.write(write, b"x")
        await scheduler.join(scheduler.spawn(canceller(strand)))
        with pytest.raises(Cancelled):
            await scheduler.join(strand)
        return await scheduler.rest((read, other), 0.0)

    scheduler.run(main())


def test_a_strand_cancelled_before_it_began_begins_and_ends_at_its_first_rest(skipping):
    told = []

    async def sleeper():
        told.append("began")
        await skipping.rest((), 1000.0)
        told.append("went on")

    async def main():
        strand = skipping.spawn(sleeper())
        skipping.cancel(strand)
        with pytest.raises(Cancelled):
            await skipping.join(strand)

    skipping.run(main())
    assert told == ["began"]


def test_a_watch_is_called_while_others_rest_and_can_be_ended(pipe):
    scheduler = Scheduler()
    read, write = pipe()
    taken = []

    def callback():
        taken.append(os.read(read, 1))
        if len(taken) == 2:
            scheduler.unwatch(read)
            ready.set()

    ready = Signal(scheduler)
    scheduler.watch(read, callback)

    async def main():
        os.write(write, b"abc")
        await ready.wait()
        await scheduler.rest((), 0.0)

    scheduler.run(main())
    assert taken == [b"a", b"b"]


def test_waits_that_ended_early_do_not_pile_up(pipe):
    scheduler = Scheduler()
    read, write = pipe()

    async def main():
        os.write(write, b"x")
        for _ in range(5000):
            await scheduler.rest((read,), 3600.0)
        return len(scheduler._timers)

    assert scheduler.run(main()) <= 2 * strands.MANY_TIMERS


def test_strands_that_are_left_when_the_main_one_ends_are_left_quietly(skipping):
    async def forever():
        while True:
            await skipping.rest((), 1000.0)

    async def main():
        skipping.spawn(forever())
        await skipping.rest((), 1.0)

    skipping.run(main())
    gc.collect()


# --- a clock that stands still ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("told", "frozen_s", "counted"), [(True, 0.0, 5.0), (True, 60.0, 5.0), (False, 60.0, 5.0), (False, 0.0, 65.0)])
def test_time_in_which_it_stood_is_counted_nowhere(told, frozen_s, counted):
    """Sixty seconds of pause: the clock was told to stand when they began, or only hears of it when they are over. Never are they left out twice."""
    clock = Clock()
    scheduler = Scheduler(clock)
    clock.now += 2.0
    if told:
        scheduler.stand_still()
    clock.now += 60.0
    if told:
        assert scheduler.clock() == 102.0
        scheduler.stand_still()
    scheduler.go_on(frozen_s)
    clock.now += 3.0
    assert scheduler.clock() == 100.0 + counted


def test_while_it_stands_a_descriptor_wakes_and_a_deadline_does_not(pipe):
    clock = Clock()
    scheduler, (read, write) = Scheduler(clock), pipe()
    woken = []

    async def late():
        await scheduler.rest((), 10.0)
        woken.append("late")

    async def main():
        strand = scheduler.spawn(late())
        await scheduler.rest((), 0.0)
        scheduler.stand_still()
        clock.now += 1000.0
        os.write(write, b"x")
        assert await scheduler.rest((read,), 20.0) == (read,)
        assert woken == []
        scheduler.go_on()
        clock.now += 11.0
        await scheduler.join(strand)

    scheduler.run(main())
    assert woken == ["late"]
