"""Files that programs run unasked: which of them were written since a moment."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from toka_cli.kernel.code_files import SHOWN, TICK_S, sentence, written_since


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def moment(root: Path) -> float:
    """A time that is surely after what was written before, as the file system's own clock has it."""
    probe = root.parent / "probe"
    give_up = time.monotonic() + 10
    probe.write_text("x")
    before = probe.stat().st_ctime
    while time.monotonic() < give_up:
        probe.write_text("y")
        if (now := probe.stat().st_ctime) > before + 2 * TICK_S:
            return now
    raise AssertionError("the clock of the file system stands still")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_what_was_written_since_and_is_run_by_somebody(root: Path) -> None:
    write(root, "Makefile", "old/package.json", ".vscode/settings.json")
    since = moment(root)
    write(root, "sub/Makefile", "sub/main.py", "notes.txt", ".github/workflows/ci.yml", "lib/evil.pth", "old/package.json")
    assert written_since(str(root), since) == [
        (".github/workflows/ci.yml", "GitHub Actions"),
        ("lib/evil.pth", "python"),
        ("old/package.json", "npm"),
        ("sub/Makefile", "make"),
    ]


def test_putting_its_times_back_hides_nothing(root: Path) -> None:
    since = moment(root)
    write(root, "conftest.py")
    os.utime(root / "conftest.py", (0, 0))
    assert written_since(str(root), since) == [("conftest.py", "pytest")]


def test_a_file_that_was_moved_there_and_a_link_count_and_other_things_do_not(root: Path) -> None:
    write(root, "innocent")
    since = moment(root)
    os.rename(root / "innocent", root / "setup.py")
    os.symlink("/etc/passwd", root / ".envrc")
    (root / "Dockerfile").mkdir()
    os.mkfifo(root / "justfile")
    write(root, "node_modules/a/package.json", ".git/conftest.py")
    assert written_since(str(root), since) == [(".envrc", "direnv"), ("setup.py", "pip")]


def test_a_folder_that_cannot_be_read_or_is_not_there_is_no_error(root: Path) -> None:
    assert written_since(str(root / "gone"), 0.0) == []


def test_a_sentence_names_some_and_counts_the_rest() -> None:
    assert sentence([]) is None
    text = sentence([(f"d{n:02}/Makefile", "make") for n in range(SHOWN + 3)])
    assert text is not None
    assert "d00/Makefile (make)" in text
    assert " and 3 more" in text
