"""AgentExecutor: the graph of one agent's tasks. Starts what may start, at most `parallel` at once, in order of the brief; asks the kernel before each
attempt and tells it how the attempt ended. Never decides what counts: success, another try and the end of the run are the kernel's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from toka_cli.agent.client import Client, OwnerGone
from toka_cli.agent.strands import Cancelled, Scheduler, Signal, Strand
from toka_cli.agent.task import TaskExecutor
from toka_cli.errors import TokaError
from toka_cli.events import Outcome
from toka_cli.protocol import messages as m


@dataclass(slots=True)
class AgentExecutor:
    """Executes an agent's tasks until none is left or it is told to stop."""

    brief: m.AgentBrief
    client: Client
    scheduler: Scheduler
    tasks: TaskExecutor
    stop_reason: str | None = None
    paused: Signal | None = None
    running: dict[str, Strand] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    resting: set[str] = field(default_factory=set)
    broken: Exception | None = None
    changed: Signal | None = None

    def __post_init__(self) -> None:
        self.tasks.pace = self

    def stop(self, reason: str) -> None:
        """Start nothing more and end what runs; its attempts are reported as stopped."""
        if self.stop_reason is None:
            self.stop_reason = reason
            # A call of the kernel is waited for: whether an attempt has begun or ended is not to be left open.
            for task in self.resting:
                self.scheduler.cancel(self.running[task])
            self.resume()
            self._wake()

    def pause(self) -> None:
        """Start nothing new until `resume`. What runs goes on, but no deadline comes nearer."""
        if self.paused is None and self.stop_reason is None:
            self.paused = Signal(self.scheduler)
            self.scheduler.stand_still()

    def resume(self, frozen_s: float = 0.0) -> None:
        """Go on. `frozen_s` seconds of the pause stood the whole process still."""
        self.scheduler.go_on(frozen_s)
        if self.paused is not None:
            self.paused.set()
            self.paused = None

    async def step(self) -> None:
        """Asked by a conversation before each of its steps: wait while paused. Raises Cancelled once a stop was ordered."""
        while self.paused is not None:
            await self.paused.wait()
        if self.stop_reason is not None:
            raise Cancelled

    @contextmanager
    def asking(self, task: str) -> Iterator[None]:
        """While a model is asked, a stop waits for the kernel's answer: a reply that is paid for is kept. Raises Cancelled afterwards if there was a stop."""
        self.resting.discard(task)
        try:
            yield
        finally:
            self.resting.add(task)
        if self.stop_reason is not None:
            raise Cancelled

    async def run(self) -> None:
        """The main path: start, wait for a change, until all tasks have ended."""
        waiting = {task.id: task for task in self.brief.tasks}
        failed: str | None = None
        while waiting or self.running:
            if self.broken is not None:
                raise self.broken
            await self._while_paused()
            if failed is None:
                failed = next((task for task, end in self.ended.items() if end == "failed"), None)
            if self.stop_reason is None:
                await self._skip(waiting, failed)
                self._start(waiting)
            elif not self.running:
                return
            if self.running:
                self.changed = Signal(self.scheduler)
                await self.changed.wait()
        if self.broken is not None:
            raise self.broken

    async def _while_paused(self) -> None:
        while self.paused is not None and not self.running:
            await self.paused.wait()

    async def _skip(self, waiting: dict[str, m.TaskBrief], failed: str | None) -> None:
        """After a failure that is not allowed nothing new starts, as in the steps of a CI job; the reason names the task that failed."""
        if failed is None:
            return
        for task in list(waiting.values()):
            del waiting[task.id]
            blamed = next((name for name in task.depends_on if self.ended.get(name) in {"failed", "skipped"}), None)
            reason = f"dependency_failed: {blamed}" if blamed else f"task_failed: {failed}"
            self.ended[task.id] = "skipped"
            await self.client.call("task.skip", m.SkipTask(task.id, reason), m.Ack)

    def _start(self, waiting: dict[str, m.TaskBrief]) -> None:
        if self.paused is not None:
            return
        for task in list(waiting.values()):
            if len(self.running) >= self.brief.parallel:
                return
            # A name that is not in this brief ended in an earlier life of the agent.
            if not any(name in waiting or name in self.running for name in task.depends_on):
                del waiting[task.id]
                self.running[task.id] = self.scheduler.spawn(self._one(task))

    async def _one(self, task: m.TaskBrief) -> None:
        try:
            self.ended[task.id] = await self._attempts(task)
        except Exception as error:  # noqa: BLE001  raised again by the main path: what is not known to have ended must not look as if it had
            self.broken = error
        finally:
            del self.running[task.id]
            self._wake()

    async def _attempts(self, task: m.TaskBrief) -> str:
        """Attempts at one task until the kernel's verdict is not `retry`; `succeeded`, `failed` or `stopped`."""
        attempt = 1
        while True:
            while self.paused is not None:
                await self.paused.wait()
            go = await self.client.call("attempt.start", m.StartAttempt(task.id, attempt), m.Go)
            if not go.go:
                return "allowed" if task.allow_failure else "failed"
            ok, reason, outcome = await self._attempt(task)
            verdict = await self.client.call("attempt.finish", m.FinishAttempt(task.id, attempt, ok, reason, outcome), m.Verdict)
            if verdict.verdict != "retry":
                return verdict.verdict
            if not await self._back_off(task, verdict.delay_s):
                return "stopped"
            attempt += 1

    async def _back_off(self, task: m.TaskBrief, delay_s: float) -> bool:
        if self.stop_reason is not None:
            return False
        self.resting.add(task.id)
        try:
            await self.scheduler.rest((), delay_s)
        except Cancelled:
            return False
        finally:
            self.resting.discard(task.id)
        return True

    async def _attempt(self, task: m.TaskBrief) -> tuple[bool, str | None, Outcome]:
        if self.stop_reason is not None:
            return False, f"stopped: {self.stop_reason}", Outcome()
        self.resting.add(task.id)
        try:
            return await self.tasks.attempt(task)
        except Cancelled:
            return False, f"stopped: {self.stop_reason}", Outcome()
        except OwnerGone:
            raise
        except TokaError as error:
            return False, f"{error.code}: {error.message}", Outcome(stderr=error.hint or "")
        except Exception as error:  # noqa: BLE001  one task's surprise must not take the agent's other tasks with it
            return False, f"internal: {type(error).__name__}: {error}", Outcome()
        finally:
            self.resting.discard(task.id)

    def _wake(self) -> None:
        if self.changed is not None:
            self.changed.set()
