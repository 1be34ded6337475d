"""Specs that people wrote: they load as they are."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from toka_cli.policy.capability import check_grants, classify
from toka_cli.spec.load import Loaded, load_paths
from toka_cli.spec.schema import json_schema

REAL = Path(__file__).parents[2].parent / "shared" / "real-specs"
pytestmark = pytest.mark.skipif(not any(REAL.glob("*.yaml")), reason="the published specs are not beside this repository, or cannot be read")


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_paths([REAL], strict=True)


def test_all_load_without_a_problem_even_strictly(loaded: Loaded) -> None:
    assert loaded.problems == ()
    assert [agent.name for agent in loaded.agents] == sorted(path.stem for path in REAL.glob("*.yaml"))
    assert len(loaded.agents) == 9
    assert sum(len(agent.spec.tasks.default) for agent in loaded.agents) >= 70


def test_dependencies_in_both_shapes(loaded: Loaded) -> None:
    required = {agent.name: list(agent.spec.dependencies.required) for agent in loaded.agents}
    assert required.pop("build-system-stabilization") == []
    assert all(names == ["build-system-stabilization"] for names in required.values())


def test_values_are_normalised(loaded: Loaded) -> None:
    agent = loaded.agents[0]
    assert agent.name == "build-system-stabilization"
    assert agent.spec.metadata.created == "2025-07-04"
    assert agent.spec.security.limits.memory_bytes == 512 * 1024**2
    assert (agent.spec.security.limits.cpu_share, agent.spec.security.limits.timeout_s) == (0.75, 7200.0)
    assert agent.spec.reporting.metrics["setup-time"].startswith("Time required")
    assert agent.spec.behavioral_directives["coordination"]
    assert agent.where("security.resource_limits.max_memory")[0] == 81
    assert agent.where("tasks.default[2].run") == agent.where("tasks.default[2]") == (44, 7)


def test_notes_say_what_was_normalised(loaded: Loaded) -> None:
    messages = {note.message for note in loaded.notes}
    assert "dependencies.required: a list of one-key mappings, read as a mapping" in messages
    assert any(message.startswith("sections kept as they are: llm_provider_options") for message in messages)


def test_every_grant_is_a_power_or_declared(loaded: Loaded) -> None:
    assert [problem for agent in loaded.agents for problem in check_grants(agent)] == []
    kinds = {grant.name: classify(grant.name).kind for agent in loaded.agents for grant in agent.spec.security.grants}
    assert kinds["file-system-write"] == "power"
    assert kinds["network-access-llm-providers"] == "declared"


@pytest.mark.parametrize("path", sorted(REAL.glob("*.yaml")), ids=lambda path: path.stem)
def test_they_fit_the_schema(path: Path) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(yaml.safe_load(path.read_text()))
