"""Runs a plan: here, with a renderer that fits where the output goes, or detached. What `orchestrate`, `agent spawn` and `runtime exec` share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from toka_cli.commands.context import Format, Globals
from toka_cli.commands.planning import Ready, start_method
from toka_cli.errors import Refused, TokaError
from toka_cli.kernel.access import ModelSetup
from toka_cli.orchestrator.cell_watch import Patience
from toka_cli.orchestrator.detach import Report, Tell, detached
from toka_cli.paths import RunFolder, make_state_dir
from toka_cli.runtime import AgentRuntime, RunOptions
from toka_cli.state.snapshot import RunView
from toka_cli.view.choice import choose_renderer
from toka_cli.view.jsonl import JsonLinesRenderer
from toka_cli.view.junit import junit_xml
from toka_cli.view.queued import queued
from toka_cli.view.renderer import Renderer
from toka_cli.view.summary import markdown_summary


@dataclass(frozen=True, slots=True)
class Reports:
    """Files to write at the end of a run."""

    junit: Path | None = None
    summary: Path | None = None

    def write(self, view: RunView) -> None:
        """Write what was asked for. Raises TokaError when a file cannot be written."""
        try:
            if self.junit is not None:
                self.junit.write_text(junit_xml(view), encoding="utf-8")
            if self.summary is not None:
                with self.summary.open("a", encoding="utf-8") as file:
                    file.write(markdown_summary(view))
        except OSError as error:
            raise TokaError(f"the report cannot be written: {error}", code="report") from error


class Silent:
    """Shows nothing: the data at the end says it all."""

    def start(self, view: RunView) -> None:
        """Nothing."""

    def show(self, records: Any, view: RunView) -> None:
        """Nothing."""

    def tick(self, view: RunView, now: float) -> None:
        """Nothing."""

    def finish(self, view: RunView) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def drain(self, timeout_s: float | None) -> None:
        """Nothing."""


def run_here(cli: Globals, ready: Ready, form: Format, *, watch: bool | None = None, reports: Reports | None = None, quiet: bool = False) -> RunView:
    """Run to the end in this process and show it on the way; the final view."""
    renderer = Silent() if quiet else pick_renderer(cli, form, watch, through=queued)
    view = AgentRuntime(ready.plan, ready.spec_text, run_options(cli, ready), renderer).execute()
    if reports is not None:
        reports.write(view)
    return view


def run_detached(cli: Globals, ready: Ready) -> Report:
    """Run in a process of its own that survives the terminal; return once the first agent is up. Raises TokaError when the run could not begin."""
    runs = make_state_dir(cli.state_dir)
    # Whoever started it can look at it again, and decide.
    options = replace(run_options(cli, ready), attended=True, note=lambda _: None)

    def owner(tell: Tell) -> int:
        def on_ready(view: RunView) -> None:
            tell(Report(run_id=view.id))

        try:
            AgentRuntime(ready.plan, ready.spec_text, options, Silent(), on_ready=on_ready).execute()
        except TokaError as error:
            tell(Report(error=error.message, hint=error.hint, code=error.code, exit_code=error.exit_code))
            return error.exit_code
        return 0

    report = detached(owner, runs.parent / "detached.log")
    if report.error is not None:
        failure = TokaError(report.error, hint=report.hint, code=report.code)
        failure.exit_code = report.exit_code
        raise failure
    return report


def resume_here(cli: Globals, folder: RunFolder, ready: Ready, form: Format, *, in_doubt: str | None) -> RunView:
    """Go on with an interrupted run in this process; the final view."""
    options = run_options(cli, ready)
    models = replace(options.models, resumed=True) if options.models is not None else None
    options = replace(options, resume=folder, in_doubt=in_doubt, models=models)
    return AgentRuntime(ready.plan, ready.spec_text, options, pick_renderer(cli, form, None, through=queued)).execute()


def run_options(cli: Globals, ready: Ready) -> RunOptions:
    """How to run, from the settings. Raises Refused if the state folder lies below the directory the agents work on."""
    state = cli.state_dir
    if state.resolve().is_relative_to(ready.plan.workdir):
        raise Refused(
            f"the state folder {state} lies below the directory that the agents work on, {ready.plan.workdir}",
            hint="an agent could write into it: name another with --state-dir or TOKA_STATE_DIR",
        )
    process = ready.settings.process
    return RunOptions(
        state_dir=state,
        start_method=start_method(ready.settings),
        patience=Patience(process.spawn_timeout_s, ready.settings.monitoring.heartbeat_timeout_s, ready.settings.monitoring.progress_timeout_s),
        grace_s=process.shutdown_grace_period_s,
        cgroups=process.limits_by == "auto",
        restart_enabled=ready.settings.recovery.enable_auto_restart,
        command=tuple(sys.argv),
        environment=dict(os.environ),
        no_sandbox=bool(ready.plan.options.get("no_sandbox")),
        degrade=ready.settings.recovery.enable_graceful_degradation,
        models=ModelSetup(ready.settings.llm, dict(os.environ), state, record=ready.record, replay=ready.replay),
        attended=sys.stdin.isatty(),
        note=cli.output().note,
    )


def pick_renderer(
    cli: Globals, form: Format, watch: bool | None, *, focus: str | None = None, through: Callable[[TextIO], TextIO] = lambda stream: stream
) -> Renderer:
    """JSON lines on stdout if asked for; a live table if stderr can show one; plain lines else; nothing with -q. `through` says how to write to the stream."""
    if form is Format.JSONL:
        return JsonLinesRenderer(through(sys.stdout))
    if cli.quiet:
        return Silent()
    out = cli.output()
    return choose_renderer(through(out.stderr), out.err, watch=watch, focus=focus)
