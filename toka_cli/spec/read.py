"""Reads one agent's document, already in the documented shape, into an AgentSpec; every problem goes to the findings.

Pure: nodes in, models out. The tasks are read by `read_tasks.py`.
"""

from __future__ import annotations

from typing import Any, Final

from toka_cli.spec.findings import Findings, shown
from toka_cli.spec.model import (
    AgentSpec,
    Dependencies,
    Description,
    LlmChoice,
    Metadata,
    Objective,
    Priority,
    Reporting,
    Restart,
    Security,
    Skills,
    Tasks,
    Workspace,
    is_agent_name,
    is_branch,
)
from toka_cli.spec.read_both import built, read_grants, read_limits, read_llm, read_servers
from toka_cli.spec.read_tasks import read_check, read_tasks
from toka_cli.spec.section import Section
from toka_cli.spec.tree import Map, Text, is_null

NAME_ALLOWED: Final = "a name is a letter or digit, then up to 99 letters, digits, '.', '_' or '-'"
PRIORITIES: Final = tuple(Priority)


def read_agent(root: Map, findings: Findings) -> AgentSpec | None:
    """Return the agent of a document in the documented shape (see `dialect.agent`), or None when the findings hold an error of it."""
    errors = findings.errors
    top = Section(root, "", findings)
    metadata = _metadata(top)
    workspace = _workspace(top)
    if metadata and metadata.branch is not None and not is_branch(metadata.branch):
        report = findings.error if workspace.mode == "worktree" else findings.warning
        place = root.place
        section = root.entries.get("metadata")
        if isinstance(section, Map) and "branch" in section.entries:
            place = section.entries["branch"].place
        report(place, f"metadata.branch: {shown(metadata.branch)} is not a git branch name", code="bad_name")
    fields: dict[str, Any] = {
        "metadata": metadata,
        "spec": _description(top),
        "capabilities": _skills(top),
        "objectives": _objectives(top),
        "tasks": read_tasks(top) or Tasks(),
        "dependencies": _dependencies(top, metadata.name if metadata else None),
        "security": _security(top),
        "llm": read_llm(top) or LlmChoice(),
        "mcp_servers": read_servers(top),
        "restart": _restart(top),
        "workspace": workspace,
        "reporting": _reporting(top),
        "behavioral_directives": top.json("behavioral_directives"),
        "risk_mitigation": top.json("risk_mitigation"),
        "success_criteria": top.json("success_criteria"),
    }
    fields["extra"] = top.rest(others=True)
    if metadata is None or findings.errors > errors:
        return None
    return built(AgentSpec, findings, root.place, **fields)


def _metadata(top: Section) -> Metadata | None:
    section = top.section("metadata")
    if section is None:
        if "metadata" not in top.node.entries or is_null(top.node.entries["metadata"]):
            top.findings.error(top.node.place, "metadata.name is missing", hint="begin with: metadata: {name: my-agent}", code="no_name")
        return None
    fields = {key: section.text(key) for key in ("name", "version", "created", "workstream", "branch")}
    section.rest()
    name = fields.pop("name")
    if name is None:
        if is_null(section.node.entries.get("name")):
            section.findings.error(top.place("metadata"), "metadata.name is missing", hint="add: name: my-agent", code="no_name")
        return None
    if not is_agent_name(name):
        section.findings.error(
            section.node.entries["name"].place, f"metadata.name: {shown(name)} cannot name an agent", hint=NAME_ALLOWED, code="bad_name"
        )
        return None
    return Metadata(name=name, **fields)


def _description(top: Section) -> Description:
    section = top.section("spec")
    if section is None:
        return Description()
    found = Description(
        name=section.text("name"),
        domain=section.text("domain"),
        priority=Priority(section.choice("priority", PRIORITIES, Priority.MEDIUM)),
        description=section.text("description"),
    )
    section.rest()
    return found


def _skills(top: Section) -> Skills:
    section = top.section("capabilities")
    if section is None:
        return Skills()
    found = Skills(primary=section.texts("primary"), secondary=section.texts("secondary"))
    section.rest()
    return found


def _objectives(top: Section) -> tuple[Objective, ...]:
    found: list[Objective] = []
    for index, node in enumerate(top.items("objectives")):
        path = f"objectives[{index}]"
        if not isinstance(node, Map):
            top.findings.error(node.place, f"{path} must be a mapping or text")
            continue
        section = Section(node, path, top.findings)
        description = section.text("description")
        if not description:
            top.findings.error(node.place, f"{path}.description is missing")
            description = ""
        validation = section.get("validation")
        free = isinstance(validation, Text)
        gate = None if free or validation is None else read_check(section, "validation")
        text = section.text("validation") if free else None
        found.append(Objective(description=description, deliverable=section.texts("deliverable", one=True), validation=text, gate=gate))
        section.rest()
    return tuple(found)


def _dependencies(top: Section, name: str | None) -> Dependencies:
    section = top.section("dependencies")
    if section is None:
        return Dependencies()
    parts = {part: section.named(part) for part in ("required", "optional")}
    section.rest()
    for part, named in parts.items():
        node = section.node.entries.get(part)
        for other in named:
            place = node.keys[other] if isinstance(node, Map) else section.place(part)
            if not is_agent_name(other):
                top.findings.error(place, f"dependencies.{part}: {shown(other)} cannot name an agent", hint=NAME_ALLOWED, code="bad_name")
            elif other == name:
                top.findings.error(place, f"dependencies.{part}: '{name}' depends on itself", code="cycle")
            elif part == "optional" and other in parts["required"]:
                top.findings.warning(
                    place, f"'{other}' is a required and an optional dependency", hint="it counts as required: remove this line"
                )
    return Dependencies(**parts)


def _security(top: Section) -> Security:
    section = top.section("security")
    if section is None:
        return Security()
    found = Security(
        sandbox=section.flag("sandbox", True),
        grants=read_grants(section, "capabilities_required"),
        limits=read_limits(section, "resource_limits"),
    )
    section.rest()
    return found


def _restart(top: Section) -> Restart:
    section = top.section("restart")
    if section is None:
        return Restart()
    policy = section.choice("policy", ("never", "on-failure", "always"), "on-failure")
    attempts, delay = section.whole("max_attempts", 0, 100), section.seconds("delay", zero=True)
    section.rest()
    fields = {"policy": policy, "max_attempts": attempts, "delay_s": delay}
    return Restart.model_validate({key: item for key, item in fields.items() if item is not None})


def _workspace(top: Section) -> Workspace:
    section = top.section("workspace")
    if section is None:
        return Workspace()
    mode = section.choice("mode", ("shared", "worktree", "copy"), "shared")
    section.rest()
    return Workspace.model_validate({"mode": mode})


def _reporting(top: Section) -> Reporting:
    section = top.section("reporting")
    if section is None:
        return Reporting()
    found = Reporting(frequency=section.text("frequency"), channels=section.texts("channels"), metrics=section.named("metrics"))
    section.rest()
    return found
