"""User policy ∩ run ∩ spec: what is left, and who held the rest back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toka_cli.policy.capability import POWERS, held, values_of
from toka_cli.policy.ceiling import PRESETS, ceiling, only, under

NAMES = [power.name for power in POWERS]
ALL = dict.fromkeys(NAMES, ())


def test_without_ceilings_everything_is_left() -> None:
    assert under(ALL, []) == (ALL, {})
    assert under(ALL, [ceiling("me", preset="privileged")]) == (ALL, {})


def test_presets_take_away_and_say_so() -> None:
    left, back = under(ALL, [ceiling("your settings", preset="restricted", why="policy.preset = restricted")])
    assert set(left) == {"filesystem-read", "filesystem-write", "cargo-execution", "script-execution", "git-access", "agent-communication"}
    assert back["network-access"] == "held back by your settings (policy.preset = restricted)"
    assert set(back) == {"network-access", "database-access", "agent-spawn"}


def test_who_may_not_write_may_still_read() -> None:
    left, back = under({"script-execution": (), "filesystem-write": ("src/**",)}, [ceiling("me", preset="sandboxed")])
    assert left == {"filesystem-read": ()}
    assert back["script-execution"].endswith("filesystem-read is left")
    left, _ = under({"filesystem-write": ("src/**",)}, [ceiling("me", preset="sandboxed")])
    assert left == {"filesystem-read": ("src/**",)}


def test_denying_a_power_denies_what_includes_it() -> None:
    left, back = under({"script-execution": (), "git-access": ()}, [ceiling("me", deny=["filesystem-write"])])
    assert left == {"filesystem-read": (), "git-access": ()}
    assert "script-execution" in back


def test_allow_adds_to_a_preset_and_narrows_what_it_names() -> None:
    me = ceiling("me", preset="restricted", allow={"network-access": ("*.example.com:443",)})
    left, back = under({"network-access": ("api.example.com:443", "evil.com:443")}, [me])
    assert left == {"network-access": ("api.example.com:443",)}
    assert back == {"network-access": "network-access only for *.example.com:443, says me"}
    assert under({"network-access": ("evil.com:443",)}, [me])[0] == {}
    assert under({"network-access": ()}, [me])[0] == {"network-access": ("*.example.com:443",)}


def test_paths_meet_where_one_lies_in_the_other() -> None:
    me = ceiling("me", allow={"filesystem-write": ("src/**", "docs/*.md")})
    for asked, left in (
        (("src/a/**",), ("src/a/**",)),
        ((".",), ("src/**", "docs/*.md")),
        (("docs/*.md",), ("docs/*.md",)),
        (("docs/a.md",), None),
        (("tests/**",), None),
        (("src/**", "tests/**"), ("src/**",)),
    ):
        found, _ = under({"filesystem-write": asked}, [me])
        assert found.get("filesystem-write") == left, asked


def test_a_narrowed_power_is_not_had_in_full_through_another_one() -> None:
    me = ceiling("me", allow={"filesystem-write": ("out/**",)})
    left, back = under({"script-execution": ()}, [me])
    assert left == {"filesystem-read": (), "filesystem-write": ("out/**",)}
    assert "script-execution" in back
    named = ceiling("me", allow={"filesystem-write": ("out/**",), "script-execution": ()})
    assert under({"script-execution": ()}, [named])[0] == {"script-execution": ()}


def test_a_run_allows_exactly_what_it_lists() -> None:
    run = only("run.yaml", {"filesystem-write": ("out/**",), "git-access": ()})
    left, back = under({"filesystem-read": (), "filesystem-write": (), "git-access": (), "network-access": ("a.b:1",)}, [run])
    assert left == {"filesystem-read": ("out/**",), "filesystem-write": ("out/**",), "git-access": ()}
    assert set(back) == {"filesystem-read", "filesystem-write", "network-access"}
    assert under(ALL, [only("run.yaml", {})])[0] == {}


def test_ceilings_meet_and_all_that_held_back_are_named() -> None:
    left, back = under({"filesystem-write": ()}, [ceiling("me", allow={"filesystem-write": ("src/**",)}), only("run.yaml", {"filesystem-read": ()})])
    assert left == {"filesystem-read": ("src/**",)}
    assert "says me" in back["filesystem-write"]
    assert "run.yaml" in back["filesystem-write"]


def test_mcp_servers_by_name() -> None:
    me = only("run", {"mcp:cortex": ()})
    assert under({"mcp:cortex.search": (), "mcp:other": ()}, [me])[0] == {"mcp:cortex.search": ()}
    assert under({"mcp:cortex.search": ()}, [ceiling("me", deny=["mcp:cortex"])])[0] == {}


@pytest.mark.parametrize("name", ["netwrk-access", "document-analysis", "root"])
def test_a_name_that_is_no_power_is_a_mistake_not_an_empty_rule(name: str) -> None:
    with pytest.raises(ValueError, match="is no power"):
        ceiling("me", deny=[name])
    with pytest.raises(ValueError, match="is no power"):
        ceiling("me", allow={name: ()})


_VALUES = st.sampled_from([(), ("src/**",), ("src/a/**", "docs/**"), (".",)])
_POWERS = st.dictionaries(st.sampled_from(["filesystem-read", "filesystem-write", "script-execution", "git-access"]), _VALUES)
_CEILINGS = st.one_of(
    st.builds(lambda preset, deny: ceiling("me", preset=preset, deny=deny), st.sampled_from(sorted(PRESETS)), st.lists(st.sampled_from(NAMES), max_size=2)),
    st.builds(lambda powers: only("run", powers), _POWERS),
    st.builds(lambda powers: ceiling("me", allow=powers), _POWERS),
)


@given(_POWERS, st.lists(_CEILINGS, max_size=3))
def test_a_ceiling_never_grants(powers: dict[str, tuple[str, ...]], ceilings: list) -> None:
    left, back = under(powers, ceilings)
    assert held(left) <= held(powers)
    for name in held(left):
        before, after = values_of(powers, name), values_of(left, name)
        assert before is not None
        # Nothing is wider than it was: what was narrowed stays narrowed.
        assert not before or after, (name, before, after)
    assert set(back) <= set(powers)
    assert all(name in back or name in left for name in powers)
