"""Counts over all runs of a state folder: what `toka runtime stats` prints. Old runs are read from their summaries."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from pathlib import Path

import msgspec

from toka_cli.errors import StateUnavailable
from toka_cli.lifecycle import AGENT_FINAL
from toka_cli.state.query import owner_since, scan


class Stats(msgspec.Struct):
    """Numbers over all runs. None where nothing was measured.

    `success_rate` is succeeded agents among those that succeeded, failed or were skipped because something else failed (0..1; stopped ones do not count).
    `memory_bytes` is the sum of the newest samples of live agents, `uptime_s` that of the oldest live owner. `model_turns` counts answers, `model_requests`
    those that a provider gave; `model_cost_usd` is the cost of all agents but the `model_agents_unpriced` whose models have no known price, and
    `model_unsettled_usd` the most that requests without an answer may have cost beside it.
    """

    runs: dict[str, int]
    agents_spawned: int
    agents_active: int
    agents_completed: int
    agents_failed: int
    agents_stopped: int
    agents_skipped: int
    tasks_total: int
    tasks_succeeded: int
    tasks_failed: int
    success_rate: float | None
    agent_duration_s: float | None
    task_duration_s: float | None
    processes_alive: int
    memory_bytes: int | None
    cpu_time_s: float | None
    uptime_s: float | None
    model_turns: int
    model_requests: int
    model_input_tokens: int
    model_output_tokens: int
    model_cost_usd: float | None
    model_unsettled_usd: float
    model_agents_unpriced: int
    damaged: int


def stats(state_dir: Path, *, now: float | None = None) -> Stats:
    """Count. `now` is seconds since 1970, default: the present. Damaged runs are only counted. Raises StateUnavailable if the folder cannot be read."""
    seen, damaged = scan(state_dir)
    present = time.time() if now is None else now
    totals = [it.summary.totals for it in seen]
    agents = sum((Counter(it.agents) for it in totals), Counter[str]())
    tasks = sum((Counter(it.tasks) for it in totals), Counter[str]())
    live = [agent for it in seen if it.live and it.view is not None for agent in it.view.agents]
    memory = [agent.memory_bytes for agent in live if agent.memory_bytes is not None]
    cpu = [it.cpu_time_s for it in totals if it.cpu_time_s is not None]
    usage = [it.usage for it in totals]
    unpriced = sum(it.agents_unpriced for it in totals)
    costs = sum((it.cost_usd for it in usage if it.cost_usd is not None), 0.0)
    judged = agents["succeeded"] + agents["failed"] + agents["skipped"]
    since: list[float] = []
    for it in seen:
        # A run may end and be pruned while others are read.
        with contextlib.suppress(StateUnavailable):
            started = owner_since(it.folder) if it.live else None
            since += [] if started is None else [started]
    return Stats(
        runs=dict(Counter(it.summary.run.state.value for it in seen)),
        agents_spawned=sum(it.agents_spawned for it in totals),
        agents_active=sum(agent.state not in AGENT_FINAL for agent in live),
        agents_completed=agents["succeeded"], agents_failed=agents["failed"], agents_stopped=agents["stopped"], agents_skipped=agents["skipped"],
        tasks_total=tasks.total(), tasks_succeeded=tasks["succeeded"], tasks_failed=tasks["failed"],
        success_rate=agents["succeeded"] / judged if judged else None,
        agent_duration_s=_mean(sum(it.agent_seconds for it in totals), sum(it.agents_timed for it in totals)),
        task_duration_s=_mean(sum(it.task_seconds for it in totals), sum(it.tasks_timed for it in totals)),
        processes_alive=sum(agent.pid is not None for agent in live),
        memory_bytes=sum(memory) if memory else None, cpu_time_s=sum(cpu) if cpu else None,
        uptime_s=max(0.0, present - min(since)) if since else None,
        model_turns=sum(it.turns for it in usage), model_requests=sum(it.llm_requests for it in usage),
        model_input_tokens=sum(it.input_tokens for it in usage), model_output_tokens=sum(it.output_tokens for it in usage),
        # Nothing but unknown prices: that sum is no sum.
        model_cost_usd=costs if costs or not unpriced else None,
        model_unsettled_usd=sum((it.unsettled_usd for it in usage), 0.0), model_agents_unpriced=unpriced, damaged=len(damaged),
    )  # fmt: skip


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None
