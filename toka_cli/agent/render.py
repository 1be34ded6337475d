"""What a model is told of a tool's answer: its short fields as JSON, its long texts as they are.

In: plain JSON values. Out: bounded text, the same for the same answer: how long a call took is left out.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from toka_cli.tools.tool import both_ends

_LONG_CHARS: Final = 120
_LEFT_OUT: Final = frozenset({"duration_s"})


def answer_text(value: Any, limit_bytes: int) -> str:
    """The text for a model, at most about `limit_bytes` long."""
    if isinstance(value, str):
        return both_ends(value, limit_bytes)[0]
    if not isinstance(value, dict):
        return both_ends(msgspec.json.encode(value).decode(), limit_bytes)[0]
    shown = {name: one for name, one in value.items() if name not in _LEFT_OUT and one is not None}
    long = {name: one for name, one in shown.items() if isinstance(one, str) and ("\n" in one or len(one) > _LONG_CHARS)}
    short = {name: one for name, one in shown.items() if name not in long}
    parts = [both_ends(msgspec.json.encode(short).decode(), limit_bytes)[0]] if short else []
    room = limit_bytes // max(1, len(long))
    parts += [f"{name}:\n{both_ends(one, room)[0]}" for name, one in long.items()]
    return "\n".join(parts) or "{}"
