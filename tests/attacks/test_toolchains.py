"""Real toolchains inside real walls: each works with exactly its grant, and without it is refused in words that name the grant."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.conftest import Machine
from tests.attacks.test_attempts import machine_at, needs_walls


@dataclass(frozen=True)
class Tool:
    """A toolchain at work: what lies in the workspace, what is run there, which grants it takes, and which of them is named when it is missing."""

    program: str
    command: str
    grants: tuple[str, ...]
    missing: str
    files: dict[str, str]
    prepare: Callable[[Path], None] | None = None
    proof: str | None = None


def _repository(workspace: Path) -> None:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    for command in (["git", "init", "-q", "."], ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(command, cwd=workspace, check=True, env=environment)


def _worktree(workspace: Path) -> None:
    _repository(workspace)
    subprocess.run(["git", "worktree", "add", "-q", "-b", "feature", "tree"], cwd=workspace, check=True)


def _wheel(workspace: Path) -> None:
    """A wheel made by hand: one module and its metadata."""
    with zipfile.ZipFile(workspace / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "ANSWER = 42\n")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "tiny.py,,\ntiny-1.0.dist-info/METADATA,,\ntiny-1.0.dist-info/WHEEL,,\ntiny-1.0.dist-info/RECORD,,\n")


_COMMIT = "echo x > new && git add new && git -c user.name=a -c user.email=a@b.c commit -q -m second && git log --oneline | wc -l | grep -x 2"

TOOLS = {
    "pytest": Tool(
        "pytest", "\"$TOKA_PYTHON\" -m pytest -q -p no:cacheprovider test_small.py", ("script-execution",), "filesystem-read",
        {"small.py": "def double(n):\n    return 2 * n\n", "test_small.py": "from small import double\n\ndef test_double(tmp_path):\n    (tmp_path / 'x').write_text('x')\n    assert double(2) == 4\n"},
    ),
    "git": Tool("git", _COMMIT, ("filesystem-write", "git-access"), "git-access", {}, _repository),
    "git worktree": Tool("git", f"cd tree && {_COMMIT}", ("filesystem-write", "git-access"), "git-access", {}, _worktree),
    "node": Tool("node", "node main.js && grep -x 42 out", ("filesystem-write",), "filesystem-write", {"main.js": "require('fs').writeFileSync('out', String(6 * 7))\n"}),
    "npm": Tool(
        "npm", "npm test", ("script-execution",), "script-execution",
        {"package.json": '{"name": "small", "version": "1.0.0", "scripts": {"test": "node --test"}}', "small.test.js": "require('node:test').test('adds', () => require('node:assert').equal(1 + 1, 2))\n"},
    ),
    "pip": Tool(
        "pip", "\"$TOKA_PYTHON\" -m pip install -q --no-index --target lib ./tiny-1.0-py3-none-any.whl && PYTHONPATH=lib \"$TOKA_PYTHON\" -c 'import tiny; print(tiny.ANSWER)'",
        ("filesystem-write",), "filesystem-write", {}, _wheel,
    ),
    "sqlite": Tool(
        "python", "\"$TOKA_PYTHON\" -c \"import sqlite3; c = sqlite3.connect('d.db'); c.execute('pragma journal_mode=wal'); c.execute('create table t (n)'); "
        "c.execute('insert into t values (42)'); c.commit(); print(c.execute('select n from t').fetchone())\"",
        ("filesystem-write",), "filesystem-write", {},
    ),
    "make": Tool("make", "make -s && ./built", ("script-execution",), "script-execution", {"Makefile": "all:\n\tprintf '#!/bin/sh\\necho built\\n' > built; chmod +x built\n"}),
    "gcc": Tool("gcc", "gcc -o prog main.c && ./prog", ("script-execution",), "script-execution", {"main.c": "int main(void) { return 0; }\n"}),
    "cargo": Tool(
        "cargo", "cargo test --offline -q", ("filesystem-write", "cargo-execution"), "cargo-execution",
        {"Cargo.toml": '[package]\nname = "small"\nversion = "0.1.0"\nedition = "2021"\n', "src/lib.rs": "#[test]\nfn adds() { assert_eq!(1 + 1, 2); }\n"},
    ),
    "shell": Tool("bash", "bash -c 'diff <(echo a) <(echo a) && tar cf a.tar readme && tar tf a.tar'", ("filesystem-write",), "filesystem-write", {"readme": "x"}),
    "asyncio": Tool(
        "python", "\"$TOKA_PYTHON\" -c \"import asyncio; print(asyncio.run(asyncio.wait_for(asyncio.sleep(0, 42), 5)))\"", (), "", {},
    ),
}  # fmt: skip


def _reachable(machine: Machine, name: str) -> bool:
    """True if that user has that tool at all, outside any sandbox."""
    tool = TOOLS[name]
    identity: dict[str, Any] = {"user": machine.user.uid, "group": machine.user.uid, "extra_groups": []} if os.geteuid() != machine.user.uid else {}
    check = {"pytest": [machine.user.python, "-c", "import pytest"], "pip": [machine.user.python, "-m", "pip", "--version"]}.get(name, [tool.program, "--version"])
    if tool.program == "python":
        check = [machine.user.python, "--version"]
    environment = {"PATH": machine.user.environment["PATH"], "HOME": str(machine.base / "outside" / "home")}
    try:
        return subprocess.run(check, capture_output=True, check=False, env=environment, cwd="/", timeout=60, **identity).returncode == 0
    except OSError:
        return False


def _fresh(machine: Machine, tool: Tool) -> Path:
    workspace = machine.base / "tools"
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir()
    for name, text in tool.files.items():
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text(text)
    if tool.prepare is not None:
        tool.prepare(workspace)
    for path in (workspace, *workspace.rglob("*")):
        os.chown(path, machine.user.uid, machine.user.uid, follow_symlinks=False)
    return workspace


def _exec(machine: Machine, tool: Tool, grants: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    workspace = _fresh(machine, tool)
    return machine.toka("runtime", "exec", "--workdir", str(workspace), "--timeout", "100s", "--shell", tool.command, *(f"--grant={name}" for name in grants))


# Each user once at full, and once at standard: toolchains are slow.
WORKS = (("root", "full"), ("ordinary", "full"), ("root", "standard"))
REFUSED = (("root", "full"), ("ordinary", "standard"))


@needs_walls
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("user", "level"), WORKS)
@pytest.mark.parametrize("name", sorted(TOOLS))
def test_works_with_its_grant(machines: Any, user: str, level: str, name: str) -> None:
    machine, tool = machine_at(machines, user, level), TOOLS[name]
    if not _reachable(machine, name):
        pytest.skip(f"{tool.program} is not there for this user")
    done = _exec(machine, tool, tool.grants)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@needs_walls
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("user", "level"), REFUSED)
@pytest.mark.parametrize("name", sorted(name for name, tool in TOOLS.items() if tool.grants))
def test_is_refused_without_its_grant_in_words_that_name_it(machines: Any, user: str, level: str, name: str) -> None:
    machine, tool = machine_at(machines, user, level), TOOLS[name]
    if not _reachable(machine, name):
        pytest.skip(f"{tool.program} is not there for this user")
    done = _exec(machine, tool, tuple(grant for grant in tool.grants if grant != tool.missing and len(tool.grants) > 1))
    assert done.returncode != 0, done.stdout
    # Without any grant the first thing that is missed is reading.
    named = (tool.missing, "filesystem-read") if len(tool.grants) == 1 else (tool.missing,)
    assert any(f"- {grant}" in done.stderr for grant in named), done.stderr[-3000:]
