"""Text for what an agent may do: each line of its spec compiled three ways, and the walls as they are put up.

The plan's JSON data comes in, lines that fit the width go out, cleaned. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from toka_cli.view.wrap import wrapped

EVERYBODY: Final = "every agent: reads and runs the system, has a home and temporary folder of its own, and reaches no network"
_WALLS: Final = (
    ("read", "read"),
    ("execute", "read and run"),
    ("write", "read and write"),
    ("write_execute", "read, write and run"),
    ("protect", "never write"),
    ("sockets", "connect to"),
)


def permission_lines(permissions: Sequence[Mapping[str, Any]], width: int, *, indent: int = 0) -> list[str]:
    """Return each grant with the line of the spec that it came from, the tools it offers, what the kernel lets through and what the walls do."""
    lead = " " * indent
    lines: list[str] = []
    for each in permissions:
        means = f" = {each['power']}" if each["power"] != each["grant"] else ""
        narrowed = f" [{', '.join(each['values'])}]" if each["values"] else ""
        lines += wrapped(f"{each['grant']}{means}{narrowed} ({each['where']})", width, f"{lead}grant ", f"{lead}    ")
        for label, text in _forms(each):
            lines += wrapped(text, width, f"{lead}  {label}: ", f"{lead}      ")
    return lines


def wall_lines(walls: Mapping[str, Any] | None, hosts: Sequence[str], width: int) -> list[str]:
    """Return the walls with all their paths, with the hosts that the proxy lets through; without walls, that there are none."""
    if walls is None:
        return ["no walls: this agent can read and write whatever its user can, and reach the network"]
    lines = wrapped(f"{walls['level']}; network: {_network(walls['network'], hosts)}", width, "level ", "  ")
    for field, words in _WALLS:
        if walls[field]:
            lines += wrapped(", ".join(walls[field]), width, f"  {words} ", "      ")
    return lines


def _forms(permission: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for label, field in (("tools", "tools"), ("kernel", "kernel"), ("walls", "walls")):
        if permission[field]:
            yield label, (", " if field == "tools" else "; ").join(permission[field])
    if permission.get("held_back"):
        yield "less", permission["held_back"]


def _network(network: str, hosts: Sequence[str]) -> str:
    if network == "proxy":
        return f"toka's proxy, to {', '.join(hosts)}"
    return {"none": "none", "loopback": "a private loopback"}.get(network, network)
