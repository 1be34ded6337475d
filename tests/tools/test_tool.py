from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import jsonschema
import msgspec
import pytest

from toka_cli.tools.catalog import CATALOG
from toka_cli.tools.tool import Arguments, Tool, ToolContext, ToolFailed, both_ends, shown


class Given(Arguments, frozen=True):
    path: Annotated[str, msgspec.Meta(min_length=1)]
    offset: Annotated[int, msgspec.Meta(ge=1)] = 1
    way: Literal["up", "down"] = "up"
    words: tuple[str, ...] | str | None = None


async def give(arguments: Given, context: ToolContext) -> Any:
    return arguments.path


def tool(**changes: Any) -> Tool:
    fields: dict[str, Any] = {
        "name": "give",
        "description": "",
        "arguments": Given,
        "result": str,
        "power": None,
        "effect": "pure",
        "where": "cell",
        "read_only": True,
        "run": give,
    }
    return Tool(**fields | changes)


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        ({"path": "a", "ofset": 2}, "give has no argument ofset", "did you mean offset?"),
        ({"path": "a", "zzz": 2}, "give has no argument zzz", "its arguments are: path, offset, way, words"),
        ({}, "give needs the argument path", "its arguments are: path, offset, way, words"),
        ({"path": 1}, "give: argument path: expected text, got a whole number", None),
        ({"path": None}, "give: argument path: expected text, got null", None),
        ({"path": ""}, "give: argument path: expected text of length >= 1", None),
        ({"path": "a", "offset": "2"}, "give: argument offset: expected a whole number, got text", None),
        ({"path": "a", "offset": True}, "give: argument offset: expected a whole number, got true or false", None),
        ({"path": "a", "offset": 0}, "give: argument offset: expected a whole number >= 1", None),
        ({"path": "a", "way": "left"}, "give: argument way: invalid enum value 'left'", None),
        ({"path": "a", "words": [1]}, "give: argument words[0]: expected text, got a whole number", None),
        ({"path": "a", "words": 1}, "give: argument words: expected text or a list or null, got a whole number", None),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_plain_words(args: dict[str, Any], message: str, hint: str | None) -> None:
    with pytest.raises(ToolFailed) as caught:
        tool().decode(args)
    assert caught.value.message == message
    assert caught.value.hint == hint
    assert caught.value.code == "tool_failed"


def test_arguments_that_fit_are_decoded() -> None:
    assert tool().decode({"path": "a", "words": ["b"], "offset": 3}) == Given("a", 3, "up", ("b",))


@pytest.mark.parametrize(
    "changes",
    [{"name": "Give"}, {"name": ""}, {"name": "a" * 65}, {"name": "a-b"}, {"effect": "maybe"}, {"where": "moon"}, {"effect": "verify"}],
)
def test_a_tool_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        tool(**changes)


def test_an_answer_far_above_the_limit_or_not_json_is_refused(call: Callable[..., Any], context: ToolContext) -> None:
    async def flood(arguments: Given, context: ToolContext) -> str:
        return "x" * 1_000_000

    async def strange(arguments: Given, context: ToolContext) -> Any:
        return object() if arguments.path == "object" else "\udcff"

    with pytest.raises(ToolFailed, match="far above the limit"):
        tool(run=flood).call({"path": "a"}, context).send(None)
    for path in ("object", "surrogate"):
        with pytest.raises(ToolFailed, match="cannot be sent"):
            tool(run=strange).call({"path": path}, context).send(None)
    with pytest.raises(StopIteration) as end:
        tool().call({"path": "fine"}, context).send(None)
    assert end.value.value == "fine"


@pytest.mark.parametrize("name", CATALOG)
def test_schemas_are_valid_and_have_an_object_at_the_top(name: str) -> None:
    for schema in (CATALOG[name].input_schema(), CATALOG[name].output_schema()):
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
    given = CATALOG[name].input_schema()
    assert given["additionalProperties"] is False
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"no_such_argument": 1}, given)


def test_a_schema_keeps_the_definitions_it_refers_to(call: Callable[..., Any], workdir: Any) -> None:
    (workdir / "a").write_text("")
    answer = call("list_dir")
    schema = CATALOG["list_dir"].output_schema()
    jsonschema.validate(answer, schema)
    answer["entries"][0]["kind"] = "planet"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(answer, schema)


def test_a_tool_may_give_a_schema_in_place_of_a_type() -> None:
    assert tool(result={"type": "string"}).output_schema() == {"type": "string"}
    assert tool(result=int).output_schema() == {"type": "integer"}


def test_both_ends_keeps_the_beginning_and_the_end() -> None:
    assert both_ends("short", 10) == ("short", False)
    text, cut = both_ends("A" * 500 + "B" * 500, 100)
    assert cut
    assert text.startswith("A" * 50 + "\n[... 900 bytes left out ...]\n")
    assert text.endswith("B" * 50)
    euro, cut = both_ends("€" * 100, 100)
    assert cut
    assert "\ufffd" not in euro


@pytest.mark.parametrize(("text", "expected"), [("plain é", "plain é"), ("a\udcff", "a\\xff"), ("\ud800", "\\ud800")])
def test_shown_text_can_always_be_encoded(text: str, expected: str) -> None:
    assert shown(text) == expected
    shown(text).encode("utf-8")
