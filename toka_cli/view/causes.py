"""Says in a few words why something did not succeed, from what the view knows.

Views come in, cleaned text goes out. It invents nothing: where no reason is known it says so.
"""

from __future__ import annotations

from toka_cli.units import format_duration
from toka_cli.view.text import clean, shown, tail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import Any, Protocol

    from toka_cli.state.snapshot import AgentView, GateView, RunView, TaskView

    class Timed(Protocol):
        """What has a start and a duration."""

        started_at: datetime | None
        duration_s: float | None


def failed_tasks(agent: AgentView) -> list[TaskView]:
    """Return the tasks that failed, in the order of the spec. Those of an agent that succeeded were allowed to fail."""
    return [task for task in agent.tasks if task.state == "failed"]


def blamed(agent: AgentView) -> list[TaskView | GateView]:
    """Return the tasks or gates because of which a failed agent failed, the one that its reason names first; none when it was something else."""
    kind, _, rest = (agent.reason or "").partition(": ")
    if agent.state != "failed" or kind not in {"", "task_failed", "gate_failed"}:
        return []
    tasks = sorted(failed_tasks(agent), key=lambda task: task.id != rest and not rest.startswith(f"{task.id}: "))
    gates = [gate for gate in agent.gates if gate.state == "failed"]
    if kind == "gate_failed":
        return [*gates]
    return [*tasks] if kind else [*tasks, *gates]


def said(agent: AgentView, count: int) -> list[str]:
    """Return the last `count` lines, cleaned, of what was to blame; else of a task that was under way when the agent ended."""
    under_way = [task for task in agent.tasks if task.state in {"stopped", "failed"}]
    for it in blamed(agent) or under_way:
        words = last_words(it.output, getattr(it, "stderr", ""), count)
        if words:
            return words
    return []


def last_words(output: str, stderr: str, count: int, *, ascii_only: bool = False) -> list[str]:
    """Return the last `count` lines of what a task printed, cleaned: of standard error a half, or more if standard output left room."""
    out, err = tail(output, count, ascii_only=ascii_only), tail(stderr, count, ascii_only=ascii_only)
    if not out or not err:
        return out or err
    err = err[-max(count - count // 2, count - len(out)) :]
    room = count - len(err)
    return [*(out[-room:] if room else ()), *err]


def task_cause(task: TaskView) -> str:
    """Return `task ID (description): reason` for a task that did not succeed."""
    label = f"task {shown(task.id, 60)}"
    if task.description and task.description != task.id:
        label += f" ({shown(task.description, 60)})"
    return f"{label}: {_reason(task.reason, task.exit_code, task.signal)}"


def gate_cause(gate: GateView) -> str:
    """Return `gate of objective N (description): reason`."""
    return f"gate of objective {gate.index} ({shown(gate.description, 60)}): {_reason(gate.reason, gate.exit_code, None)}"


def cause(agent: AgentView) -> str:
    """Return why an agent did not succeed: the task or gate to blame, else the agent's own reason."""
    first: Any = next(iter(blamed(agent)), None)
    if first is None:
        return clean(agent.reason) if agent.reason else "no reason was recorded"
    return gate_cause(first) if hasattr(first, "index") else task_cause(first)


def lasted(thing: Timed, now: float | None = None) -> float | None:
    """Return seconds from the start to the end, or to `now` (seconds since 1970) while it goes on; None before the start."""
    if thing.duration_s is not None:
        return thing.duration_s
    if thing.started_at is None or now is None:
        return None
    return max(0.0, now - thing.started_at.timestamp())


def duration(seconds: float | None) -> str:
    """Return a duration as people read it, empty when it is not known."""
    return "" if seconds is None else format_duration(seconds)


def find(view: RunView, name: str) -> AgentView | None:
    """Return the agent with this name."""
    return next((agent for agent in view.agents if agent.name == name), None)


def counts(states: Sequence[str]) -> str:
    """Return `7 succeeded, 1 failed`: how many are in which state, the good news first."""
    order = ("succeeded", "failed", "stopped", "skipped", "running", "starting", "stopping", "paused", "backoff", "retrying", "queued", "pending")
    known = [(state, sum(it == state for it in states)) for state in order]
    return ", ".join(f"{count} {state}" for state, count in known if count)


def _reason(reason: str | None, exit_code: int | None, signal: int | None) -> str:
    if reason:
        return clean(reason)
    if signal is not None:
        return f"ended by signal {signal}"
    return f"exit status {exit_code}" if exit_code is not None else "no reason was recorded"
