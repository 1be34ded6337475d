from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from toka_cli.errors import NotFound
from toka_cli.tools.catalog import CATALOG, ToolCatalog

OF_THE_KERNEL = {
    "git_commit": ("git-access", "keyed", "kernel", False),
    "git_diff": ("git-access", "pure", "kernel", True),
    "git_status": ("git-access", "pure", "kernel", True),
    "http_fetch": ("network-access", "effect", "kernel", False),
    "memory_consolidate": (None, "keyed", "kernel", False),
    "memory_retrieve": (None, "pure", "kernel", True),
    "memory_search": (None, "pure", "kernel", True),
    "memory_store": (None, "keyed", "kernel", False),
}
ALIASES = {f"cortex_{name}": f"memory_{name}" for name in ("consolidate", "retrieve", "search", "store")}

PLUGINS = """
from toka_cli.tools.tool import Arguments, Tool

class Nothing(Arguments, frozen=True):
    pass

async def run(arguments, context):
    return 42

def tool(name, result=int):
    return Tool(name, "From elsewhere.", Nothing, result, None, "pure", "cell", True, run)

good = tool("answer")
several = [tool("first"), tool("second")]
twice = [tool("third"), tool("third")]
taken = tool("read_file")
unfit = tool("unfit", result=object)
"""

POINTS = """[toka.tools]
good = offered_tools:good
several = offered_tools:several
twice = offered_tools:twice
taken = offered_tools:taken
unfit = offered_tools:unfit
nothing = offered_tools:__name__
absent = no_such_module_anywhere:tool
leaving = leaving_tools:tool
"""


def test_names_grants_and_effects_are_what_they_are() -> None:
    catalog = ToolCatalog()
    assert catalog.names() == tuple(sorted(CATALOG)) == tuple(CATALOG)
    told = {info.name: (info.power, info.effect, info.where, info.read_only) for info in catalog.describe()}
    assert told == {
        "ask": (None, "pure", "cell", False),
        "edit_file": ("filesystem-write", "effect", "cell", False),
        "finish": (None, "pure", "cell", False),
        "glob": ("filesystem-read", "pure", "cell", True),
        "grep": ("filesystem-read", "pure", "cell", True),
        "list_dir": ("filesystem-read", "pure", "cell", True),
        "read_file": ("filesystem-read", "pure", "cell", True),
        "report_metric": (None, "pure", "cell", True),
        "report_progress": (None, "pure", "cell", True),
        "run_code": ("script-execution", "effect", "cell", False),
        "run_command": ("script-execution", "effect", "cell", False),
        "write_file": ("filesystem-write", "verify", "cell", False),
        **OF_THE_KERNEL,
        **{alias: OF_THE_KERNEL[name] for alias, name in ALIASES.items()},
    }
    assert {info.name: info.alias_of for info in catalog.describe() if info.alias_of} == ALIASES
    assert all(info.description for info in catalog.describe())
    msgspec.json.encode(catalog.describe())


def test_how_often_a_tool_may_be_called_is_told() -> None:
    told = {info.name: info.calls_per_minute for info in ToolCatalog().describe()}
    assert told["http_fetch"] == 60
    assert told["read_file"] is None


def test_a_tool_is_found_or_its_neighbours_are_named() -> None:
    assert ToolCatalog().find("read_file") is CATALOG["read_file"]
    with pytest.raises(NotFound) as caught:
        ToolCatalog().find("raed_file")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("did you mean read_file")
    assert caught.value.code == "no_such_tool"
    with pytest.raises(NotFound) as caught:
        ToolCatalog().find("\udcff" * 500)
    caught.value.message.encode()


def test_tools_of_other_packages_are_added_and_broken_ones_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "offered_tools.py").write_text(PLUGINS)
    (tmp_path / "leaving_tools.py").write_text("raise SystemExit(3)\n")
    info = tmp_path / "offered-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        catalog = ToolCatalog().with_plugins()
    finally:
        sys.modules.pop("offered_tools", None)
    assert set(catalog.names()) == {*CATALOG, "answer", "first", "second"}
    assert catalog.find("read_file") is CATALOG["read_file"]
    assert {one.name for one in catalog.broken} == {"twice", "taken", "unfit", "nothing", "absent", "leaving"}
    reasons = {one.name: one.reason for one in catalog.broken}
    assert reasons["taken"] == "ValueError: there already is a tool read_file"
    assert reasons["leaving"] == "SystemExit: 3"
    assert "no_such_module_anywhere" in reasons["absent"]
    with pytest.raises(NotFound) as caught:
        catalog.find("unfit")
    assert caught.value.hint is not None
    assert "the plugin unfit could not be loaded" in caught.value.hint
    assert ToolCatalog().names() == tuple(CATALOG)


HEAVY = {"pydantic", "anyio", "yaml", "sqlite3", "psutil", "typer", "rich", "asyncio", "litellm", "mcp"}
HEAVY |= {"importlib.metadata", "subprocess", "socket", "logging"}


def test_the_room_is_light() -> None:
    code = f"import sys, toka_cli.tools.catalog; print([name for name in {sorted(HEAVY)!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(Path(__file__).parents[2])}
    )
    assert done.stdout.strip() == "[]"
    loaded = (
        "import sys, toka_cli.tools.catalog; print(sorted({name.split('.')[1] for name in sys.modules if name.startswith('toka_cli.')}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(Path(__file__).parents[2])}
    )
    assert set(eval(done.stdout)) <= {"tools", "protocol", "errors", "events", "facts", "units", "retry", "ids"}
