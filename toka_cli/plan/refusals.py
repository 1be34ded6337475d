"""What a plan asks for and this version of toka, or this machine, cannot do: all of it at once, each with its place and a way out.

Chosen agents and tasks come in; errors go out, for the planner to raise or (with --plan) to turn into warnings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from toka_cli.errors import NoModel, Refused, TokaError, Unavailable
from toka_cli.plan.choice import ChosenTask
from toka_cli.plan.enforcement import refuse_without_walls
from toka_cli.plan.options import Machine, PlanOptions
from toka_cli.plan.prompts import model_of
from toka_cli.plan.resolver import problem_at
from toka_cli.spec.findings import shown
from toka_cli.spec.model import LoadedAgent, Orchestration

SHOWN_AGENTS: Final = 50
"""Agents that one message names."""

PREVIEWED_PLACES: Final = 3
"""Places that a warning of `--plan` names."""

_BEHIND_SERVER: Final = (".", "_", "/", ":")

Chosen = Sequence[tuple[LoadedAgent, Sequence[ChosenTask]]]


def mcp_server_of(tool: str, agent: LoadedAgent, orchestration: Orchestration | None) -> str | None:
    """Return the declared MCP server whose tool this is by its prefix (`cortex_search`, `cortex.search`, `mcp:cortex.search`), or None."""
    plain = tool.removeprefix("mcp__").removeprefix("mcp:")
    servers = [*agent.spec.mcp_servers, *(orchestration.mcp_servers if orchestration else ())]
    fitting = [server for server in servers if plain.startswith(tuple(server + mark for mark in _BEHIND_SERVER))]
    return max(fitting, key=len, default=None)


def refusals(
    chosen: Chosen, orchestration: Orchestration | None, known_tools: Mapping[str, str | None], options: PlanOptions, machine: Machine
) -> list[TokaError]:
    """Return everything that keeps these agents from running, worst exit code first in the order 5, then 6."""
    asking = [(agent, tasks) for agent, tasks in chosen if model_of(agent.spec, orchestration, options) is None]
    found = [
        refuse_without_walls(machine, options),
        _workspaces(chosen),
        _delegation(chosen),
        _mcp(chosen, orchestration, known_tools),
        _models(asking),
    ]
    return [error for error in found if error is not None]


def joined(errors: Sequence[TokaError]) -> TokaError:
    """Return one error that says what all of them say; its kind, place and exit code are those of the first."""
    first = errors[0]
    if len(errors) > 1:
        hints = "\n".join(error.hint for error in errors if error.hint)
        return type(first)("\n".join(error.message for error in errors), hint=hints, where=first.where)
    return first


def as_warning(error: TokaError) -> str:
    """Return an error as a warning of a plan that is only shown: what it says, the first of its places, and its hint."""
    first, *places = error.message.split("\n")
    more = [f"  and {len(places) - PREVIEWED_PLACES} more"] if len(places) > PREVIEWED_PLACES else []
    return "\n".join([f"cannot run: {first}", *places[:PREVIEWED_PLACES], *more, *([error.hint] if error.hint else [])])


def _workspaces(chosen: Chosen) -> TokaError | None:
    asking = [agent for agent, _ in chosen if agent.spec.workspace.mode != "shared"]
    if not asking:
        return None
    places = [f"  {problem_at(agent, 'workspace.mode', '').where}: {agent.name}: {agent.spec.workspace.mode}" for agent in asking]
    return Refused(
        "a workspace of its own (worktree or copy) cannot be given to an agent in this version of toka:\n" + _lines(places),
        hint="set workspace: {mode: shared}; such agents then work on the run's directory itself, and --workdir can point to a copy that you made",
        where=problem_at(asking[0], "workspace.mode", "").where,
    )


def _delegation(chosen: Chosen) -> TokaError | None:
    return _tasks(
        [(agent, task, f"agent {shown(task.task.agent or '')}") for agent, tasks in chosen for task in tasks if task.task.kind == "agent"],
        "tasks that delegate to another agent cannot run in this version of toka",
        "give the other agent its own place in the run, and name it under dependencies.required",
    )


def _mcp(chosen: Chosen, orchestration: Orchestration | None, known_tools: Mapping[str, str | None]) -> TokaError | None:
    found: list[tuple[LoadedAgent, ChosenTask, str]] = []
    for agent, tasks in chosen:
        for task in tasks:
            tool = task.task.tool
            if tool is not None and tool not in known_tools and mcp_server_of(tool, agent, orchestration):
                found.append((agent, task, f"tool {shown(tool)}"))
    return _tasks(
        found,
        "tools of MCP servers cannot be called in this version of toka",
        "use a built-in tool (toka runtime tools lists them) or a command, or put these tasks under tasks.conditional",
    )


def _tasks(found: Sequence[tuple[LoadedAgent, ChosenTask, str]], message: str, hint: str) -> TokaError | None:
    if not found:
        return None
    places = [f"  {problem_at(agent, task.dotted, '').where}: {agent.name}: task {task.task.id}: {what}" for agent, task, what in found]
    where = problem_at(found[0][0], found[0][1].dotted, "").where
    return Unavailable(f"{message}:\n{_lines(places)}", hint=hint, where=where, code="not_in_this_version")


def _models(chosen: Chosen) -> TokaError | None:
    lines: list[str] = []
    keys: dict[str, None] = {}
    count, unconditional = 0, False
    where: str | None = None
    for agent, tasks in chosen:
        prompts = [task for task in tasks if task.task.kind == "prompt"]
        if not prompts:
            continue
        count += len(prompts)
        where = where or problem_at(agent, prompts[0].dotted, "").where
        named = [f"{task.task.id} (line {line})" if (line := agent.where(task.dotted)[0]) else task.task.id for task in prompts]
        lines.append(f"  {agent.path}: {agent.name}: {', '.join(named)}")
        keys |= {task.task.when: None for task in prompts if task.task.when is not None}
        unconditional = unconditional or any(task.task.when is None for task in prompts)
    if not count:
        return None
    verb = "task is a prompt and needs" if count == 1 else "tasks are prompts and need"
    ways = ["name one: --model NAME, LLM_MODEL=NAME, [llm] model in toka.toml or llm: {model: NAME} in the spec (anthropic/..., ollama_chat/...)"]
    if keys:
        ways.append(f"leave out {' '.join(f'--when {key}' for key in keys)}")
    if unconditional:
        ways.append("give each of the lines named a target (run, code or tool), or move it under tasks.conditional so that it runs only with --when")
    return NoModel(f"{count} {verb} a model, and none is named:\n{_lines(lines)}", hint="; or ".join(ways), where=where)


def _lines(lines: Sequence[str]) -> str:
    more = [f"  and {len(lines) - SHOWN_AGENTS} more"] if len(lines) > SHOWN_AGENTS else []
    return "\n".join([*lines[:SHOWN_AGENTS], *more])
