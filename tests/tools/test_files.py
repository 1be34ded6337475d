from __future__ import annotations

import dataclasses
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toka_cli.tools import files
from toka_cli.tools.catalog import CATALOG
from toka_cli.tools.files import WriteFile
from toka_cli.tools.tool import ToolContext, ToolFailed

Call = Callable[..., Any]


def drive(name: str, context: ToolContext, **arguments: Any) -> Any:
    try:
        CATALOG[name].call(arguments, context).send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the tool waited")


def refused(call: Call, name: str, **arguments: Any) -> ToolFailed:
    with pytest.raises(ToolFailed) as caught:
        call(name, **arguments)
    return caught.value


# --- read_file -----------------------------------------------------------------------------------------------------------------------


def test_reading_says_what_it_gives(call: Call, workdir: Path) -> None:
    (workdir / "a").write_bytes(b"one\ntwo\nthree")
    whole = {"path": "a", "first_line": 1, "lines": 3, "total_lines": 3, "size_bytes": 13, "cut": False, "next_offset": None}
    assert call("read_file", path="a") == whole | {"content": "one\ntwo\nthree", "lossy": False, "note": None}
    part = call("read_file", path="a", offset=2, limit=1)
    assert (part["content"], part["first_line"], part["lines"], part["cut"], part["next_offset"]) == ("two\n", 2, 1, True, 3)
    assert part["note"] == "the file goes on; read it with offset 3"
    last = call("read_file", path="a", offset=3)
    assert (last["content"], last["cut"], last["total_lines"]) == ("three", False, 3)


def test_an_empty_file_is_read_and_a_line_past_the_end_is_refused(call: Call, workdir: Path) -> None:
    (workdir / "empty").write_bytes(b"")
    (workdir / "two").write_bytes(b"a\nb\n")
    empty = call("read_file", path="empty")
    assert (empty["content"], empty["lines"], empty["total_lines"], empty["cut"]) == ("", 0, 0, False)
    assert refused(call, "read_file", path="two", offset=3).message == "two has 2 lines; line 3 is past its end"
    assert "past its end" in refused(call, "read_file", path="two", offset=50).message
    assert "past its end" in refused(call, "read_file", path="empty", offset=2).message
    exact = call("read_file", path="two", limit=2)
    assert (exact["cut"], exact["total_lines"]) == (False, 2)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=30),
    last=st.booleans(),
    step=st.integers(1, 7),
    limit=st.integers(200, 300),
)
def test_pages_put_together_are_the_file(call: Call, workdir: Path, lines: list[str], last: bool, step: int, limit: int) -> None:
    content = "\n".join(lines) + ("\n" if last else "")
    (workdir / "pages").write_bytes(content.encode())
    text, offset = "", 1
    while offset is not None and content:
        page = call("read_file", path="pages", offset=offset, limit=step, limit_bytes=limit)
        assert len(page["content"].encode()) <= limit
        assert page["cut"] == (page["next_offset"] is not None)
        text, offset = text + page["content"], page["next_offset"]
    assert text == content


def test_a_long_line_is_cut_at_a_character_and_says_so(call: Call, workdir: Path) -> None:
    (workdir / "long").write_text("€" * 1000 + "\nnext\n")
    page = call("read_file", path="long", limit_bytes=100)
    assert page["content"] == "€" * 33
    assert page["cut"] is True
    assert page["lossy"] is False
    assert "line 1 is longer than" in page["note"]
    assert call("read_file", path="long", offset=page["next_offset"], limit_bytes=100)["content"] == "next\n"


def test_text_that_is_no_utf8_is_shown_and_marked(call: Call, workdir: Path) -> None:
    (workdir / "latin").write_bytes(b"caf\xe9\r\n" * 100)
    page = call("read_file", path="latin", limit=2)
    assert page["content"] == "caf\\xe9\r\n" * 2
    assert page["lossy"] is True
    assert len(call("read_file", path="latin", limit_bytes=80)["content"].encode()) <= 80


def test_line_ends_and_byte_order_marks_are_shown_as_they_are(call: Call, workdir: Path) -> None:
    (workdir / "a").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert call("read_file", path="a")["content"] == "\ufeffone\r\ntwo\r\n"


@pytest.mark.parametrize("content", [b"\x7fELF\x02\x01\x01\0\0", "text".encode("utf-16"), b"a" * 8000 + b"\0"])
def test_binary_files_are_refused(call: Call, workdir: Path, content: bytes) -> None:
    (workdir / "b").write_bytes(content)
    failed = refused(call, "read_file", path="b")
    assert "is not text" in failed.message
    assert str(len(content)) in failed.message


def test_a_huge_file_costs_no_more_than_what_is_asked_of_it(call: Call, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (workdir / "huge").open("wb") as out:
        for start in range(0, 500_000, 1000):
            out.write(b"".join(b"%098d\n" % number for number in range(start, start + 1000)))
    read: list[int] = []
    real = os.read

    def counted(descriptor: int, size: int) -> bytes:
        data = real(descriptor, size)
        read.append(len(data))
        return data

    monkeypatch.setattr(files.os, "read", counted)
    page = call("read_file", path="huge", limit=10)
    assert page["lines"] == 10
    assert page["cut"] is True
    assert sum(read) < 100_000
    read.clear()
    page = call("read_file", path="huge", offset=400_001, limit=3)
    assert page["content"].split() == [f"{number:098d}" for number in range(400_000, 400_003)]
    assert sum(read) < 42_000_000
    assert max(read) <= files.BLOCK


# --- write_file ----------------------------------------------------------------------------------------------------------------------


def test_writing_is_exact_and_tells_new_from_old(call: Call, workdir: Path) -> None:
    content = "é\r\n\n\ufeffx"
    assert call("write_file", path="d/a", content=content) == {
        "path": "d/a",
        "created": True,
        "size_bytes": len(content.encode()),
        "line_ends": "lf",
    }
    assert (workdir / "d" / "a").read_bytes() == content.encode()
    assert call("write_file", path="d/a", content="")["created"] is False
    assert (workdir / "d" / "a").read_bytes() == b""
    assert os.listdir(workdir / "d") == ["a"]


@pytest.mark.parametrize("mode", [0o755, 0o600, 0o664])
def test_permissions_are_kept(call: Call, workdir: Path, mode: int) -> None:
    (workdir / "a").write_text("old")
    (workdir / "a").chmod(mode)
    call("write_file", path="a", content="new")
    call("edit_file", path="a", old="new", new="newer")
    assert stat.S_IMODE((workdir / "a").stat().st_mode) == mode


def test_a_new_file_obeys_the_umask(call: Call, workdir: Path) -> None:
    before = os.umask(0o027)
    try:
        call("write_file", path="a", content="")
    finally:
        os.umask(before)
    assert stat.S_IMODE((workdir / "a").stat().st_mode) == 0o640


def test_a_hard_link_elsewhere_keeps_its_content(call: Call, workdir: Path, secret: Path) -> None:
    os.link(secret / "key.txt", workdir / "a")
    call("write_file", path="a", content="mine")
    assert (secret / "key.txt").read_text() == "the key\n"
    assert (workdir / "a").read_text() == "mine"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(call: Call, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workdir / "a").write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        failed = refused(call, "write_file", path="a", content="x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed.message == "a: file too large"
    assert (workdir / "a").read_text() == "old"
    assert os.listdir(workdir) == ["a"]


def test_a_file_made_read_only_is_not_replaced(context: ToolContext, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workdir.chmod(0o777)
    for name, mode in (("a", 0o444), ("b", 0o666)):
        (workdir / name).write_text("old")
        (workdir / name).chmod(mode)
    monkeypatch.chdir(workdir)  # An ordinary user cannot walk here from the root.
    here = dataclasses.replace(context, workdir=Path())
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # Root may write every file.
    try:
        with pytest.raises(ToolFailed) as caught:
            drive("write_file", here, path="a", content="new")
        drive("write_file", here, path="b", content="new")
    finally:
        os.seteuid(user)
    assert caught.value.message == "a: permission denied"
    assert {name: (workdir / name).read_text() for name in os.listdir(workdir)} == {"a": "old", "b": "new"}


def test_half_a_surrogate_pair_is_refused(context: ToolContext, call: Call, workdir: Path) -> None:
    assert refused(call, "write_file", path="a", content="\ud800").code == "tool_failed"
    assert os.listdir(workdir) == []


def test_whether_a_write_took_effect_can_be_told(context: ToolContext, workdir: Path) -> None:
    (workdir / "a").write_text("new")
    assert files.is_written(WriteFile("a", "new"), context)
    assert not files.is_written(WriteFile("a", "old"), context)
    assert not files.is_written(WriteFile("a", "longer"), context)
    assert not files.is_written(WriteFile("b", "new"), context)
    assert not files.is_written(WriteFile("../work/../x", "new"), context)


# --- edit_file -----------------------------------------------------------------------------------------------------------------------


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=40) | st.text("ab\r\n", max_size=20).map(str.encode),
    old=st.text("ab\n\r", max_size=3),
    new=st.text("abc\n", max_size=4),
)
def test_an_edit_is_exact_or_the_file_is_unchanged(call: Call, workdir: Path, content: bytes, old: str, new: str) -> None:
    path = workdir / "edited"
    path.write_bytes(content)
    wanted, put = old.encode(), new.encode()
    if files.is_crlf(content) and b"\r" not in wanted + put:
        wanted, put = wanted.replace(b"\n", b"\r\n"), put.replace(b"\n", b"\r\n")
    try:
        call("edit_file", path="edited", old=old, new=new)
    except ToolFailed:
        assert path.read_bytes() == content
        assert not wanted or wanted == put or sum(content.startswith(wanted, at) for at in range(len(content))) != 1
    else:
        before, _, after = content.partition(wanted)
        assert path.read_bytes() == before + put + after
        assert wanted not in after
    assert os.listdir(workdir) == ["edited"]


def test_a_patch_is_applied_to_the_file_or_it_is_unchanged(call: Call, workdir: Path) -> None:
    (workdir / "a").write_bytes(b"one\r\ntwo\r\n")
    refused(call, "edit_file", path="a", patch="@@ -1 +1 @@\n-two\n+2\n")
    assert (workdir / "a").read_bytes() == b"one\r\ntwo\r\n"
    answer = call("edit_file", path="a", patch="--- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n")
    assert answer == {"path": "a", "created": False, "size_bytes": 8, "line_ends": "crlf"}
    assert (workdir / "a").read_bytes() == b"one\r\n2\r\n"


@pytest.mark.parametrize("arguments", [{}, {"old": "a"}, {"new": "a"}, {"old": "a", "new": "b", "patch": "x"}, {"new": "b", "patch": "x"}])
def test_an_edit_is_text_or_a_patch(call: Call, workdir: Path, arguments: dict[str, str]) -> None:
    (workdir / "a").write_text("a")
    assert refused(call, "edit_file", path="a", **arguments).message == "edit_file takes either old and new, or patch"
    assert (workdir / "a").read_text() == "a"


def test_what_is_not_there_or_too_large_is_not_edited(call: Call, workdir: Path) -> None:
    assert refused(call, "edit_file", path="a", old="x", new="y").message == "there is no a"
    assert os.listdir(workdir) == []
    with (workdir / "b").open("wb") as out:
        out.truncate(files.MAX_EDIT + 1)
    assert "at most" in refused(call, "edit_file", path="b", old="x", new="y").message


# --- list_dir ------------------------------------------------------------------------------------------------------------------------


def test_a_directory_is_listed_in_order(call: Call, workdir: Path) -> None:
    (workdir / "b.txt").write_text("four")
    (workdir / "a").mkdir()
    (workdir / ".hidden").write_text("")
    (workdir / "l").symlink_to("../elsewhere")
    answer = call("list_dir")
    assert [tuple(entry.values()) for entry in answer["entries"]] == [
        (".hidden", "file", 0, None),
        ("a", "dir", None, None),
        ("b.txt", "file", 4, None),
        ("l", "link", None, "../elsewhere"),
    ]
    assert (answer["path"], answer["total"], answer["cut"]) == (".", 4, False)
    assert call("list_dir", path="a")["entries"] == []
    assert "a file, not a directory" in refused(call, "list_dir", path="b.txt").message
    assert refused(call, "list_dir", path="c").message == "there is no c"


def test_a_long_list_is_cut_and_says_so(call: Call, workdir: Path) -> None:
    for number in range(1100):
        (workdir / f"{number:04d}").touch()
    answer = call("list_dir", limit_bytes=100_000)
    assert (len(answer["entries"]), answer["total"], answer["cut"]) == (1000, 1100, True)
    assert [entry["name"] for entry in answer["entries"]] == [f"{number:04d}" for number in range(1000)]
    few = call("list_dir", limit_bytes=1000)
    assert few["cut"] is True
    assert 5 <= len(few["entries"]) <= 20


def test_names_that_are_no_utf8_are_shown(call: Call, workdir: Path) -> None:
    (workdir / os.fsdecode(b"caf\xe9")).write_text("needle\n")
    assert [entry["name"] for entry in call("list_dir")["entries"]] == ["caf\\xe9"]
    assert call("glob", pattern="*")["paths"] == ["caf\\xe9"]
    assert call("grep", pattern="needle")["matches"][0]["path"] == "caf\\xe9"
