"""From a command line to a plan: settings, specs, the machine's facts. Prints warnings and notes; starts nothing and writes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from toka_cli import paths
from toka_cli.commands import plugins
from toka_cli.commands.context import Globals
from toka_cli.commands.output import Output
from toka_cli.commands.permitting import ceilings, places_for, wall_facts
from toka_cli.errors import InvalidSpecs, NotFound, UsageError
from toka_cli.plan.options import Machine, PlanOptions
from toka_cli.plan.plan import Plan
from toka_cli.plan.planner import make_plan
from toka_cli.settings import Settings, load_settings
from toka_cli.spec.load import Loaded, dump_yaml, load_paths
from toka_cli.spec.model import ResourceLimits
from toka_cli.spec.write import as_document
from toka_cli.supervisor.cgroup import bases, outlive_login, why_none
from toka_cli.supervisor.resources import machine_memory_bytes
from toka_cli.tools.catalog import ToolCatalog
from toka_cli.tools.custom import installed
from toka_cli.tools.plugins import PLUGIN_TOOLS, Offered

# What an agent may write when nobody says otherwise: a runaway loop must not fill the disk of the machine.
DEFAULT_OUTPUT_BYTES: Final = 64 << 20
# Limits of whole trees, as fields of `Machine`, by the controller of a cgroup that would hold each.
_CONTROLLERS: Final = {"memory": "memory", "cpu": "cpu", "processes": "pids"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for on the command line, before files and settings are read. Durations in seconds."""

    specs: tuple[str, ...]
    preview: bool = False
    detach: bool = False
    max_agents: str | None = None
    timeout_s: float | None = None
    fail_fast: bool = False
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    when: tuple[str, ...] = ()
    workdir: Path | None = None
    no_sandbox: bool = False
    require_sandbox: str | None = None
    allow_missing: bool = False
    strict: bool = False
    direct: bool = False
    model: str | None = None
    budget_usd: float | None = None
    budget_tokens: int | None = None
    record: Path | None = None
    replay: Path | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """A plan that can be run, and what it was made from."""

    plan: Plan
    settings: Settings
    spec_text: str
    record: Path | None = None
    replay: Path | None = None


def settings_of(cli: Globals, workdir: Path, flags: dict[str, object] | None = None) -> tuple[Settings, dict[str, str]]:
    """The settings that apply in `workdir`, and where each value came from. Raises InvalidSpecs, NotFound."""
    if cli.config is not None and not cli.config.is_file():
        raise NotFound(f"no such file: {cli.config}", hint="--config names a toka.toml")
    user_file = cli.config or paths.user_config_file(os.environ)
    project_file = workdir / "toka.toml"
    return load_settings(
        flags or {}, os.environ, project_file if project_file.is_file() else None, user_file if user_file.is_file() else None
    )


def prepare(cli: Globals, asked: Asked, output: Output) -> Ready:
    """Load, check and plan. Prints warnings about specs (and, with -v, what was normalised) to stderr.

    Raises TokaError for everything that stands in the way.
    """
    return prepare_loaded(cli, asked, load_specs(asked.specs, strict=asked.strict, output=output).checked(), output)


def load_specs(specs: Sequence[str], *, strict: bool, output: Output) -> Loaded:
    """Load specs; with -v what was normalised is said. Raises NotFound."""
    stdin = sys.stdin.buffer.read() if "-" in specs else None
    loaded = load_paths(specs, stdin=stdin, strict=strict)
    for note in loaded.notes:
        output.detail(f"{note.path}:{note.line}:{note.column}: {note.message}")
    return loaded


def prepare_loaded(cli: Globals, asked: Asked, loaded: Loaded, output: Output) -> Ready:
    """Plan what was loaded. Raises TokaError."""
    workdir = _workdir(asked, loaded)
    settings, _ = settings_of(cli, workdir)
    if asked.detach:
        outlive_login()
    options = _options(asked, settings, workdir)
    custom = any(task.custom is not None for agent in loaded.agents for task in agent.spec.tasks.every)
    options = replace(options, places=places_for(loaded, workdir, options.ceilings), custom_tasks=installed() if custom else None)
    offered = plugins.ask() if plugins.wanted(loaded.agents) else Offered()
    for broken in offered.broken:
        output.warn(f"tools of the package entry {broken.name} cannot be used: {broken.reason}")
    tools = known_tools() | {tool.name: tool.power for tool in offered.tools}
    planned = make_plan(loaded.agents, loaded.orchestration, options, machine(settings), tools)
    problems = [*loaded.warnings, *planned.problems]
    if planned.plan is None:
        raise InvalidSpecs(problems)
    for note_text in planned.notes:
        output.detail(note_text)
    for problem in loaded.warnings:
        output.warn(f"{problem.where}: {problem.message}" + (f" ({problem.hint})" if problem.hint else ""))
    # A run that is resumed goes on with the same files.
    files = {"record": _absolute(asked.record), "replay": _absolute(asked.replay)}
    more: dict[str, Any] = {name: str(path) for name, path in files.items() if path is not None}
    if offered.tools:
        more[PLUGIN_TOOLS] = msgspec.to_builtins(offered.tools)
    plan = msgspec.structs.replace(planned.plan, options={**planned.plan.options, **more})
    return Ready(plan, settings, spec_text(loaded), files["record"], files["replay"])


def say_warnings(ready: Ready, output: Output) -> None:
    """Say what a person should know of the plan, where no renderer will: before a preview, a detached run or a quiet one."""
    for warning in ready.plan.warnings:
        output.warn(warning)


def machine(settings: Settings) -> Machine:
    """What this machine is and which limits and walls toka can hold on it, as probed now. It forks: called before there are threads."""
    groups = bases() if settings.process.limits_by == "auto" else {}
    facts = wall_facts(settings)
    return Machine(
        cpu_count=os.cpu_count() or 1,
        memory_bytes=machine_memory_bytes(),
        start_method=start_method(settings),
        memory="cgroup" if "memory" in groups else "sampled",
        cpu="cgroup" if "cpu" in groups else "sampled",
        processes="cgroup" if "pids" in groups else "sampled",
        **{**facts, "notes": (*facts["notes"], *limit_notes(settings))},
    )


def limit_notes(settings: Settings) -> tuple[tuple[str, str, str], ...]:
    """Why limits of whole trees are held by polling here, and what to do: (limit, why, fix), as in `Machine.notes`; nothing for those a cgroup holds."""
    if settings.process.limits_by == "polling":
        return tuple((limit, "[process] limits_by is polling", "set it to auto") for limit in _CONTROLLERS)
    reasons = [(limit, why_none(controller)) for limit, controller in _CONTROLLERS.items()]
    return tuple((limit, *reason) for limit, reason in reasons if reason is not None)


def start_method(settings: Settings) -> str:
    """`forkserver` or `fresh`: as the settings say; `auto` is the fork server where the system can fork."""
    chosen = settings.process.start_method
    if chosen == "auto":
        return "forkserver" if hasattr(os, "fork") else "fresh"
    return chosen


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()


def recorded_model(path: Path) -> str | None:
    """The model that a recording was made with, where it was made with one. Raises NotFound, Unavailable for what is no recording."""
    from toka_cli.llm.recording import read

    models = list(read(path).models)
    return models[0] if len(models) == 1 else None


def known_tools() -> dict[str, str | None]:
    """Built-in tools by name, with the power each needs."""
    return {info.name: info.power for info in ToolCatalog().describe()}


def spec_text(loaded: Loaded) -> str:
    """What was asked for, as one YAML text: normalised specs, kept with the run."""
    return dump_yaml({"agents": [as_document(agent.spec) for agent in loaded.agents]})


def _workdir(asked: Asked, loaded: Loaded) -> Path:
    chosen = asked.workdir
    if chosen is None and loaded.orchestration is not None and loaded.orchestration.workdir is not None:
        chosen = Path(loaded.orchestration.path).parent / Path(loaded.orchestration.workdir).expanduser()
    folder = (chosen or Path.cwd()).expanduser().absolute()
    if not folder.is_dir():
        raise NotFound(f"no such directory: {folder}", hint="--workdir names the directory that the agents work on")
    return folder.resolve()


def _options(asked: Asked, settings: Settings, workdir: Path) -> PlanOptions:
    return PlanOptions(
        workdir=str(workdir),
        max_agents=_max_agents(asked.max_agents),
        max_concurrent=settings.process.max_concurrent_processes,
        timeout_s=asked.timeout_s,
        fail_fast=asked.fail_fast,
        only=asked.only,
        skip=asked.skip,
        when=asked.when,
        allow_missing=asked.allow_missing,
        no_sandbox=asked.no_sandbox or not settings.process.enable_isolation,
        # A level that the user's own settings insist on is required, unless no sandbox is asked for aloud.
        require_sandbox=_level(asked.require_sandbox) or ("full" if settings.process.walls == "full" and not asked.no_sandbox else None),
        model=asked.model or (recorded_model(asked.replay) if asked.replay is not None else None) or settings.llm.model,
        budget_usd=asked.budget_usd,
        budget_tokens=asked.budget_tokens,
        ceilings=ceilings(settings),
        on_threat=settings.policy.on_threat,
        direct=asked.direct,
        strict=asked.strict,
        preview=asked.preview,
        default_limits=ResourceLimits(
            memory_bytes=settings.resources.max_memory_bytes,
            cpu_share=settings.resources.cpu_share,
            task_timeout_s=settings.resources.max_task_duration_s,
            max_tool_calls=settings.resources.max_tool_calls_per_task,
            output_bytes=DEFAULT_OUTPUT_BYTES,
        ),
    )


def _max_agents(text: str | None) -> Any:
    if text is None or text == "auto":
        return text
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--max-agents takes a number from 1 on, or auto; not {text!r}")
    return int(text)


def _level(text: str | None) -> Any:
    if text not in {None, "full", "standard"}:
        raise UsageError(f"--require-sandbox takes full or standard; not {text!r}")
    return text


