"""Attacks on the wall around the working directory, each with a twin that must work."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toka_cli.tools import beneath
from toka_cli.tools.tool import ToolFailed

Call = Callable[..., Any]


def all_files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def refused(call: Call, name: str, **arguments: Any) -> ToolFailed:
    with pytest.raises(ToolFailed) as caught:
        call(name, **arguments)
    return caught.value


WAYS_OUT = ["../secret/key.txt", "sub/../../secret/key.txt", "sub/../sub/../../secret/key.txt", "./../work/../secret/key.txt", "..", "/"]


@pytest.mark.parametrize("path", [*WAYS_OUT, "/etc/passwd", "/proc/self/environ"])
def test_no_path_leads_out(call: Call, workdir: Path, secret: Path, tmp_path: Path, path: str) -> None:
    (workdir / "sub").mkdir()
    before = all_files(tmp_path)
    for name, more in (
        ("read_file", {}),
        ("write_file", {"content": "x"}),
        ("edit_file", {"old": "the", "new": "x"}),
        ("list_dir", {}),
        ("grep", {"pattern": "key"}),
        ("glob", {"pattern": "*"}),
    ):
        assert "leads outside" in refused(call, name, path=path, **more).message
    assert all_files(tmp_path) == before


@pytest.mark.parametrize("path", ["a.txt", "./a.txt", "sub/../a.txt", "sub//..//a.txt", "sub/../sub/../a.txt"])
def test_paths_that_stay_inside_work(call: Call, workdir: Path, path: str) -> None:
    (workdir / "sub").mkdir()
    (workdir / "a.txt").write_text("here\n")
    assert call("read_file", path=path)["content"] == "here\n"
    assert call("read_file", path=path)["path"] == "a.txt"


def test_absolute_paths_are_read_below_the_working_directory_only(call: Call, workdir: Path, secret: Path, tmp_path: Path) -> None:
    (workdir / "a.txt").write_text("here\n")
    (tmp_path / "workshop").mkdir()
    (tmp_path / "workshop" / "a.txt").write_text("a name that begins alike\n")
    assert call("read_file", path=str(workdir / "a.txt"))["content"] == "here\n"
    assert call("list_dir", path=str(workdir))["total"] == 1
    refused(call, "read_file", path=str(secret / "key.txt"))
    refused(call, "read_file", path=str(tmp_path / "workshop" / "a.txt"))
    refused(call, "read_file", path=f"{workdir}/../secret/key.txt")


@pytest.mark.parametrize("target", ["../secret/key.txt", "{secret}/key.txt", "/etc/passwd", "sub/../../secret/key.txt"])
def test_links_that_lead_out_are_refused(call: Call, workdir: Path, secret: Path, target: str) -> None:
    (workdir / "sub").mkdir()
    (workdir / "link").symlink_to(target.format(secret=secret))
    before = all_files(secret)
    assert "leads outside" in refused(call, "read_file", path="link").message
    assert "leads outside" in refused(call, "write_file", path="link", content="x").message
    assert "leads outside" in refused(call, "edit_file", path="link", old="the", new="x").message
    assert all_files(secret) == before
    assert (workdir / "link").is_symlink()


def test_linked_directories_that_lead_out_are_refused(call: Call, workdir: Path, secret: Path) -> None:
    (workdir / "sub").mkdir()
    (workdir / "sub" / "out").symlink_to("../../secret")
    for name, more in (
        ("list_dir", {"path": "sub/out"}),
        ("read_file", {"path": "sub/out/key.txt"}),
        ("write_file", {"path": "sub/out/new.txt", "content": "x"}),
        ("write_file", {"path": "sub/out/deep/new.txt", "content": "x"}),
        ("glob", {"path": "sub/out", "pattern": "*"}),
        ("grep", {"path": "sub/out", "pattern": "key"}),
    ):
        assert "leads outside" in refused(call, name, **more).message
    assert call("grep", pattern="key")["matches"] == []
    assert call("glob", pattern="**/*.txt")["paths"] == []
    assert call("glob", pattern="sub/out/*")["paths"] == []
    assert os.listdir(secret) == ["key.txt"]


def test_links_that_stay_inside_are_followed_and_kept(call: Call, workdir: Path) -> None:
    (workdir / "real").mkdir()
    (workdir / "real" / "a.txt").write_text("one\n")
    (workdir / "dir").symlink_to("real")
    (workdir / "absolute").symlink_to(workdir / "real" / "a.txt")
    (workdir / "real" / "up").symlink_to("../real/../dir/a.txt")
    (workdir / "dangling").symlink_to("real/new.txt")
    assert call("read_file", path="dir/a.txt")["path"] == "real/a.txt"
    assert call("read_file", path="absolute")["content"] == "one\n"
    assert call("read_file", path="dir/up")["content"] == "one\n"
    assert call("edit_file", path="absolute", old="one", new="two")["path"] == "real/a.txt"
    assert call("write_file", path="dangling", content="new\n")["created"] is True
    assert (workdir / "real" / "a.txt").read_text() == "two\n"
    assert (workdir / "real" / "new.txt").read_text() == "new\n"
    assert (workdir / "absolute").is_symlink()
    assert (workdir / "dangling").is_symlink()


def test_links_in_a_circle_end(call: Call, workdir: Path) -> None:
    (workdir / "a").symlink_to("b")
    (workdir / "b").symlink_to("a")
    (workdir / "self").symlink_to(".")
    assert "circle" in refused(call, "read_file", path="a").message
    assert "circle" in refused(call, "read_file", path="/".join(["self"] * 60)).message
    (workdir / "x").write_text("x")
    assert call("read_file", path="/".join(["self"] * 30) + "/x")["content"] == "x"


def test_links_of_links_that_grow_are_bounded(call: Call, workdir: Path) -> None:
    (workdir / "d").mkdir()
    (workdir / "l0").symlink_to("/".join(["d/.."] * 500))
    for number in range(1, 30):
        (workdir / f"l{number}").symlink_to("/".join([f"l{number - 1}"] * 100))
    assert refused(call, "list_dir", path="l29").code == "tool_failed"
    assert call("list_dir", path="l0")["path"] == "."


def swap(monkeypatch: pytest.MonkeyPatch, on: str, act: Callable[[], None]) -> None:
    """Let `act` happen once, between the look at the name `on` and its opening: the worst moment."""
    real = os.open
    done: list[bool] = []

    def late(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == on and not done:
            done.append(True)
            act()
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(beneath.os, "open", late)


def test_a_directory_exchanged_for_a_link_while_walking_leads_nowhere(
    call: Call, workdir: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "d").mkdir()
    (workdir / "d" / "key.txt").write_text("mine\n")

    def act() -> None:
        (workdir / "d").rename(workdir / "gone")
        (workdir / "d").symlink_to(secret)

    swap(monkeypatch, "d", act)
    assert "changed while it was being opened" in refused(call, "read_file", path="d/key.txt").message
    monkeypatch.undo()
    assert call("read_file", path="gone/key.txt")["content"] == "mine\n"


def test_a_file_exchanged_for_a_link_or_pipe_leads_nowhere_and_does_not_hang(
    call: Call, workdir: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "a").write_text("mine\n")

    def link() -> None:
        (workdir / "a").unlink()
        (workdir / "a").symlink_to(secret / "key.txt")

    swap(monkeypatch, "a", link)
    assert "changed while it was being opened" in refused(call, "read_file", path="a").message
    monkeypatch.undo()
    (workdir / "a").unlink()
    (workdir / "a").write_text("mine\n")

    def pipe() -> None:
        (workdir / "a").unlink()
        os.mkfifo(workdir / "a")

    swap(monkeypatch, "a", pipe)
    assert "a pipe" in refused(call, "read_file", path="a").message


def test_a_directory_moved_away_while_writing_never_writes_through_a_link(
    call: Call, workdir: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "d").mkdir()
    (workdir / "d" / "key.txt").write_text("mine\n")

    def act() -> None:
        (workdir / "d").rename(workdir / "gone")
        (workdir / "d").symlink_to(secret)

    swap(monkeypatch, "key.txt", act)
    call("write_file", path="d/key.txt", content="new\n")
    assert (secret / "key.txt").read_text() == "the key\n"
    assert (workdir / "gone" / "key.txt").read_text() == "new\n"


def test_a_file_changed_by_somebody_else_while_editing_is_not_overwritten(
    call: Call, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "a").write_text("one\n")
    real = os.urandom
    monkeypatch.setattr(beneath.os, "urandom", lambda size: ((workdir / "a").write_text("theirs, longer\n"), real(size))[1])
    assert "changed by somebody else" in refused(call, "edit_file", path="a", old="one", new="two").message
    assert all_files(workdir) == {"a": b"theirs, longer\n"}


@pytest.mark.parametrize("name", ["read_file", "write_file", "edit_file", "grep"])
def test_pipes_sockets_devices_and_directories_are_refused_without_waiting(call: Call, workdir: Path, name: str) -> None:
    os.mkfifo(workdir / "pipe")
    (workdir / "dir").mkdir()
    more = {"read_file": {}, "write_file": {"content": "x"}, "edit_file": {"old": "a", "new": "b"}, "grep": {"pattern": "a"}}[name]
    assert "a pipe" in refused(call, name, path="pipe", **more).message
    if name != "grep":
        assert "a directory" in refused(call, name, path="dir", **more).message
    before = os.getcwd()
    os.chdir(workdir)  # The name of a socket is limited to 108 bytes.
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
            assert "a socket" in refused(call, name, path="socket", **more).message
    finally:
        os.chdir(before)
    try:
        os.mknod(workdir / "zero", 0o666 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        return
    assert "a device" in refused(call, name, path="zero", **more).message


def test_pipes_beside_files_do_not_stop_a_search(call: Call, workdir: Path) -> None:
    os.mkfifo(workdir / "a_pipe")
    (workdir / "b.txt").write_text("needle\n")
    assert [one["path"] for one in call("grep", pattern="needle")["matches"]] == ["b.txt"]
    kinds = {entry["name"]: entry["kind"] for entry in call("list_dir")["entries"]}
    assert kinds == {"a_pipe": "other", "b.txt": "file"}


@pytest.mark.parametrize("path", [".git/hooks/pre-commit", ".git/config", "sub/.git/config", ".git", ".GIT/config", "link/config"])
def test_what_git_owns_is_not_written(call: Call, workdir: Path, path: str) -> None:
    (workdir / ".git" / "hooks").mkdir(parents=True)
    (workdir / ".git" / "config").write_text("[core]\n")
    (workdir / "link").symlink_to(".git")
    before = all_files(workdir)
    assert ".git" in refused(call, "write_file", path=path, content="x").message
    assert all_files(workdir) == before


def test_names_like_gits_and_reading_what_git_owns_work(call: Call, workdir: Path) -> None:
    (workdir / ".git").mkdir()
    (workdir / ".git" / "config").write_text("[core]\n")
    assert call("read_file", path=".git/config")["content"] == "[core]\n"
    for path in (".gitignore", ".github/workflows/a.yml", "a.git"):
        assert call("write_file", path=path, content="x")["created"] is True


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "x" * 300, "/".join(["d"] * 200)])
def test_strange_paths_are_refused_in_words(call: Call, workdir: Path, path: str) -> None:
    assert refused(call, "write_file", path=path, content="x").code == "tool_failed"
    assert refused(call, "read_file", path=path).code == "tool_failed"


def test_a_refused_write_leaves_no_directories(call: Call, workdir: Path) -> None:
    refused(call, "write_file", path="new/../../secret/x", content="x")
    assert os.listdir(workdir) == []
    call("write_file", path="new/deep/x", content="x")
    assert (workdir / "new" / "deep" / "x").read_text() == "x"


def test_a_missing_file_names_its_neighbours(call: Call, workdir: Path) -> None:
    (workdir / "README.md").write_text("")
    failed = refused(call, "read_file", path="READNE.md")
    assert failed.message == "there is no READNE.md"
    assert failed.hint == "did you mean README.md?"
    assert "is a file, not a directory" in refused(call, "read_file", path="README.md/x").message


def test_no_descriptor_is_left_open(call: Call, workdir: Path, secret: Path) -> None:
    (workdir / "a" / "b").mkdir(parents=True)
    (workdir / "a" / "b" / "c").write_text("x\n" * 10)
    (workdir / "out").symlink_to(secret)
    before = sorted(os.listdir("/proc/self/fd"))
    call("read_file", path="a/b/c")
    call("edit_file", path="a/../a/b/c", patch="@@ -1 +1 @@\n-x\n+y\n")
    call("glob", pattern="**")
    call("grep", pattern="x", limit=1)
    for path in ("out/key.txt", "a/b", "a/b/d", "../x"):
        refused(call, "read_file", path=path)
    refused(call, "edit_file", path="a/b/c", old="x", new="y")
    assert sorted(os.listdir("/proc/self/fd")) == before
