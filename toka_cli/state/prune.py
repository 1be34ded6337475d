"""Removes the folders of runs that are over: finished or interrupted ones, never one that somebody owns, never a damaged one.

A folder is locked, renamed to a name that no reader takes for a run, and then removed, so that nobody sees half of it.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from toka_cli.errors import StateUnavailable
from toka_cli.lifecycle import RUN_FINAL, RunState
from toka_cli.paths import RunFolder, runs_dir
from toka_cli.state import owner
from toka_cli.state.query import Seen, scan

_REMOVED = ".removed-"


def prune(state_dir: Path, *, keep: int | None, older_than_s: float | None, now: float, dry_run: bool = False) -> list[str]:
    """Remove runs that are over; returns their ids, newest first. With `dry_run` they are only named.

    `keep` keeps that many of the newest runs that are over; `older_than_s` keeps those that ended less than that many seconds before `now` (seconds since
    1970). With both, a run goes only if both let it go; with neither, nothing does. Raises StateUnavailable when a folder cannot be removed.
    """
    if keep is None and older_than_s is None:
        return []
    seen, _ = scan(state_dir)
    over = [it for it in seen if not it.live and (it.summary.run.state in RUN_FINAL or it.summary.run.state is RunState.INTERRUPTED)]
    chosen = [it for it in over[keep or 0 :] if older_than_s is None or now - _ended_at(it) >= older_than_s]
    if dry_run:
        return [it.folder.run_id for it in chosen]
    removed = [it.folder.run_id for it in chosen if _remove(it.folder)]
    # What a former prune that was killed left behind.
    for path in runs_dir(state_dir).glob(f"{_REMOVED}*"):
        shutil.rmtree(path, ignore_errors=True)
    return removed


def _ended_at(seen: Seen) -> float:
    """When a run ended; of an interrupted one, when it last wrote."""
    ended = seen.summary.run.ended_at
    if ended is not None:
        return ended.timestamp()
    times = [0.0]
    for path in (seen.folder.database, seen.folder.database.with_name("run.db-wal")):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _remove(folder: RunFolder) -> bool:
    try:
        lock = owner.take(folder)
    except StateUnavailable:
        # Somebody became its owner, or removed it, since it was looked at.
        return False
    gone = folder.root.with_name(f"{_REMOVED}{folder.run_id}")
    try:
        shutil.rmtree(gone, ignore_errors=True)
        folder.root.rename(gone)
    except OSError as error:
        raise StateUnavailable(f"run {folder.run_id} cannot be removed: {error.strerror}") from error
    finally:
        lock.release()
    shutil.rmtree(gone, ignore_errors=True)
    return True
