"""What journeys with models share: a toka that asks the server of the test, prompt tasks, and how to read what came of a run."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import LIMIT_S, Toka
from tests.llm.server import ModelServer, Reply, Step, call, calls

MODEL = "openai/test-model"
KEY = "sk-journey-3f9c0b7a51d24e86"  # toka: not a secret


def connect(toka: Toka, server: ModelServer, **more: str) -> None:
    """From now on this toka asks the server."""
    toka.env |= {"LLM_BASE_URL": server.url, "LLM_MODEL": MODEL, "OPENAI_API_KEY": KEY} | more


def finish(summary: str = "done", status: str = "success", **more: Any) -> Reply:
    """The model says that the task is over."""
    evidence = {"evidence": more.pop("evidence")} if "evidence" in more else {}
    return calls(call("finish", status=status, summary=summary, **evidence), **more)


def prompt(toka: Toka, name: str, task: str, *, grants: Sequence[Any] = (), **sections: Any) -> Path:
    """A spec with one prompt task, `t`. Its text is how the server knows the agent's lane."""
    return toka.spec(name, [{"id": "t", "description": task}], security={"capabilities_required": list(grants)}, **sections)


def orchestrate(toka: Toka, *words: Any, code: int = 0, **options: Any) -> dict[str, Any]:
    """Run all specs that were written: the RunView."""
    return toka.run(toka.root / "specs", *words, code=code, **options)


def by_name(view: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The agents of a view by their names."""
    return {agent["name"]: agent for agent in view["agents"]}


def lanes(agents: Mapping[str, Sequence[Step]]) -> dict[str, Sequence[Step]]:
    """A script by the texts of tasks, the longest first: no text may hide another one that it is a part of."""
    return {text: agents[text] for text in sorted(agents, key=len, reverse=True)}


def of_lane(server: ModelServer, text: str) -> list[Any]:
    """The requests of one lane, in order."""
    return [seen for seen in server.requests if text in seen.words]


def rows(toka: Toka, run: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """What the state file of a run says."""
    connection = sqlite3.connect(f"file:{toka.folder(run).database}?mode=ro", uri=True)
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def events(toka: Toka, run: str, *kinds: str) -> list[dict[str, Any]]:
    """The events of a run, of these kinds, each with the name of its agent's id and task, in order."""
    found = rows(toka, run, "SELECT event, agent, task, at FROM events ORDER BY seq")
    decoded = [{**json.loads(event), "agent": agent, "task": task, "at": at} for event, agent, task, at in found]
    return [event for event in decoded if not kinds or event["kind"] in kinds]


def until(happened: Callable[[], bool]) -> None:
    """Look every few milliseconds whether it has happened; fails when that takes too long."""
    deadline = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def every_file(folder: Path, wanted: Callable[[Path], bool] = lambda _: True) -> dict[Path, bytes]:
    """Every file below a folder with what it holds."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and wanted(path)}
