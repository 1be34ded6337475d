"""The envelope of `-o json` is API: its fields, its errors, and the names of the fields of runs, agents and tasks."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from toka_cli import errors
from toka_cli.commands.output import SCHEMA, Output, envelope, error_entries
from toka_cli.state.snapshot import AgentView, Deliverable, GateView, RunView, TaskView, Usage


def written(data: Any, **options: Any) -> Any:
    out = io.StringIO()
    Output(format="json", stdout=out, stderr=io.StringIO(), environ={}).emit("run show", data, **options)
    return json.loads(out.getvalue())


def test_shape() -> None:
    assert SCHEMA == 1
    assert list(envelope("orchestrate", {}, 0)) == ["schema", "command", "exit_code", "data", "errors"]
    assert written({"run": None}, exit_code=1) == {"schema": 1, "command": "run show", "exit_code": 1, "data": {"run": None}, "errors": []}


def test_a_run_has_all_its_fields_even_those_that_are_not_known() -> None:
    task = TaskView(id="t1", description="do it", kind="command")
    agent = AgentView(id="r-1", run_id="r", name="a", title="A", workstream="w", tasks=[task], gates=[GateView(1, "g")])
    run = RunView(
        id="r", started_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), agents=[agent], deliverables=[Deliverable("f", 1, "00", "a", 1)],
        usage=Usage(cost_usd=float("nan")),
    )  # fmt: skip
    read = written({"run": run})["data"]["run"]
    assert set(read) >= {"id", "state", "reason", "started_at", "ended_at", "duration_s", "workdir", "agents", "usage", "deliverables"}
    assert read["started_at"] == "2026-01-02T03:04:05Z"
    assert read["ended_at"] is None
    assert set(read["usage"]) == {"llm_requests", "input_tokens", "output_tokens", "cost_usd", "turns", "unsettled_usd", "unsettled_tokens"}
    assert read["usage"]["cost_usd"] is None
    (found,) = read["agents"]
    assert set(found) >= {
        "id", "run_id", "name", "title", "workstream", "domain", "priority", "state", "detail", "reason", "pid", "progress", "tasks_done", "tasks_total",
        "restarts", "started_at", "ended_at", "duration_s", "memory_bytes", "peak_memory_bytes", "cpu_time_s", "usage", "tasks", "isolation",
    }  # fmt: skip
    assert (found["state"], found["pid"], found["progress"]) == ("pending", None, 0.0)
    assert set(found["tasks"][0]) >= {
        "id", "description", "kind", "state", "reason", "attempts", "duration_s", "output", "exit_code", "usage", "evidence",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (errors.UsageError("x"), "usage", 2),
        (errors.NotFound("x"), "not_found", 4),
        (errors.Refused("x"), "refused", 5),
        (errors.Unavailable("x"), "unavailable", 6),
        (errors.NoModel("x"), "no_model", 6),
        (errors.StateUnavailable("x"), "state_unavailable", 6),
        (errors.TimedOut("x"), "timeout", 124),
        (errors.Stopped("x", signum=15), "stopped", 143),
        (errors.InvalidSpecs([]), "invalid_spec", 3),
    ],
)
def test_an_error_is_one_entry_with_its_code(error: errors.TokaError, code: str, exit_code: int) -> None:
    out = io.StringIO()
    assert Output(format="json", stdout=out, stderr=io.StringIO(), environ={}).fail("c", error) == exit_code
    read = json.loads(out.getvalue())
    assert (read["command"], read["exit_code"], read["data"]) == ("c", exit_code, None)
    assert read["errors"] == [{"code": code, "message": error.message, "hint": None, "where": None}]


def test_every_problem_of_a_spec_is_an_entry() -> None:
    problems = [errors.Problem("b.yaml", 4, 2, "late"), errors.Problem("a.yaml", 0, 0, "early", hint="h", severity="warning")]
    assert error_entries(errors.InvalidSpecs(problems)) == [
        {"code": "spec", "message": "early", "hint": "h", "where": "a.yaml", "severity": "warning"},
        {"code": "spec", "message": "late", "hint": None, "where": "b.yaml:4:2", "severity": "error"},
    ]
