"""Tasks of other packages, in processes of their own: how they are found, what they are given, how they end. Packages are folders with real metadata."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toka_cli.tools.custom import FINAL_EXIT, installed, source_of

MODULE = '''
import asyncio, dataclasses, datetime, os, sys

class Count:
    description = "Count lines"
    estimated_duration = datetime.timedelta(seconds=90)

    def __init__(self, path, minimum=0):
        self.path, self.minimum = path, minimum

    def task_id(self):
        return "counting"

    def execute(self, context):
        print("noise on stdout")
        os.write(1, b"raw noise\\n")
        lines = (context.workdir / self.path).read_text().count("\\n")
        if lines < self.minimum:
            raise ValueError(f"only {lines} lines")
        return {"lines": lines, "agent": context.agent, "task": context.task, "run": context.run_id}

class Waiting:
    async def execute(self):
        await asyncio.sleep(0)
        return "waited"

class Final:
    is_retryable = False
    def execute(self):
        raise RuntimeError("never again")

class Silent:
    """Says nothing and gives nothing."""
    def execute(self, context=None):
        assert context is None

class NotJson:
    def execute(self):
        return {object()}

class NoNumber:
    def execute(self):
        return float("nan")

class Nothing:
    pass

def leaves():
    class Task:
        def execute(self):
            sys.exit(5)
    return Task()

def broken():
    raise OSError("cannot be made")
'''

POINTS = """[toka.tasks]
count = offered_tasks:Count
waiting = offered_tasks:Waiting
final = offered_tasks:Final
silent = offered_tasks:Silent
not-json = offered_tasks:NotJson
no-number = offered_tasks:NoNumber
nothing = offered_tasks:Nothing
leaves = offered_tasks:leaves
broken = offered_tasks:broken
absent = no_such_module_anywhere:Task
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "packages"
    info = path / "offered-1.0.dist-info"
    info.mkdir(parents=True)
    (path / "offered_tasks.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    return path


@pytest.fixture
def run(package: Path, tmp_path: Path) -> Any:
    """Run a task as a cell does: its source in a file, in an interpreter that has the package and nothing of toka."""
    (tmp_path / "work").mkdir()

    def one(name: str, **args: Any) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "task.py"
        script.write_text(source_of(name, "t1", args))
        environment = {"PYTHONPATH": str(package), "AGENT_WORKDIR": str(tmp_path / "work"), "AGENT_NAME": "builder", "TOKA_RUN_ID": "a1"}
        return subprocess.run(
            [sys.executable, "-s", str(script)], env=environment, cwd=tmp_path / "work", capture_output=True, text=True, timeout=60
        )

    return one


def test_a_task_does_its_work_and_gives_its_result(run: Any, tmp_path: Path) -> None:
    (tmp_path / "work" / "a.txt").write_text("1\n2\n3\n")
    done = run("count", path="a.txt")
    assert done.returncode == 0, done.stderr
    # Only what it gave back is the result; what it printed is for people.
    assert json.loads(done.stdout) == {"lines": 3, "agent": "builder", "task": "t1", "run": "a1"}
    assert done.stderr.splitlines() == ["counting: Count lines (about 90 s)", "noise on stdout", "raw noise"]
    assert json.loads(run("waiting").stdout) == "waited"
    silent = run("silent")
    assert (silent.returncode, silent.stdout) == (0, "null\n")
    assert silent.stderr == "silent: Says nothing and gives nothing.\n"


def test_a_failure_may_pass_unless_the_task_says_otherwise(run: Any, tmp_path: Path) -> None:
    (tmp_path / "work" / "a.txt").write_text("")
    failed = run("count", path="a.txt", minimum=2)
    assert failed.returncode == 1
    assert failed.stderr.endswith("the task count failed: ValueError: only 0 lines\n")
    assert "offered_tasks.py" in failed.stderr
    assert "task.py" not in failed.stderr
    assert failed.stdout == ""
    final = run("final")
    assert final.returncode == FINAL_EXIT
    assert "RuntimeError: never again" in final.stderr
    assert run("leaves").returncode == 5


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("count", {}, "missing 1 required positional argument: 'path'"),
        ("count", {"path": "a", "colour": 1}, "unexpected keyword argument 'colour'"),
        ("nothing", {}, "makes a Nothing, which has no execute"),
        ("broken", {}, "OSError: cannot be made"),
        ("absent", {}, "No module named 'no_such_module_anywhere'"),
        ("unheard-of", {}, "no package that is installed here offers a task unheard-of"),
        ("not-json", {}, "is not JSON serializable"),
        ("no-number", {}, "not JSON compliant"),
    ],
)
def test_what_cannot_be_run_is_said(run: Any, name: str, args: dict[str, Any], words: str) -> None:
    done = run(name, **args)
    assert done.returncode in {1, FINAL_EXIT}
    assert words in done.stderr
    assert done.stdout == ""


def test_no_argument_is_anything_but_an_argument(run: Any, tmp_path: Path) -> None:
    odd = "a'); import os; os.mkdir('made'); ('\n\"\"\"\\"
    (tmp_path / "work" / odd.replace("/", "")).write_text("x\n")
    done = run("count", path=odd)
    assert json.loads(done.stdout)["lines"] == 1
    assert os.listdir(tmp_path / "work") == [odd]


def test_names_are_found_without_loading_anything(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package)
    assert {"count", "absent", "final"} <= set(installed())
    assert "offered_tasks" not in sys.modules


def test_two_packages_with_one_name_are_not_chosen_between(run: Any, package: Path) -> None:
    other = package / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[toka.tasks]\nwaiting = offered_tasks:Silent\n")
    assert "2 packages offer a task waiting" in run("waiting").stderr
