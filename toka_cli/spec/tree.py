"""What a YAML document looks like after it was parsed and before it has a meaning: text, lists and mappings, each with its place.

Scalars stay the text that was written; the field that needs a number or a boolean reads it (`version: 1.10` stays `1.10`).
Nodes are shared where the document used an alias, so nobody changes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Place: TypeAlias = tuple[int, int]
"""Line and column, from 1."""


@dataclass(frozen=True, slots=True)
class Text:
    """A scalar as written; `plain` when it had neither quotes nor a block mark, so that it may mean a number, a boolean or nothing."""

    value: str
    plain: bool
    place: Place


@dataclass(frozen=True, slots=True)
class Seq:
    """A list."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Map:
    """A mapping with text keys; `keys` holds the place of each key."""

    entries: dict[str, Node]
    keys: dict[str, Place]
    place: Place

    def with_entry(self, key: str, node: Node) -> Map:
        """Return a copy in which `key` is `node`; a key that was there keeps its position and place."""
        return Map({**self.entries, key: node}, {**self.keys, key: self.keys.get(key, node.place)}, self.place)

    def renamed(self, old: str, new: str) -> Map:
        """Return a copy in which the key `old` is called `new`."""
        return Map(
            {(new if key == old else key): node for key, node in self.entries.items()},
            {(new if key == old else key): place for key, place in self.keys.items()},
            self.place,
        )


Node: TypeAlias = Text | Seq | Map

_INT: Final = re.compile(r"[-+]?[0-9]{1,300}", re.ASCII)
_HEX: Final = re.compile(r"0x[0-9a-fA-F]{1,256}|0o[0-7]{1,256}", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]{1,300}|[0-9]{1,300}(?:\.[0-9]{0,300})?)(?:[eE][-+]?[0-9]{1,10})?", re.ASCII)
_WORDS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ].*)?", re.ASCII)
_YES_NO: Final = frozenset({"yes", "no", "on", "off", "y", "n"})


def is_null(node: Node | None) -> bool:
    """Return whether nothing was written: no node, or a plain `~`, `null` or empty scalar."""
    return node is None or (isinstance(node, Text) and node.plain and node.value in _NULLS)


def scalar(node: Text) -> str | int | float | bool | None:
    """Return the JSON value of a scalar by YAML 1.2's core schema: `on`, `yes` and dates stay text, and so do NaN and infinity."""
    text = node.value
    if not node.plain:
        return text
    if text in _NULLS:
        return None
    if text in _WORDS:
        return _WORDS[text]
    if not text[0].isascii() or text[0] not in "+-.0123456789":
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text


def looks_typed(node: Text) -> bool:
    """Return whether an ordinary YAML reader would make something else than text of this scalar."""
    if not node.plain:
        return False
    return not isinstance(scalar(node), str) or node.value.lower() in _YES_NO or _DATE.fullmatch(node.value) is not None


def value(node: Node) -> Any:
    """Return the JSON value of a node and everything below it. Depth is bounded by the guard."""
    if isinstance(node, Text):
        return scalar(node)
    if isinstance(node, Seq):
        return [value(item) for item in node.items]
    return {key: value(item) for key, item in node.entries.items()}


def kind(node: Node) -> str:
    """Return what a node is, for messages."""
    if isinstance(node, Seq):
        return "a list"
    if isinstance(node, Map):
        return "a mapping"
    found = scalar(node)
    if found is None:
        return "nothing"
    if isinstance(found, bool):
        return "a boolean"
    return "text" if isinstance(found, str) else "a number"


def places(root: Node) -> dict[str, Place]:
    """Return the place of everything by its dotted path (`tasks.default[2].run`): of a scalar its own, of a list or mapping its key's."""
    return {"": root.place, **dict(_walk(root, ""))}


def _walk(node: Node, path: str) -> Iterator[tuple[str, Place]]:
    """Yield path and place of everything below a node."""
    if isinstance(node, Map):
        prefix = f"{path}." if path else ""
        for key, below in node.entries.items():
            inner = prefix + key
            yield inner, (below.place if isinstance(below, Text) and below.value else node.keys[key])
            if not isinstance(below, Text):
                yield from _walk(below, inner)
    elif isinstance(node, Seq):
        for index, below in enumerate(node.items):
            inner = f"{path}[{index}]"
            yield inner, below.place
            if not isinstance(below, Text):
                yield from _walk(below, inner)
