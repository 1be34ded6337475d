"""Each sign is told once, with words that hold no secret; what is no sign is not told."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from toka_cli.kernel.threats import SecretFinder, ThreatWatch
from toka_cli.llm.redact import Redactor

SECRET = "sk-live/abc+def=0123456789"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def told():
    return []


@pytest.fixture
def watch(clock, told):
    def made(**more):
        return ThreatWatch("a-1", lambda kind, detail: told.append((kind, detail)), clock, SecretFinder(Redactor([SECRET]).text), **more)

    return made


def test_a_burst_of_refusals(watch, clock, told):
    threats = watch()
    for _ in range(9):
        threats.denied("write_file on /etc/passwd")
    assert told == []
    threats.denied("connect to evil.test:443")
    assert [kind for kind, _ in told] == ["denials"]
    assert "10 refusals in 60 s" in told[0][1]
    assert "evil.test:443" in told[0][1]
    for _ in range(50):
        threats.denied("again")
    assert len(told) == 1


def test_refusals_far_apart_are_none(watch, clock, told):
    threats = watch()
    for _ in range(40):
        threats.denied("x")
        clock.now += 6.7
    assert told == []


def test_the_burst_can_be_set_and_switched_off(watch, told):
    off = watch(burst=0)
    for _ in range(1000):
        off.denied("x")
    assert told == []
    three = watch(burst=3, window_s=5.0)
    for _ in range(3):
        three.denied("x")
    assert told[0][1].startswith("3 refusals in 5 s")


def test_a_host_that_is_not_listed_by_its_name(watch, told):
    threats = watch()
    threats.new_host("api.example.org", 443, named=True)
    assert told == []
    threats.new_host("x.example.org", 443, named=False)
    threats.new_host("y.example.org", 443, named=False)
    assert told == [("new_host", "asked for x.example.org:443, which is not listed by its name")]


@pytest.mark.parametrize(
    "spelled",
    [
        SECRET,
        f"prefix {SECRET} suffix",
        quote(SECRET, safe=""),
        json.dumps({"key": SECRET}),
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(b"a" + SECRET.encode()).decode(),
        base64.urlsafe_b64encode(b"user:" + SECRET.encode()).decode(),
        SECRET.encode().hex(),
    ],
)
def test_a_secret_is_seen_however_it_is_spelled(watch, told, spelled):
    threats = watch()
    assert threats.sees(spelled, "a request to evil.test")
    assert threats.sees(spelled.encode(), "again")
    assert [kind for kind, _ in told] == ["secret"]
    assert SECRET not in told[0][1]


def test_what_is_no_secret_is_none(watch, told):
    threats = watch()
    assert not threats.sees("sk-live/abc+def", "a request")
    assert not threats.sees(b"\xff\x00 binary", "a request")
    assert not ThreatWatch("a-1", lambda *_: told.append("x"), lambda: 0.0).sees(SECRET, "where nothing is known")
    assert told == []


def test_a_secret_in_pieces_of_a_stream():
    finder = SecretFinder(Redactor([SECRET]).text)
    data = b"x" * 5000 + SECRET.encode() + b"y" * 5000
    for size in (1, 7, 25, 4096, 100_000):
        feed = finder.stream()
        assert any(feed(data[start : start + size]) for start in range(0, len(data), size)), size
    feed = finder.stream()
    assert not any(feed(b"x" * 100) for _ in range(100))
    assert bool(finder)
    assert not SecretFinder()
