"""Builds the tree of one document from the events of a parser, counting as it goes; aliases share nodes and are never expanded.

Merge keys (`<<`) are expanded within the same count. Duplicate keys, keys that are not text, foreign tags and NUL become problems and
building goes on; what would grow without bound raises InvalidSpecs at once (see `guard.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from toka_cli.spec.findings import Findings, shown
from toka_cli.spec.guard import Meter, refusal
from toka_cli.spec.tree import Map, Node, Place, Seq, Text

_YAML_TAG: Final = "tag:yaml.org,2002:"
_TAGS: Final = {
    "text": frozenset({"!", _YAML_TAG + "str"}),
    "scalar": frozenset({_YAML_TAG + name for name in ("int", "float", "bool", "null", "timestamp")}),
    "list": frozenset({"!", _YAML_TAG + "seq"}),
    "mapping": frozenset({"!", _YAML_TAG + "map"}),
}


@dataclass(slots=True)
class _Open:
    """A list or mapping that has not ended. `size` and `height` count what is below, aliases expanded."""

    is_map: bool
    place: Place
    anchor: str | None
    size: int = 1
    height: int = 1
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Place] = field(default_factory=dict)
    merges: list[tuple[Node, Place]] = field(default_factory=list)
    key: Node | None = None
    merging: bool = False


class Builder:
    """One document. Feed it events in their order; `root` is the tree when the document has ended."""

    def __init__(self, findings: Findings, meter: Meter) -> None:
        self.root: Node | None = None
        self._findings = findings
        self._meter = meter
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int, int] | None] = {}

    def scalar(self, text: str, place: Place, *, plain: bool, tag: str | None, anchor: str | None) -> None:
        """Take a scalar."""
        self._meter.add(1, place)
        if tag is not None:
            if tag in _TAGS["text"]:
                plain = False
            elif tag in _TAGS["scalar"]:
                plain = True
            else:
                self._refuse_tag(tag, place)
        if "\x00" in text:
            self._findings.error(place, "text cannot hold a NUL character", code="nul")
        elif not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            self._findings.error(
                place, "an escape makes half a character here (a lone surrogate)", hint='write the character itself, or "\\U0001F600"'
            )
            text = text.encode("utf-8", errors="replace").decode()
        node = Text(text, plain, place)
        if anchor is not None:
            self._anchors[anchor] = (node, 1, 0)
        self._take(node, 1, 0, plain_merge=plain and text == "<<")

    def begin(self, place: Place, *, is_map: bool, tag: str | None, anchor: str | None) -> None:
        """Take the beginning of a list or mapping."""
        self._meter.add(1, place)
        self._meter.descend(len(self._stack) + 1, place)
        if tag is not None and tag not in _TAGS["mapping" if is_map else "list"]:
            self._refuse_tag(tag, place)
        if anchor is not None:
            self._anchors[anchor] = None
        self._stack.append(_Open(is_map, place, anchor))

    def end(self) -> None:
        """Take the end of the innermost list or mapping."""
        done = self._stack.pop()
        node: Node
        if done.is_map:
            for merged, place in done.merges:
                self._merge(done, merged, place)
            node = Map(done.entries, done.keys, done.place)
        else:
            node = Seq(tuple(done.items), done.place)
        if done.anchor is not None:
            self._anchors[done.anchor] = (node, done.size, done.height)
        self._take(node, done.size, done.height)

    def alias(self, anchor: str, place: Place) -> None:
        """Take an alias; raises InvalidSpecs when it stands inside what it repeats, or when there is no such anchor."""
        if anchor not in self._anchors:
            raise refusal(self._findings.path, place, f"the alias *{anchor} has no anchor &{anchor} before it", code="alias")
        known = self._anchors[anchor]
        if known is None:
            raise refusal(self._findings.path, place, f"the alias *{anchor} stands inside what it repeats", code="alias")
        node, size, height = known
        self._meter.add(size, place)
        self._meter.descend(len(self._stack) + height, place)
        self._take(node, size, height, place=place)

    def _take(self, node: Node, size: int, height: int, *, place: Place | None = None, plain_merge: bool = False) -> None:
        """Put a finished node where it belongs."""
        if not self._stack:
            self.root = node
            return
        above = self._stack[-1]
        above.size += size
        above.height = max(above.height, height + 1)
        if not above.is_map:
            above.items.append(node)
        elif above.key is None and not above.merging:
            above.merging = plain_merge
            above.key = None if plain_merge else node
        elif above.merging:
            above.merging = False
            above.merges.append((node, place or node.place))
        else:
            key, above.key = above.key, None
            assert key is not None
            self._entry(above, key, node)

    def _entry(self, above: _Open, key: Node, node: Node) -> None:
        if not isinstance(key, Text):
            self._findings.error(key.place, "a key must be text, not a list or a mapping", code="bad_key")
        elif key.plain and not key.value:
            self._findings.error(key.place, "a key is missing before ':'", code="bad_key")
        elif key.value in above.entries:
            line, column = above.keys[key.value]
            self._findings.error(
                key.place,
                f"the key {shown(key.value)} is here twice (first at line {line}, column {column})",
                hint="remove one of them",
                code="duplicate_key",
            )
        else:
            above.entries[key.value] = node
            above.keys[key.value] = key.place

    def _merge(self, into: _Open, node: Node, place: Place) -> None:
        """Add the entries of a merge key that the mapping does not have itself."""
        sources = node.items if isinstance(node, Seq) else (node,)
        for source in sources:
            if not isinstance(source, Map):
                self._findings.error(place, "a merge key (<<) takes a mapping or a list of mappings", code="bad_key")
                return
            for key, below in source.entries.items():
                if key not in into.entries:
                    into.entries[key] = below
                    into.keys[key] = source.keys[key]
        self._findings.note(place, "a merge key (<<) was expanded")

    def _refuse_tag(self, tag: str, place: Place) -> None:
        name = "!!" + tag.removeprefix(_YAML_TAG) if tag.startswith(_YAML_TAG) else tag
        self._findings.error(
            place, f"the tag {shown(name)} is not read: a spec is text, numbers, lists and mappings", hint="remove the tag", code="tag"
        )
