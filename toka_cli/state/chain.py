"""The hash chain of the audit trail: each row is hashed together with the hash of the row before it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from toka_cli.state.rows import clean

FIRST: Final = "0" * 64
"""Stands before the first row."""


def canonical(context: Mapping[str, Any] | None) -> str:
    """The context as JSON text with sorted keys. What JSON cannot hold is stored as Python would print it: an audit row is never refused."""
    wanted = dict(context or {})
    try:
        return msgspec.json.encode(wanted, order="sorted", enc_hook=repr).decode()
    except (TypeError, ValueError, OverflowError):
        return msgspec.json.encode({clean(str(key)): clean(repr(value)) for key, value in wanted.items()}, order="sorted").decode()


def digest(previous: str, seq: int, at: float, action: str, decision: str, subject: str | None, context: str) -> str:
    """The hash of a row: sha256 over a JSON object with sorted keys. `context` is the canonical text itself, so that every byte of it counts."""
    fields = {
        "prev_hash": previous, "seq": seq, "at": at, "action": action, "decision": decision, "subject": subject, "context": context,
    }  # fmt: skip
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()
