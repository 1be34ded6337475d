from __future__ import annotations

import difflib
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toka_cli.tools.patch import apply_patch, is_crlf, replace_once
from toka_cli.tools.tool import ToolFailed

LINES = st.lists(st.sampled_from(["", "a", "b", " a", "-x", "+y", "@@ -1 +1 @@", "\\ x", "--- q", "é", "a\x0b", "end\x85"]), max_size=12)
WHOLE = st.builds(lambda lines, last: ("\n".join(lines) + ("\n" if last and lines else "")).encode(), LINES, st.booleans())


def split(content: bytes) -> list[bytes]:
    return re.findall(rb"[^\n]*\n|[^\n]+", content)


def unified(before: bytes, after: bytes, context: int = 3) -> bytes:
    """The patch that difflib makes, with the marks for a missing last line end, which it leaves out."""
    a, b = ([line.decode() for line in split(side)] for side in (before, after))
    out = b""
    for line in difflib.unified_diff(a, b, "a/f", "b/f", n=context):
        data = line.encode()
        out += data if data.endswith(b"\n") else data + b"\n\\ No newline at end of file\n"
    return out


@settings(deadline=None)
@given(before=WHOLE, after=WHOLE, context=st.integers(0, 3))
def test_a_patch_made_by_difflib_gives_exactly_the_other_file(before: bytes, after: bytes, context: int) -> None:
    if before == after:
        return
    assert apply_patch(before, unified(before, after, context), "f") == after


@settings(deadline=None)
@given(before=WHOLE, after=WHOLE, other=WHOLE)
def test_a_patch_for_another_file_is_refused_or_changes_only_what_it_says(before: bytes, after: bytes, other: bytes) -> None:
    patch = unified(before, after)
    if before == after:
        return
    try:
        changed = apply_patch(other, patch, "f")
    except ToolFailed:
        return
    # It fitted: then the way back, made from the two files without the patch, must give the same lines removed and added.
    body = [line for line in patch.split(b"\n")[2:] if line[:1] in {b"+", b"-"}]
    assert len(changed.split(b"\n")) - len(other.split(b"\n")) == sum(1 if line[:1] == b"+" else -1 for line in body) - _ends(patch)
    assert changed != other


def _ends(patch: bytes) -> int:
    """How many line feeds fewer there are because of marks for a missing one: added lines without, less removed ones."""
    lines = patch.split(b"\n")
    marks = [lines[at - 1][:1] for at, line in enumerate(lines) if line == b"\\ No newline at end of file"]
    return marks.count(b"+") - marks.count(b"-")


@settings(deadline=None)
@given(before=WHOLE, after=WHOLE, data=st.data())
def test_a_spoiled_patch_is_refused_or_does_what_patch_does(
    before: bytes, after: bytes, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if before == after:
        return
    lines = unified(before, after).split(b"\n")
    at = data.draw(st.integers(2, len(lines) - 1))
    spoil = data.draw(st.sampled_from(["drop", "double", "swap mark", "other text"]))
    if spoil == "drop":
        del lines[at]
    elif spoil == "double":
        lines.insert(at, lines[at])
    elif spoil == "swap mark":
        lines[at] = {b" ": b"-", b"-": b"+", b"+": b" "}.get(lines[at][:1], b" ") + lines[at][1:]
    else:
        lines[at] += b"!"
    patch = b"\n".join(lines)
    try:
        changed = apply_patch(before, patch, "f")
    except ToolFailed:
        return
    expected = _oracle(before, patch)
    assert changed == expected


def _oracle(content: bytes, patch: bytes) -> bytes:
    """Apply a patch by its meaning alone, one line at a time, asserting every context line."""
    source = split(content)
    out: list[bytes] = []
    at = 0
    lines = patch.split(b"\n")
    left_old = left_new = 0
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else b""
        text = line[1:] + (b"" if following.startswith(b"\\ ") else b"\n")
        if not left_old and not left_new:
            head = re.match(rb"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@", line)
            if head:
                left_old, left_new = int(head[2] or 1), int(head[3] or 1)
                begin = int(head[1]) - (1 if left_old else 0)
                out += source[at:begin]
                at = begin
            continue
        if line.startswith(b"\\ "):
            continue
        if line[:1] != b"+":
            assert source[at] == text
            at += 1
            left_old -= 1
        if line[:1] != b"-":
            out.append(text)
            left_new -= 1
    return b"".join(out + source[at:])


@settings(deadline=None)
@given(content=st.text("ab\n", max_size=30), old=st.text("ab\n", max_size=4), new=st.text("abc\n", max_size=4))
def test_replace_once_replaces_the_only_occurrence_or_refuses(content: str, old: str, new: str) -> None:
    before = content.encode()
    places = [at for at in range(len(content)) if old and content.startswith(old, at)]
    if len(places) == 1 and old != new:
        assert replace_once(before, old.encode(), new.encode()).decode() == content[: places[0]] + new + content[places[0] + len(old) :]
    else:
        with pytest.raises(ToolFailed):
            replace_once(before, old.encode(), new.encode())


@settings(deadline=None)
@given(lines=st.lists(st.text("ab", max_size=3), min_size=1, max_size=8), at=st.integers(0, 7), new=st.text("xy\n", min_size=1, max_size=5))
def test_crlf_is_kept(lines: list[str], at: int, new: str) -> None:
    lines = [f"{number}{line}" for number, line in enumerate(lines)]
    old = lines[at % len(lines)]
    before = "".join(f"{line}\r\n" for line in lines).encode()
    after = replace_once(before, f"{old}\n".encode(), f"{new}\n".encode())
    assert is_crlf(after)
    assert after.replace(b"\r\n", b"\n").decode() == "".join(f"{line}\n" for line in lines).replace(f"{old}\n", f"{new}\n")
    plain = unified(before.replace(b"\r\n", b"\n"), after.replace(b"\r\n", b"\n"))
    assert apply_patch(before, plain, "f") == after
    assert apply_patch(before, unified(before, after), "f") == after


def test_mixed_line_ends_are_matched_as_they_are() -> None:
    mixed = b"a\r\nb\nc\r\n"
    assert replace_once(mixed, b"b\n", b"x\n") == b"a\r\nx\nc\r\n"
    with pytest.raises(ToolFailed, match="does not occur"):
        replace_once(mixed, b"a\nb", b"x")


def test_how_often_and_where_is_said() -> None:
    with pytest.raises(ToolFailed) as caught:
        replace_once(b"x\ny\nx\naxa\n", b"x", b"z")
    assert caught.value.message == "old occurs 3 times, beginning in lines 1, 3, 4; it must occur exactly once"
    with pytest.raises(ToolFailed) as caught:
        replace_once(b"def f():\n    return 1\n", b"def f():\n  return 1\n", b"")
    assert caught.value.hint is not None
    assert "its first line is in line 1" in caught.value.hint
    with pytest.raises(ToolFailed, match="2 times"):
        replace_once(b"aaa", b"aa", b"b")


FILE = b"one\ntwo\nthree\nfour\n"


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("", "has no hunk"),
        ("hello", "line 1 is not part of a unified patch"),
        ("*** Begin Patch\n", "line 1 is not part of a unified patch"),
        ("@@ -1,2 +1,2 @@\n one\n-two\n", "shorter than its counts"),
        ("@@ -1 +1 @@\n-one\n+ONE\n two\n", "belongs to no hunk"),
        ("@@ -1 +1 @@\n-one\n-two\n+x\n", "longer than its counts"),
        ("@@ -0,1 +1 @@\n-one\n+x\n", "begins at line 0"),
        ("@@ -1 +1 @@\n-One\n+x\n", "line 1 is 'one', the patch says 'One'"),
        ("@@ -2 +2 @@\n-one\n+x\n", "line 2 is 'two', the patch says 'one'"),
        ("@@ -4,2 +4,2 @@\n four\n-five\n+x\n", "the file has 4 lines, line 5 is wanted"),
        ("@@ -9,0 +10 @@\n+x\n", "the file has 4 lines, line 9 is wanted"),
        ("@@ -3 +3 @@\n-three\n+x\n@@ -1 +1 @@\n-one\n+y\n", "begins before the end"),
        ("@@ -1 +1 @@\n one\n", "changes nothing"),
        ("--- a/f\n+++ b/g\n@@ -1 +1 @@\n-one\n+x\n", "the patch is for b/g, the path says dir/f"),
        ("--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+x\n", "makes or removes the file"),
        ("--- a/f\n+++ b/f\n@@ -1 +1 @@\n-one\n+x\n--- a/g\n+++ b/g\n@@ -1 +1 @@\n-one\n+x\n", "belongs to no hunk"),
        ("@@ -1 +1 @@\n-one\n+x\n\\ No newline at end of file\n", "would join two lines"),
        ("@@ -1 +1 @@\n-one\n*x\n", "begins with none of space, - and +"),
    ],
)
def test_patches_that_do_not_fit_are_refused(patch: str, message: str) -> None:
    with pytest.raises(ToolFailed) as caught:
        apply_patch(FILE, patch.encode(), "dir/f")
    assert message in caught.value.message


def test_where_the_lines_really_are_is_said() -> None:
    with pytest.raises(ToolFailed) as caught:
        apply_patch(FILE, b"@@ -2 +2 @@\n-three\n+x\n", "f")
    assert caught.value.hint == "its lines are in the file, beginning at line 3; correct the @@ line"


def test_an_empty_line_of_context_without_its_space_is_understood() -> None:
    assert apply_patch(b"a\n\nb\n", b"@@ -1,3 +1,3 @@\n a\n\n-b\n+c\n", "f") == b"a\n\nc\n"


def test_bytes_that_are_no_utf8_stay() -> None:
    latin = b"caf\xe9\nb\n"
    assert apply_patch(latin, b"@@ -2 +2 @@\n-b\n+c\n", "f") == b"caf\xe9\nc\n"
    assert replace_once(latin, b"b\n", "é\n".encode()) == b"caf\xe9\n\xc3\xa9\n"
    assert replace_once(b"\xef\xbb\xbfa\n", b"a", b"b") == b"\xef\xbb\xbfb\n"


def test_a_patch_made_by_git_fits(tmp_path: Path) -> None:
    before = b"".join(b"line %d\n" % number for number in range(60))
    after = before.replace(b"line 3\n", b"").replace(b"line 30\n", b"line 30\nnew\n").replace(b"line 59\n", b"last")
    (tmp_path / "a").write_bytes(before)
    (tmp_path / "b").write_bytes(after)
    made = subprocess.run(["git", "diff", "--no-index", "--no-color", "a", "b"], cwd=tmp_path, capture_output=True, check=False)
    patch = made.stdout.replace(b"+++ b/b\n", b"+++ b/a\n")
    assert patch.count(b"@@ -") == 3
    assert apply_patch(before, patch, "a") == after
