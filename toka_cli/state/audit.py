"""Reads the audit trail of a run and proves that nobody changed it: every row carries the hash of the row before it.

In: a run's folder, and a head that was noted elsewhere, if there is one. Out: rows, or a report that names the first row that is not as it was written.
Rows cut off at the end show only against a head; the summary of a finished run holds one.
"""

from __future__ import annotations

import msgspec

from toka_cli.lifecycle import RUN_FINAL
from toka_cli.paths import RunFolder
from toka_cli.state import chain, schema, summary


class AuditRow(msgspec.Struct, frozen=True):
    """One decision. `at` is seconds since 1970; `context` is JSON text with sorted keys."""

    seq: int
    at: float
    action: str
    decision: str
    subject: str | None
    context: str
    prev_hash: str
    hash: str


class AuditReport(msgspec.Struct, frozen=True):
    """`rows` is how many were read, `head` the hash of the last of them, `first_bad_row` the number where the chain breaks."""

    ok: bool
    rows: int
    head: str
    first_bad_row: int | None
    message: str


def show(folder: RunFolder, denied: bool = False) -> list[AuditRow]:
    """The rows in order; with `denied` only refusals. Raises StateUnavailable."""
    rows = _read(folder)
    return [row for row in rows if row.decision == "denied"] if denied else rows


def verify(folder: RunFolder, head: str | None = None) -> AuditReport:
    """Check each row against the row before it, and the last one against `head`, else against the summary of a finished run.

    Finds a row that was changed, removed, added or moved, and with a head also rows cut off at the end. Raises StateUnavailable.
    """
    rows = _read(folder)
    previous = chain.FIRST
    for number, row in enumerate(rows, start=1):
        if row.seq != number:
            return AuditReport(False, len(rows), previous, number, f"row {number} is missing: row {row.seq} stands in its place")
        if row.prev_hash != previous:
            return AuditReport(False, len(rows), previous, number, f"row {number} does not follow the row before it")
        if row.hash != chain.digest(row.prev_hash, row.seq, row.at, row.action, row.decision, row.subject, row.context):
            return AuditReport(False, len(rows), previous, number, f"row {number} was changed")
        previous = row.hash
    expected, source = (head, "the given head") if head is not None else (_noted_head(folder), "the run's summary")
    if expected is not None and expected != previous:
        if expected in {row.hash for row in rows}:
            return AuditReport(False, len(rows), previous, None, f"there are more rows than {source} knows")
        bad = len(rows) + 1
        return AuditReport(False, len(rows), previous, bad, f"row {bad} is missing: {source} is the hash of a row that is not there")
    return AuditReport(True, len(rows), previous, None, f"{len(rows)} rows, each as it was written")


def _read(folder: RunFolder) -> list[AuditRow]:
    columns = ", ".join(AuditRow.__struct_fields__)
    with schema.reading(folder.database) as connection:
        return [AuditRow(*row) for row in connection.execute(f"SELECT {columns} FROM audit ORDER BY seq")]  # noqa: S608  constants


def _noted_head(folder: RunFolder) -> str | None:
    noted = summary.read(folder)
    return noted.audit_head if noted is not None and noted.run.state in RUN_FINAL else None
