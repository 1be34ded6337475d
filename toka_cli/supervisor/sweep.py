"""Finds and ends what a run left behind: processes whose environment names exactly this run, and its private folders. For a run that nobody owns.

Shims end their trees when the owner dies; this is for what even a killed shim could not.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from toka_cli.paths import RunFolder
from toka_cli.sandbox.tree import is_alive

SWEEP_TIMEOUT_S: Final = 10.0
NAME: Final = b"TOKA_RUN_ID="


def run_processes(run_id: str) -> list[int]:
    """Pids of this user's processes that were started for the run. Matches the whole id, never a part."""
    wanted = NAME + run_id.encode("ascii")
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def sweep_processes(run_id: str, timeout_s: float = SWEEP_TIMEOUT_S) -> int:
    """SIGKILL what is left of a run until nothing is found any more; how many there were. Bounded in time."""
    ended: set[int] = set()
    give_up = time.monotonic() + timeout_s
    while (found := [pid for pid in run_processes(run_id) if is_alive(pid)]) and time.monotonic() < give_up:
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended.update(found)
        time.sleep(0.005)
    return len(ended)


def leftover_files(folder: RunFolder) -> list[Path]:
    """Private folders, half-written artifacts and the socket of a run without owner."""
    stale = [*Path(tempfile.gettempdir()).glob(f"toka-{folder.run_id}-*"), *folder.artifacts.glob(".partial-*")]
    return [*stale, folder.socket] if folder.socket.exists() else stale


def sweep_files(folder: RunFolder) -> int:
    """Remove them; how many there were."""
    stale = leftover_files(folder)
    for path in stale:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(stale)
