"""What a finished run, agent or code means for the exit status, and how it is printed."""

from __future__ import annotations

from toka_cli.commands.output import Output
from toka_cli.errors import EXIT_OK, EXIT_RUN_FAILED
from toka_cli.lifecycle import AGENT_FINAL, AgentState, RunState
from toka_cli.state.snapshot import AgentView, RunView


def run_exit_code(view: RunView) -> int:
    """0 if everything asked for happened, else the code the run recorded, else 1."""
    if view.state == RunState.SUCCEEDED:
        return EXIT_OK
    return view.exit_code or EXIT_RUN_FAILED


def agent_exit_code(view: AgentView) -> int:
    """0 if the agent succeeded or still works, else 1."""
    return EXIT_OK if view.state == AgentState.SUCCEEDED or view.state not in AGENT_FINAL else EXIT_RUN_FAILED


def emit_run(output: Output, command: str, view: RunView) -> int:
    """Print a run as data (text output has shown it already, on stderr); the exit code it means."""
    code = run_exit_code(view)
    output.emit(command, {"run": view}, exit_code=code, text=())
    return code
