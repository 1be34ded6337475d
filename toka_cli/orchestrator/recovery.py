"""What a new owner does with a run whose former owner died. Taking the lock and raising the epoch is the log's; here follow the events."""

from __future__ import annotations

from toka_cli import events as e
from toka_cli.lifecycle import AGENT_FINAL, RUN_FINAL, TASK_FINAL, AgentState, RunState, TaskState
from toka_cli.state.log import EventLog


def mark_stopped(log: EventLog, reason: str) -> None:
    """End an interrupted run that nobody wants to go on: every task, agent and the run itself become final. Does nothing if the run is final."""
    if log.view.state in RUN_FINAL:
        return
    if log.view.state != RunState.INTERRUPTED:
        log.append(e.RunInterrupted("the owner ended without a word"))
    for agent in log.view.agents:
        if agent.state in AGENT_FINAL:
            continue
        for task in agent.tasks:
            if task.state in {TaskState.RUNNING, TaskState.RETRYING}:
                log.append(e.TaskStopped("interrupted: may or may not have taken effect"), agent=agent.id, task=task.id)
            elif task.state not in TASK_FINAL:
                log.append(e.TaskStopped(f"stopped: {reason}"), agent=agent.id, task=task.id)
        if agent.state not in {AgentState.PENDING, AgentState.QUEUED, AgentState.BACKOFF}:
            log.append(e.AgentRequeued(), agent=agent.id)
        log.append(e.AgentStopped(f"stopped: {reason}"), agent=agent.id)
    log.append(e.RunStopped(f"stopped: {reason}"))
