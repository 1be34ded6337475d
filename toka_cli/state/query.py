"""Answers questions about runs from their files, from any process: which there are, what is in one, which agent a text means.

In: the state folder, a run's folder, or a text that a person typed. Out: views, summaries, folders. Writes nothing, takes no lock. `interrupted` is derived
here: a run that is not finished and whose lock is free has lost its owner, so nothing of it is shown as running. Loaded by every listing command: its
imports stay few. The two lists usually do without it: see `glance`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from toka_cli.errors import NotFound, StateUnavailable
from toka_cli.events import Record
from toka_cli.ids import is_run_id
from toka_cli.lifecycle import AGENT_FINAL, RUN_FINAL
from toka_cli.paths import RunFolder, runs_dir
from toka_cli.state import glance, rows, schema, summary
from toka_cli.state.fold import moment
from toka_cli.state.owner import is_held
from toka_cli.state.snapshot import AgentView, RunSummary, RunView

OWNER_GONE: Final = glance.OWNER_GONE
MAKING_S: Final = 0.01
"""Between two looks at a folder whose state file was not there, in seconds; a guess: making one is a few file operations."""
_SHOWN: Final = 8


class Runs(msgspec.Struct):
    """All runs, newest first, and those that cannot be read: (run id, why)."""

    runs: list[RunSummary]
    damaged: list[tuple[str, str]]


class Agents(msgspec.Struct):
    """Agents of the newest run first, in plan order within a run; their runs by id; the runs that cannot be read."""

    agents: list[AgentView]
    runs: dict[str, RunSummary]
    damaged: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A run as a scan of the state folder found it. `live`: not finished and owned. `view` is None for a finished run, whose summary was enough."""

    folder: RunFolder
    summary: summary.Summary
    live: bool
    view: RunView | None


def scan(state_dir: Path) -> tuple[list[Seen], list[tuple[str, str]]]:
    """Every run, newest first, and the damaged ones. A finished run costs its summary, every other one a look into its state file."""
    seen: list[Seen] = []
    damaged: list[tuple[str, str]] = []
    for folder in run_folders(state_dir):
        try:
            found = _look(folder)
        except StateUnavailable as error:
            damaged.append((folder.run_id, error.message))
        else:
            if found is not None:
                seen.append(found)
    # A run that is only just being made has no time yet: it is the newest.
    seen.sort(key=lambda it: (it.summary.run.created_at or datetime.max.replace(tzinfo=UTC), it.folder.run_id), reverse=True)
    return seen, damaged


def list_runs(state_dir: Path) -> Runs:
    """All runs, newest first; damaged ones do not hide the others."""
    seen, damaged = scan(state_dir)
    return Runs([it.summary.run for it in seen], damaged)


def load_run(folder: RunFolder, *, now: float | None = None, tasks: bool = True) -> RunView:
    """A whole run. Durations of unfinished things count up to `now` (seconds since 1970, default: the present).

    Of a run whose owner is gone the state is `interrupted`; its unfinished agents are shown as `pending` with the detail `interrupted`, their unfinished
    tasks as `pending`: nobody runs them, and a resumed run starts them again. Raises StateUnavailable.
    """
    view, _ = _load(folder, tasks=tasks)
    return _timed(view, now)


def live_agents(state_dir: Path, *, now: float | None = None) -> Agents:
    """The agents, finished ones too, of the runs that somebody runs now."""
    return _agents(state_dir, now, only_live=True)


def all_agents(state_dir: Path, *, now: float | None = None) -> Agents:
    """The agents of all runs."""
    return _agents(state_dir, now, only_live=False)


def read_events(folder: RunFolder, after: int = 0, limit: int | None = None) -> list[Record]:
    """The records with a number above `after`, in order, at most `limit`. Raises StateUnavailable."""
    with schema.reading(folder.database) as connection:
        try:
            return list(rows.read_records(connection, after, -1 if limit is None else limit))
        except ValueError as error:
            raise schema.unavailable(folder.database, error) from error


def read_plan(folder: RunFolder) -> bytes:
    """The plan as it was decided when the run was made, in JSON. Raises StateUnavailable."""
    with schema.reading(folder.database) as connection:
        row = connection.execute("SELECT json FROM plan").fetchone()
    if row is None:
        raise schema.unavailable(folder.database, ValueError("the plan is missing"))
    return bytes(row[0])


def read_denied(folder: RunFolder) -> list[tuple[str, str, str]]:
    """Agent id, tool and missing grant of every act that was refused, in order. Raises StateUnavailable."""
    with schema.reading(folder.database) as connection:
        found = connection.execute("SELECT agent, tool, COALESCE(capability, '') FROM tool_calls WHERE state = 'denied' ORDER BY seq")
        return [(agent, tool, capability) for agent, tool, capability in found]


def owner_since(folder: RunFolder) -> float | None:
    """When the present or last owner took the run, in seconds since 1970. Raises StateUnavailable."""
    with schema.reading(folder.database) as connection:
        row = connection.execute("SELECT at FROM owners ORDER BY epoch DESC LIMIT 1").fetchone()
    return None if row is None else float(row[0])


# --- what a person typed -------------------------------------------------------------------------------------------------------------


def find_run(state_dir: Path, text: str) -> RunFolder:
    """The run with this id or with an unambiguous beginning of it. Raises NotFound naming the candidates."""
    folders = {folder.run_id: folder for folder in run_folders(state_dir)}
    if text in folders:
        return folders[text]
    fitting = [name for name in folders if text and name.startswith(text)]
    if len(fitting) == 1:
        return folders[fitting[0]]
    raise _not_found("run", text, fitting, folders, "`toka run list` shows all runs")


def find_agent(state_dir: Path, text: str, *, run: str | None = None) -> tuple[RunFolder, str]:
    """The folder of the run and the id of the agent that a text means: an id, a name, or an unambiguous beginning of either.

    A name means the newest agent of that name that is not finished in a run that somebody runs, else the newest. `run` limits the search to one run
    (see `find_run`). Raises NotFound naming the candidates, StateUnavailable when the only run to search is damaged.
    """
    if run is not None:
        found = _look(find_run(state_dir, run))
        seen = [found] if found is not None else []
    else:
        seen, _ = scan(state_dir)
    agents = [(it, agent) for it in seen for agent in it.summary.agents]
    for it, agent in agents:
        if agent.id == text:
            return it.folder, agent.id
    names = dict.fromkeys(agent.name for _, agent in agents)
    ids = [(it, agent) for it, agent in agents if text and agent.id.startswith(text)]
    name = text if text in names else None
    if name is None and len(ids) == 1:
        return ids[0][0].folder, ids[0][1].id
    fitting = [other for other in names if text and other.startswith(text)]
    if name is None and not ids and len(fitting) == 1:
        name = fitting[0]
    if name is not None:
        same = [(it, agent) for it, agent in agents if agent.name == name]
        it, agent = next((pair for pair in same if pair[0].live and pair[1].state not in AGENT_FINAL), same[0])
        return it.folder, agent.id
    candidates = [f"{agent.id} ({agent.name})" for _, agent in ids] + fitting
    raise _not_found("agent", text, candidates, names, "`toka agent list --all` shows all agents")


def _not_found(noun: str, text: str, fitting: list[str], known: Iterable[str], hint: str) -> NotFound:
    if fitting:
        more = f" and {len(fitting) - _SHOWN} more" if len(fitting) > _SHOWN else ""
        return NotFound(f"{noun} {text!r} could be {', '.join(fitting[:_SHOWN])}{more}", hint="write more of it", code="ambiguous")
    close = min(((_distance(text, name), name) for name in known), default=(99, ""))
    guess = f"; did you mean {close[1]}?" if text and close[0] <= max(1, (len(text) + 1) // 3) else ""
    return NotFound(f"there is no {noun} {text!r}{guess}", hint=hint)


def _distance(one: str, other: str) -> int:
    """How many letters to change, add or leave out to come from one to the other. (difflib would cost every listing its import.)"""
    row = list(range(len(other) + 1))
    for index, letter in enumerate(one[:200], start=1):
        former, row[0] = row[0], index
        for column, wanted in enumerate(other, start=1):
            former, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, former + (letter != wanted))
    return row[-1]


# --- reading -------------------------------------------------------------------------------------------------------------------------


def run_folders(state_dir: Path) -> list[RunFolder]:
    """The folders that may be runs, by name. A state folder that does not exist holds none. Raises StateUnavailable when it cannot be read."""
    try:
        return [
            RunFolder(path)
            for path in sorted(runs_dir(state_dir).iterdir())
            if is_run_id(path.name) and path.is_dir() and not path.is_symlink()
        ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StateUnavailable(f"the state folder {state_dir} cannot be read: {error.strerror}") from error


def _look(folder: RunFolder) -> Seen | None:
    """What a scan needs of a run; None while it is being made. Raises StateUnavailable."""
    known = summary.read(folder)
    if known is not None and known.run.state in RUN_FINAL and glance.is_database(folder.database):
        return Seen(folder, known, live=False, view=None)
    for last in (False, True):
        try:
            view, live = _load(folder, tasks=True)
            break
        except StateUnavailable as error:
            if error.code not in {"state_missing", "state_damaged"}:
                raise
            # Between the folder and its first transaction there is no state to see: either somebody holds the lock, or not even that is there.
            if is_held(folder) or not (folder.lock.exists() or folder.database.exists()):
                return None
            if last:
                raise
            # It was made while we looked, or its lock was and is about to be taken.
            time.sleep(MAKING_S)
    return Seen(folder, summary.summarise(view), live, view)


def _load(folder: RunFolder, *, tasks: bool) -> tuple[RunView, bool]:
    """The view of a run, and whether it is live."""

    def read() -> RunView:
        with schema.reading(folder.database) as connection:
            try:
                return rows.read_view(connection, tasks=tasks)
            except (ValueError, TypeError, KeyError) as error:
                raise schema.unavailable(folder.database, ValueError(str(error))) from error

    return glance.settled(lambda: is_held(folder), read)


def _timed(view: RunView, now: float | None) -> RunView:
    """The view with the durations of what goes on."""
    glance.timed(view, moment(time.time() if now is None else now))
    return view


def _agents(state_dir: Path, now: float | None, *, only_live: bool) -> Agents:
    seen, damaged = scan(state_dir)
    answer = Agents([], {}, damaged)
    for it in seen:
        if only_live and not it.live:
            continue
        try:
            view = _timed(it.view, now) if it.view is not None else load_run(it.folder, now=now)
        except StateUnavailable as error:
            damaged.append((it.folder.run_id, error.message))
            continue
        answer.runs[view.id] = it.summary.run
        answer.agents.extend(view.agents)
    return answer
