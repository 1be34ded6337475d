"""The environment of a cell, complete: names from an allow list, private folders, and who the agent is. No key is ever on the list."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from toka_cli.plan.plan import PlannedAgent

KEPT: Final = frozenset({"LANG", "LANGUAGE", "TZ", "SOURCE_DATE_EPOCH", "CI"})
KEPT_PREFIX: Final = "LC_"
DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
# What survives in a variable that comes from a spec: anything printable on one line.
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def cell_environment(
    caller: Mapping[str, str], planned: PlannedAgent, *, agent_id: str, run_id: str, workdir: str, private: Path, python: str
) -> dict[str, str]:
    """The environment for an agent's cell. `private` is a folder of its own: HOME, TMPDIR and caches lie in it."""
    environment = {name: value for name, value in caller.items() if name in KEPT or name.startswith(KEPT_PREFIX)}
    environment |= {
        "PATH": absolute_path(caller.get("PATH", "")),
        "TERM": "dumb",
        "HOME": str(private),
        "TMPDIR": str(private / "tmp"),
        # Named one by one, because tools that have a variable of their own look there first.
        "XDG_CACHE_HOME": str(private / ".cache"),
        "PIP_CACHE_DIR": str(private / ".cache" / "pip"),
        "UV_CACHE_DIR": str(private / ".cache" / "uv"),
        "npm_config_cache": str(private / ".npm"),
        "CARGO_HOME": str(private / ".cargo"),
        "TOKA_RUN_ID": run_id,
        "TOKA_PYTHON": python,
        "AGENT_ID": agent_id,
        "AGENT_NAME": planned.name,
        "AGENT_DOMAIN": planned.domain or "",
        "AGENT_PRIORITY": planned.priority,
        "AGENT_BRANCH": planned.branch or "",
        "AGENT_WORKDIR": workdir,
        "WORKSTREAM": planned.workstream,
    }
    rustup = caller.get("RUSTUP_HOME") or (f"{caller['HOME']}/.rustup" if caller.get("HOME") else "")
    if rustup and "cargo-execution" in planned.grants:
        # The toolchain is found by this name once HOME is private; credentials lie in CARGO_HOME, which is private too.
        environment["RUSTUP_HOME"] = rustup
    if "cargo-execution" in planned.grants and not planned.hosts:
        # Said before it waits for a network that is not there.
        environment["CARGO_NET_OFFLINE"] = "true"
    # Bytes that are no UTF-8 (os.environ keeps them as surrogates) cannot be sent.
    return {name: _UNPRINTABLE.sub(" ", value).encode("utf-8", "replace").decode() for name, value in environment.items()}


def make_private(private: Path) -> None:
    """Create what has to be there; caches are made by whoever fills them."""
    (private / "tmp").mkdir(mode=0o700, exist_ok=True)


def absolute_path(path: str) -> str:
    """PATH without empty and relative entries, through which a program planted in the workdir would be found."""
    entries = [entry for entry in path.split(":") if entry.startswith("/")]
    return ":".join(entries) or DEFAULT_PATH
