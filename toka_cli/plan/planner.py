"""Makes the plan: which agents run in which order, what each may do, must not exceed and has to prove, and which of that this machine holds.

Loaded specs, what the user asked for and the machine's facts come in; a plan, or every problem that stands in its way, goes out. Nothing is started,
read or probed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toka_cli.errors import Problem, TokaError
from toka_cli.plan.briefs import brief_of, check_custom, check_of, check_task, task_powers, unseeing
from toka_cli.plan.choice import ChosenTask, ChosenTasks, choose_agents, choose_tasks, unknown_keys
from toka_cli.plan.enforcement import check_sandbox, enforcement_of, gaps, sampled
from toka_cli.plan.grants import Granted, ceilings_of, granted, permissions_of, unknown_allowed
from toka_cli.plan.limits import Bounded, at_once, bounded
from toka_cli.plan.options import Machine, PlanOptions
from toka_cli.plan.plan import Gate, Plan, PlannedAgent, Promise
from toka_cli.plan.prompts import prompt_of
from toka_cli.plan.refusals import as_warning, joined, refusals
from toka_cli.plan.resolver import Resolved, problem_at, resolve
from toka_cli.policy.capability import values_of
from toka_cli.policy.confine import within
from toka_cli.policy.places import Places
from toka_cli.policy.profile import Ground, Profile, profile_of
from toka_cli.protocol.messages import Walls
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
    profile: Profile


@dataclass(frozen=True, slots=True)
class _Given:
    """What is the same for all agents of a plan."""

    orchestration: Orchestration | None
    options: PlanOptions
    machine: Machine
    known_tools: Mapping[str, str | None]

    @property
    def places(self) -> Places:
        """Where things are; without a look at the machine, only the workdir is known."""
        return self.options.places or Places(workdir=self.options.workdir)

    @property
    def ground(self) -> Ground:
        """What walls can be made of here."""
        return Ground(self.machine.level, self.machine.proxy)

    @property
    def walled(self) -> bool:
        """True if walls are put up."""
        return not self.options.no_sandbox and self.machine.level != "process"


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
    given = _Given(orchestration, options, machine, known_tools)
    drafts = [_draft(agent, given) for agent in chosen]
    problems = [*resolved.problems]
    for draft in drafts:
        problems += draft.granted.problems
        for task in draft.tasks.tasks:
            problems += check_task(draft.agent, task, draft.granted, orchestration, known_tools)
        problems += check_custom(draft.agent, draft.tasks.tasks, options.custom_tasks)
        problems += _checks_of_spec(draft.agent, options)
    if options.strict:
        problems = [replace(problem, severity="error") for problem in problems]
    problems = sorted(dict.fromkeys(problems))
    if any(problem.severity == "error" for problem in problems):
        return Planned(None, tuple(problems), resolved.notes)
    refused = refusals([(draft.agent, draft.tasks.tasks) for draft in drafts], orchestration, known_tools, options, machine)
    if refused and not options.preview:
        raise joined(refused)
    plan = _plan(drafts, resolved, left_out, given, _sentences(agents, drafts, problems, refused, given))
    return Planned(plan, tuple(problems), resolved.notes)


def _draft(agent: LoadedAgent, given: _Given) -> _Draft:
    rights = granted(agent, ceilings_of(given.orchestration, given.options.ceilings))
    profile = profile_of(rights.powers, given.places, given.ground)
    return _Draft(agent, choose_tasks(agent, given.options.when), bounded(agent, given.orchestration, given.options), rights, profile)


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
    agents: Sequence[LoadedAgent], drafts: Sequence[_Draft], problems: Sequence[Problem], refused: Sequence[TokaError], given: _Given
) -> list[str]:
    """Return the plan's warnings but for those about the machine."""
    sentences = [_sentence(problem) for problem in problems]
    sentences += [as_warning(error) for error in refused]
    sentences += [*unknown_keys(agents, given.options.when), *unknown_allowed(given.orchestration)]
    for draft in drafts:
        sentences += [*draft.bounded.cut, *(f"{draft.agent.name}: {name}: {who}" for name, who in draft.granted.taken.items())]
        if given.walled:
            sentences += [f"{draft.agent.name}: {note}" for note in draft.profile.notes]
            unseen = unseeing(draft.agent, draft.tasks.tasks, draft.granted)
            sentences += [unseen] if unseen is not None and not given.options.direct else []
        if not draft.tasks.tasks:
            keys = ", ".join(f"--when {key}" for key in draft.tasks.conditional)
            sentences.append(f"{draft.agent.name} has no task in this run and succeeds without doing anything (its tasks run with {keys})")
    home, workdir = given.places.home, given.places.workdir
    reading = [draft.agent.name for draft in drafts if values_of(draft.granted.powers, "filesystem-read") == ()]
    if home and within(home, workdir) and reading:
        sentences.append(f"the workdir {workdir} holds your home: whoever may read it may read your keys too ({', '.join(reading[:3])})")
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
    given: _Given,
    warnings: list[str],
) -> Plan:
    orchestration, options, machine = given.orchestration, given.options, given.machine
    wave_of = {name: number for number, wave in enumerate(resolved.waves) for name in wave}
    ordered = sorted(range(len(drafts)), key=lambda place: (wave_of[drafts[place].agent.name], resolved.rank[place]))
    planned = tuple(_planned(drafts[place], resolved, place, given) for place in ordered)
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
        "on_threat": options.on_threat,
    }


def _planned(draft: _Draft, resolved: Resolved, place: int, given: _Given) -> PlannedAgent:
    spec, limits, rights, profile = draft.agent.spec, draft.bounded.limits, draft.granted, draft.profile
    walls = profile.walls if given.walled else None
    asks = any(chosen.task.kind == "prompt" for chosen in draft.tasks.tasks)
    prompt = prompt_of(spec, given.orchestration, given.options, rights.powers, given.known_tools) if asks else None
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
        tasks=tuple(brief_of(task, longest_s=draft.bounded.longest_task_s, walls=_walls_of(task, rights, given)) for task in draft.tasks.tasks),
        parallel=spec.tasks.parallel,
        grants=tuple(rights.powers),
        grant_values=dict(rights.powers),
        declared=rights.declared,
        limits=limits,
        enforcement=enforcement_of(limits, given.machine, walls, model=prompt is not None and bool(prompt.model)),
        sandbox=not given.options.no_sandbox,
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
        notes=(*draft.tasks.notes, *rights.notes, *sampled(limits, given.machine)),
        walls=walls,
        hosts=profile.hosts,
        permissions=permissions_of(draft.agent, rights, profile, given.known_tools, walls=given.walled),
        prompt=prompt,
        cell_walls=profile.cell if given.walled and profile.cell != profile.walls else None,
        folders=profile.folders if given.walled else (),
        files=profile.files if given.walled else (),
    )


def _walls_of(chosen: ChosenTask, rights: Granted, given: _Given) -> Walls | None:
    """Return a task's own walls: those of what it requires and its agent holds; None when it requires nothing, and its agent's walls hold."""
    if not given.walled or not chosen.task.requires:
        return None
    return profile_of(task_powers(chosen.task, rights), given.places, given.ground).walls
