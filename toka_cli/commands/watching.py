"""Following a run from another terminal: wait on the owner's control socket, read the state file. In: a run's folder. Out: views and records as they come."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from toka_cli.errors import TokaError, Unavailable
from toka_cli.events import Record
from toka_cli.lifecycle import RUN_FINAL, RunState
from toka_cli.paths import RunFolder
from toka_cli.protocol import control as c
from toka_cli.state import query
from toka_cli.state.owner import is_held
from toka_cli.state.snapshot import RunView

# Without news we look again this often: samples and clocks change without events.
QUIET_S: Final = 1.0
# News come in bursts; this is as often as a person can read.
SETTLE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a run: the view now, and what happened since the last look."""

    view: RunView
    records: list[Record]


def follow(folder: RunFolder) -> Generator[Look, None, None]:
    """Look at a run now, then again whenever something changed, until it is final or nobody runs it any more."""
    seen = 0
    owner = _watch(folder)
    try:
        while True:
            view = query.load_run(folder)
            records = query.read_events(folder, seen)
            seen = records[-1].seq if records else seen
            yield Look(view, records)
            if view.state in RUN_FINAL or view.state == RunState.INTERRUPTED:
                return
            if owner is None or not owner.changed(QUIET_S):
                # The owner has just ended, or has not opened its socket yet: look once more, then listen again.
                if owner is not None:
                    owner.__exit__(None, None, None)
                owner = _watch(folder)
                if owner is None:
                    time.sleep(QUIET_S / 10)
            time.sleep(SETTLE_S)
    finally:
        if owner is not None:
            owner.__exit__(None, None, None)


def _watch(folder: RunFolder) -> c.ControlClient | None:
    try:
        client = c.ControlClient(folder.socket)
    except Unavailable:
        return None
    try:
        client.call("run.watch", c.Watch())
    except Unavailable:
        client.__exit__(None, None, None)
        return None
    return client


def command(folder: RunFolder, method: str, params: c.StopRun | c.StopAgents | c.PauseAgents | c.ResumeAgents) -> c.Accepted | None:
    """Give the owner a command; its answer once it is durable, None if the run has no owner. Raises Unavailable when the owner is silent."""
    give_up = time.monotonic() + c.ANSWER_TIMEOUT_S
    while is_held(folder):
        try:
            with c.ControlClient(folder.socket) as client:
                answer = client.call(method, params)
                assert isinstance(answer, c.Accepted)
                return answer
        except Unavailable as error:
            if time.monotonic() >= give_up:
                raise TokaError(
                    f"the owner of run {folder.run_id} holds its lock and does not answer", hint="--force ends it without asking", code="owner_silent"
                ) from error
            # It holds its lock a moment longer than its socket, at its beginning and at its end.
            time.sleep(SETTLE_S)
    return None
