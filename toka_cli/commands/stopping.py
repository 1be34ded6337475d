"""Ending agents and runs from any terminal: ask the owner; end an owner that does not answer; mark what nobody runs any more as stopped."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Any

from toka_cli.commands.watching import command, follow
from toka_cli.errors import TokaError
from toka_cli.lifecycle import AGENT_FINAL, RUN_FINAL
from toka_cli.paths import RunFolder
from toka_cli.protocol import control as c
from toka_cli.state import query
from toka_cli.state.owner import is_held, owner_pid
from toka_cli.state.snapshot import AgentView, RunView

REASON = "user"


def stop_agents(folder: RunFolder, agent_ids: tuple[str, ...], *, grace_s: float | None, force: bool) -> list[dict[str, Any]]:
    """Stop agents of one run and wait until they are final; which rung each needed. An agent that had ended before is `already`."""
    before = {agent.id: agent for agent in query.load_run(folder).agents}
    accepted = _command(folder, "agent.stop", c.StopAgents(agent_ids, REASON, grace_s, force), force=force)
    view = _until_final(folder, set(agent_ids)) if accepted is not None else _take_over(folder)
    after = {agent.id: agent for agent in view.agents}
    return [_stopped(before[agent], after[agent]) for agent in agent_ids]


def stop_run(folder: RunFolder, *, grace_s: float | None, force: bool) -> RunView:
    """Stop a whole run and wait until it is final."""
    accepted = _command(folder, "run.stop", c.StopRun(REASON, grace_s, force), force=force)
    if accepted is None:
        return _take_over(folder)
    for look in follow(folder):
        view = look.view
    return view


def _command(folder: RunFolder, method: str, params: c.StopRun | c.StopAgents, *, force: bool) -> c.Accepted | None:
    try:
        return command(folder, method, params)
    except TokaError as error:
        if error.code != "owner_silent" or not force:
            raise
        _end_owner(folder)
        return None


def _until_final(folder: RunFolder, agent_ids: set[str]) -> RunView:
    view = query.load_run(folder)
    for look in follow(folder):
        view = look.view
        if all(agent.state in AGENT_FINAL for agent in view.agents if agent.id in agent_ids):
            break
    return view


def _take_over(folder: RunFolder) -> RunView:
    """Nobody runs it: if it is not final, become its owner and mark it stopped."""
    view = query.load_run(folder)
    if view.state in RUN_FINAL:
        return view
    from toka_cli.orchestrator.recovery import mark_stopped
    from toka_cli.state.log import EventLog

    with EventLog.open(folder) as log:
        mark_stopped(log, REASON)
    return query.load_run(folder)


def _end_owner(folder: RunFolder) -> None:
    """SIGKILL the owner that does not answer; the shims see it go and end their trees. Waits until the lock is free."""
    pid = owner_pid(folder)
    if not pid:
        return
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            # The pid was read from the state file: it is the owner's only while the owner holds the lock.
            if is_held(folder):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                import select

                select.select([descriptor], [], [], 10.0)
        finally:
            os.close(descriptor)


def _stopped(before: AgentView, after: AgentView) -> dict[str, Any]:
    already = before.state in AGENT_FINAL
    return {
        "agent_id": after.id,
        "name": after.name,
        "rung": "already" if already else (after.rung or "asked"),
        "state": after.state,
        "duration_s": after.duration_s,
    }
