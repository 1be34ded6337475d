"""The event log of a run: the only writer of its state file.

In: events, audit decisions, samples and artifacts from the owner of the run. Out: the live view at once; the state file, the summary, listeners and
acknowledgements at the end of the loop's turn, in one transaction per turn. Nothing is acknowledged before it is durable, and nothing that was taken in
is forgotten while the disk is full: it waits in memory. Never decides what happens next.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from toka_cli.errors import Bug, StateUnavailable
from toka_cli.events import AnyEvent, Record
from toka_cli.lifecycle import RUN_FINAL, RunState
from toka_cli.paths import RunFolder
from toka_cli.state import artifacts, chain, opening, rows, schema, summary
from toka_cli.state.fold import Fold
from toka_cli.state.journal import Journal, read_journal
from toka_cli.state.snapshot import AgentView, RunView

SAMPLES_KEPT: Final = 600
"""Samples per agent: ten minutes at one a second."""
RETRY_S: Final = 1.0
"""Seconds between tries while nothing can be written."""

# What may pass by itself: no room, an I/O error, a foreign program that holds the file.
_PASSING: Final = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_CANTOPEN,
}


class EventLog:
    """The only writer. Made by `create` or `open`; holds the owner lock until `close`. For one thread.

    `view` is the folded snapshot with everything taken in so far, durable or not. `stalled` says why nothing can be written now (None: all is well);
    the owner then takes no new work until it is None again. `failed` is the error that ended the log for good.
    """

    def __init__(self, opened: opening.Opened, clock: Callable[[], float]) -> None:
        self.folder = opened.folder
        self.stalled: str | None = None
        self.failed: StateUnavailable | None = None
        self._lock = opened.lock
        self._connection = opened.connection
        self._clock = clock
        self._fold = Fold(opened.view)
        self._audit_seq = opened.audit_rows
        self._samples_seen = opened.samples
        self._closed = False
        self._changed = False
        self._records: list[Record] = []
        self._event_rows: list[tuple[Any, ...]] = []
        self._statements: list[rows.Statement] = []
        self._audit_rows: list[tuple[Any, ...]] = []
        self._artifact_rows: list[tuple[Any, ...]] = []
        self._sample_rows: list[tuple[Any, ...]] = []
        self._waiting: list[Callable[[], None]] = []
        self._futures: list[asyncio.Future[None]] = []
        self._ready: deque[Callable[[], None]] = deque()
        self._news: list[Record] = []
        self._listeners: list[Callable[[Sequence[Record]], None]] = []
        self._publishing = False
        self._scheduled: asyncio.AbstractEventLoop | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._summarised: RunState | None = None

    @property
    def view(self) -> RunView:
        """The live snapshot. To be read, not changed."""
        return self._fold.view

    @property
    def clock(self) -> Callable[[], float]:
        """The clock that events are stamped with: seconds since 1970."""
        return self._clock

    def agent(self, agent_id: str) -> AgentView:
        """One agent of the live snapshot, without a search. Raises KeyError."""
        return self._fold.agents[agent_id]

    def journal(self, agent_id: str, task_id: str) -> Journal:
        """What is kept of the conversations of a task; what was taken in and is not durable yet is not among it. Raises StateUnavailable."""
        try:
            return read_journal(self._connection, agent_id, task_id)
        except (sqlite3.Error, ValueError) as error:
            raise schema.unavailable(self.folder.database, error) from error

    def moments(self, kind: str, after: float) -> tuple[float, ...]:
        """When events of a kind that are durable happened, as far as that was after a moment; seconds since 1970."""
        found = self._connection.execute("SELECT at FROM events WHERE kind = ? AND at > ? ORDER BY seq", (kind, after))
        return tuple(at for (at,) in found)

    @property
    def audit_head(self) -> str:
        """The hash of the newest audit row, durable or not."""
        return self.view.audit_head or chain.FIRST

    # --- making and opening ----------------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: RunFolder, *, plan_json: bytes, spec_text: str, clock: Callable[[], float] = time.time) -> EventLog:
        """Make the run's folder (0700) and state file (0600) and become its owner, with epoch 1. The first event must be `RunCreated`.

        Raises StateUnavailable when the run exists already or the folder cannot be made.
        """
        return cls(opening.make(folder, plan_json, spec_text, clock()), clock)

    @classmethod
    def open(cls, folder: RunFolder, *, clock: Callable[[], float] = time.time) -> EventLog:
        """Become the owner of an existing run: lock, migrate, next epoch, view as it was stored.

        Raises StateUnavailable when another process owns it, or when its state file is missing, damaged or newer than this program.
        """
        return cls(opening.take_over(folder, clock()), clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- taking in -------------------------------------------------------------------------------------------------------------------

    def append(self, event: AnyEvent, *, agent: str | None = None, task: str | None = None, body: str | None = None) -> Record:
        """Take in a fact: the view has it at once, the state file at the end of this turn of the loop (see `committed`, `after_commit`).

        `agent` is an agent id, `task` a task id within that agent; `body` is kept beside the event (see `rows.derived`). Raises IllegalMove, with
        nothing changed, when it cannot happen now; Bug when it cannot be stored; StateUnavailable when the log has failed or was closed.
        """
        if self.failed is not None:
            raise self.failed
        event, encoded = rows.encode(event)
        record = Record(self.view.last_seq + 1, self._clock(), event, agent, task)
        self._fold.apply(record)
        self._records.append(record)
        self._event_rows.append((record.seq, record.at, event.kind, agent, task, encoded))
        self._statements.extend(rows.derived(self._fold, record, body))
        self._schedule()
        return record

    def audit(self, action: str, decision: str, *, subject: str | None = None, context: Mapping[str, Any] | None = None) -> None:
        """Add a row to the audit trail, in the same transaction as this turn's events. `decision` is allowed, denied or recorded.

        Raises Bug for another decision, StateUnavailable when the log has failed or was closed.
        """
        if self.failed is not None:
            raise self.failed
        if decision not in {"allowed", "denied", "recorded"}:
            raise Bug(f"an audit decision is allowed, denied or recorded, not {decision}")
        self._audit_seq += 1
        content = (rows.clean(action), decision, None if subject is None else rows.clean(subject), chain.canonical(context))
        now, previous = float(self._clock()), self.audit_head
        head = chain.digest(previous, self._audit_seq, now, *content)
        self._audit_rows.append((self._audit_seq, now, *content, previous, head))
        self.view.audit_head = head
        self._schedule()

    def sample(self, agent: str, memory_bytes: int | None, cpu_time_s: float | None, worked_s: float | None = None) -> None:
        """Take in what the agent's live process tree uses now: bytes, seconds of CPU since it started. Not an event; the newest 600 are kept.

        `worked_s` is the agent's working time so far, over all its processes: an owner that takes over goes on counting from there.

        A sample of an agent without a process is ignored; while nothing can be written only the view takes it in.
        """
        if self.failed is not None or not self._fold.sample(agent, memory_bytes, cpu_time_s, worked_s) or self.stalled:
            return
        number = self._samples_seen[agent] = self._samples_seen.get(agent, 0) + 1
        self._sample_rows.append((agent, number % SAMPLES_KEPT, number, self._clock(), memory_bytes, cpu_time_s))
        self._schedule()

    def add_artifact(self, data: bytes | Path, *, name: str, agent: str | None = None, task: str | None = None) -> str:
        """Keep bytes, or move a file in, under `artifacts/SHA256`; returns the sha256. The file is durable on return, its row with this turn's events.

        Raises StateUnavailable when it cannot be kept.
        """
        if self.failed is not None:
            raise self.failed
        digest, size = artifacts.store(self.folder, data)
        self._artifact_rows.append((self._clock(), digest, rows.clean(name), size, agent, task))
        self._schedule()
        return digest

    # --- being told ------------------------------------------------------------------------------------------------------------------

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call once everything taken in so far is durable: at once when it is already. The call must not raise. Never called if the log fails."""
        if self._changed:
            self._waiting.append(call)
        elif self.failed is None:
            call()

    async def committed(self) -> None:
        """Wait until everything taken in so far is durable. Raises StateUnavailable when it cannot become so."""
        if self.failed is not None:
            raise self.failed
        if self._changed:
            future = asyncio.get_running_loop().create_future()
            self._futures.append(future)
            self._schedule()
            await future

    def subscribe(self, listener: Callable[[Sequence[Record]], None]) -> Callable[[], None]:
        """Call the listener with the new records after each commit. It must not raise. Returns the call that ends it."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    # --- writing ---------------------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Make everything taken in so far durable now, and tell who waits for it.

        When there is no room (or a foreign program holds the file) nothing is lost: `stalled` says why, and inside a loop it is tried again each second.
        Raises StateUnavailable when the file can never be written again: damaged, or with a new owner.
        """
        self._scheduled = None
        if self.failed is not None:
            raise self.failed
        if self._changed:
            try:
                self._write()
            except sqlite3.Error as error:
                self._not_written(error)
                return
            self.stalled = None
            self._written()
        self._publish()

    def retry(self) -> bool:
        """Try again to write after a stall; True if all is written."""
        self.flush()
        return self.stalled is None

    def close(self) -> None:
        """Write what waits, the summary and a checkpoint; free the lock. May be called again.

        Raises StateUnavailable, after everything was closed, when something could not be written.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self.failed is None:
                self.flush()
            if self.stalled:
                count = len(self._records)
                raise StateUnavailable(f"{count} events of run {self.folder.run_id} could not be written: {self.stalled}")
            self._close_file()
        finally:
            self._fail(self.failed or StateUnavailable(f"the log of run {self.folder.run_id} is closed"))
            if self._retry is not None:
                self._retry.cancel()
            self._connection.close()
            self._lock.release()

    def _schedule(self) -> None:
        self._changed = True
        if self.stalled:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._scheduled is not loop:
            self._scheduled = loop
            loop.call_soon(self._flush_in_loop)

    def _flush_in_loop(self) -> None:
        # The error is kept in `failed`, raised by the next append and handed to everyone who waits: raising it into the loop would tell nobody.
        self._scheduled = None
        if self.failed is None:
            with contextlib.suppress(StateUnavailable):
                self.flush()

    def _write(self) -> None:
        connection, fold = self._connection, self._fold
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(rows.EVENT, self._event_rows)
            if fold.dirty_run:
                connection.execute(rows.RUN, rows.run_row(fold.view))
            connection.executemany(rows.AGENT, [rows.agent_row(fold, agent) for agent in fold.dirty_agents.values()])
            connection.executemany(rows.TASK, [rows.task_row(fold, key, task) for key, task in fold.dirty_tasks.items()])
            for statement, values in self._statements:
                connection.execute(statement, values)
            connection.executemany(rows.AUDIT, self._audit_rows)
            connection.executemany(rows.ARTIFACT, self._artifact_rows)
            connection.executemany(rows.SAMPLE, self._sample_rows)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")

    def _written(self) -> None:
        self._changed = False
        self._fold.clean()
        self._news += self._records
        for pending in (self._records, self._event_rows, self._statements, self._audit_rows, self._artifact_rows, self._sample_rows):
            pending.clear()
        self._ready.extend(self._waiting)
        self._waiting.clear()
        for future in self._futures:
            if not future.done():
                future.set_result(None)
        self._futures.clear()
        if self.view.state is not self._summarised:
            self._summarised = self.view.state
            summary.write(self.folder, summary.summarise(self.view))

    def _not_written(self, error: sqlite3.Error) -> None:
        failure = schema.unavailable(self.folder.database, error)
        # The low byte is the primary code (sqlite.org/rescode.html).
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF not in _PASSING:
            self._fail(failure)
            raise failure from error
        self.stalled = failure.message
        if self._retry is not None:
            self._retry.cancel()
        with contextlib.suppress(RuntimeError):
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._flush_in_loop)

    def _fail(self, failure: StateUnavailable) -> None:
        self.failed = failure
        for future in self._futures:
            if not future.done() and not future.get_loop().is_closed():
                future.set_exception(failure)
        self._futures.clear()

    def _publish(self) -> None:
        # A listener may append and flush: its news waits here, so that everybody hears everything in order.
        if self._publishing:
            return
        self._publishing = True
        try:
            while self._ready or self._news:
                while self._ready:
                    self._ready.popleft()()
                news, self._news = self._news, []
                if news:
                    for listener in tuple(self._listeners):
                        listener(news)
        finally:
            self._publishing = False

    def _close_file(self) -> None:
        summary.write(self.folder, summary.summarise(self.view))
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA busy_timeout=0")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if self.view.state in RUN_FINAL:
                # A finished run never changes: without WAL it can be read from a read-only place. Refused while a reader is there; then it stays.
                self._connection.execute("PRAGMA journal_mode=DELETE").fetchall()
