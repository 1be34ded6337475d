"""Makes the plan: which agents run in which order, what each may do, must not exceed and has to prove, and which of that this machine holds.

Loaded specs, what the user asked for and the machine's facts come in; a plan, or every problem that stands in its way, goes out. Nothing is started,
read or probed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toka_cli.errors import Problem, TokaError
from toka_cli.plan.briefs import brief_of, check_of, check_task
from toka_cli.plan.choice import ChosenTasks, choose_agents, choose_tasks, unknown_keys
from toka_cli.plan.enforcement import check_sandbox, enforcement_of, gaps
from toka_cli.plan.grants import Granted, granted, opens_network
from toka_cli.plan.limits import Bounded, at_once, bounded
from toka_cli.plan.options import Machine, PlanOptions
from toka_cli.plan.plan import Gate, Plan, PlannedAgent, Promise
from toka_cli.plan.refusals import as_warning, joined, refusals
from toka_cli.plan.resolver import Resolved, problem_at, resolve
from toka_cli.spec.findings import shown
from toka_cli.spec.model import LoadedAgent, Orchestration


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan, or None when a problem is an error.

    Problems that are warnings are in `plan.warnings` too, with place and hint: print those, or these. `notes` are for -v.
    """

    plan: Plan | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that are errors."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


@dataclass(frozen=True, slots=True)
class _Draft:
    """An agent while its plan is made."""

    agent: LoadedAgent
    tasks: ChosenTasks
    bounded: Bounded
    granted: Granted


def make_plan(
    agents: Sequence[LoadedAgent],
    orchestration: Orchestration | None,
    options: PlanOptions,
    machine: Machine,
    known_tools: Mapping[str, str | None],
) -> Planned:
    """Return the plan of a run, or all problems.

    `known_tools` are the built-in tools, each with the power it needs (None: none). With `options.preview` what could not run on this machine or in this
    version becomes a warning. Raises NotFound (--only, --skip), UsageError, Refused (sandbox, workspace), Unavailable (delegation, MCP), NoModel.
    """
    chosen, left_out = choose_agents(agents, options.only, options.skip)
    check_sandbox(machine, options)
    resolved = resolve(chosen, left_out=left_out, allow_missing=options.allow_missing)
    drafts = [_draft(agent, orchestration, options) for agent in chosen]
    problems = [*resolved.problems]
    for draft in drafts:
        problems += draft.granted.problems
        for task in draft.tasks.tasks:
            problems += check_task(draft.agent, task, draft.granted, orchestration, known_tools)
        problems += _checks_of_spec(draft.agent, options)
    if options.strict:
        problems = [replace(problem, severity="error") for problem in problems]
    problems = sorted(dict.fromkeys(problems))
    if any(problem.severity == "error" for problem in problems):
        return Planned(None, tuple(problems), resolved.notes)
    refused = refusals([(draft.agent, draft.tasks.tasks) for draft in drafts], orchestration, known_tools, options)
    if refused and not options.preview:
        raise joined(refused)
    plan = _plan(drafts, resolved, left_out, orchestration, options, machine, _sentences(agents, drafts, problems, refused, options))
    return Planned(plan, tuple(problems), resolved.notes)


def _draft(agent: LoadedAgent, orchestration: Orchestration | None, options: PlanOptions) -> _Draft:
    return _Draft(agent, choose_tasks(agent, options.when), bounded(agent, orchestration, options), granted(agent))


def _checks_of_spec(agent: LoadedAgent, options: PlanOptions) -> list[Problem]:
    """Return warnings about what a spec says and cannot have."""
    found: list[Problem] = []
    if not agent.spec.security.sandbox and not options.no_sandbox:
        message = f"{agent.name}: sandbox: false is not followed; a spec cannot take its own walls down"
        found.append(problem_at(agent, "security.sandbox", message, "say --no-sandbox on the command line", code="sandbox", severity="warning"))
    for index, objective in enumerate(agent.spec.objectives):
        for glob in objective.deliverable:
            if _leads_out(glob):
                message = f"{agent.name}: the deliverable {shown(glob)} is not below the directory that the agent works on; it is not recorded"
                found.append(problem_at(agent, f"objectives[{index}].deliverable", message, code="deliverable", severity="warning"))
    return found


def _leads_out(glob: str) -> bool:
    return glob.startswith(("/", "~")) or ".." in glob.split("/") or "\x00" in glob


def _sentences(
    agents: Sequence[LoadedAgent], drafts: Sequence[_Draft], problems: Sequence[Problem], refused: Sequence[TokaError], options: PlanOptions
) -> list[str]:
    """Return the plan's warnings but for those about the machine."""
    sentences = [_sentence(problem) for problem in problems]
    sentences += [as_warning(error) for error in refused]
    sentences += unknown_keys(agents, options.when)
    for draft in drafts:
        sentences += draft.bounded.cut
        if not draft.tasks.tasks:
            keys = ", ".join(f"--when {key}" for key in draft.tasks.conditional)
            sentences.append(f"{draft.agent.name} has no task in this run and succeeds without doing anything (its tasks run with {keys})")
    servers = [draft.agent.name for draft in drafts if draft.agent.spec.mcp_servers]
    if servers:
        sentences.append(f"mcp_servers of {', '.join(servers[:3])}{' and others' if len(servers) > 3 else ''} are not started in this version of toka")
    return sentences


def _sentence(problem: Problem) -> str:
    """Return a problem with its place and hint; a hint of several lines (YAML to add) keeps them."""
    if not problem.hint:
        return f"{problem.where}: {problem.message}"
    hint = f"\n{problem.hint}" if "\n" in problem.hint else f" ({problem.hint})"
    return f"{problem.where}: {problem.message}{hint}"


def _plan(
    drafts: Sequence[_Draft],
    resolved: Resolved,
    left_out: tuple[str, ...],
    orchestration: Orchestration | None,
    options: PlanOptions,
    machine: Machine,
    warnings: list[str],
) -> Plan:
    wave_of = {name: number for number, wave in enumerate(resolved.waves) for name in wave}
    ordered = sorted(range(len(drafts)), key=lambda place: (wave_of[drafts[place].agent.name], resolved.rank[place]))
    planned = tuple(_planned(drafts[place], resolved, place, options, machine) for place in ordered)
    number, reason, about_memory = at_once([agent.limits for agent in planned], orchestration, options, machine)
    warnings += [*about_memory, *gaps(planned, machine, options)]
    timeout_s = options.timeout_s if options.timeout_s is not None else orchestration.timeout_s if orchestration else None
    return Plan(
        agents=planned,
        waves=resolved.waves,
        critical_path=resolved.critical_path,
        left_out=left_out,
        max_agents=number,
        timeout_s=timeout_s,
        fail_fast=options.fail_fast or (orchestration is not None and orchestration.on_failure == "stop"),
        workdir=options.workdir,
        warnings=tuple(dict.fromkeys(warnings)),
        options=_recorded(options, orchestration, machine, reason),
    )


def _recorded(options: PlanOptions, orchestration: Orchestration | None, machine: Machine, reason: str) -> dict[str, Any]:
    """Return what the run was asked for, as JSON data that is stored with it."""
    return {
        "max_agents": options.max_agents,
        "max_agents_reason": reason,
        "only": list(options.only),
        "skip": list(options.skip),
        "when": list(options.when),
        "allow_missing": options.allow_missing,
        "no_sandbox": options.no_sandbox,
        "require_sandbox": options.require_sandbox,
        "budget_usd": options.budget_usd if options.budget_usd is not None or not orchestration else orchestration.budget.usd,
        "budget_tokens": options.budget_tokens if options.budget_tokens is not None or not orchestration else orchestration.budget.tokens,
        "orchestration": orchestration.path if orchestration else None,
        "start_method": machine.start_method,
        "sandbox_level": "process" if options.no_sandbox else machine.level,
    }


def _planned(draft: _Draft, resolved: Resolved, place: int, options: PlanOptions, machine: Machine) -> PlannedAgent:
    spec, limits, rights = draft.agent.spec, draft.bounded.limits, draft.granted
    objectives = list(enumerate(spec.objectives, start=1))
    globs = [(index, tuple(glob for glob in objective.deliverable if not _leads_out(glob))) for index, objective in objectives]
    return PlannedAgent(
        name=spec.name,
        title=spec.title,
        workstream=spec.workstream,
        domain=spec.domain,
        priority=spec.priority.value,
        branch=spec.metadata.branch,
        depends_on=resolved.depends_on[place],
        after=resolved.after[place],
        rank=resolved.rank[place],
        tasks=tuple(brief_of(task, longest_s=draft.bounded.longest_task_s) for task in draft.tasks.tasks),
        parallel=spec.tasks.parallel,
        grants=tuple(rights.powers),
        grant_values=dict(rights.powers),
        declared=rights.declared,
        limits=limits,
        enforcement=enforcement_of(limits, machine, options, network_granted=opens_network(rights.powers)),
        sandbox=not options.no_sandbox,
        gates=tuple(Gate(index, objective.description, check_of(objective.gate)) for index, objective in objectives if objective.gate is not None),
        promises=tuple(Promise(index, kept) for index, kept in globs if kept),
        metrics=tuple(spec.reporting.metrics),
        conditional=draft.tasks.conditional,
        restart=spec.restart.policy,
        restart_attempts=spec.restart.max_attempts,
        restart_delay_s=spec.restart.delay_s,
        spec_path=draft.agent.path,
        spec_digest=draft.agent.digest,
        limit_origins=draft.bounded.origins,
        notes=(*draft.tasks.notes, *rights.notes),
    )
