"""`toka agent show --permissions`: what an agent may do, as it was compiled when its run was planned. In: an agent of a run. Out: text or JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from toka_cli.commands.context import Format, Globals
from toka_cli.errors import StateUnavailable
from toka_cli.paths import RunFolder, runs_dir
from toka_cli.plan.plan import Plan, PlannedAgent, agent_json
from toka_cli.state.query import read_plan
from toka_cli.state.snapshot import AgentView
from toka_cli.view.permissions import EVERYBODY, permission_lines, wall_lines
from toka_cli.view.text import clean
from toka_cli.view.wrap import wrapped


def print_permissions(cli: Globals, agent: AgentView, form: Format) -> None:
    """Print the permissions and walls of an agent from the plan of its run. Raises StateUnavailable when that cannot be read."""
    data = agent_json(_planned(cli, agent))
    out = cli.output(form)
    found = {name: data[name] for name in ("permissions", "walls", "hosts", "sandbox", "enforcement")}
    out.emit("agent show", {"agent": agent, **found}, text=lambda: _lines(agent, data, out.out.width or 10_000))


def _planned(cli: Globals, agent: AgentView) -> PlannedAgent:
    folder = RunFolder(runs_dir(cli.state_dir) / agent.run_id)
    try:
        return msgspec.json.decode(read_plan(folder), type=Plan).agent(agent.name)
    except (msgspec.MsgspecError, KeyError) as error:
        raise StateUnavailable(f"the plan of run {agent.run_id} cannot be read: {error}", hint="it was made by another version of toka") from error


def _lines(agent: AgentView, data: dict[str, Any], width: int) -> list[str]:
    lines = [clean(agent.name)[:width], ""]
    if data["walls"] is not None:
        lines += wrapped(EVERYBODY, width, "", "  ")
    lines += permission_lines(data["permissions"], width) or wrapped("its spec asks for no grant", width, "", "  ")
    lines += ["", "Walls", *wall_lines(data["walls"], data["hosts"], width)]
    # What was planned is one thing, what its own process reported after it was applied another.
    held = {name: value for name in ("level", "filesystem", "network") if (value := agent.isolation.get(name)) is not None}
    if held:
        lines += ["", *wrapped(", ".join(f"{name} {value}" for name, value in held.items()), width, "Applied, says its process: ", "  ")]
    return lines
