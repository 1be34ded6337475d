"""A normalised spec back in the shape of a file: what is kept with a run as `spec.yaml`. Loads back to the same model. Pure."""

from __future__ import annotations

from typing import Any, Final

from toka_cli.spec.model import AgentSpec, Check, Grant, Objective, ResourceLimits, TaskSpec

# Limits by their name in files; bytes, shares and seconds are written with their unit, so that no reading can differ.
_LIMITS: Final = {
    "memory_bytes": ("max_memory", "{}B"),
    "cpu_share": ("max_cpu", "{:.10g}%"),
    "timeout_s": ("timeout", "{:.10g}s"),
    "max_open_files": ("max_open_files", "{}"),
    "max_processes": ("max_processes", "{}"),
    "output_bytes": ("max_output", "{}B"),
    "disk_bytes": ("max_disk_usage", "{}B"),
    "max_tool_calls": ("max_tool_calls", "{}"),
    "task_timeout_s": ("task_timeout", "{:.10g}s"),
    "max_tokens": ("max_tokens", "{}"),
    "max_cost_usd": ("max_cost_usd", "{}"),
}


def as_document(spec: AgentSpec) -> dict[str, Any]:
    """The spec as data for a YAML file, without what is left at its default."""
    plain = spec.model_dump(mode="json", exclude_defaults=True)
    kept = ("metadata", "spec", "capabilities", "dependencies", "llm", "mcp_servers", "workspace", "reporting")
    document: dict[str, Any] = {name: plain[name] for name in kept if name in plain}
    if spec.objectives:
        document["objectives"] = [_objective(objective) for objective in spec.objectives]
    tasks: dict[str, Any] = {"default": [_task(task) for task in spec.tasks.default]}
    if spec.tasks.parallel != 1:
        tasks["parallel"] = spec.tasks.parallel
    if spec.tasks.conditional:
        tasks["conditional"] = {key: [_task(task) for task in group] for key, group in spec.tasks.conditional.items()}
    document["tasks"] = tasks
    document["security"] = {
        "sandbox": spec.security.sandbox,
        "capabilities_required": [_grant(grant) for grant in spec.security.grants],
        "resource_limits": _limits(spec.security.limits),
    }
    document["restart"] = {"policy": spec.restart.policy, "max_attempts": spec.restart.max_attempts, "delay": f"{spec.restart.delay_s:.10g}s"}
    for name in ("behavioral_directives", "risk_mitigation", "success_criteria"):
        if name in plain:
            document[name] = plain[name]
    extra: dict[str, Any] = plain.get("extra", {})
    return document | extra


def _objective(objective: Objective) -> dict[str, Any]:
    found: dict[str, Any] = {"description": objective.description}
    if objective.deliverable:
        found["deliverable"] = list(objective.deliverable)
    if objective.gate is not None:
        found["validation"] = _check(objective.gate)
    elif objective.validation is not None:
        found["validation"] = objective.validation
    return found


def _task(task: TaskSpec) -> dict[str, Any]:
    plain = task.model_dump(mode="json", exclude_defaults=True)
    renamed = {"timeout_s", "retries", "verify", "code", "when"}
    found: dict[str, Any] = {name: value for name, value in plain.items() if name not in renamed}
    if task.timeout_s is not None:
        found["timeout"] = f"{task.timeout_s:.10g}s"
    if task.retries.max:
        found["retries"] = {"max": task.retries.max, "delay": f"{task.retries.delay_s:.10g}s", "backoff": task.retries.backoff}
    if task.verify is not None:
        found["verify"] = _check(task.verify)
    if task.code is not None:
        found["code"] = {task.code.language: task.code.source}
    if task.when is not None:
        found["when"] = task.when
    return found


def _check(check: Check) -> dict[str, Any]:
    found: dict[str, Any] = {"run": check.run if isinstance(check.run, str) else list(check.run)}
    if check.timeout_s is not None:
        found["timeout"] = f"{check.timeout_s:.10g}s"
    return found


def _grant(grant: Grant) -> Any:
    return {grant.name: list(grant.values)} if grant.values else grant.name


def _limits(limits: ResourceLimits) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, (name, form) in _LIMITS.items():
        value = getattr(limits, field)
        if value is not None:
            number = value * 100 if field == "cpu_share" else value
            found[name] = number if form == "{}" else form.format(number)
    return found
