"""`toka agent show --prompt`: what an agent's models were told and what they answered, from the journal of its run. In: an agent. Out: text or JSON."""

from __future__ import annotations

from toka_cli.commands.context import Format, Globals
from toka_cli.paths import RunFolder, runs_dir
from toka_cli.state.prompts import read_prompts
from toka_cli.state.snapshot import AgentView
from toka_cli.view.prompt import prompt_lines


def print_prompts(cli: Globals, agent: AgentView, form: Format) -> None:
    """Print the conversations of an agent's prompt tasks. Raises StateUnavailable when the journal cannot be read."""
    folder = RunFolder(runs_dir(cli.state_dir) / agent.run_id)
    talks = read_prompts(folder, agent.id)
    out = cli.output(form)
    data = {"agent": agent, "prompts": talks}
    out.emit("agent show", data, text=lambda: prompt_lines(agent, talks, artifacts=str(folder.artifacts), ascii_only=out.out.ascii_only))
