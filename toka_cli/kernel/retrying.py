"""Whether another attempt at a task could end differently, by the reason of the last one. In: a reason, a stable word first. Out: yes or no."""

from __future__ import annotations

from typing import Final

from toka_cli.llm.provider import TERMINAL

# A refusal, a missing program and a broken promise of toka's own are not transient.
_FINAL: Final = ("capability_denied", "limit.tool_calls", "limit.output", "limit.disk", "not_started", "not_retryable", "internal")
# Ends of a conversation that another one would come to as well: something has to change first. A shorter or another conversation may fit, or pass a filter.
_TALK_IS_OVER: Final = frozenset(
    {"blocked", "decision_needed", "budget", "replay_miss", "no_model", "refused"}
    | {f"provider_{cause}" for cause in TERMINAL - {"context", "content_filter"}}
)


def may_pass(reason: str) -> bool:
    """True if another attempt could end differently."""
    return not reason.startswith(_FINAL) and reason.partition(":")[0] not in _TALK_IS_OVER
