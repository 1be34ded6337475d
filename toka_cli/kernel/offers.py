"""What a conversation is given besides its own words: the tools as JSON Schemas, and what earlier tasks came to. In: the plan and the view. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

import msgspec

from toka_cli.kernel.permits import Permits
from toka_cli.lifecycle import TASK_FINAL
from toka_cli.plan.plan import PlannedAgent
from toka_cli.protocol import talk as t
from toka_cli.protocol.messages import TaskBrief
from toka_cli.state.snapshot import RunView
from toka_cli.tools.catalog import CATALOG

EARLIER_CHARS: Final = 4000
EARLIER_TOTAL_CHARS: Final = 16_000


def offered(names: Iterable[str], planned: PlannedAgent, task: TaskBrief) -> tuple[dict[str, Any], ...]:
    """The tools of these names that the task may use, as models take them, each under one name.

    `finish` asks for an `output` where the task has a schema for one.
    """
    allowed = {*(planned.prompt.tools if planned.prompt is not None else ()), t.FINISH, t.ASK}
    holder = Permits(planned, "").of(task)
    known = [CATALOG[name] for name in dict.fromkeys(names) if name in allowed and name in CATALOG]
    found = [tool for tool in known if tool.alias_of not in allowed and holder.check(tool.power, tool.name) is None]
    schema = task.output_schema
    return tuple(_with_output(_tool(tool.name), schema) if tool.name == t.FINISH and schema is not None else _tool(tool.name) for tool in found)


@cache
def _tool(name: str) -> dict[str, Any]:
    tool = CATALOG[name]
    return {"type": "function", "function": {"name": name, "description": tool.description, "parameters": tool.input_schema()}}


def _with_output(tool: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """`finish` with the output that the task has to produce. Definitions go to the top, where references look for them."""
    function = tool["function"]
    parameters = function["parameters"]
    inner = {name: value for name, value in schema.items() if name not in {"$defs", "definitions", "$schema", "$id"}}
    hoisted = {name: {**parameters.get(name, {}), **schema[name]} for name in ("$defs", "definitions") if isinstance(schema.get(name), dict)}
    properties = {**parameters["properties"], "output": {"description": "What the task has to produce, when it succeeded.", **inner}}
    return {**tool, "function": {**function, "parameters": {**parameters, **hoisted, "properties": properties}}}


def earlier(view: RunView, planned: PlannedAgent, agent_id: str, task_id: str) -> tuple[t.Earlier, ...]:
    """What came before: the agent's own ended tasks, and what the prompt tasks of agents that it depends on said. The newest have the most room.

    Of tasks that run side by side only those count that this one waits for: which others happen to have ended is another thing in every run.
    """
    found: list[t.Earlier] = []
    known = _before(planned, task_id)
    for agent in view.agents:
        own = agent.id == agent_id
        if not own and agent.name not in planned.depends_on:
            continue
        for task in agent.tasks:
            if task.state in TASK_FINAL and (task.id in known if own else task.kind == "prompt"):
                text = (task.output or task.reason or "")[-EARLIER_CHARS:]
                found.append(t.Earlier(task.id, task.description[:300], task.state.value, text, None if own else agent.name))
    room, kept = EARLIER_TOTAL_CHARS, []
    for one in reversed(found):
        kept.append(msgspec.structs.replace(one, output=one.output[-room:] if room > 0 else ""))
        room -= len(one.output)
    return tuple(reversed(kept))


def _before(planned: PlannedAgent, task_id: str) -> set[str]:
    """The tasks of an agent that have always ended when this one begins."""
    order = [task.id for task in planned.tasks]
    needs = {task.id: task.depends_on for task in planned.tasks}
    found = set(order[: order.index(task_id)]) if planned.parallel == 1 and task_id in needs else set()
    todo = list(needs.get(task_id, ()))
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += needs.get(name, ())
    return found
