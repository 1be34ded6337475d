"""What events carry about agents, tasks and attempts: plain data, without a time and without a state of its own."""

from __future__ import annotations

from typing import Any

import msgspec


class TaskInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a task before it runs."""

    id: str
    description: str
    kind: str
    priority: str = "medium"


class AgentInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of an agent before it runs. `limits` are bytes, shares of a core and seconds by name."""

    name: str
    title: str
    workstream: str
    domain: str | None = None
    priority: str = "medium"
    depends_on: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    limits: dict[str, float | int | None] = {}
    tasks: tuple[TaskInfo, ...] = ()
    spec_path: str | None = None


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one attempt at a task or gate ended. What could not be measured is None.

    `output` is bounded; the whole is in the artifact named by its sha256. `peak_memory_bytes` is the largest single process of the attempt.
    """

    exit_code: int | None = None
    signal: int | None = None
    output: str = ""
    stderr: str = ""
    output_bytes: int = 0
    truncated: bool = False
    artifact: str | None = None
    duration_s: float | None = None
    cpu_time_s: float | None = None
    peak_memory_bytes: int | None = None
    value: Any = None
    evidence: Any = None
