"""What an agent does to a repository so that git would act for it later is seen, each way by its name; ordinary work is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from toka_cli.kernel.git_guard import changed, git_state

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(where, *arguments):
    return subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always", *arguments],
        cwd=where, check=True, capture_output=True, text=True, env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"},
    ).stdout  # fmt: skip


@pytest.fixture
def repo(tmp_path):
    path = tmp_path / "repo"
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    (path / "a.txt").write_text("one\n")
    git(path, "add", ".")
    git(path, "commit", "-qm", "one")
    return path


def test_ordinary_work_changes_nothing_that_counts(repo):
    before = git_state(repo)
    (repo / "a.txt").write_text("two\n")
    git(repo, "commit", "-qam", "two")
    git(repo, "switch", "-qc", "other")
    git(repo, "gc", "-q")
    (repo / ".gitattributes").write_text("*.txt text\n")
    assert changed(before, git_state(repo)) == []
    json.dumps(before)


DEEDS = {
    "a hook": (lambda repo: (repo / ".git/hooks/pre-commit").write_text("#!/bin/sh\nid\n"), [".git/hooks/pre-commit was added"]),
    "a hook made executable": (lambda repo: os.chmod(repo / ".git/hooks/pre-commit.sample", 0o600), [".git/hooks/pre-commit.sample was changed"]),
    "a hook removed": (lambda repo: os.unlink(repo / ".git/hooks/pre-commit.sample"), [".git/hooks/pre-commit.sample was removed"]),
    "a hook that is a link": (lambda repo: os.symlink("/bin/true", repo / ".git/hooks/post-commit"), [".git/hooks/post-commit was added"]),
    "config": (lambda repo: git(repo, "config", "core.fsmonitor", "/tmp/x"), [".git/config was changed"]),
    "attributes": (lambda repo: (repo / ".git/info/attributes").write_text("* filter=x\n"), [".git/info/attributes was added"]),
    "alternates": (lambda repo: (repo / ".git/objects/info/alternates").write_text("/elsewhere\n"), [".git/objects/info/alternates was added"]),
    "another repository in its place": (
        lambda repo: (os.rename(repo / ".git", repo / "old"), shutil.copytree(repo / "old", repo / ".git")),
        [".git was changed"],
    ),
    "no repository any more": (lambda repo: shutil.rmtree(repo / ".git"), None),
    "a pointer in its place": (lambda repo: (os.rename(repo / ".git", repo / "old"), (repo / ".git").write_text("gitdir: old\n")), [".git was changed"]),
    "a link in its place": (lambda repo: (os.rename(repo / ".git", repo / "old"), os.symlink("old", repo / ".git")), None),
    "hooks as a link": (lambda repo: (shutil.rmtree(repo / ".git/hooks"), os.symlink("/tmp", repo / ".git/hooks")), None),
    "a commondir": (lambda repo: (repo / ".git/commondir").write_text("/elsewhere\n"), None),
}


@pytest.mark.parametrize("deed", sorted(DEEDS))
def test_what_makes_git_act_is_seen(repo, deed):
    act, words = DEEDS[deed]
    before = git_state(repo)
    act(repo)
    found = changed(before, git_state(repo))
    assert found == words if words is not None else found


def test_what_was_moved_away_and_back_is_the_same(repo):
    before = git_state(repo)
    os.rename(repo / ".git", repo / "old")
    os.rename(repo / "old", repo / ".git")
    assert changed(before, git_state(repo)) == []


def test_a_linked_working_tree_is_looked_at_where_it_really_is(repo, tmp_path):
    tree = tmp_path / "tree"
    git(repo, "worktree", "add", "-q", str(tree))
    before = git_state(tree)
    git(tree, "commit", "-q", "--allow-empty", "-m", "x")
    assert changed(before, git_state(tree)) == []
    (repo / ".git/hooks/post-commit").write_text("x")
    (tree / ".git").write_text(f"gitdir: {repo}/.git\n")
    assert ".git was changed" in changed(before, git_state(tree))
    assert ".git/hooks/post-commit was added" in changed(before, git_state(tree))


def test_submodules_are_looked_at_too(repo, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(repo, other)
    git(repo, "submodule", "--quiet", "add", "--name", "deep/er", str(other), "sub")
    before = git_state(repo)
    git(repo / "sub", "config", "core.fsmonitor", "/tmp/x")
    assert changed(before, git_state(repo)) == [".git/modules/deep/er/config was changed"]


def test_where_there_is_no_repository_there_is_nothing_to_lose(tmp_path):
    assert git_state(tmp_path) == {}
    before = git_state(tmp_path)
    git(tmp_path, "init", "-q")
    assert changed(before, git_state(tmp_path)) == []
    assert git_state(tmp_path / "missing") == {}


def test_strange_files_neither_hold_it_up_nor_break_it(repo):
    os.unlink(repo / ".git/config")
    os.mkfifo(repo / ".git/config")
    (repo / ".git/info/attributes").write_bytes(b"x" * (3 << 20))
    for number in range(700):
        (repo / f".git/hooks/h{number}").write_text("")
    found = git_state(repo)
    assert found["config"].startswith("special")
    assert len(found) < 600
    with open(repo / ".git/info/attributes", "ab") as file:
        file.write(b"y")
    assert ".git/info/attributes was changed" in changed(found, git_state(repo))
