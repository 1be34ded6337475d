"""`toka run`: list, show, wait for, stop and remove runs."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from typing import Annotated

import typer

from toka_cli.commands.agent import _complete_run
from toka_cli.commands.context import Format, OutputOption, globals_of, read_env_file
from toka_cli.commands.durations import seconds
from toka_cli.commands.orchestrate import BudgetTokens, BudgetUsd, EnvFile
from toka_cli.errors import TimedOut, UsageError

app = typer.Typer(help="List, show, wait for, stop and remove runs.", no_args_is_help=True, rich_markup_mode=None)

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Id, unambiguous prefix, or an agent's name.", autocompletion=_complete_run)]


@app.command("list")
def list_runs(
    context: typer.Context,
    live: Annotated[bool, typer.Option("--live", help="Only runs that are under way.")] = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """List runs, newest first."""
    from toka_cli.commands.listing import print_runs

    print_runs(globals_of(context), live=live, output=output)


@app.command("show")
def show(context: typer.Context, run: RunArgument, output: OutputOption = Format.TEXT) -> None:
    """Print a run with its agents and tasks."""
    from toka_cli.state import query
    from toka_cli.view.run import run_lines

    cli = globals_of(context)
    view = query.load_run(query.find_run(cli.state_dir, run))
    out = cli.output(output)
    out.emit("run show", {"run": view}, text=lambda: run_lines(view, now=time.time(), width=out.out.width, ascii_only=out.out.ascii_only))


@app.command("wait")
def wait(
    context: typer.Context,
    run: RunArgument,
    timeout: Annotated[str | None, typer.Option("--timeout", metavar="DURATION", help="Give up waiting after this time: exit 124.")] = None,
    output: OutputOption = Format.TEXT,
) -> None:
    """Wait until a run ends, and end with its exit code."""
    from toka_cli.commands.results import emit_run
    from toka_cli.commands.watching import follow
    from toka_cli.state import query

    cli = globals_of(context)
    limit = seconds("--timeout", timeout)
    folder = query.find_run(cli.state_dir, run)
    give_up = None if limit is None else time.monotonic() + limit
    with closing(follow(folder)) as looks:
        for look in looks:
            view = look.view
            if give_up is not None and time.monotonic() > give_up:
                raise TimedOut(f"run {view.id} is still {view.state}", hint=f"toka run show {view.id}")
    raise typer.Exit(emit_run(cli.output(output), "run wait", view))


@app.command("stop")
def stop(
    context: typer.Context,
    run: RunArgument,
    grace: Annotated[str | None, typer.Option("--grace", metavar="DURATION", help="Time to end by itself before force.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Kill at once; end an owner that does not answer.")] = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Stop a run and all its agents. A run that has ended is left as it is: exit 0."""
    from toka_cli.commands.stopping import stop_run
    from toka_cli.state import query

    cli = globals_of(context)
    view = stop_run(query.find_run(cli.state_dir, run), grace_s=seconds("--grace", grace), force=force)
    cli.output(output).emit("run stop", {"run": view}, text=[f"{view.id}: {view.state}" + (f" ({view.reason})" if view.reason else "")])


@app.command("resume")
def resume(
    context: typer.Context,
    run: RunArgument,
    in_doubt: Annotated[str | None, typer.Option("--in-doubt", metavar="rerun|fail", help="For tasks that ask what to do after an interruption.")] = None,
    budget_usd: BudgetUsd = None,
    budget_tokens: BudgetTokens = None,
    env_file: EnvFile = None,
    output: OutputOption = Format.TEXT,
) -> None:
    """Go on with a run whose owner was killed: finished tasks stay finished, a task that was cut off is not repeated blindly."""
    from toka_cli.commands.results import emit_run
    from toka_cli.commands.resuming import resume_run

    cli = globals_of(context)
    if in_doubt not in {None, "rerun", "fail"}:
        raise UsageError(f"--in-doubt takes rerun or fail, not {in_doubt!r}")
    read_env_file(env_file)
    view = resume_run(cli, run, output, in_doubt=in_doubt, budget_usd=budget_usd, budget_tokens=budget_tokens)
    raise typer.Exit(emit_run(cli.output(output), "run resume", view))


@app.command("events")
def events(
    context: typer.Context,
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    output: OutputOption = Format.JSONL,
) -> None:
    """Print the events of a run, one JSON object per line (or plain lines with -o text)."""
    from toka_cli.commands.watching import follow as looks
    from toka_cli.state import query
    from toka_cli.view.jsonl import JsonLinesRenderer, event_line
    from toka_cli.view.plain import PlainRenderer
    from toka_cli.view.renderer import Renderer

    cli = globals_of(context)
    folder = query.find_run(cli.state_dir, run)
    if output is Format.JSON:
        view = query.load_run(folder)
        names = {agent.id: agent.name for agent in view.agents}
        lines = [event_line(record, run=view.id, name=names.get(record.agent or "")) for record in query.read_events(folder)]
        cli.output(output).emit("run events", {"events": lines}, text=())
        return
    renderer: Renderer = JsonLinesRenderer(sys.stdout) if output is Format.JSONL else PlainRenderer(sys.stdout)
    if not follow:
        renderer.show(query.read_events(folder), query.load_run(folder))
        return
    with closing(looks(folder)) as looking:
        for look in looking:
            renderer.show(look.records, look.view)


@app.command("diff")
def diff(
    context: typer.Context,
    first: Annotated[str, typer.Argument(metavar="A", help="A run: id or unambiguous prefix.", autocompletion=_complete_run)],
    second: Annotated[str, typer.Argument(metavar="B", help="The run to compare it with.", autocompletion=_complete_run)],
    output: OutputOption = Format.TEXT,
) -> None:
    """Compare what two runs came to: exit 0 if it is the same, else exit 1. Times, processes and ids do not count."""
    from toka_cli.commands.comparing import compare_runs

    raise typer.Exit(compare_runs(globals_of(context), first, second, output))


@app.command("prune")
def prune(
    context: typer.Context,
    keep: Annotated[int | None, typer.Option("--keep", min=0, metavar="N", help="Keep the newest N.")] = None,
    older_than: Annotated[str | None, typer.Option("--older-than", metavar="DURATION", help="Only runs that ended longer ago than this.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Remove finished and interrupted runs with all their files. Live runs are never touched."""
    from toka_cli.state.prune import prune as remove

    cli = globals_of(context)
    if keep is None and older_than is None:
        raise UsageError("say what to keep: --keep N, --older-than DURATION, or both", hint="--keep 0 removes every finished run")
    removed = remove(cli.state_dir, keep=keep, older_than_s=seconds("--older-than", older_than), now=time.time(), dry_run=dry_run)
    done = "would remove" if dry_run else "removed"
    cli.output(output).emit("run prune", {"removed": removed, "dry_run": dry_run}, text=[f"{done} {run}" for run in removed] or ["nothing to remove"])
