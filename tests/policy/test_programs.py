"""Which power a program belongs to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toka_cli.policy.programs import power_of_program, program_of

GIT, CARGO, SCRIPT = "git-access", "cargo-execution", "script-execution"


@pytest.mark.parametrize(
    ("argv", "power"),
    [
        (["git", "status"], GIT),
        (["/usr/bin/git", "commit"], GIT),
        (["env", "GIT_DIR=x", "git", "log"], GIT),
        (["env", "-i", "git"], GIT),
        (["cargo", "build"], CARGO),
        (["cargo-clippy"], CARGO),
        (["/root/.cargo/bin/rustc", "x.rs"], CARGO),
        (["pytest", "-q"], SCRIPT),
        (["pytest-3"], SCRIPT),
        (["pip3.11", "install", "x"], SCRIPT),
        (["npm", "test"], SCRIPT),
        (["npx", "jest"], SCRIPT),
        (["make"], SCRIPT),
        (["tox"], SCRIPT),
        (["./run.sh"], SCRIPT),
        (["tools/build"], SCRIPT),
        (["tools/git"], SCRIPT),
        (["node", "app.js"], SCRIPT),
        (["node", "-r", "x", "app.js"], SCRIPT),
        (["node", "--test"], SCRIPT),
        (["python3", "script.py"], SCRIPT),
        (["python3.11", "-W", "error", "script.py"], SCRIPT),
        (["python", "-m", "pytest"], SCRIPT),
        (["python", "-m", "pip", "install", "x"], SCRIPT),
        (["python", "-m", "unittest.main"], SCRIPT),
        (["bash", "-e", "build.sh"], SCRIPT),
        (["deno", "run", "x.ts"], SCRIPT),
    ],
)
def test_programs_that_belong_to_a_power(argv: list[str], power: str) -> None:
    assert power_of_program(argv) == power


@pytest.mark.parametrize(
    "argv",
    [
        ["ls"], ["true"], ["sqlite3", "x.db"], ["gcc", "x.c"], ["sh", "-c", "git status"], ["bash", "-lc", "cargo build"], ["python3", "-c", "print(1)"],
        ["python3", "-m", "json.tool"], ["node", "-e", "1"], ["node"], ["python3", "/usr/lib/x.py"], ["python3", "-"], ["gitignore"], ["legit"], ["env"],
        ["env", "-S", "git status"], ["/usr/bin/cat", "git"], [], [""],
    ],
)  # fmt: skip
def test_programs_that_every_agent_may_run(argv: list[str]) -> None:
    assert power_of_program(argv) is None


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/usr/bin/pytest"], "pytest"),
        (["pip3"], "pip"),
        (["./tools/run.sh"], "tools/run.sh"),
        (["python", "-m", "pytest", "-q"], "pytest"),
        (["python", "scripts/a.py"], "scripts/a.py"),
        (["git", "log"], "git"),
        (["ls"], "ls"),
    ],
)
def test_the_name_by_which_a_narrowed_grant_lists_it(argv: list[str], name: str) -> None:
    assert program_of(argv).name == name


@given(st.lists(st.text(max_size=20), max_size=6))
def test_any_argv_has_an_answer(argv: list[str]) -> None:
    assert power_of_program(argv) in {None, GIT, CARGO, SCRIPT}
