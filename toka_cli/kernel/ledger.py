"""What requests to models use, written down as they are made, and read back by the owner that resumes the run.

In: what the gateway says of every request. Out: events; and from a log, what was spent and when requests went out. A request that was under way when an owner
was killed counts with the most that it could use. It decides nothing.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from toka_cli import events as e
from toka_cli.errors import StateUnavailable
from toka_cli.llm.budget import Spent, SpentRow
from toka_cli.llm.call import CallRecord, Sending
from toka_cli.llm.redact import Redactor
from toka_cli.llm.window import WINDOW_S
from toka_cli.state.log import EventLog
from toka_cli.state.snapshot import RunView

MAX_WORDS: Final = 500


@dataclass(frozen=True, slots=True)
class Ledger:
    """Writes for one owner. `secrets` are not written down."""

    log: EventLog
    secrets: Redactor

    def sends(self, sending: Sending) -> None:
        """A request goes out."""
        caller = sending.caller
        asked = e.LlmAsked(caller.turn, sending.model, sending.number, sending.most_usd, sending.most_tokens)
        self._append(asked, caller.agent_id, caller.task)

    def ended(self, record: CallRecord) -> None:
        """A request has ended. What an answer used is written down with the answer."""
        if record.source == "provider" and record.cause:
            caller, words = record.caller, self.secrets.text(record.message)[:MAX_WORDS]
            used = record.charged_usd, record.charged_tokens
            self._append(e.LlmUnanswered(caller.turn, record.number, record.cause, words, *used), caller.agent_id, caller.task)

    def earlier(self) -> tuple[float, ...]:
        """When a former owner sent requests within the last minute, in seconds since 1970."""
        return self.log.moments("llm.asked", self.log.clock() - WINDOW_S)

    def _append(self, event: e.AnyEvent, agent: str, task: str) -> None:
        # A log that failed, or is closed because the run is over, has told everybody who can do something about it.
        with suppress(StateUnavailable):
            self.log.append(event, agent=agent, task=task)


def spent(view: RunView) -> Spent:
    """What a run has used so far, as far as it is known, and the most where it is not."""
    rows = []
    for agent in view.agents:
        for task in agent.tasks:
            usage = task.usage
            usd = (usage.cost_usd or 0.0) + usage.unsettled_usd + task.asked_usd
            tokens = usage.input_tokens + usage.output_tokens + usage.unsettled_tokens + task.asked_tokens
            if usd or tokens:
                rows.append(SpentRow(agent.workstream, agent.name, task.id, usd, tokens))
    return Spent(tuple(rows))
