"""Addresses that a grant lists, in one spelling: `host:port`. In: what a spec says. Out: the addresses, or why it names none. Pure.

Nothing is resolved and nothing is matched by resemblance; `*.example.com` means every name below example.com, never example.com itself. What comes out is
what the kernel's proxy takes as its list.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

DEFAULT_PORTS: Final = (443, 80)
"""The ports of a host that is listed without one."""

_SCHEMES: Final = {"https": (443,), "http": (80,)}
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


def addresses_of(value: str, *, default_ports: tuple[int, ...] = DEFAULT_PORTS) -> tuple[str, ...]:
    """Return `host:port` in lower case, IPv6 addresses in brackets; several where no port is named.

    Raises ValueError with what is wrong: a path or a user (which nothing could hold), a port that is none, a second spelling of an IP address.
    """
    text = value.strip()
    scheme, separator, rest = text.partition("://")
    if separator:
        if scheme.lower() not in _SCHEMES:
            raise ValueError(f"the scheme {scheme[:20]!r} is none of http and https")
        default_ports, text = _SCHEMES[scheme.lower()], rest.removesuffix("/")
    if not text or any(mark in text for mark in "/?#@\\ \t"):
        raise ValueError("it is not host:port; a path or a user cannot be held")
    host, port = _split(text)
    ports = default_ports if port is None else (_port(port),)
    if not ports:
        raise ValueError("it names no port")
    name = _host(host)
    return tuple(f"{name}:{number}" for number in ports)


def address_covers(allowed: str, wanted: str) -> bool:
    """True if one `host:port` is the other, or is a pattern that covers it."""
    host, _, port = allowed.rpartition(":")
    other, _, other_port = wanted.rpartition(":")
    if port != other_port:
        return False
    return host == other or (host.startswith("*.") and not other.startswith("[") and other.endswith(host[1:]) and other != host[2:])


def _split(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise ValueError("an IPv6 address is written [address]:port")
        return host, rest[1:] if rest else None
    if text.count(":") > 1:
        return text, None
    host, separator, port = text.partition(":")
    return host, port if separator else None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ValueError(f"a port is a number from 1 to 65535, not {text[:20]!r}")
    return int(text)


def _host(text: str) -> str:
    if ":" in text:
        try:
            return f"[{ipaddress.IPv6Address(text)}]"
        except ValueError:
            raise ValueError("it is no IPv6 address") from None
    lower = text.lower().removesuffix(".")
    star, name = ("*.", lower[2:]) if lower.startswith("*.") else ("", lower)
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError("it is no host name") from None
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # 0x7f.1 and 2130706433 are 127.0.0.1 to some programs, and names to others.
        try:
            name = str(ipaddress.IPv4Address(name))
        except ValueError:
            raise ValueError("an IPv4 address is four decimal numbers") from None
        labels = []
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or (star and len(labels) < 2):
        raise ValueError("it is no host name" + ("; *. needs a name of at least two labels behind it" if star else ""))
    return star + name
