from __future__ import annotations

import unicodedata

import pytest

from toka_cli.view.plan import render_plan


def agent(name="build", **changes):
    data = {
        "name": name, "title": "Build System Agent", "priority": "high", "workstream": "infra", "domain": None, "branch": None,
        "depends_on": [], "after": [], "grants": ["filesystem-read", "network-access"], "grant_values": {"network-access": ["api.github.com:443"]},
        "declared": ["ci-integration"], "sandbox": True,
        "limits": {"memory_bytes": 512 * 1024**2, "cpu_share": 0.75, "timeout_s": 7200.0, "max_open_files": 1024, "max_tool_calls": None},
        "limit_origins": {"memory_bytes": "spec", "cpu_share": "spec", "timeout_s": "spec", "max_open_files": "default"},
        "enforcement": {"memory": "sampled", "cpu": "none", "filesystem": "landlock", "network": "none", "timeout": "owner", "open_files": "rlimit"},
        "tasks": [{"id": "t1", "kind": "command", "description": "Build it", "priority": "high"},
                  {"id": "t2", "kind": "prompt", "description": "Look at it", "priority": "low"}],
        "parallel": 1, "gates": [{"index": 1, "description": "It builds", "run": ["make", "all"], "timeout_s": None}], "deliverables": ["dist/*.whl"],
        "conditional": {"model": 3}, "restart": {"policy": "on-failure", "max_attempts": 3, "delay_s": 5.0}, "spec_path": "agents/build.yaml", "notes": [],
    }  # fmt: skip
    return data | changes


def plan(*agents, **changes):
    agents = agents or (agent(), agent("docs", depends_on=["build"], after=["other"]))
    data = {
        "waves": [[each["name"]] for each in agents], "critical_path": [each["name"] for each in agents], "agents": list(agents), "left_out": [],
        "max_agents": 2, "max_agents_reason": "all of them fit", "timeout_s": None, "fail_fast": False, "workdir": "/work/repo",
    }  # fmt: skip
    return data | changes


def columns(line):
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.combining(char) else 1 for char in line)


def test_says_order_rights_limits_and_what_is_not_in_force():
    text = "\n".join(render_plan(plan(), ["the wall is not there"], width=200))
    for part in (
        "Plan: 2 agents in 2 waves, at most 2 at once (all of them fit), no time limit",
        "Directory: /work/repo",
        "   1  build",
        "   2  docs",
        "Critical path: build -> docs",
        "build [high]",
        "waits for: nothing",
        "waits for: build",
        "after, when possible: other",
        "tasks: 2 (1 command, 1 prompt); 3 more with --when model",
        "gates: 1 command must succeed afterwards",
        "may: filesystem-read, network-access (api.github.com:443)",
        "declared, grants nothing: ci-integration",
        "limits: memory 512 MB (sampled), CPU 75% (not held), time 2h0m (owner)",
        "walls: files by landlock, network not in force",
        "  - the wall is not there",
    ):
        assert part in text, part
    assert "1,024" not in text


def test_verbose_adds_tasks_gates_origins_and_notes():
    text = "\n".join(render_plan(plan(agent(notes=["task t2 waits for nothing"])), width=200, verbose=1))
    for part in (
        "memory 512 MB (sampled, from spec)", "open files 1,024 (rlimit, from default)", "task t2 (prompt, low) Look at it",
        "gate 1 It builds: make all", "note: task t2 waits for nothing", "spec: agents/build.yaml", "delivers: dist/*.whl",
        "restart: on-failure, at most 3 times, after 5s",
    ):  # fmt: skip
        assert part in text, part


def test_yaml_in_a_warning_keeps_its_shape():
    lines = render_plan(plan(), ["add this:\nsecurity:\n  capabilities_required:\n    - network-access"], width=80)
    assert lines[-4:] == ["  - add this:", "      security:", "        capabilities_required:", "          - network-access"]


def test_without_sandbox_no_wall_is_claimed():
    text = "\n".join(render_plan(plan(agent(sandbox=False)), width=100))
    assert "walls: none (--no-sandbox)" in text
    assert "landlock" not in text


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("name", ["x" * 100, "日本語のとても長い名前" * 5, "é" * 70, "a b"])
def test_no_line_is_wider_than_the_terminal_and_no_text_is_lost(width, name):
    lines = render_plan(plan(agent(name, title=name, workstream=name)), [f"about {name}"], width=width, verbose=1)
    assert max(map(columns, lines)) <= width
    squeezed = "".join("".join(lines).split())
    # Not even a space comes into a name that is cut.
    assert name.replace(" ", "") in squeezed
    assert squeezed.count(name.replace(" ", "")) >= 3


def test_a_word_that_fills_several_lines_stays_one_word():
    lines = render_plan(plan(agent("github-cicd-issues-resolution-agent")), width=20)
    at = next(number for number, line in enumerate(lines) if line.startswith("github-"))
    assert lines[at : at + 3] == ["github-cicd-issues-r", "  esolution-agent", "  [high]"]


def test_even_one_column_does_not_break():
    assert all(columns(line) <= 1 for line in render_plan(plan(), width=1))


def test_hostile_text_is_shown_not_obeyed():
    evil = "\x1b[2J\x1b]52;c;AAAA\x07\r\nFORGED LINE\u202e[bold red]"
    lines = render_plan(plan(agent(title=evil, workstream=evil, declared=[evil])), [f"about {evil}"], width=80, verbose=2)
    text = "\n".join(lines)
    assert not any(char in text for char in "\x1b\x07\r\u202e")
    assert "[bold red]" in text
    # From a spec's title no line of its own can come; in a warning the second line stays indented.
    assert not any(line.startswith("FORGED") for line in lines)


def test_long_waves_are_counted_unless_verbose():
    many = [agent(f"agent-{number}") for number in range(60)]
    data = plan(*many, waves=[[each["name"] for each in many]], critical_path=["agent-0"])
    short = "\n".join(render_plan(data, width=80))
    assert "... and 20 more" in short
    assert "Critical path" not in short
    assert "... and" not in "\n".join(render_plan(data, width=80, verbose=1))


def test_nothing_to_run():
    assert render_plan(plan(agent()) | {"agents": [], "waves": [], "critical_path": []})[0] == "Plan: no agents"


def test_tokens_of_an_agent_that_asks_no_model_are_no_gap():
    limits = {"memory_bytes": 512 << 20, "max_tokens": 2000, "max_cost_usd": 0.05}
    origins = dict.fromkeys(limits, "spec")
    idle = agent(limits=limits, limit_origins=origins, enforcement={"memory": "cgroup", "tokens": "none", "cost": "none"})
    asking = agent(limits=limits, limit_origins=origins, enforcement={"memory": "cgroup", "tokens": "kernel", "cost": "kernel"})
    assert "memory 512 MB (cgroup), tokens 2,000 (no model is asked), cost $0.05 (no model is asked)" in "\n".join(render_plan(plan(idle), width=200))
    assert "memory 512 MB (cgroup), tokens 2,000 (kernel), cost $0.05 (kernel)" in "\n".join(render_plan(plan(asking), width=200))
