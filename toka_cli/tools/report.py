"""report_progress and report_metric: what an agent says of its own work. In: words or a number. Out: sent to the kernel, which records it."""

from __future__ import annotations

import math
from typing import Annotated, Final

import msgspec

from toka_cli.protocol.messages import Measure, Note
from toka_cli.tools.tool import Answer, Arguments, Tool, ToolContext, ToolFailed


class ReportProgress(Arguments, frozen=True):
    """Arguments of report_progress."""

    message: Annotated[str, msgspec.Meta(description="What you do now, in a few words.", min_length=1, max_length=500)]


# In Python a bare $ also fits before a line feed at the end; in JavaScript, as readers of the schema may take it, the addition changes nothing.
GAUGE: Final = r"^[A-Za-z][A-Za-z0-9_.\-]{0,99}$(?!\n)"


class ReportMetric(Arguments, frozen=True):
    """Arguments of report_metric."""

    name: Annotated[str, msgspec.Meta(description="The name of the gauge.", pattern=GAUGE)]
    value: float


class Reported(Answer, frozen=True):
    """It was recorded."""

    reported: bool = True


async def run_report_progress(arguments: ReportProgress, context: ToolContext) -> Reported:
    """Send a note. Line breaks become spaces: it is shown in one line."""
    message = " ".join(arguments.message.split())
    if not message:
        raise ToolFailed("message is empty")
    await context.report(Note(detail=message))
    return Reported()


async def run_report_metric(arguments: ReportMetric, context: ToolContext) -> Reported:
    """Send a measure. Raises ToolFailed for infinity and NaN, which no sum survives."""
    if not math.isfinite(arguments.value):
        raise ToolFailed(f"value is not a finite number: {arguments.value}")
    await context.report(Measure(name=arguments.name, value=arguments.value))
    return Reported()


# Not pure in the strict sense; saying it once more after a crash changes nothing that was said.
TOOLS: Final = (
    Tool(
        name="report_progress",
        description="Say in a few words what you are doing, for the person who watches.",
        arguments=ReportProgress,
        result=Reported,
        power=None,
        effect="pure",
        where="cell",
        read_only=True,
        run=run_report_progress,
    ),
    Tool(
        name="report_metric",
        description="Report a number under a name, such as coverage or tests_passed.",
        arguments=ReportMetric,
        result=Reported,
        power=None,
        effect="pure",
        where="cell",
        read_only=True,
        run=run_report_metric,
    ),
)
