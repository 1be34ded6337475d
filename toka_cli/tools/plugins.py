"""Tools of other packages. Their code runs in cells, and in a program of its own that only describes them; the kernel knows them by that description.

In: what the entry point group `toka.tools` names. Out: descriptions, or tools in this program's catalog. A tool that is broken, would run in the kernel or
names a power that there is none of is left out, with the reason.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from toka_cli.errors import Bug
from toka_cli.tools.catalog import GROUP, SHIPPED, BrokenPlugin, ToolCatalog, ToolInfo, add, info_of
from toka_cli.tools.tool import Arguments, Tool

PLUGIN_TOOLS: Final = "plugin_tools"
"""The option of a plan under which the tools of other packages are described, for whoever goes on with the run."""


class Offered(msgspec.Struct, frozen=True):
    """What other packages offer, and what of it cannot be used."""

    tools: tuple[ToolInfo, ...] = ()
    broken: tuple[BrokenPlugin, ...] = ()


def installed() -> tuple[str, ...]:
    """The names of the entry points that installed packages have. Loads none of them."""
    # Late: it loads a dozen modules, which nobody else needs.
    from importlib.metadata import entry_points

    return tuple(sorted(point.name for point in entry_points(group=GROUP)))


def described() -> Offered:
    """Everything that is offered. Imports it: only for a program that holds nothing."""
    catalog = ToolCatalog().with_plugins()
    tools: list[ToolInfo] = []
    broken = list(catalog.broken)
    for name in catalog.names():
        if name in SHIPPED:
            continue
        tool = catalog.tools[name]
        if tool.where != "cell":
            broken.append(BrokenPlugin(name, "tools of other packages run in cells, and this one wants to run in the kernel"))
        else:
            tools.append(info_of(tool))
    return Offered(tuple(tools), tuple(broken))


def add_described(infos: Iterable[Any]) -> None:
    """Let this program know tools by their descriptions (ToolInfo, or the same as JSON data); it can judge and offer them, not run them."""
    add(_declared(msgspec.convert(info, ToolInfo) if isinstance(info, dict) else info) for info in infos)


def package_folders() -> tuple[str, ...]:
    """Where the packages of this program lie; not where it was started."""
    return tuple(path for path in sys.path if path.endswith(("/site-packages", "/dist-packages")))


def add_loaded(folders: Iterable[str]) -> tuple[BrokenPlugin, ...]:
    """Load the tools themselves into this program: a cell, which knows its own packages only. What could not be loaded is given back, and missing here."""
    sys.path += [folder for folder in folders if folder not in sys.path]
    catalog = ToolCatalog().with_plugins()
    add(tool for name, tool in catalog.tools.items() if name not in SHIPPED and tool.where == "cell")
    return catalog.broken


def _declared(info: ToolInfo) -> Tool:
    return Tool(
        name=info.name,
        description=info.description,
        arguments=Arguments,
        result=info.output_schema,
        power=info.power,
        effect=info.effect,  # type: ignore[arg-type]
        where=info.where,  # type: ignore[arg-type]
        read_only=info.read_only,
        run=_elsewhere,
        verify=_never if info.effect == "verify" else None,
        calls_per_task=info.calls_per_task,
        calls_per_minute=info.calls_per_minute,
        alias_of=info.alias_of,
        schemas=(info.input_schema, info.output_schema),
    )


async def _elsewhere(_arguments: Any, _context: Any) -> Any:
    raise Bug("a tool of another package was to be run where only its description is")


def _never(_arguments: Any, _context: Any) -> bool:
    raise Bug("a tool of another package was to be asked where only its description is")


if __name__ == "__main__":
    # What packages print while they are loaded is no description.
    out, sys.stdout = sys.stdout, sys.stderr
    out.buffer.write(msgspec.json.encode(described()))
