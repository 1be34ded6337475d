"""Causes from statuses and words, waits from headers: what cannot all be shown through a real provider."""

from __future__ import annotations

import errno
import socket
from datetime import UTC, datetime

import pytest

from toka_cli.llm.causes import Said, Sighting, cause_of, chain, failed, retry_after, timed_out
from toka_cli.llm.provider import BREAKING, TERMINAL

NOW = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "code", "message", "cause"),
    [
        (400, "", "API key not valid. Please pass a valid API key.", "auth"),
        (400, "invalid_request_error", "input length and max_tokens exceed context limit: maximum context length is 200000", "context"),
        (400, "", "models/gemini-0 is not a valid model", "unknown_model"),
        (401, "invalid_api_key", "Incorrect API key", "auth"),
        (403, "insufficient_quota", "insufficient_quota", "quota"),
        (403, "content_policy_violation", "blocked by content policy", "content_filter"),
        (404, "not_found_error", "model: claude-0", "unknown_model"),
        (404, "", "Not Found", "bad_request"),
        (408, "", "Request Timeout", "timeout"),
        (429, "rate_limit_exceeded", "Rate limit reached. Please try again in 20ms.", "rate_limit"),
        (429, "rate_limit_exceeded", "Request too large for gpt-4o on tokens per min: Limit 30000, Requested 90000.", "context"),
        (429, "insufficient_quota", "You exceeded your current quota", "quota"),
        (500, "", "the request exceeds the available context size", "overloaded"),
        (500, "", "This model's maximum context length is 4096 tokens", "context"),
        (500, "", "authentication service is down", "overloaded"),
        (504, "", "upstream timed out", "overloaded"),
        (529, "overloaded_error", "Overloaded", "overloaded"),
        (501, "", "Not Implemented", "bad_request"),
        (None, "", "something inside broke", "internal"),
    ],
)
def test_a_status_and_its_words_give_a_cause(status: int | None, code: str, message: str, cause: str) -> None:
    assert cause_of(Said(status, code, message)) == cause


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Tue, 01 Jan 2030 12:00:45 GMT"}, 45.0),
        ({"retry-after": "Tue, 01 Jan 2030 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1" * 40}, None),
        ({}, None),
    ],
)
def test_waits_from_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


def test_words_may_say_how_long_to_wait() -> None:
    seen = Sighting("http://x/v1", requests=1, status=429, head=bytearray(b'{"error": {"message": "Please try again in 20ms."}}'))
    error = failed(RuntimeError("x"), seen)
    assert (error.cause, error.retry_after_s) == ("rate_limit", 0.02)


def test_a_chain_is_walked_through_groups_and_loops() -> None:
    inner = OSError("inner")
    outer = ExceptionGroup("group", [ValueError("a"), RuntimeError("b")])
    outer.exceptions[0].__cause__ = inner
    inner.__context__ = outer
    assert [type(link) for link in chain(outer)] == [ExceptionGroup, ValueError, RuntimeError, OSError]


@pytest.mark.parametrize(
    ("inner", "cause"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "refused"),
        (socket.gaierror(-2, "unknown"), "dns"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "refused"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "reset"),
        (BrokenPipeError(errno.EPIPE, "pipe"), "reset"),
        (TimeoutError(), "timeout"),
    ],
)
def test_what_broke_below_http_is_found_at_the_bottom_of_the_chain(inner: OSError, cause: str) -> None:
    middle = RuntimeError("Connection error.")
    middle.__cause__ = inner
    outer = Exception("InternalServerError 500")
    outer.__context__ = middle
    error = failed(outer, Sighting("http://x/v1", requests=1, failure=outer))
    assert error.cause == cause
    assert "http://x/v1" in error.message


def test_what_was_never_sent_is_not_worth_asking_again() -> None:
    class FromLitellm(Exception):
        status_code = 500
        message = "litellm.InternalServerError: ZaiException - Missing credentials. Please pass an `api_key`"

    error = failed(FromLitellm(), Sighting())
    assert error.cause == "auth"
    assert error.message == "litellm says: ZaiException - Missing credentials. Please pass an `api_key`"
    FromLitellm.message = "No module named 'boto3'\nTraceback (most recent call last):\n  File x"
    error = failed(FromLitellm(), Sighting())
    assert (error.cause, error.hint) == ("bad_request", "install what this provider needs: pip install boto3")
    assert "Traceback" not in error.message


@pytest.mark.parametrize(
    ("phase", "words"),
    [("preparing", "not even sent"), ("connecting", "no connection"), ("waiting", "no answer came"), ("reading", "did not end")],
)
def test_a_deadline_says_how_far_it_came(phase: str, words: str) -> None:
    error = timed_out(Sighting("http://x/v1", phase=phase), 2.5)
    assert error.cause == "timeout"
    assert words in error.message
    assert "2.5 s" in error.message


def test_messages_are_bounded_and_of_one_line() -> None:
    body = b'{"error": {"message": "' + b"x\\n" * 5000 + b'"}}'
    error = failed(RuntimeError("x"), Sighting("http://x", requests=1, status=500, head=bytearray(body)))
    assert len(error.message) < 700
    assert "\n" not in error.message


def test_what_breaks_for_everybody_is_terminal() -> None:
    assert BREAKING <= TERMINAL
