"""One client of an agent's proxy, from its first byte to its last: CONNECT tunnels and plain HTTP in absolute form. In: a connection. Out: a relayed one, or
a refusal in words.

A tunnel is held back until its first bytes have said which host they mean; one that means another host than CONNECT did is ended. One request per connection.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from toka_cli.errors import CapabilityDenied, TokaError
from toka_cli.kernel import http1
from toka_cli.kernel.allowlist import AllowList, Host, parse_host, split_port
from toka_cli.kernel.client_hello import Garbled, Named, first_words
from toka_cli.kernel.threats import ThreatWatch

if TYPE_CHECKING:
    from toka_cli.kernel.egress import Egress

PIECE: Final = 64 * 1024
MANY_REFUSALS: Final = 20
SLOW_REFUSAL_S: Final = 1.0
"""After many refusals each further one takes its time: an agent that hammers at the door must not fill the record."""
GOODBYE_S: Final = 5.0
# RFC 8446, 6: a fatal alert `unrecognized_name`, which clients show as such.
_TLS_ALERT: Final = bytes((0x15, 3, 3, 0, 2, 2, 112))
_CHALLENGE: Final = ("Proxy-Authenticate", 'Basic realm="toka"')


@dataclass(slots=True)
class Way:
    """One agent's way out: its list, what it has asked for, and how much went through (bytes)."""

    agent_id: str
    allow: AllowList
    threats: ThreatWatch | None = None
    sent: int = 0
    received: int = 0
    open: int = 0
    refusals: int = 0
    asked: set[tuple[str, int]] = field(default_factory=set)

    def secret_finder(self) -> Callable[[bytes], bool]:
        """A function that is given outgoing bytes in order and answers whether a known secret is among them."""
        if self.threats is None or not self.threats.secrets:
            return lambda _: False
        return self.threats.secrets.stream()


class CutOff(TokaError):
    """What was under way was ended: a known secret was about to leave, or too much went through."""

    code = "cut_off"


class ProxyClient:
    """One connection of one agent's client."""

    def __init__(self, egress: Egress, way: Way, token: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._egress = egress
        self._limits = egress.limits
        self._way = way
        self._expected = base64.b64encode(f"toka:{token}".encode())
        self._reader = reader
        self._writer = writer
        self._answered = False

    async def serve(self) -> None:
        """Serve it to its end. Whatever the client or the other side does is no error of ours."""
        self._way.open += 1
        try:
            if self._way.open > self._limits.connections:
                await self._say(503, f"more than {self._limits.connections} connections at once")
            else:
                await self._request()
        except CapabilityDenied as error:
            with suppress(OSError):
                if self._way.refusals > MANY_REFUSALS:
                    await asyncio.sleep(SLOW_REFUSAL_S)
                await self._say(403, error.message, error.hint)
        except CutOff as error:
            with suppress(OSError):
                await self._say(403, error.message)
        except http1.BadHttp as error:
            with suppress(OSError):
                await self._say(error.status, error.message)
        except TimeoutError:
            with suppress(OSError):
                await self._say(504, "nothing came for too long")
        except TokaError as error:
            with suppress(OSError):
                await self._say(502, error.message)
        except OSError:
            # A connection broke: there is nobody to tell.
            pass
        finally:
            self._way.open -= 1
            await self._goodbye()

    async def _goodbye(self) -> None:
        """Let what was written go out, then close; a client that does not read is not waited for."""
        self._writer.close()
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._writer.wait_closed()
        except TimeoutError:
            self._writer.transport.abort()
        except OSError:
            pass

    async def _request(self) -> None:
        async with asyncio.timeout(self._limits.head_s):
            head = await http1.read_head(self._reader)
        if head is None:
            return
        method, target = head.request()
        if not await self._knows_token(head):
            return
        if method == "CONNECT":
            await self._tunnel(target)
        else:
            await self._forward(method, target, head)

    async def _knows_token(self, head: http1.Head) -> bool:
        shown = head.one("proxy-authorization")
        if shown is None:
            # Clients that wait for the question are told what to show, and come again.
            await self._say(407, "this proxy wants the token that the agent's environment holds", fields=[_CHALLENGE])
            return False
        scheme, _, credentials = shown.partition(" ")
        if scheme.lower() != "basic" or not hmac.compare_digest(credentials.strip().encode(), self._expected):
            self._way.refusals += 1
            if self._way.threats is not None:
                self._way.threats.denied("a wrong token at the proxy")
            if self._way.refusals > MANY_REFUSALS:
                await asyncio.sleep(SLOW_REFUSAL_S)
            await self._say(407, "this is not the token of this proxy", fields=[_CHALLENGE])
            return False
        return True

    # --- tunnels ---

    async def _tunnel(self, target: str) -> None:
        host, port = _authority(target)
        if port is None:
            raise http1.BadHttp("CONNECT needs host:port")
        connection = await self._egress.connect(self._way, host, port)
        reader, writer = await _streams(connection)
        try:
            await self._say_raw(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with asyncio.timeout(self._limits.idle_s) as idle:
                up = asyncio.create_task(self._tunnel_up(host, port, writer, idle))
                down = asyncio.create_task(self._down(reader, idle))
                await _both(up, down)
        finally:
            writer.transport.abort()

    async def _tunnel_up(self, host: Host, port: int, writer: asyncio.StreamWriter, idle: asyncio.Timeout) -> None:
        held = b""
        named: Named | None = None
        while named is None:
            piece = await self._reader.read(PIECE)
            _touch(idle, self._limits.idle_s)
            if not piece:
                break
            held += piece
            try:
                named = first_words(held)
            except Garbled as error:
                raise await self._wrong_host(host, port, str(error), tls=held[:1] == b"\x16") from None
        if named is not None and (why := self._other_host(host, port, named)) is not None:
            raise await self._wrong_host(host, port, why, tls=named.kind == "tls")
        found = self._way.secret_finder()
        if held:
            await self._up(held, writer, found, host)
        while piece := await self._reader.read(PIECE):
            _touch(idle, self._limits.idle_s)
            await self._up(piece, writer, found, host)
        with suppress(OSError):
            writer.write_eof()

    def _other_host(self, host: Host, port: int, named: Named) -> str | None:
        """Why the first bytes do not fit the host of the tunnel; None when they do, or name nobody."""
        if len(named.names) > 1:
            return f"{named.kind.upper()} names {len(named.names)} hosts"
        for name in named.names:
            try:
                other, other_port = _authority(name) if named.kind == "http" else (parse_host(name), None)
            except (ValueError, http1.BadHttp):
                return f"{named.kind.upper()} names {name[:100]!r}"
            if other_port not in {None, port}:
                return f"{named.kind.upper()} names port {other_port}"
            if other == host:
                continue
            # Through an address that is listed, any host that is listed too may be meant.
            if host.address is None or self._way.allow.find(other, port) is None:
                return f"{named.kind.upper()} names {other}"
        return None

    async def _wrong_host(self, host: Host, port: int, why: str, *, tls: bool) -> CapabilityDenied:
        if tls:
            await self._say_raw(_TLS_ALERT)
        return self._egress.refused(self._way, host, port, why)

    # --- plain HTTP ---

    async def _forward(self, method: str, target: str, head: http1.Head) -> None:
        host, port, path = _absolute(target)
        named = head.one("host")
        if named is None:
            raise http1.BadHttp("the field Host is missing")
        if _authority(named) not in {(host, port), *({(host, None)} if port == 80 else ())}:
            raise self._egress.refused(self._way, host, port, f"the field Host names {named[:100]!r}")
        how = http1.framing(head)
        fields = [("Host", named), *((name, value) for name, value in head.handed_on() if name.lower() not in {"host", "content-length"})]
        if how == "chunked":
            fields.append(("Transfer-Encoding", "chunked"))
        elif how is not None:
            fields.append(("Content-Length", str(how)))
        data = http1.written(f"{method} {path} HTTP/1.1", [*fields, ("Connection", "close")])
        found = self._way.secret_finder()
        if found(data):
            raise self._secret(host)
        reader, writer = await _streams(await self._egress.connect(self._way, host, port))
        try:
            async with asyncio.timeout(self._limits.idle_s) as idle:
                await self._up(data, writer, found, host, looked_at=True)
                up = asyncio.create_task(self._body_up(how, writer, found, host, idle))
                down = asyncio.create_task(self._down(reader, idle))
                await _both(up, down)
        finally:
            writer.transport.abort()

    async def _body_up(
        self, how: http1.Framing | None, writer: asyncio.StreamWriter, found: Callable[[bytes], bool], host: Host, idle: asyncio.Timeout
    ) -> None:
        if how is None:
            return
        async for piece in http1.body(self._reader, how):
            _touch(idle, self._limits.idle_s)
            if found(piece):
                raise self._secret(host)
            await self._up(b"%x\r\n%b\r\n" % (len(piece), piece) if how == "chunked" else piece, writer, found, host, looked_at=True)
        if how == "chunked":
            await self._up(b"0\r\n\r\n", writer, found, host, looked_at=True)

    # --- both ---

    async def _up(
        self, data: bytes, writer: asyncio.StreamWriter, found: Callable[[bytes], bool], host: Host, *, looked_at: bool = False
    ) -> None:
        if not looked_at and found(data):
            raise self._secret(host)
        self._way.sent += len(data)
        self._check_total()
        writer.write(data)
        await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, idle: asyncio.Timeout) -> None:
        while data := await reader.read(PIECE):
            _touch(idle, self._limits.idle_s)
            self._way.received += len(data)
            self._check_total()
            await self._say_raw(data)
        with suppress(OSError):
            self._writer.write_eof()

    def _check_total(self) -> None:
        total = self._limits.total_bytes
        if total is not None and self._way.sent + self._way.received > total:
            raise CutOff(f"limit.network: more than {total} bytes went through")

    def _secret(self, host: Host) -> CutOff:
        if self._way.threats is not None:
            self._way.threats.secret_seen(f"what was sent to {host}")
        return CutOff("refused: a secret of toka's own was in what was sent")

    async def _say_raw(self, data: bytes) -> None:
        self._answered = True
        self._writer.write(data)
        await self._writer.drain()

    async def _say(self, status: int, message: str, hint: str | None = None, fields: list[tuple[str, str]] | None = None) -> None:
        """Answer in toka's own words, unless something was answered already."""
        if self._answered:
            return
        text = f"toka: {message}\n{hint + chr(10) if hint else ''}".encode()
        about = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text))), ("Connection", "close"), *(fields or [])]
        await self._say_raw(http1.written(f"HTTP/1.1 {status} {_WORDS.get(status, 'Refused')}", about) + text)


_WORDS: Final = {
    400: "Bad Request",
    403: "Forbidden",
    407: "Proxy Authentication Required",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def _authority(text: str) -> tuple[Host, int | None]:
    """Host and port of `host[:port]`. Raises BadHttp."""
    try:
        host, port = split_port(text)
        if ":" in host and not text.startswith("["):
            raise ValueError(f"{text[:100]!r}: an IPv6 address stands in brackets")
        return parse_host(host), port
    except ValueError as error:
        raise http1.BadHttp(str(error)[:300]) from None


def _absolute(target: str) -> tuple[Host, int, str]:
    """Host, port and path of an absolute URL. Raises BadHttp."""
    try:
        parts = urlsplit(target)
    except ValueError:
        raise http1.BadHttp("the target is no URL") from None
    if parts.scheme.lower() != "http":
        raise http1.BadHttp("a proxy takes http:// here, and CONNECT for everything else")
    if "@" in parts.netloc or not parts.netloc or "\\" in target:
        raise http1.BadHttp("the target names no host, or more than one")
    host, port = _authority(parts.netloc)
    return host, 80 if port is None else port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


async def _streams(connection: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_connection(sock=connection)
    except BaseException:
        connection.close()
        raise


def _touch(idle: asyncio.Timeout, seconds: float) -> None:
    """Something happened: the clock begins anew."""
    idle.reschedule(asyncio.get_running_loop().time() + seconds)


async def _both(up: asyncio.Task[None], down: asyncio.Task[None]) -> None:
    """Wait until the other side has said everything; an error of either ends both and is raised."""
    tasks = {up, down}
    try:
        while not down.done():
            done, _ = await asyncio.wait({task for task in tasks if not task.done()}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
