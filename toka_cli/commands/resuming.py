"""`toka run resume`: the stored plan, a new owner, and on it goes."""

from __future__ import annotations

from pathlib import Path

import msgspec

from toka_cli.commands.context import Format, Globals
from toka_cli.commands.planning import Ready, settings_of
from toka_cli.commands.running import resume_here
from toka_cli.errors import NotFound, StateUnavailable, TokaError
from toka_cli.lifecycle import RUN_FINAL
from toka_cli.plan.plan import Plan
from toka_cli.state import query
from toka_cli.state.owner import is_held
from toka_cli.state.snapshot import RunView


def resume_run(cli: Globals, name: str, form: Format, *, in_doubt: str | None, budget_usd: float | None = None, budget_tokens: int | None = None) -> RunView:
    """Resume a run by id or prefix, with other budgets if given. Raises NotFound, StateUnavailable if it has an owner, TokaError if it has ended."""
    folder = query.find_run(cli.state_dir, name)
    view = query.load_run(folder)
    if view.state in RUN_FINAL:
        raise TokaError(f"run {view.id} has ended: {view.state}", hint="a finished run never changes; run it again", code="run_ended")
    if is_held(folder):
        raise StateUnavailable(f"run {view.id} is under way", hint=f"toka run wait {view.id}")
    plan = msgspec.json.decode(query.read_plan(folder), type=Plan)
    workdir = Path(plan.workdir)
    if not workdir.is_dir():
        raise NotFound(f"the directory of run {view.id} is gone: {workdir}")
    settings, _ = settings_of(cli, workdir)
    budgets = {name: value for name, value in (("budget_usd", budget_usd), ("budget_tokens", budget_tokens)) if value is not None}
    plan = msgspec.structs.replace(plan, options={**plan.options, **budgets})
    files = (Path(path) if (path := plan.options.get(name)) else None for name in ("record", "replay"))
    return resume_here(cli, folder, Ready(plan, settings, "", *files), form, in_doubt=in_doubt)
