"""Amounts as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toka_cli import units


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("200MB", 200 * 1024**2), ("512", 512), (512, 512), ("1B", 1), ("1.5 GB", 1610612736), ("2GiB", 2 * 1024**3), ("64 kib", 65536), (" 1TB ", 1024**4),
        ("10KB", 10240), (2048.0, 2048),
    ],
)  # fmt: skip
def test_bytes(text: object, amount: int) -> None:
    assert units.parse_bytes(text) == amount


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MB",
        "-1MB",
        "1e9",
        "nan",
        "inf",
        float("nan"),
        float("inf"),
        -5,
        True,
        None,
        "0",
        "0MB",
        "200 MBs",
        "1,5GB",
        "9" * 30,
        "99999999999TB",
        "２MB",
        [],
    ],
)
def test_bytes_refused_with_what_is_accepted(text: object) -> None:
    with pytest.raises(ValueError, match="accepted is a number of bytes"):
        units.parse_bytes(text)


def test_zero_only_where_asked_for() -> None:
    assert units.parse_bytes("0", zero=True) == 0
    assert units.parse_duration("0s", zero=True) == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("90", 90),
        (90, 90),
        (1.5, 1.5),
        ("1d", 86400),
        ("2h", 7200),
        ("1h 30m 5s", 5405),
        ("1.5h", 5400),
        ("0.25", 0.25),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert units.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "h", "-1s", "1x", "1h30", "soon", "0", "0ms", float("inf"), True, None, "1h-1m", "9999999d", "1 000s", "1e3", "30m later"]
)
def test_durations_refused_with_what_is_accepted(text: object) -> None:
    with pytest.raises(ValueError, match="accepted is seconds"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("75%", 0.75),
        ("75", 0.75),
        (75, 0.75),
        (0.75, 0.75),
        ("0.75", 0.75),
        ("150%", 1.5),
        (1, 1.0),
        (4, 4.0),
        (5, 0.05),
        ("4%", 0.04),
        ("800 %", 8),
    ],
)
def test_shares(text: object, share: float) -> None:
    assert units.parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "-1", "nan", float("nan"), "0", "0%", "75%%", "lots", True, "200000%"])
def test_shares_refused_with_what_is_accepted(text: object) -> None:
    with pytest.raises(ValueError, match="accepted is per cent"):
        units.parse_share(text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1023, "1023 B"),
        (1024, "1 KB"),
        (200 * 1024**2, "200 MB"),
        (1.5 * 1024**3, "1.5 GB"),
        (1048575, "1 MB"),
        (5e15, "4547 TB"),
    ],
)
def test_bytes_shown(amount: float, text: str) -> None:
    assert units.format_bytes(amount) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (0.9999, "1s"),
        (1.5, "1.5s"),
        (9.96, "10s"),
        (12.4, "12s"),
        (59.7, "1m0s"),
        (300, "5m0s"),
        (3599.9, "1h0m"),
        (3720, "1h2m"),
        (183600, "2d3h"),
    ],
)
def test_durations_shown(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text


@given(st.one_of(st.text(), st.floats(), st.integers(), st.binary(), st.none()))
def test_anything_is_read_or_refused_with_value_error(value: object) -> None:
    for parse in (units.parse_bytes, units.parse_duration, units.parse_share):
        found: float = 1.0
        refused = "accepted is"
        try:
            found = parse(value)
        except ValueError as error:
            refused = str(error)
        assert "accepted is" in refused
        assert 0 < found < float("inf")
