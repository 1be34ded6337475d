"""Folders and files that were granted and are made before there are walls."""

from __future__ import annotations

from pathlib import Path

from toka_cli.kernel.folders import make_granted


def test_what_is_missing_is_made_and_named(tmp_path: Path) -> None:
    assert make_granted(str(tmp_path), ["out/deep", "src"], ["Cargo.lock"]) == [f"{tmp_path}/{name}" for name in ("out/deep", "src", "Cargo.lock")]
    assert (tmp_path / "out" / "deep").is_dir()
    assert (tmp_path / "Cargo.lock").read_bytes() == b""
    assert make_granted(str(tmp_path), ["out/deep"], ["Cargo.lock"]) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "Cargo.lock").write_text("kept")
    (tmp_path / "out").write_text("a file")
    assert make_granted(str(tmp_path), ["out", "out/below"], ["Cargo.lock"]) == []
    assert (tmp_path / "Cargo.lock").read_text() == "kept"
    assert (tmp_path / "out").read_text() == "a file"


def test_links_are_not_followed(tmp_path: Path) -> None:
    work, away = tmp_path / "work", tmp_path / "away"
    work.mkdir()
    away.mkdir()
    (work / "out").symlink_to(away)
    (work / "lock").symlink_to(away / "planted")
    assert make_granted(str(work), ["out/evil", "../evil"], ["lock", "out/planted"]) == []
    assert list(away.iterdir()) == []
    assert not (tmp_path / "evil").exists()
