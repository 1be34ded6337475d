"""Which hosts a list means: by whole labels and exact addresses, in every spelling that means the same, and in none that only looks so."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toka_cli.kernel.allowlist import AllowList, address_of, not_global, parse_entry, parse_host, split_port

ASKED = [
    ("example.org", "example.org", 443, True),
    ("example.org", "example.org", 80, True),
    ("example.org", "example.org", 8443, False),
    ("example.org:8443", "example.org", 8443, True),
    ("example.org:8443", "example.org", 443, False),
    ("Example.ORG.", "example.org", 443, True),
    ("example.org", "EXAMPLE.org.", 443, True),
    ("bücher.example", "xn--bcher-kva.example", 443, True),
    ("xn--bcher-kva.example", "BÜCHER.example", 443, True),
    # By whole labels only.
    ("example.org", "notexample.org", 443, False),
    ("example.org", "example.org.evil.net", 443, False),
    ("example.org", "sub.example.org", 443, False),
    ("*.example.org", "sub.example.org", 443, True),
    ("*.example.org", "a.b.example.org", 443, True),
    ("*.example.org", "example.org", 443, False),
    ("*.example.org", "notexample.org", 443, False),
    ("*.example.org", "example.org.evil.net", 443, False),
    ("*", "whatever.example", 443, True),
    ("*:443", "whatever.example", 80, False),
    ("*", "93.184.216.34", 443, False),
    # Addresses are themselves.
    ("127.0.0.1:8080", "127.0.0.1", 8080, True),
    ("127.0.0.1:8080", "127.0.0.2", 8080, False),
    ("[::1]:8080", "::1", 8080, True),
    ("::1", "0:0:0:0:0:0:0:1", 443, True),
    ("127.0.0.1", "::ffff:127.0.0.1", 443, False),
]


@pytest.mark.parametrize(("entry", "host", "port", "meant"), ASKED)
def test_a_host_is_meant_or_not(entry, host, port, meant):
    assert (AllowList.parse([entry]).find(parse_host(host), port) is not None) is meant


@pytest.mark.parametrize(
    "host",
    [
        "0x7f.1", "0x7f000001", "2130706433", "127.1", "0177.0.0.1", "127.0.0.1.", "017700000001", "1.2.3.4.5", "1.2.3.256", "a.1", "example.0x1",
        "fe80::1%eth0", "[::1]", "", ".", "..", "a..b", "-a.example",
        "a-.example", "a b.example", "a/b.example", "ex\0ample.org", "a" * 64, "a." * 127 + "toolong",
        "user@example.org", "example.org:80", "*.example.org", "exämple\u2024org." + "\udcff", "%65xample.org", "example.org\r\nHost: evil.net",
    ],
)  # fmt: skip
def test_what_is_no_host(host):
    if host == "127.0.0.1.":
        # A last dot changes nothing, here as in a name.
        assert parse_host(host).name == "127.0.0.1"
        return
    with pytest.raises(ValueError):
        parse_host(host)


@pytest.mark.parametrize(
    "entry", ["https://example.org", "example.org/path", "u@example.org", "ex*mple.org", "a.*.org", "*.0.0.1", "example.org:0", "example.org:65536",
              "example.org:http", "[::1", "[example.org]:1", "[::1]443", "", ":443", "example.org:"],
)  # fmt: skip
def test_what_is_no_entry(entry):
    with pytest.raises(ValueError):
        parse_entry(entry)


def test_an_entry_by_name_is_preferred_to_a_pattern():
    allow = AllowList.parse(["*.example.org:443", "a.example.org:443"])
    found = allow.find(parse_host("a.example.org"), 443)
    assert found is not None
    assert not found.below


def test_an_address_is_listed_by_itself_and_loopback_by_its_name():
    allow = AllowList.parse(["10.1.2.3:5432", "localhost:8000"])
    assert allow.lists_address(ip_address("10.1.2.3"), 5432)
    assert not allow.lists_address(ip_address("10.1.2.3"), 443)
    assert not allow.lists_address(ip_address("10.1.2.4"), 5432)
    assert allow.lists_address(ip_address("127.0.0.1"), 8000)
    assert allow.lists_address(ip_address("::1"), 8000)
    assert not allow.lists_address(ip_address("127.0.0.2"), 8000)
    assert not AllowList.parse(["*:443"]).lists_address(ip_address("127.0.0.1"), 443)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("0.0.0.0", "this host"), ("10.0.0.1", "private"),
        ("100.64.1.1", "carrier-grade NAT"), ("127.0.0.1", "loopback"), ("127.255.255.254", "loopback"),
        ("169.254.169.254", "link-local"), ("172.16.0.1", "private"), ("172.31.255.255", "private"), ("192.168.1.1", "private"), ("198.18.0.1", "benchmarking"),
        ("224.0.0.1", "multicast"), ("239.255.255.255", "multicast"), ("240.0.0.1", "reserved"), ("255.255.255.255", "reserved"),
        ("192.0.2.1", "documentation"),
        ("::", "this host"), ("::1", "loopback"), ("::ffff:127.0.0.1", "IPv4 in another spelling"), ("::ffff:8.8.8.8", "IPv4 in another spelling"),
        ("::127.0.0.1", "IPv4 in another spelling"), ("fc00::1", "private"), ("fd12::1", "private"), ("fe80::1", "link-local"), ("ff02::1", "multicast"),
        ("2002:7f00:1::", "IPv4 in another spelling"), ("2001::1", "reserved"), ("2001:db8::1", "documentation"), ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b::a00:1", "private"), ("64:ff9b:1::1", "reserved"), ("4000::1", "reserved"),
    ],
)  # fmt: skip
def test_addresses_that_are_not_everybodys(address, kind):
    assert not_global(ip_address(address)) == kind


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "172.32.0.1", "11.0.0.1", "2606:4700::1", "64:ff9b::808:808"])
def test_addresses_that_are(address):
    assert not_global(ip_address(address)) is None


def test_addresses_as_resolvers_write_them():
    assert address_of("fe80::1%eth0") == ip_address("fe80::1")
    assert address_of("not an address") is None


@given(st.text(max_size=80))
@settings(max_examples=400, deadline=None)
def test_any_text_is_a_host_or_refused(text):
    try:
        host = parse_host(text)
    except ValueError:
        return
    # What is a host once is the same host when it is written as it was understood.
    assert parse_host(host.name) == host
    assert host.name == host.name.lower()
    assert host.name.isascii()


@given(st.text(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_text_is_an_entry_or_refused(text):
    try:
        entry = parse_entry(text)
    except ValueError:
        return
    assert all(1 <= port <= 65535 for port in entry.ports)
    split_port(text.strip())
