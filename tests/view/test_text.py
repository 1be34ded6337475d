from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toka_cli.view.text import ci_safe, clean, display_width, fit, pad, shown, tail

# Any code point at all, lone surrogates too, with the troublemakers more often than chance would have them.
anything = st.text(st.one_of(st.characters(codec=None), st.sampled_from("\x1b[]\x9b\x07\n\r\t\u200d\u200c\u202e\u0301\ufe0f日👩e\ud800\udcff\U000e0041\u3164")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain [bold]text[/bold] ~ :boom:", "plain [bold]text[/bold] ~ :boom:"),
        ("\x1b[31mred", "␛[31mred"),
        ("\x1b]52;c;QQ==\x07", "␛]52;c;QQ==␇"),
        ("\x9b31m\x9d", r"\x9b31m\x9d"),
        ("a\x00b\x7fc\rd", "a␀b␡c␍d"),
        ("one\ntwo", "one⏎two"),
        ("a\tb", "a b"),
        ("\u202egnp\u2066\u200f\ufeff\u2028\u061c\u00ad", "<U+202E>gnp<U+2066><U+200F><U+FEFF><U+2028><U+061C><U+00AD>"),
        ("a\u200db\u200cc", "a<U+200D>b<U+200C>c"),
        ("a\U000e0041\U000e0100", "a<U+E0041><U+E0100>"),
        ("\u3164x\u034f", "<U+3164>x<U+034F>"),
        ("\udcff\ud800", r"\xff<U+D800>"),
        ("\uffff", "\ufffd"),
        ("e\u0301 日本 👨‍👩‍👧 ❤️ नमस्ते", "e\u0301 日本 👨‍👩‍👧 ❤️ नमस्ते"),
        ("می‌خواهم", "می‌خواهم"),
        ("\u0301x", "<U+0301>x"),
        ("e" + "\u0301" * 50 + "x", "e" + "\u0301" * 4 + "x"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("\x1b[31m", "^[[31m"), ("a\nb", r"a\nb"), ("\x7f", "^?"), ("é日", r"\xe9\u65e5"), ("\u202e", "<U+202E>"), ("\x9b", r"\x9b"), ("ok", "ok")],
)
def test_ascii_only_has_a_form_for_everything(text: str, expected: str) -> None:
    assert clean(text, ascii_only=True) == expected


def test_newlines_are_kept_when_asked_for() -> None:
    assert clean("a\r\nb\n\x1bc\rd\te", newlines=True) == "a\nb\n␛c␍d    e"


@given(anything)
def test_nothing_that_is_obeyed_survives_and_cleaning_twice_changes_nothing(text: str) -> None:
    cleaned = clean(text)
    for char in cleaned:
        assert unicodedata.category(char) not in {"Cc", "Cs", "Zl", "Zp"}, repr(char)
        assert unicodedata.category(char) != "Cf" or char in "\u200c\u200d", repr(char)
    cleaned.encode("utf-8")
    assert clean(cleaned) == cleaned
    plain = clean(text, ascii_only=True)
    assert plain.isascii()
    assert plain.isprintable()
    assert clean(text, newlines=True).count("\n") == text.count("\n")


@given(anything, st.integers(-1, 30), st.booleans())
def test_fit_and_pad_hold_the_width(text: str, width: int, ascii_only: bool) -> None:
    cleaned = clean(text, ascii_only=ascii_only)
    cut = fit(cleaned, width, ascii_only=ascii_only)
    assert display_width(cut) <= max(width, 0)
    assert (cut == cleaned) == (display_width(cleaned) <= width) or not cleaned
    assert display_width(pad(cleaned, width, ascii_only=ascii_only)) == max(width, 0)
    assert display_width(shown(text, width, ascii_only=ascii_only)) <= max(width, 0)


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [("abcdef", 4, "abc…"), ("abcd", 4, "abcd"), ("日本語", 4, "日…"), ("日本", 4, "日本"), ("abc", 1, "…"), ("abc", 0, ""), ("👨‍👩‍👧", 3, "👨…")],
)
def test_fit(text: str, width: int, expected: str) -> None:
    assert fit(text, width) == expected


def test_fit_in_ascii() -> None:
    assert fit("abcdef", 5, ascii_only=True) == "ab..."
    assert fit("abcdef", 2, ascii_only=True) == ".."


def test_pad_to_the_right_edge() -> None:
    assert pad("日", 4, right=True) == "  日"


def test_the_emoji_form_of_a_sign_takes_two_columns() -> None:
    assert display_width("❤") == 1
    assert display_width("❤\ufe0f") == 2


def test_tail_gives_the_last_lines_that_say_something() -> None:
    assert tail("a\nb\n\n\x1b[2Jc\n\n", 2) == ["b", "␛[2Jc"]
    assert tail("x\n" * 1_000_000, 1) == ["x"]
    assert tail("", 3) == []
    assert tail("a", 0) == []


@pytest.mark.parametrize("line", ["::error::x", "   ::set-output name=a::b", "a ##[group]x", "##vso[task.complete]", "##teamcity[x]"])
def test_a_build_server_sees_no_command(line: str) -> None:
    safe = ci_safe(line)
    assert not re.search(r"##\w*\[", safe)
    assert not safe.lstrip().startswith("::")


def test_other_lines_are_left_alone() -> None:
    assert ci_safe("# a ## b ### [c] d::e") == "# a ## b ### [c] d::e"
