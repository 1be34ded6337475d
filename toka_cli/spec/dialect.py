"""Turns every shape that specs have in the wild into the documented one, tree to tree, and notes what it changed.

It judges nothing: a shape it does not know stays as it is and the reader refuses it. Pure; nodes are copied, never changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from toka_cli.spec.findings import Findings
from toka_cli.spec.tree import Map, Node, Place, Seq, Text, is_null

_LANGUAGES: Final = {"js": "javascript", "node": "javascript", "py": "python", "python3": "python", "sh": "shell", "bash": "shell"}


def agent(root: Map, findings: Findings) -> Map:
    """Return an agent's document in the documented shape."""
    root = _renamed(root, "mcpServers", "mcp_servers", findings)
    root = _each(root, "capabilities", lambda node: _under(node, Seq, "primary", "capabilities", findings))
    root = _each(root, "objectives", lambda node: _items(node, lambda item: _objective(item, findings)))
    root = _each(root, "tasks", lambda node: _tasks(node, findings))
    root = _each(root, "dependencies", lambda node: _dependencies(node, findings))
    root = _each(root, "security", lambda node: _security(node, findings))
    root = _each(root, "llm", lambda node: _under(node, Text, "model", "llm", findings))
    root = _each(root, "restart", lambda node: _under(node, Text, "policy", "restart", findings))
    root = _each(root, "workspace", lambda node: _under(node, Text, "mode", "workspace", findings))
    return _each(root, "reporting", lambda node: _reporting(node, findings))


def orchestration(root: Map, findings: Findings) -> Map:
    """Return an orchestration file's document in the documented shape; the agents in it are left to `agent`."""
    root = _renamed(root, "mcpServers", "mcp_servers", findings)
    root = _each(root, "capabilities_allowed", lambda node: _grants(node, findings, "capabilities_allowed"))
    return _each(root, "llm", lambda node: _under(node, Text, "model", "llm", findings))


def named_texts(node: Node, what: str, findings: Findings) -> Node:
    """Return {name: text} of a mapping, a list of one-key mappings, a list of {name, description} objects, a list of names, or nothing."""
    if is_null(node):
        return Map({}, {}, node.place)
    if isinstance(node, Text):
        node = Seq((node,), node.place)
    if isinstance(node, Map):
        return node
    entries: dict[str, Node] = {}
    keys: dict[str, Place] = {}
    shapes: set[str] = set()
    for item in node.items:
        for name, reason, place, shape in _names(item):
            if name in entries:
                findings.warning(place, f"{what}: '{name}' is listed twice", hint="remove one of them")
                continue
            entries[name], keys[name] = reason, place
            shapes.add(shape)
        if not _names(item):
            return node
    if shapes:
        findings.note(node.place, f"{what}: a list of {' and '.join(sorted(shapes))}, read as a mapping")
    return Map(entries, keys, node.place)


def _names(item: Node) -> list[tuple[str, Node, Place, str]]:
    """Return (name, text, place, shape) of an entry of a list of names, or nothing when it is something else."""
    if isinstance(item, Text):
        return [(item.value, Text("", False, item.place), item.place, "names")] if item.value else []
    if not isinstance(item, Map) or not item.entries:
        return []
    name = item.entries.get("name")
    if isinstance(name, Text) and name.value and item.entries.keys() <= {"name", "description", "reason", "unit", "type"}:
        reason = item.entries.get("description") or item.entries.get("reason") or Text("", False, name.place)
        return [(name.value, reason, name.place, "objects with a name")]
    return [(key, reason, item.keys[key], "one-key mappings") for key, reason in item.entries.items()]


def check(node: Node, what: str, findings: Findings) -> Node:
    """Return {run: ...} of a command that stands alone."""
    if isinstance(node, Seq) or (isinstance(node, Text) and not is_null(node)):
        findings.note(node.place, f"{what}: a bare command, read as {{run: ...}}")
        return _wrapped("run", node)
    return node


def _objective(item: Node, findings: Findings) -> Node:
    if isinstance(item, Text) and not is_null(item):
        findings.note(item.place, "an objective that is only text, read as its description")
        return _wrapped("description", item)
    return item


def _tasks(node: Node, findings: Findings) -> Node:
    node = _under(node, Seq, "default", "tasks", findings)
    if not isinstance(node, Map):
        return node
    node = _each(node, "default", lambda below: _items(below, lambda item: _task(item, findings)))
    return _each(node, "conditional", lambda below: _conditional(below, findings))


def _conditional(node: Node, findings: Findings) -> Node:
    if isinstance(node, Seq) and all(isinstance(item, Map) and len(item.entries) == 1 for item in node.items):
        entries: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        for item in node.items:
            assert isinstance(item, Map)
            ((key, group),) = item.entries.items()
            if key in entries:
                findings.error(item.keys[key], f"the conditional group '{key}' is listed twice")
            entries[key], keys[key] = group, item.keys[key]
        findings.note(node.place, "tasks.conditional: a list of one-key mappings, read as a mapping")
        node = Map(entries, keys, node.place)
    if not isinstance(node, Map):
        return node
    groups = {key: _items(group, lambda item: _task(item, findings)) for key, group in node.entries.items()}
    return Map(groups, node.keys, node.place)


def _task(item: Node, findings: Findings) -> Node:
    if isinstance(item, Text) and not is_null(item):
        findings.note(item.place, "a task that is only text, read as its description")
        return _wrapped("description", item)
    if not isinstance(item, Map):
        return item
    item = _each(item, "retries", lambda node: _under(node, Text, "max", "retries", findings))
    item = _each(item, "verify", lambda node: check(node, "verify", findings))
    return _each(item, "code", lambda node: _code(node, findings))


def _code(node: Node, findings: Findings) -> Node:
    """Return {python: source} of {language: python, source: ...} and of other names of the languages."""
    if not isinstance(node, Map):
        return node
    language = node.entries.get("language")
    source = node.entries.get("source") or node.entries.get("code")
    if isinstance(language, Text) and source is not None and len(node.entries) == 2:
        name = language.value.lower()
        findings.note(node.place, f"code: {{language: {name}, ...}}, read as {{{_LANGUAGES.get(name, name)}: ...}}")
        return Map({_LANGUAGES.get(name, name): source}, {_LANGUAGES.get(name, name): language.place}, node.place)
    for old, new in _LANGUAGES.items():
        node = _renamed(node, old, new, findings)
    return node


def _dependencies(node: Node, findings: Findings) -> Node:
    node = _under(node, Seq, "required", "dependencies", findings)
    if not isinstance(node, Map):
        return node
    for part in ("required", "optional"):
        if part in node.entries:
            node = node.with_entry(part, named_texts(node.entries[part], f"dependencies.{part}", findings))
    return node


def _reporting(node: Node, findings: Findings) -> Node:
    return _each(node, "metrics", lambda below: named_texts(below, "reporting.metrics", findings)) if isinstance(node, Map) else node


def _security(node: Node, findings: Findings) -> Node:
    return _each(node, "capabilities_required", lambda below: _grants(below, findings, "capabilities_required")) if isinstance(node, Map) else node


def _grants(node: Node, findings: Findings, what: str) -> Node:
    """Return a list in which a grant is a text (short form) or a one-key mapping to a list (long form)."""
    if isinstance(node, Text) and not is_null(node):
        findings.note(node.place, f"{what}: one name, read as a list")
        return Seq((node,), node.place)
    if isinstance(node, Map):
        findings.note(node.place, f"{what}: a mapping, read as a list")
        node = Seq((node,), node.place)
    if not isinstance(node, Seq):
        return node
    items: list[Node] = []
    for item in node.items:
        if not isinstance(item, Map):
            items.append(item)
            continue
        for name, values in item.entries.items():
            if isinstance(values, Text) and not is_null(values):
                findings.note(values.place, f"{what}: one value for '{name}', read as a list")
                values = Seq((values,), values.place)
            items.append(Map({name: values}, {name: item.keys[name]}, item.keys[name]))
    return Seq(tuple(items), node.place)


def _each(root: Map, key: str, change: Callable[[Node], Node]) -> Map:
    """Return the mapping with the entry `key`, when there is one, changed."""
    if key not in root.entries:
        return root
    changed = change(root.entries[key])
    return root if changed is root.entries[key] else root.with_entry(key, changed)


def _items(node: Node, change: Callable[[Node], Node]) -> Node:
    """Return a list with every item changed; anything else as it is."""
    return Seq(tuple(change(item) for item in node.items), node.place) if isinstance(node, Seq) else node


def _wrapped(key: str, node: Node) -> Map:
    return Map({key: node}, {key: node.place}, node.place)


def _under(node: Node, shape: type[Text] | type[Seq], key: str, what: str, findings: Findings) -> Node:
    """Return {key: node} when the node has the short shape."""
    if not isinstance(node, shape) or is_null(node):
        return node
    findings.note(node.place, f"{what}: {'a list' if shape is Seq else 'a single value'}, read as {{{key}: ...}}")
    return _wrapped(key, node)


def _renamed(root: Map, old: str, new: str, findings: Findings) -> Map:
    """Return the mapping with a key under its documented name, unless both are there."""
    if old not in root.entries or new in root.entries:
        return root
    findings.note(root.keys[old], f"'{old}', read as '{new}'")
    return root.renamed(old, new)
