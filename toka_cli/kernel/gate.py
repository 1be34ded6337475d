"""A gate's cell, answered: one command that proves an objective, run in a fresh cell that shares nothing with the agent's but the workdir."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from toka_cli.errors import ProtocolError
from toka_cli.events import Outcome
from toka_cli.kernel.outputs import AgentLog, TaskOutput
from toka_cli.protocol import messages as m
from toka_cli.protocol.peer import Answer


@dataclass(slots=True)
class GateSession:
    """The kernel's side of a gate. `on_hello` and `on_finish` are called once; `reason` is None when the command ended with status 0."""

    brief: m.AgentBrief
    output: AgentLog
    on_hello: Callable[[], None]
    on_finish: Callable[[], None]
    outcome: Outcome = field(default_factory=Outcome)
    reason: str | None = "the gate's cell ended before its command did"
    finished: bool = False
    _written: TaskOutput = field(init=False)

    def __post_init__(self) -> None:
        self._written = self.output.begin(self.brief.tasks[0].id)

    def serve(self, method: str, params: m.Message, answer: Answer) -> None:
        """Answer one call. A gate calls no tools and starts one attempt. Raises ProtocolError."""
        task = self.brief.tasks[0].id
        match params:
            case m.Hello():
                answer(self.brief)
                self.on_hello()
            case m.StartAttempt(task=name, attempt=1) if name == task:
                answer(m.Go(go=True))
            case m.Output(task=name, stream="stdout" | "stderr") if name == task:
                self._written.add(params.stream, params.data)
            case m.FinishAttempt(task=name) if name == task:
                self._written.end()
                self.outcome = self._written.clean(params.outcome)
                self.reason = None if params.ok else self.output.secrets.text(params.reason or "failed")
                answer(m.Verdict("succeeded" if params.ok else "failed"))
            case m.FinishAgent():
                self.finished = True
                answer(m.Ack())
                self.on_finish()
            case m.Note() | m.Beat():
                pass
            case _:
                raise ProtocolError(f"a gate does not call {method}")
