"""Where files live: the state folder, the folder of a run, the user's config file. The only room that knows platformdirs; creates nothing but what it says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from toka_cli.errors import StateUnavailable


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run, by name. `root` is `STATE_DIR/runs/RUN_ID`."""

    root: Path

    @property
    def run_id(self) -> str:
        """The id of the run: the folder's name."""
        return self.root.name

    @property
    def database(self) -> Path:
        """The state file."""
        return self.root / "run.db"

    @property
    def lock(self) -> Path:
        """Locked (fcntl) by the owner as long as it lives."""
        return self.root / "owner.lock"

    @property
    def spec(self) -> Path:
        """What was asked for, as one YAML file."""
        return self.root / "spec.yaml"

    @property
    def summary(self) -> Path:
        """A cache for `list`, replaced atomically; can be rebuilt from the state file."""
        return self.root / "summary.json"

    @property
    def socket(self) -> Path:
        """The control socket of the owner."""
        return self.root / "control.sock"

    @property
    def logs(self) -> Path:
        """One log file per agent, lines of JSON."""
        return self.root / "logs"

    @property
    def artifacts(self) -> Path:
        """Files by their sha256."""
        return self.root / "artifacts"

    @property
    def owner_log(self) -> Path:
        """What a detached owner wrote to stdout and stderr."""
        return self.root / "owner.log"

    def agent_log(self, agent_id: str) -> Path:
        """The log file of one agent."""
        return self.logs / f"{agent_id}.jsonl"


def state_dir(flag: str | Path | None, env: Mapping[str, str]) -> Path:
    """The state folder: --state-dir, else TOKA_STATE_DIR, else the platform's user state directory + `toka`. Not created here."""
    chosen = flag or env.get("TOKA_STATE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_state_dir("toka", appauthor=False))


def user_config_file(env: Mapping[str, str]) -> Path:
    """The user's own toka.toml, whether it exists or not. TOKA_CONFIG names another."""
    chosen = env.get("TOKA_CONFIG")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_config_dir("toka", appauthor=False)) / "toka.toml"


def runs_dir(state: Path) -> Path:
    """The folder that holds one folder per run."""
    return state / "runs"


def make_state_dir(state: Path) -> Path:
    """Create the state folder (0700) and its `runs`, refusing a symlink or another user's folder.

    Raises StateUnavailable when it cannot be created or is not safe to use.
    """
    runs = runs_dir(state)
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        runs.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StateUnavailable(
            f"the state folder {state} cannot be created: {error.strerror}", hint="name another with --state-dir or TOKA_STATE_DIR"
        ) from error
    if runs.is_symlink() or state.stat().st_uid != os.geteuid():
        raise StateUnavailable(
            f"the state folder {state} is a symbolic link or belongs to another user", hint="name another with --state-dir or TOKA_STATE_DIR"
        )
    return runs
