"""Tools known by their description: they can be judged and offered like any other, and are run only where they themselves are."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from toka_cli.errors import Bug
from toka_cli.tools import catalog
from toka_cli.tools.catalog import CATALOG, ToolCatalog, add, info_of
from toka_cli.tools.plugins import Offered, add_described, described
from toka_cli.tools.tool import Arguments, Tool


class Shout(Arguments, frozen=True):
    text: str
    loud: bool = False


async def run(arguments: Shout, context: Any) -> dict[str, str]:
    return {"text": arguments.text.upper()}


def seen(arguments: Shout, context: Any) -> bool:
    return True


@pytest.fixture
def shout() -> Tool:
    return Tool("shout", "Shouts.", Shout, dict[str, str], "filesystem-write", "verify", "cell", read_only=False, run=run, verify=seen, calls_per_minute=3)


@pytest.fixture(autouse=True)
def as_it_was() -> Any:
    """The catalog of this program, which other tests look at."""
    before = dict(CATALOG)
    yield
    catalog._TOOLS.clear()
    catalog._TOOLS.update(before)


def test_a_description_says_all_that_the_tool_says(shout: Tool) -> None:
    sent = msgspec.json.decode(msgspec.json.encode(Offered((info_of(shout),))))
    add_described(sent["tools"])
    known = ToolCatalog().find("shout")
    assert info_of(known) == info_of(shout)
    assert known.input_schema()["required"] == ["text"]
    assert "shout" in ToolCatalog().names()
    # Twice is once.
    add_described([info_of(shout)])
    with pytest.raises(Bug):
        asyncio.run(known.run(Shout("x"), None))
    assert known.verify is not None
    with pytest.raises(Bug):
        known.verify(Shout("x"), None)  # type: ignore[arg-type]


def test_no_package_takes_the_name_of_a_tool_of_tokas(shout: Tool) -> None:
    mine = CATALOG["read_file"]
    with pytest.raises(ValueError, match="there already is a tool read_file"):
        add_described([msgspec.structs.replace(info_of(shout), name="read_file")])
    with pytest.raises(ValueError, match="read_file"):
        add([mine])
    assert CATALOG["read_file"] is mine


def test_where_nothing_is_offered_nothing_is_described() -> None:
    offered = described()
    assert all(info.name not in catalog.SHIPPED for info in offered.tools)
