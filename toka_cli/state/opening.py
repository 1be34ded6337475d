"""Makes the folder of a new run, or takes over that of an existing one: the lock, the state file, the next epoch, the view to go on from.

In: the folder of a run. Out: what an EventLog needs to write to it. Whatever fails on the way leaves nothing locked or open.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from toka_cli.errors import StateUnavailable
from toka_cli.paths import RunFolder, make_state_dir
from toka_cli.state import owner, rows, schema
from toka_cli.state.fold import Fold
from toka_cli.state.snapshot import RunView


@dataclass(frozen=True, slots=True)
class Opened:
    """A run that this process owns. `audit_rows` and `samples` (by agent id) are how many were ever written."""

    folder: RunFolder
    lock: owner.OwnerLock
    connection: sqlite3.Connection
    view: RunView
    audit_rows: int
    samples: dict[str, int]


def make(folder: RunFolder, plan_json: bytes, spec_text: str, now: float) -> Opened:
    """Make a new run with epoch 1. Raises StateUnavailable when it exists already or cannot be made."""
    try:
        make_state_dir(folder.root.parent.parent)
        for path in (folder.root, folder.logs, folder.artifacts):
            path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StateUnavailable(f"the folder {folder.root} cannot be made: {error.strerror}") from error
    lock, connection = owner.take(folder), None
    try:
        # The plan and the spec are on disk before the state file says that there is a run.
        _write_new(folder.spec, spec_text.encode("utf-8", "backslashreplace"))
        connection = schema.make(folder.database, lambda: 1)
        view = RunView(id=folder.run_id)
        connection.execute("BEGIN IMMEDIATE")
        for statement in schema.statements():
            connection.execute(statement)
        made = "INSERT INTO run (one, id, epoch, state, workdir, created_at, view) VALUES (1, ?, 1, ?, '', ?, ?)"
        connection.execute(made, (view.id, view.state.value, now, rows.text(view)))
        connection.execute("INSERT INTO plan (one, json) VALUES (1, ?)", (plan_json,))
        _note_owner(connection, 1, now)
        connection.execute("COMMIT")
        _sync_folders(folder.root, folder.root.parent)
        return Opened(folder, lock, connection, view, 0, {})
    except BaseException as error:
        _abandon(lock, connection)
        if isinstance(error, FileExistsError):
            raise StateUnavailable(f"run {folder.run_id} exists already") from error
        if isinstance(error, (sqlite3.Error, OSError)):
            raise schema.unavailable(folder.database, error) from error
        raise


def take_over(folder: RunFolder, now: float) -> Opened:
    """Become the owner of an existing run, with the next epoch. Raises StateUnavailable: held, missing, damaged or newer."""
    if not folder.database.is_file():
        raise StateUnavailable(f"there is no state file {folder.database}", code="state_missing")
    lock, connection = owner.take(folder), None
    epoch = 0
    try:
        connection = schema.connect(folder.database, lambda: epoch)
        schema.migrate(connection, folder.database)
        connection.execute("BEGIN IMMEDIATE")
        (former,) = connection.execute("SELECT epoch FROM run").fetchone()
        epoch = former + 1
        connection.execute("UPDATE run SET epoch = ?", (epoch,))
        _note_owner(connection, epoch, now)
        view = _load(connection)
        (audit_rows,) = connection.execute("SELECT COALESCE(MAX(seq), 0) FROM audit").fetchone()
        samples = dict(connection.execute("SELECT agent, MAX(n) FROM samples GROUP BY agent"))
        connection.execute("COMMIT")
        return Opened(folder, lock, connection, view, audit_rows, samples)
    except BaseException as error:
        _abandon(lock, connection)
        # TypeError: a table without the one row it must have.
        if isinstance(error, (sqlite3.Error, OSError, ValueError, TypeError)):
            raise schema.unavailable(folder.database, error) from error
        raise


def _load(connection: sqlite3.Connection) -> RunView:
    """The stored view, or, when an older program stored it in a shape that is not understood, the view that the events tell."""
    try:
        return rows.read_view(connection)
    except ValueError:
        folded = Fold(RunView(id=""))
        for record in rows.read_records(connection):
            folded.apply(record)
        head = connection.execute("SELECT hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
        folded.view.audit_head = head[0] if head else None
        return folded.view


def _note_owner(connection: sqlite3.Connection, epoch: int, at: float) -> None:
    me = owner.identity()
    connection.execute(
        "INSERT INTO owners (epoch, at, pid, start_time, boot_id) VALUES (?, ?, ?, ?, ?)", (epoch, at, me.pid, me.start_time, me.boot_id)
    )


def _abandon(lock: owner.OwnerLock, connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        connection.close()
    lock.release()


def _write_new(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _sync_folders(*paths: Path) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
