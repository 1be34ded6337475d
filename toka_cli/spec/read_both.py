"""Reads the sections that an agent and an orchestration file have in common (grants, limits, model, MCP servers), and orchestration files."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from toka_cli import units
from toka_cli.spec.findings import Findings, shown
from toka_cli.spec.model import SERVER_PATTERN, Budget, Grant, LlmChoice, McpServer, Orchestration, ResourceLimits
from toka_cli.spec.section import Section, as_texts
from toka_cli.spec.tree import Map, Node, Text, is_null

M = TypeVar("M", bound=BaseModel)

_SERVER: Final = re.compile(SERVER_PATTERN, re.ASCII)
MAX_GRANTS: Final = 200
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}", re.ASCII)
_NOT_HERE: Final = "an address or a key comes from your own settings or environment, never from a spec"
_PROVIDER_KEYS: Final = dict.fromkeys(("base_url", "api_base", "api_key", "api_keys", "key", "headers"), _NOT_HERE)
_LIMIT_ALIASES: Final = {"max_disk": "max_disk_usage", "memory": "max_memory", "cpu": "max_cpu", "max_timeout": "timeout"}


def built(model: type[M], findings: Findings, place: tuple[int, int], **fields: Any) -> M | None:
    """Return a model, or None with its complaints reported: a second lock behind the reader's own checks."""
    try:
        return model(**fields)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            findings.error(place, f"{model.__name__}.{'.'.join(map(str, problem['loc']))}: {problem['msg']}")
        return None


def read_limits(parent: Section, key: str) -> ResourceLimits:
    """Return the limits of a section: `resource_limits` of an agent, `limits` of an orchestration file."""
    section = parent.section(key)
    if section is None:
        return ResourceLimits()
    for old, new in _LIMIT_ALIASES.items():
        if old in section.node.entries and new not in section.node.entries:
            parent.findings.note(section.node.keys[old], f"{section.path(old)}, read as {section.path(new)}")
            section.node = section.node.renamed(old, new)
    found = ResourceLimits(
        memory_bytes=section.bytes("max_memory"),
        cpu_share=section.amount("max_cpu", units.parse_share),
        timeout_s=section.seconds("timeout"),
        max_open_files=section.whole("max_open_files", 16, 1_048_576),
        max_processes=section.whole("max_processes", 1, 1_000_000),
        output_bytes=section.bytes("max_output"),
        disk_bytes=section.bytes("max_disk_usage"),
        max_tool_calls=section.whole("max_tool_calls", 0, 10**9),
        task_timeout_s=section.seconds("task_timeout"),
        max_tokens=section.whole("max_tokens", 1, 10**15),
        max_cost_usd=section.number("max_cost_usd", 0, 1e9),
    )
    # A limit that nobody reads is a wish; a misspelt one gets a did-you-mean, any other is at least a warning.
    for name in section.rest(others=True):
        parent.findings.warning(section.node.keys[name], f"'{section.path(name)}' is not a limit and holds nothing", code="unknown_limit")
    return found


def read_grants(section: Section, key: str) -> tuple[Grant, ...]:
    """Return a list of grants, each once: those that an agent asks for, or those that a run allows."""
    found: dict[str, tuple[str, ...]] = {}
    for index, node in enumerate(section.items(key)):
        path = f"{section.path(key)}[{index}]"
        values: tuple[str, ...] = ()
        if isinstance(node, Text) and not is_null(node):
            name = node.value
        elif isinstance(node, Map):
            ((name, below),) = node.entries.items()
            if not is_null(below):
                values = as_texts(below, f"{path}.{name}", section.findings)
            if not values:
                section.findings.error(
                    node.place,
                    f"{path}: '{name}' is narrowed to nothing",
                    hint=f"list what it is for, or write '- {name}' alone",
                    code="bad_grant",
                )
                continue
        else:
            section.findings.error(node.place, f"{path} must be a name or {{name: [values]}}", code="bad_grant")
            continue
        if not name.strip() or len(name) > 200:
            section.findings.error(node.place, f"{path}: {shown(name)} cannot be a grant", code="bad_grant")
        elif name not in found:
            found[name] = values
        elif found[name] == values:
            section.findings.note(node.place, f"{path}: '{name}' is listed twice")
        elif not values or not found[name]:
            # Whoever wrote a narrow form meant it; silently widening it would grant more than was read.
            section.findings.error(node.place, f"{path}: '{name}' is listed once with values and once without", code="bad_grant")
        else:
            found[name] = tuple(dict.fromkeys(found[name] + values))
    if len(found) > MAX_GRANTS:
        section.findings.error(section.place(key), f"{section.path(key)} lists at most {MAX_GRANTS} grants", code="too_many")
    return tuple(Grant(name=name, values=values) for name, values in found.items())


def read_llm(top: Section) -> LlmChoice | None:
    """Return the choice of model."""
    section = top.section("llm")
    if section is None:
        return None
    found = LlmChoice(
        model=section.text("model"),
        fallbacks=section.texts("fallbacks"),
        temperature=section.number("temperature", 0, 2),
        max_output_tokens=section.whole("max_output_tokens", 1, 10_000_000),
    )
    section.rest(hints=_PROVIDER_KEYS)
    return found


def read_servers(top: Section) -> dict[str, McpServer]:
    """Return the MCP servers by name."""
    parent = top.section("mcp_servers")
    if parent is None:
        return {}
    found: dict[str, McpServer] = {}
    for name in parent.node.entries:
        place = parent.place(name)
        section = parent.section(name)
        if section is None:
            if is_null(parent.node.entries[name]):
                top.findings.error(place, f"mcp_servers.{name} needs a command or a url")
            continue
        if not _SERVER.fullmatch(name):
            top.findings.error(
                place, f"mcp_servers: {shown(name)} cannot name a server", hint="letters, digits, '_' and '-', at most 64", code="bad_name"
            )
        server = McpServer(command=section.text("command"), args=section.texts("args"), env=section.named("env"), url=section.text("url"))
        if (server.command is None) == (server.url is None):
            top.findings.error(place, f"mcp_servers.{name} needs a command or a url, one of them")
        if server.url is not None and not re.match(r"https?://[^\s/]", server.url):
            top.findings.error(section.place("url"), f"mcp_servers.{name}.url must begin with http:// or https://")
        for variable in server.env:
            if not _VARIABLE.fullmatch(variable):
                top.findings.error(
                    section.place("env"), f"mcp_servers.{name}.env: {shown(variable)} cannot name a variable", code="bad_name"
                )
        section.rest()
        found[name] = server
    return found


def read_orchestration(root: Map, findings: Findings) -> tuple[Orchestration | None, tuple[Node, ...]]:
    """Return an orchestration file and what it lists under `agents`: texts (paths) and mappings (inline specs)."""
    errors = findings.errors
    top = Section(root, "", findings)
    name = top.text("name")
    top.get("description")
    listed: list[Node] = []
    names: list[str] = []
    for node in top.items("agents"):
        if isinstance(node, Map):
            listed.append(node)
            names.append(_inline_name(node))
        elif isinstance(node, Text) and node.value:
            listed.append(node)
            names.append(node.value)
        else:
            findings.error(node.place, "agents: an entry must be a path or a spec")
    if not listed:
        findings.error(top.place("agents"), "agents: an orchestration file lists at least one path or spec")
    most = top.get("max_agents")
    automatic = isinstance(most, Text) and most.value.lower() == "auto"
    budget = top.section("budget")
    fields: dict[str, Any] = {
        "path": findings.path,
        "agents": tuple(names),
        "name": name,
        "max_agents": None if automatic else top.whole("max_agents", 1, 10_000),
        "timeout_s": top.seconds("timeout"),
        "llm": read_llm(top) or LlmChoice(),
        "mcp_servers": read_servers(top),
        "limits": read_limits(top, "limits"),
        "workdir": top.text("workdir"),
        "on_failure": top.choice("on_failure", ("continue", "stop"), "continue"),
        # An empty list allows nothing; no list, whatever agents ask for.
        "allowed": None if top.get("capabilities_allowed") is None else read_grants(top, "capabilities_allowed"),
    }
    if budget is not None:
        fields["budget"] = Budget(usd=budget.number("usd", 0, 1e9), tokens=budget.whole("tokens", 1, 10**15))
        budget.rest()
    fields["extra"] = top.rest(others=True)
    if findings.errors > errors:
        return None, tuple(listed)
    return built(Orchestration, findings, root.place, **fields), tuple(listed)


def _inline_name(node: Map) -> str:
    metadata = node.entries.get("metadata")
    name = metadata.entries.get("name") if isinstance(metadata, Map) else None
    return name.value if isinstance(name, Text) else ""
