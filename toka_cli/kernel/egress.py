"""Egress: the only way out for agents. In: an agent's listed hosts, and what it asks for. Out: connections to checked addresses, or refusals in words.

A name is looked up here, every address it has is judged here, and the connection goes to an address that was judged: a second answer of the resolver changes
nothing. Each decision goes to `on_decision`. What is inside TLS is not read; which host it names first is (`proxy.py`).
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from toka_cli.errors import CapabilityDenied, Unavailable
from toka_cli.kernel.allowlist import LOCALHOST, LOOPBACK, Address, AllowList, Host, address_of, not_global
from toka_cli.kernel.http1 import MAX_HEAD
from toka_cli.kernel.proxy import ProxyClient, Way
from toka_cli.kernel.threats import ThreatWatch

POWER: Final = "network-access"
MAX_ADDRESSES: Final = 8
"""Addresses of one name that are looked at; the first of them that answers is used."""
MIN_CONNECT_S: Final = 1.0
PROXY_USER: Final = "toka"
_FAILURES: Final = {
    errno.ECONNREFUSED: "refused the connection",
    errno.ENETUNREACH: "cannot be reached from here",
    errno.EHOSTUNREACH: "cannot be reached from here",
}

Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a name, as text. Raises OSError (socket.gaierror) when there is none."""

Decision: TypeAlias = Callable[[str, str, int, bool, str], None]
"""`(agent_id, host, port, allowed, why)`."""

NewHost: TypeAlias = Callable[[str, str, int, bool], None]
"""`(agent_id, host, port, named)`: asked for by this agent for the first time; `named`: listed by its whole name."""


@dataclass(frozen=True, slots=True)
class EgressLimits:
    """Bounds for each agent. Seconds; bytes of both directions together over the agent's life (None: not limited)."""

    connections: int = 64
    total_bytes: int | None = None
    head_s: float = 15.0
    lookup_s: float = 10.0
    connect_s: float = 10.0
    idle_s: float = 300.0


async def system_resolver(name: str, port: int) -> Sequence[str]:
    """The addresses of a name as this machine knows them."""
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _ignore_host(agent_id: str, host: str, port: int, named: bool) -> None:
    """Nobody wants to know."""


class ProxyHandle:
    """A proxy that listens for one agent. `port` is where, `token` what its clients have to show."""

    def __init__(self, way: Way, token: str, server: asyncio.Server, port: int) -> None:
        self.way = way
        self.token = token
        self.port = port
        self._server = server
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def serving(self) -> bool:
        """True until it is closed."""
        return self._server.is_serving()

    async def close(self) -> None:
        """Stop listening and end every connection. May be called again."""
        self._server.close()
        tasks = tuple(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class Egress:
    """The way out of all agents of a run. `resolve` looks names up.

    `on_decision(agent_id, host, port, allowed, why)` is called for every decision, `on_new_host(agent_id, host, port, named)` when an agent asks for a host
    and port for the first time; they must not raise.
    """

    on_decision: Decision
    on_new_host: NewHost = _ignore_host
    resolve: Resolver = system_resolver
    limits: EgressLimits = field(default_factory=EgressLimits)
    _ways: dict[str, Way] = field(default_factory=dict)
    _handles: set[ProxyHandle] = field(default_factory=set)

    @staticmethod
    def listen() -> tuple[socket.socket, int]:
        """A listening socket on 127.0.0.1, and its port: for agents without a network namespace of their own."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        return listener, listener.getsockname()[1]

    @staticmethod
    def new_token() -> str:
        """What one agent's clients show to its proxy."""
        return secrets.token_urlsafe(24)

    def way(self, agent_id: str, hosts: Iterable[str], threats: ThreatWatch | None = None) -> Way:
        """The way out of one agent, the same over restarts. Raises ValueError for an entry that is none (see `allowlist.py`)."""
        allow = AllowList.parse(hosts)
        way = self._ways.get(agent_id)
        if way is None:
            way = self._ways[agent_id] = Way(agent_id, allow)
        way.allow, way.threats = allow, threats or way.threats
        return way

    async def serve(
        self, listener: socket.socket, agent_id: str, hosts: Iterable[str], *, token: str | None = None, threats: ThreatWatch | None = None
    ) -> ProxyHandle:
        """Answer an agent's proxy clients on a listening socket, which is closed with the handle. Raises ValueError for a host that is none."""
        way = self.way(agent_id, hosts, threats)
        shown = token or self.new_token()
        handle: ProxyHandle

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            handle.tasks.add(task)
            try:
                await ProxyClient(self, way, shown, reader, writer).serve()
            except asyncio.CancelledError:
                # The proxy is being closed: nobody waits for this task.
                writer.transport.abort()
            finally:
                handle.tasks.discard(task)

        listener.setblocking(False)
        port = listener.getsockname()[1]
        server = await asyncio.start_server(connected, sock=listener, limit=MAX_HEAD)
        handle = ProxyHandle(way, shown, server, port)
        self._handles = {each for each in self._handles if each.serving} | {handle}
        return handle

    async def close(self) -> None:
        """Close every proxy."""
        handles, self._handles = tuple(self._handles), set()
        await asyncio.gather(*(handle.close() for handle in handles))

    # --- deciding ---

    async def connect(self, way: Way, host: Host, port: int) -> socket.socket:
        """A connected socket to a host that the agent may reach. Raises CapabilityDenied, Unavailable."""
        entry = way.allow.find(host, port)
        if (host.name, port) not in way.asked:
            way.asked.add((host.name, port))
            named = entry is not None and not entry.below
            self.on_new_host(way.agent_id, host.name, port, named)
            if way.threats is not None:
                way.threats.new_host(host.name, port, named=named)
        if entry is None:
            raise self.refused(way, host, port, "not listed")
        addresses = await self._addresses(host, port)
        good = [address for address in addresses if not_global(address) is None or way.allow.lists_address(address, port)]
        if not good:
            kinds = ", ".join(dict.fromkeys(f"{address} is {not_global(address)}" for address in addresses))
            raise self.refused(way, host, port, f"{kinds}, and not listed as an address")
        if self.limits.total_bytes is not None and way.sent + way.received >= self.limits.total_bytes:
            raise self.refused(way, host, port, f"more than {self.limits.total_bytes} bytes went through")
        self.on_decision(way.agent_id, host.name, port, True, f"listed, at {good[0]}")
        return await self._connected(host, port, good)

    def refused(self, way: Way, host: Host, port: int, why: str) -> CapabilityDenied:
        """Record a refusal; the error that says so, with the lines to add."""
        self.on_decision(way.agent_id, host.name, port, False, why)
        way.refusals += 1
        if way.threats is not None:
            way.threats.denied(f"{host}:{port}: {why}")
        return CapabilityDenied(
            f"Capability not authorized: {POWER} required for {host}:{port} ({why})",
            hint=f"add it to the agent's spec (this is the sandbox, trying again does not help):\n"
            f'security:\n  capabilities_required:\n    - {POWER}: ["{host}:{port}"]',
        )

    async def _addresses(self, host: Host, port: int) -> list[Address]:
        """Every address of a host, in the resolver's order. Raises Unavailable."""
        if host.address is not None:
            return [host.address]
        if host.name == LOCALHOST:
            return list(LOOPBACK)
        try:
            async with asyncio.timeout(self.limits.lookup_s):
                found = await self.resolve(host.name, port)
        except TimeoutError:
            raise Unavailable(f"{host} could not be looked up within {self.limits.lookup_s:.0f} s", code="dns") from None
        except (OSError, UnicodeError) as error:
            raise Unavailable(f"{host} could not be looked up: {error}", code="dns") from error
        addresses = [address for text in found if (address := address_of(text)) is not None][:MAX_ADDRESSES]
        if not addresses:
            raise Unavailable(f"{host} has no address", code="dns")
        return addresses

    async def _connected(self, host: Host, port: int, addresses: Sequence[Address]) -> socket.socket:
        """A connection to the first address that answers, each in its share of the time. Raises Unavailable with the last one's reason."""
        why = "has no address"
        for address in addresses:
            try:
                async with asyncio.timeout(max(MIN_CONNECT_S, self.limits.connect_s / len(addresses))):
                    return await _connected_to(address, port)
            except TimeoutError:
                why = "did not answer in time"
            except OSError as error:
                why = _FAILURES.get(error.errno or 0) or f"cannot be reached: {error.strerror or error}"
        raise Unavailable(f"{host}:{port} {why}", code="unreachable")


async def _connected_to(address: Address, port: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
    return connection


def proxy_environment(port: int, token: str) -> dict[str, str]:
    """The variables that clients know, both spellings (curl reads only the lower-case one of http_proxy). Nothing is excepted: there is no other way out."""
    url = f"http://{PROXY_USER}:{token}@127.0.0.1:{port}"
    names = ("http_proxy", "https_proxy", "all_proxy")
    return {spelled: url for name in names for spelled in (name, name.upper())} | {"no_proxy": "", "NO_PROXY": ""}
