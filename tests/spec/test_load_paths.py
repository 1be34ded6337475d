"""Which files a command line means: directories, orchestration files, stdin, and what is left out."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from toka_cli.errors import InvalidSpecs, NotFound, UsageError
from toka_cli.spec.load import load_paths


def agent(path: Path, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"metadata: {{name: {name}}}\ntasks: [x]\n")
    return path


def names(*paths: Path | str, **options: bytes) -> list[str]:
    result = load_paths(paths, stdin=options.get("stdin"))
    assert result.errors == ()
    return [found.name for found in result.agents]


def test_a_directory_is_scanned_in_a_stable_order(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", "sub/c.yaml", ".hidden/d.yaml", ".e.yaml", "node_modules/f.yaml", "g.txt"):
        agent(tmp_path / name, Path(name).stem.strip("."))
    assert names(tmp_path) == ["a", "b", "c"]


def test_links_that_lead_back_and_files_named_twice_load_once(tmp_path: Path) -> None:
    one = agent(tmp_path / "x" / "a.yaml", "a")
    (tmp_path / "x" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "x" / "z.yaml").symlink_to(one)
    assert names(tmp_path, one, f"{tmp_path}/x/../x/a.yaml") == ["a"]


def test_tokaignore(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.draft.yaml", "examples/c.yaml", "deep/examples/d.yaml", "deep/old.yaml", "old.yaml"):
        agent(tmp_path / name, Path(name).name.split(".")[0])
    (tmp_path / ".tokaignore").write_text("# not these\nexamples/\n*.draft.yaml\n/deep/old.yaml\n")
    assert names(tmp_path) == ["a", "old"]
    assert names(tmp_path / "examples") == ["c"]
    assert names(tmp_path / "b.draft.yaml") == ["b"]


def test_a_tokaignore_line_that_would_mean_something_else_is_refused(tmp_path: Path) -> None:
    agent(tmp_path / "a.yaml", "a")
    (tmp_path / ".tokaignore").write_text("x\n!a.yaml\n")
    (problem,) = load_paths([tmp_path]).problems
    assert (problem.line, problem.code) == (2, "ignore_file")


@pytest.mark.parametrize(
    "text",
    [
        "services: {web: {image: x}}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {}\n",
        "version: '3'\ntasks: {default: {cmds: [x]}}\n",
        "- hosts: all\n  tasks: []\n",
    ],
)
def test_other_yaml_files_are_left_out_of_a_scan_but_not_when_named(tmp_path: Path, text: str) -> None:
    agent(tmp_path / "a.yaml", "a")
    other = tmp_path / "other.yaml"
    other.write_text(text)
    result = load_paths([tmp_path])
    assert [found.name for found in result.agents] == ["a"]
    assert [(problem.path, problem.severity, problem.code) for problem in result.problems] == [(str(other), "warning", "not_a_spec")]
    (problem,) = load_paths([other]).problems
    assert problem.severity == "error"


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.yaml").write_text("services: {}\n")
    for path in ("none.yaml", "empty", "other", "a\0b"):
        with pytest.raises(NotFound):
            load_paths([tmp_path / path])
    with pytest.raises(UsageError):
        load_paths(["-"])


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    agent(tmp_path / "a.yaml", "a")
    (tmp_path / "b.yaml").symlink_to(tmp_path / "b.yaml")
    result = load_paths([tmp_path])
    assert [found.name for found in result.agents] == ["a"]
    assert [problem.message for problem in result.problems] == ["cannot be read: Too many levels of symbolic links"]


def test_a_pipe_in_a_directory_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.yaml")
    (problem,) = load_paths([tmp_path]).problems
    assert problem.code == "unreadable"


def test_stdin_and_many_documents() -> None:
    text = b"metadata: {name: a}\ntasks: [x]\n---\nmetadata: {name: b}\ntasks: [x]\n---\n"
    assert names("-", "-", stdin=text) == ["a", "b"]


def test_digest_is_that_of_the_file(tmp_path: Path) -> None:
    path = agent(tmp_path / "a.yaml", "a")
    assert load_paths([path]).agents[0].digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_two_agents_of_one_name_are_named_with_both_files(tmp_path: Path) -> None:
    first, second = agent(tmp_path / "a.yaml", "same"), agent(tmp_path / "b.yaml", "same")
    (problem,) = load_paths([tmp_path]).problems
    assert (problem.path, problem.line, problem.column, problem.code) == (str(second), 1, 18, "duplicate_name")
    assert f"{first}:1:18" in problem.message


def test_problems_of_all_files_come_together_and_raise_together(tmp_path: Path) -> None:
    agent(tmp_path / "a.yaml", "a")
    (tmp_path / "b.yaml").write_text("a: b: c\n")
    (tmp_path / "c.yaml").write_text("metadata: {}\n")
    result = load_paths([tmp_path])
    assert [Path(problem.path).name for problem in result.problems] == ["b.yaml", "c.yaml", "c.yaml"]
    with pytest.raises(InvalidSpecs, match="3 problems"):
        result.checked()


ORCHESTRATION = """\
name: all
agents:
  - b.yaml
  - metadata: {name: inline}
    tasks: {default: [{description: x}]}
  - more
max_agents: 3
timeout: 1h
budget: {usd: 1.5, tokens: 1000}
llm: {model: m}
limits: {max_memory: 1GB}
workdir: ..
on_failure: stop
"""


def test_an_orchestration_file_with_its_specs(tmp_path: Path) -> None:
    file = tmp_path / "run" / "all.yaml"
    agent(tmp_path / "run" / "a.yaml", "a")
    agent(tmp_path / "run" / "b.yaml", "b")
    agent(tmp_path / "run" / "more" / "c.yaml", "c")
    file.write_text(ORCHESTRATION)
    result = load_paths([file]).checked()
    assert [found.name for found in result.agents] == ["inline", "b", "c"]
    found = result.orchestration
    assert found is not None
    assert (found.path, found.agents, found.max_agents, found.timeout_s) == (str(file), ("b.yaml", "inline", "more"), 3, 3600.0)
    assert (found.budget.usd, found.budget.tokens, found.llm.model, found.limits.memory_bytes) == (1.5, 1000, "m", 1024**3)
    assert (found.workdir, found.on_failure) == ("..", "stop")
    assert result.orchestration_places["timeout"] == (8, 10)
    assert result.agents[0].where("tasks.default[0]") == (5, 23)
    # The directory holds the file and what it names: nothing loads twice, and what it does not name loads too.
    assert sorted(names(tmp_path / "run")) == ["a", "b", "c", "inline"]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("agents: [none.yaml]\n", (1, 10), "none.yaml: No such file"),
        ("agents: []\n", (1, 1), "at least one"),
        ("agents: [a.yaml]\nmax_agents: 0\n", (2, 13), "whole number from 1"),
        ("agents: [a.yaml]\nlimts: {}\n", (2, 1), "unknown key 'limts'"),
        ("agents: [[x]]\n", (1, 10), "a path or a spec"),
        ("agents: [all.yaml, again.yaml]\n", (1, 1), "cannot list another one"),
        ("agents: [{metadata: {name: '?'}, tasks: [x]}]\n", (1, 28), "cannot name an agent"),
    ],
)
def test_mistakes_in_an_orchestration_file(tmp_path: Path, text: str, place: tuple[int, int], words: str) -> None:
    agent(tmp_path / "a.yaml", "a")
    (tmp_path / "again.yaml").write_text("agents: [a.yaml]\n")
    (tmp_path / "all.yaml").write_text(text)
    found = load_paths([tmp_path / "all.yaml"]).problems
    assert [problem for problem in found if (problem.line, problem.column) == place and words in problem.message], found


def test_a_run_has_one_orchestration_file(tmp_path: Path) -> None:
    agent(tmp_path / "a.yaml", "a")
    for name in ("x.yaml", "y.yaml"):
        (tmp_path / name).write_text("agents: [a.yaml]\n")
    (problem,) = load_paths([tmp_path]).problems
    assert (Path(problem.path).name, problem.code) == ("y.yaml", "two_orchestrations")
