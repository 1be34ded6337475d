"""Reads the fields of one mapping by what each needs, records every problem at its place, and knows which keys nobody asked for.

A field that cannot be read is reported and its default returned, so that reading goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from toka_cli import units
from toka_cli.spec.findings import Findings, nearest, shown
from toka_cli.spec.tree import Map, Node, Place, Seq, Text, is_null, kind, looks_typed, value

T = TypeVar("T")

MAX_COMPARED: Final = 100
_TRUE: Final = frozenset({"true", "yes", "on"})
_FALSE: Final = frozenset({"false", "no", "off"})


class Section:
    """One mapping of a document. `name` is its dotted path, for messages (empty for the whole document)."""

    def __init__(self, node: Map, name: str, findings: Findings) -> None:
        self.node = node
        self.name = name
        self.findings = findings
        self._asked: dict[str, None] = {}

    def path(self, key: str) -> str:
        """Return the dotted path of a key."""
        return f"{self.name}.{key}" if self.name else key

    def get(self, key: str) -> Node | None:
        """Return the node of a key, None when it is missing or holds nothing."""
        self._asked[key] = None
        node = self.node.entries.get(key)
        return None if is_null(node) else node

    def place(self, key: str) -> Place:
        """Return the place of a key, or of the mapping when it has none."""
        return self.node.keys.get(key, self.node.place)

    def text(self, key: str) -> str | None:
        """Return the text as written, whatever it looks like (`1.10`, `123`, `on`, a date)."""
        node = self.get(key)
        return None if node is None else as_text(node, self.path(key), self.findings)

    def texts(self, key: str, *, one: bool = False) -> tuple[str, ...]:
        """Return a list of texts; a single text is a list of one, noted unless `one` says that it is an ordinary shape here."""
        node = self.get(key)
        if node is None:
            return ()
        if one and isinstance(node, Text):
            return (node.value,)
        return as_texts(node, self.path(key), self.findings)

    def named(self, key: str) -> dict[str, str]:
        """Return a mapping of text to text."""
        node = self.get(key)
        if node is None:
            return {}
        if not isinstance(node, Map):
            self.wrong(key, node, "a mapping of names to text")
            return {}
        found = {
            name: "" if is_null(item) else as_text(item, f"{self.path(key)}.{name}", self.findings) for name, item in node.entries.items()
        }
        return {name: text for name, text in found.items() if text is not None}

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean; yes, no, on and off are read too."""
        node = self.get(key)
        if node is None:
            return default
        word = node.value.lower() if isinstance(node, Text) else ""
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        self.wrong(key, node, "true or false")
        return default

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        """Return one of the words, in any case."""
        node = self.get(key)
        if node is None:
            return default
        word = node.value.strip() if isinstance(node, Text) else ""
        lower = word.lower()
        if lower in choices:
            if lower != word:
                self.findings.note(node.place, f"{self.path(key)}: {shown(word)}, read as '{lower}'")
            return lower
        close = nearest(lower, choices, cutoff=0.6) if lower else None
        self.wrong(key, node, "one of " + ", ".join(choices), hint=f"did you mean '{close}'?" if close else None)
        return default

    def whole(self, key: str, minimum: int, maximum: int) -> int | None:
        """Return a whole number within bounds."""
        node = self.get(key)
        if node is None:
            return None
        text = node.value.strip() if isinstance(node, Text) else ""
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None
        if number is None or not minimum <= number <= maximum:
            self.wrong(key, node, f"a whole number from {minimum} to {maximum}")
            return None
        return number

    def number(self, key: str, minimum: float, maximum: float) -> float | None:
        """Return a number within bounds; never NaN or infinity."""
        node = self.get(key)
        if node is None:
            return None
        text = node.value.strip() if isinstance(node, Text) else ""
        try:
            number = float(text) if text.isascii() and "_" not in text else None
        except ValueError:
            number = None
        # NaN compares false with everything.
        if number is None or not minimum <= number <= maximum:
            self.wrong(key, node, f"a number from {minimum:g} to {maximum:g}")
            return None
        return number

    def amount(self, key: str, parse: Callable[[object], T]) -> T | None:
        """Return what a parser of `units` makes of the text."""
        node = self.get(key)
        if node is None:
            return None
        if not isinstance(node, Text):
            self.wrong(key, node, "an amount such as 200MB, 75% or 30m")
            return None
        try:
            return parse(node.value)
        except ValueError as error:
            self.findings.error(node.place, f"{self.path(key)}: {error}", code="bad_amount")
            return None

    def bytes(self, key: str) -> int | None:
        """Return an amount of bytes, at least one."""
        return self.amount(key, units.parse_bytes)

    def seconds(self, key: str, *, zero: bool = False) -> float | None:
        """Return a duration in seconds."""
        return self.amount(key, lambda text: units.parse_duration(text, zero=zero))

    def json(self, key: str) -> Any:
        """Return the JSON value, of any shape."""
        node = self.get(key)
        return None if node is None else value(node)

    def json_object(self, key: str) -> dict[str, Any] | None:
        """Return a JSON object."""
        node = self.get(key)
        if node is None:
            return None
        if not isinstance(node, Map):
            self.wrong(key, node, "a mapping")
            return None
        found = value(node)
        assert isinstance(found, dict)
        return found

    def section(self, key: str) -> Section | None:
        """Return the section below a key."""
        node = self.get(key)
        if node is None:
            return None
        if not isinstance(node, Map):
            self.wrong(key, node, "a mapping")
            return None
        return Section(node, self.path(key), self.findings)

    def items(self, key: str) -> tuple[Node, ...]:
        """Return the entries of a list."""
        node = self.get(key)
        if node is None:
            return ()
        if not isinstance(node, Seq):
            self.wrong(key, node, "a list")
            return ()
        return node.items

    def wrong(self, key: str, node: Node, wanted: str, *, hint: str | None = None) -> None:
        """Report that a key holds something else than is wanted."""
        found = shown(node.value) if isinstance(node, Text) and node.value else kind(node)
        place = node.place if isinstance(node, Text) else self.place(key)
        self.findings.error(place, f"{self.path(key)} must be {wanted}, not {found}", hint=hint)

    def rest(self, *, hints: Mapping[str, str] | None = None, others: bool = False) -> dict[str, Any]:
        """Return the entries nobody asked for. A key close to a known one is warned about; with `others` it is then no mistake to have more.

        `hints` are keys that are refused, with the reason.
        """
        unknown = {key: node for key, node in self.node.entries.items() if key not in self._asked}
        unasked: list[str] = []
        for key in unknown:
            # Comparing costs a millisecond; a file with thousands of unknown keys is not misspelt.
            close = nearest(key, self._asked) if len(unknown) <= MAX_COMPARED else None
            if hints and key in hints:
                self.findings.error(self.node.keys[key], f"{self.path(key)} cannot be set here", hint=hints[key], code="not_allowed")
            elif close and not key.startswith("x-"):
                self.findings.warning(
                    self.node.keys[key], f"unknown key '{self.path(key)}'", hint=f"did you mean '{close}'?", code="unknown_key"
                )
            elif not others:
                self.findings.note(self.node.keys[key], f"'{self.path(key)}' means nothing to toka and is ignored")
            else:
                unasked.append(key)
        if unasked:
            self.findings.note(self.node.keys[unasked[0]], f"sections kept as they are: {', '.join(unasked)}")
        return {key: value(node) for key, node in unknown.items()} if others else {}


def as_text(node: Node, path: str, findings: Findings) -> str | None:
    """Return a scalar's text as written, or report what it is instead."""
    if not isinstance(node, Text):
        findings.error(node.place, f"{path} must be text, not {kind(node)}")
        return None
    if looks_typed(node):
        findings.note(node.place, f"{path}: {shown(node.value)}, read as text")
    return node.value


def as_texts(node: Node, path: str, findings: Findings) -> tuple[str, ...]:
    """Return a list of texts; a single text is a list of one."""
    if isinstance(node, Text):
        findings.note(node.place, f"{path}: one value, read as a list")
        return (node.value,)
    if isinstance(node, Map):
        findings.error(node.place, f"{path} must be a list of text, not a mapping")
        return ()
    found: list[str] = []
    for index, item in enumerate(node.items):
        if isinstance(item, Text) and item.plain and not item.value:
            findings.error(item.place, f"{path}[{index}] is empty")
            continue
        text = as_text(item, f"{path}[{index}]", findings)
        if text is not None:
            found.append(text)
    return tuple(found)
