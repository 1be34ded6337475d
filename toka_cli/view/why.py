"""One honest sentence about an agent: what it does, what it waits for, or why it ended as it did.

The view of a run and one of its agents come in, a sentence of cleaned text goes out. What is not known is not guessed.
"""

from __future__ import annotations

from toka_cli.lifecycle import AGENT_FINAL, RUN_FINAL, AgentState, RunState, TaskState
from toka_cli.state.snapshot import AgentView, RunView
from toka_cli.view.activity import activity, waiting
from toka_cli.view.causes import cause, duration, failed_tasks, find, said
from toka_cli.view.text import clean, shown

# Those that hold a slot; who waits for its restart keeps it.
_ALIVE = frozenset({AgentState.STARTING, AgentState.RUNNING, AgentState.PAUSED, AgentState.STOPPING, AgentState.BACKOFF})
_NAMES_SHOWN = 8


def why(view: RunView, agent: AgentView, now: float | None = None) -> str:
    """Return what the agent is doing or waiting for, for how long (`now` is seconds since 1970), or why it ended so."""
    name = shown(agent.name, 200)
    if agent.state in AGENT_FINAL:
        return f"{name} {_ended(view, agent)}"
    if view.state is RunState.INTERRUPTED:
        gone = f" ({clean(view.reason)})" if view.reason else ""
        return f"{name} does nothing: it was {agent.state.value} when its run was interrupted{gone}."
    if view.state in RUN_FINAL:
        return f"{name} was {agent.state.value} when its run ended as {view.state.value}."
    return f"{name} {_doing(view, agent, now)}"


def _doing(view: RunView, agent: AgentView, now: float | None) -> str:
    match agent.state:
        case AgentState.PENDING | AgentState.QUEUED:
            return _waiting(view, agent)
        case AgentState.STARTING:
            again = f" (attempt {agent.attempts})" if agent.attempts > 1 else ""
            return f"is starting{again}: its process is being made."
        case AgentState.PAUSED:
            return f"is paused{_because(agent.detail)} and starts nothing new until it is resumed{_denied(agent)}."
        case AgentState.STOPPING:
            return f"is being stopped{_because(agent.reason)}."
        case AgentState.BACKOFF:
            return f"failed{_because(agent.reason)} and tries again{': ' + clean(agent.detail) if agent.detail else ''}."
        case _:
            return _running(view, agent, now)


def _waiting(view: RunView, agent: AgentView) -> str:
    paused = " The run is paused." if view.state is RunState.PAUSED else ""
    if view.state is RunState.PENDING:
        return "waits: its run has not started yet."
    if view.state is RunState.STOPPING:
        return f"waits, and will not start: the run is being stopped{_because(view.reason)}."
    if view.held is not None and (agent.state is AgentState.QUEUED or not _blockers(view, agent)):
        return f"waits until this machine has room again: {clean(view.held).rstrip('.')}.{paused}"
    if agent.state is AgentState.QUEUED:
        return f"{_slot(view)}{paused}"
    known = _blockers(view, agent)
    if not known:
        return f"waits for its turn: nothing that it depends on is still to be done.{paused}"
    more = f" and {len(known) - _NAMES_SHOWN} more" if len(known) > _NAMES_SHOWN else ""
    return f"waits for {', '.join(known[:_NAMES_SHOWN])}{more}.{paused}"


def _slot(view: RunView) -> str:
    """Who holds the slots, how many there are, and why so many: as the run was admitted, or as it was lowered since."""
    alive = sum(it.state in _ALIVE for it in view.agents)
    at_once, reason = view.options.get("at_once"), view.options.get("max_agents_reason")
    now = f"{alive} {'agent holds one' if alive == 1 else 'agents hold one'} now"
    if not isinstance(at_once, int):
        return f"waits for a free slot: {now}."
    why = f": {clean(reason).rstrip('.')}" if isinstance(reason, str) and reason else ""
    if alive < at_once:
        return f"is about to start: {now}, and {at_once} run at once{why}."
    return f"waits for a free slot: {now}, and {at_once} run at once{why}."


def _blockers(view: RunView, agent: AgentView) -> list[str]:
    """Those that the agent waits for, each with how it stands."""
    found = [_blocker(view, name, " (if possible)" * (name not in agent.depends_on)) for name in [*agent.depends_on, *agent.after]]
    return [text for text in found if text]


def _blocker(view: RunView, name: str, optional: str) -> str:
    other = find(view, name)
    if other is None or other.state is AgentState.SUCCEEDED or (optional and other.state in AGENT_FINAL):
        return ""
    return f"{shown(name, 60)}: {other.state.value}{optional}"


def _running(view: RunView, agent: AgentView, now: float | None) -> str:
    done = f"{agent.tasks_done} of {agent.tasks_total} tasks done{_denied(agent)}"
    retrying = [task for task in agent.tasks if task.state is TaskState.RETRYING]
    running = [task for task in agent.tasks if task.state is TaskState.RUNNING]
    paused = "; the run is paused and nothing new starts" if view.state is RunState.PAUSED else ""
    if running:
        task = running[0]
        attempt = f", attempt {task.attempts}" if task.attempts > 1 else ""
        more = f" and {len(running) - 1} more" if len(running) > 1 else ""
        waits = f": {shown(waiting(agent, now), 200)}" if waiting(agent, now) else ""
        return f"is running task {shown(task.id, 60)} ({shown(task.description, 100)}{attempt}){more}{waits}; {done}{paused}."
    if retrying:
        task = retrying[0]
        wait = f"{clean(agent.detail)}, because it failed" if agent.detail else f"tries task {shown(task.id, 60)} again, because it failed"
        return f"{wait}{_because(task.reason)} (attempt {task.attempts}); {done}{paused}."
    gate = next((gate for gate in agent.gates if gate.state == "running"), None)
    if gate is not None:
        return f"is checking the gate of objective {gate.index} ({shown(gate.description, 100)}); {done}{paused}."
    return f"is running: {clean(activity(agent, now)) or 'between two tasks'}; {done}{paused}."


def _ended(view: RunView, agent: AgentView) -> str:
    match agent.state:
        case AgentState.SUCCEEDED:
            parts = [f"{agent.tasks_done} of {agent.tasks_total} tasks done"]
            if agent.gates:
                parts.append(f"{sum(gate.state == 'succeeded' for gate in agent.gates)} of {len(agent.gates)} gates passed")
            allowed = len(failed_tasks(agent))
            if allowed:
                parts.append(f"{allowed} allowed to fail and did")
            took = f" in {duration(agent.duration_s)}" if agent.duration_s is not None else ""
            return f"succeeded{took}: {', '.join(parts)}{_denied(agent)}."
        case AgentState.SKIPPED:
            return f"was skipped because {_skip_reason(view, agent)}."
        case AgentState.STOPPED:
            return f"was stopped{_because(agent.reason)}, with {agent.tasks_done} of {agent.tasks_total} tasks done{_denied(agent)}."
        case _:
            hint = f"; hint: {clean(agent.hint).rstrip('.')}" if agent.hint else ""
            return f"failed because {cause(agent).rstrip('.')}{_said(agent)}{_denied(agent)}{hint}."


def _skip_reason(view: RunView, agent: AgentView) -> str:
    """Follow `dependency_failed: NAME` to the agent where the trouble began; a circle cannot be, but a loop must end."""
    reason = clean(agent.reason) if agent.reason else "no reason was recorded"
    root, seen = agent, {agent.name}
    while root.reason and root.reason.startswith("dependency_failed: "):
        other = find(view, root.reason.removeprefix("dependency_failed: "))
        if other is None or other.name in seen:
            break
        seen.add(other.name)
        root = other
    if root is agent:
        return reason
    return f"{shown(root.name, 200)}, which it needs, {_past(root)}: {cause(root)} ({reason})"


def _past(agent: AgentView) -> str:
    return {AgentState.FAILED: "failed", AgentState.STOPPED: "was stopped", AgentState.SKIPPED: "was skipped"}.get(agent.state, "did not succeed")


def _said(agent: AgentView) -> str:
    words = said(agent, 1)
    return f'; it said last: "{shown(words[-1].strip(), 300)}"' if words else ""


def _denied(agent: AgentView) -> str:
    return f"; {agent.denied} {'act was' if agent.denied == 1 else 'acts were'} denied for want of a grant" if agent.denied else ""


def _because(reason: str | None) -> str:
    return f" ({clean(reason)})" if reason else ""
