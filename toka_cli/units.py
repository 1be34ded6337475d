"""Reads and writes amounts as people write them: bytes, durations, shares of the processor.

Text or a number comes in, an int of bytes, a float of seconds or a float of cores goes out. Everything that cannot be read raises
ValueError with a message that says what can. It never guesses, rounds down to zero, or accepts NaN, infinity or a negative amount.
"""

from __future__ import annotations

import math
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_BYTE_UNITS: Final[dict[str, int]] = {"": 1, "b": 1} | {
    f"{letter}{ending}": 1024**power for power, letter in enumerate("kmgt", start=1) for ending in ("b", "ib")
}
_SECOND_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# Patterns are compiled when something is read: a listing, which only writes amounts, does without.
_BYTES: Final = r"([0-9]{1,20}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)"
_PART: Final = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)\s*"
_NUMBER: Final = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"

MAX_BYTES: Final = 2**63 - 1
MAX_SECONDS: Final = 3650 * 86400.0
MAX_CORES: Final = 1024.0
PERCENT_ABOVE: Final = 4.0
"""A bare number above this is per cent, up to it a number of cores (see `parse_share`)."""

BYTES_ACCEPTED: Final = "a number of bytes, or one with B, KB, MB, GB, TB (powers of 1024; KiB, MiB, GiB, TiB mean the same), such as 200MB"
DURATION_ACCEPTED: Final = "seconds, or amounts with ms, s, m, h, d and sums of them, such as 90, 500ms or 1h30m"
SHARE_ACCEPTED: Final = "per cent of one core (75% or 75), or a number of cores up to 4 (0.75), such as 75%; 150% is one core and a half"


def parse_bytes(value: object, *, zero: bool = False) -> int:
    """Return bytes: `200MB` is 200 × 1024². A bare number is bytes. 0 is accepted only with `zero`.

    Raises ValueError for anything else.
    """
    text = _text(value)
    match = re.fullmatch(_BYTES, text, re.ASCII)
    factor = _BYTE_UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"not an amount of memory or storage: {_shown(value)}; accepted is {BYTES_ACCEPTED}")
    amount: int = int(match[1]) * factor if match[1].isdigit() else round(float(match[1]) * factor)
    if amount > MAX_BYTES:
        raise ValueError(f"{_shown(value)} is more than any machine holds; accepted is {BYTES_ACCEPTED}")
    if amount == 0 and not zero:
        raise ValueError(f"{_shown(value)} leaves nothing; accepted is {BYTES_ACCEPTED}")
    return amount


def parse_duration(value: object, *, zero: bool = False) -> float:
    """Return seconds: `1h30m` is 5400.0. A bare number is seconds. 0 is accepted only with `zero`. Raises ValueError for anything else."""
    text = _text(value)
    if re.fullmatch(_NUMBER, text, re.ASCII):
        seconds = float(text)
    else:
        seconds, end = 0.0, 0
        for match in re.finditer(_PART, text, re.ASCII):
            if match.start() != end:
                break
            seconds += float(match[1]) * _SECOND_UNITS[match[2]]
            end = match.end()
        if end != len(text) or not text:
            raise ValueError(f"not a duration: {_shown(value)}; accepted is {DURATION_ACCEPTED}")
    if seconds > MAX_SECONDS:
        raise ValueError(f"{_shown(value)} is longer than ten years; accepted is {DURATION_ACCEPTED}")
    if seconds == 0 and not zero:
        raise ValueError(f"{_shown(value)} leaves no time; accepted is {DURATION_ACCEPTED}")
    return seconds


def parse_share(value: object) -> float:
    """Return a share of the processor in cores: 1.0 is one core.

    With a per cent sign it is per cent of one core. A bare number up to 4 is a number of cores (0.75, 1, 2), above 4 it is per cent (75):
    nobody limits an agent to 3 % of a core, and who means more than four cores writes 800%. Raises ValueError for anything else.
    """
    text = _text(value)
    percent = text.endswith("%")
    bare = text[:-1].rstrip() if percent else text
    if not re.fullmatch(_NUMBER, bare, re.ASCII):
        raise ValueError(f"not a share of the processor: {_shown(value)}; accepted is {SHARE_ACCEPTED}")
    number = float(bare)
    share = number / 100 if percent or number > PERCENT_ABOVE else number
    if share == 0:
        raise ValueError(f"{_shown(value)} leaves no processor time; accepted is {SHARE_ACCEPTED}")
    if share > MAX_CORES:
        raise ValueError(f"{_shown(value)} is more than {MAX_CORES:.0f} cores; accepted is {SHARE_ACCEPTED}")
    return share


def format_bytes(amount: float) -> str:
    """Return bytes as people read them: `512 B`, `200 MB`, `1.5 GB` (powers of 1024, one decimal below ten)."""
    number, unit = float(amount), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        # 1023.95 and more would be shown as "1024": that is the next unit.
        if abs(number) < 1023.5:
            break
        number, unit = number / 1024, larger
    decimals = 1 if unit != "B" and abs(number) < 9.95 else 0
    return f"{number:.{decimals}f}".removesuffix(".0") + f" {unit}"


def format_duration(seconds: float) -> str:
    """Return seconds as people read them: `250ms`, `1.5s`, `12s`, `5m0s`, `1h2m`, `2d3h`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms" if seconds else "0s"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60}s"
    minutes = whole // 60
    if minutes < 1440:
        return f"{minutes // 60}h{minutes % 60}m"
    return f"{minutes // 1440}d{minutes % 1440 // 60}h"


def _text(value: object) -> str:
    """Return what was written, a number too, as text without outer spaces; anything else gives text that no pattern matches."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return ""
    if isinstance(value, int):
        return str(value) if 0 <= value <= MAX_BYTES else ""
    # `1e-07` is not how people write, and no limit is that small.
    return f"{value:.9f}".rstrip("0").rstrip(".")


def _shown(value: object) -> str:
    """Return the value for a message, quoted and cut to 60 characters."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_BYTES:
        return "this number"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
