"""`toka audit`: the trail of every decision, and whether it is whole."""

from __future__ import annotations

from typing import Annotated

import typer

from toka_cli.commands.context import Format, OutputOption, globals_of
from toka_cli.commands.run import RunArgument
from toka_cli.errors import EXIT_RUN_FAILED

app = typer.Typer(help="Show and verify the audit trail.", no_args_is_help=True, rich_markup_mode=None)


@app.command("verify")
def verify(
    context: typer.Context,
    run: RunArgument,
    head: Annotated[str | None, typer.Option("--head", metavar="HASH", help="The head that was printed at the end of the run.")] = None,
    output: OutputOption = Format.TEXT,
) -> None:
    """Check the hash chain: exit 0 if no row was changed, removed or added, else exit 1 naming the row."""
    from toka_cli.state import audit, query

    cli = globals_of(context)
    report = audit.verify(query.find_run(cli.state_dir, run), head)
    code = 0 if report.ok else EXIT_RUN_FAILED
    text = [f"whole: {report.rows} rows, head {report.head}"] if report.ok else [f"broken: {report.message}"]
    cli.output(output).emit("audit verify", {"audit": report}, exit_code=code, text=text)
    raise typer.Exit(code)


@app.command("show")
def show(
    context: typer.Context,
    run: RunArgument,
    denied: Annotated[bool, typer.Option("--denied", help="Only what was refused.")] = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Print the decisions of a run."""
    from toka_cli.state import audit, query
    from toka_cli.view.audit import audit_table

    cli = globals_of(context)
    folder = query.find_run(cli.state_dir, run)
    rows = audit.show(folder, denied=denied)
    names = {agent.id: agent.name for agent in query.load_run(folder, tasks=False).agents}
    out = cli.output(output)
    out.emit(
        "audit show",
        {"rows": rows},
        text=lambda: audit_table(rows, names, width=out.out.width, ascii_only=out.out.ascii_only)
        if rows
        else ["nothing was refused" if denied else "no rows"],
    )
