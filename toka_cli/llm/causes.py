"""Why an exchange failed: from what was seen on the wire and from the chain of exceptions. In: a sighting, an exception. Out: a ProviderError.

litellm calls a refused connection, a broken body and a missing key alike "InternalServerError 500", so its own words come last. Never looks
anywhere itself.
"""

from __future__ import annotations

import errno
import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from toka_cli.llm.provider import Cause, ProviderError

MAX_SAID: Final = 500
"""Characters of a provider's own words that go into a message."""


class Broke(Exception):
    """The connection failed, with its reason as __cause__. Of no family that an HTTP library knows, so that none of them tries again on its own."""


class TooLarge(Exception):
    """More came in than a reply may have."""


class Repeated(Exception):
    """Somebody wanted to send a request again after it had failed; whether that is done is decided by the gateway."""


class Redirected(Exception):
    """The address answers with another one; a key is never sent after a redirect."""


class Invalid(Exception):
    """What came back is well-formed and still no reply; the first argument is a cause, the second what is wrong."""


@dataclass(slots=True)
class Sighting:
    """What was seen of one exchange on the wire. `phase` is how far it got."""

    where: str = ""
    phase: str = "preparing"
    requests: int = 0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    head: bytearray = field(default_factory=bytearray)
    failure: BaseException | None = None
    hang_up: Callable[[], None] | None = None
    """Ends the connection of a response that nobody reads any more."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a provider said about an error, wherever it stood."""

    status: int | None
    code: str
    message: str


_QUOTA: Final = re.compile(
    r"insufficient[_ ](?:quota|balance|credit|funds)|exceeded your current quota|credit balance is too low|billing[_ ]hard[_ ]limit|billing_not_active|"
    r"payment required|out of credits|spending limit|usage limit", re.IGNORECASE
)  # fmt: skip
# Some say "quota" for what is over in a minute, and how long to wait.
_SOON: Final = re.compile(r"retryDelay\W+(\d+(?:\.\d+)?)s|retry in (\d+(?:\.\d+)?) ?s|try again in (\d+(?:\.\d+)?)(ms|s)\b|per ?minute", re.IGNORECASE)
_CONTEXT: Final = re.compile(
    r"context[_ ]length|context window|maximum context|prompt is too long|too many (?:input )?tokens|input (?:is too long|token count)|"
    r"request[_ ]too[_ ]large|request too large|reduce the length|exceed\w* (?:the )?(?:model's )?(?:max\w* )?(?:context|input) ", re.IGNORECASE
)  # fmt: skip
_FILTER: Final = re.compile(
    r"content[_ ]?(?:filter|policy)|content management policy|responsible ?ai|safety (?:system|filter)|flagged|blocked by", re.IGNORECASE
)
_KEY: Final = re.compile(r"(?:api|access)[ _]?key|authentication|unauthorized|invalid x-api-key|credential|permission[_ ]denied", re.IGNORECASE)
_MODEL: Final = re.compile(
    r"model[_ ]not[_ ]found|not_found_error.*model|(?:model|deployment|engine)\b.{0,120}(?:not exist|not found|not supported|not available|no longer|deprecat)|"
    r"(?:no such|unknown|invalid|not a valid) model|LLM Provider NOT provided", re.IGNORECASE | re.DOTALL
)  # fmt: skip
_OVERLOADED: Final = re.compile(r"overloaded|server_error|internal server error|temporarily unavailable|capacity", re.IGNORECASE)


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what caused it, outermost first; groups are opened."""
    seen: set[int] = set()
    queue: list[BaseException] = [error]
    while queue and len(seen) < 50:
        found = queue.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        if isinstance(found, BaseExceptionGroup):
            queue += found.exceptions
        following = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
        # A connection attempt to several addresses keeps its errors beside the chain.
        queue += [other for other in (following, getattr(found, "os_error", None)) if isinstance(other, BaseException)]


def failed(error: BaseException, seen: Sighting) -> ProviderError:
    """The failure of an exchange, by cause, with what to do about it."""
    links = list(chain(error)) + ([*chain(seen.failure)] if seen.failure is not None else [])
    for link in links:
        if isinstance(link, Invalid):
            return ProviderError(link.args[0], link.args[1], hint=link.args[2] if len(link.args) > 2 else None)
        if isinstance(link, TooLarge):
            return ProviderError("too_large", str(link), hint="ask for less in one answer (max_output_tokens)")
        if isinstance(link, Redirected):
            return ProviderError("bad_request", str(link), hint="set LLM_BASE_URL to the address itself")
    if seen.status is None or (seen.status < 400 and seen.failure is not None):
        broken = _broken(links, seen)
        if broken is not None:
            return broken
    said = _said(links, seen)
    if not seen.requests and not any(type(link).__name__ in _ANSWERS for link in links):
        return _unsent(said)
    if seen.status is not None and seen.status < 400 and (said.status is None or any(isinstance(link, json.JSONDecodeError) for link in links)):
        return ProviderError("bad_reply", f"{seen.where} answered something that is not a reply of a model: {_short(said.message)}", hint=_WRONG_PATH)
    return _refused(said, links, seen)


def timed_out(seen: Sighting, limit_s: float) -> ProviderError:
    """The failure of an exchange that took too long, with how far it got."""
    where = seen.where or "the provider"
    if seen.phase == "connecting":
        tls = "; if the address begins with https, perhaps the server speaks plain http" if seen.where.startswith("https") else ""
        return ProviderError("timeout", f"no connection to {where} within {limit_s:g} s{tls}", hint="check the address and the network")
    how = {"preparing": "the request was not even sent", "reading": "the answer began and did not end"}.get(seen.phase, "no answer came")
    return ProviderError("timeout", f"{where}: {how} within {limit_s:g} s", hint="raise LLM_TIMEOUT if the model is that slow")


# Exceptions that only an answer can have made, by libraries that bring a way to the network of their own.
_ANSWERS: Final = frozenset({"HTTPStatusError", "MaskedHTTPStatusError", "ClientError", "ClientResponseError", "GoogleAPICallError"})


def _unsent(said: Said) -> ProviderError:
    """A refusal of litellm's own, before anything was sent: its status is made up, and asking again would end the same way."""
    found = re.search(r"No module named '([\w.]+)'", said.message)
    if found:
        hint = f"install what this provider needs: pip install {found[1].partition('.')[0]}"
        return ProviderError("bad_request", f"litellm cannot ask this provider: {_short(said.message)}", hint=hint)
    cause = _by_words(said.message, "bad_request")
    cause = "bad_request" if cause == "overloaded" else cause
    return ProviderError(cause, f"litellm says: {_short(said.message)}", hint=_HINTS.get(cause))


_WRONG_PATH: Final = "check LLM_BASE_URL: most servers want it to end in /v1"


def _broken(links: list[BaseException], seen: Sighting) -> ProviderError | None:
    """A failure below HTTP, from the types in the chain, innermost first."""
    where = seen.where or "the provider"
    for link in reversed(links):
        names = {kind.__name__ for kind in type(link).__mro__}
        if isinstance(link, ssl.SSLError | ssl.CertificateError) or names & {"ClientSSLError", "ClientConnectorCertificateError", "ServerFingerprintMismatch"}:
            hint = "check that the address wants https and not http, and the certificate; SSL_CERT_FILE names the certificates to trust"
            return ProviderError("tls", f"no secure connection to {where}: {_short(str(link))}", hint=hint)
        if isinstance(link, socket.gaierror) or "ClientConnectorDNSError" in names:
            return ProviderError("dns", f"the name in {where} is not known: {_short(str(link))}", hint="check the address, the network and the proxy variables")
        if isinstance(link, ConnectionRefusedError):
            return ProviderError("refused", f"nobody listens at {where}", hint="start the server, or correct LLM_BASE_URL")
        if names & {"ContentLengthError", "TransferEncodingError", "IncompleteReadError", "IncompleteRead", "RemoteProtocolError", "ClientPayloadError"}:
            return ProviderError("truncated", f"the answer of {where} ended too early")
        if isinstance(link, ConnectionError) or "ServerDisconnectedError" in names:
            return ProviderError("reset", f"{where} closed the connection without an answer")
    for link in links:
        if isinstance(link, OSError) and link.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}:
            return ProviderError("refused", f"no way to {where}: {link.strerror}", hint="check the network and the proxy variables")
        names = {kind.__name__ for kind in type(link).__mro__}
        if isinstance(link, TimeoutError) or names & {"TimeoutException", "APITimeoutError", "ServerTimeoutError"}:
            return ProviderError("timeout", f"{where} did not answer in time")
        if names & {"ClientConnectionError", "NetworkError", "EndpointConnectionError"} or isinstance(link, Broke):
            return ProviderError("reset", f"the connection to {where} broke: {_short(str(link))}")
    return None


def _refused(said: Said, links: list[BaseException], seen: Sighting) -> ProviderError:
    """An answer that says no, or a refusal of litellm's own."""
    cause = cause_of(said)
    wait_s = _wait(links, seen, said) if cause in {"rate_limit", "overloaded"} else None
    who = seen.where or "litellm"
    status = f" ({said.status})" if said.status is not None and seen.status is not None else ""
    hint = _HINTS.get(cause) or (_WRONG_PATH if said.status in {404, 405} else None)
    return ProviderError(cause, f"{who} says{status}: {_short(said.message)}", hint=hint, retry_after_s=wait_s)


_HINTS: Final[dict[Cause, str]] = {
    "auth": "check the key: it is refused, or does not allow this model (toka runtime config shows which keys are set)",
    "quota": "add credit or raise the limit at the provider, or choose another model; then: toka run resume",
    "unknown_model": "check the model's name; litellm's names begin with the provider, such as openai/... or anthropic/...",
    "context": "the conversation is longer than the model's window: give the task less to read, or choose a model with a larger one",
    "content_filter": "the provider's filter stopped it: say the task in other words",
}


def cause_of(said: Said) -> Cause:
    """The cause of a refusal, by its status first and its words where a status means several things."""
    words = f"{said.code} {said.message}"
    status = said.status
    if status in {401, 403}:
        return "content_filter" if status == 403 and _FILTER.search(words) else "quota" if _QUOTA.search(words) else "auth"
    if status == 402:
        return "quota"
    if status == 429:
        if _QUOTA.search(words) and not _SOON.search(words):
            return "quota"
        return "context" if _CONTEXT.search(words) else "rate_limit"
    if status == 408:
        return "timeout"
    if status == 413:
        return "context"
    if status == 404:
        return "unknown_model" if _MODEL.search(words) or "model" in said.message.lower() else "bad_request"
    if status is not None and (status >= 500 or status in {409, 425}) and status != 501:
        # Some local servers say with 500 that the window is full.
        return "context" if status == 500 and _CONTEXT.search(words) else "overloaded"
    return _by_words(words, "bad_request" if status is not None else "internal")


def _by_words(words: str, otherwise: Cause) -> Cause:
    if _QUOTA.search(words):
        return "quota"
    if _CONTEXT.search(words):
        return "context"
    if _MODEL.search(words):
        return "unknown_model"
    if _FILTER.search(words):
        return "content_filter"
    if _OVERLOADED.search(words):
        return "overloaded"
    return "auth" if _KEY.search(words) else otherwise


def _said(links: list[BaseException], seen: Sighting) -> Said:
    """The provider's words: from the body that was seen, else from the innermost exception that has any."""
    if seen.status is not None and seen.status >= 400:
        packed = seen.headers.get("content-encoding", "identity") not in {"", "identity"}
        code, message = _fields(str(getattr(links[0], "message", links[0])).encode() if packed else bytes(seen.head))
        return Said(seen.status, code, message)
    if seen.status is not None and seen.status < 400:
        # An error inside of a stream: the body began well.
        for link in links:
            code, message = _fields(str(getattr(link, "message", "") or link).encode())
            status = _status(link)
            if status is not None and not isinstance(link, json.JSONDecodeError) and _OVERLOADED.search(f"{code} {message}"):
                return Said(529 if "overloaded" in f"{code} {message}".lower() else 500, code, message)
        return Said(None, "", str(links[0]) if links else "")
    for link in links:
        if (status := _status(link)) is not None:
            code, message = _fields(str(getattr(link, "message", "") or link).encode())
            return Said(status, code, message)
    return Said(None, "", str(links[0]) if links else "")


def _status(link: BaseException) -> int | None:
    status = getattr(link, "status_code", None)
    return status if isinstance(status, int) and 400 <= status < 600 else None


def _fields(body: bytes) -> tuple[str, str]:
    """Code and message of an error body: providers agree on `error`, and on little else. Code holds `code`, `type` and `status` together."""
    text = body.decode("utf-8", "replace")
    try:
        found: Any = json.loads(text)
    except ValueError:
        return "", _plain(text)
    if isinstance(found, list) and found:
        found = found[0]
    if not isinstance(found, Mapping):
        return "", _plain(text)
    inner = found.get("error", found)
    if isinstance(inner, str):
        return str(found.get("code") or ""), inner
    if not isinstance(inner, Mapping):
        return "", _plain(text)
    code = " ".join(str(inner[name]) for name in ("code", "type", "status") if inner.get(name))
    details = f" {json.dumps(inner['details'])}" if isinstance(inner.get("details"), list) else ""
    message = inner.get("message") or inner.get("detail") or found.get("message") or text
    return code, f"{message}{details}"


def _plain(text: str) -> str:
    """Words of a page that is not JSON (a proxy's), without its tags."""
    return re.sub(r"<[^>]{0,500}>", " ", text)


def _wait(links: list[BaseException], seen: Sighting, said: Said) -> float | None:
    """Seconds that the provider asks to wait: its headers, else its words."""
    headers: Mapping[str, str] = seen.headers
    if not headers:
        for link in links:
            found = getattr(getattr(link, "response", None), "headers", None)
            if found is not None and hasattr(found, "items"):
                headers = {str(name).lower(): str(value) for name, value in found.items()}
                break
    wait_s = retry_after(headers)
    if wait_s is None and (match := _SOON.search(said.message)) and (number := match[1] or match[2] or match[3]):
        wait_s = float(number) / (1000.0 if match[4] == "ms" else 1.0)
    return wait_s


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after` (a number, or an HTTP date; RFC 9110, 10.2.3); None when neither can be read. Names are in lower case."""
    for name, factor in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if re.fullmatch(r"\d{1,9}(?:\.\d{1,6})?", text, re.ASCII):
            return float(text) * factor
        if name == "retry-after" and text:
            try:
                at = parsedate_to_datetime(text)
            except (ValueError, IndexError):
                continue
            at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
            return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
    return None


def _short(text: str) -> str:
    """One line, bounded, without litellm's names for it and without the stack that it sometimes adds."""
    line = " ".join(text.partition("Traceback (most recent call last)")[0].split())
    line = re.sub(r"^(?:litellm\.)?(?:\w+Error: (?:litellm\.)?)+", "", line) or line
    return line if len(line) <= MAX_SAID else line[: MAX_SAID - 3] + "..."
