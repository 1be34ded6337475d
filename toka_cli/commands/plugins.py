"""Tools that other packages offer, asked for in a program of its own: their code never runs in the one that plans and governs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Final

import msgspec

from toka_cli.policy.capability import classify
from toka_cli.spec.model import LoadedAgent
from toka_cli.tools.catalog import CATALOG, BrokenPlugin, ToolInfo
from toka_cli.tools.plugins import Offered, installed

TIMEOUT_S: Final = 30.0
MAX_BYTES: Final = 4 << 20
KEPT: Final = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "HOME")
"""What of the environment such a program gets: no key."""


def wanted(agents: Iterable[LoadedAgent]) -> bool:
    """Whether anything in these specs could call a tool of another package: a model, or a task with a tool that toka has not."""
    return any(
        task.kind == "prompt" or (task.tool is not None and task.tool not in CATALOG) for agent in agents for task in agent.spec.tasks.every
    )


def ask() -> Offered:
    """What is offered. Starts nothing where no package offers anything; a description that cannot be had is one broken plugin, in words."""
    names = installed()
    if not names:
        return Offered()
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "toka_cli.tools.plugins"],
            capture_output=True, env=environment, stdin=subprocess.DEVNULL, timeout=TIMEOUT_S, check=False, cwd="/",
        )  # fmt: skip
        if done.returncode != 0 or len(done.stdout) > MAX_BYTES:
            words = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit {done.returncode}"]
            raise ValueError(words[0][:500])
        found = msgspec.json.decode(done.stdout, type=Offered)
    except (OSError, subprocess.TimeoutExpired, ValueError, msgspec.MsgspecError) as error:
        return Offered((), (BrokenPlugin(", ".join(names)[:200], f"could not be described: {error}"[:500]),))
    return _known(found)


def _known(found: Offered) -> Offered:
    """Without the tools that ask for a power that there is none of: nobody could grant it."""
    tools: list[ToolInfo] = []
    broken = list(found.broken)
    for tool in found.tools:
        known = classify(tool.power) if tool.power is not None else None
        if known is None or (known.kind == "power" and known.name == tool.power):
            tools.append(tool)
        else:
            broken.append(BrokenPlugin(tool.name, f"there is no power {tool.power!r}"[:200]))
    return Offered(tuple(tools), tuple(broken))
