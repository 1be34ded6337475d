"""A run as JUnit XML, which every build server reads: a suite for each agent, a case for each task and gate.

A view comes in, the text of an XML document goes out: valid for any text, and nothing in it is obeyed when it is shown. It writes no file.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Final

from toka_cli.lifecycle import AgentState, TaskState
from toka_cli.state.snapshot import AgentView, GateView, RunView, TaskView
from toka_cli.view.causes import blamed
from toka_cli.view.text import clean, shown

OUTPUT_CHARACTERS: Final = 20_000
"""The end of a task's output that is kept: build servers refuse reports of many megabytes. The whole is in the run's log."""

_NAME_WIDTH: Final = 300


class _Case:
    """A testcase: `kind` is passed, failure, error or skipped."""

    def __init__(self, name: str, kind: str, reason: str = "", seconds: float | None = None, output: str = "", stderr: str = "") -> None:
        self.name, self.kind, self.reason, self.seconds, self.output, self.stderr = name, kind, reason, seconds, output, stderr


def junit_xml(view: RunView) -> str:
    """Return the document. Failed tasks and gates are failures; what was stopped, and an agent that broke without a task to blame, are errors."""
    suites = [(agent, _cases(agent)) for agent in view.agents]
    everything = [case for _, cases in suites for case in cases]
    lines = ['<?xml version="1.0" encoding="UTF-8"?>']
    lines.append(f"<testsuites{_attributes(name=f'toka run {view.id}', **_totals(everything, view.duration_s))}>")
    for agent, cases in suites:
        lines += _suite(view, agent, cases)
    return "\n".join([*lines, "</testsuites>"]) + "\n"


def _suite(view: RunView, agent: AgentView, cases: list[_Case]) -> Iterator[str]:
    started = agent.started_at.isoformat(timespec="seconds").replace("+00:00", "Z") if agent.started_at else None
    yield f"  <testsuite{_attributes(name=agent.name, timestamp=started, **_totals(cases, agent.duration_s))}>"
    facts = {"agent.id": agent.id, "run.id": view.id, "workstream": agent.workstream, "state": agent.state.value}
    yield "    <properties>"
    yield from (f"      <property{_attributes(name=name, value=value)}/>" for name, value in facts.items())
    yield "    </properties>"
    for case in cases:
        head = f"    <testcase{_attributes(name=case.name, classname=agent.name, time=_seconds(case.seconds))}"
        if case.kind == "passed":
            yield f"{head}/>"
            continue
        yield f"{head}>"
        output = "" if case.kind == "skipped" else _output(case)
        yield f"      <{case.kind}{_attributes(message=case.reason)}>{output}</{case.kind}>"
        yield "    </testcase>"
    yield "  </testsuite>"


def _cases(agent: AgentView) -> list[_Case]:
    cases = [*(_task(task, agent) for task in agent.tasks), *(_gate(gate, agent) for gate in agent.gates)]
    if agent.state is AgentState.FAILED and not blamed(agent):
        cases.append(_Case("agent", "error", agent.reason or "no reason was recorded", agent.duration_s))
    elif agent.state is AgentState.STOPPED and not any(case.kind == "error" for case in cases):
        cases.append(_Case("agent", "error", agent.reason or "stopped", agent.duration_s))
    elif not cases:
        kind = "passed" if agent.state is AgentState.SUCCEEDED else "skipped"
        cases.append(_Case("agent", kind, agent.reason or agent.state.value, agent.duration_s))
    return cases


def _task(task: TaskView, agent: AgentView) -> _Case:
    name = task.id if task.description in {"", task.id} else f"{task.id}: {task.description}"
    reason = task.reason or ""
    match task.state:
        case TaskState.SUCCEEDED:
            kind = "passed"
        case TaskState.FAILED if agent.state is AgentState.SUCCEEDED:
            # It can only have been allowed to fail. JUnit has no word for that.
            kind, reason = "skipped", f"failed, which is allowed: {reason}"
        case TaskState.FAILED:
            kind, reason = "failure", reason or "no reason was recorded"
        case TaskState.STOPPED:
            kind, reason = "error", reason or "stopped"
        case TaskState.SKIPPED:
            kind = "skipped"
        case _:
            kind, reason = "skipped", f"not finished ({task.state.value})" + (f": {agent.reason}" if agent.reason else "")
    return _Case(name, kind, reason, task.duration_s, task.output, task.stderr)


def _gate(gate: GateView, agent: AgentView) -> _Case:
    name = f"gate {gate.index}: {gate.description}"
    if gate.state == "succeeded":
        return _Case(name, "passed", "", gate.duration_s)
    if gate.state == "failed":
        return _Case(name, "failure", gate.reason or "no reason was recorded", gate.duration_s, gate.output)
    return _Case(name, "skipped", f"not finished ({gate.state})" + (f": {agent.reason}" if agent.reason else ""))


def _totals(cases: list[_Case], seconds: float | None) -> dict[str, str | None]:
    kinds = [case.kind for case in cases]
    return {
        "tests": str(len(kinds)),
        "failures": str(kinds.count("failure")),
        "errors": str(kinds.count("error")),
        "skipped": str(kinds.count("skipped")),
        "time": _seconds(seconds),
    }


def _output(case: _Case) -> str:
    parts = [part for part in (case.output, case.stderr) if part.strip()]
    text = "\n".join(clean(part[-OUTPUT_CHARACTERS:], newlines=True).rstrip() for part in parts)
    return html.escape(text, quote=False)


def _attributes(**values: str | None) -> str:
    return "".join(f' {name}="{html.escape(shown(value, _NAME_WIDTH))}"' for name, value in values.items() if value is not None)


def _seconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.3f}"
