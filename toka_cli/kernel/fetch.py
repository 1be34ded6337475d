"""Fetches one URL for an agent. In: what http_fetch was asked for, and the agent's way out. Out: status, fields, text, all bounded.

Every hop goes through `Egress.connect`, so that a redirect is judged like any request. Adds no credentials, follows no cookies, keeps no connection.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import toka_cli
from toka_cli.errors import TokaError
from toka_cli.kernel import http1
from toka_cli.kernel.allowlist import Host, parse_host
from toka_cli.kernel.egress import Egress
from toka_cli.kernel.proxy import Way
from toka_cli.tools.tool import ToolFailed
from toka_cli.tools.web import Fetched, HttpFetch

MAX_REDIRECTS: Final = 5
MAX_SHOWN_FIELDS: Final = 30
MAX_SHOWN_CHARS: Final = 1000
PORTS: Final = {"http": 80, "https": 443}
# Fields that belong to the host they were written for (RFC 9110, 15.4).
_OF_ONE_HOST: Final = frozenset({"authorization", "cookie"})
_HIDDEN: Final = frozenset({"set-cookie", "connection", "keep-alive", "transfer-encoding"})
_TEXTUAL: Final = re.compile(r"text/|application/(?:[a-z0-9.+-]*\+)?(?:json|xml|yaml|x-yaml|javascript|toml|x-sh|sql)\b|application/x-ndjson")
_CHARSET: Final = re.compile(r"charset=\"?([A-Za-z0-9._-]{1,40})", re.IGNORECASE)
# Those that web pages have (WHATWG Encoding). Not every codec of Python: some take quadratic time, and anybody can name them.
_CHARSETS: Final = re.compile(
    r"utf-?8|utf-?16(?:le|be)?|us-ascii|iso-8859-\d{1,2}|latin-?1|windows-125\d|koi8-[ru]|shift_jis|euc-(?:jp|kr)|gbk|gb2312|gb18030|big5"
)


@dataclass(frozen=True, slots=True)
class _Hop:
    """One request to be made."""

    url: str
    parts: SplitResult
    host: Host
    port: int

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.parts.scheme, self.host.name, self.port


@dataclass(slots=True)
class Fetcher:
    """Fetches for all agents of a run. `trust` makes the TLS settings, once; it may take long, and is called in a thread."""

    egress: Egress
    trust: Callable[[], ssl.SSLContext] = ssl.create_default_context
    _tls: ssl.SSLContext | None = field(default=None, init=False)

    async def fetch(self, way: Way, ask: HttpFetch) -> Fetched:
        """The answer, after at most five redirects. Raises ToolFailed, CapabilityDenied."""
        method, body = ask.method, None if ask.body is None else ask.body.encode("utf-8", "replace")
        headers = dict(ask.headers)
        hop = _hop(ask.url)
        redirects: list[str] = []
        try:
            async with asyncio.timeout(ask.timeout_s):
                while True:
                    self._check_secrets(way, hop, headers, body)
                    status, head, data, cut = await self._exchange(way, hop, method, headers, body, ask.max_bytes)
                    target = head.one("location") if status in {301, 302, 303, 307, 308} else None
                    if target is None:
                        return _fetched(hop.url, status, head, data, cut=cut, redirects=redirects)
                    redirects.append(hop.url)
                    if len(redirects) > MAX_REDIRECTS:
                        raise ToolFailed(f"more than {MAX_REDIRECTS} redirects, the last one to {target[:200]}")
                    before, hop = hop, _hop(urljoin(hop.url, target))
                    if before.parts.scheme == "https" and hop.parts.scheme == "http":
                        raise ToolFailed(f"{before.url} leads from https to http: {hop.url}", hint="ask for that URL itself if it is meant")
                    if before.origin != hop.origin:
                        headers = {name: value for name, value in headers.items() if name.lower() not in _OF_ONE_HOST}
                    if status == 303 or (status in {301, 302} and method == "POST"):
                        method, body = "HEAD" if method == "HEAD" else "GET", None
        except TimeoutError:
            raise ToolFailed(f"{hop.url} did not answer within {ask.timeout_s:g} s") from None
        except http1.BadHttp as error:
            raise ToolFailed(f"{hop.url} gave an answer that is not understood: {error.message}") from error
        except ssl.SSLError as error:
            raise ToolFailed(f"{hop.url}: no safe connection: {error.reason or error}") from error
        except OSError as error:
            raise ToolFailed(f"{hop.url}: the connection broke: {error.strerror or error}") from error

    def _check_secrets(self, way: Way, hop: _Hop, headers: dict[str, str], body: bytes | None) -> None:
        if way.threats is None:
            return
        everything = [hop.url, *headers, *headers.values()]
        if any(way.threats.sees(text, f"a request to {hop.host}") for text in everything) or way.threats.sees(body or b"", f"a request to {hop.host}"):
            raise ToolFailed("refused: a secret of toka's own was in what was to be sent", code="secret")

    async def _exchange(
        self, way: Way, hop: _Hop, method: str, headers: dict[str, str], body: bytes | None, limit: int
    ) -> tuple[int, http1.Head, bytes, bool]:
        """One request and its answer: status, head, at most `limit` bytes of the body, and whether there was more."""
        connection = await self.egress.connect(way, hop.host, hop.port)
        try:
            tls = await self._settings() if hop.parts.scheme == "https" else None
            server_name = hop.host.name if tls is not None else None
            reader, writer = await asyncio.open_connection(sock=connection, ssl=tls, server_hostname=server_name, limit=http1.MAX_HEAD)
        except BaseException:
            connection.close()
            raise
        try:
            request = http1.written(f"{method} {_path(hop.parts)} HTTP/1.1", _fields(hop, headers, body)) + (body or b"")
            way.sent += len(request)
            writer.write(request)
            await writer.drain()
            head = await _reply(reader)
            status = head.status()
            if method == "HEAD" or status in {204, 304}:
                return status, head, b"", False
            how = http1.framing(head)
            data, cut = await _bounded(reader, "to_the_end" if how is None else how, limit)
            way.received += len(data)
            return status, head, data, cut
        finally:
            writer.transport.abort()

    async def _settings(self) -> ssl.SSLContext:
        if self._tls is None:
            # Reading the authorities' certificates takes tens of milliseconds, in which agents would wait.
            self._tls = await asyncio.to_thread(self.trust)
        return self._tls


def _hop(url: str) -> _Hop:
    """A URL as a request. Raises ToolFailed."""
    text = quote(url.strip(), safe="!#$%&'()*+,/:;=?@[]~")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ToolFailed(f"{url[:200]!r} is no URL") from None
    if parts.scheme not in PORTS:
        raise ToolFailed(f"{url[:200]!r}: only http:// and https:// can be fetched")
    if "@" in parts.netloc:
        raise ToolFailed("a URL with a name or password in it is not fetched")
    try:
        host = parse_host(urlsplit(url.strip()).hostname or "")
    except ValueError as error:
        raise ToolFailed(str(error)[:300]) from None
    return _Hop(text.partition("#")[0], parts, host, port or PORTS[parts.scheme])


def _path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _fields(hop: _Hop, headers: dict[str, str], body: bytes | None) -> list[tuple[str, str]]:
    where = str(hop.host) if hop.port == PORTS[hop.parts.scheme] else f"{hop.host}:{hop.port}"
    fields = [("Host", where), *headers.items()]
    written = {name.lower() for name in headers}
    defaults = [("User-Agent", f"toka/{toka_cli.__version__}"), ("Accept", "*/*")]
    if body is not None:
        defaults.append(("Content-Type", "text/plain; charset=utf-8"))
    fields += [(name, value) for name, value in defaults if name.lower() not in written]
    if body is not None:
        fields.append(("Content-Length", str(len(body))))
    return [*fields, ("Accept-Encoding", "identity"), ("Connection", "close")]


async def _reply(reader: asyncio.StreamReader) -> http1.Head:
    """The head of the reply proper: those of status 1xx only announce it."""
    for _ in range(10):
        head = await http1.read_head(reader)
        if head is None:
            raise http1.BadHttp("the connection ended without a word")
        if head.status() >= 200:
            return head
    raise http1.BadHttp("no end of announcements")


async def _bounded(reader: asyncio.StreamReader, how: http1.Framing, limit: int) -> tuple[bytes, bool]:
    data = bytearray()
    async for piece in http1.body(reader, how):
        data += piece
        if len(data) > limit:
            return bytes(data[:limit]), True
    return bytes(data), False


def _fetched(url: str, status: int, head: http1.Head, data: bytes, *, cut: bool, redirects: list[str]) -> Fetched:
    fields: dict[str, str] = {}
    for name, value in head.fields[:MAX_SHOWN_FIELDS]:
        if name.lower() not in _HIDDEN:
            fields[name.lower()] = value[:MAX_SHOWN_CHARS]
    kind = fields.get("content-type")
    text, note = _text(data, kind, fields.get("content-encoding"))
    return Fetched(url, status, kind, fields, text, len(data), cut, tuple(redirects), note)


def _text(data: bytes, kind: str | None, encoding: str | None) -> tuple[str | None, str | None]:
    """The body as text, or None and why it is none."""
    if encoding not in {None, "identity"}:
        return None, f"packed as {encoding}, although that was not asked for"
    if not data:
        return "", None
    if (kind is not None and not _TEXTUAL.match(kind.lower())) or (kind is None and b"\0" in data):
        return None, f"{len(data)} bytes of {kind or 'something binary'}: only text is given back"
    match = _CHARSET.search(kind or "")
    charset = match[1].lower() if match else "utf-8"
    if _CHARSETS.fullmatch(charset):
        try:
            return data.decode(charset, "replace"), None
        except LookupError:
            pass
    return data.decode("utf-8", "replace"), f"read as UTF-8: the charset {charset} is not known here"


def failed(error: TokaError) -> ToolFailed:
    """An error of the way out, as a tool's."""
    return error if isinstance(error, ToolFailed) else ToolFailed(error.message, hint=error.hint, code=error.code)
