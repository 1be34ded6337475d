"""Who may narrow grants, which walls there are, and where things are, as commands find out."""

from __future__ import annotations

from pathlib import Path

import pytest

from toka_cli.commands import permitting, planning
from toka_cli.errors import InvalidSpecs
from toka_cli.policy.ceiling import ceiling, under
from toka_cli.sandbox.probe import WallFacts
from toka_cli.settings import PolicySettings, ProcessSettings, Settings
from toka_cli.spec.load import load_text


def test_the_user_and_the_project_each_have_a_ceiling() -> None:
    mine = PolicySettings(preset="restricted", source="config.toml")
    theirs = PolicySettings(allow=(("filesystem-write", ("src/**",)),), deny=("git-access",), source="toka.toml")
    found = permitting.ceilings(Settings(policy=mine, project_policy=theirs))
    assert [(each.source, each.why) for each in found] == [
        ("your settings", "policy.preset = restricted in config.toml"),
        ("the project's settings", "policy.allow, policy.deny in toka.toml"),
    ]
    left, back = under({"filesystem-write": (), "git-access": (), "network-access": ("a.b:1",)}, found)
    assert left == {"filesystem-write": ("src/**",)}
    assert "the project's settings (policy.allow, policy.deny in toka.toml)" in back["git-access"]


def test_a_misspelt_power_denies_nothing_and_is_refused() -> None:
    with pytest.raises(InvalidSpecs) as caught:
        permitting.ceilings(Settings(policy=PolicySettings(deny=("netwrk-access",), source="config.toml")))
    (problem,) = caught.value.problems
    assert problem.message == "[policy]: 'netwrk-access' is no power (did you mean network-access?)"
    assert problem.path == "config.toml"


@pytest.mark.parametrize(
    ("level", "asked", "found"),
    [
        ("full", "auto", ("landlock", "namespace")),
        ("full", "standard", ("landlock", "seccomp")),
        ("standard", "auto", ("landlock", "seccomp")),
        ("process", "standard", ("none", "none")),
    ],
)
def test_walls_as_they_were_tried(monkeypatch: pytest.MonkeyPatch, level: str, asked: str, found: tuple[str, str]) -> None:
    facts = WallFacts(7, seccomp=True, user_namespaces=True, namespace_problem=None, level=level, notes=(("x", "why", "fix"),))
    monkeypatch.setattr(permitting.probe, "walls", lambda: facts)
    answer = permitting.wall_facts(Settings(process=ProcessSettings(walls=asked)))
    assert (answer["filesystem"], answer["network"], answer["landlock_abi"]) == (*found, 7)
    assert ("x", "why", "fix") in answer["notes"]
    assert any(what == "namespaces" for what, _, _ in answer["notes"]) == (level == "full" and asked == "standard")


def test_why_limits_are_held_by_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {"memory": None, "cpu": ("the controller cpu is not given", "give it"), "pids": ("not delegated", "")}
    monkeypatch.setattr(planning, "why_none", reasons.get)
    assert planning.limit_notes(Settings()) == (("cpu", "the controller cpu is not given", "give it"), ("processes", "not delegated", ""))
    polling = planning.limit_notes(Settings(process=ProcessSettings(limits_by="polling")))
    assert [what for what, _, _ in polling] == ["memory", "cpu", "processes"]
    assert {why for _, why, _ in polling} == {"[process] limits_by is polling"}


def test_what_grants_and_ceilings_name_is_looked_up(tmp_path: Path) -> None:
    for name in ("src", "docs", "tools"):
        (tmp_path / name).mkdir()
    spec = (
        "metadata: {name: a}\ntasks: [{description: x, run: [ls]}]\nsecurity:\n  capabilities_required:\n"
        "    - filesystem-read: [src/**, '*.md', ../x]\n    - script_execution: [tools/run.sh]\n    - database-access: [unix:/run/x.sock, db:1]\n"
    )
    loaded = load_text(spec, path="a.yaml").checked()
    places = permitting.places_for(loaded, tmp_path, [ceiling("me", allow={"filesystem-write": ("docs/**",)})])
    assert {"src", "docs", "tools/run.sh"} <= set(places.named)
    assert places.named["docs"].kind == "folder"
    assert dict(places.sockets) == {"/run/x.sock": None}
    assert places.workdir == str(tmp_path.resolve())
