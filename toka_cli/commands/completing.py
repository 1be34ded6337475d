"""What the shell offers after TAB: ids and names of agents and runs. Never fails and never prints; a shell is waiting."""

from __future__ import annotations

import os

import typer

from toka_cli import paths
from toka_cli.errors import TokaError
from toka_cli.state import query


def agents(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Ids and names of agents, live ones first, with their state."""
    try:
        known = query.all_agents(paths.state_dir(_flag(context), os.environ)).agents
    except (TokaError, OSError):
        return []
    named = {agent.name: f"{agent.state} ({agent.id})" for agent in reversed(known)}
    offers = [*named.items(), *((agent.id, f"{agent.name}: {agent.state}") for agent in known)]
    return [offer for offer in offers if offer[0].startswith(incomplete)]


def runs(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Ids of runs, newest first, with their state."""
    try:
        known = query.list_runs(paths.state_dir(_flag(context), os.environ)).runs
    except (TokaError, OSError):
        return []
    return [(run.id, f"{run.state} {run.workdir}") for run in known if run.id.startswith(incomplete)]


def _flag(context: typer.Context) -> str | None:
    value = context.find_root().params.get("state_dir")
    return str(value) if value else None
