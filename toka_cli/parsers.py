"""Reads single settings: values from files, variables and flags, and the text of a small file with the places of what stands in it.

A raw value comes in, a typed one goes out; every parser raises ValueError with words that can follow the setting's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from toka_cli import units
from toka_cli.errors import Problem

MAX_FILE_BYTES: Final = 256 * 1024
MAX_ITEMS: Final = 200

Grants = tuple[tuple[str, tuple[str, ...]], ...]


def whole(minimum: int, maximum: int) -> Callable[[object], int]:
    """A parser of whole numbers within bounds."""

    def parse(raw: object) -> int:
        text = raw.strip() if isinstance(raw, str) else str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else ""
        if not (text.isascii() and text.isdigit() and len(text) < 20 and minimum <= int(text) <= maximum):
            raise ValueError(f"must be a whole number from {minimum} to {maximum}, not {raw!r}"[:200])
        return int(text)

    return parse


def flag(raw: object) -> bool:
    """True or false, as TOML and as people write it in a variable."""
    word = raw if isinstance(raw, bool) else str(raw).strip().lower()
    if word in {True, "true", "1", "yes", "on"}:
        return True
    if word in {False, "false", "0", "no", "off"}:
        return False
    raise ValueError(f"must be true or false, not {raw!r}"[:200])


def text_line(raw: object) -> str:
    """One line of text that is not empty."""
    if not isinstance(raw, str) or not raw.strip() or len(raw) > 500 or not raw.isprintable():
        raise ValueError("must be a line of text")
    return raw.strip()


def url(raw: object) -> str:
    """An address of http or https."""
    text = text_line(raw)
    if not re.match(r"https?://[^\s/]", text):
        raise ValueError("must begin with http:// or https://")
    return text


def one_of(*words: str) -> Callable[[object], str]:
    """A parser of one word among several."""

    def parse(raw: object) -> str:
        if raw not in words:
            raise ValueError(f"must be {', '.join(words[:-1])} or {words[-1]}, not {raw!r}"[:200])
        return str(raw)

    return parse


def names(raw: object) -> tuple[str, ...]:
    """A list of names; in a variable with commas between them."""
    items = [item.strip() for item in raw.split(",")] if isinstance(raw, str) else raw
    if not isinstance(items, list) or len(items) > MAX_ITEMS or not all(isinstance(item, str) and item.strip() for item in items):
        raise ValueError("must be a list of names")
    return tuple(dict.fromkeys(item.strip() for item in items))


def grants(raw: object) -> Grants:
    """Grants as specs write them: names, and tables of one name with what it is narrowed to. In a variable: `a,b=value+value`."""
    items = [_grant(item) for item in raw.split(",")] if isinstance(raw, str) else raw
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        raise ValueError("must be a list of grants")
    found: dict[str, tuple[str, ...]] = {}
    for item in items:
        ((name, values),) = item.items() if isinstance(item, dict) and len(item) == 1 else ((item, []),)
        if not isinstance(name, str) or not name.strip() or not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
            raise ValueError("must be a list of names, or of tables such as {filesystem-write = ['src/**']}")
        if isinstance(item, dict) and not values:
            raise ValueError(f"{name!r} is narrowed to nothing"[:200])
        if name.strip() in found:
            raise ValueError(f"{name!r} is listed twice"[:200])
        found[name.strip()] = tuple(values)
    return tuple(found.items())


def _grant(text: str) -> object:
    name, separator, values = text.strip().partition("=")
    return {name: [value for value in values.split("+") if value]} if separator else name


PER_MILLION: Final = 1_000_000

Prices = dict[str, tuple[float, float, float | None]]


def prices(raw: object) -> Prices:
    """Prices by model's name: a table such as `{"openai/mine" = {input = 0.5, output = 1.5}}` in USD per million tokens (or JSON text); USD per token."""
    try:
        table = json.loads(raw) if isinstance(raw, str) else raw
    except ValueError:
        raise ValueError("must be a table of models, or JSON") from None
    if not isinstance(table, dict):
        raise ValueError("must be a table of models")
    found: Prices = {}
    for model, price in table.items():
        if not isinstance(price, dict) or not {"input", "output"} <= set(price) <= {"input", "output", "cached_input"}:
            raise ValueError(f"{model!r} needs input and output (and may have cached_input), in USD per million tokens"[:200])
        numbers = [price["input"], price["output"], price.get("cached_input", 0.0)]
        if not all(isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number < PER_MILLION for number in numbers):
            raise ValueError(f"{model!r}: a price is a number of USD per million tokens"[:200])
        cached = price["cached_input"] / PER_MILLION if "cached_input" in price else None
        found[str(model)] = (price["input"] / PER_MILLION, price["output"] / PER_MILLION, cached)
    return found


def duration_or_zero(raw: object) -> float:
    """Seconds; zero is one of them."""
    return units.parse_duration(raw, zero=True)


def file_text(path: Path | None, problems: list[Problem]) -> str | None:
    """The text of a settings file, None where there is none; what cannot be read becomes a problem."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        problems.append(Problem(str(path), 0, 0, f"cannot be read: {error.strerror}", code="unreadable"))
        return None
    if len(data) > MAX_FILE_BYTES:
        problems.append(Problem(str(path), 0, 0, f"is larger than {units.format_bytes(MAX_FILE_BYTES)}", code="too_large"))
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        problems.append(Problem(str(path), 0, 0, "is not UTF-8", code="encoding"))
        return None


def place_in(text: str, group: str, name: str | None) -> tuple[int, int]:
    """Return line and column of a group's header or of a key below it; (0, 0) where the file spells them in another way."""
    inside = False
    below = re.compile(rf"\s*[\"']?{re.escape(name)}[\"']?\s*[=.]") if name is not None else None
    inline = re.compile(rf"\s*{re.escape(group)}\s*[=.]")
    for number, line in enumerate(text.splitlines(), start=1):
        column = len(line) - len(line.lstrip()) + 1
        if line.lstrip().startswith("["):
            inside = line.strip().split("]")[0].strip("[ ") == group
            if inside and below is None:
                return number, column
        elif (inside and below is not None and below.match(line)) or inline.match(line):
            return number, column
    return 0, 0
