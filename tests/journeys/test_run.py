"""A run from specs to its end: order, failures and what they skip, and the options of `toka orchestrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

# The failing agent is `c`; e, f, h, i, k and l require it, directly or not.
DIAMOND = {
    "a": [],
    "b": ["a"], "c": ["a"], "d": ["a"],
    "e": ["b", "c"], "f": ["c"], "g": ["b", "d"],
    "h": ["e"], "i": ["f", "g"], "j": ["g"],
    "k": ["h", "j"], "l": ["i", "k"],
}  # fmt: skip
SKIPPED = set("efhikl")


def by_name(view: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {agent["name"]: agent for agent in view["agents"]}


def states(view: dict[str, Any]) -> dict[str, str]:
    return {agent["name"]: agent["state"] for agent in view["agents"]}


def echo(toka: Any, name: str, **sections: Any) -> Path:
    """An agent that writes its name into `order`."""
    return toka.spec(name, [{"id": "say", "description": "Say", "run": f"echo {name} >> order"}], **sections)


def order(toka: Any) -> list[str]:
    path = toka.work / "order"
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("start_method", ["forkserver", "fresh"])
def test_a_failing_agent_skips_exactly_its_dependants(toka: Any, start_method: str) -> None:
    for name, required in DIAMOND.items():
        command = "exit 7" if name == "c" else f"echo {name} >> order"
        toka.spec(name, [{"id": "do", "description": "Do", "run": command}], dependencies={"required": dict.fromkeys(required, "needed")})
    done = toka("orchestrate", toka.root / "specs", "-o", "json", env={"TOKA_PROCESS_START_METHOD": start_method})
    done.expect(1)
    view = done.envelope["data"]["run"]
    assert done.envelope["exit_code"] == 1
    again = toka("run", "show", view["id"], "-o", "json").expect(0).envelope["data"]["run"]
    for shown in (view, again):
        agents = by_name(shown)
        assert shown["state"] == "failed"
        assert shown["reason"] == "agents_failed: c"
        assert agents["c"]["state"] == "failed"
        assert agents["c"]["reason"] == "task_failed: do: exit 7"
        assert {name for name, agent in agents.items() if agent["state"] == "skipped"} == SKIPPED
        assert {agents[name]["reason"] for name in SKIPPED} == {"dependency_failed: c"}
        assert {name for name, agent in agents.items() if agent["state"] == "succeeded"} == set(DIAMOND) - SKIPPED - {"c"}
        assert all(agent["pid"] is None for agent in agents.values())
    assert again == {**view, **{key: again[key] for key in ("last_seq",)}}
    ran = order(toka)
    assert sorted(ran) == sorted(set(DIAMOND) - SKIPPED - {"c"})
    assert all(ran.index(before) < ran.index(name) for name in ran for before in DIAMOND[name])


def test_one_slot_follows_priority_then_name(toka: Any) -> None:
    for name, priority in (("low", "low"), ("crit", "critical"), ("mid", "medium"), ("high", "high")):
        echo(toka, name, spec={"priority": priority})
    toka.run(toka.root / "specs", "--max-agents", "1")
    assert order(toka) == ["crit", "high", "mid", "low"]


def test_no_more_agents_at_once_than_allowed(toka: Any) -> None:
    """Three agents, two slots: the third starts only after one of the first two has ended."""
    gate = toka.meeting("gate")
    for name in ("a1", "a2", "a3"):
        toka.spec(name, [{"id": "wait", "description": "Wait", "run": "read x < gate"}])
    running = toka.start("orchestrate", toka.root / "specs", "--max-agents", "2", "-o", "jsonl")
    running.event("task.started")
    running.event("task.started")
    assert {event["name"] for event in running.events if event["kind"] == "task.started"} == {"a1", "a2"}
    gate.give()
    running.event("agent.starting", name="a3")
    kinds = [(event["kind"], event["name"]) for event in running.events]
    assert any(kind == "agent.succeeded" for kind, _ in kinds[: kinds.index(("agent.starting", "a3"))])
    gate.give()
    gate.give()
    running.wait().expect(0)


def test_optional_dependencies_give_order_only(toka: Any) -> None:
    toka.spec("first", [{"id": "fail", "description": "Fail", "run": "echo first >> order; exit 1"}])
    echo(toka, "second", dependencies={"optional": {"first": "nice to have", "not-here": "is not part of the run"}})
    view = toka.run(toka.root / "specs", code=1)
    assert order(toka) == ["first", "second"]
    assert states(view) == {"first": "failed", "second": "succeeded"}


def test_only_takes_what_it_requires_and_skip_leaves_out(toka: Any) -> None:
    for name in ("base", "other", "top"):
        echo(toka, name, dependencies={"required": {"base": "x"}} if name == "top" else {})
    assert set(states(toka.run(toka.root / "specs", "--only", "top"))) == {"base", "top"}
    assert set(states(toka.run(toka.root / "specs", "--skip", "other"))) == {"base", "top"}
    done = toka("orchestrate", toka.root / "specs", "--skip", "base", "-o", "json").expect(0)
    assert set(states(done.envelope["data"]["run"])) == {"other", "top"}, "who leaves it out takes it as done"
    assert "base" in done.err
    assert "top" in toka("orchestrate", toka.root / "specs", "--only", "topp").err


def test_fail_fast_stops_what_runs(toka: Any) -> None:
    gate = toka.meeting("gate")
    toka.spec("bad", [{"id": "t", "description": "Fail", "run": "read x < gate; exit 1"}])
    toka.spec("long", [{"id": "t", "description": "Long", "run": "exec sleep 1000"}])
    toka.spec("later", [{"id": "t", "description": "Later", "run": "echo later >> order"}], dependencies={"optional": {"long": "order"}})
    running = toka.start("orchestrate", toka.root / "specs", "--fail-fast", "-o", "jsonl")
    running.event("task.started", name="long")
    gate.give()
    done = running.wait().expect(1)
    view = done.lines[-1]["data"]["run"]
    assert states(view) == {"bad": "failed", "later": "stopped", "long": "stopped"}
    assert order(toka) == []


def test_timeout_of_the_run_is_124_and_leaves_nothing(toka: Any) -> None:
    toka.spec("long", [{"id": "t", "description": "Long", "run": "sleep 1000 & sleep 1000"}])
    toka.spec("never", [{"id": "t", "description": "Never", "run": "true"}], dependencies={"required": {"long": "x"}})
    done = toka("orchestrate", toka.root / "specs", "--timeout", "500ms", "-o", "json").expect(124)
    view = done.envelope["data"]["run"]
    assert done.envelope["exit_code"] == 124
    assert view["state"] == "stopped"
    assert view["reason"].startswith("timeout")
    assert set(states(view).values()) == {"stopped"}
    toka.nothing_left()


def test_conditional_tasks_run_only_when_asked(toka: Any) -> None:
    tasks = {
        "default": [
            {"id": "always", "description": "A", "run": "echo always >> order"},
            {"id": "w", "description": "W", "run": "echo when >> order", "when": "extra"},
        ],
        "conditional": {"nightly": [{"id": "night", "description": "N", "run": "echo night >> order"}]},
    }
    spec = toka.spec("cond", tasks)
    toka.run(spec)
    assert order(toka) == ["always"]
    toka.run(spec, "--when", "nightly", "--when", "extra")
    assert sorted(order(toka)) == ["always", "always", "night", "when"]


def test_a_diamond_is_planned_and_nothing_is_run_or_written(toka: Any) -> None:
    for name, required in DIAMOND.items():
        echo(toka, name, dependencies={"required": dict.fromkeys(required, "needed")})
    done = toka("orchestrate", toka.root / "specs", "--plan", "-o", "json").expect(0)
    plan = done.envelope["data"]["plan"]
    assert plan["waves"][0] == ["a"]
    assert [set(wave) for wave in plan["waves"][1:3]] == [{"b", "c", "d"}, {"e", "f", "g"}]
    assert plan["critical_path"][0] == "a"
    assert plan["critical_path"][-1] == "l"
    assert not toka.state.exists()
    assert order(toka) == []


def test_the_specs_of_the_wild_are_planned_unchanged(toka: Any) -> None:
    folder = Path(__file__).parents[2] / "../shared/real-specs"
    if not folder.is_dir():
        pytest.skip("the nine specs of the wild are not beside this checkout")
    plan = toka("orchestrate", folder.resolve(), "--plan", "-o", "json").expect(0).envelope["data"]["plan"]
    assert [len(wave) for wave in plan["waves"]] == [1, 8]
    assert plan["waves"][0] == ["build-system-stabilization"]
    grants = {agent["name"]: set(agent["grants"]) for agent in plan["agents"]}
    assert grants["build-system-stabilization"] >= {"filesystem-read", "filesystem-write"}
    for agent in plan["agents"]:
        assert agent["limits"]["memory_bytes"] > 1 << 20
        assert agent["limits"]["timeout_s"] > 1
        assert 0 < agent["limits"]["cpu_share"] <= 64
    assert not toka.state.exists()


def test_specs_come_from_stdin_and_from_an_orchestration_file(toka: Any) -> None:
    view = toka.run("-", stdin="metadata: {name: piped}\ntasks: [{id: t, description: T, run: 'true'}]\n")
    assert states(view) == {"piped": "succeeded"}
    first, second = echo(toka, "one"), echo(toka, "two")
    whole = toka.root / "all.yaml"
    whole.write_text(f"agents: [{first}, {second}]\nmax_agents: 1\n")
    assert set(states(toka.run(whole))) == {"one", "two"}


def test_progress_never_goes_back_and_ends_at_one(toka: Any) -> None:
    spec = toka.spec("steps", [{"id": f"s{n}", "description": "Step", "run": "true"} for n in range(5)])
    done = toka("orchestrate", spec).expect(0)
    progress = [line.partition("Agent progress: ")[2] for line in done.err.splitlines() if "Agent progress: " in line]
    assert progress == ["20.0% (1/5)", "40.0% (2/5)", "60.0% (3/5)", "80.0% (4/5)", "100.0% (5/5)"]
    assert done.out == ""


def test_reports_are_written(toka: Any) -> None:
    spec = toka.spec("rep", [{"id": "t", "description": "T \x1b[31m & <b>", "run": "exit 3"}])
    summary = toka.root / "summary.md"
    toka("orchestrate", spec, "--junit", toka.root / "junit.xml", env={"GITHUB_STEP_SUMMARY": str(summary)}).expect(1)
    import xml.etree.ElementTree as ET

    tree = ET.parse(toka.root / "junit.xml")
    assert len(tree.findall(".//failure")) == 1
    assert "rep" in summary.read_text()
    assert "\x1b" not in summary.read_text() + (toka.root / "junit.xml").read_text()
