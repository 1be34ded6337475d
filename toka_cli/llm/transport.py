"""The HTTP of the provider process: one aiohttp session under litellm that sees each exchange, bounds what comes in, and lets nobody send a request twice.

In: requests of litellm's, within `watching`. Out: their responses, unchanged but bounded, and a Sighting. Never reads a key, never logs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import aiohttp

from toka_cli.llm.causes import Broke, Redirected, Repeated, Sighting, TooLarge

# A token streamed costs about 300 bytes on the wire; the longest answers have some 128,000 of them.
MAX_STREAM_BYTES: Final = 64 << 20
MAX_BODY_BYTES: Final = 16 << 20
# A packed body can grow a thousandfold.
MAX_PACKED_BYTES: Final = 1 << 20
HEAD_BYTES: Final = 16 << 10
"""What is kept of a body for the sake of its error message."""

CONNECTIONS: Final = 256
KEEPALIVE_S: Final = 60.0

_watched: ContextVar[Sighting | None] = ContextVar("watched", default=None)


@contextmanager
def watching() -> Iterator[Sighting]:
    """Requests made inside (by this task, or threads and tasks it starts) belong to one exchange, whose Sighting this gives. Left by an exception, it
    hangs up: a cancelled stream is not closed by everybody who reads it.
    """
    seen = Sighting()
    token = _watched.set(seen)
    try:
        yield seen
    except BaseException:
        if seen.hang_up is not None:
            seen.hang_up()
        raise
    finally:
        _watched.reset(token)


def session() -> aiohttp.ClientSession:
    """The session to give to litellm. Call it inside the loop; the caller closes it."""
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(_connecting)
    trace.on_connection_create_end.append(_connected)
    trace.on_connection_reuseconn.append(_connected)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=60),
        # No cookie of a provider's is kept; deadlines are the caller's.
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        middlewares=(_watch,),
        trace_configs=[trace],
    )


async def _connecting(*_: Any) -> None:
    if (seen := _watched.get()) is not None:
        seen.phase = "connecting"


async def _connected(*_: Any) -> None:
    if (seen := _watched.get()) is not None:
        seen.phase = "waiting"


async def _watch(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """See a request go out and its response begin."""
    seen = _watched.get()
    if seen is None:
        return await handler(request)
    if seen.failure is not None or (seen.status is not None and seen.status >= 400):
        # litellm tries again by itself on some errors, whatever max_retries says: a call would be paid twice behind the gateway's back.
        raise Repeated("the request failed; whether it is sent again is not decided here")
    # A packed answer saves little, hides its size, and keeps its error message from being read.
    request.headers["accept-encoding"] = "identity"
    seen.requests += 1
    seen.where = str(request.url.with_query(None).with_fragment(None).with_user(None))
    try:
        response = await handler(request)
    except (aiohttp.ClientError, OSError) as error:
        seen.failure = error
        raise Broke(str(error)) from error
    seen.phase = "reading"
    seen.hang_up = response.close
    seen.status = response.status
    seen.headers = {name.lower(): value for name, value in response.headers.items()}
    if response.status in {301, 302, 303, 307, 308}:
        response.close()
        seen.failure = Redirected(f"{seen.where} redirects to {response.headers.get('location', 'another address')[:200]}")
        raise seen.failure
    response.content = _Bounded(response.content, seen, _limit(response))  # type: ignore[assignment]
    return response


def _limit(response: aiohttp.ClientResponse) -> int:
    if response.headers.get("content-encoding", "identity").lower() not in {"", "identity"}:
        return MAX_PACKED_BYTES
    return MAX_STREAM_BYTES if response.content_type == "text/event-stream" else MAX_BODY_BYTES


class _Bounded:
    """The body of a response: counts what comes in and keeps its beginning. Everything else is the body's own."""

    def __init__(self, content: aiohttp.StreamReader, seen: Sighting, limit: int) -> None:
        self._content = content
        self._seen = seen
        self._limit = limit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """As the body's own, until there is too much of it."""
        seen = self._seen
        count = 0
        try:
            async for data in self._content.iter_chunked(size):
                count += len(data)
                if count > self._limit:
                    seen.failure = TooLarge(f"the answer of {seen.where} is larger than {self._limit >> 20} MB")
                    raise seen.failure
                if len(seen.head) < HEAD_BYTES:
                    seen.head += data[: HEAD_BYTES - len(seen.head)]
                yield data
        except (aiohttp.ClientError, OSError, aiohttp.http_exceptions.HttpProcessingError) as error:
            seen.failure = error
            raise Broke(str(error)) from error
