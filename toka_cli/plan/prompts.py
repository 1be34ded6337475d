"""What an agent's prompts are built from: who it is, what it is for, which tools it is offered, and which model answers.

A spec, the run's choice of model and the powers that are left come in; a PromptContext goes out. It asks no model and builds no text of a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from toka_cli.plan.options import PlanOptions
from toka_cli.policy.capability import held
from toka_cli.protocol.messages import PromptContext
from toka_cli.spec.model import AgentSpec, Check, LlmChoice, Objective, Orchestration

MAX_CHARS: Final = 16_000
"""Characters of one section of a spec in a prompt: some 4,000 tokens. What is longer is cut, and says so."""

MAX_DEPTH: Final = 8


def model_of(spec: AgentSpec, orchestration: Orchestration | None, options: PlanOptions) -> str | None:
    """Return the model that answers an agent's prompts: the spec's, else that of the run, else the user's; None when nobody names one."""
    return _first([spec.llm, *([orchestration.llm] if orchestration else [])], "model") or options.model


def prompt_of(
    spec: AgentSpec, orchestration: Orchestration | None, options: PlanOptions, powers: Mapping[str, tuple[str, ...]], known_tools: Mapping[str, str | None]
) -> PromptContext:
    """Return what prompts are built from. Tools are those whose power is held, and those that need none."""
    choices = [spec.llm, *([orchestration.llm] if orchestration else [])]
    opened = held(powers)
    return PromptContext(
        title=spec.title,
        description=_cut(spec.spec.description or ""),
        domain=spec.domain,
        skills=tuple(dict.fromkeys((*spec.capabilities.primary, *spec.capabilities.secondary))),
        objectives=tuple(_objective(objective) for objective in spec.objectives),
        directives=_text(spec.behavioral_directives),
        criteria=_text(spec.success_criteria),
        tools=tuple(sorted(tool for tool, power in known_tools.items() if power is None or power in opened)),
        model=model_of(spec, orchestration, options) or "",
        fallbacks=_first(choices, "fallbacks") or (),
        temperature=next((choice.temperature for choice in choices if choice.temperature is not None), None),
        max_output_tokens=_first(choices, "max_output_tokens"),
    )


def _first(choices: list[LlmChoice], field: str) -> Any:
    return next((value for choice in choices if (value := getattr(choice, field))), None)


def _objective(objective: Objective) -> str:
    parts = [objective.description]
    if objective.deliverable:
        parts.append(f"deliver: {', '.join(objective.deliverable)}")
    if objective.gate is not None:
        parts.append(f"proved afterwards by running: {_command(objective.gate)}")
    elif objective.validation:
        parts.append(f"validation (nobody verifies it but you): {objective.validation}")
    return _cut("; ".join(parts))


def _command(check: Check) -> str:
    return check.run if isinstance(check.run, str) else " ".join(check.run)


def _text(value: Any) -> str:
    """A section of any shape as an outline."""
    return _cut("\n".join(_outline(value, 0))) if value not in (None, "", [], {}) else ""


def _outline(value: Any, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if depth >= MAX_DEPTH:
        yield f"{indent}..."
    elif isinstance(value, dict):
        for key, below in value.items():
            if isinstance(below, dict | list):
                yield f"{indent}{key}:"
                yield from _outline(below, depth + 1)
            else:
                yield f"{indent}{key}: {_scalar(below)}"
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict | list):
                lines = list(_outline(item, depth + 1))
                yield f"{indent}- {lines[0].strip() if lines else ''}"
                yield from lines[1:]
            else:
                yield f"{indent}- {_scalar(item)}"
    else:
        yield f"{indent}{_scalar(value)}"


def _scalar(value: Any) -> str:
    return "" if value is None else ("yes" if value else "no") if isinstance(value, bool) else str(value).strip()


def _cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}\n[... {len(text) - MAX_CHARS} characters left out ...]"
