"""`summary.json`: what lists and statistics want to know of a run, so that old runs need not be opened. A cache: it can be rebuilt from the state file.

In: a RunView. Out: a file that is replaced atomically, or its content. A file that is missing or wrong reads as None; only the summary of a finished run
may be trusted, because only a finished run never changes.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter

import msgspec

from toka_cli.lifecycle import AgentState
from toka_cli.paths import RunFolder
from toka_cli.state.snapshot import RunSummary, RunView, Usage


class Totals(msgspec.Struct):
    """Sums over the agents and tasks of a run. `*_seconds` go with `*_timed`, the number of those whose duration is known.

    The cost in `usage` is that of the agents whose prices are known; `agents_unpriced` says how many asked models of which they are not.
    """

    agents: dict[str, int] = msgspec.field(default_factory=dict)
    tasks: dict[str, int] = msgspec.field(default_factory=dict)
    agents_spawned: int = 0
    agents_timed: int = 0
    agent_seconds: float = 0.0
    tasks_timed: int = 0
    task_seconds: float = 0.0
    cpu_time_s: float | None = None
    usage: Usage = msgspec.field(default_factory=Usage)
    agents_unpriced: int = 0


class AgentKey(msgspec.Struct, array_like=True):
    """By what an agent is found."""

    id: str
    name: str
    state: AgentState


class Summary(msgspec.Struct):
    """The content of `summary.json`."""

    version: int
    run: RunSummary
    totals: Totals
    agents: list[AgentKey]
    last_seq: int = 0
    audit_head: str | None = None


def line(view: RunView) -> RunSummary:
    """A run as one line of a list."""
    agents = dict(Counter(agent.state.value for agent in view.agents))
    return RunSummary(view.id, view.state, view.reason, view.workdir, view.started_at, view.ended_at, agents, view.created_at)


def totals(view: RunView) -> Totals:
    """Sums over the agents and tasks of a view."""
    tasks = [task for agent in view.agents for task in agent.tasks]
    agent_seconds = [agent.duration_s for agent in view.agents if agent.duration_s is not None and agent.ended_at]
    task_seconds = [task.duration_s for task in tasks if task.duration_s is not None and task.ended_at]
    cpu = [agent.cpu_time_s for agent in view.agents if agent.cpu_time_s is not None]
    costs = [agent.usage.cost_usd for agent in view.agents if agent.usage.cost_usd is not None]
    return Totals(
        agents=dict(Counter(agent.state.value for agent in view.agents)),
        tasks=dict(Counter(task.state.value for task in tasks)),
        agents_spawned=sum(agent.attempts > 0 for agent in view.agents),
        agents_timed=len(agent_seconds), agent_seconds=sum(agent_seconds), tasks_timed=len(task_seconds), task_seconds=sum(task_seconds),
        cpu_time_s=sum(cpu) if cpu else None,
        usage=msgspec.structs.replace(view.usage, cost_usd=sum(costs, 0.0)), agents_unpriced=len(view.agents) - len(costs),
    )  # fmt: skip


def summarise(view: RunView) -> Summary:
    """The summary of a run."""
    agents = [AgentKey(agent.id, agent.name, agent.state) for agent in view.agents]
    return Summary(1, line(view), totals(view), agents, view.last_seq, view.audit_head)


def write(folder: RunFolder, summary: Summary) -> None:
    """Replace the file. It is a cache, so a full disk or a vanished folder is no error here; it is not synced, a torn one reads as None."""
    part = folder.summary.with_name(f".{folder.summary.name}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as out:
            out.write(msgspec.json.encode(summary))
        part.rename(folder.summary)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def read(folder: RunFolder) -> Summary | None:
    """The file's content; None when it is missing, torn, of another version, or of another run."""
    try:
        summary = msgspec.json.decode(folder.summary.read_bytes(), type=Summary)
    except (OSError, ValueError):
        return None
    return summary if summary.version == 1 and summary.run.id == folder.run_id else None
