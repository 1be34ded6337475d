"""`--plan` and `agent show --permissions`, as they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SPEC = """\
metadata: {name: x}
tasks: [{id: look, description: Look, run: [ls]}]
security:
  capabilities_required:
    - filesystem-read
    - filesystem-write: [out/**]
    - network-access: [api.example.com:443]
    - report-generation
"""


@pytest.fixture
def spec(toka: Any) -> Path:
    path = toka.work / "x.yaml"
    path.write_text(SPEC)
    return Path(path)


def test_the_plan_shows_each_grant_three_ways_at_80_columns(toka: Any, spec: Path) -> None:
    done = toka("orchestrate", "--plan", spec).expect(0)
    for part in (
        "grant filesystem-read (", "grant filesystem-write [out/**] (", "tools: edit_file, glob", "kernel: file tools below the workdir",
        "walls: read and write", "hosts: api.example.com:443", "grants nothing: a skill, for the prompt", "x.yaml:6:7)",
    ):  # fmt: skip
        assert part in " ".join(done.out.split()), part
    data = toka("orchestrate", "--plan", spec, "-o", "json").expect(0).envelope["data"]["plan"]["agents"][0]
    assert [each["power"] for each in data["permissions"]] == ["filesystem-read", "filesystem-write", "network-access", "report-generation"]
    assert data["permissions"][1]["where"].endswith("x.yaml:6:7")
    assert data["hosts"] == ["api.example.com:443"]
    assert data["walls"]["level"] in {"full", "standard"}
    assert str(toka.work) in data["walls"]["read"]


def test_an_agent_shows_what_its_run_was_planned_with(toka: Any, spec: Path) -> None:
    toka("orchestrate", spec)
    # What the spec says now is not what the agent had.
    spec.write_text(SPEC.replace("- filesystem-read\n", ""))
    shown = toka("agent", "show", "x", "--permissions").expect(0).out
    assert "grant filesystem-read (" in shown
    assert "Walls\nlevel " in shown
    data = toka("agent", "show", "x", "--permissions", "-o", "json").expect(0).envelope["data"]
    assert data["agent"]["name"] == "x"
    assert data["permissions"][0]["grant"] == "filesystem-read"
    assert {"walls", "hosts", "sandbox", "enforcement"} <= data.keys()


def test_without_a_sandbox_nothing_is_claimed(toka: Any, spec: Path) -> None:
    toka("orchestrate", "--no-sandbox", spec)
    shown = toka("agent", "show", "x", "--permissions").expect(0).out
    assert "no walls: this agent can read and write whatever its user can" in shown
    assert "walls: nothing is held: no walls" in shown


def test_a_users_policy_narrows_what_specs_ask_for(toka: Any, spec: Path) -> None:
    (toka.work / "toka.toml").write_text('[policy]\ndeny = ["network-access"]\n')
    done = toka("orchestrate", "--plan", spec, "-o", "json", env={"TOKA_POLICY_PRESET": "sandboxed"}).expect(0)
    agent = done.envelope["data"]["plan"]["agents"][0]
    assert agent["grants"] == ["filesystem-read"]
    held = {each["power"]: each["held_back"] for each in agent["permissions"]}
    assert "policy.preset = sandboxed in TOKA_POLICY_PRESET" in held["filesystem-write"]
    assert "policy.preset = sandboxed" in held["network-access"]
    assert toka("orchestrate", "--plan", spec, env={"TOKA_POLICY_DENY": "netwrk"}).expect(3)


def test_grants_of_exec_reach_the_plan_in_both_forms(toka: Any) -> None:
    done = toka("runtime", "exec", "--shell", "true", "--grant", "filesystem-read", "--grant", "network-access=a.example:443,b.example:80", "-o", "json")
    run = done.envelope["data"]["result"]["run_id"]
    data = toka("agent", "show", f"{run}-1", "--permissions", "-o", "json").expect(0).envelope["data"]
    assert [(each["grant"], each["values"]) for each in data["permissions"]] == [("filesystem-read", []), ("network-access", ["a.example:443", "b.example:80"])]
    assert data["hosts"] == ["a.example:443", "b.example:80"]
    for text in ("=x", "filesystem-write=", "a=b,,c"):
        assert "--grant takes NAME" in toka("runtime", "exec", "--shell", "true", "--grant", text).expect(2).err
