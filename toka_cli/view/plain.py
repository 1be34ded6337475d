"""Shows a run as plain lines, for pipes, files and build servers: one line for each change of state, no cursor movement.

Committed records and the view after them come in; lines go to the stream. Colour only if the stream may have it. Lines of agents are cleaned, indented and
cannot be read as commands by a build server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TextIO

from toka_cli import events as e
from toka_cli.events import Record
from toka_cli.lifecycle import AGENT_FINAL, RUN_FINAL, AgentState, RunState
from toka_cli.state.snapshot import AgentView, RunView
from toka_cli.units import format_bytes
from toka_cli.view.activity import waiting
from toka_cli.view.causes import counts, duration, lasted
from toka_cli.view.causes import last_words as words_of
from toka_cli.view.queued import drain
from toka_cli.view.style import Line, Span, paint, warning_lines
from toka_cli.view.summary import WARNING_LINES, summary_lines
from toka_cli.view.terminal import Terminal, judge
from toka_cli.view.text import ci_safe, shown
from toka_cli.view.usage import money

HEARTBEAT_S: Final = 60.0
"""A line at least this often: build servers end what is silent for long (ten minutes at the strictest)."""

TAIL_LINES: Final = 10
_LINE: Final = 500
"""Columns of one line of an agent's output; the whole is in the log."""
_CALLS: Final = 8
"""Tool calls of one model turn that are named."""


class PlainRenderer:
    """Writes lines to a stream, flushed after each batch. `terminal` says what the stream may show; without it the stream is judged."""

    def __init__(self, stream: TextIO, terminal: Terminal | None = None) -> None:
        self._stream = stream
        self._terminal = terminal or judge(stream)
        self._agents: dict[str, AgentView] = {}
        self._progress: dict[str, tuple[float, int]] = {}
        self._last_line: float | None = None
        self._wrote = False
        self._warned = 0
        self._held: str | None = None
        # Agents whose wait for a model was told: a wait whose end is put off is one wait.
        self._waits: set[str] = set()

    def start(self, view: RunView) -> None:
        """Say which run this is. Progress that was made before is not told again."""
        for agent in view.agents:
            self._progress[agent.id] = (agent.progress, agent.tasks_done)
        many = f"{len(view.agents)} {'agent' if len(view.agents) == 1 else 'agents'}"
        self._write([[Span("Run "), Span(self._safe(view.id), "bold"), Span(f": {many} in {self._safe(view.workdir)}")]])

    def show(self, records: Sequence[Record], view: RunView) -> None:
        """Write a line for each record that changed a state, and the progress of agents that made some."""
        self._write(self._room(view))
        self._write(line for record in records for line in self._lines(record, view))

    def tick(self, view: RunView, now: float) -> None:
        """Write a sign of life when nothing was written for a minute. That nothing new starts is said here too: on a full disk no record can say it."""
        self._write(self._room(view))
        if self._wrote or self._last_line is None:
            self._wrote, self._last_line = False, now
        elif now - self._last_line >= HEARTBEAT_S:
            self._write([self._heartbeat(view, now)])
            self._wrote, self._last_line = False, now

    def finish(self, view: RunView) -> None:
        """Write the summary, with warnings only if this renderer came too late to tell them all."""
        warnings = self._warned < len(view.warnings)
        self._write(summary_lines(view, ascii_only=self._terminal.ascii_only, warnings=warnings))

    def close(self) -> None:
        """The stream belongs to the caller."""

    def drain(self, timeout_s: float | None) -> None:
        """Wait until the reader has taken everything (None: as long as it takes)."""
        drain(self._stream, timeout_s)

    def _write(self, lines: Iterator[Line] | Sequence[Line]) -> None:
        for line in lines:
            self._stream.write(ci_safe(paint(line, color=self._terminal.color)) + "\n")
            self._wrote = True
        self._stream.flush()

    def _room(self, view: RunView) -> Iterator[Line]:
        if view.held is not None and self._held is None:
            yield [Span("nothing new starts for now: ", "warn"), Span(self._safe(view.held, _LINE))]
        elif view.held is None and self._held is not None and view.state not in RUN_FINAL:
            yield [Span("there is room again: agents start as before")]
        self._held = view.held

    def _safe(self, text: str, width: int = 200) -> str:
        return shown(text, width, ascii_only=self._terminal.ascii_only)

    def _heartbeat(self, view: RunView, now: float) -> Line:
        busy = [(self._safe(agent.name, 40), waiting(agent, now)) for agent in view.agents if agent.state is AgentState.RUNNING]
        running = [f"{name}: {self._safe(waits, 80)}" if waits else name for name, waits in busy]
        names = f" ({', '.join(running[:5])}{', ...' if len(running) > 5 else ''})" if running else ""
        took = duration(lasted(view, now)) or "0s"
        return [Span(f"still {view.state.value} after {took}: {counts([agent.state.value for agent in view.agents])}{names}", "dim")]

    def _lines(self, record: Record, view: RunView) -> Iterator[Line]:
        event, kind = record.event, record.event.kind
        if kind.startswith("run."):
            yield from self._run_lines(event)
        if record.agent is None:
            return
        agent = self._agent(record.agent, view)
        if agent is None:
            return
        head = Span(f"[{self._safe(agent.name, 60)}] ", "bold")
        for line in self._agent_lines(event, agent, record):
            yield [head, *line]
        if isinstance(event, e.TaskRetrying | e.TaskFailed | e.TaskStopped | e.GateFailed):
            yield from self._last_words(event.outcome)
        if kind.startswith("task.") and self._progress.get(agent.id, (0.0, 0)) != (agent.progress, agent.tasks_done):
            self._progress[agent.id] = (agent.progress, agent.tasks_done)
            yield [head, Span(f"Agent progress: {agent.progress * 100:.1f}% ({agent.tasks_done}/{agent.tasks_total})")]

    def _agent(self, agent_id: str, view: RunView) -> AgentView | None:
        agent = self._agents.get(agent_id)
        if agent is None or len(self._agents) != len(view.agents):
            self._agents = {it.id: it for it in view.agents}
            agent = self._agents.get(agent_id)
        elif view.agents and self._agents[view.agents[0].id] is not view.agents[0]:
            # Who follows a log from another terminal gets a new view each time.
            self._agents = {it.id: it for it in view.agents}
            agent = self._agents.get(agent_id)
        return agent

    def _run_lines(self, event: e.AnyEvent) -> Iterator[Line]:
        match event:
            case e.RunWarned():
                self._warned += 1
                yield from warning_lines(event.message, lambda line: self._safe(line, _LINE), most=WARNING_LINES)
            case e.RunPaused():
                yield [Span(f"run paused by {self._safe(event.by)}", "warn")]
            case e.RunResumed():
                yield [Span("run goes on")]
            case e.RunStopping() | e.RunInterrupted():
                word = "stopping" if isinstance(event, e.RunStopping) else RunState.INTERRUPTED.value
                yield [Span(f"run {word}: {self._safe(event.reason)}", "warn")]
            case e.RunRequeued():
                yield [Span("run goes on after an interruption")]
            case e.RunHeld() if self._held is None:
                # Told by `_room` while it happens; who reads a log afterwards gets a view that knows nothing of it any more.
                self._held = event.reason
                yield [Span("nothing new starts for now: ", "warn"), Span(self._safe(event.reason, _LINE))]
            case e.RunReleased() if self._held is not None:
                self._held = None
                yield [Span("there is room again: agents start as before")]
            case _:
                # The start was told by `start`, the end will be told by the summary.
                pass

    def _agent_lines(self, event: e.AnyEvent, agent: AgentView, record: Record) -> Iterator[list[Span]]:
        safe = self._safe
        match event:
            case e.AgentStarting():
                yield [Span("starting" + (f" (attempt {event.attempt})" if event.attempt > 1 else ""))]
            case e.AgentStarted():
                yield [Span(f"started (pid {event.pid})", "busy")]
            case e.AgentPaused():
                yield [Span("paused" + (f": {safe(event.reason)}" if event.reason else ""), "warn")]
            case e.AgentResumed():
                yield [Span("goes on", "warn")]
            case e.AgentStopping():
                yield [Span(f"stopping: {safe(event.reason)}", "warn")]
            case e.AgentBackedOff():
                yield [Span(f"failed: {safe(event.reason)}; starts again after {event.delay_s:g}s", "warn")]
            case e.AgentRequeued():
                yield [Span("waits for its turn again")]
            case e.AgentSucceeded():
                yield [Span("succeeded", "good"), Span(self._took(agent))]
            case e.AgentFailed():
                yield [Span("failed", "bad"), Span(f"{self._took(agent)}: {safe(event.reason)}")]
                if event.hint:
                    yield [Span("  hint: ", "busy"), Span(safe(event.hint, _LINE))]
            case e.AgentStopped():
                yield [Span("stopped", "warn"), Span(f"{self._took(agent)}: {safe(event.reason)}")]
            case e.AgentSkipped():
                yield [Span(f"skipped: {safe(event.reason)}", "dim")]
            case e.ToolDenied():
                yield [Span("denied: ", "warn"), Span(f"{safe(event.tool, 60)} needs {safe(event.capability, 60)}: {safe(event.message)}")]
            case e.AgentNoted() if event.detail.startswith("waiting ") and agent.id not in self._waits:
                self._waits.add(agent.id)
                yield [Span(safe(event.detail), "dim")]
            case e.DeliverableRecorded():
                yield [Span(f"delivered {safe(event.path)} ({format_bytes(event.size_bytes)})")]
            case e.GateStarted():
                yield [Span(f"gate {event.index} started: {safe(event.description, 120)}", "dim")]
            case e.GatePassed():
                yield [Span(f"gate {event.index} "), Span("passed", "good"), Span(self._seconds(event.outcome))]
            case e.GateFailed():
                yield [Span(f"gate {event.index} "), Span("failed", "bad"), Span(f"{self._seconds(event.outcome)}: {safe(event.reason)}")]
            case _:
                yield from self._task_lines(event, agent, record)

    def _task_lines(self, event: e.AnyEvent, agent: AgentView, record: Record) -> Iterator[list[Span]]:
        safe = self._safe
        name = f"task {safe(record.task or '', 60)} "
        match event:
            case e.TaskStarted():
                text = next((task.description for task in agent.tasks if task.id == record.task), "")
                again = f" (attempt {event.attempt})" if event.attempt > 1 else ""
                yield [Span(f"{name}started{again}: {safe(text, 120)}", "dim")]
            case e.TaskRetrying():
                again = f"{self._seconds(event.outcome)}: {safe(event.reason)}; tries again after {event.delay_s:g}s"
                yield [Span(name), Span("failed", "warn"), Span(again)]
            case e.TaskRequeued():
                yield [Span(f"{name}waits for the next process")]
            case e.TaskSucceeded():
                yield [Span(name), Span("succeeded", "good"), Span(self._seconds(event.outcome))]
            case e.TaskFailed():
                word = Span("failed, which is allowed", "warn") if event.allowed else Span("failed", "bad")
                yield [Span(name), word, Span(f"{self._seconds(event.outcome)}: {safe(event.reason)}")]
            case e.TaskStopped():
                yield [Span(name), Span("stopped", "warn"), Span(f"{self._seconds(event.outcome)}: {safe(event.reason)}")]
            case e.TaskSkipped():
                yield [Span(f"{name}skipped: {safe(event.reason)}", "dim")]
            case e.LlmStarted():
                self._waits.discard(agent.id)
            case e.LlmReplied():
                yield [Span(f"{name}turn {event.turn}: {safe(event.model, 60)}, {self._reply(event)}")]
            case e.LlmUnanswered():
                text = f"{name}turn {event.turn}: request {event.number} came to nothing: {safe(event.cause, 40)}: {safe(event.message)}"
                yield [Span(text, "dim")]
            case e.LlmFailed():
                yield [Span(f"{name}turn {event.turn}: "), Span("no answer", "warn"), Span(f": {safe(event.cause, 40)}: {safe(event.message)}")]
            case _:
                pass

    def _reply(self, event: e.LlmReplied) -> str:
        cached = f" ({event.cached_tokens:,} cached)" if event.cached_tokens else ""
        price = "cost not known" if event.cost_usd is None else money(event.cost_usd)
        names = [self._safe(call, 40) for call in event.calls[:_CALLS]]
        more = f" and {len(event.calls) - _CALLS} more" if len(event.calls) > _CALLS else ""
        calls = f", calls {', '.join(names)}{more}" if names else ""
        return f"{event.input_tokens:,} in{cached}, {event.output_tokens:,} out, {'from the cache' if event.from_cache else price}{calls}"

    def _last_words(self, outcome: e.Outcome) -> Iterator[Line]:
        for line in words_of(outcome.output, outcome.stderr, TAIL_LINES, ascii_only=self._terminal.ascii_only):
            yield [Span("    | ", "dim"), Span(shown(line, _LINE, ascii_only=self._terminal.ascii_only))]

    def _took(self, agent: AgentView) -> str:
        return f" ({duration(agent.duration_s)})" if agent.duration_s is not None and agent.state in AGENT_FINAL else ""

    def _seconds(self, outcome: e.Outcome) -> str:
        return f" ({duration(outcome.duration_s)})" if outcome.duration_s is not None else ""
