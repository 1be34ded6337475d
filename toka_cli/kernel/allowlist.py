"""Which hosts an agent may reach: names by whole labels, addresses as such, nothing by resemblance. In: entries of a grant, hosts as clients write them.

Entries: `host:port`, `host` (ports 443 and 80), `*.host` (everything below it, not itself), `*` (every name), addresses, IPv6 ones in brackets when a port
follows. Out: yes or no, and why an address is not everybody's. Resolves and connects nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

DEFAULT_PORTS: Final = (443, 80)
LOCALHOST: Final = "localhost"
"""RFC 6761, 6.3: always loopback, never asked of a resolver. Listed by this name it is meant, as an address would be."""
LOOPBACK: Final = (IPv4Address("127.0.0.1"), IPv6Address("::1"))

MAX_NAME: Final = 253
# Letters, digits, hyphens (RFC 1123), and the underscore that some zones have.
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# What a resolver of the C library takes for an IPv4 address in another spelling (inet_aton: 0x7f.1, 2130706433, 0177.0.0.1).
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

# Address blocks that are not everybody's: the special-purpose registries of IANA (RFC 6890 and its updates), read as "refuse where in doubt".
_SPECIAL_4: Final[tuple[tuple[str, str], ...]] = (
    ("0.0.0.0/8", "this host"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "carrier-grade NAT"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "documentation"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
)
_SPECIAL_6: Final[tuple[tuple[str, str], ...]] = (
    ("::/128", "this host"),
    ("::1/128", "loopback"),
    ("::ffff:0:0/96", "IPv4 in another spelling"),
    ("::/96", "IPv4 in another spelling"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "private"),
    ("ff00::/8", "multicast"),
    ("2001::/23", "reserved"),
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "IPv4 in another spelling"),
    ("3fff::/20", "documentation"),
)
_BLOCKS_4: Final = tuple((IPv4Network(block), kind) for block, kind in _SPECIAL_4)
_BLOCKS_6: Final = tuple((IPv6Network(block), kind) for block, kind in _SPECIAL_6)
_GLOBAL_6: Final = IPv6Network("2000::/3")
# NAT64 (RFC 6052): where a network has no IPv4, its resolver writes everybody's IPv4 addresses so.
_NAT64: Final = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Host:
    """A host as it is compared: a name in lower case, ASCII and without its last dot, or an address (then `name` is its canonical text)."""

    name: str
    address: Address | None = None

    def __str__(self) -> str:
        return f"[{self.name}]" if isinstance(self.address, IPv6Address) else self.name


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a list. `below`: every name below `host`, not itself; without a host, every name."""

    host: Host | None
    ports: tuple[int, ...]
    below: bool = False

    def covers(self, host: Host, port: int) -> bool:
        """Whether a host and a port are meant by this entry."""
        if port not in self.ports:
            return False
        if self.below:
            return host.address is None and (self.host is None or host.name.endswith(f".{self.host.name}"))
        return host == self.host


@dataclass(frozen=True, slots=True)
class AllowList:
    """The entries of one agent."""

    entries: tuple[Entry, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> AllowList:
        """The list of these entries. Raises ValueError with what is wrong with the first that is none."""
        return cls(tuple(dict.fromkeys(parse_entry(entry) for entry in entries)))

    def find(self, host: Host, port: int) -> Entry | None:
        """The entry that covers a host and a port, one that names the host rather than one with `*`; None if there is none."""
        found = [entry for entry in self.entries if entry.covers(host, port)]
        return min(found, key=lambda entry: entry.below, default=None)

    def lists_address(self, address: Address, port: int) -> bool:
        """Whether this very address is listed, so that it may be reached although it is not everybody's. `localhost` lists loopback; no pattern does."""
        named = [entry.host for entry in self.entries if not entry.below and port in entry.ports]
        return Host(str(address), address) in named or (address in LOOPBACK and Host(LOCALHOST) in named)


def parse_entry(text: str) -> Entry:
    """One entry. Raises ValueError."""
    entry = text.strip()
    if "://" in entry or "/" in entry or "@" in entry:
        raise ValueError(f"{text!r}: a host is written as host or host:port, without a scheme and a path")
    host, port = split_port(entry)
    ports = DEFAULT_PORTS if port is None else (port,)
    if host == "*":
        return Entry(None, ports, below=True)
    below = host.startswith("*.")
    if below:
        host = host[2:]
    if "*" in host:
        raise ValueError(f"{text!r}: `*` stands only at the beginning, for whole labels: *.example.org")
    parsed = parse_host(host)
    if below and parsed.address is not None:
        raise ValueError(f"{text!r}: `*.` stands before a name, not before an address")
    return Entry(parsed, ports, below)


def split_port(text: str) -> tuple[str, int | None]:
    """Host and port of `host`, `host:port`, `[address]`, `[address]:port` or a bare IPv6 address. Raises ValueError."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or ":" not in host:
            raise ValueError(f"{text!r}: an IPv6 address is written [address] or [address]:port")
        return host, parse_port(rest[1:], text) if rest else None
    if text.count(":") > 1:
        return text, None
    host, colon, port = text.partition(":")
    return host, parse_port(port, text) if colon else None


def parse_port(port: str, text: str) -> int:
    """A port number. Raises ValueError that shows `text`."""
    if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r}: a port is a number from 1 to 65535")
    return int(port)


def parse_host(text: str) -> Host:
    """A name or an address without a port, normalised. Raises ValueError, also for every second way of writing an IPv4 address."""
    if ":" in text:
        if "%" in text:
            raise ValueError(f"{text!r}: an address with a zone is not reached from here")
        try:
            address = IPv6Address(text)
        except AddressValueError:
            raise ValueError(f"{text!r} is no IPv6 address") from None
        return Host(str(address), address)
    name = _ascii(text).lower().removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # A name cannot end in a number (RFC 3696, 2): this is an address, and only in its one usual spelling.
        try:
            four = IPv4Address(name)
        except AddressValueError:
            raise ValueError(f"{text!r} is no IPv4 address in the usual spelling") from None
        return Host(str(four), four)
    if not name or len(name) > MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text[:300]!r} is no name of a host")
    return Host(name)


def _ascii(text: str) -> str:
    """A name in the letters that DNS has (IDNA, as the standard library knows it). Raises ValueError."""
    if text.isascii():
        return text
    try:
        return text.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError(f"{text[:300]!r} is no name of a host") from None


def not_global(address: Address) -> str | None:
    """Why an address is not one of everybody's (`private`, `loopback`, …); None for those that are."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return not_global(IPv4Address(int(address) & 0xFFFFFFFF))
        kind = next((kind for block, kind in _BLOCKS_6 if address in block), None)
        return kind or (None if address in _GLOBAL_6 else "reserved")
    return next((kind for block, kind in _BLOCKS_4 if address in block), None)


def address_of(text: str) -> Address | None:
    """An address as a resolver gives it, without its zone; None for what is none."""
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None
