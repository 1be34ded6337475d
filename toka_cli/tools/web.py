"""http_fetch: one page or one answer of an interface. In: a URL on a host that the agent's spec lists. Out: status, a few fields, and text within bounds.

The kernel makes the connection, by the same checks as its proxy; nothing of toka's or the user's goes with it that the caller did not write.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec

from toka_cli.tools.tool import Answer, Arguments, Tool, ToolContext, ToolFailed, both_ends

MAX_BYTES: Final = 2 * 1024 * 1024
MAX_HEADERS: Final = 20
MAX_HEADER_CHARS: Final = 4096
MAX_BODY: Final = 256 * 1024
MAX_TIMEOUT_S: Final = 120.0
REFUSED_HEADERS: Final = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "expect", "keep-alive", "accept-encoding"}
)
"""Fields that say how a message is carried; a caller that sets them could make one message look like two."""
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")


class HttpFetch(Arguments, frozen=True):
    """Arguments of http_fetch."""

    url: Annotated[str, msgspec.Meta(description="http:// or https://, on a host that your spec lists.", min_length=8, max_length=4096)]
    method: Literal["GET", "HEAD", "POST"] = "GET"
    headers: Annotated[dict[str, str], msgspec.Meta(description="Fields of the request's head.", max_length=MAX_HEADERS)] = msgspec.field(default_factory=dict)
    body: Annotated[str | None, msgspec.Meta(description="What to send, with POST only.")] = None
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_BYTES, description="Bytes of the answer to read at most.")] = 256 * 1024
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT_S, description="Seconds for all of it, redirects included.")] = 30.0


class Fetched(Answer, frozen=True):
    """What came back. `url` is where it came from after redirects. `text` is null for what is no text; `cut`: there was more than was read or fits here."""

    url: str
    status: int
    content_type: str | None
    headers: dict[str, str]
    text: str | None
    size_bytes: int
    cut: bool
    redirects: tuple[str, ...] = ()
    note: str | None = None


async def run_http_fetch(arguments: HttpFetch, context: ToolContext) -> Fetched:
    """Raises ToolFailed for a URL, field or body that cannot be sent, a host that is not listed, and everything that goes wrong on the way."""
    if context.hands is None:
        raise ToolFailed("http_fetch runs in the kernel only")
    if arguments.body is not None and arguments.method != "POST":
        raise ToolFailed(f"{arguments.method} has no body", hint='use method "POST"')
    if arguments.body is not None and len(arguments.body.encode("utf-8", "replace")) > MAX_BODY:
        raise ToolFailed(f"a body may have {MAX_BODY} bytes")
    for name, value in arguments.headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or len(value) > MAX_HEADER_CHARS:
            raise ToolFailed(f"{name[:100]!r} with its value is no field of a head")
        if name.lower() in REFUSED_HEADERS or name.lower().startswith("proxy-"):
            raise ToolFailed(f"the field {name} is set by toka")
    fetched: Fetched = await context.hands.fetch(arguments)
    if fetched.text is None:
        return fetched
    text, cut = both_ends(fetched.text, context.output_limit)
    return msgspec.structs.replace(fetched, text=text, cut=fetched.cut or cut)


TOOLS: Final = (
    Tool(
        name="http_fetch",
        description="Fetch a URL from a host that your spec lists under network-access. Every redirect is checked like a request of its own.",
        arguments=HttpFetch,
        result=Fetched,
        power="network-access",
        # A POST may have done something; nobody can look whether it did.
        effect="effect",
        where="kernel",
        read_only=False,
        run=run_http_fetch,
        calls_per_minute=60,
    ),
)
