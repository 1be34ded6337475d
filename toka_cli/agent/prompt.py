"""The words of a conversation: who the agent is (the system message), what it has to do (the first message), and what toka tells it on the way.

In: a brief, what the kernel says of the talk, files of guidance. Out: texts. The same input gives the same text, every time: recordings and providers' caches
live on that. What changes least comes first, and what may differ when a run is played back (limits, results) stands between marks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

import msgspec

from toka_cli.agent.guidance import Guidance
from toka_cli.protocol import messages as m
from toka_cli.protocol import talk as t
from toka_cli.units import format_duration

MARK: Final = "[toka]"
"""Begins every line with which toka itself speaks to a model within a conversation."""

NUDGE_FINISH: Final = f"{MARK} Text without a call does not end the task. If you are done, call finish; else go on with the next call."
NUDGE_STUCK: Final = (
    f"{MARK} You made the same calls with the same results several times. Nothing will change by itself: try something else, or call finish and say "
    "what is in the way."
)
LAST_TURN: Final = f"{MARK} This is your last turn: "
NOT_WELL: Final = ("The call failed: ", "interrupted: ")
"""How results begin of calls that did not do what they should; the second is the kernel's word for one that was cut off."""
NOT_FITTING: Final = "Not taken, the output does not fit: "
RETRY_TEMPERATURE: Final = 0.1

# Words of a domain that choose a template; the first line with a hit decides, after exact names.
_DOMAINS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("security", ("security", "authenti", "authori", "crypto", "secret", "credential", "compliance", "vulnerab")),
    ("quality-assurance", ("quality", "qa", "test", "lint", "review", "coverage")),
    ("documentation", ("document", "docs", "writing", "guide", "manual")),
    ("storage", ("storage", "database", "data-", "persistence", "filesystem", "cache")),
    ("infrastructure", ("infra", "build", "ci", "deploy", "devops", "operation", "platform", "release", "network")),
)
_MAX_TEXT: Final = 20_000
# Control characters but line feed and tab, marks of direction, tags that nobody sees, lone halves of characters.
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]")


def _load() -> dict[str, str]:
    """The templates that ship with toka. Read once, where this module is imported: later, walls may stand between a cell and toka's own files."""
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")
    found = {}
    for entry in sorted(os.listdir(folder)):
        if entry.endswith(".md"):
            with open(os.path.join(folder, entry), encoding="utf-8") as file:
                found[entry.removesuffix(".md")] = file.read().strip()
    return found


TEMPLATES: Final[Mapping[str, str]] = _load()


def template(domain: str | None, own: Mapping[str, str]) -> str:
    """The template for a domain: the user's own of that name, else one that ships with toka, else the one that the domain's words point to."""
    name = (domain or "").strip().lower().replace("_", "-").replace(" ", "-")
    if name in own:
        return own[name].strip()
    if name not in TEMPLATES or name == "rules":
        words = name.split("-")
        name = next(
            (found for found, signs in _DOMAINS for sign in signs if (sign in words if len(sign) <= 2 else sign in name)),
            "general",
        )
    return own.get(name, TEMPLATES[name]).strip()


def system(prompt: m.PromptContext, guidance: Guidance) -> str:
    """The system message: the rules, the domain, the agent, and what the working directory says of itself."""
    parts = [prompt.templates.get("rules", TEMPLATES["rules"]).strip(), f"# Your trade\n{template(prompt.domain, prompt.templates)}"]
    who = [f"# Who you are\n{prompt.title or 'An agent of toka'}."]
    if prompt.description:
        who.append(prompt.description[:_MAX_TEXT].strip())
    if prompt.skills:
        who.append("You are good at: " + ", ".join(prompt.skills) + ".")
    parts.append("\n".join(who))
    if prompt.objectives:
        parts.append("# What your tasks together are for\n" + "\n".join(f"- {one}" for one in prompt.objectives))
    if prompt.directives:
        parts.append(f"# Directives\n{prompt.directives[:_MAX_TEXT].strip()}")
    if prompt.criteria:
        parts.append(f"# It counts as a success when\n{prompt.criteria[:_MAX_TEXT].strip()}")
    parts += _guidance(guidance)
    return "\n\n".join(parts) + "\n"


def _guidance(guidance: Guidance) -> list[str]:
    parts = []
    if guidance.agents is not None:
        path, text = guidance.agents
        parts.append(f"# How work is done in this working directory\n{fenced(text, path, 'guidance')}")
    if guidance.skills:
        lines = [f"- {skill.name}: {skill.description} (read {skill.path})" for skill in guidance.skills]
        listed = fenced("\n".join(lines), "skills", "guidance")
        parts.append(f"# Instructions for certain kinds of work, to be read when you do that kind\n{listed}")
    return parts


def task_message(brief: m.AgentBrief, task: m.TaskBrief, talk: t.Talk, limit_s: float | None) -> str:
    """The first message: the task, what came before it, what it may use up, and what went wrong the last time."""
    parts = [f"# Your task\n{task.description.strip()}"]
    if task.input is not None:
        text = task.input if isinstance(task.input, str) else msgspec.json.format(msgspec.json.encode(task.input), indent=2).decode()
        parts.append(f"# Its input\n{fenced(text[:_MAX_TEXT], 'input')}")
    if task.output_schema is not None:
        parts.append("# Its output\nThe task has to produce data: give it to finish as `output`, in the shape that finish describes.")
    if task.verify is not None:
        check = task.verify.run if isinstance(task.verify.run, str) else " ".join(task.verify.run)
        parts.append(f"# How it is checked\nAfter you finish, toka runs this command; the task succeeded if it ends with status 0:\n{check}")
    if talk.earlier:
        parts.append("# What came before\n" + "\n".join(_earlier(one) for one in talk.earlier))
    if talk.failed is not None:
        words = "This task was tried before and did not succeed. Do not repeat what was done then; find another way. It ended with:"
        parts.append(f"# Another way\n{words}\n{fenced(talk.failed[:2000], 'the attempt before')}")
    parts.append(f"# Limits\n{fenced(_limits(brief, talk.left, limit_s), 'limits')}")
    return "\n\n".join(parts) + "\n"


def _earlier(one: t.Earlier) -> str:
    whose = f" of {one.agent}" if one.agent is not None else ""
    head = f"- {one.description or one.task}{whose}: {one.state}"
    return f"{head}\n{fenced(one.output, f'task {one.task}')}" if one.output.strip() else head


def _limits(brief: m.AgentBrief, left: t.Left, limit_s: float | None) -> str:
    lines = [f"- working directory: {brief.workdir}"]
    if limit_s is not None:
        lines.append(f"- time for this task: {format_duration(limit_s)}")
    if left.tool_calls is not None:
        lines.append(f"- tool calls left: {left.tool_calls}")
    if left.tokens is not None:
        lines.append(f"- tokens left: {left.tokens}")
    if left.cost_usd is not None:
        lines.append(f"- money left: {left.cost_usd:.4f} USD")
    return "\n".join(lines)


def fenced(text: str, source: str, kind: str = "untrusted") -> str:
    """Text of others, labelled, between marks that it cannot hold itself: they carry a hash of the text. The rules say what the kinds mean.

    The gateway knows by these marks what is data in a prompt (`llm.untrusted`): their form is its own, to the letter.
    """
    text = _CONTROLS.sub("", text)
    name = re.sub(r'["<>\n]', " ", _CONTROLS.sub("", source))[:200]
    seal = sha256(f"{name}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f'<{kind} source="{name}" id="{seal}">\n{text}\n</{kind} id="{seal}">'


def last_turn(why: str) -> str:
    """Told once, when only one turn is left."""
    return f"{LAST_TURN}{why}. Call finish now; say what is done, what is not, and how it could be gone on with."


def too_many_calls(limit: int) -> str:
    """The kernel's words for a call above the limit of calls."""
    return f"limit.tool_calls: more than {limit} tool calls"


def refused(message: str, hint: str | None) -> str:
    """Told in place of a result, when a grant is missing."""
    how = f"\n{hint}" if hint else ""
    return (
        f"Refused, and not retryable: {message}{how}\nThis is the policy of the person who runs you; only they can change it. "
        "Do what can be done without it, or call finish with status blocked and name the grant."
    )


def not_run(why: str) -> str:
    """Told in place of the result of a call that was not made."""
    return f"Not run: {why}"


def failed(error: str, hint: str | None) -> str:
    """Told in place of the result of a call that could not be done."""
    return f"The call failed: {error}" + (f"\n{hint}" if hint else "")


def repair(problem: str) -> str:
    """Told when the output does not have the shape that was asked for."""
    return f"{NOT_FITTING}{problem[:1000]}. Call finish once more, with an output in the shape that it describes."
