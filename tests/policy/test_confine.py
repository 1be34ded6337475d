"""Where patterns lie, for walls, in step with what the kernel's check covers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toka_cli.policy.confine import Area, area_of, covers, within


@pytest.mark.parametrize(
    ("pattern", "area"),
    [
        ("src/**", Area("src", exact=True, folder=True)),
        ("src", Area("src", exact=True, folder=False)),
        ("./src/", Area("src", exact=True, folder=True)),
        ("a/b/c.py", Area("a/b/c.py", exact=True, folder=False)),
        ("**", Area(".", exact=True, folder=True)),
        (".", Area(".", exact=True, folder=True)),
        ("*.md", Area(".", exact=False, folder=True)),
        ("docs/*.md", Area("docs", exact=False, folder=True)),
        ("docs/*", Area("docs", exact=False, folder=True)),
        ("a/**/b", Area("a", exact=False, folder=True)),
        ("a?/b", Area(".", exact=False, folder=True)),
    ],
)
def test_the_place_of_a_pattern(pattern: str, area: Area) -> None:
    assert area_of(pattern) == area


@pytest.mark.parametrize("pattern", ["", " ", "/etc/passwd", "~/x", "../x", "a/../b", "a/..", "x\0y"])
def test_what_leads_out_has_no_place(pattern: str) -> None:
    assert area_of(pattern) is None


@given(st.text(alphabet="ab/*?.", max_size=12), st.lists(st.sampled_from("ab"), min_size=1, max_size=3))
def test_an_exact_place_holds_just_what_the_pattern_covers(pattern: str, parts: list[str]) -> None:
    area = area_of(pattern)
    path = "/".join(parts)
    if area is None or not area.exact:
        return
    plain = pattern.removeprefix("./")
    if "//" in plain or "/./" in f"/{plain}/":
        return
    assert covers([pattern], path) == (area.path == "." or within(f"/{path}", f"/{area.path}"))


def test_what_names_nothing_covers_nothing() -> None:
    assert not covers([""], "a")
    assert not covers([" "], ".")
