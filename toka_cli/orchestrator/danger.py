"""What follows when something beyond one agent is wrong: signs that an agent does what nobody asked for, and models that cannot be asked any more.

In: what the kernel saw. Out: an agent that is paused or ended, or a run that is interrupted; each time the audit trail or the log says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from toka_cli import events as e
from toka_cli.errors import EXIT_BUDGET, EXIT_REPLAY, EXIT_UNAVAILABLE, BudgetExhausted, ReplayMiss, TokaError
from toka_cli.kernel.kernel import Kernel
from toka_cli.llm.provider import BREAKING, ProviderError
from toka_cli.orchestrator.orchestrator import Orchestrator
from toka_cli.plan.plan import Plan
from toka_cli.state.log import EventLog

WORDS: Final = {"denials": "a burst of refusals", "secret": "a secret in what was about to leave", "new_host": "a host that is not listed by its name"}


@dataclass(frozen=True, slots=True)
class Danger:
    """Acts on signs of danger as the plan's policy says: record, pause (for a person to decide), or stop. `attended`: a person can be asked."""

    plan: Plan
    log: EventLog
    kernel: Kernel
    orchestrator: Orchestrator
    attended: bool

    def sign(self, agent_id: str, kind: str, detail: str) -> None:
        """A sign of danger from an agent."""
        answer = str(self.plan.options.get("on_threat", "pause"))
        name = self.log.agent(agent_id).name
        said = f"{WORDS.get(kind, kind)}: {detail}"
        self.log.audit("threat", "recorded", subject=agent_id, context={"kind": kind, "detail": detail, "answer": answer})
        if answer == "pause" and self.attended and self.orchestrator.runs[name].pause(hard=True, reason=said):
            self.log.append(e.RunWarned(f"{name} was paused: {said}; toka agent resume {agent_id} lets it go on, toka agent stop {agent_id} ends it", "threat"))
        elif answer == "record" or (answer == "pause" and kind != "secret"):
            # Nobody can be asked. What was refused did no harm; only where a secret was about to leave does the agent not go on.
            self.log.append(e.RunWarned(f"{name}: {said}", "threat"))
        else:
            self.kernel.breach(agent_id, f"threat: {said}" if answer == "stop" else f"decision_needed: threat: {said}")


@dataclass(frozen=True, slots=True)
class Blocked:
    """Acts on models that cannot be asked: what holds for every agent interrupts the run, so that it can go on when it is mended."""

    orchestrator: Orchestrator

    def by(self, error: TokaError) -> bool:
        """True if the run is being interrupted because of this error."""
        if isinstance(error, ReplayMiss):
            self.orchestrator.stop_run(f"replay: {error.message}", exit_code=EXIT_REPLAY)
            return False
        if isinstance(error, ProviderError) and error.cause in BREAKING:
            self.orchestrator.stop_run(f"provider: {error.message}", exit_code=EXIT_UNAVAILABLE, resumable=True)
            return True
        if isinstance(error, BudgetExhausted) and error.of_run:
            self.orchestrator.stop_run(f"budget: {error.message}", exit_code=EXIT_BUDGET, resumable=True)
            return True
        return False
