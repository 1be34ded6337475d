"""`toka runtime gc`: what killed owners left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toka_cli.state import query
from toka_cli.state.owner import is_held
from toka_cli.supervisor.sweep import sweep_files, sweep_processes


def collect_garbage(state_dir: Path) -> list[dict[str, Any]]:
    """Sweep every run without an owner; what was found, by run."""
    cleaned = []
    for folder in query.run_folders(state_dir):
        if is_held(folder):
            continue
        found = {"run_id": folder.run_id, "processes": sweep_processes(folder.run_id), "files": sweep_files(folder)}
        if found["processes"] or found["files"]:
            cleaned.append(found)
    return cleaned
