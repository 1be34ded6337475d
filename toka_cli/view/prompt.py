"""Text for `agent show --prompt`: the conversations of an agent with its models, message by message, as they were sent.

An agent and its conversations come in, lines go out. What models and tools wrote is cleaned and stands indented, so that none of it can look like a line of
ours; nothing is cut. It reads no state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from toka_cli.state.prompts import Said, Talk, Turn
from toka_cli.state.snapshot import AgentView
from toka_cli.view.style import Line, Span
from toka_cli.view.text import clean
from toka_cli.view.usage import money

_INDENT = "    "
_STYLES = {"system": "busy", "user": "busy", "assistant": "good", "tool": "dim"}


def prompt_lines(agent: AgentView, talks: Sequence[Talk], *, artifacts: str, ascii_only: bool = False) -> Iterator[Line]:
    """Yield the lines. `artifacts` is the folder of the run's artifacts, where results of tools lie that are too long for the state file."""

    def safe(text: str) -> str:
        return clean(text, ascii_only=ascii_only)

    asking = [task for task in agent.tasks if task.kind == "prompt"]
    if not asking:
        yield [Span(f"{safe(agent.name)} has no prompt task: it asks no model")]
    for number, task in enumerate(asking):
        if number:
            yield []
        found = [talk for talk in talks if talk.task == task.id]
        head = f"task {safe(task.id)}" + (f" ({safe(task.description)})" if task.description not in {"", task.id} else "")
        if not found:
            yield [Span(head, "bold"), Span(": nothing was sent yet" if task.attempts else ": not started")]
        for talk in found:
            again = f", conversation {talk.number} of {len(found)}, begun with attempt {talk.attempt}" if len(found) > 1 else ""
            yield [Span(head, "bold"), Span(again)]
            before = None
            for turn in talk.turns:
                yield from _turn(turn, before, artifacts, ascii_only)
                before = turn


def _turn(turn: Turn, before: Turn | None, artifacts: str, ascii_only: bool) -> Iterator[Line]:
    more_dropped = turn.dropped > max(2, before.dropped if before else 0)
    if more_dropped or turn.shortened:
        left_out = f"messages 3 to {turn.dropped}" if more_dropped else ""
        short = f"the long texts of {', '.join(str(number + 1) for number in turn.shortened)}" if turn.shortened else ""
        yield [Span(f"  (from here on the model was not shown {' and '.join(filter(None, (left_out, short)))})", "dim")]
    for message in turn.messages:
        yield from _message(message, "", artifacts, ascii_only)
    facts = [clean(turn.model or "no model", ascii_only=ascii_only)]
    facts += [f"temperature {turn.temperature:g}"] if turn.temperature is not None else []
    if turn.tools and (before is None or turn.tools != before.tools):
        facts.append(f"tools {clean(' '.join(turn.tools), ascii_only=ascii_only)}")
    facts += [f"{turn.input_tokens:,} tokens in, {turn.output_tokens or 0:,} out"] if turn.input_tokens is not None else []
    facts += [money(turn.cost_usd)] if turn.cost_usd is not None else []
    if turn.reply is not None:
        yield from _message(turn.reply, f" (turn {turn.turn}: {', '.join(facts)})", artifacts, ascii_only)
    else:
        why = f": {clean(turn.error, ascii_only=ascii_only)}" if turn.error else ""
        yield [Span(f"  turn {turn.turn}", "warn"), Span(f" ({', '.join(facts)}): "), Span(clean(turn.state, ascii_only=ascii_only), "warn"), Span(why)]


def _message(message: Said, more: str, artifacts: str, ascii_only: bool) -> Iterator[Line]:
    name = f"{message.role} {message.tool}" if message.tool else message.role
    yield [Span(f"  {clean(name, ascii_only=ascii_only)}", _STYLES.get(message.role, "")), Span(f"{more}:")]
    if message.artifact is not None:
        yield [Span(f"{_INDENT}[the result is in {clean(f'{artifacts}/{message.artifact}', ascii_only=ascii_only)}]", "dim")]
    if message.content:
        for line in clean(message.content.rstrip("\n"), newlines=True, ascii_only=ascii_only).split("\n"):
            yield [Span(f"{_INDENT}{line}")]
    for tool, arguments in message.calls:
        yield [Span(f"{_INDENT}calls ", "dim"), Span(f"{clean(tool, ascii_only=ascii_only)} {clean(arguments, ascii_only=ascii_only)}")]
