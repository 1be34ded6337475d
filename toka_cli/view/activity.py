"""What an agent does at this moment, with the seconds it has been at it: asking a model, waiting for a limit, anything that it noted.

An agent as a view has it and the time come in, raw text goes out (whoever shows it cleans it). The log has one fact for the beginning of a wait; that time
goes by is seen here, so that no wait writes an event per second.
"""

from __future__ import annotations

from toka_cli.units import format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from toka_cli.state.snapshot import AgentView


def activity(agent: AgentView, now: float | None) -> str:
    """Return what a live agent does; empty when nothing is known. `now` is seconds since 1970; without it no seconds are counted."""
    return waiting(agent, now) or agent.detail or ""


def waiting(agent: AgentView, now: float | None) -> str:
    """Return what an agent waits for: the answer of a model, or its turn to ask one; empty when it waits for neither."""
    return next(iter(waits(agent, now)), "")


def waits(agent: AgentView, now: float | None) -> tuple[str, ...]:
    """Return the same in ever fewer words, for columns of any width; nothing when it waits for neither."""
    detail = agent.detail or ""
    if agent.state != "running":
        return ()
    since = "" if now is None or agent.detail_since is None else format_duration(max(0, int(now - agent.detail_since.timestamp())))
    # The words are those of `fold` and of the kernel, which says how far an answer got: `asking MODEL, turn N: ...`.
    model, asks, turn = detail.removeprefix("asking ").rpartition(", turn ")
    number, _, heard = turn.partition(": ")
    if asks and detail.startswith("asking ") and number.isdigit():
        if heard:
            return f"turn {number}: {heard}", heard
        brief = f"waiting for the model {since}".rstrip()
        return f"{brief} (turn {number}{model and f', {model}'})", brief, f"model {since}".rstrip()
    if not detail.startswith("waiting "):
        return ()
    what, until, moment = detail.removeprefix("waiting for ").rpartition(" until ")
    if until:
        return detail, f"{what} until {moment}", f"{what.removeprefix('rate ')} until {moment}"
    return f"{detail}{since and f', {since}'}", f"{detail.removeprefix('waiting for ')}{since and f', {since}'}"
