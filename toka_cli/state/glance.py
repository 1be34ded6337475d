"""The quick look at runs: what the two lists show of them, read with so few imports that looking costs less than starting Python.

In: the state folder. Out: runs and agents with the names and values of `snapshot`'s views, as plain namespaces. Nothing is guessed: a run that is damaged,
of another version, only just being made, or written in any other way than this program writes it raises Unclear, and `query`, which knows them all, has
to be asked. What an interrupted run looks like, and how long things that go on have lasted, is defined here for both. Writes nothing, takes no lock.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys

from toka_cli.ids import is_run_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from datetime import datetime
    from types import SimpleNamespace
    from typing import Any, Final

APPLICATION_ID: Final = 0x746F6B61
VERSION: Final = 2
PATIENCE_S: Final = 5.0
"""These three are `schema`'s, which is too heavy to be loaded here; a test holds them together, as it does all the names and types below."""

OWNER_GONE: Final = "owner_gone: the process that ran it has ended"
RUN_FINAL: Final = frozenset({"succeeded", "failed", "stopped"})
AGENT_FINAL: Final = RUN_FINAL | {"skipped"}
TASK_FINAL: Final = AGENT_FINAL
RUN_STATES: Final = RUN_FINAL | {"pending", "running", "paused", "stopping", "interrupted"}
AGENT_STATES: Final = AGENT_FINAL | {"pending", "queued", "starting", "running", "paused", "stopping", "backoff"}
TASK_STATES: Final = TASK_FINAL | {"pending", "running", "retrying"}

_DARWIN: Final = sys.platform == "darwin"
# struct flock: type, whence, start, length, pid (fcntl(2), 64 bit); the BSDs put type and whence last.
_FLOCK: Final = "qqihh" if _DARWIN else "hhqqi"

_SAFE: Final = frozenset(b"/_.-~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""Bytes that mean themselves in a URI; `urllib` would cost more than all the rest."""

_EXPONENTS: Final = ("e-0", "e-1", "e-2", "e-3", "e+")
"""How Python writes one in a number. Any text may hold these too: that costs a little time."""

# Kinds of values. A set of strings is a kind too: one of these; a list with a kind in it: a list of these; a dict with the key "": by any name, of these.
_S, _I, _F, _B, _L, _D, _ANY, _AT = (str,), (int,), (float,), (bool,), (list,), (dict,), (), (None,)
_S0, _I0, _F0, _N = (str, type(None)), (int, type(None)), (float, type(None)), (float, int)
Fields = dict[str, object]
USAGE: Final[Fields] = {"llm_requests": _I, "input_tokens": _I, "output_tokens": _I, "cost_usd": _F0, "turns": _I, "unsettled_usd": _F, "unsettled_tokens": _I}
TASK: Final[Fields] = {
    "id": _S, "description": _S, "kind": _S, "priority": _S, "state": TASK_STATES, "reason": _S0, "attempts": _I, "started_at": _AT, "ended_at": _AT,
    "duration_s": _F0, "output": _S, "stderr": _S, "output_bytes": _I, "truncated": _B, "artifact": _S0, "exit_code": _I0, "signal": _I0, "value": _ANY,
    "cpu_time_s": _F0, "peak_memory_bytes": _I0, "usage": USAGE, "asked_usd": _F, "asked_tokens": _I, "evidence": _ANY,
}  # fmt: skip
GATE: Final[Fields] = {
    "index": _I, "description": _S, "state": _S, "reason": _S0, "exit_code": _I0, "output": _S, "duration_s": _F0,
}  # fmt: skip
AGENT: Final[Fields] = {
    "id": _S, "run_id": _S, "name": _S, "title": _S, "workstream": _S, "domain": _S0, "priority": _S, "state": AGENT_STATES, "detail": _S0,
    "detail_since": _AT, "reason": _S0, "hint": _S0, "pid": _I0, "rung": _S0, "progress": _F, "tasks_done": _I, "tasks_total": _I, "attempts": _I,
    "restarts": _I, "started_at": _AT, "ended_at": _AT, "duration_s": _F0, "memory_bytes": _I0, "peak_memory_bytes": _I0, "cpu_time_s": _F0, "worked_s": _F0,
    "denied": _I, "tool_calls": _I, "usage": USAGE, "depends_on": [_S], "after": [_S], "grants": [_S], "limits": _D, "isolation": _D, "metrics": {"": _F},
    "tasks": [TASK], "gates": [GATE],
}  # fmt: skip
DELIVERABLE: Final[Fields] = {"path": _S, "size_bytes": _I, "sha256": _S, "agent": _S, "objective": _I}
RUN: Final[Fields] = {
    "id": _S, "state": RUN_STATES, "reason": _S0, "exit_code": _I0, "created_at": _AT, "started_at": _AT, "ended_at": _AT, "duration_s": _F0, "workdir": _S,
    "command": [_S], "version": _S, "options": _D, "agents": [AGENT], "usage": USAGE, "deliverables": [DELIVERABLE], "warnings": [_S], "held": _S0,
    "audit_head": _S0, "last_seq": _I,
}  # fmt: skip
LINE: Final[Fields] = {
    "id": _S, "state": RUN_STATES, "reason": _S0, "workdir": _S, "started_at": _AT, "ended_at": _AT, "agents": {"": _I}, "created_at": _AT,
}  # fmt: skip
TOTALS: Final[Fields] = {
    "agents": {"": _I}, "tasks": {"": _I}, "agents_spawned": _I, "agents_timed": _I, "agent_seconds": _N, "tasks_timed": _I, "task_seconds": _N,
    "cpu_time_s": _F0, "usage": USAGE, "agents_unpriced": _I,
}  # fmt: skip
SUMMARY: Final[Fields] = {"version": _I, "run": LINE, "totals": TOTALS, "agents": [_L], "last_seq": _I, "audit_head": _S0}


class Unclear(Exception):
    """The quick look cannot tell for sure."""


# --- what both looks share -----------------------------------------------------------------------------------------------------------


def settled(is_held: Callable[[], bool], read: Callable[[], Any]) -> tuple[Any, bool]:
    """The view of a run, and whether it is live. The lock is asked before the file is read: an owner that ends in between leaves a finished run."""
    held = is_held()
    while True:
        view = read()
        if held or view.state in RUN_FINAL:
            return view, held and view.state not in RUN_FINAL
        held = is_held()
        if not held:
            interrupt(view)
            return view, False
        # Somebody became the owner meanwhile: what was read may be older than that.


def interrupt(view: Any) -> None:
    """Show a run whose owner is gone as what it is; a reader cannot write it down, the owner that recovers the run does."""
    # The type of a state is that of its view: an enum in `query`, a string here.
    if view.state != "interrupted":
        view.state, view.reason = type(view.state)("interrupted"), OWNER_GONE
    for agent in view.agents:
        if agent.state not in AGENT_FINAL:
            agent.state, agent.detail, agent.pid, agent.memory_bytes = type(agent.state)("pending"), "interrupted", None, None
            agent.detail_since = None
        for task in agent.tasks:
            if task.state not in TASK_FINAL:
                task.state = type(task.state)("pending")
        for gate in agent.gates:
            if gate.state == "running":
                gate.state = "pending"


def timed(view: Any, present: datetime) -> Any:
    """Fill in the durations of what goes on, in seconds, and return the view. An interrupted run has none: nobody knows when it ended."""
    if view.state in RUN_FINAL or view.state == "interrupted":
        return view

    def until_now(start: datetime | None) -> float | None:
        return None if start is None else max(0.0, (present - start).total_seconds())

    view.duration_s = until_now(view.started_at)
    for agent in view.agents:
        if agent.state not in AGENT_FINAL:
            agent.duration_s = until_now(agent.started_at)
        for task in agent.tasks:
            if task.state not in TASK_FINAL:
                task.duration_s = until_now(task.started_at)
    return view


def holder(fd: int) -> int | None:
    """The process that holds a lock on the open file, None when none does; 0 when it is in another PID namespace. Raises OSError."""
    asked = (0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET) if _DARWIN else (fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    answer = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(_FLOCK, *asked)))
    kind, pid = (answer[3], answer[2]) if _DARWIN else (answer[0], answer[4])
    return None if kind == fcntl.F_UNLCK else int(pid)


def is_database(path: str | os.PathLike[str]) -> bool:
    """True if the file looks like a state file: SQLite's header, with the application id at byte 68 (sqlite.org/fileformat2.html)."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  the path is a string where imports are counted
            head = file.read(100)
    except OSError:
        return False
    return head.startswith(b"SQLite format 3\0") and head[68:72] == APPLICATION_ID.to_bytes(4, "big")


# --- the quick look ------------------------------------------------------------------------------------------------------------------


def agents(state_dir: str, *, everything: bool, now: float) -> list[Any]:
    """The agents, finished ones too, of the runs that somebody runs now, or of all; newest run first. Raises Unclear and whatever a bad file causes."""
    found: list[Any] = []
    for it in _scan(state_dir):
        if it.live or everything:
            view = it.view or _load(f"{state_dir}/runs/{it.line.id}")[0]
            found += timed(view, _moment_of(now)).agents
    return found


def runs(state_dir: str, *, live: bool) -> list[Any]:
    """A line for each run, or for each that is not over, newest first. Raises Unclear and whatever a bad file causes."""
    lines = [it.line for it in _scan(state_dir)]
    return [line for line in lines if not live or (line.state not in RUN_FINAL and line.state != "interrupted")]


def encoded(value: Any) -> str:
    """What the looks above returned, inside plain values, as JSON: as msgspec writes it."""
    import json

    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain)
    # Very small and very large numbers, such as what a model costs, are written in another way there.
    return _written(value, json.dumps) if any(exponent in text for exponent in _EXPONENTS) else text


def _written(value: Any, dumps: Callable[..., str]) -> str:
    if isinstance(value, float):
        mantissa, found, exponent = repr(value).partition("e")
        digits = mantissa.removeprefix("-").replace(".", "")
        return mantissa if not found else f"{'-' * (value < 0)}0.0000{digits}" if exponent == "-05" else f"{mantissa}e{int(exponent)}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{dumps(name, ensure_ascii=False)}:{_written(item, dumps)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join([_written(item, dumps) for item in value]) + "]"
    return dumps(value, ensure_ascii=False) if value is None or isinstance(value, str | int) else _written(_plain(value), dumps)


def _scan(state_dir: str) -> list[SimpleNamespace]:
    """`line`, `live` and `view` of every run, newest first; `view` is None for a finished run, whose summary was enough."""
    try:
        with os.scandir(f"{state_dir}/runs") as entries:
            names = sorted(entry.name for entry in entries if is_run_id(entry.name) and entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    if not names:
        return []
    from types import SimpleNamespace

    seen = []
    for name in names:
        folder = f"{state_dir}/runs/{name}"
        line = _finished(folder, name)
        view, live = (None, False) if line is not None else _load(folder)
        seen.append(SimpleNamespace(line=line or _line(view), live=live, view=view))
    if any(it.line.created_at is None for it in seen):
        raise Unclear
    seen.sort(key=lambda it: (it.line.created_at, it.line.id), reverse=True)
    return seen


def _finished(folder: str, name: str) -> Any:
    """The line of a finished run from its summary; None for any other run."""
    try:
        with open(f"{folder}/summary.json", encoding="utf-8") as file:  # noqa: PTH123
            text = file.read()
    except FileNotFoundError:
        return None
    summary = _decoded(text, SUMMARY)
    if summary.version != 1 or summary.run.id != name or summary.run.state not in RUN_FINAL:
        return None
    if not is_database(f"{folder}/run.db"):
        raise Unclear
    return summary.run


def _line(view: Any) -> Any:
    from types import SimpleNamespace

    counts: dict[str, int] = {}
    for agent in view.agents:
        counts[agent.state] = counts.get(agent.state, 0) + 1
    return SimpleNamespace(
        id=view.id, state=view.state, reason=view.reason, workdir=view.workdir, started_at=view.started_at, ended_at=view.ended_at, agents=counts,
        created_at=view.created_at,
    )  # fmt: skip


def _load(folder: str) -> tuple[Any, bool]:
    return settled(lambda: _is_held(f"{folder}/owner.lock"), lambda: _stored(f"{folder}/run.db"))


def _is_held(path: str) -> bool:
    """Like `owner.is_held`, for a program that never owns a run."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        return holder(fd) is not None
    finally:
        os.close(fd)


def _stored(path: str) -> Any:
    """The view of a run with its agents and tasks, all of one moment."""
    import sqlite3

    safe = "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in os.fsencode(path))
    connection = sqlite3.connect(f"file:{safe}?mode=ro", uri=True, isolation_level=None, timeout=PATIENCE_S)
    try:
        return _view(connection)
    finally:
        connection.close()


def _view(connection: sqlite3.Connection) -> Any:
    ask = connection.execute
    for pragma in ("query_only=ON", "trusted_schema=OFF", "mmap_size=0"):
        ask(f"PRAGMA {pragma}")
    ask("BEGIN")
    if ask("PRAGMA application_id").fetchone() != (APPLICATION_ID,) or ask("PRAGMA user_version").fetchone() != (VERSION,):
        raise Unclear
    view = _decoded(ask("SELECT view FROM run").fetchone()[0], RUN)
    view.agents = [_decoded(row[0], AGENT) for row in ask("SELECT view FROM agents ORDER BY position")]
    tasks = {agent.id: agent.tasks for agent in view.agents}
    for agent_id, task in ask("SELECT agent, view FROM tasks ORDER BY agent, position"):
        tasks[agent_id].append(_decoded(task, TASK))
    return view


def _decoded(text: str, fields: Fields) -> Any:
    """A namespace with exactly these fields. JSON that would not be written again in the same way is left to msgspec, which knows what it means."""
    import json

    value = json.loads(text)
    if encoded(value) != text:
        raise Unclear
    return _checked(value, fields)


def _checked(value: Any, kind: Any) -> Any:
    """The value, if it is of this kind; objects become namespaces, times datetimes."""
    if kind is _AT:
        return None if value is None else _moment(value)
    if isinstance(kind, tuple):
        if kind and type(value) not in kind:
            raise Unclear
    elif isinstance(kind, frozenset):
        if value not in kind:
            raise Unclear
    elif type(value) is not type(kind):
        raise Unclear
    elif isinstance(kind, list):
        return [_checked(item, kind[0]) for item in value]
    elif "" in kind:
        return {name: _checked(item, kind[""]) for name, item in value.items()}
    else:
        from types import SimpleNamespace

        if tuple(value) != tuple(kind):
            raise Unclear
        return SimpleNamespace(**{name: _checked(value[name], inner) for name, inner in kind.items()})
    return value


def _moment(text: str) -> datetime:
    from datetime import datetime

    found = datetime.fromisoformat(text)
    if _plain(found) != text:
        raise Unclear
    return found


def _moment_of(now: float) -> datetime:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(now, UTC)


def _plain(value: Any) -> Any:
    """The parts of a namespace, or the text of a time, as msgspec writes it."""
    return value.isoformat().replace("+00:00", "Z") if hasattr(value, "isoformat") else vars(value)
