"""`toka spec`: check specs, publish their JSON Schema, write a new one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from toka_cli.commands.context import Format, OutputOption, globals_of
from toka_cli.errors import InvalidSpecs, TokaError, UsageError

app = typer.Typer(help="Check specs, print their JSON Schema, write a new one.", no_args_is_help=True, rich_markup_mode=None)


@app.command("check")
def check(
    context: typer.Context,
    specs: Annotated[list[str], typer.Argument(metavar="PATH...", help="Spec files, directories, or - for stdin.")],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings are errors.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say what was normalised.", show_default=False)] = 0,
    output: OutputOption = Format.TEXT,
) -> None:
    """Find all problems of all files; with -v say what was normalised. Exit 3 if there is one."""
    from toka_cli.commands.planning import load_specs
    from toka_cli.policy.capability import check_grants

    cli = globals_of(context)
    cli.verbose += verbose
    out = cli.output(output)
    loaded = load_specs(specs, strict=strict, output=out)
    problems = [*loaded.problems, *(problem for agent in loaded.agents for problem in check_grants(agent))]
    if any(problem.severity == "error" or strict for problem in problems):
        raise InvalidSpecs(problems)
    for problem in problems:
        out.warn(f"{problem.where}: {problem.message}" + (f" ({problem.hint})" if problem.hint else ""))
    names = [agent.spec.name for agent in loaded.agents]
    notes = [{"where": f"{note.path}:{note.line}:{note.column}", "message": note.message} for note in loaded.notes]
    warnings = [{"where": problem.where, "message": problem.message, "hint": problem.hint, "code": problem.code} for problem in problems]
    text = [f"{len(names)} agent{'s' if len(names) != 1 else ''}, no errors" + (f", {len(problems)} warnings" if problems else "")]
    out.emit("spec check", {"agents": names, "warnings": warnings, "notes": notes}, text=text)


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema (2020-12) of specs, for editors: `# yaml-language-server: $schema=FILE`."""
    import msgspec

    from toka_cli.spec.schema import json_schema

    text = msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode("utf-8")
    sys.stdout.write(text + "\n")


@app.command("new")
def new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The agent's name; the file is NAME.yaml.")],
    template: Annotated[str, typer.Option("--template", "-t", metavar="T", help="minimal, command, code or full.")] = "command",
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where to write it.")] = Path(),
    to_stdout: Annotated[bool, typer.Option("--stdout", help="Print it instead of writing a file.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> None:
    """Write a new spec from a template."""
    from toka_cli.spec.new import new_spec

    try:
        text = new_spec(name, template)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if to_stdout:
        sys.stdout.write(text)
        return
    path = directory / f"{name}.yaml"
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already", hint="--force overwrites it") from error
    except OSError as error:
        raise TokaError(f"{path} cannot be written: {error.strerror}", code="file") from error
    globals_of(context).output().line(str(path))
