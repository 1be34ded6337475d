"""`toka runtime`: run one piece of code in a cell, list tools, show settings and statistics."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from toka_cli.commands.context import Format, OutputOption, globals_of
from toka_cli.commands.orchestrate import NoSandbox, Workdir

app = typer.Typer(help="Run code in a cell; list tools, settings and statistics.", no_args_is_help=True, rich_markup_mode=None)


@app.command("exec")
def execute(
    context: typer.Context,
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[k=v...]", help="Arguments of --tool.")] = None,
    python: Annotated[Path | None, typer.Option("--python", metavar="FILE", help="Run a Python file (- for stdin).")] = None,
    javascript: Annotated[Path | None, typer.Option("--js", metavar="FILE", help="Run a JavaScript file with node.")] = None,
    shell: Annotated[str | None, typer.Option("--shell", metavar="CMD", help="Run a command with sh -c.")] = None,
    tool: Annotated[str | None, typer.Option("--tool", metavar="NAME", help="Call a tool; arguments follow as k=v.")] = None,
    grant: Annotated[list[str] | None, typer.Option("--grant", metavar="CAP", help="Grant a power: NAME, or NAME=VALUE,VALUE.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="Limit of memory (200MB).")] = None,
    cpu: Annotated[str | None, typer.Option("--cpu", metavar="SHARE", help="Limit of CPU (75%).")] = None,
    timeout: Annotated[str | None, typer.Option("--timeout", metavar="DURATION", help="Limit of time (default 30s).")] = "30s",
    workdir: Workdir = None,
    no_sandbox: NoSandbox = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Run code, a command or a tool in a cell of its own, through the same kernel as agents; ends with its exit status."""
    from toka_cli.commands.executing import Target, run_target

    target = Target(
        python=python,
        javascript=javascript,
        shell=shell,
        tool=tool,
        arguments=tuple(arguments or ()),
        grants=tuple(grant or ()),
        memory=memory,
        cpu=cpu,
        timeout=timeout,
        workdir=workdir,
        no_sandbox=no_sandbox,
    )
    raise typer.Exit(run_target(globals_of(context), target, output))


@app.command("doctor")
def doctor(context: typer.Context, output: OutputOption = Format.TEXT) -> None:
    """Try forbidden acts in real cells and report what this machine enforces. Ends with 5 where a wall or limit is not held."""
    from toka_cli.commands.doctor import examine, text_of

    cli = globals_of(context)
    report = examine(cli)
    out = cli.output(output)
    raise typer.Exit(out.emit("runtime doctor", report, exit_code=report.exit_code, text=lambda: text_of(report)))


@app.command("tools")
def tools(context: typer.Context, output: OutputOption = Format.TEXT) -> None:
    """List the tools that agents can be given, and the grant each needs."""
    from toka_cli.commands.plugins import ask
    from toka_cli.tools.catalog import ToolCatalog
    from toka_cli.view.table import Column, table

    out = globals_of(context).output(output)
    offered = ask()
    for broken in offered.broken:
        out.warn(f"tools of the package entry {broken.name} cannot be used: {broken.reason}")
    infos = [*ToolCatalog().describe(), *offered.tools]
    columns = [Column("TOOL"), Column("GRANT"), Column("EFFECT"), Column("WHERE"), Column("CALLS"), Column("DESCRIPTION")]
    rows = [[info.name, info.power or "-", info.effect, info.where, _calls(info), info.description.split("\n")[0]] for info in infos]
    out.emit("runtime tools", {"tools": infos}, text=lambda: table(columns, rows, width=out.out.width, ascii_only=out.out.ascii_only))


@app.command("stats")
def stats(
    context: typer.Context,
    prometheus: Annotated[bool, typer.Option("--prometheus", help="Print in the Prometheus text format.")] = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Count agents, tasks, success and resources over all recorded runs."""
    import msgspec

    from toka_cli.state.metrics import stats as counted

    cli = globals_of(context)
    found = counted(cli.state_dir)
    if prometheus:
        from toka_cli.view.prometheus import prometheus_text

        sys.stdout.write(prometheus_text(found))
        return
    lines = [f"{name.replace('_', ' ')}: {_shown(value)}" for name, value in msgspec.structs.asdict(found).items()]
    cli.output(output).emit("runtime stats", {"stats": found}, text=lines)


@app.command("gc")
def gc(context: typer.Context, output: OutputOption = Format.TEXT) -> None:
    """End processes and remove files that killed owners left behind. Runs that somebody owns are never touched."""
    from toka_cli.commands.cleaning import collect_garbage

    cli = globals_of(context)
    cleaned = collect_garbage(cli.state_dir)
    lines = [f"{each['run_id']}: {each['processes']} processes ended, {each['files']} files removed" for each in cleaned]
    cli.output(output).emit("runtime gc", {"cleaned": cleaned}, text=lines or ["nothing was left behind"])


@app.command("config")
def config(context: typer.Context, workdir: Workdir = None, output: OutputOption = Format.TEXT) -> None:
    """Show each setting and where its value came from. Keys are shown as set or not set, never their value."""
    from toka_cli.commands.planning import settings_of
    from toka_cli.settings import describe, key_status

    cli = globals_of(context)
    settings, origins = settings_of(cli, (workdir or Path.cwd()).absolute())
    rows = [{"name": name, "value": value, "origin": origin} for name, value, origin in describe(settings, origins)]
    rows += [{"name": name, "value": status, "origin": "environment"} for name, status in key_status(os.environ).items()]
    where = "--state-dir" if cli.state_flag else "TOKA_STATE_DIR" if os.environ.get("TOKA_STATE_DIR") else "built in"
    rows.append({"name": "state_dir", "value": str(cli.state_dir), "origin": where})
    text = [f"{row['name']} = {row['value']}  ({row['origin']})" for row in rows]
    cli.output(output).emit("runtime config", {"settings": rows}, text=text)


def _calls(tool: Any) -> str:
    """How often a tool may be called: `60/min`, `5/task`."""
    bounds = ((tool.calls_per_task, "task"), (tool.calls_per_minute, "min"))
    return " ".join(f"{count}/{per}" for count, per in bounds if count is not None) or "-"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items()) or "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
