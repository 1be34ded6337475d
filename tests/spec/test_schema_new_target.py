"""The published schema, templates, and what can be executed."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from toka_cli.errors import UsageError
from toka_cli.spec.load import load_text
from toka_cli.spec.new import TEMPLATES, new_spec
from toka_cli.spec.schema import json_schema
from toka_cli.spec.target import CodeTarget, CommandTarget, ShellTarget, ToolTarget, parse_arguments, target_from_parts, target_of

VALID = Draft202012Validator(json_schema())


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize(
    "text",
    [
        "metadata: {name: a}",
        "metadata: {}\ntasks: [x]",
        "metadata: {name: '../x'}\ntasks: [x]",
        "metadata: {name: a}\ntasks: []",
        "metadata: {name: a}\ntasks: [{priority: high}]",
        "metadata: {name: a}\ntasks: [{run: [a], tool: b}]",
        "metadata: {name: a}\ntasks: [{run: []}]",
        "metadata: {name: a}\ntasks: [{description: x, code: {perl: x}}]",
        "metadata: {name: a}\ntasks: [x]\nspec: {priority: urgent}",
        "metadata: {name: a}\ntasks: [x]\nsecurity: {resource_limits: {max_memory: lots}}",
        "metadata: {name: a}\ntasks: [x]\nsecurity: {capabilities_required: [{n: []}]}",
        "metadata: {name: a}\ntasks: [x]\nllm: {base_url: 'http://x'}",
        "metadata: {name: a}\ntasks: [x]\nmcp_servers: {c: {}}",
        "metadata: {name: a}\ntasks: [x]\nrestart: sometimes",
        "agents: []",
        "agents: [a.yaml]\ntasks: [x]",
        "agents: [a.yaml]\non_failure: panic",
        "services: {}",
    ],
)
def test_what_the_loader_refuses_the_schema_refuses(text: str) -> None:
    assert load_text(text).errors
    assert not VALID.is_valid(yaml.safe_load(text))


def test_orchestration_files_fit_the_schema() -> None:
    VALID.validate(
        {
            "agents": ["a.yaml", {"metadata": {"name": "b"}, "tasks": ["x"]}],
            "max_agents": "auto",
            "budget": {"usd": 1},
            "on_failure": "stop",
        }
    )


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ["my-agent", "1.10", "on"])
def test_templates_load_strictly_and_without_a_note(template: str, name: str) -> None:
    text = new_spec(name, template)
    result = load_text(text, strict=True)
    assert (result.problems, result.notes) == ((), ())
    assert result.agents[0].name == name
    assert text.startswith("# yaml-language-server: $schema=")
    VALID.validate(yaml.safe_load(text))


@pytest.mark.parametrize(("name", "template"), [("a b", "minimal"), ("", "full"), ("x", "none"), ('x"\ny: z', "code")])
def test_templates_refuse(name: str, template: str) -> None:
    with pytest.raises(ValueError, match=r"cannot name an agent|there is no template"):
        new_spec(name, template)


def test_targets_of_tasks() -> None:
    text = "metadata: {name: a}\ntasks: [x, {run: [ls]}, {run: ls -l}, {code: {shell: ls}}, {tool: t, args: {n: 1}}, {agent: b}]\n"
    tasks = load_text(text).checked().agents[0].spec.tasks.default
    assert [target_of(task) for task in tasks] == [
        None, CommandTarget(("ls",)), ShellTarget("ls -l"), CodeTarget("shell", "ls"), ToolTarget("t", {"n": 1}), None,
    ]  # fmt: skip


def test_targets_of_a_command_line() -> None:
    assert target_from_parts(python="1") == CodeTarget("python", "1")
    assert target_from_parts(javascript="1") == CodeTarget("javascript", "1")
    assert target_from_parts(shell="ls") == ShellTarget("ls")
    assert target_from_parts(argv=["ls", "-l"]) == CommandTarget(("ls", "-l"))
    assert target_from_parts(tool="t", args=["a=1", "b=x=y", "c="]) == ToolTarget("t", {"a": 1, "b": "x=y", "c": ""})


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"python": "1", "shell": "x"},
        {"shell": " "},
        {"python": ""},
        {"tool": ""},
        {"shell": "x", "args": ["a=1"]},
        {"tool": "t", "args": ["a"]},
        {"tool": "t", "args": ["a=1", "a=2"]},
    ],
)
def test_command_lines_that_make_no_sense(parts: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        target_from_parts(**parts)


def test_arguments_are_json_where_they_are_json() -> None:
    found = parse_arguments(
        ["n=3", "f=1.5", "on=true", "none=null", "ids=[1,2]", "text=hello there", 'quoted="3"', "nan=NaN", "deep=" + "[" * 100_000]
    )
    assert found.pop("deep") == "[" * 100_000
    assert found == {"n": 3, "f": 1.5, "on": True, "none": None, "ids": [1, 2], "text": "hello there", "quoted": "3", "nan": "NaN"}


@given(st.lists(st.text()))
def test_any_arguments(pairs: list[str]) -> None:
    names = [pair.partition("=")[0] for pair in pairs]
    if all("=" in pair for pair in pairs) and all(names) and len(set(names)) == len(names):
        assert list(parse_arguments(pairs)) == names
    else:
        with pytest.raises(UsageError, match="argument"):
            parse_arguments(pairs)
