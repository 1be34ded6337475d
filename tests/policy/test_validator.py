"""The answers to acts: grants, paths, programs."""

from __future__ import annotations

import pytest
import yaml

from toka_cli.policy.validator import CapabilityValidator, lines_to_add


def holder(**values: tuple[str, ...]) -> CapabilityValidator:
    powers = {name.replace("_", "-"): found for name, found in values.items()}
    return CapabilityValidator(tuple(powers), (), powers)


def test_a_denial_names_the_grant_and_the_lines_to_add() -> None:
    denial = holder(filesystem_read=()).check_program(["git", "status"])
    assert denial is not None
    assert denial.message == "Capability not authorized: git-access required for git"
    assert "    - git-access" in denial.hint
    assert "sandbox" in denial.hint
    assert "trying again" in denial.hint


def test_the_lines_to_add_are_yaml_that_says_what_was_meant() -> None:
    for values in ((), ("src/**",), ("*.md", "a b"), ("api.x.com:443",), ("it's",), ("[::1]:1",)):
        document = yaml.safe_load(lines_to_add("filesystem-write", *values))
        (grant,) = document["security"]["capabilities_required"]
        assert grant == ({"filesystem-write": list(values)} if values else "filesystem-write")


def test_programs_of_the_system_need_nothing() -> None:
    assert holder().check_program(["ls", "-l"]) is None
    assert holder().check_program("git status") is None


@pytest.mark.parametrize(
    ("argv", "allowed"),
    [
        (["pytest", "-q"], True),
        (["python", "-m", "pytest"], True),
        (["npm", "test"], False),
        (["./tools/run.sh"], True),
        (["./other.sh"], False),
        (["ls"], True),
    ],
)
def test_script_execution_narrowed_to_programs(argv: list[str], allowed: bool) -> None:
    denial = holder(script_execution=("pytest", "tools/**")).check_program(argv)
    assert (denial is None) == allowed
    if denial is not None:
        assert "granted for pytest, tools/**" in denial.message


def test_what_a_tool_runs_has_to_be_listed_where_its_power_is_narrowed() -> None:
    narrowed = holder(script_execution=("pytest",), git_access=())
    assert narrowed.check_program(["pytest"], always="script-execution") is None
    assert narrowed.check_program(["git", "log"], always="script-execution") is None
    denial = narrowed.check_program(["ls"], always="script-execution")
    assert denial is not None
    assert "script-execution required for ls" in denial.message
    shell = narrowed.check_program("pytest; ls", always="script-execution")
    assert shell is not None
    assert "a shell line" in shell.message
    assert holder(script_execution=()).check_program("ls", always="script-execution") is None


def test_programs_do_not_narrow_files() -> None:
    narrowed = holder(script_execution=("pytest",))
    assert narrowed.check_path("filesystem-write", "src/a.py", "write_file") is None


def test_each_grant_opens_what_it_opens() -> None:
    both = holder(filesystem_read=("docs/**",), filesystem_write=("out/**",))
    assert both.check_path("filesystem-read", "docs/a", "x") is None
    assert both.check_path("filesystem-read", "out/a", "x") is None
    assert both.check_path("filesystem-write", "out/a", "x") is None
    denial = both.check_path("filesystem-write", "docs/a", "x")
    assert denial is not None
    assert "(granted for out/**)" in denial.message
    assert both.check_path("filesystem-read", "src/a", "x") is not None
    assert holder().check_path("filesystem-read", "a", "x") is not None
