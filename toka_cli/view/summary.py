"""How a run ended, in short: lines for people at the end of a run, Markdown for a build server's page.

A view comes in, cleaned text goes out. In the Markdown no text of an agent can be a link, a tag, a mention or a table's edge. It writes nothing.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Final

from toka_cli.lifecycle import RUN_FINAL, AgentState, RunState
from toka_cli.state.snapshot import AgentView, RunView
from toka_cli.units import format_bytes
from toka_cli.view.causes import cause, counts, duration, said
from toka_cli.view.style import STATE_STYLES, Line, Span, warning_lines
from toka_cli.view.text import clean, shown
from toka_cli.view.usage import asked, cost, spenders, turns, usage_text, workstreams

SHOWN: Final = 10
"""Agents, files and warnings that a summary lists; the rest is counted."""
WARNING_LINES: Final = 12

_MARKUP: Final = re.compile(r"[!-'*+:-@\[-`{-~]|(?<=www)\.|^-", re.IGNORECASE)
"""ASCII signs that Markdown or HTML may read as more than themselves; all but ( ) , . / and the dash inside a line."""


def text_summary(view: RunView, *, ascii_only: bool = False) -> list[str]:
    """Return the summary as plain lines of cleaned text."""
    return ["".join(span.text for span in line) for line in summary_lines(view, ascii_only=ascii_only)]


def summary_lines(view: RunView, *, ascii_only: bool = False, warnings: bool = True) -> list[Line]:
    """Return the summary as lines with styles: how many ended how, what failed and why, what was made, where to look next.

    Without `warnings` those of the run are left out: whoever showed each when it came need not say it again.
    """

    def safe(text: str, width: int = 200) -> str:
        return shown(text, width, ascii_only=ascii_only)

    took = f" in {duration(view.duration_s)}" if view.duration_s is not None else ""
    agents = counts([agent.state.value for agent in view.agents]) or "no agents"
    why = f" ({safe(view.reason)})" if view.reason else ""
    lines: list[Line] = [
        [Span("Run "), Span(safe(view.id), "bold"), Span(" "), Span(view.state.value, STATE_STYLES[view.state.value]), Span(f"{took}{why}: {agents}")]
    ]
    failed = [agent for agent in view.agents if agent.state is AgentState.FAILED]
    for agent in failed[:SHOWN]:
        lines.append([Span("  failed  ", "bad"), Span(safe(agent.name, 80), "bold"), Span(f": {safe(cause(agent), 300)}")])
        if agent.hint:
            lines.append([Span("    hint: ", "busy"), Span(safe(agent.hint, 300))])
    skipped = [agent for agent in view.agents if agent.state is AgentState.SKIPPED]
    lines += [[Span("  skipped ", "dim"), Span(safe(agent.name, 80)), Span(f": {safe(cause(agent))}")] for agent in skipped[:SHOWN]]
    hidden = max(0, len(failed) - SHOWN) + max(0, len(skipped) - SHOWN)
    if hidden:
        lines.append([Span(f"  and {hidden} more that failed or were skipped", "dim")])
    denied = sum(agent.denied for agent in view.agents)
    if denied:
        lines.append([Span(f"  {denied} {'act was' if denied == 1 else 'acts were'} denied for want of a grant", "warn")])
    told = view.warnings if warnings else []
    for warning in told[:SHOWN]:
        lines += warning_lines(warning, lambda line: safe(line, 300), "  ", WARNING_LINES)
    if len(told) > SHOWN:
        lines.append([Span(f"  and {len(told) - SHOWN} more warnings", "dim")])
    files = [f"{safe(it.path)} ({format_bytes(it.size_bytes)})" for it in view.deliverables[:SHOWN]]
    if files:
        more = f" and {len(view.deliverables) - SHOWN} more" if len(view.deliverables) > SHOWN else ""
        lines.append([Span(f"Deliverables: {', '.join(files)}{more}")])
    lines += _spent(view, ascii_only)
    if view.audit_head and view.state in RUN_FINAL:
        # Noted outside the run's folder it proves later that no decision was cut off the end of the trail.
        lines.append([Span(f"Audit head: {safe(view.audit_head)}", "dim")])
    lines.append([Span("Go on: " if view.state is RunState.INTERRUPTED else "Look deeper: "), *_next(view, failed, ascii_only)])
    return lines


def markdown_summary(view: RunView) -> str:
    """Return the summary as GitHub-flavoured Markdown, for --summary and GITHUB_STEP_SUMMARY."""
    took = f" in {duration(view.duration_s)}" if view.duration_s is not None else ""
    reason = f" ({_md(view.reason, 300)})" if view.reason else ""
    parts = [f"### toka: run {_md(view.id)} {view.state.value}{took}{reason}", ""]
    parts += [counts([agent.state.value for agent in view.agents]) or "no agents", ""]
    if view.agents:
        parts += ["| agent | workstream | state | tasks | time | reason |", "| --- | --- | --- | ---: | ---: | --- |"]
        parts += [_md_row(agent) for agent in view.agents]
        parts.append("")
    for agent in [agent for agent in view.agents if agent.state is AgentState.FAILED][:SHOWN]:
        words = said(agent, 30)
        parts += [f"<details><summary>{_md(agent.name, 80)}: {_md(cause(agent), 300)}</summary>", ""]
        parts += ["<pre>" + "\n".join(html.escape(shown(line, 500)) for line in words) + "</pre>", ""] if words else []
        parts += ["</details>", ""]
    if view.deliverables:
        parts += ["Deliverables:", ""]
        parts += [f"* {_md(it.path)} ({format_bytes(it.size_bytes)}, by {_md(it.agent, 80)})" for it in view.deliverables[:100]]
        parts.append("")
    if view.warnings:
        parts += ["Warnings:", "", *(f"* {_md(warning, 500)}" for warning in view.warnings[:100]), ""]
    if asked(view.usage):
        parts += [f"Model: {_md(usage_text(view.usage))}", "", *_md_spent(view), ""]
    if view.audit_head and view.state in RUN_FINAL:
        parts += [f"Audit head: {_md(view.audit_head)}", ""]
    return "\n".join(parts).rstrip() + "\n"


def _md_row(agent: AgentView) -> str:
    reason = "" if agent.state is AgentState.SUCCEEDED or not agent.reason else _md(cause(agent), 300)
    tasks = f"{agent.tasks_done}/{agent.tasks_total}"
    workstream = _md(agent.workstream, 80)
    return f"| {_md(agent.name, 80)} | {workstream} | {agent.state.value} | {tasks} | {duration(agent.duration_s)} | {reason} |"


def _md(text: str, width: int = 200) -> str:
    """Return cleaned text in which every sign that Markdown or HTML could read is a numeric entity, which is never structure."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", shown(text, width))


def _next(view: RunView, failed: list[AgentView], ascii_only: bool) -> list[Span]:
    commands = [f"toka run show {clean(view.id, ascii_only=ascii_only)}"]
    if view.state is RunState.INTERRUPTED:
        commands.insert(0, f"toka run resume {clean(view.id, ascii_only=ascii_only)}")
    elif failed:
        # An id needs no quoting, a name might.
        commands.insert(0, f"toka agent logs {clean(failed[0].id, ascii_only=ascii_only)}")
    elif view.state not in RUN_FINAL and view.agents:
        commands.insert(0, f"toka agent why {clean(view.agents[0].id, ascii_only=ascii_only)}")
    return [Span("; ".join(commands), "busy")]


def _spent(view: RunView, ascii_only: bool) -> Iterator[Line]:
    """What the models cost: the run, then each agent that asked one, then each workstream of several."""
    if not asked(view.usage):
        return
    yield [Span(f"Model: {usage_text(view.usage)}")]
    agents = spenders(view)
    if len(view.agents) > 1:
        for agent in agents[:SHOWN]:
            stream = "" if agent.workstream == agent.name else f" ({shown(agent.workstream, 80, ascii_only=ascii_only)})"
            yield [Span(f"  {shown(agent.name, 80, ascii_only=ascii_only)}{stream}: {usage_text(agent.usage)}")]
    if len(agents) > SHOWN:
        yield [Span(f"  and {len(agents) - SHOWN} more agents that asked a model", "dim")]
    streams = workstreams(agents)
    for name, usage in [*streams.items()][:SHOWN]:
        yield [Span(f"  workstream {shown(name, 80, ascii_only=ascii_only)}: {usage_text(usage)}")]
    if len(streams) > SHOWN:
        yield [Span(f"  and {len(streams) - SHOWN} more workstreams", "dim")]


def _md_spent(view: RunView) -> Iterator[str]:
    yield "| asked a model | workstream | turns | tokens in | tokens out | cost |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    agents = spenders(view)
    rows = [(agent.name, agent.workstream, agent.usage) for agent in agents[:100]]
    rows += [("all of the workstream", name, usage) for name, usage in [*workstreams(agents).items()][:100]]
    for name, workstream, usage in rows:
        figures = f"{turns(usage)} | {usage.input_tokens:,} | {usage.output_tokens:,} | {_md(cost(usage))}"
        yield f"| {_md(name, 80)} | {_md(workstream, 80)} | {figures} |"
