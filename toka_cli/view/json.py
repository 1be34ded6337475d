"""Writes JSON that is safe to parse, to pipe and to look at.

Structs, dicts and plain values come in; text goes out: times as RFC 3339 with Z, numbers that are not finite as null, lone surrogates replaced, and the
characters that a terminal would obey as escapes (a parser reads the same data). It never writes.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any, Final

import msgspec

_OBEYED: Final = re.compile("[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]")
_NOT_ASCII: Final = re.compile("[^\x00-\x7e]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def encode_json(value: Any, *, ascii_only: bool = False, indent: int = 0) -> str:
    """Return a value as one line of JSON, or indented. Raises TypeError for what has no JSON form, which is a mistake in toka."""
    try:
        encoded = msgspec.json.encode(value, enc_hook=_plain)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_whole(msgspec.to_builtins(value, enc_hook=_plain)))
    if indent:
        encoded = msgspec.json.format(encoded, indent=indent)
    text = encoded.decode()
    if text.isascii() and "\x7f" not in text:
        return text
    return (_NOT_ASCII if ascii_only else _OBEYED).sub(_escape, text)


def _plain(value: object) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _whole(value: Any) -> Any:
    """Replace lone surrogates, which UTF-8 cannot hold, in every string of a plain value."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return value


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    # JSON has four digits only: two halves for the rest.
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
