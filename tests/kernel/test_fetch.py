"""http_fetch on real servers: every hop is judged, nothing is added, everything is bounded."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading

import pytest

from tests.kernel.servers import Origin, Watched, certificate, server_side
from toka_cli.errors import CapabilityDenied
from toka_cli.kernel.fetch import Fetcher
from toka_cli.kernel.threats import SecretFinder, ThreatWatch
from toka_cli.tools.tool import ToolFailed
from toka_cli.tools.web import HttpFetch

SECRET = "sk-very-secret-0123456789"


@pytest.fixture
def origin():
    made = Origin()
    yield made
    made.close()


@pytest.fixture(scope="module")
def key_and_cert(tmp_path_factory):
    return certificate(tmp_path_factory.mktemp("tls"), "good.test", "127.0.0.1")


@pytest.fixture
def tls_origin(key_and_cert):
    made = Origin(server_side(*key_and_cert))
    yield made
    made.close()


class Web:
    def __init__(self, cert):
        self.watched = Watched()
        self.threats = []
        self.fetcher = Fetcher(self.watched.egress, lambda: ssl.create_default_context(cafile=cert))

    def __call__(self, hosts, url, **more):
        watch = ThreatWatch("a-1", lambda *what: self.threats.append(what), lambda: 0.0, SecretFinder(lambda text: text.replace(SECRET, "*")))
        way = self.watched.egress.way("a-1", hosts, watch)
        return asyncio.run(self.fetcher.fetch(way, HttpFetch(url, **more)))


@pytest.fixture
def web(key_and_cert):
    return Web(key_and_cert[1])


def test_a_page(origin, web):
    here = f"127.0.0.1:{origin.port}"
    origin.answers["/page?q=a%20b"] = (200, {"Content-Type": "text/html; charset=latin-1", "X-More": "1", "Set-Cookie": "a=b"}, "grün".encode("latin-1"))
    page = web([here], f"http://{here}/page?q=a b#part", headers={"Accept": "text/html"})
    assert (page.status, page.text, page.cut, page.redirects) == (200, "grün", False, ())
    assert page.headers["x-more"] == "1"
    assert "set-cookie" not in page.headers
    (asked,) = origin.asked
    assert asked.path == "/page?q=a%20b"
    assert set(asked.headers) == {"host", "accept", "user-agent", "accept-encoding", "connection"}
    assert asked.headers["user-agent"][0].startswith("toka/")


def test_head_and_post(origin, web):
    here = f"127.0.0.1:{origin.port}"
    assert web([here], f"http://{here}/", method="HEAD").text == ""
    assert web([here], f"http://{here}/in", method="POST", body="grüße", headers={"Content-Type": "text/x"}).status == 200
    assert origin.asked[1].body == "grüße".encode()
    assert origin.asked[1].headers["content-type"] == ["text/x"]


def test_tls_is_checked(tls_origin, web):
    web.watched.resolver.says("good.test", ["127.0.0.1"])
    web.watched.resolver.says("bad.test", ["127.0.0.1"])
    port = tls_origin.port
    hosts = [f"good.test:{port}", f"bad.test:{port}", f"127.0.0.1:{port}"]
    assert web(hosts, f"https://good.test:{port}/safe").text == "hello from /safe"
    with pytest.raises(ToolFailed, match="no safe connection"):
        web(hosts, f"https://bad.test:{port}/")
    with pytest.raises(ToolFailed, match="no safe connection"):
        Web(None)(hosts, f"https://127.0.0.1:{port}/")


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::1]:{port}/", "http://169.254.169.254/", "https://evil.test/"])
def test_what_is_not_listed_is_refused(origin, web, url):
    with pytest.raises(CapabilityDenied, match="network-access required for"):
        web(["example.org"], url.format(port=origin.port))
    assert origin.connections == 0


@pytest.mark.parametrize(
    "url",
    ["ftp://example.org/", "file:///etc/passwd", "http://u:p@example.org/", "http://example.org:99999/", "http://0x7f.1/", "http://2130706433/", "http:///x",
     "javascript:alert(1)", "http://[::1%lo]/", "//example.org/"],
)  # fmt: skip
def test_what_is_no_url(web, url):
    with pytest.raises(ToolFailed):
        web(["example.org"], url)
    assert web.watched.decisions == []


def test_redirects_are_judged_hop_by_hop(origin, web):
    here = f"127.0.0.1:{origin.port}"
    origin.answers["/a"] = (302, {"Location": "/b"}, b"")
    origin.answers["/b"] = (307, {"Location": f"http://{here}/c"}, b"")
    page = web([here], f"http://{here}/a")
    assert page.url == f"http://{here}/c"
    assert page.redirects == (f"http://{here}/a", f"http://{here}/b")
    origin.answers["/out"] = (302, {"Location": "http://evil.test/steal"}, b"")
    with pytest.raises(CapabilityDenied, match=r"evil\.test:80"):
        web([here], f"http://{here}/out")
    origin.answers["/in"] = (302, {"Location": f"http://localhost:{origin.port}/"}, b"")
    with pytest.raises(CapabilityDenied, match="localhost"):
        web([here], f"http://{here}/in")
    origin.answers["/round"] = (302, {"Location": "/round"}, b"")
    with pytest.raises(ToolFailed, match="more than 5 redirects"):
        web([here], f"http://{here}/round")
    origin.answers["/file"] = (302, {"Location": "file:///etc/passwd"}, b"")
    with pytest.raises(ToolFailed, match="only http"):
        web([here], f"http://{here}/file")


def test_a_redirect_does_not_fall_back_to_the_clear(origin, tls_origin, web):
    hosts = [f"127.0.0.1:{origin.port}", f"127.0.0.1:{tls_origin.port}"]
    tls_origin.answers["/down"] = (302, {"Location": f"http://127.0.0.1:{origin.port}/"}, b"")
    with pytest.raises(ToolFailed, match="from https to http"):
        web(hosts, f"https://127.0.0.1:{tls_origin.port}/down")
    assert origin.connections == 0


def test_credentials_stay_with_the_host_they_were_written_for(origin, web):
    other = Origin()
    try:
        here, there = f"127.0.0.1:{origin.port}", f"127.0.0.1:{other.port}"
        origin.answers["/go"] = (302, {"Location": f"http://{there}/"}, b"")
        web([here, there], f"http://{here}/go", headers={"Authorization": "Bearer mine", "Cookie": "a=b", "X-Kept": "1"})
        assert origin.asked[0].headers["authorization"] == ["Bearer mine"]
        assert "authorization" not in other.asked[0].headers
        assert "cookie" not in other.asked[0].headers
        assert other.asked[0].headers["x-kept"] == ["1"]
    finally:
        other.close()


@pytest.mark.parametrize(("status", "method", "after"), [(303, "POST", "GET"), (301, "POST", "GET"), (307, "POST", "POST"), (303, "HEAD", "HEAD")])
def test_what_becomes_of_a_method(origin, web, status, method, after):
    here = f"127.0.0.1:{origin.port}"
    origin.answers["/go"] = (status, {"Location": "/there"}, b"")
    web([here], f"http://{here}/go", method=method, body="x" if method == "POST" else None)
    assert origin.asked[1].method == after
    assert origin.asked[1].body == (b"x" if after == "POST" else b"")


def test_answers_are_bounded_and_only_text_comes_back(origin, web):
    here = f"127.0.0.1:{origin.port}"
    origin.answers["/big"] = (200, {"Content-Type": "text/plain"}, b"x" * 1_000_000)
    page = web([here], f"http://{here}/big", max_bytes=1000)
    assert (page.size_bytes, page.cut, page.text) == (1000, True, "x" * 1000)
    origin.answers["/png"] = (200, {"Content-Type": "image/png"}, b"\x89PNG\x00")
    assert web([here], f"http://{here}/png").text is None
    origin.answers["/unsaid"] = (200, {}, b"\x00\x01")
    assert web([here], f"http://{here}/unsaid").text is None
    origin.answers["/packed"] = (200, {"Content-Type": "text/plain", "Content-Encoding": "gzip"}, b"xx")
    assert "packed as gzip" in (web([here], f"http://{here}/packed").note or "")
    origin.answers["/odd"] = (200, {"Content-Type": "application/problem+json; charset=punycode"}, b'{"a": 1}')
    page = web([here], f"http://{here}/odd")
    assert page.text == '{"a": 1}'
    assert "punycode" in (page.note or "")


def test_chunks_are_put_together(origin, web):
    here = f"127.0.0.1:{origin.port}"
    chunks = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
    origin.answers["/chunks"] = (200, {"Content-Type": "text/plain", "Transfer-Encoding": "chunked"}, chunks)
    assert web([here], f"http://{here}/chunks").text == "hello world"


def speaking(data):
    """A server that says one thing to everybody, whatever it is asked, and closes."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    return listener, thread


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ended without a word"),
        (b"garbage\r\n\r\n", "no reply"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "ended 95 bytes early"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello", "a length and chunks"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "how long it is"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX", "does not end"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n", "a head of more than"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20, "no end of announcements"),
        (b"HTTP/1.1 302 Found\r\nLocation: /a\r\nLocation: /b\r\n\r\n", "location is there 2 times"),
    ],
)
def test_servers_that_do_not_speak_http_properly(web, data, words):
    listener, thread = speaking(data)
    with listener:
        here = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ToolFailed, match=words):
            web([here], f"http://{here}/")
    thread.join()


def test_a_body_without_a_length_ends_with_the_connection(web):
    listener, thread = speaking(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nto the end")
    with listener:
        here = f"127.0.0.1:{listener.getsockname()[1]}"
        assert web([here], f"http://{here}/").text == "to the end"
    thread.join()


def test_a_server_that_never_answers_is_left(web):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ToolFailed, match=r"did not answer within 0\.2 s"):
            web([here], f"http://{here}/", timeout_s=0.2)


@pytest.mark.parametrize("where", ["url", "header", "body"])
def test_a_known_secret_is_not_sent(origin, web, where):
    here = f"127.0.0.1:{origin.port}"
    more = {"url": {}, "header": {"headers": {"X-Key": SECRET}}, "body": {"method": "POST", "body": f"key={SECRET}"}}[where]
    url = f"http://{here}/?k={SECRET}" if where == "url" else f"http://{here}/"
    with pytest.raises(ToolFailed, match="a secret of toka's own"):
        web([here], url, **more)
    assert origin.connections == 0
    assert [kind for kind, _ in web.threats] == ["secret"]
