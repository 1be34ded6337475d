from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toka_cli.plan import graph
from toka_cli.plan.resolver import MAX_SUGGESTIONS, resolve, shown_path


def messages(resolved):
    return [problem.message for problem in resolved.problems]


def test_waves_follow_required_edges_only_and_are_ordered_by_priority(make_agent):
    agents = [
        make_agent("low", ["base"], priority="low"),
        make_agent("high", ["base"], optional=["low"], priority="high"),
        make_agent("base"),
        make_agent("top", ["high", "low"]),
    ]
    resolved = resolve(agents)
    assert resolved.waves == (("base",), ("high", "low"), ("top",))
    assert resolved.depends_on[3] == ("high", "low")
    assert resolved.after[1] == ("low",)
    assert resolved.problems == ()


def test_unknown_required_dependency_is_a_problem_at_its_place_with_a_suggestion(make_agent):
    resolved = resolve([make_agent("build-system"), make_agent("docs", ["build-sistem"])])
    (problem,) = resolved.problems
    assert problem.where == "docs.yaml:10:5"
    assert problem.message == "docs requires 'build-sistem', and no agent of that name is part of the run"
    assert "did you mean build-system?" in (problem.hint or "")
    assert resolved.failed
    assert resolved.waves == ()


def test_unknown_required_dependency_without_anything_near_names_the_ways_out(make_agent):
    (problem,) = resolve([make_agent("docs", ["zzz"])]).problems
    assert problem.hint == "Add its spec to the paths, make the dependency optional, or run with --allow-missing"


def test_allow_missing_drops_the_edge_with_a_warning(make_agent):
    resolved = resolve([make_agent("docs", ["zzz"])], allow_missing=True)
    assert [problem.severity for problem in resolved.problems] == ["warning"]
    assert resolved.waves == (("docs",),)
    assert resolved.depends_on == ((),)


def test_left_out_dependency_is_a_warning_not_an_error(make_agent):
    resolved = resolve([make_agent("docs", ["build"])], left_out={"build"})
    assert messages(resolved) == ["docs runs without build, which it requires: build was left out of this run"]
    assert not resolved.failed


def test_unknown_optional_dependency_is_only_a_note(make_agent):
    resolved = resolve([make_agent("docs", optional=["zzz"])])
    assert resolved.problems == ()
    assert resolved.notes == ("docs: the optional dependency 'zzz' is not part of the run",)


def test_self_dependencies(make_agent):
    assert messages(resolve([make_agent("a", ["a"])])) == ["cycle: a -> a (it requires itself)"]
    resolved = resolve([make_agent("a", optional=["a"])])
    assert not resolved.failed
    assert resolved.after == ((),)
    assert "names itself" in messages(resolved)[0]


def test_cycle_names_the_whole_path_once_and_is_found_at_its_place(make_agent):
    agents = [make_agent("c", ["a"]), make_agent("a", ["b"]), make_agent("b", ["c"]), make_agent("d", ["a"])]
    (problem,) = resolve(agents).problems
    assert problem.message == "cycle: a -> b -> c -> a"
    assert problem.where == "a.yaml:10:5"


def test_every_separate_cycle_is_named_whatever_the_order_of_the_files(make_agent):
    agents = [make_agent("a", ["b"]), make_agent("b", ["a"]), make_agent("x", ["y", "a"]), make_agent("y", ["z"]), make_agent("z", ["x"])]
    expected = ["cycle: a -> b -> a", "cycle: x -> y -> z -> x"]
    for seed in range(5):
        random.Random(seed).shuffle(agents)
        assert messages(resolve(agents)) == expected


def test_cycles_that_share_an_agent_are_both_named(make_agent):
    agents = [make_agent("hub", ["one", "two"]), make_agent("one", ["hub"]), make_agent("two", ["hub"])]
    assert messages(resolve(agents)) == ["cycle: hub -> one -> hub", "cycle: hub -> two -> hub"]


def test_duplicate_names_name_both_files(make_agent):
    first, second = make_agent("a"), make_agent("a")
    (problem,) = resolve([first, second]).problems
    assert problem.message == "two agents are named a: here and at a.yaml:2:9"


def test_optional_edge_that_closes_a_cycle_is_dropped_with_its_path(make_agent):
    agents = [make_agent("a", optional=["c"]), make_agent("b", ["a"]), make_agent("c", ["b"])]
    resolved = resolve(agents)
    assert not resolved.failed
    assert messages(resolved) == ["a does not wait for its optional dependency c: it would close a cycle: a -> c -> b -> a"]
    assert resolved.after == ((), (), ())


def test_of_two_optional_edges_the_one_that_holds_the_more_urgent_agent_is_dropped(make_agent):
    agents = [make_agent("slow", optional=["quick"], priority="low"), make_agent("quick", optional=["slow"], priority="high")]
    resolved = resolve(agents)
    assert resolved.after == (("quick",), ())


def test_optional_edges_without_a_cycle_are_all_kept(make_agent):
    agents = [make_agent("a", optional=["b", "c"]), make_agent("b", optional=["c"]), make_agent("c")]
    resolved = resolve(agents)
    assert resolved.after == (("b", "c"), ("c",), ())
    assert resolved.problems == ()


def test_a_dependency_that_is_both_counts_as_required(make_agent):
    resolved = resolve([make_agent("a", ["b"], optional=["b"]), make_agent("b")])
    assert resolved.depends_on[0] == ("b",)
    assert resolved.after[0] == ()


def test_critical_path_is_the_longest_chain_and_ties_go_to_priority_then_name(make_agent):
    agents = [
        make_agent("root"),
        make_agent("z", ["root"], priority="high"),
        make_agent("a", ["root"]),
        make_agent("end-z", ["z"]),
        make_agent("end-b", ["a"]),
        make_agent("alone", priority="critical"),
    ]
    assert resolve(agents).critical_path == ("root", "z", "end-z")
    agents[1] = make_agent("z", ["root"])
    assert resolve(agents).critical_path == ("root", "a", "end-b")


def test_rank_is_priority_then_longest_remaining_chain_then_file_order(make_agent):
    agents = [
        make_agent("later"),
        make_agent("short"),
        make_agent("long"),
        make_agent("after-long", ["long"], priority="low"),
        make_agent("urgent", priority="critical"),
    ]
    assert resolve(agents).rank == (2, 3, 1, 4, 0)


def test_nothing_gives_nothing():
    resolved = resolve([])
    assert (resolved.waves, resolved.critical_path, resolved.problems) == ((), (), ())


@pytest.mark.parametrize("shape", ["chain", "layers", "circle", "optional circle", "unknown"])
def test_five_thousand_agents(make_agent, shape):
    size = 5000
    if shape == "chain":
        resolved = resolve([make_agent(f"a{i}", [f"a{i - 1}"] if i else []) for i in range(size)])
        assert len(resolved.waves) == len(resolved.critical_path) == size
    elif shape == "layers":
        agents = [make_agent(f"a{i}", [f"a{(i // 50 - 1) * 50 + j}" for j in range(10)] if i >= 50 else []) for i in range(size)]
        resolved = resolve(agents)
        assert [len(wave) for wave in resolved.waves] == [50] * 100
    elif shape == "circle":
        (problem,) = resolve([make_agent(f"a{i}", [f"a{(i + 1) % size}"]) for i in range(size)]).problems
        assert problem.message.startswith("cycle: a0 -> a1 -> ")
        assert problem.message.endswith(" -> a4999 -> a0")
        assert "(4941 more)" in problem.message
    elif shape == "optional circle":
        resolved = resolve([make_agent(f"a{i}", optional=[f"a{(i + 1) % size}"]) for i in range(size)])
        assert len(resolved.problems) == 1
        assert sum(map(len, resolved.after)) == size - 1
    else:
        resolved = resolve([make_agent(f"a{i}", [f"b{i}"]) for i in range(size)])
        assert len(resolved.problems) == size
        assert sum("did you mean" in (problem.hint or "") for problem in resolved.problems) <= MAX_SUGGESTIONS


def test_shown_path_keeps_both_ends():
    assert shown_path(["a", "b"]) == "a -> b"
    assert shown_path([str(i) for i in range(100)]).split(" -> ")[29:32] == ["29", "(40 more)", "70"]


@st.composite
def two_kinds_of_edges(draw):
    size = draw(st.integers(1, 9))
    pairs = st.tuples(st.integers(0, size - 1), st.integers(0, size - 1))
    required = [set() for _ in range(size)]
    for node, target in draw(st.lists(pairs, max_size=12)):
        if target < node:
            required[node].add(target)
    optional = [set() for _ in range(size)]
    for node, target in draw(st.lists(pairs, max_size=20)):
        if node != target and target not in required[node]:
            optional[node].add(target)
    names = draw(st.permutations(range(size)))
    return [[sorted(edges) for edges in kind] for kind in (required, optional)], names


@settings(max_examples=150, deadline=None)
@given(two_kinds_of_edges())
def test_dropping_leaves_no_circle_and_drops_nothing_without_need(drawn):
    (required, optional), rank = drawn
    dropped = graph.droppable_edges(required, optional, rank)
    gone = {(node, target) for node, target, _ in dropped}
    kept = [hard + [target for target in soft if (node, target) not in gone] for node, (hard, soft) in enumerate(zip(required, optional, strict=True))]
    assert graph.circles(kept, range(len(kept))) == []
    for node, target, path in dropped:
        assert path[0] == target
        assert path[-1] == node
        assert all(after in kept[before] for before, after in pairwise(path))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.integers(0, 7), max_size=3, unique=True), min_size=8, max_size=8))
def test_circles_are_real_and_breaking_one_edge_of_each_ends_them_or_leads_to_others(edges):
    found = graph.circles(edges, range(8))
    for circle in found:
        assert all(after in edges[before] for before, after in zip(circle, [*circle[1:], circle[0]], strict=True))
    assert len(set(found)) == len(found)
    # Without a circle every node gets a layer above those it waits for.
    if not found:
        layer = graph.layers(edges)
        assert all(layer[node] > layer[target] for node, targets in enumerate(edges) for target in targets)
    else:
        reachable = {node: _reach(edges, node) for node in range(8)}
        assert {node for circle in found for node in circle} <= {node for node in range(8) if node in reachable[node]}


def _reach(edges, start):
    seen, todo = set(), list(edges[start])
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += edges[node]
    return seen
