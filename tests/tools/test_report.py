from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from toka_cli.protocol.messages import Measure, Note
from toka_cli.tools.tool import ToolFailed

Call = Callable[..., Any]


def test_reports_go_through_the_context(call: Call, outside: Any) -> None:
    assert call("report_progress", message=" half\nway  done ") == {"reported": True}
    assert call("report_metric", name="tests.passed", value=3) == {"reported": True}
    assert outside.reported == [Note("half way done"), Measure("tests.passed", 3.0)]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("report_progress", {"message": ""}),
        ("report_progress", {"message": " \n "}),
        ("report_progress", {"message": "x" * 501}),
        ("report_metric", {"name": "", "value": 1}),
        ("report_metric", {"name": "a b", "value": 1}),
        ("report_metric", {"name": "a\n", "value": 1}),
        ("report_metric", {"name": "a", "value": float("nan")}),
        ("report_metric", {"name": "a", "value": float("inf")}),
        ("report_metric", {"name": "a", "value": "1"}),
    ],
)
def test_reports_that_say_nothing_are_refused(call: Call, outside: Any, tool: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolFailed):
        call(tool, **arguments)
    assert outside.reported == []
