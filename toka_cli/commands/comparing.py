"""`toka run diff A B`: what two runs came to, side by side. In: two texts that mean runs. Out: text or JSON, and the exit code: 0 for the same, else 1."""

from __future__ import annotations

from toka_cli.commands.context import Format, Globals
from toka_cli.errors import EXIT_OK, EXIT_RUN_FAILED
from toka_cli.lifecycle import RUN_FINAL
from toka_cli.state import query
from toka_cli.state.difference import Compared, differences
from toka_cli.view.difference import difference_lines


def compare_runs(cli: Globals, first: str, second: str, form: Format) -> int:
    """Print the differences; a run that goes on is compared as it stands, and that is said. Raises NotFound, StateUnavailable."""
    out = cli.output(form)
    folders = [query.find_run(cli.state_dir, text) for text in (first, second)]
    a, b = (Compared(query.load_run(folder), query.read_denied(folder)) for folder in folders)
    for run in (a, b):
        if run.view.state not in RUN_FINAL:
            out.warn(f"run {run.view.id} is {run.view.state.value}: what it comes to is not known yet")
    found = differences(a, b)
    code = EXIT_RUN_FAILED if found else EXIT_OK
    out.emit(
        "run diff",
        {"same": not found, "a": a.view.id, "b": b.view.id, "differences": found},
        exit_code=code,
        text=lambda: difference_lines(a.view, b.view, found, width=out.out.width, ascii_only=out.out.ascii_only),
    )
    return code
