"""The kernel-events workstream: does every event have its place in the tables of states, and does it come back from the log as it went in?

    kernel_events.py places|roundtrip|table|selftest
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import msgspec
from report import Report

from toka_cli import events as e
from toka_cli import lifecycle as life
from toka_cli.errors import IllegalMove
from toka_cli.state import rows

NAME = "kernel-events"
TABLE = Path("reports") / NAME / "lifecycle.md"
MOVES: dict[str, Any] = {"run": life.RUN_MOVES, "agent": life.AGENT_MOVES, "task": life.TASK_MOVES}
STATES: dict[str, Any] = {"run": life.RunState, "agent": life.AgentState, "task": life.TaskState}
FINAL: dict[str, Any] = {"run": life.RUN_FINAL, "agent": life.AGENT_FINAL, "task": life.TASK_FINAL}
# Facts that say something about a thing and leave its state as it is. A new event stands in a table or here.
REMARKS = {
    "run.created": "the beginning: what it creates is pending",
    "run.warned": "something a person should know",
    "run.held": "nothing new starts for now, and what runs goes on",
    "run.released": "agents start again",
    "command.received": "a command of another terminal, journaled before it is carried out",
    "agent.created": "the beginning: what it creates is pending",
    "agent.noted": "a detail of the state",
    "agent.measured": "a gauge",
    "agent.exited": "the process is gone; what that means is said by the event after it",
    "gate.started": "a gate has states of its own in the view",
    "gate.passed": "the agent's own event follows",
    "gate.failed": "the agent's own event follows",
    "tool.called": "a call is journaled before it takes effect",
    "tool.done": "the task goes on",
    "tool.denied": "the task goes on, and will say so if it cannot",
    "llm.started": "a model is asked: a detail of the state",
    "llm.asked": "what a request can cost at most, until it is known what it did cost",
    "llm.unanswered": "what is charged for a request without an answer; another may follow",
    "llm.replied": "usage, and the task goes on",
    "llm.failed": "the task goes on, or says how it ends",
    "deliverable.recorded": "a file as it was at that moment",
}


def classes() -> list[Any]:
    """The class of every event."""
    return list(get_args(e.AnyEvent))


def kinds() -> list[str]:
    """The name of every event."""
    return [one.__struct_config__.tag for one in classes()]


def places() -> int:
    report = Report(NAME, "places", "Where every event has its place")
    known = kinds()
    moving = {kind for moves in MOVES.values() for _, kind in moves}
    report.check("no name is used twice", [] if len(set(known)) == len(known) else ["two events have one name"])
    defined = {one for one in vars(e).values() if isinstance(one, type) and issubclass(one, e.Event) and one is not e.Event}
    report.check("every event that is defined is one of the union", sorted(one.__name__ for one in defined - set(classes())))
    report.check("every event moves a state or is known not to", sorted(set(known) - moving - set(REMARKS)))
    report.check("no event does both", sorted(moving & set(REMARKS)))
    report.check("the tables name no event that does not exist", sorted(moving - set(known)))
    report.check("the remarks name no event that does not exist", sorted(set(REMARKS) - set(known)))
    report.check("every event says in words what it means", sorted(one.__name__ for one in classes() if not (one.__doc__ or "").strip()))
    for noun, moves in MOVES.items():
        states = set(STATES[noun])
        reached = {next(iter(STATES[noun]))}
        while (more := reached | {to for (start, _), to in moves.items() if start in reached}) != reached:
            reached = more
        report.check(f"every state of a {noun} can be reached", sorted(state.value for state in states - reached))
        report.check(f"no final state of a {noun} is left", sorted(f"{start.value} by {kind}" for start, kind in moves if start in FINAL[noun]))
        stuck = {state for state in states - set(FINAL[noun]) if not any(start is state for start, _ in moves)}
        report.check(f"every other state of a {noun} has a way on", sorted(state.value for state in stuck))
    report.data["events"] = len(known)
    report.section("Events that move nothing", "\n".join(f"- `{kind}`: {why}" for kind, why in REMARKS.items()))
    return report.finish()


def example(kind: Any) -> Any:
    """Some value of a type, with text that needs escaping wherever there is text."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind(**{field.name: example(field.type) for field in msgspec.structs.fields(kind)})
    name = str(kind)
    if kind is Any:
        return {"nested": [1, None, "\x1b[31m\u202e\n"]}
    if name.startswith("tuple"):
        return (example(get_args(kind)[0]),)
    if name.startswith("dict"):
        return {"key": example(get_args(kind)[1])}
    for plain, some in ((bool, True), (int, 7), (float, 0.5), (str, 'a "b"\n\x1b[0m \u202e ü')):
        if kind is plain or plain in get_args(kind):
            return some
    raise TypeError(f"no example of {name}")


def roundtrip() -> int:
    report = Report(NAME, "roundtrip", "Every event, written and read")
    decode = rows.record_decoder().decode
    for one in classes():
        event = example(one)
        kept, text = rows.encode(event)
        back = decode(text)
        same = back == event == kept and type(back) is one and back.kind == one.__struct_config__.tag
        report.check(event.kind, [] if same else [f"went in as {event!r} and came back as {back!r}"])
    return report.finish()


def table() -> int:
    report = Report(NAME, "table", "The tables of states")
    lines = ["# States and events", "", "A state in a cell is the one that follows. `-` means that the event cannot happen there."]
    for noun, moves in MOVES.items():
        columns = list(dict.fromkeys(kind for _, kind in moves))
        lines += ["", f"## {noun}", "", f"| state | {' | '.join(columns)} |", f"|{' --- |' * (len(columns) + 1)}"]
        wrong: list[str] = []
        for state in STATES[noun]:
            cells = [moves[state, kind].value if (state, kind) in moves else "-" for kind in columns]
            wrong += [f"{state.value} by {kind}" for kind, cell in zip(columns, cells, strict=True) if asked(noun, state, kind) != cell]
            lines.append(f"| {state.value}{' (final)' if state in FINAL[noun] else ''} | {' | '.join(cells)} |")
        report.check(f"the functions say what the table of a {noun} says", wrong)
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return report.finish()


def asked(noun: str, state: Any, kind: str) -> str:
    """What the function that everybody else uses says: the next state, or - for an illegal move."""
    try:
        return str(getattr(life, f"next_{noun}_state")(state, kind).value)
    except IllegalMove:
        return "-"


def selftest() -> int:
    """The gate: the table in the file names every state, and a damaged event is refused."""
    text = TABLE.read_text(encoding="utf-8")
    named = [state.value for states in STATES.values() for state in states if f"| {state.value}" not in text]
    try:
        rows.record_decoder().decode('{"kind":"task.failed"}')
    except msgspec.ValidationError as error:
        refused = str(error)
    else:
        refused = ""
    print(named, refused)
    return 0 if not named and "reason" in refused else 1


if __name__ == "__main__":
    sys.exit({"places": places, "roundtrip": roundtrip, "table": table, "selftest": selftest}[sys.argv[1]]())
