"""The import rules of the house, held. Reads the source; starts fresh interpreters only for the rule about what is really loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "toka_cli"

# From the top down. A room may import rooms of lower levels and its own; rooms of one level do not know each other.
LEVELS: list[set[str]] = [
    {"__main__"},
    {"front"},
    {"app"},
    {"commands"},
    {"runtime"},
    {"cluster", "view"},
    {"orchestrator"},
    {"kernel", "supervisor"},
    {"agent", "llm", "mcp", "plan", "state"},
    {"policy"},
    {"tools"},
    {"protocol"},
    {"sandbox", "spec", "lifecycle"},
    {"events"},
    {"facts"},
    {"settings"},
    # How single values are read from files, variables and flags: below the settings, which say what there is to read.
    {"parsers"},
    {"ids", "paths", "retry", "units"},
    {"errors"},
]
# The renderers read plain data of these two; they reach nothing that runs.
EXCEPTIONS: dict[tuple[str, str], str] = {}

# Imports inside functions, allowed because they keep the start of quick commands quick, or because what they load is rarely needed.
LATE_IMPORTS: dict[str, str] = {
    "toka_cli/__main__.py": "the front answers simple command lines without loading the command line",
    "toka_cli/front.py": "each answer loads what it needs, which is next to nothing for --help",
    "toka_cli/paths.py": "platformdirs is loaded only where nobody named a folder",
    "toka_cli/state/glance.py": "json and sqlite3 are loaded only when there are runs to look at",
    "toka_cli/commands/": "a command loads what it needs when it runs, so that --help and agent list stay quick",
    "toka_cli/kernel/schemas.py": "jsonschema is loaded only for tasks with an output schema",
    "toka_cli/llm/keys.py": "keyring is an extra",
    "toka_cli/llm/worker.py": "litellm is loaded after the process protected itself and took its keys",
    "toka_cli/spec/": "jsonschema is loaded only for specs with an output schema",
    "toka_cli/tools/catalog.py": "importlib.metadata is loaded only where plugins are wanted",
    "toka_cli/tools/plugins.py": "importlib.metadata is loaded only where tools of other packages may be wanted",
    "toka_cli/tools/custom.py": "importlib.metadata is loaded only for specs with a custom task",
    "toka_cli/tools/custom_runner.py": "it runs in a process of its own, where asyncio is loaded only for tasks that wait",
    "toka_cli/view/": "Rich is loaded only where something live or coloured is shown",
}

OWNERS: dict[str, tuple[str, ...]] = {
    "litellm": ("llm/litellm.py",),
    "aiohttp": ("llm/litellm.py", "llm/transport.py"),
    "keyring": ("llm/keys.py",),
    "yaml": ("spec/load.py", "spec/syntax.py"),
    "sqlite3": ("state/",),
    "psutil": ("supervisor/resources.py",),
    "ctypes": ("sandbox/",),
    "platformdirs": ("paths.py",),
    "rich": ("view/", "commands/", "app.py"),
    "typer": ("view/", "commands/", "app.py"),
    "mcp": ("mcp/",),
}

PURE = ("policy/", "plan/", "lifecycle.py", "events.py", "facts.py", "retry.py", "units.py", "spec/model.py", "spec/dialect.py", "state/fold.py")
IMPURE_MODULES = {"os", "time", "socket", "subprocess", "sqlite3", "ctypes", "anyio", "threading", "asyncio"}

CELL_ROOMS = {"agent", "sandbox", "protocol"}
NOT_IN_CELL_ROOMS = {"kernel", "supervisor", "orchestrator", "state", "plan", "policy", "spec", "llm", "mcp", "view", "commands", "app", "runtime", "settings"}
NOT_IN_CELL_PACKAGES = {"litellm", "typer", "rich", "yaml", "pydantic", "anyio", "sqlite3", "psutil", "jsonschema", "asyncio"}

MAX_FILE_LINES = 400
LONGER_FILES = {"events.py": (460, "one list of facts, which is read from top to bottom; nothing in it can be taken apart from the union at its end")}
"""Files that may be longer: how long, and why."""
MAX_FUNCTION_LINES = 70


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(module: str) -> str:
    """`toka_cli.plan.plan` -> `plan`; `toka_cli` itself -> ``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@cache
def imports_of(path: Path) -> list[tuple[str, bool, int]]:
    """(module, late, line) for every import of a file; `from x import y` counts as x.y where that is a module of ours."""
    tree = ast.parse(path.read_text("utf-8"))
    late = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(function)}
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in late, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                candidate = f"{node.module}.{alias.name}"
                found.append((candidate if is_module(candidate) else node.module, id(node) in late, node.lineno))
    return found


def is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return name.startswith("toka_cli") and (path.with_suffix(".py").exists() or (path / "__init__.py").exists())


def module_of(path: Path) -> str:
    parts = ("toka_cli", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def level_of(room: str) -> int:
    for number, rooms in enumerate(LEVELS):
        if room in rooms:
            return number
    raise AssertionError(f"the room {room!r} has no place in LEVELS: place it, from the top down")


def reached(modules: set[str], *, late: bool = True) -> set[str]:
    """Everything of ours that these modules import, directly or not."""
    by_name = {module_of(path): path for path in sources()}
    seen: set[str] = set()
    queue = [name for name in modules if name in by_name]
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        queue += [other for other, is_late, _ in imports_of(by_name[name]) if other in by_name and (late or not is_late)]
    return seen


def modules_in(room: str) -> set[str]:
    return {module_of(path) for path in sources() if room_of(module_of(path)) == room}


def violations() -> Iterator[str]:
    for path in sources():
        room = room_of(module_of(path))
        if not room:
            continue
        for module, _, line in imports_of(path):
            if not module.startswith("toka_cli"):
                continue
            other = room_of(module)
            if other in {"", room} or (room, other) in EXCEPTIONS:
                continue
            if level_of(other) <= level_of(room):
                yield f"{relative(path)}:{line}: {room} may not import {other}"


def test_imports_go_one_way_down() -> None:
    assert list(violations()) == []


def test_every_room_has_a_place_and_a_docstring() -> None:
    for path in sources():
        room = room_of(module_of(path))
        if room:
            level_of(room)
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), f"{relative(path)} has no docstring"


def test_init_files_hold_a_docstring_only() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        body = ast.parse(path.read_text("utf-8")).body
        allowed = 2 if path.parent == PACKAGE else 1
        assert len(body) <= allowed, f"{relative(path)} holds code"


def test_the_cell_reaches_no_broker_room_and_nothing_heavy() -> None:
    own = set().union(*(modules_in(room) for room in CELL_ROOMS if room != "protocol"))
    cell = reached(own | {"toka_cli.protocol.frames", "toka_cli.protocol.messages", "toka_cli.protocol.methods"})
    rooms = {room_of(name) for name in cell}
    assert rooms & NOT_IN_CELL_ROOMS == set()
    by_name = {module_of(path): path for path in sources()}
    packages = {module.split(".")[0] for name in cell for module, _, _ in imports_of(by_name[name])}
    assert packages & NOT_IN_CELL_PACKAGES == set()


def test_the_first_program_never_imports_the_second() -> None:
    top = reached({"toka_cli.app", "toka_cli.runtime", "toka_cli.__main__"})
    assert {name for name in top if room_of(name) == "agent" or name == "toka_cli.sandbox.enter"} == set()


def test_watching_never_touches_running() -> None:
    view = reached(modules_in("view"))
    # The text of a plan is the one thing of the plan room that the view shows: its data, not its making.
    allowed = {"toka_cli.plan", "toka_cli.plan.plan"}
    forbidden = {name for name in view if room_of(name) in {"orchestrator", "kernel", "supervisor", "llm", "plan"}} - allowed
    assert forbidden == set()


def test_the_orchestrator_knows_backends_only_by_protocol() -> None:
    reachable = reached(modules_in("orchestrator"))
    assert {name for name in reachable if room_of(name) in {"supervisor", "cluster"}} == set()


@pytest.mark.parametrize("package", sorted(OWNERS))
def test_outside_things_have_one_owner(package: str) -> None:
    users = {relative(path) for path in sources() if any(module.split(".")[0] == package for module, _, _ in imports_of(path))}
    assert {user for user in users if not user.startswith(OWNERS[package])} == set()


def test_deciding_touches_nothing() -> None:
    bad = [
        f"{relative(path)}:{line}: {module}"
        for path in sources()
        if relative(path).startswith(PURE)
        for module, _, line in imports_of(path)
        if module.split(".")[0] in IMPURE_MODULES
    ]
    assert bad == []


def test_late_imports_are_listed_with_a_reason() -> None:
    late = {path.relative_to(ROOT).as_posix() for path in sources() if any(is_late for _, is_late, _ in imports_of(path))}
    assert {path for path in late if not path.startswith(tuple(LATE_IMPORTS))} == set()


def test_no_circles() -> None:
    by_name = {module_of(path): path for path in sources()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name in done:
            return
        for other, late, _ in imports_of(by_name[name]):
            if not late and other in by_name and other != name:
                visit(other, (*way, name))
        done.add(name)

    for name in by_name:
        visit(name, ())
    assert done == set(by_name)


def test_files_and_functions_stay_small() -> None:
    too_large = []
    for path in sources():
        text = path.read_text("utf-8")
        most, _ = LONGER_FILES.get(relative(path), (MAX_FILE_LINES, ""))
        if text.count("\n") > most:
            too_large.append(f"{relative(path)}: {text.count(chr(10))} lines")
        too_large += [
            f"{relative(path)}:{node.lineno}: {node.name} has {(node.end_lineno or 0) - node.lineno} lines"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno > MAX_FUNCTION_LINES
        ]
    assert too_large == []


FORBIDDEN_WORDS = ("job", "worker", "workflow", "engine", "helper", "util", "utils", "common", "shared")


def test_names_use_the_words_of_the_house() -> None:
    names = []
    for path in sources():
        parts = [path.stem, *path.parent.name.split("/")]
        named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        parts += [node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, named)]
        for name in parts:
            words = name.strip("_").lower().split("_")
            names += [f"{relative(path)}: {name}" for word in words if word in FORBIDDEN_WORDS]
    # The provider process is called a worker in the design of its room.
    assert [name for name in names if not name.startswith("llm/worker.py")] == []


LOADED = """
import sys
from toka_cli.app import main
sys.argv = ["toka", *{arguments!r}]
try:
    main({arguments!r})
finally:
    sys.stderr.write("LOADED " + " ".join(sorted(sys.modules)))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["agent", "list"], ["run", "list", "-o", "json"]])
def test_quick_commands_load_little(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(arguments=arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "TOKA_STATE_DIR": str(tmp_path), "HOME": str(tmp_path)},
        check=False,
    )
    loaded = done.stderr.partition("LOADED ")[2].split()
    assert "toka_cli.app" in loaded
    heavy = {"litellm", "mcp", "pydantic", "yaml", "psutil", "asyncio", "anyio", "rich", "jsonschema", "toka_cli.agent", "toka_cli.runtime"}
    assert heavy & set(loaded) == set()
