"""What an agent's private home holds for its toolchains."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from toka_cli.kernel.environment import cell_environment
from toka_cli.kernel.home import furnish_home, identity
from toka_cli.plan.plan import PlannedAgent
from toka_cli.protocol.messages import Limits


def agent(*grants: str, hosts: tuple[str, ...] = ()) -> PlannedAgent:
    return PlannedAgent(
        name="a", title="a", workstream="a", domain=None, priority="medium", branch=None, depends_on=(), after=(), rank=0, tasks=(), parallel=1,
        grants=grants, grant_values={}, declared=(), limits=Limits(), enforcement={}, sandbox=True, gates=(), promises=(), metrics=(), conditional={},
        restart="never", restart_attempts=0, restart_delay_s=0.0, spec_path="a.yaml", spec_digest="0", hosts=hosts,
    )  # fmt: skip


@pytest.fixture
def private(tmp_path: Path) -> Path:
    folder = tmp_path / "private"
    folder.mkdir()
    return folder


def read_by_git(private: Path, key: str) -> str:
    environment = {"HOME": str(private), "PATH": "/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(["git", "config", "--global", key], env=environment, cwd=private, capture_output=True, text=True, check=True).stdout.strip()


def test_commits_are_the_users_and_nothing_else_of_its_configuration_comes_along(private: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        '[credential]\n\thelper = !steal\n[user "x"]\n\tname = Wrong\n'
        '[user]\n\tname = "Ada \\"A\\" L" ; a comment\n\temail=ada@host.example # mine\n[core]\n\tname = no\n'
    )
    furnish_home(private, agent("git-access"), {"HOME": str(home)})
    assert read_by_git(private, "user.name") == 'Ada "A" L'
    assert read_by_git(private, "user.email") == "ada@host.example"
    assert "steal" not in (private / ".gitconfig").read_text()


def test_the_environment_comes_first_and_the_agents_name_last(tmp_path: Path) -> None:
    assert identity(agent(), {"GIT_AUTHOR_NAME": "E", "GIT_AUTHOR_EMAIL": "e@x"}) == ("E", "e@x")
    name, address = identity(agent(), {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)})
    assert name
    assert "@" in address


def test_control_characters_of_a_name_do_not_become_lines(private: Path) -> None:
    furnish_home(private, agent("git-access"), {"GIT_AUTHOR_NAME": 'x"\n[core]\n\tfsmonitor = evil', "GIT_AUTHOR_EMAIL": "a@b"})
    assert read_by_git(private, "user.name").startswith('x"[core]')
    assert subprocess.run(["git", "config", "--file", str(private / ".gitconfig"), "core.fsmonitor"], capture_output=True, check=False).returncode == 1


def test_the_registry_is_linked_without_credentials_and_only_offline(private: Path, tmp_path: Path) -> None:
    real = tmp_path / "cargo"
    (real / "registry").mkdir(parents=True)
    (real / "credentials.toml").write_text("token")
    (real / "git").symlink_to("/etc")
    for _ in range(2):
        furnish_home(private, agent("cargo-execution"), {"CARGO_HOME": str(real)})
    assert [path.name for path in (private / ".cargo").iterdir()] == ["registry"]
    assert (private / ".cargo" / "registry").resolve() == (real / "registry").resolve()


def test_others_get_nothing(private: Path) -> None:
    furnish_home(private, agent("filesystem-write"), {"HOME": "/root"})
    furnish_home(private, agent("cargo-execution", "network-access", hosts=("crates.io:443",)), {"HOME": "/root"})
    assert list(private.iterdir()) == []
    assert msgspec.json.encode(agent())


def test_cargo_is_told_that_there_is_no_network(tmp_path: Path) -> None:
    def offline(planned: PlannedAgent) -> str | None:
        environment = cell_environment({}, planned, agent_id="a", run_id="r", workdir="/w", private=tmp_path, python="python3")
        return environment.get("CARGO_NET_OFFLINE")

    assert offline(agent("cargo-execution")) == "true"
    assert offline(agent("cargo-execution", "network-access", hosts=("crates.io:443",))) is None
    assert offline(agent("script-execution")) is None
