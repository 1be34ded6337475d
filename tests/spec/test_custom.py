"""`custom: NAME` in a spec: read, written back, described for editors, and one target among the others."""

from __future__ import annotations

import jsonschema
import pytest

from toka_cli.spec.load import dump_yaml, load_text
from toka_cli.spec.schema import json_schema
from toka_cli.spec.write import as_document

HEAD = "metadata: {name: one}\ntasks:\n  - "


def problems(text):
    loaded = load_text(HEAD + text, path="one.yaml")
    return [problem.message for problem in loaded.problems]


def test_a_custom_task_is_read_and_written_back():
    loaded = load_text(HEAD + "{id: a, custom: count-lines, args: {path: src, minimum: 3}}", path="one.yaml").checked()
    (task,) = loaded.agents[0].spec.tasks.default
    assert (task.kind, task.custom, task.args, task.description) == ("custom", "count-lines", {"path": "src", "minimum": 3}, "a")
    again = load_text(dump_yaml(as_document(loaded.agents[0].spec)), path="one.yaml").checked()
    assert again.agents[0].spec == loaded.agents[0].spec
    assert load_text(HEAD + "{custom: count-lines}", path="one.yaml").checked().agents[0].spec.tasks.default[0].description == "count-lines"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{custom: a, run: [b]}", "has two targets: run and custom"),
        ("{custom: a, tool: b}", "has two targets: tool and custom"),
        ("{custom: ' '}", "custom is empty"),
        ("{custom: [a]}", "custom"),
        ("{run: [b], args: {x: 1}}", "is only for a task with 'tool' or 'custom'"),
        ("{custom: a, args: [1]}", "args"),
    ],
)
def test_what_is_wrong_with_one(text, words):
    assert any(words in problem for problem in problems(text)), problems(text)


def test_args_belong_to_it():
    assert problems("{custom: a, args: {x: 1}}") == []


def test_editors_know_it():
    document = {"metadata": {"name": "one"}, "tasks": [{"custom": "a", "args": {"x": 1}}]}
    jsonschema.validate(document, json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "tasks": [{"custom": ""}]}, json_schema())
