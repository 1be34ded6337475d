"""The repository of a workdir, made by git itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from toka_cli.supervisor.repository import PROTECTED, git_places

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@host.example", "-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main"]
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "HOME": str(folder)}
    subprocess.run(["git", *identity, *words], cwd=folder, env=environment, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "f").write_text("x")
    git(folder, "add", "f")
    git(folder, "commit", "-qm", "1")
    return folder


def test_none(tmp_path: Path) -> None:
    found = git_places(str(tmp_path))
    assert (found.folders, found.entries) == ((), ())


def test_a_plain_repository(repository: Path) -> None:
    found = git_places(str(repository))
    assert found.folders == (f"{repository}/.git",)
    assert found.entries == (f"{repository}/.git",)
    assert set(found.protect) == {f"{repository}/.git/{name}" for name in PROTECTED}
    assert found.problem is None


def test_from_a_folder_below(repository: Path) -> None:
    (repository / "deep" / "down").mkdir(parents=True)
    found = git_places(str(repository / "deep" / "down"))
    assert (found.folders, found.entries) == ((f"{repository}/.git",), ())


def test_a_worktree_has_its_own_and_the_real_repository(repository: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    git(repository, "worktree", "add", "-q", str(tree))
    found = git_places(str(tree))
    own = f"{repository}/.git/worktrees/tree"
    assert found.folders == (own, f"{repository}/.git")
    assert found.entries == (f"{tree}/.git",)
    assert {f"{own}/gitdir", f"{own}/commondir", f"{repository}/.git/hooks", f"{repository}/.git/config"} <= set(found.protect)


def test_submodules_keep_their_hooks_and_pointers(repository: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    git(outer, "submodule", "add", "-q", str(repository), "lib/inner")
    found = git_places(str(outer))
    assert f"{outer}/lib/inner/.git" in found.entries
    assert f"{outer}/.git/modules/lib/inner/config" in found.protect
    inner = git_places(str(outer / "lib" / "inner"))
    assert inner.folders == (f"{outer}/.git/modules/lib/inner",)
    assert inner.problem is None


def test_a_pointer_to_somebody_elses_repository_is_not_believed(repository: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / ".git").write_text(f"gitdir: {repository}/.git\n")
    found = git_places(str(evil))
    assert found.folders == ()
    assert "does not point back" in (found.problem or "")
    assert found.entries == (f"{evil}/.git",)


def test_a_link_to_somebody_elses_repository_is_not_followed(repository: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / ".git").symlink_to(repository / ".git")
    found = git_places(str(evil))
    assert found.folders == ()
    assert "leads to" in (found.problem or "")


def test_a_common_folder_that_leads_away_is_not_followed(repository: Path, tmp_path: Path) -> None:
    (repository / ".git" / "commondir").write_text(f"{tmp_path}/elsewhere\n")
    found = git_places(str(repository))
    assert found.folders == ()
    assert "commondir leads to" in (found.problem or "")


@pytest.mark.parametrize("content", ["", "gitdir:", "nonsense", "gitdir: \0", "gitdir: a\nb", "x" * 100_000])
def test_a_pointer_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / ".git").write_text(content)
    found = git_places(str(tmp_path))
    assert found.folders == ()
    assert found.problem


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_a_repository_of_another_user_is_not_opened(repository: Path) -> None:
    below = repository / "mine"
    below.mkdir()
    os.chown(repository / ".git", 65534, 65534)
    found = git_places(str(below))
    assert found.folders == ()
    assert "belongs to another user" in (found.problem or "")


def test_hooks_are_protected_where_there_are_none_yet(repository: Path) -> None:
    shutil.rmtree(repository / ".git" / "hooks", ignore_errors=True)
    assert f"{repository}/.git/hooks" in git_places(str(repository)).protect


def test_paths_in_gitmodules_do_not_lead_out(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / ".git").mkdir(parents=True)
    (repository / ".gitmodules").write_text('[submodule "x"]\n\tpath = ../other\n[submodule "y"]\n\tpath = /etc\n')
    assert git_places(str(repository)).entries == (f"{repository}/.git",)
