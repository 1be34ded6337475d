from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from toka_cli.plan.schedule import Place, Schedule


def run(schedule, plan, failing=frozenset(), slots=3):
    """Drive a schedule to its end and return the names in the order they started, and the skipped with their reasons."""
    started, skipped, running = [], {}, []
    while not schedule.done:
        names = schedule.start_ready(slots - len(running))
        for name in names:
            agent = plan.agent(name)
            assert all(schedule.place(other) is Place.SUCCEEDED for other in agent.depends_on)
            assert all(schedule.place(other) in {Place.SUCCEEDED, Place.FAILED, Place.SKIPPED} for other in agent.after)
        started += names
        running += names
        assert running, "nothing runs and nothing is over"
        name = running.pop(0)
        skipped |= dict(schedule.finished(name, name not in failing).skipped)
    return started, skipped


def test_starts_in_order_of_rank_within_the_free_slots(make_plan_of):
    schedule = Schedule(make_plan_of(dict.fromkeys("dbca", ((), ()))))
    assert schedule.ready() == ["d", "b", "c", "a"]
    assert schedule.start_ready(0) == []
    assert schedule.start_ready(3) == ["d", "b", "c"]
    assert schedule.running == 3
    assert schedule.why("a") == "waiting for a free slot (3 of 3 busy)"
    schedule.finished("b", True)
    assert schedule.running == 2
    assert schedule.why("a") == "about to start"
    assert schedule.start_ready(1) == ["a"]
    assert schedule.start_ready(5) == []


def test_an_agent_is_ready_the_moment_its_last_dependency_succeeded_not_wave_by_wave(make_plan_of):
    schedule = Schedule(make_plan_of({"a": ((), ()), "b": ((), ()), "after-a": (("a",), ())}))
    schedule.start_ready(2)
    assert schedule.finished("a", True).ready == ("after-a",)
    assert schedule.start_ready(1) == ["after-a"]


def diamond(make_plan_of):
    """A diamond of 12 agents: start; three arms of three; join; end."""
    edges = {"start": ((), ())}
    for arm in "abc":
        edges |= {f"{arm}{step}": ((f"{arm}{step - 1}" if step > 1 else "start",), ()) for step in (1, 2, 3)}
    return make_plan_of(edges | {"join": (("a3", "b3", "c3"), ()), "end": (("join",), ())})


def test_diamond_of_twelve_with_one_failing_agent(make_plan_of):
    plan = diamond(make_plan_of)
    schedule = Schedule(plan)
    started, skipped = run(schedule, plan, failing={"b1"})
    assert skipped == dict.fromkeys(["b2", "b3", "join", "end"], "dependency_failed: b1")
    places = Counter(schedule.place(agent.name) for agent in plan.agents)
    assert places == {Place.SUCCEEDED: 7, Place.FAILED: 1, Place.SKIPPED: 4}
    assert set(started) == {"start", "a1", "a2", "a3", "b1", "c1", "c2", "c3"}
    assert schedule.why("end") == "skipped: dependency_failed: b1"
    assert schedule.why("b1") == "failed"


def test_with_two_failures_the_first_one_is_named(make_plan_of):
    schedule = Schedule(make_plan_of({"a": ((), ()), "b": ((), ()), "both": (("a", "b"), ())}))
    schedule.start_ready(2)
    assert schedule.finished("b", False).skipped == (("both", "dependency_failed: b"),)
    assert schedule.finished("a", False).skipped == ()


def test_optional_dependencies_release_whatever_their_end(make_plan_of):
    schedule = Schedule(make_plan_of({"bad": ((), ()), "child": (("bad",), ()), "nice": ((), ("bad", "child"))}))
    assert schedule.start_ready(3) == ["bad"]
    assert schedule.why("nice") == "waiting for bad and child"
    freed = schedule.finished("bad", False)
    assert freed.skipped == (("child", "dependency_failed: bad"),)
    assert freed.ready == ("nice",)


def test_an_agent_released_and_skipped_by_the_same_end_is_not_ready(make_plan_of):
    # `late` waits for `bad` only for the order, but requires `child`, which falls with `bad`.
    schedule = Schedule(make_plan_of({"bad": ((), ()), "child": (("bad",), ()), "late": (("child",), ("bad",))}))
    schedule.start_ready(1)
    freed = schedule.finished("bad", False)
    assert freed.ready == ()
    assert dict(freed.skipped) == dict.fromkeys(["child", "late"], "dependency_failed: bad")
    assert schedule.done


def test_an_agent_that_is_ended_before_it_started_never_starts(make_plan_of):
    schedule = Schedule(make_plan_of({"a": ((), ()), "b": ((), ())}))
    schedule.finished("a", False)
    assert schedule.start_ready(2) == ["b"]
    assert schedule.running == 1


def test_the_first_end_counts(make_plan_of):
    schedule = Schedule(make_plan_of({"a": ((), ()), "b": (("a",), ())}))
    schedule.start_ready(1)
    assert schedule.finished("a", True).ready == ("b",)
    assert schedule.finished("a", False) == ((), ())
    assert schedule.place("a") is Place.SUCCEEDED


def test_a_restart_gives_back_its_slot_and_queues_again(make_plan_of):
    schedule = Schedule(make_plan_of({"a": ((), ()), "b": ((), ())}))
    assert schedule.start_ready(1) == ["a"]
    assert schedule.requeued("a")
    assert schedule.running == 0
    assert not schedule.requeued("b")
    assert schedule.start_ready(5) == ["a", "b"]


def test_stop_starts_nothing_more(make_plan_of):
    schedule = Schedule(make_plan_of({"a": ((), ()), "b": ((), ()), "c": (("a",), ())}))
    schedule.start_ready(1)
    schedule.stop()
    assert schedule.finished("a", True).ready == ("c",)
    assert schedule.start_ready(5) == []
    assert schedule.unstarted() == ["b", "c"]
    assert schedule.why("b") == "will not start: the run is ending"
    for name in schedule.unstarted():
        schedule.finished(name, False)
    assert schedule.done


def test_why_counts_many_dependencies(make_plan_of):
    edges = {f"d{i}": ((), ()) for i in range(6)}
    schedule = Schedule(make_plan_of(edges | {"end": (tuple(edges), ())}))
    assert schedule.why("end") == "waiting for d0, d1, d2 and 3 more"
    schedule.finished("d0", True)
    assert schedule.waits_for("end") == ("d1", "d2", "d3", "d4", "d5")


def test_five_thousand_agents_in_a_chain_and_in_layers(make_plan_of):
    size = 5000
    plan = make_plan_of({f"a{i}": ((f"a{i - 1}",) if i else (), ()) for i in range(size)})
    schedule = Schedule(plan)
    schedule.start_ready(1)
    assert len(schedule.finished("a0", False).skipped) == size - 1
    assert schedule.done
    layers = make_plan_of({f"a{i}": (tuple(f"a{(i // 100 - 1) * 100 + j}" for j in range(20)) if i >= 100 else (), ()) for i in range(size)})
    schedule, started = Schedule(layers), 0
    while names := schedule.start_ready(64):
        started += len(names)
        for name in names:
            schedule.finished(name, True)
    assert started == size
    assert schedule.done


@st.composite
def runs(draw):
    size = draw(st.integers(1, 12))
    edges = {}
    for node in range(size):
        earlier = draw(st.lists(st.integers(0, node - 1), max_size=4, unique=True)) if node else []
        cut = draw(st.integers(0, len(earlier)))
        edges[f"a{node}"] = (tuple(f"a{other}" for other in earlier[:cut]), tuple(f"a{other}" for other in earlier[cut:]))
    failing = draw(st.sets(st.sampled_from(sorted(edges)), max_size=3))
    return edges, failing, draw(st.integers(1, 4))


@settings(max_examples=200, deadline=None)
@given(drawn=runs())
def test_everything_ends_and_exactly_the_dependants_of_failures_are_skipped(make_plan_of, drawn):
    edges, failing, slots = drawn
    plan = make_plan_of(edges)
    schedule = Schedule(plan)
    started, skipped = run(schedule, plan, failing, slots)
    fallen = set()
    for name, (required, _) in edges.items():
        if any(other in fallen or other in failing for other in required):
            fallen.add(name)
    assert set(skipped) == fallen
    assert sorted(started) == sorted(set(edges) - fallen)
    assert schedule.running == 0
    for name, reason in skipped.items():
        root = reason.removeprefix("dependency_failed: ")
        assert root in failing
        assert root in started
        assert root in _ancestors(edges, name)


def _ancestors(edges, name):
    seen, todo = set(), list(edges[name][0])
    while todo:
        other = todo.pop()
        if other not in seen:
            seen.add(other)
            todo += edges[other][0]
    return seen
