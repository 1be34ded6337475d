"""`toka agent list` and `toka run list`: the quick ones. Nothing here loads more than the state room's readers."""

from __future__ import annotations

import time

from toka_cli.commands.context import Format, Globals
from toka_cli.commands.output import Output
from toka_cli.lifecycle import RUN_FINAL, RunState
from toka_cli.state import query
from toka_cli.view.agent import agent_table
from toka_cli.view.run import run_table

NOT_LIVE = RUN_FINAL | {RunState.INTERRUPTED}


def print_agents(cli: Globals, *, everything: bool, run: str | None, output: Format) -> None:
    """Print agents of live runs, of all runs, or of one."""
    out = cli.output(output)
    nothing = "no agents" if everything else "no live agents"
    if run is not None:
        agents = query.load_run(query.find_run(cli.state_dir, run)).agents
    else:
        found = query.all_agents(cli.state_dir) if everything else query.live_agents(cli.state_dir)
        agents = found.agents
        _warn_of(found.damaged, out)
    out.emit(
        "agent list",
        {"agents": agents},
        text=lambda: agent_table(agents, now=time.time(), width=out.out.width, ascii_only=out.out.ascii_only) if agents else [nothing],
    )


def print_runs(cli: Globals, *, live: bool, output: Format) -> None:
    """Print runs, newest first."""
    out = cli.output(output)
    listed = query.list_runs(cli.state_dir)
    runs = [run for run in listed.runs if not live or run.state not in NOT_LIVE]
    _warn_of(listed.damaged, out)
    out.emit(
        "run list",
        {"runs": runs},
        text=lambda: run_table(runs, now=time.time(), width=out.out.width, ascii_only=out.out.ascii_only) if runs else ["no runs"],
    )


def _warn_of(damaged: list[tuple[str, str]], out: Output) -> None:
    for run_id, message in damaged:
        out.warn(f"run {run_id} cannot be read: {message}")
