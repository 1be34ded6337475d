"""Finding, watching and stopping agents by id, prefix or name."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import msgspec

from toka_cli.commands.context import Format, Globals
from toka_cli.commands.results import agent_exit_code
from toka_cli.lifecycle import AGENT_FINAL
from toka_cli.paths import RunFolder, runs_dir
from toka_cli.state import query
from toka_cli.state.snapshot import AgentView, RunView
from toka_cli.view.renderer import Renderer


def load_agent(cli: Globals, text: str, run: str | None) -> tuple[RunView, AgentView]:
    """The run and the agent that a name means. Raises NotFound."""
    folder, agent_id = query.find_agent(cli.state_dir, text, run=run)
    view = query.load_run(folder)
    return view, agent_of(view, agent_id)


def agent_of(view: RunView, agent_id: str) -> AgentView:
    """One agent of a run."""
    return next(agent for agent in view.agents if agent.id == agent_id)


def monitor_agent(cli: Globals, text: str, run: str | None, *, once: bool, form: Format) -> int:
    """Show an agent now, or until it ends; the exit status it means."""
    folder, agent_id = query.find_agent(cli.state_dir, text, run=run)
    out = cli.output(form)
    if once:
        view = query.load_run(folder)
        agent = agent_of(view, agent_id)
    else:
        view, agent = _watch(cli, folder, agent_id, form)
    code = agent_exit_code(agent)
    if once:
        from toka_cli.view.agent import agent_lines

        out.emit(
            "agent monitor",
            {"agent": agent},
            exit_code=code,
            text=lambda: agent_lines(view, agent, now=time.time(), width=out.out.width, ascii_only=out.out.ascii_only),
        )
    else:
        out.emit("agent monitor", {"agent": agent}, exit_code=code, text=())
    return code


def _watch(cli: Globals, folder: RunFolder, agent_id: str, form: Format) -> tuple[RunView, AgentView]:
    from toka_cli.commands.running import Silent, pick_renderer
    from toka_cli.commands.watching import follow

    renderer: Renderer = Silent() if form is Format.JSON else pick_renderer(cli, form, None, focus=agent_id)
    started = False
    try:
        with closing(follow(folder)) as looks:
            for look in looks:
                view = msgspec.structs.replace(look.view, agents=[agent_of(look.view, agent_id)])
                if not started:
                    started = True
                    renderer.start(view)
                renderer.show([record for record in look.records if record.agent == agent_id], view)
                renderer.tick(view, time.time())
                agent = view.agents[0]
                if agent.state in AGENT_FINAL:
                    break
        renderer.finish(view)
    finally:
        renderer.close()
    return view, agent


def stop_by_name(cli: Globals, names: list[str], run: str | None, *, everything: bool, grace_s: float | None, force: bool) -> list[dict[str, Any]]:
    """Stop agents, run by run, and wait for each. Raises NotFound before anything is stopped if a name means nothing."""
    from toka_cli.commands.stopping import stop_agents

    found: dict[str, tuple[RunFolder, list[str]]] = {}
    if everything:
        live = [agent for agent in query.live_agents(cli.state_dir).agents if agent.state not in AGENT_FINAL]
        places = [(RunFolder(runs_dir(cli.state_dir) / agent.run_id), agent.id) for agent in live]
    else:
        places = [query.find_agent(cli.state_dir, name, run=run) for name in dict.fromkeys(names)]
    for folder, agent_id in places:
        _, ids = found.setdefault(folder.run_id, (folder, []))
        if agent_id not in ids:
            ids.append(agent_id)
    stopped: list[dict[str, Any]] = []
    for folder, ids in found.values():
        stopped += stop_agents(folder, tuple(ids), grace_s=grace_s, force=force)
    return stopped
