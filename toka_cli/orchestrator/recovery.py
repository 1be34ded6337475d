"""What a new owner does with a run whose former owner died. Taking the lock and raising the epoch is the log's; here follow the events.

Resume requeues, and everything else goes through the normal door. A task that was under way is in doubt: it is never run again blindly.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from toka_cli import events as e
from toka_cli.errors import DecisionNeeded
from toka_cli.lifecycle import AGENT_FINAL, RUN_FINAL, TASK_FINAL, AgentState, RunState, TaskState
from toka_cli.plan.plan import Plan, PlannedAgent
from toka_cli.protocol.messages import TaskBrief
from toka_cli.state.log import EventLog
from toka_cli.state.snapshot import AgentView, TaskView
from toka_cli.tools.catalog import ToolCatalog

IN_DOUBT: Final = "interrupted: may or may not have taken effect"
NOTHING_CUT_OFF: Final[Mapping[str, e.Outcome]] = MappingProxyType({})
_UNDER_WAY: Final = frozenset({TaskState.RUNNING, TaskState.RETRYING})


def mark_stopped(log: EventLog, reason: str) -> None:
    """End an interrupted run that nobody wants to go on: every task, agent and the run itself become final. Does nothing if the run is final."""
    if log.view.state in RUN_FINAL:
        return
    _mark_interrupted(log)
    for agent in log.view.agents:
        if agent.state in AGENT_FINAL:
            continue
        for task in agent.tasks:
            if task.state in _UNDER_WAY:
                log.append(e.TaskStopped(IN_DOUBT), agent=agent.id, task=task.id)
            elif task.state not in TASK_FINAL:
                log.append(e.TaskStopped(f"stopped: {reason}"), agent=agent.id, task=task.id)
        if agent.state not in {AgentState.PENDING, AgentState.QUEUED, AgentState.BACKOFF}:
            log.append(e.AgentRequeued(), agent=agent.id)
        log.append(e.AgentStopped(f"stopped: {reason}"), agent=agent.id)
    log.append(e.RunStopped(f"stopped: {reason}"))


def requeue(log: EventLog, plan: Plan, in_doubt: str | None) -> None:
    """Let an interrupted run begin again where it was. `in_doubt` (rerun or fail) decides for tasks that say `on_interrupted: ask`.

    Raises DecisionNeeded, before anything is written, when a task asks and nobody decides.
    """
    asking = [f"{agent.name}.{task.id}" for agent, task in _doubtful(log) if _rule(plan, agent, task) == "ask"]
    if asking and in_doubt is None:
        raise DecisionNeeded(
            f"interrupted, and may or may not have taken effect: {', '.join(asking)}",
            hint="look what is there, then say --in-doubt rerun, or --in-doubt fail",
        )
    _mark_interrupted(log)
    for agent in log.view.agents:
        if agent.state not in AGENT_FINAL:
            _requeue_agent(log, plan.agent(agent.name), agent, in_doubt or "fail")
    log.append(e.RunRequeued())


def _mark_interrupted(log: EventLog) -> None:
    if log.view.state != RunState.INTERRUPTED:
        log.append(e.RunInterrupted("the owner ended without a word"))


def _doubtful(log: EventLog) -> list[tuple[AgentView, TaskView]]:
    return [(agent, task) for agent in log.view.agents for task in agent.tasks if task.state == TaskState.RUNNING]


def _rule(plan: Plan, agent: AgentView, task: TaskView) -> str:
    return in_doubt_rule(next(brief for brief in plan.agent(agent.name).tasks if brief.id == task.id))


def in_doubt_rule(task: TaskBrief) -> str:
    """What to do with a task that was cut off: `rerun`, `fail` or `ask`.

    A tool that only looks can be called again whatever the spec says; a conversation is not begun again but gone on with, and knows which of its calls are
    in doubt.
    """
    if task.kind == "prompt":
        return "rerun"
    if task.tool is not None and (tool := ToolCatalog().tools.get(task.tool)) is not None and tool.effect == "pure":
        return "rerun"
    return task.on_interrupted


def requeue_tasks(
    log: EventLog, planned: PlannedAgent, agent: AgentView, asked: str, cut_off: Mapping[str, e.Outcome] = NOTHING_CUT_OFF
) -> str | None:
    """Tasks of a process that is gone wait for the next one, unless running them twice could repeat an effect: then they fail.

    `asked` (rerun or fail) decides for tasks that say `on_interrupted: ask`; `cut_off` is what the attempts under way had written. Returns the id of a task
    that had to succeed and did not, now or before; None if the agent can go on.
    """
    failed: str | None = None
    briefs = {brief.id: brief for brief in planned.tasks}
    for task in agent.tasks:
        if task.state == TaskState.FAILED and not briefs[task.id].allow_failure:
            failed = task.id
        elif task.state == TaskState.RUNNING:
            rule = in_doubt_rule(briefs[task.id])
            if (asked if rule == "ask" else rule) == "rerun":
                log.append(e.TaskRequeued(), agent=agent.id, task=task.id)
            else:
                allowed = briefs[task.id].allow_failure
                log.append(e.TaskFailed(IN_DOUBT, cut_off.get(task.id, e.Outcome()), allowed=allowed), agent=agent.id, task=task.id)
                failed = failed if allowed else task.id
        elif task.state == TaskState.RETRYING:
            # Its last attempt had ended: another one is no repetition.
            log.append(e.TaskRequeued(), agent=agent.id, task=task.id)
    return failed


def _requeue_agent(log: EventLog, planned: PlannedAgent, agent: AgentView, asked: str) -> None:
    failed = requeue_tasks(log, planned, agent, asked)
    if failed is not None:
        _fail(log, agent, failed)
    elif agent.state != AgentState.PENDING:
        log.append(e.AgentRequeued(), agent=agent.id)


def _fail(log: EventLog, agent: AgentView, failed: str) -> None:
    """A task that had to succeed did not: what follows it is skipped, as it would have been."""
    reason = next(task.reason for task in agent.tasks if task.id == failed)
    for task in agent.tasks:
        if task.state not in TASK_FINAL:
            log.append(e.TaskSkipped(f"task_failed: {failed}"), agent=agent.id, task=task.id)
    log.append(e.AgentFailed(f"task_failed: {failed}: {reason}"), agent=agent.id)
