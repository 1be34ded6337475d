"""What a session asks of the policy: tasks, tools, programs, and whether it was the sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from toka_cli.events import Outcome
from toka_cli.kernel.permits import Permits
from toka_cli.plan.plan import PlannedAgent
from toka_cli.protocol.messages import Check, Limits, TaskBrief, Walls
from toka_cli.tools.catalog import ToolCatalog

CATALOG = ToolCatalog()


def permits(workdir: Path, walls: Walls | None = None, **values: tuple[str, ...]) -> Permits:
    powers = {name.replace("_", "-"): found for name, found in values.items()}
    planned = PlannedAgent(
        name="a", title="a", workstream="a", domain=None, priority="medium", branch=None, depends_on=(), after=(), rank=0, tasks=(), parallel=1,
        grants=tuple(powers), grant_values=powers, declared=("report-generation",), limits=Limits(), enforcement={}, sandbox=True, gates=(), promises=(),
        metrics=(), conditional={}, restart="never", restart_attempts=0, restart_delay_s=0.0, spec_path="a.yaml", spec_digest="0",
    )  # fmt: skip
    return Permits(planned, str(workdir), walls)


def task(**more: Any) -> TaskBrief:
    return TaskBrief(id="t", description="t", kind=more.pop("kind", "command"), **more)


@pytest.mark.parametrize(
    ("brief", "missing"),
    [
        (task(run=("git", "status")), "git-access"),
        (task(run=("cargo", "build")), "cargo-execution"),
        (task(run=("pytest",)), "script-execution"),
        (task(run=("ls",), verify=Check(run=("pytest",))), "script-execution"),
        (task(run=("ls",), requires=("git-access",)), "git-access"),
        (task(run=("ls",)), None),
        (task(run="git status"), None),
        (task(kind="code", language="python", source="x"), None),
        (task(run=("ls",), requires=("report-generation",)), None),
    ],
)
def test_a_task_starts_only_with_the_power_of_its_programs(tmp_path: Path, brief: TaskBrief, missing: str | None) -> None:
    denial = permits(tmp_path, filesystem_read=()).start(brief)
    assert (denial.capability if denial else None) == missing
    if denial is not None and brief.run != ("ls",):
        assert denial.message == f"Capability not authorized: {missing} required for {brief.run[0]}"
        assert f"    - {missing}" in denial.hint


def test_a_task_that_says_what_it_requires_has_no_more(tmp_path: Path) -> None:
    holder = permits(tmp_path, filesystem_write=(), git_access=(), script_execution=())
    assert holder.start(task(run=("git", "log"), requires=("git-access",))) is None
    denial = holder.start(task(run=("pytest",), requires=("git-access",)))
    assert denial is not None
    assert denial.capability == "script-execution"
    write = CATALOG.find("write_file")
    arguments = {"path": "x", "content": "y"}
    assert holder.call(task(kind="prompt"), write, arguments) is None
    assert holder.call(task(kind="prompt", requires=("filesystem-read",)), write, arguments) is not None
    assert holder.call(task(kind="prompt", requires=("filesystem-write",)), write, arguments) is None


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ({"argv": ["ls"]}, None),
        ({"argv": ["git", "status"]}, "git-access"),
        ({"argv": ["cargo", "test"]}, "cargo-execution"),
        ({"shell": "git status"}, None),
        ({"argv": "ls"}, None),
        ({"argv": [3]}, None),
        ({}, None),
    ],
)
def test_programs_of_run_command(tmp_path: Path, arguments: dict[str, Any], missing: str | None) -> None:
    denial = permits(tmp_path, script_execution=()).call(task(kind="prompt"), CATALOG.find("run_command"), arguments)
    assert (denial.capability if denial else None) == missing


def test_run_command_where_scripts_are_narrowed_to_programs(tmp_path: Path) -> None:
    holder = permits(tmp_path, script_execution=("pytest",))
    run = CATALOG.find("run_command")
    assert holder.call(task(kind="prompt"), run, {"argv": ["pytest", "-q"]}) is None
    for tool, arguments in ((run, {"argv": ["ls"]}), (run, {"shell": "pytest"}), (CATALOG.find("run_code"), {"language": "python", "code": "1"})):
        denial = holder.call(task(kind="prompt"), tool, arguments)
        assert denial is not None
        assert "granted for pytest" in denial.message


def test_paths_are_judged_where_they_really_lead(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "link").symlink_to("src")
    (tmp_path / "src" / "out").symlink_to("..")
    holder = permits(tmp_path, filesystem_write=("src/**",))
    write = CATALOG.find("write_file")
    for path, allowed in (("src/a", True), ("link/a", True), ("a", False), ("src/../a", False), ("src/out/a", False)):
        assert (holder.call(task(kind="prompt"), write, {"path": path, "content": ""}) is None) == allowed, path


def test_the_walls_are_named_when_it_was_them(tmp_path: Path) -> None:
    walls = Walls(level="full", read=(str(tmp_path),))
    holder = permits(tmp_path, walls, filesystem_read=())
    failed = Outcome(exit_code=1, stderr="sh: 1: cannot create out: Permission denied\n")
    hint = holder.explained(task(run="x"), failed)
    assert hint is not None
    assert hint.endswith("trying again or another way does not help")
    assert "- filesystem-write" in hint
    assert permits(tmp_path, None, filesystem_read=()).explained(task(run="x"), failed) is None
    own = task(run="x", walls=Walls(level="full", write=(str(tmp_path),)))
    assert holder.explained(own, failed) is None
    assert holder.explained(task(run="x"), msgspec.structs.replace(failed, stderr="boom")) is None
