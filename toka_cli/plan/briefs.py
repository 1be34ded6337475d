"""Tasks and checks as the cell gets them, and what is wrong with a task in the light of the whole plan.

A chosen task and the agent's grants come in; a TaskBrief, or problems with their places, go out. The spec's own mistakes were found by its reader.
"""

from __future__ import annotations

from collections.abc import Mapping

from toka_cli.errors import Problem
from toka_cli.plan.choice import ChosenTask
from toka_cli.plan.grants import Granted, canonical
from toka_cli.plan.refusals import mcp_server_of
from toka_cli.plan.resolver import problem_at
from toka_cli.policy.validator import CapabilityValidator
from toka_cli.protocol.messages import Check, TaskBrief
from toka_cli.spec import model
from toka_cli.spec.findings import nearest, shown
from toka_cli.spec.target import CodeTarget, target_of


def check_of(check: model.Check) -> Check:
    """Return a spec's check as it is sent."""
    return Check(run=check.run, timeout_s=check.timeout_s)


def brief_of(chosen: ChosenTask, *, longest_s: float | None = None) -> TaskBrief:
    """Return a task as the cell gets it. Its own time limit may be longer than that of the spec's tasks in general, never longer than `longest_s`.

    `requires` are canonical names; a cell's agent holds a name if it is among its grants or declared names.
    """
    task = chosen.task
    target = target_of(task)
    code = target if isinstance(target, CodeTarget) else None
    timeout_s = task.timeout_s if longest_s is None or task.timeout_s is None else min(task.timeout_s, longest_s)
    return TaskBrief(
        id=task.id,
        description=task.description,
        kind=task.kind,
        priority=task.priority.value,
        run=task.run,
        language=code.language if code else None,
        source=code.source if code else None,
        tool=task.tool,
        args=task.args,
        agent=task.agent,
        input=task.input,
        timeout_s=timeout_s,
        retries=task.retries.max,
        retry_delay_s=task.retries.delay_s,
        retry_backoff=task.retries.backoff,
        depends_on=chosen.depends_on,
        output_schema=task.output_schema,
        verify=check_of(task.verify) if task.verify else None,
        requires=tuple(dict.fromkeys(canonical(name) for name in task.requires)),
        allow_failure=task.allow_failure,
        on_interrupted=task.on_interrupted,
    )


def check_task(
    agent: model.LoadedAgent, chosen: ChosenTask, rights: Granted, orchestration: model.Orchestration | None, known_tools: Mapping[str, str | None]
) -> list[Problem]:
    """Return problems of one task: a tool that nobody has (an error), a grant that it needs and the agent does not hold (a warning: the task will fail)."""
    task = chosen.task
    problems: list[Problem] = []
    needs = {canonical(name): f"{chosen.dotted}.requires" for name in task.requires}
    if task.tool is not None and task.tool in known_tools:
        power = known_tools[task.tool]
        if power is not None:
            needs.setdefault(power, f"{chosen.dotted}.tool")
    elif task.tool is not None and mcp_server_of(task.tool, agent, orchestration) is None:
        close = nearest(task.tool, known_tools, cutoff=0.6)
        hint = f"did you mean {close}?" if close else "toka runtime tools lists the built-in ones; a tool of an MCP server begins with the server's name"
        message = f"{agent.name}: task {task.id}: there is no tool {shown(task.tool)}"
        problems.append(problem_at(agent, f"{chosen.dotted}.tool", message, hint, code="unknown_tool"))
    holder = CapabilityValidator(frozenset(rights.powers) | frozenset(rights.declared))
    for name, dotted in needs.items():
        denial = holder.check(name, f"task {task.id} ({shown(task.description)}) of {agent.name}")
        if denial is not None:
            problems.append(problem_at(agent, dotted, denial.message, denial.hint, code="capability_denied", severity="warning"))
    return problems


