"""Pausing agents and letting them go on, by name, from any terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toka_cli.commands.context import Globals
from toka_cli.commands.monitoring import agent_of
from toka_cli.commands.watching import command
from toka_cli.errors import TokaError
from toka_cli.protocol.control import PauseAgents, ResumeAgents
from toka_cli.state import query


def turn_agents(
    cli: Globals, names: list[str], run: str | None, method: str, order: Callable[[tuple[str, ...]], PauseAgents | ResumeAgents]
) -> list[dict[str, Any]]:
    """Pause or resume agents; for each whether anything changed, and its state now. Raises NotFound, and TokaError if nobody runs it."""
    turned: list[dict[str, Any]] = []
    for name in dict.fromkeys(names):
        folder, agent_id = query.find_agent(cli.state_dir, name, run=run)
        accepted = command(folder, method, order((agent_id,)))
        agent = agent_of(query.load_run(folder), agent_id)
        if accepted is None:
            raise TokaError(f"{agent.name} has no owner: nobody runs it", hint=f"toka run show {folder.run_id}", code="no_owner")
        turned.append({"agent_id": agent_id, "name": agent.name, "changed": agent_id not in accepted.already, "state": agent.state})
    return turned
