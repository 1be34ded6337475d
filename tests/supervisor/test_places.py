"""Places of a machine: made in a folder of the test's own, with links, toolchains and things that must not be opened."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import toka_cli
from toka_cli.policy.confine import within
from toka_cli.policy.places import Places
from toka_cli.supervisor.places import collect


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    for name in (".ssh", ".config", ".local/bin", ".local/share/keyrings"):
        (folder / name).mkdir(parents=True)
    (folder / ".ssh" / "id").write_text("key")
    return folder


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def found(workdir: Path, home: Path, *path: Path | str, **more: object) -> Places:
    environment = {"HOME": str(home), "PATH": ":".join(str(folder) for folder in path)}
    environment |= {key: str(value) for key, value in more.items() if key.isupper()}
    asked: dict[str, Any] = {key: value for key, value in more.items() if key.islower()}
    return collect(str(workdir), environment, **asked)


def everything(places: Places) -> set[str]:
    groups = (places.system, places.settings, places.shared, places.devices, places.python, places.scripts, places.cargo, places.crates)
    return {path for group in groups for path in group}


def test_of_this_machine_all_is_there_resolved_and_no_home(workdir: Path, home: Path) -> None:
    places = found(workdir, home, "/usr/bin")
    assert "/usr" in places.system
    assert "/dev/null" in places.devices
    assert "/proc" in places.shared
    assert any(path.startswith(("/etc/ssl", "/etc/pki")) for path in places.settings)
    for path in everything(places):
        assert os.path.exists(path), path
        assert os.path.realpath(path) == path, path
        assert not within(str(home), path), path
    assert not any(path.startswith(("/etc/shadow", "/etc/sudoers", "/etc/ssh", "/etc/ssl/private")) or path == "/etc" for path in everything(places))


def test_the_interpreter_of_toka_is_for_everybody_and_its_code_is_its_own(workdir: Path, home: Path) -> None:
    places = found(workdir, home)
    assert any(within(os.path.realpath(sys.executable), folder) for folder in (*places.system, *places.python))
    assert os.path.dirname(os.path.realpath(toka_cli.__file__)) in places.own
    assert set(places.python) <= set(places.own)


def test_toolchains_on_the_path_by_their_folder(workdir: Path, home: Path, tmp_path: Path) -> None:
    node = tmp_path / "nvm" / "versions" / "node" / "v20"
    program(node / "bin" / "node")
    (node / "lib" / "node_modules").mkdir(parents=True)
    venv = tmp_path / "venv"
    base = tmp_path / "python" / "3.12"
    program(base / "bin" / "python3.12")
    (base / "lib" / "python3.12").mkdir(parents=True)
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python3").symlink_to(base / "bin" / "python3.12")
    (venv / "pyvenv.cfg").write_text(f"home = {base}/bin\n")
    pyenv = tmp_path / "pyenv"
    program(pyenv / "shims" / "pytest")
    (pyenv / "versions").mkdir()
    places = found(workdir, home, node / "bin", venv / "bin", pyenv / "shims")
    assert set(places.scripts) == {str(node), str(venv), str(base), str(pyenv)}


def test_a_program_among_other_things_comes_alone(workdir: Path, home: Path, tmp_path: Path) -> None:
    alone = program(home / ".local" / "bin" / "uv")
    (home / ".local" / "lib" / "python3.11").mkdir(parents=True)
    loose = program(home / "bin" / "node")
    odd = program(tmp_path / "odd" / "bin" / "ruff")
    tool = program(home / ".local" / "share" / "tool" / "bin" / "deno")
    (home / ".local" / "bin" / "deno").symlink_to(tool)
    places = found(workdir, home, home / ".local" / "bin", home / "bin", tmp_path / "odd" / "bin")
    assert {str(alone), str(loose), str(odd), str(tool)} <= set(places.scripts)
    for path in places.scripts:
        assert not within(str(home / ".ssh" / "id"), path)
        assert not os.path.isdir(path)


def test_a_toolchain_of_the_workdir_is_a_part_of_it(workdir: Path, home: Path) -> None:
    program(workdir / ".venv" / "bin" / "python3")
    (workdir / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\n")
    program(workdir / "bin" / "node")
    assert found(workdir, home, workdir / ".venv" / "bin", workdir / "bin").scripts == ()


def test_relative_and_missing_folders_of_the_path_are_passed_over(workdir: Path, home: Path) -> None:
    assert found(workdir, home, "", "bin", ".", "/nowhere", "/mnt/c/tools").scripts == ()


def test_rust_without_its_credentials(workdir: Path, home: Path) -> None:
    program(home / ".cargo" / "bin" / "cargo")
    (home / ".cargo" / "registry").mkdir()
    (home / ".cargo" / "credentials.toml").write_text("token")
    (home / ".cargo" / "config.toml").write_text("token")
    (home / ".rustup" / "toolchains").mkdir(parents=True)
    places = found(workdir, home, home / ".cargo" / "bin")
    assert places.cargo == (str(home / ".cargo" / "bin"), str(home / ".rustup"))
    assert places.crates == (str(home / ".cargo" / "registry"),)
    for path in everything(places):
        assert not within(str(home / ".cargo" / "credentials.toml"), path)
        assert not within(str(home / ".cargo" / "config.toml"), path)
    elsewhere = home / "rust"
    program(elsewhere / "cargo" / "bin" / "cargo")
    moved = found(workdir, home, CARGO_HOME=elsewhere / "cargo", RUSTUP_HOME=elsewhere / "rustup")
    assert moved.cargo == (str(elsewhere / "cargo" / "bin"),)


def test_a_registry_that_leads_away_is_not_opened(workdir: Path, home: Path) -> None:
    (home / ".cargo").mkdir()
    (home / ".cargo" / "registry").symlink_to(home / ".ssh")
    assert found(workdir, home).crates == ()


def test_paths_that_grants_name_are_resolved_and_stay_in_the_workdir(workdir: Path, home: Path) -> None:
    (workdir / "src").mkdir()
    (workdir / "a.py").write_text("x")
    (workdir / "link").symlink_to("src")
    (workdir / "away").symlink_to(home / ".ssh")
    (workdir / "deep").symlink_to("away/..")
    os.mkfifo(workdir / "pipe")
    names = ("src", "a.py", "link", "away", "away/id", "deep", "new/folder", "pipe", "away/new")
    named = found(workdir, home, names=names).named
    kinds = {name: named[name].kind for name in names}
    assert kinds == {
        "src": "folder", "a.py": "file", "link": "folder", "away": "outside", "away/id": "outside", "deep": "outside", "new/folder": "missing",
        "pipe": "outside", "away/new": "outside",
    }  # fmt: skip
    assert named["link"].path == str(workdir / "src")
    assert {"target", "Cargo.lock", "Cargo.toml"} <= set(named)


def test_sockets_that_grants_name(workdir: Path, home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(workdir / "s"))
        sockets = found(workdir, home, sockets=(str(workdir / "s"), str(workdir / "none"), "/etc/passwd")).sockets
    assert sockets == {str(workdir / "s"): str(workdir / "s"), str(workdir / "none"): None, "/etc/passwd": None}


def test_the_workdir_itself_is_resolved(workdir: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(workdir)
    assert found(tmp_path / "linked", home).workdir == str(workdir)
