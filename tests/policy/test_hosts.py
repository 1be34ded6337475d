"""Addresses that grants list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toka_cli.kernel.allowlist import AllowList
from toka_cli.policy.hosts import address_covers, addresses_of


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("api.github.com:443", ("api.github.com:443",)),
        ("API.GitHub.com", ("api.github.com:443", "api.github.com:80")),
        ("https://example.com", ("example.com:443",)),
        ("http://example.com/", ("example.com:80",)),
        ("https://example.com:8443", ("example.com:8443",)),
        ("example.com.:443", ("example.com:443",)),
        ("127.0.0.1:5000", ("127.0.0.1:5000",)),
        ("[::1]:443", ("[::1]:443",)),
        ("::1", ("[::1]:443", "[::1]:80")),
        ("*.example.com:443", ("*.example.com:443",)),
        ("localhost:8000", ("localhost:8000",)),
        ("bücher.example:443", ("xn--bcher-kva.example:443",)),
        (" x.example:1 ", ("x.example:1",)),
    ],
)
def test_one_spelling_for_each(value: str, found: tuple[str, ...]) -> None:
    assert addresses_of(value) == found


@pytest.mark.parametrize(
    "value",
    [
        "", " ", "example.com/path", "https://example.com/path", "user@example.com", "ftp://example.com", "example.com:0", "example.com:65536",
        "example.com:x", "example.com:", "*", "*:443", "*.com:443", "a.*.com", "0x7f.1", "2130706433", "127.1", "0177.0.0.1", "256.1.1.1", "[::1", "[x]:1",
        "::g", "-a.com", "a-.com", "a..b", "a b.com", "example.com#x", "x" * 300,
    ],
)  # fmt: skip
def test_what_names_no_host_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        addresses_of(value)


def test_a_port_can_be_insisted_on() -> None:
    assert addresses_of("db.example:5432", default_ports=()) == ("db.example:5432",)
    with pytest.raises(ValueError, match="names no port"):
        addresses_of("db.example", default_ports=())


@pytest.mark.parametrize(
    ("allowed", "wanted", "covered"),
    [
        ("a.example:443", "a.example:443", True),
        ("a.example:443", "a.example:80", False),
        ("*.example.com:443", "api.example.com:443", True),
        ("*.example.com:443", "a.b.example.com:443", True),
        ("*.example.com:443", "*.b.example.com:443", True),
        ("*.example.com:443", "example.com:443", False),
        ("*.example.com:443", "evilexample.com:443", False),
        ("api.example.com:443", "*.example.com:443", False),
    ],
)
def test_what_covers_what(allowed: str, wanted: str, covered: bool) -> None:
    assert address_covers(allowed, wanted) is covered


@given(st.text(max_size=40))
def test_what_comes_out_is_what_the_proxy_takes(value: str) -> None:
    try:
        found = addresses_of(value)
    except ValueError:
        found = ()
    assert len(AllowList.parse(found).entries) == len(found)
