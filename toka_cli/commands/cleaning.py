"""`toka runtime gc`: what killed owners left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toka_cli.errors import StateUnavailable
from toka_cli.state import query
from toka_cli.state.owner import is_held, take
from toka_cli.supervisor.sweep import leftover_files, run_processes, sweep_files, sweep_processes


def collect_garbage(state_dir: Path) -> list[dict[str, Any]]:
    """Sweep every run without an owner; what was found, by run."""
    cleaned = []
    for folder in query.run_folders(state_dir):
        if is_held(folder) or not (run_processes(folder.run_id) or leftover_files(folder)):
            continue
        try:
            # Held while it is swept: who resumes the run now must not lose what it starts.
            lock = take(folder)
        except StateUnavailable:
            continue
        try:
            found = {"run_id": folder.run_id, "processes": sweep_processes(folder.run_id), "files": sweep_files(folder)}
        finally:
            lock.release()
        cleaned.append(found)
    return cleaned
