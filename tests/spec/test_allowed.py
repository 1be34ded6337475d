"""`capabilities_allowed` of an orchestration file: what a run allows at most."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from toka_cli.spec.load import load_paths
from toka_cli.spec.model import Grant, Orchestration
from toka_cli.spec.schema import json_schema

AGENT = {"metadata": {"name": "a"}, "tasks": [{"description": "x", "run": ["true"]}]}


def loaded(tmp_path: Path, content: dict[str, object]) -> Orchestration:
    document = {"agents": [AGENT], **content}
    (tmp_path / "run.yaml").write_text(json.dumps(document))
    jsonschema.validate(document, json_schema())
    found = load_paths([tmp_path / "run.yaml"]).checked().orchestration
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("allowed", "found"),
    [
        (["filesystem-read", {"filesystem-write": ["src/**"]}], (Grant(name="filesystem-read"), Grant(name="filesystem-write", values=("src/**",)))),
        ("filesystem-read", (Grant(name="filesystem-read"),)),
        ({"network-access": "a.example:443"}, (Grant(name="network-access", values=("a.example:443",)),)),
        ([], ()),
        (None, None),
    ],
)
def test_every_shape_of_grants(tmp_path: Path, allowed: object, found: tuple[Grant, ...] | None) -> None:
    assert loaded(tmp_path, {"capabilities_allowed": allowed}).allowed == found


def test_without_it_agents_have_what_they_ask_for(tmp_path: Path) -> None:
    assert loaded(tmp_path, {}).allowed is None


def test_what_cannot_be_read_is_a_problem_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("agents: [{metadata: {name: a}, tasks: [x]}]\ncapabilities_allowed:\n  - {filesystem-write: []}\n  - 3\n")
    problems = load_paths([tmp_path / "run.yaml"]).errors
    assert [(problem.line, problem.code) for problem in problems] == [(3, "bad_grant")]
    assert "narrowed to nothing" in problems[0].message
