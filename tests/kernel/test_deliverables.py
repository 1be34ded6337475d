"""Which promised files exist: globs, text that is no path, and everything that must not be followed."""

from __future__ import annotations

import hashlib
import os

import pytest

from toka_cli.kernel import deliverables
from toka_cli.kernel.deliverables import find_deliverables


@pytest.fixture
def work(tmp_path):
    """A workdir with a few files, and a secret beside it."""
    root = tmp_path / "work"
    for name in ("README.md", "reports/a.md", "reports/b.txt", "reports/deep/er/c.md", "src/x.py", ".git/config", "odd [1].md"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "secret.md").write_text("secret")
    return root


def paths(work, *globs):
    return [path for path, _, _ in find_deliverables(work, globs)]


def test_size_and_hash_are_those_of_the_file(work):
    assert list(find_deliverables(work, ["README.md"])) == [("README.md", 9, hashlib.sha256(b"README.md").hexdigest())]


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("reports/a.md", ["reports/a.md"]),
        ("./reports/a.md", ["reports/a.md"]),
        ("reports/*.md", ["reports/a.md"]),
        ("reports/**.md", ["reports/a.md", "reports/deep/er/c.md"]),
        ("reports/**/*.md", ["reports/a.md", "reports/deep/er/c.md"]),
        ("**/*.md", ["README.md", "odd [1].md", "reports/a.md", "reports/deep/er/c.md"]),
        ("reports/?.md", ["reports/a.md"]),
        ("reports/*", ["reports/a.md", "reports/b.txt"]),
        ("reports/**", ["reports/a.md", "reports/b.txt", "reports/deep/er/c.md"]),
        ("odd [1].md", ["odd [1].md"]),
        ("*/x.py", ["src/x.py"]),
        ("reports", []),
        ("gone.md", []),
        ("gone/**", []),
        ("**/config", []),
    ],
)
def test_globs(work, glob, found):
    assert paths(work, glob) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A report on the build system, with figures.",
        "../secret.md",
        "reports/../../secret.md",
        "/etc/passwd",
        "**/../../secret.md",
        "x\0y",
        "a\nb",
        "é" * 600,
        "..",
        ".",
        "./",
    ],
)
def test_what_is_no_path_below_the_workdir_matches_nothing(work, text):
    assert paths(work, text) == []


def test_each_file_once_in_order(work):
    assert paths(work, "reports/*.txt", "reports/*", "reports/a.md") == ["reports/b.txt", "reports/a.md"]


def test_symbolic_links_are_not_followed_wherever_they_stand(work, tmp_path):
    (work / "link.md").symlink_to(tmp_path / "secret.md")
    (work / "out").symlink_to(tmp_path)
    (work / "inside").symlink_to(work / "reports")
    (work / "reports" / "up").symlink_to(tmp_path)
    for glob in (
        "link.md",
        "*.md",
        "out/secret.md",
        "out/*.md",
        "out/**",
        "inside/a.md",
        "inside/*",
        "reports/up/secret.md",
        "**/secret.md",
    ):
        assert not {"link.md", "out/secret.md", "inside/a.md", "reports/up/secret.md"} & set(paths(work, glob)), glob


def test_a_workdir_that_is_reached_by_a_link_is_fine(work, tmp_path):
    (tmp_path / "alias").symlink_to(work)
    assert paths(tmp_path / "alias", "README.md", "reports/*.md") == ["README.md", "reports/a.md"]


def test_pipes_sockets_folders_and_devices_are_no_deliverables_and_do_not_block(work):
    os.mkfifo(work / "pipe.md")
    (work / "folder.md").mkdir()
    assert paths(work, "pipe.md", "folder.md", "*.md") == ["README.md", "odd [1].md"]


def test_what_may_not_be_read_is_left_out(work):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (work / "README.md").chmod(0)
    assert paths(work, "README.md") == []


def test_a_huge_tree_is_not_walked_to_its_end(work, monkeypatch):
    monkeypatch.setattr(deliverables, "MAX_VISITED", 50)
    for n in range(200):
        (work / f"d{n:03}").mkdir()
        (work / f"d{n:03}" / "f.md").write_text("x")
    assert 0 < len(paths(work, "**/f.md")) < 60


def test_no_more_files_than_the_bound_are_kept(work, monkeypatch):
    monkeypatch.setattr(deliverables, "MAX_FILES", 2)
    assert len(paths(work, "**/*.md", "reports/*")) == 2
