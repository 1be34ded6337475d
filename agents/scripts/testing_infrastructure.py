"""The testing-infrastructure workstream: a quick, meaningful part of the tests, and whether every test file really tests something.

    testing_infrastructure.py assertions|run|junit
"""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from report import Report

NAME = "testing-infrastructure"
JUNIT = Path("reports") / NAME / "junit.xml"
# Rooms that decide and touch nothing: quick, and everything else rests on them.
QUICK = ("tests/test_units.py", "tests/test_lifecycle.py", "tests/spec", "tests/plan", "tests/policy")
FEWEST = 50


def test_files(*where: str) -> list[Path]:
    """The test files below these paths."""
    return sorted(path for name in where for path in ([Path(name)] if name.endswith(".py") else Path(name).rglob("test_*.py")) if path.is_file())


def assertions() -> int:
    report = Report(NAME, "assertions", "Does every test file test something?")
    files = test_files("tests")
    report.check("there are tests", [] if files else ["no test_*.py below tests/"])
    empty: list[str] = []
    idle: list[str] = []
    count = 0
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")]
        count += len(tests)
        empty += [] if tests else [f"{path} holds no test"]
        idle += [] if any(map(decides, ast.walk(tree))) else [f"{path} never asserts"]
    report.check("every test file holds a test", empty)
    report.check("every test file asserts something, or expects an error", idle)
    report.data["test_functions"] = count
    report.section("Counted", f"{count} test functions in {len(files)} files.")
    return report.finish()


def decides(node: ast.AST) -> bool:
    """Whether a test can fail here: an assert, or a call of `raises`, `warns` or `fail`."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return name in {"raises", "warns", "fail"}
    return isinstance(node, ast.Assert)


def missing_modules(path: Path) -> set[str]:
    """Modules that a test file, or the conftest.py beside it, imports and that are not installed here."""
    found: set[str] = set()
    for source in (path, path.parent / "conftest.py"):
        if source.is_file():
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"), str(source))):
                if isinstance(node, ast.Import):
                    found |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module)
    return {top for top in {name.partition(".")[0] for name in found} if importlib.util.find_spec(top) is None}


def run() -> int:
    report = Report(NAME, "tests", "A quick part of the tests")
    JUNIT.unlink(missing_ok=True)
    if importlib.util.find_spec("pytest") is None:
        report.check("pytest is installed", ["it is not; install it with: pip install -e '.[agents]'"])
        return report.finish()
    chosen: list[str] = []
    for path in test_files(*QUICK):
        missing = missing_modules(path)
        if missing:
            report.leave_out(f"{path}: needs {', '.join(sorted(missing))}, which the dev extra installs")
        else:
            chosen.append(str(path))
    # The project's own addopts share the tests out over processes, with a plugin that is not part of the agents extra.
    argv = [sys.executable, "-m", "pytest", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-q", f"--junit-xml={JUNIT}", *chosen]
    # With CI set, property tests draw the same examples each time and have no deadline, which a busy machine would miss.
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "CI": "1"})
    report.check(f"{len(chosen)} test files pass", [] if ended.returncode == 0 else [(ended.stdout + ended.stderr)[-3000:]])
    if JUNIT.is_file():
        counts = counted()
        report.data["counts"] = counts
        report.section("Counted", ", ".join(f"{number} {name}" for name, number in counts.items()))
    return report.finish()


def counted() -> dict[str, int]:
    """What the JUnit file says."""
    suites = list(ElementTree.parse(JUNIT).getroot().iter("testsuite"))
    return {name: sum(int(suite.get(name, "0")) for suite in suites) for name in ("tests", "failures", "errors", "skipped")}


def junit() -> int:
    """The gate: reads the file that pytest wrote, not what the task said of it."""
    counts = counted()
    cases = sum(1 for _ in ElementTree.parse(JUNIT).getroot().iter("testcase"))
    print(counts)
    passed = counts["tests"] - counts["skipped"] >= FEWEST and not counts["failures"] and not counts["errors"] and cases == counts["tests"]
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit({"assertions": assertions, "run": run, "junit": junit}[sys.argv[1]]())
