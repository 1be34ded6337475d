"""Tasks and checks as the cell gets them, and what is wrong with a task in the light of the whole plan.

A chosen task and the agent's grants come in; a TaskBrief, or problems with their places, go out. The spec's own mistakes were found by its reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from toka_cli.errors import Problem
from toka_cli.plan.choice import ChosenTask
from toka_cli.plan.grants import Granted, canonical
from toka_cli.plan.refusals import mcp_server_of
from toka_cli.plan.resolver import problem_at
from toka_cli.policy.capability import values_of
from toka_cli.policy.profile import narrowed
from toka_cli.policy.validator import CapabilityValidator, lines_to_add
from toka_cli.protocol.messages import Check, TaskBrief, Walls
from toka_cli.spec import model
from toka_cli.spec.findings import nearest, shown
from toka_cli.spec.target import CodeTarget, target_of


def check_of(check: model.Check) -> Check:
    """Return a spec's check as it is sent."""
    return Check(run=check.run, timeout_s=check.timeout_s)


def brief_of(chosen: ChosenTask, *, longest_s: float | None = None, walls: Walls | None = None) -> TaskBrief:
    """Return a task as the cell gets it. Its own time limit may be longer than that of the spec's tasks in general, never longer than `longest_s`.

    `requires` are canonical names; a cell's agent holds a name if it is among its grants or declared names. `walls` are the task's own, None: its agent's.
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
        custom=task.custom,
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
        walls=walls,
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
    act = f"task {task.id} ({shown(task.description)}) of {agent.name}"
    denials = [(denial, dotted) for name, dotted in needs.items() if (denial := holder.check(name, act)) is not None]
    if not denials:
        # What the task is left with by its own `requires` decides about what it runs.
        powers = task_powers(task, rights)
        runner = CapabilityValidator(tuple(powers), rights.declared, powers)
        commands = [(task.run, "run"), (task.verify.run if task.verify else None, "verify")]
        denials = [
            (replace(denial, message=f"{denial.message} in {act}"), f"{chosen.dotted}.{key}")
            for run, key in commands
            if isinstance(run, tuple) and (denial := runner.check_program(run)) is not None
        ]
    return problems + [
        problem_at(agent, dotted, denial.message, denial.hint, code="capability_denied", severity="warning") for denial, dotted in denials
    ]


def check_custom(agent: model.LoadedAgent, tasks: Sequence[ChosenTask], offered: Sequence[str] | None) -> list[Problem]:
    """Return an error for each custom task that no installed package offers; none when nobody has looked what there is."""
    problems: list[Problem] = []
    for chosen in tasks if offered is not None else ():
        name = chosen.task.custom
        if name is None or offered is None or name in offered:
            continue
        close = nearest(name, offered, cutoff=0.6)
        there = f"there are: {', '.join(offered[:20])}" if offered else "no installed package offers any (entry point group toka.tasks)"
        message = f"{agent.name}: task {chosen.task.id}: there is no custom task {shown(name)}"
        problems.append(problem_at(agent, f"{chosen.dotted}.custom", message, f"did you mean {close}?" if close else there, code="unknown_custom"))
    return problems


def task_powers(task: model.TaskSpec, rights: Granted) -> dict[str, tuple[str, ...]]:
    """Return the powers that a task has: its agent's, and of those only what it requires if it says so."""
    return narrowed(rights.powers, (canonical(name) for name in task.requires)) if task.requires else rights.powers


def unseeing(agent: model.LoadedAgent, tasks: Sequence[ChosenTask], rights: Granted) -> str | None:
    """Return a warning when commands of an agent cannot see the directory that it works on, because no grant opens it; None when they can."""
    if any(values_of(rights.powers, name) is not None for name in ("filesystem-read", "cargo-execution")):
        return None
    blind = [chosen.task.id for chosen in tasks if chosen.task.kind in {"command", "code", "custom"}]
    if not blind:
        return None
    where = problem_at(agent, "security.capabilities_required", "").where
    names = ", ".join(blind[:5]) + (f" and {len(blind) - 5} more" if len(blind) > 5 else "")
    return (
        f"{where}: {agent.name}: no grant opens the workdir, so the commands of {names} see nothing of it; if they have to, add:\n"
        f"{lines_to_add('filesystem-read')}"
    )
