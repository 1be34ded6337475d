"""Reads the tasks of an agent: each with one target, an id, and an order that has no circle. Every problem goes to the findings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, get_args

from toka_cli.spec.findings import Findings, nearest, shown
from toka_cli.spec.model import TASK_ID_PATTERN, Check, Code, Priority, Retries, Tasks, TaskSpec, is_agent_name, is_task_id
from toka_cli.spec.section import Section, as_texts
from toka_cli.spec.tree import Map, Node, Place, Seq, Text, is_null, kind

TARGETS: Final = ("run", "code", "tool", "custom", "agent")
LANGUAGES: Final[tuple[str, ...]] = get_args(Code.model_fields["language"].annotation)
ID_ALLOWED: Final = "an id is a letter or digit, then up to 63 letters, digits, '_', '.' or '-'"
MAX_TASKS: Final = 1000
MAX_MISSING: Final = 50
MAX_SCHEMA_CHARS: Final = 64 * 1024
_KEY: Final = re.compile(TASK_ID_PATTERN, re.ASCII)


def read_tasks(top: Section) -> Tasks | None:
    """Return the tasks of a document in the documented shape."""
    section = top.section("tasks")
    if section is None:
        if is_null(top.node.entries.get("tasks")):
            top.findings.error(
                top.place("tasks"), "an agent needs tasks", hint="add: tasks: {default: [{description: ...}]}", code="no_tasks"
            )
        return None
    findings = top.findings
    reader = _Reader(findings)
    parallel = section.whole("parallel", 1, 64)
    default = reader.group(section.items("default"), "tasks.default", None)
    groups = section.section("conditional")
    conditional: dict[str, tuple[TaskSpec, ...]] = {}
    for key in groups.node.entries if groups else ():
        assert groups is not None
        if not _KEY.fullmatch(key):
            findings.error(
                groups.place(key), f"tasks.conditional: {shown(key)} cannot be a key for --when", hint=ID_ALLOWED, code="bad_name"
            )
        conditional[key] = reader.group(groups.items(key), f"tasks.conditional.{key}", key)
    section.rest()
    if reader.count > MAX_TASKS:
        findings.error(
            top.place("tasks"),
            f"an agent has at most {MAX_TASKS} tasks, not {reader.count}",
            hint="split it into several agents",
            code="too_many",
        )
    if not reader.count:
        findings.error(top.place("tasks"), "an agent needs tasks", hint="list at least one under tasks.default", code="no_tasks")
    tasks = Tasks(parallel=parallel or 1, default=default, conditional=conditional)
    _check_order(tasks, reader.places, findings)
    return tasks


def read_check(section: Section, key: str) -> Check | None:
    """Return the check {run, timeout} below a key."""
    below = section.section(key)
    if below is None:
        return None
    run, timeout = read_command(below, "run"), below.seconds("timeout")
    below.rest()
    if run is None:
        if is_null(below.node.entries.get("run")):
            section.findings.error(section.place(key), f"{section.path(key)}.run is missing")
        return None
    return Check(run=run, timeout_s=timeout)


def read_command(section: Section, key: str) -> tuple[str, ...] | str | None:
    """Return a command: a list of arguments, or a text for `sh -c`."""
    node = section.get(key)
    if node is None:
        return None
    if isinstance(node, Text):
        if node.value.strip():
            return node.value
        section.findings.error(node.place, f"{section.path(key)} is empty")
        return None
    if not isinstance(node, Seq):
        section.wrong(key, node, "a list of arguments, or text for the shell")
        return None
    run = as_texts(node, section.path(key), section.findings)
    if not run or not run[0]:
        section.findings.error(section.place(key), f"{section.path(key)} names no program")
        return None
    return run


class _Reader:
    """Reads the tasks of one agent in file order, counting them for the ids of those that have none."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.count = 0
        self.places: dict[str, Section] = {}

    def group(self, nodes: Iterable[Node], path: str, when: str | None) -> tuple[TaskSpec, ...]:
        found: list[TaskSpec] = []
        for index, node in enumerate(nodes):
            self.count += 1
            if not isinstance(node, Map):
                self.findings.error(node.place, f"{path}[{index}] must be a task, not {kind(node)}")
                continue
            if self.count > MAX_TASKS:
                continue
            task = self._task(Section(node, f"{path}[{index}]", self.findings), when)
            if task is not None:
                found.append(task)
        return tuple(found)

    def _id(self, section: Section) -> str | None:
        written = section.text("id")
        if written is not None and not is_task_id(written):
            self.findings.error(
                section.place("id"), f"{section.path('id')}: {shown(written)} cannot be an id", hint=ID_ALLOWED, code="bad_name"
            )
            return None
        identity = written or f"t{self.count}"
        first = self.places.setdefault(identity, section)
        if first is not section:
            line, column = first.place("id")
            self.findings.error(
                section.place("id"), f"the task id '{identity}' is used twice (first at line {line}, column {column})",
                hint="t1, t2... are given to tasks without an id, by their position", code="duplicate_id",
            )  # fmt: skip
            return None
        return identity

    def _task(self, section: Section, when: str | None) -> TaskSpec | None:
        errors = self.findings.errors
        identity = self._id(section)
        fields: dict[str, Any] = {
            "id": identity,
            "priority": Priority(section.choice("priority", tuple(Priority), Priority.MEDIUM)),
            "run": read_command(section, "run"),
            "code": _code(section),
            "tool": section.text("tool"),
            "custom": section.text("custom"),
            "args": section.json_object("args") or {},
            "agent": section.text("agent"),
            "input": section.json("input"),
            "timeout_s": section.seconds("timeout"),
            "retries": _retries(section),
            "depends_on": tuple(dict.fromkeys(section.texts("depends_on"))),
            "when": self._when(section, when),
            "output_schema": _output_schema(section),
            "verify": read_check(section, "verify"),
            "requires": section.texts("requires"),
            "allow_failure": section.flag("allow_failure", False),
            "on_interrupted": section.choice("on_interrupted", ("rerun", "fail", "ask"), "fail"),
        }
        described = section.text("description")
        targets = [key for key in TARGETS if not is_null(section.node.entries.get(key))]
        if len(targets) > 1:
            self.findings.error(
                section.place(targets[1]),
                f"{section.name} has two targets: {' and '.join(targets)}",
                hint="split it into two tasks",
                code="two_targets",
            )
        for key, takers in (("args", ("tool", "custom")), ("input", ("agent",))):
            if section.get(key) is not None and targets and not set(takers).intersection(targets):
                words = "' or '".join(takers)
                self.findings.warning(section.place(key), f"{section.path(key)} is only for a task with '{words}'")
        if fields["agent"] is not None and not is_agent_name(fields["agent"]):
            self.findings.error(
                section.place("agent"), f"{section.path('agent')}: {shown(fields['agent'])} cannot name an agent", code="bad_name"
            )
        for key in ("tool", "custom"):
            if fields[key] is not None and not fields[key].strip():
                self.findings.error(section.place(key), f"{section.path(key)} is empty")
        if not (described and described.strip()):
            if not targets:
                self.findings.error(section.node.place, f"{section.name} has neither a description nor something to run", code="no_target")
            elif identity is not None:
                described = identity if "id" in section.node.entries else _described(fields)
                self.findings.note(section.node.place, f"{section.name} has no description; shown as {shown(described)}")
        section.rest()
        if self.findings.errors > errors:
            return None
        return TaskSpec(description=described or "", **fields)

    def _when(self, section: Section, group: str | None) -> str | None:
        written = section.text("when")
        if group is not None and written not in {None, group}:
            self.findings.warning(section.place("when"), f"{section.path('when')} is not read: the task stands under '{group}'")
        elif written is not None and not _KEY.fullmatch(written):
            self.findings.error(
                section.place("when"), f"{section.path('when')}: {shown(written)} cannot be a key for --when", hint=ID_ALLOWED
            )
        return written if group is None else group


def _described(fields: dict[str, Any]) -> str:
    """Return a description of a task that was given none."""
    run = fields["run"]
    if run is not None:
        return (run if isinstance(run, str) else " ".join(run)).strip().split("\n")[0][:100]
    if fields["code"] is not None:
        return f"{fields['code'].language} code"
    return str(fields["tool"] or fields["custom"] or fields["agent"])


def _code(section: Section) -> Code | None:
    below = section.section("code")
    if below is None:
        return None
    sources = {language: below.text(language) for language in LANGUAGES}
    given = {language: source for language, source in sources.items() if source is not None}
    below.rest()
    if len(given) != 1:
        if not given and any(not is_null(below.node.entries.get(language)) for language in LANGUAGES):
            return None
        what = "names no language" if not given else "holds more than one language"
        section.findings.error(section.place("code"), f"{section.path('code')} {what}", hint="one of " + ", ".join(LANGUAGES))
        return None
    ((language, source),) = given.items()
    if not source.strip():
        section.findings.error(below.place(language), f"{below.path(language)} is empty")
        return None
    return Code.model_validate({"language": language, "source": source})


def _retries(section: Section) -> Retries:
    below = section.section("retries")
    if below is None:
        return Retries()
    fields = {"max": below.whole("max", 0, 100), "delay_s": below.seconds("delay", zero=True), "backoff": below.number("backoff", 1, 10)}
    below.rest()
    return Retries.model_validate({key: item for key, item in fields.items() if item is not None})


def _output_schema(section: Section) -> dict[str, Any] | None:
    schema = section.json_object("output_schema")
    if schema is None:
        return None
    if len(str(schema)) > MAX_SCHEMA_CHARS:
        section.findings.error(section.place("output_schema"), f"{section.path('output_schema')} is larger than 64 KB", code="too_large")
        return None
    # Only specs that carry a schema pay for this import (60 ms).
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        below = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)
        place = _below(section.node.entries["output_schema"], list(error.absolute_path), section.place("output_schema"))
        section.findings.error(
            place, f"{section.path('output_schema')}{below} is not JSON Schema (2020-12): {error.message[:200]}", code="bad_schema"
        )
        return None
    return schema


def _below(node: Node, steps: list[str | int], place: Place) -> Place:
    """Return the place of what `steps` lead to."""
    for step in steps:
        if isinstance(node, Map) and isinstance(step, str) and step in node.entries:
            place, node = node.keys[step], node.entries[step]
        elif isinstance(node, Seq) and isinstance(step, int):
            node = node.items[step]
            place = node.place
    return place


def _check_order(tasks: Tasks, sections: dict[str, Section], findings: Findings) -> None:
    """Report dependencies on tasks that do not exist, and circles with their whole path."""
    graph: dict[str, tuple[str, ...]] = {}
    missing = 0
    for task in tasks.every:
        section = sections[task.id]
        graph[task.id] = tuple(other for other in task.depends_on if other in sections)
        for other in task.depends_on if len(graph[task.id]) < len(task.depends_on) else ():
            if other in sections or missing >= MAX_MISSING:
                continue
            missing += 1
            close = nearest(other, sections, cutoff=0.6) if len(sections) <= 200 else None
            findings.error(
                _dependency_place(section, other),
                f"{section.path('depends_on')}: there is no task {shown(other)}",
                hint=f"did you mean '{close}'?" if close else f"tasks: {', '.join(list(sections)[:20])}",
                code="unknown_task",
            )
    circle = find_circle(graph)
    if circle:
        section = sections[circle[0]]
        findings.error(
            _dependency_place(section, circle[1]),
            f"tasks wait for each other: {' -> '.join(circle)}",
            hint="remove one of these depends_on",
            code="cycle",
        )


def _dependency_place(section: Section, other: str) -> Place:
    node = section.node.entries.get("depends_on")
    if isinstance(node, Seq):
        return next((item.place for item in node.items if isinstance(item, Text) and item.value == other), section.place("depends_on"))
    return node.place if node is not None else section.place("depends_on")


def find_circle(graph: dict[str, tuple[str, ...]]) -> list[str] | None:
    """Return a circle as a path that ends where it began, the one reached first in the order given, or None. Not recursive."""
    done: set[str] = set()
    for start, first in graph.items():
        if start in done:
            continue
        path: list[str] = [start]
        on_path = {start}
        stack = [iter(first)]
        while stack:
            following = next(stack[-1], None)
            if following is None:
                stack.pop()
                finished = path.pop()
                on_path.discard(finished)
                done.add(finished)
            elif following in on_path:
                return [*path[path.index(following) :], following]
            elif following not in done and following in graph:
                path.append(following)
                on_path.add(following)
                stack.append(iter(graph[following]))
    return None
