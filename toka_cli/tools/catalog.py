"""ToolCatalog: every tool by its name. In: the tools that ship with toka, and those of other packages when asked for. Out: a tool, or names that are near.

Other packages offer tools by the entry point group `toka.tools`: a Tool or an iterable of them. One that is broken is named and left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import msgspec

from toka_cli.errors import NotFound
from toka_cli.tools import command, ending, files, git, glob, grep, memory, report, web
from toka_cli.tools.tool import Tool, nearest_hint, shown

GROUP: Final = "toka.tools"

_SHIPPED: Final = (files, glob, grep, command, report, ending, git, memory, web)

_TOOLS: Final = {tool.name: tool for tool in sorted((tool for module in _SHIPPED for tool in module.TOOLS), key=lambda tool: tool.name)}
SHIPPED: Final = frozenset(_TOOLS)
"""The names of the tools that ship with toka."""

CATALOG: Final[Mapping[str, Tool]] = MappingProxyType(_TOOLS)
"""The tools of this program: those that ship with toka, and those of other packages that were added (`plugins.py`), once, before anybody asked."""


class ToolInfo(msgspec.Struct, frozen=True):
    """What a tool is, for people and models."""

    name: str
    description: str
    power: str | None
    effect: str
    where: str
    read_only: bool
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    calls_per_task: int | None = None
    calls_per_minute: int | None = None
    alias_of: str | None = None


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """An entry point that gave no tool, and why."""

    name: str
    reason: str


def add(tools: Iterable[Tool]) -> None:
    """Add tools of other packages to this program's. Raises ValueError for a name that belongs to toka; one that was added before is replaced."""
    for tool in tools:
        if tool.name in SHIPPED:
            raise ValueError(f"there already is a tool {tool.name}")
        _TOOLS[tool.name] = tool


@dataclass(frozen=True, slots=True)
class ToolCatalog:
    """Tools by name, and the plugins that could not be loaded. Without arguments: the tools of this program."""

    tools: Mapping[str, Tool] = field(default_factory=lambda: CATALOG)
    broken: tuple[BrokenPlugin, ...] = ()

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self.tools))

    def find(self, name: str) -> Tool:
        """The tool of this name. Raises NotFound with the names that are near."""
        tool = self.tools.get(name)
        if tool is not None:
            return tool
        hint = nearest_hint(name, self.names()) or "`toka runtime tools` lists them all"
        reasons = [f"the plugin {one.name} could not be loaded: {one.reason}" for one in self.broken]
        raise NotFound(f"there is no tool {shown(name[:200])}", hint="; ".join([hint, *reasons]), code="no_such_tool")

    def describe(self) -> list[ToolInfo]:
        """Every tool with its schemas, sorted by name."""
        return [info_of(self.tools[name]) for name in self.names()]

    def with_plugins(self) -> ToolCatalog:
        """This catalog and the tools of other packages. Imports them: their code runs in this program, so only where that is wanted."""
        # Late: it loads a dozen modules, which a cell without plugins does not need.
        from importlib.metadata import entry_points

        tools = dict(self.tools)
        broken = list(self.broken)
        for point in sorted(entry_points(group=GROUP), key=lambda one: (one.name, one.value)):
            try:
                offered = _checked(point.load(), tools)
            # Somebody else's code: whatever it raises must not take the other tools away.
            except (Exception, SystemExit) as error:  # noqa: BLE001
                broken.append(BrokenPlugin(point.name, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__))
                continue
            tools.update(offered)
        return ToolCatalog(MappingProxyType(tools), tuple(broken))


def _checked(value: object, known: Mapping[str, Tool]) -> dict[str, Tool]:
    """The tools that an entry point gives. Raises TypeError when it gives something else or no schema can be made, ValueError for a name that is taken."""
    offered = [value] if isinstance(value, Tool) else list(value) if isinstance(value, Iterable) else []
    if not offered or not all(isinstance(tool, Tool) for tool in offered):
        raise TypeError(f"expected a Tool or several, got {type(value).__name__}")
    tools: dict[str, Tool] = {}
    for tool in offered:
        if tool.name in known or tool.name in tools:
            raise ValueError(f"there already is a tool {tool.name}")
        info_of(tool)
        tools[tool.name] = tool
    return tools


def info_of(tool: Tool) -> ToolInfo:
    """A tool as data."""
    return ToolInfo(
        name=tool.name,
        description=tool.description,
        power=tool.power,
        effect=tool.effect,
        where=tool.where,
        read_only=tool.read_only,
        input_schema=tool.input_schema(),
        output_schema=tool.output_schema(),
        calls_per_task=tool.calls_per_task,
        calls_per_minute=tool.calls_per_minute,
        alias_of=tool.alias_of,
    )
