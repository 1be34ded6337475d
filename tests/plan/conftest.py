"""Small ways to make agents and plans for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest

from toka_cli.plan.plan import Plan, PlannedAgent
from toka_cli.protocol.messages import Limits
from toka_cli.spec.model import AgentSpec, Dependencies, Description, LoadedAgent, Metadata, Priority, Tasks, TaskSpec

AgentMaker = Callable[..., LoadedAgent]
PlanMaker = Callable[..., Plan]


@pytest.fixture(scope="session")
def make_agent() -> AgentMaker:
    """Make a loaded agent with one command task; its places are those of a small imagined file."""

    def make(name: str, required: Iterable[str] = (), optional: Iterable[str] = (), priority: str = "medium", **more: object) -> LoadedAgent:
        required, optional = list(required), list(optional)
        fields = {
            "metadata": Metadata(name=name),
            "spec": Description(priority=Priority(priority)),
            "tasks": Tasks(default=(TaskSpec(id="t1", description="work", run=("true",)),)),
            "dependencies": Dependencies(required=dict.fromkeys(required, ""), optional=dict.fromkeys(optional, "")),
        }
        spec = AgentSpec(**{**fields, **more})
        places = {"": (1, 1), "metadata.name": (2, 9), "tasks": (40, 1)}
        places |= {f"dependencies.required.{other}": (10 + place, 5) for place, other in enumerate(required)}
        places |= {f"dependencies.optional.{other}": (30 + place, 5) for place, other in enumerate(optional)}
        return LoadedAgent(spec=spec, path=f"{name}.yaml", digest="0" * 64, places=places)

    return make


@pytest.fixture(scope="session")
def make_plan_of() -> PlanMaker:
    """Make a plan straight from edges: {name: (required, optional)}; ranks follow the order given."""

    def make(edges: Mapping[str, tuple[Iterable[str], Iterable[str]]], max_agents: int = 3) -> Plan:
        agents = tuple(
            PlannedAgent(
                name=name, title=name, workstream=name, domain=None, priority="medium", branch=None, depends_on=tuple(required),
                after=tuple(optional), rank=rank, tasks=(), parallel=1, grants=(), grant_values={}, declared=(), limits=Limits(),
                enforcement={}, sandbox=True, gates=(), promises=(), metrics=(), conditional={}, restart="never",
                restart_attempts=0, restart_delay_s=0.0, spec_path=f"{name}.yaml", spec_digest="0" * 64,
            )
            for rank, (name, (required, optional)) in enumerate(edges.items())
        )
        return Plan(
            agents=agents, waves=(), critical_path=(), left_out=(), max_agents=max_agents, timeout_s=None, fail_fast=False,
            workdir="/work", warnings=(), options={},
        )  # fmt: skip

    return make
