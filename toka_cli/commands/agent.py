"""`toka agent`: start one agent, and see and end agents from any terminal. Reading commands load nothing but the state room."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from toka_cli.commands.context import Format, OutputOption, globals_of, read_env_file
from toka_cli.commands.durations import seconds
from toka_cli.commands.orchestrate import (
    BudgetTokens,
    BudgetUsd,
    EnvFile,
    Model,
    NoSandbox,
    Record,
    Replay,
    RequireSandbox,
    Strict,
    Timeout,
    When,
    Workdir,
)
from toka_cli.errors import UsageError

app = typer.Typer(help="Start, list, watch and stop agents.", no_args_is_help=True, rich_markup_mode=None)


def _complete_agent(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    from toka_cli.commands.completing import agents

    return agents(context, incomplete)


def _complete_run(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    from toka_cli.commands.completing import runs

    return runs(context, incomplete)


AgentArgument = Annotated[str, typer.Argument(metavar="AGENT", help="Id, unambiguous prefix, or name.", autocompletion=_complete_agent)]
RunOption = Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only this run's agents.", autocompletion=_complete_run)]


@app.command("spawn")
def spawn(
    context: typer.Context,
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A file with one agent spec, or - for stdin.")],
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Stay until it ends, and end with its result.")] = False,
    timeout: Timeout = None,
    when: When = None,
    workdir: Workdir = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Start it although a required dependency is not there.")] = False,
    no_sandbox: NoSandbox = False,
    require_sandbox: RequireSandbox = None,
    model: Model = None,
    budget_usd: BudgetUsd = None,
    budget_tokens: BudgetTokens = None,
    record: Record = None,
    replay: Replay = None,
    env_file: EnvFile = None,
    strict: Strict = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Start one agent and print its id; it goes on when the terminal closes."""
    from toka_cli.commands.planning import Asked, prepare, say_warnings
    from toka_cli.commands.results import emit_run
    from toka_cli.commands.running import run_detached, run_here
    from toka_cli.ids import agent_id

    cli = globals_of(context)
    out = cli.output(output)
    read_env_file(env_file)
    asked = Asked(
        specs=(spec,),
        detach=not wait,
        timeout_s=seconds("--timeout", timeout),
        when=tuple(when or ()),
        workdir=workdir,
        allow_missing=allow_missing,
        no_sandbox=no_sandbox,
        require_sandbox=require_sandbox,
        strict=strict,
        model=model,
        budget_usd=budget_usd,
        budget_tokens=budget_tokens,
        record=record,
        replay=replay,
    )
    ready = prepare(cli, asked, out)
    if len(ready.plan.agents) != 1:
        raise UsageError(f"{spec} holds {len(ready.plan.agents)} agents", hint="agent spawn starts one; use toka orchestrate for several")
    if wait:
        raise typer.Exit(emit_run(out, "agent spawn", run_here(cli, ready, output)))
    say_warnings(ready, out)
    report = run_detached(cli, ready)
    assert report.run_id is not None
    data = {"run_id": report.run_id, "agent_id": agent_id(report.run_id, 1), "name": ready.plan.agents[0].name}
    out.emit("agent spawn", data, text=[data["agent_id"]])


@app.command("list")
def list_agents(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Agents of finished runs too.")] = False,
    run: RunOption = None,
    output: OutputOption = Format.TEXT,
) -> None:
    """List the agents of live runs."""
    from toka_cli.commands.listing import print_agents

    print_agents(globals_of(context), everything=everything, run=run, output=output)


@app.command("monitor")
def monitor(
    context: typer.Context,
    agent: AgentArgument,
    once: Annotated[bool, typer.Option("--once", help="Print its state now and return.")] = False,
    run: RunOption = None,
    output: OutputOption = Format.TEXT,
) -> None:
    """Watch an agent until it ends, from any terminal; ends with its exit status."""
    from toka_cli.commands.monitoring import monitor_agent

    raise typer.Exit(monitor_agent(globals_of(context), agent, run, once=once, form=output))


@app.command("show")
def show(
    context: typer.Context,
    agent: AgentArgument,
    prompt: Annotated[bool, typer.Option("--prompt", help="What its models were told and what they answered.")] = False,
    permissions: Annotated[bool, typer.Option("--permissions", help="What it may do, by the lines of its spec, and its walls.")] = False,
    run: RunOption = None,
    output: OutputOption = Format.TEXT,
) -> None:
    """Print everything known about an agent."""
    from toka_cli.commands.monitoring import load_agent
    from toka_cli.view.agent import agent_lines

    cli = globals_of(context)
    whole, view = load_agent(cli, agent, run)
    if prompt and permissions:
        raise UsageError("--prompt or --permissions, not both")
    if prompt:
        from toka_cli.commands.prompts import print_prompts

        print_prompts(cli, view, output)
        return
    if permissions:
        from toka_cli.commands.permissions import print_permissions

        print_permissions(cli, view, output)
        return
    out = cli.output(output)
    out.emit("agent show", {"agent": view}, text=lambda: agent_lines(whole, view, now=time.time(), width=out.out.width, ascii_only=out.out.ascii_only))


@app.command("why")
def why(context: typer.Context, agent: AgentArgument, run: RunOption = None, output: OutputOption = Format.TEXT) -> None:
    """Say in one sentence what an agent is doing or waiting for, or why it ended so."""
    from toka_cli.commands.monitoring import load_agent
    from toka_cli.view.why import why as sentence

    cli = globals_of(context)
    whole, view = load_agent(cli, agent, run)
    text = sentence(whole, view, time.time())
    cli.output(output).emit("agent why", {"agent_id": view.id, "name": view.name, "state": view.state, "why": text}, text=[text])


@app.command("logs")
def logs(
    context: typer.Context,
    agent: AgentArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the agent ends.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, metavar="N", help="Only the last N lines.")] = None,
    task: Annotated[str | None, typer.Option("--task", metavar="ID", help="Only this task's lines.")] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="Say when each line was written.")] = False,
    run: RunOption = None,
    output: OutputOption = Format.TEXT,
) -> None:
    """Print what an agent's tasks wrote."""
    from toka_cli.commands.logs import print_logs

    print_logs(globals_of(context), agent, run, follow=follow, tail=tail, task=task, timestamps=timestamps, form=output)


@app.command("stop")
def stop(
    context: typer.Context,
    agents: Annotated[list[str] | None, typer.Argument(metavar="AGENT...", autocompletion=_complete_agent)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every live agent.")] = False,
    grace: Annotated[str | None, typer.Option("--grace", metavar="DURATION", help="Time to end by itself before force (default 10s).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Kill at once; end an owner that does not answer.")] = False,
    run: RunOption = None,
    output: OutputOption = Format.TEXT,
) -> None:
    """Stop agents: ask, then SIGTERM, then SIGKILL of the whole process tree; says which it took."""
    from toka_cli.commands.monitoring import stop_by_name

    cli = globals_of(context)
    if bool(agents) == everything:
        raise UsageError("name agents, or say --all" if not agents else "name agents or say --all, not both")
    stopped = stop_by_name(cli, agents or [], run, everything=everything, grace_s=seconds("--grace", grace), force=force)
    lines = [f"{each['name']}: {_rung(each['rung'])}" for each in stopped]
    cli.output(output).emit("agent stop", {"stopped": stopped}, text=lines or ["no live agents"])


@app.command("pause")
def pause(
    context: typer.Context,
    agents: Annotated[list[str], typer.Argument(metavar="AGENT...", autocompletion=_complete_agent)],
    hard: Annotated[bool, typer.Option("--hard", help="Freeze its processes too, not only what comes next.")] = False,
    run: RunOption = None,
    output: OutputOption = Format.TEXT,
) -> None:
    """Pause agents: no new task starts, and their clocks stand still, until `agent resume`."""
    from toka_cli.commands.pausing import turn_agents
    from toka_cli.protocol.control import PauseAgents

    cli = globals_of(context)
    turned = turn_agents(cli, agents, run, "agent.pause", lambda ids: PauseAgents(ids, hard))
    raise typer.Exit(cli.output(output).emit("agent pause", {"paused": turned}, exit_code=_unturned(turned), text=_turned(turned, "paused")))


@app.command("resume")
def resume(
    context: typer.Context,
    agents: Annotated[list[str], typer.Argument(metavar="AGENT...", autocompletion=_complete_agent)],
    run: RunOption = None,
    output: OutputOption = Format.TEXT,
) -> None:
    """Let paused agents go on."""
    from toka_cli.commands.pausing import turn_agents
    from toka_cli.protocol.control import ResumeAgents

    cli = globals_of(context)
    turned = turn_agents(cli, agents, run, "agent.resume", ResumeAgents)
    raise typer.Exit(cli.output(output).emit("agent resume", {"resumed": turned}, exit_code=_unturned(turned), text=_turned(turned, "goes on")))


def _unturned(turned: list[dict[str, Any]]) -> int:
    return 0 if all(each["changed"] for each in turned) else 1


def _turned(turned: list[dict[str, Any]], done: str) -> list[str]:
    return [f"{each['name']}: {done}" if each["changed"] else f"{each['name']}: nothing to do, it is {each['state']}" for each in turned]


def _rung(rung: str) -> str:
    texts = {
        "asked": "stopped when asked",
        "term": "stopped by SIGTERM",
        "kill": "stopped by SIGKILL",
        "already": "had already ended",
    }
    return texts[rung]


