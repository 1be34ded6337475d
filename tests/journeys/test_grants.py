"""Grants at work in real cells: what one alone is enough for, and what is refused before it starts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from toka_cli.sandbox import probe

REACHED = probe.walls().level
GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@host.example", "-c", "init.defaultBranch=main"]

pytestmark = [
    pytest.mark.skipif(REACHED == "process", reason="this kernel has neither Landlock nor a filter of system calls"),
    pytest.mark.timeout(240),
]


@pytest.fixture(params=["full", "standard"])
def level(request: pytest.FixtureRequest) -> str:
    if request.param == "full" and REACHED != "full":
        pytest.skip("no user namespaces on this machine")
    return str(request.param)


def execute(toka: Any, line: str, level: str, *grants: str, workdir: Path | None = None, memory: str = "512MB") -> dict[str, Any]:
    words = [word for grant in grants for word in ("--grant", grant)]
    # Toolchains are found where the user has them, whose home it is.
    env = {"TOKA_PROCESS_WALLS": level, "HOME": os.environ.get("HOME", "/")}
    folder = workdir or toka.work
    done = toka("runtime", "exec", "--shell", line, "--memory", memory, "--timeout", "90s", "--workdir", folder, "-o", "json", *words, env=env)
    result = done.envelope["data"]["result"]
    assert isinstance(result, dict)
    return result


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@pytest.fixture
def worktree(toka: Any) -> Path:
    """A worktree whose repository lies outside of it."""
    needs("git")
    origin, tree = toka.root / "origin", toka.root / "tree"
    environment = {"PATH": os.environ["PATH"], "HOME": str(toka.root), "GIT_CONFIG_NOSYSTEM": "1"}
    origin.mkdir()
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"], ["worktree", "add", "-q", str(tree)]):
        subprocess.run([*GIT, *words], cwd=origin, env=environment, check=True, capture_output=True)
    (tree / "f").write_text("x")
    return Path(tree)


def test_git_access_reaches_the_real_repository_of_a_worktree(toka: Any, worktree: Path, level: str) -> None:
    line = "git add f && git commit -qm two && git log --format=%s && git status --short"
    result = execute(toka, line, level, "filesystem-read", "git-access", workdir=worktree)
    assert result["ok"], result["stderr"]
    assert result["output"].split() == ["two", "one"]
    assert result["isolation"]["level"] == level


def test_without_it_the_worktree_has_no_repository(toka: Any, worktree: Path, level: str) -> None:
    result = execute(toka, "git add f", level, "filesystem-write", workdir=worktree)
    assert not result["ok"]
    assert "    - git-access\n" in result["stderr"]


def test_cargo_execution_alone_builds_and_runs(toka: Any, level: str) -> None:
    needs("cargo")
    (toka.work / "src").mkdir()
    (toka.work / "Cargo.toml").write_text('[package]\nname = "x"\nversion = "0.1.0"\nedition = "2021"\n')
    (toka.work / "src" / "main.rs").write_text('fn main() { println!("built"); }\n')
    result = execute(toka, "cargo run -q && ! touch src/evil", level, "cargo-execution", memory="2GB")
    assert result["ok"], result["stderr"]
    assert result["output"] == "built\n"
    assert not (toka.work / "src" / "evil").exists()
    refused = execute(toka, "cargo build -q", level, "filesystem-write", memory="2GB")
    assert not refused["ok"]
    assert "    - cargo-execution\n" in refused["stderr"]


def test_a_narrowed_grant_opens_its_folder_and_makes_it(toka: Any, level: str) -> None:
    (toka.work / "src").mkdir()
    (toka.work / "src" / "a").write_text("a")
    result = execute(toka, "cat src/a > out/b && ! touch src/c && ! cat hidden", level, "filesystem-read=src/**", "filesystem-write=out/**")
    assert result["ok"], result["stderr"]
    assert (toka.work / "out" / "b").read_text() == "a"
    assert not (toka.work / "src" / "c").exists()


def test_a_pattern_that_no_wall_can_express_is_kept_by_the_kernel(toka: Any, level: str) -> None:
    (toka.work / "docs").mkdir()
    tasks = [
        {"id": "fits", "description": "Fits", "tool": "write_file", "args": {"path": "docs/a.md", "content": "x"}},
        {"id": "not", "description": "Does not", "tool": "write_file", "args": {"path": "docs/a.py", "content": "x"}, "allow_failure": True},
        {"id": "command", "description": "Nor do commands", "run": "echo x > docs/b.md", "allow_failure": True},
    ]
    path = toka.spec("a", tasks)
    path.write_text(path.read_text().replace('["script-execution"]', '[{"filesystem-write": ["docs/*.md"]}]'))
    (agent,) = toka.run(path, env={"TOKA_PROCESS_WALLS": level})["agents"]
    states = {task["id"]: (task["state"], task["reason"] or "") for task in agent["tasks"]}
    assert states["fits"][0] == "succeeded"
    assert states["not"][1].startswith("capability_denied: filesystem-write")
    assert states["command"][0] == "failed"
    assert [each.name for each in (toka.work / "docs").iterdir()] == ["a.md"]


def test_a_task_that_requires_less_is_held_to_that(toka: Any, level: str) -> None:
    tasks = [
        {"id": "read", "description": "R", "run": "cat a; touch b", "requires": ["filesystem-read"], "allow_failure": True},
        {"id": "write", "description": "W", "run": "touch c"},
    ]
    (toka.work / "a").write_text("a")
    spec = toka.spec("a", tasks, security={"capabilities_required": ["filesystem-write"]})
    (agent,) = toka.run(spec, env={"TOKA_PROCESS_WALLS": level})["agents"]
    read, write = agent["tasks"]
    assert (read["output"], read["state"], write["state"]) == ("a", "failed", "succeeded")
    assert sorted(each.name for each in toka.work.iterdir()) == ["a", "c"]


@pytest.mark.parametrize(
    ("argv", "grant"), [(["git", "status"], "git-access"), (["cargo", "build"], "cargo-execution"), (["pytest", "-q"], "script-execution")]
)
def test_a_program_of_a_power_is_refused_before_it_starts(toka: Any, argv: list[str], grant: str) -> None:
    spec = toka.spec("a", [{"id": "t", "description": "T", "run": argv}], security={"capabilities_required": ["filesystem-write"]})
    (agent,) = toka.run(spec, code=1)["agents"]
    (task,) = agent["tasks"]
    assert task["reason"] == f"capability_denied: {grant}: Capability not authorized: {grant} required for {argv[0]}"
    assert f"capabilities_required:\n    - {grant}" in task["stderr"]
    assert grant in toka("agent", "why", "a").expect(0).out


def test_why_names_the_grant_that_the_walls_missed(toka: Any) -> None:
    spec = toka.spec("a", [{"id": "t", "description": "T", "run": "echo x > out"}], security={"capabilities_required": ["filesystem-read"]})
    toka.run(spec, code=1)
    why = toka("agent", "why", "a").expect(0).out
    assert "needs filesystem-write, which is not granted" in why
    assert "trying again or another way does not help" in why
