"""`toka orchestrate`: specs in, a run out. Plans, then runs here or detached, and ends with the run's exit code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from toka_cli.commands.context import Format, Globals, OutputOption, globals_of, read_env_file
from toka_cli.commands.durations import seconds
from toka_cli.commands.results import emit_run

Specs = Annotated[list[str], typer.Argument(metavar="PATH...", help="Spec files, directories, an orchestration file, or - for stdin.")]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="DURATION", help="End the run after this time (1h30m): exit 124.")]
When = Annotated[list[str] | None, typer.Option("--when", metavar="KEY", help="Also run conditional tasks with this key.")]
Workdir = Annotated[Path | None, typer.Option("--workdir", metavar="DIR", help="The directory the agents work on (default: here).")]
NoSandbox = Annotated[bool, typer.Option("--no-sandbox", help="Run without walls; recorded in the audit trail.")]
RequireSandbox = Annotated[str | None, typer.Option("--require-sandbox", metavar="LEVEL", help="full or standard: exit 5 if it cannot be had.")]
Model = Annotated[str | None, typer.Option("--model", metavar="M", help="The model that answers prompts (anthropic/..., openai/..., ollama_chat/...).")]
BudgetUsd = Annotated[float | None, typer.Option("--budget-usd", metavar="X", min=0.0, help="End with 7 before models cost more than this, in USD.")]
BudgetTokens = Annotated[int | None, typer.Option("--budget-tokens", metavar="N", min=1, help="End with 7 before models use more tokens than this.")]
Record = Annotated[Path | None, typer.Option("--record", metavar="FILE", help="Write every exchange with a model to a new file, secrets redacted.")]
Replay = Annotated[Path | None, typer.Option("--replay", metavar="FILE", help="Take the model's part from a recording: no network, no key, tools really run.")]
EnvFile = Annotated[Path | None, typer.Option("--env-file", metavar="FILE", help="Read variables (NAME=value lines) that are not set already, keys too.")]
Strict = Annotated[bool, typer.Option("--strict", help="Treat warnings about specs as errors.")]


def orchestrate(
    context: typer.Context,
    specs: Specs,
    plan: Annotated[bool, typer.Option("--plan", "--dry-run", help="Print what would run, and run nothing.")] = False,
    watch: Annotated[bool | None, typer.Option("--watch/--no-watch", help="Live table (default: on a terminal).")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once started; the run goes on without the terminal.")] = False,
    max_agents: Annotated[str | None, typer.Option("--max-agents", metavar="N|auto", help="Agents at once.")] = None,
    timeout: Timeout = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop the run at the first agent that does not succeed.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="NAME", help="Run only these agents and what they require.")] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", metavar="NAME", help="Leave these agents out.")] = None,
    when: When = None,
    workdir: Workdir = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Run although a required dependency is not part of the run.")] = False,
    no_sandbox: NoSandbox = False,
    require_sandbox: RequireSandbox = None,
    model: Model = None,
    budget_usd: BudgetUsd = None,
    budget_tokens: BudgetTokens = None,
    record: Record = None,
    replay: Replay = None,
    env_file: EnvFile = None,
    strict: Strict = False,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write results as JUnit XML.")] = None,
    summary: Annotated[Path | None, typer.Option("--summary", metavar="FILE", help="Append a Markdown summary (default: $GITHUB_STEP_SUMMARY).")] = None,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more; twice for more still.", show_default=False)] = 0,
    output: OutputOption = Format.TEXT,
) -> None:
    """Run the agents of specs: resolve their dependencies, start each as a process of its own, show and record everything."""
    from toka_cli.commands.planning import Asked, prepare, say_warnings
    from toka_cli.commands.running import Reports, run_detached, run_here

    cli = globals_of(context)
    cli.verbose += verbose
    out = cli.output(output)
    read_env_file(env_file)
    asked = Asked(
        specs=tuple(specs),
        preview=plan,
        detach=detach,
        max_agents=max_agents,
        timeout_s=seconds("--timeout", timeout),
        fail_fast=fail_fast,
        only=tuple(only or ()),
        skip=tuple(skip or ()),
        when=tuple(when or ()),
        workdir=workdir,
        no_sandbox=no_sandbox,
        require_sandbox=require_sandbox,
        allow_missing=allow_missing,
        strict=strict,
        model=model,
        budget_usd=budget_usd,
        budget_tokens=budget_tokens,
        record=record,
        replay=replay,
    )
    ready = prepare(cli, asked, out)
    if plan or detach:
        say_warnings(ready, out)
    if plan:
        _show_plan(cli, ready, output)
        return
    if detach:
        report = run_detached(cli, ready)
        out.emit("orchestrate", {"run_id": report.run_id}, text=[report.run_id or ""])
        return
    step_summary = os.environ.get("GITHUB_STEP_SUMMARY")
    reports = Reports(junit=junit, summary=summary or (Path(step_summary) if step_summary else None))
    view = run_here(cli, ready, output, watch=watch, reports=reports)
    raise typer.Exit(emit_run(out, "orchestrate", view))


def _show_plan(cli: Globals, ready: object, output: Format) -> None:
    from toka_cli.commands.planning import Ready
    from toka_cli.plan.plan import plan_json
    from toka_cli.view.plan import render_plan

    assert isinstance(ready, Ready)
    out = cli.output(output)
    plan = plan_json(ready.plan)
    out.emit(
        "orchestrate",
        {"plan": plan, "warnings": list(ready.plan.warnings)},
        text=lambda: render_plan(plan, width=out.out.width or 10_000, verbose=cli.verbose),
    )
