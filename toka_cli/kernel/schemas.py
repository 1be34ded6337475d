"""Checks a task's output against the JSON Schema that its spec gives. jsonschema is loaded only when a task has one."""

from __future__ import annotations

from typing import Any

import msgspec

from toka_cli.events import Outcome


def schema_problem(schema: dict[str, Any], outcome: Outcome) -> str | None:
    """None if the outcome's value fits the schema, else a reason that says where it does not."""
    import jsonschema

    value = outcome.value
    if value is None:
        try:
            value = msgspec.json.decode(outcome.output.encode())
        except msgspec.MsgspecError as error:
            return f"output_schema: the output is not JSON: {error}"
    worst = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(value))
    if worst is None:
        return None
    place = "/".join(str(part) for part in worst.absolute_path) or "the output"
    return f"output_schema: {place}: {worst.message}"[:1000]
