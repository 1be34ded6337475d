"""The nine workstreams of agents/: they load, they do what they promise on a copy of this tree, and their checks find what is wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toka_cli.policy.capability import POWERS
from toka_cli.sandbox import probe
from toka_cli.spec.load import load_paths

ROOT = Path(__file__).parent.parent
NINE = {
    "build-system",
    "testing-infrastructure",
    "documentation",
    "ci",
    "kernel-events",
    "storage",
    "security",
    "performance-observability",
    "model-credentials",
}
TOP = ("agents", "completions", "tests", "toka_cli", ".ci", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", ".gitignore")
CACHES = shutil.ignore_patterns("__pycache__", "*.pyc", "*_cache")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of this tree, without a repository."""
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in TOP:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=CACHES)
        elif source.is_file():
            shutil.copy2(source, copy / name)
    return copy


def part(tree: Path, script: str, name: str) -> tuple[int, dict[str, Any], str]:
    """Run one part of a workstream: its exit status, its report, and what it wrote to stderr."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tree), "HOME": str(tree.parent), "TMPDIR": str(tree.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, f"agents/scripts/{script}.py", name], cwd=tree, env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    reports = list((tree / "reports" / script.replace("_", "-")).glob("*.json"))
    assert len(reports) == 1, done.stderr
    return done.returncode, json.loads(reports[0].read_text(encoding="utf-8")), done.stderr


# --- what they are -------------------------------------------------------------------------------------------------------------------


def test_they_are_nine_and_load_without_a_warning() -> None:
    loaded = load_paths([ROOT / "agents"], strict=True)
    assert loaded.problems == ()
    assert {agent.name for agent in loaded.agents} == NINE


@pytest.mark.parametrize("name", sorted(NINE))
def test_each_has_proof_a_place_for_its_report_and_one_prompt_behind_a_key(name: str) -> None:
    (agent,) = load_paths([ROOT / "agents" / f"{name}.yaml"]).agents
    spec = agent.spec
    assert any(objective.gate for objective in spec.objectives)
    promised = [glob for objective in spec.objectives for glob in objective.deliverable]
    assert promised
    assert all(glob.startswith(f"reports/{name}/") for glob in promised)
    prompts = [task for task in spec.tasks.every if task.kind == "prompt"]
    keyed = [task for task in prompts if task.when == "model" or task in spec.tasks.conditional.get("model", ())]
    assert len(prompts) == len(keyed) == 1
    assert spec.security.limits.memory_bytes is not None
    assert spec.security.limits.timeout_s is not None
    # None may change more than its own reports: what runs in the workspace comes from the system and from toka's own interpreter.
    granted = {grant.name: grant.values for grant in spec.security.grants}
    assert granted["filesystem-write"] == (f"reports/{name}/**",)
    assert set(granted) & {power.name for power in POWERS} <= {"filesystem-read", "filesystem-write", "git-access"}
    assert ("git-access" in granted) == (name == "build-system")
    needed = set(spec.dependencies.required) | set(spec.dependencies.optional)
    assert needed <= NINE
    assert bool(needed) == (name != "build-system")


def test_the_plan_begins_with_the_build_and_needs_no_model(toka: Any) -> None:
    plan = toka("orchestrate", "--plan", ROOT / "agents", "-o", "json").expect(0).envelope["data"]["plan"]
    assert plan["waves"][0] == ["build-system"]
    assert {name for wave in plan["waves"] for name in wave} == NINE


def test_with_the_key_model_they_ask_for_one_before_anything_starts(toka: Any) -> None:
    refused = toka("orchestrate", ROOT / "agents", "--when", "model").expect(6)
    assert "9 tasks" in refused.err
    assert toka.folders() == []


# --- what they do --------------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.skipif(importlib.util.find_spec("flit_core") is None, reason="flit_core is not installed (pip install -e '.[agents]')")
def test_all_nine_succeed_at_the_lower_level_and_leave_the_tree_as_it_was(toka: Any, tree: Path) -> None:
    """What the machine reaches at most is tried by README.md's first command, which `.ci/run` runs too."""
    if probe.walls().level == "process":
        pytest.skip("this machine has no walls")
    if not (tree / ".ci" / "run").is_file():
        pytest.skip("this tree came without .ci/, so it is no clone")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@host.example", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "All of it"]):
        subprocess.run([*git, *words], cwd=tree, env=toka.environment(), check=True, timeout=60)
    running = toka.start("orchestrate", "agents", "-o", "json", cwd=tree, env={"TOKA_PROCESS_WALLS": "standard"})
    out, err = running.process.communicate(timeout=380)
    run = json.loads(out)["data"]["run"]
    failures = {
        agent["name"]: [agent["reason"], *(task["stderr"] for task in agent["tasks"]), *(gate["output"] for gate in agent["gates"])]
        for agent in run["agents"]
        if agent["state"] != "succeeded"
    }
    assert failures == {}, err.decode()
    assert running.process.returncode == 0
    assert {agent["name"] for agent in run["agents"]} == NINE
    assert {task["state"] for agent in run["agents"] for task in agent["tasks"]} == {"succeeded"}
    assert all(gate["state"] == "succeeded" for agent in run["agents"] for gate in agent["gates"])
    assert {found["agent"] for found in run["deliverables"]} == NINE
    assert {agent["isolation"]["level"] for agent in run["agents"]} == {"standard"}
    status = subprocess.run([*git, "status", "--porcelain"], cwd=tree, env=toka.environment(), capture_output=True, text=True, timeout=60)
    assert (status.returncode, status.stdout) == (0, "")


# --- their checks can fail -----------------------------------------------------------------------------------------------------------


def test_without_a_repository_the_report_says_so(tree: Path) -> None:
    code, report, _ = part(tree, "security", "secrets")
    assert code == 0
    assert any("git does not list" in what for what in report["not_checked"])
    assert any("the wheel" in what for what in report["not_checked"])


def test_a_secret_is_found_and_not_repeated(tree: Path) -> None:
    secret = "ghp_" + "Zz19" * 9
    (tree / "toka_cli" / "notes.txt").write_text(f"first\ntoken = {secret}\n")
    code, report, err = part(tree, "security", "secrets")
    assert code == 1
    assert "toka_cli/notes.txt:2: GitHub token" in err
    assert secret not in err + json.dumps(report)
    assert stat.S_IMODE((tree / "reports/security/secrets.md").stat().st_mode) == 0o600


def test_a_broken_link_is_found(tree: Path) -> None:
    with (tree / "README.md").open("a") as file:
        file.write("\n[more](no/such/page.md)\n")
    code, _, err = part(tree, "documentation", "links")
    assert code == 1
    assert "no/such/page.md: no such file" in err


@pytest.mark.parametrize(("line", "said"), [("toka orchestrat x", "there is no command orchestrat"), ("toka run list --lively", "there is no option --lively")])
def test_a_command_that_does_not_exist_is_found(tree: Path, line: str, said: str) -> None:
    with (tree / "README.md").open("a") as file:
        file.write(f"\n```bash\n{line}\n```\n")
    code, _, err = part(tree, "documentation", "commands")
    assert code == 1
    assert said in err


def test_a_spec_in_the_text_that_does_not_load_is_found(tree: Path) -> None:
    with (tree / "README.md").open("a") as file:
        file.write("\n```yaml\nmetadata: {name: x}\ntasks:\n  default:\n    - {id: a, run: [ls], timeout: soon}\n```\n")
    code, _, err = part(tree, "documentation", "specs")
    assert code == 1
    assert "soon" in err


@pytest.mark.parametrize(("name", "path"), [("completions", "completions/toka.fish"), ("schema", "agents/spec.schema.json")])
def test_a_stale_file_is_found(tree: Path, name: str, path: str) -> None:
    with (tree / path).open("a") as file:
        file.write("\n")
    code, _, err = part(tree, "ci", name)
    assert code == 1
    assert f"{path} is current: make it again with" in err


def test_ci_that_leaves_out_a_command_is_found(tree: Path) -> None:
    (tree / ".ci").mkdir(exist_ok=True)
    script = tree / ".ci" / "run"
    script.write_text("#!/bin/sh\n# README.md\nrun_readme_command main-job\n")
    script.chmod(0o755)
    code, _, err = part(tree, "ci", "readme")
    assert code == 1
    assert "it runs ['main-job']" in err


def test_an_archive_of_the_source_has_no_ci_and_the_report_says_so(tree: Path) -> None:
    shutil.rmtree(tree / ".ci", ignore_errors=True)
    code, report, _ = part(tree, "ci", "readme")
    assert code == 0
    assert any(".ci/run" in what for what in report["not_checked"])


def test_a_version_that_the_changelog_does_not_know_is_found(tree: Path) -> None:
    path = tree / "toka_cli" / "__init__.py"
    path.write_text(path.read_text().replace('__version__ = "', '__version__ = "99.'))
    code, _, err = part(tree, "build_system", "versions")
    assert code == 1
    assert "the changelog's newest version is this one" in err


def test_contents_without_a_wheel_fail(tree: Path) -> None:
    code, _, err = part(tree, "build_system", "contents")
    assert code == 1
    assert "there is one wheel, of this version" in err


def test_a_stray_file_in_the_wheel_is_found(tree: Path) -> None:
    if importlib.util.find_spec("flit_core") is None:
        pytest.skip("flit_core is not installed (pip install -e '.[agents]')")
    cache = tree / "toka_cli" / ".mypy_cache"
    cache.mkdir()
    (cache / "a.json").write_text("{}")
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tree), "HOME": str(tree.parent), "TMPDIR": str(tree.parent)}
    subprocess.run([sys.executable, "agents/scripts/build_system.py", "wheel"], cwd=tree, env=env, check=True, capture_output=True, timeout=60)
    (tree / "reports/build-system/wheel.json").unlink()
    code, report, err = part(tree, "build_system", "contents")
    assert code == 1
    assert "nothing else is in it: toka_cli/.mypy_cache/a.json" in err
    assert [check["what"] for check in report["checks"] if check["problems"]] == ["nothing else is in it"]


def test_a_test_file_that_asserts_nothing_is_found(tree: Path) -> None:
    (tree / "tests" / "test_idle.py").write_text("def test_nothing():\n    print('fine')\n")
    code, _, err = part(tree, "testing_infrastructure", "assertions")
    assert code == 1
    assert "tests/test_idle.py never asserts" in err


def test_an_event_without_a_place_is_found(tree: Path) -> None:
    path = tree / "toka_cli" / "events.py"
    event = 'class RunNamed(Event, frozen=True, tag="run.named"):\n    """It has a name."""\n\n    name: str\n\n\nAnyEvent = Union['
    path.write_text(path.read_text().replace("AnyEvent = Union[", event, 1).replace("RunCreated, RunStarted", "RunNamed, RunCreated, RunStarted", 1))
    code, _, err = part(tree, "kernel_events", "places")
    assert code == 1
    assert "every event moves a state or is known not to: run.named" in err


def test_an_old_report_proves_nothing(tree: Path) -> None:
    assert part(tree, "documentation", "links")[0] == 0
    (tree / "README.md").write_text("[a](b.md)\n")
    assert part(tree, "documentation", "links")[0] == 1
