"""Durations and sizes on the command line, with the option named when they make no sense."""

from __future__ import annotations

from toka_cli import units
from toka_cli.errors import UsageError


def seconds(option: str, text: str | None) -> float | None:
    """`1h30m` as seconds; None stays None. Raises UsageError."""
    if text is None:
        return None
    try:
        return units.parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def size(option: str, text: str | None) -> int | None:
    """`200MB` as bytes; None stays None. Raises UsageError."""
    if text is None:
        return None
    try:
        return units.parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def share(option: str, text: str | None) -> float | None:
    """`75%` as a share of one core; None stays None. Raises UsageError."""
    if text is None:
        return None
    try:
        return units.parse_share(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error
