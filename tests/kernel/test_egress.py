"""The proxy on real connections: what is listed comes through whole, everything else is refused before anybody is reached, and every decision is told."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import socket
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.kernel.servers import Client, Origin, Watched, certificate, server_side, shown, until
from toka_cli.errors import CapabilityDenied, Unavailable
from toka_cli.kernel.allowlist import parse_host
from toka_cli.kernel.client_hello import Garbled, Named, first_words
from toka_cli.kernel.egress import Egress, EgressLimits, proxy_environment
from toka_cli.kernel.threats import SecretFinder, ThreatWatch

AGENT = "a000000000-1"
SECRET = "sk-very-secret-0123456789"


@pytest.fixture
def origin():
    made = Origin()
    yield made
    made.close()


@pytest.fixture(scope="module")
def key_and_cert(tmp_path_factory):
    return certificate(tmp_path_factory.mktemp("tls"), "good.test", "other.test", "127.0.0.1")


@pytest.fixture
def tls_origin(key_and_cert):
    made = Origin(server_side(*key_and_cert))
    yield made
    made.close()


@asynccontextmanager
async def proxy(watched, *hosts, threats=None):
    listener, port = Egress.listen()
    handle = await watched.egress.serve(listener, AGENT, hosts, threats=threats)
    assert handle.port == port
    try:
        yield handle
    finally:
        await watched.egress.close()
        assert not handle.tasks


async def ask(handle, request, *, token=None):
    """One whole request, and everything that comes back."""
    client = await Client.to(handle.port)
    try:
        await client.send(request.replace("TOKEN\r\n", shown(token or handle.token)).encode("latin-1"))
        return (await client.everything()).decode("latin-1")
    finally:
        client.close()


def connect(target):
    return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nTOKEN\r\n\r\n"


def get(target, host, *lines):
    return "\r\n".join([f"GET {target} HTTP/1.1", f"Host: {host}", "TOKEN", *lines, "", ""])


# --- who may ask, and for what ---


def test_a_listed_host_is_reached_and_its_answer_comes_whole(origin):
    watched = Watched()
    origin.answers["/big?x=1"] = (200, {"Content-Type": "text/plain"}, b"x" * 3_000_000)

    async def main():
        async with proxy(watched, f"127.0.0.1:{origin.port}") as handle:
            url = f"http://127.0.0.1:{origin.port}/big?x=1"
            fields = ("X-Mine: 1", "Connection: x-mine, keep-alive", "Proxy-Connection: keep-alive", "Accept: a")
            answer = await ask(handle, get(url, f"127.0.0.1:{origin.port}", *fields))
            assert answer.startswith("HTTP/1.1 200 ")
            assert answer.endswith("x" * 3_000_000)
            assert handle.way.received > 3_000_000

    asyncio.run(main())
    (asked,) = origin.asked
    assert (asked.method, asked.path) == ("GET", "/big?x=1")
    # Neither the token nor what was for the proxy alone goes on.
    assert asked.headers == {"host": [f"127.0.0.1:{origin.port}"], "accept": ["a"], "connection": ["close"]}
    assert watched.decisions == [(AGENT, "127.0.0.1", origin.port, True, "listed, at 127.0.0.1")]
    assert watched.new_hosts == [(AGENT, "127.0.0.1", origin.port, True)]


@pytest.mark.parametrize(
    "target", ["127.0.0.1:{port}", "localhost:{port}", "good.test:{port}", "[::1]:{port}", "[::ffff:127.0.0.1]:{port}", "0.0.0.0:{port}", "127.0.0.1.:{port}"]
)
def test_what_is_not_listed_is_refused_and_nobody_is_reached(origin, target):
    watched = Watched()
    watched.resolver.says("good.test", ["127.0.0.1"])
    target = target.format(port=origin.port)

    async def main():
        async with proxy(watched, "example.org:443") as handle:
            for request in (connect(target), get(f"http://{target}/", target)):
                answer = await ask(handle, request)
                assert answer.startswith("HTTP/1.1 403 ")
                assert "Capability not authorized: network-access required for" in answer
                assert "security:\n  capabilities_required:\n    - network-access:" in answer
                assert "trying again does not help" in answer

    asyncio.run(main())
    assert origin.connections == 0
    assert [decision[3] for decision in watched.decisions] == [False, False]
    assert watched.resolver.asked == []


@pytest.mark.parametrize("way", ["no token", "wrong token", "wrong scheme", "two tokens", "not base64"])
def test_without_the_token_nothing_is_decided(origin, way):
    watched = Watched()

    async def main():
        async with proxy(watched, f"127.0.0.1:{origin.port}") as handle:
            right = shown(handle.token)
            line = {
                "no token": "",
                "wrong token": shown("wrong"),
                "wrong scheme": right.replace("Basic", "Bearer"),
                "two tokens": right + right,
                "not base64": "Proxy-Authorization: Basic %%%\r\n",
            }[way]
            answer = await ask(handle, f"CONNECT 127.0.0.1:{origin.port} HTTP/1.1\r\nHost: x\r\n{line}\r\n")
            assert answer.startswith("HTTP/1.1 400 " if way == "two tokens" else "HTTP/1.1 407 ")
            assert way == "two tokens" or "Proxy-Authenticate: Basic" in answer

    asyncio.run(main())
    assert origin.connections == 0
    assert watched.decisions == []


def test_each_agent_has_a_token_and_a_list_of_its_own(origin):
    watched = Watched()

    async def main():
        async with proxy(watched, f"127.0.0.1:{origin.port}") as mine:
            listener, _ = Egress.listen()
            other = await watched.egress.serve(listener, "a000000000-2", [])
            assert other.token != mine.token
            assert (await ask(other, connect(f"127.0.0.1:{origin.port}"), token=mine.token)).startswith("HTTP/1.1 407 ")
            assert (await ask(other, connect(f"127.0.0.1:{origin.port}"))).startswith("HTTP/1.1 403 ")

    asyncio.run(main())
    assert origin.connections == 0
    assert watched.decisions == [("a000000000-2", "127.0.0.1", origin.port, False, "not listed")]


# --- addresses ---


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1", "fe80::1%lo", "fd00::1", "224.0.0.1"],
)
def test_a_listed_name_does_not_lead_to_an_address_that_is_not_everybodys(address):
    watched = Watched()
    watched.resolver.says("good.test", [address])

    async def main():
        async with proxy(watched, "good.test:443") as handle:
            answer = await ask(handle, connect("good.test:443"))
            assert answer.startswith("HTTP/1.1 403 ")
            assert "not listed as an address" in answer

    asyncio.run(main())
    assert watched.decisions[0][3] is False


def test_a_name_may_lead_to_an_address_that_is_listed_itself(origin):
    watched = Watched()
    # What is not listed among the answers is never tried.
    watched.resolver.says("good.test", ["10.0.0.1", "127.0.0.1"])

    async def main():
        async with proxy(watched, f"good.test:{origin.port}", f"127.0.0.1:{origin.port}") as handle:
            answer = await ask(handle, get(f"http://good.test:{origin.port}/", f"good.test:{origin.port}"))
            assert answer.endswith("hello from /")

    asyncio.run(main())
    assert watched.decisions == [(AGENT, "good.test", origin.port, True, "listed, at 127.0.0.1")]


def test_the_connection_goes_to_the_address_that_was_judged(origin):
    """A resolver that changes its mind between two answers gets nothing by it: each connection asks once."""
    watched = Watched()
    watched.resolver.says("good.test", ["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1"])

    async def main():
        async with proxy(watched, f"good.test:{origin.port}", f"127.0.0.1:{origin.port}") as handle:
            request = get(f"http://good.test:{origin.port}/", f"good.test:{origin.port}")
            first, second, third = [await ask(handle, request) for _ in range(3)]
            assert first.endswith("hello from /")
            assert second.startswith("HTTP/1.1 403 ")
            assert third.endswith("hello from /")

    asyncio.run(main())
    assert watched.resolver.asked == ["good.test"] * 3
    assert origin.connections == 2


def test_the_next_address_is_tried_when_one_does_not_answer(origin):
    watched = Watched(limits=EgressLimits(connect_s=2.0))
    # Nobody listens at the first; both are listed.
    watched.resolver.says("good.test", ["127.0.0.2", "127.0.0.1"])

    async def main():
        hosts = [f"{host}:{origin.port}" for host in ("good.test", "127.0.0.1", "127.0.0.2")]
        async with proxy(watched, *hosts) as handle:
            assert (await ask(handle, get(f"http://good.test:{origin.port}/", f"good.test:{origin.port}"))).endswith("hello from /")
            first = handle
            await first.close()
            assert not first.serving
            second = await watched.egress.serve(Egress.listen()[0], AGENT, hosts)
            # The way is the same over a restart: what was asked before is not new.
            assert second.way is first.way
            assert watched.egress._handles == {second}

    asyncio.run(main())


def test_localhost_is_reached_when_it_is_listed_by_that_name(origin):
    watched = Watched()

    async def main():
        async with proxy(watched, f"localhost:{origin.port}") as handle:
            assert (await ask(handle, get(f"http://localhost:{origin.port}/", f"localhost:{origin.port}"))).endswith("hello from /")
            assert (await ask(handle, get(f"http://127.0.0.1:{origin.port}/", f"127.0.0.1:{origin.port}"))).startswith("HTTP/1.1 403 ")

    asyncio.run(main())
    # It means loopback whatever a resolver says.
    assert watched.resolver.asked == []


def test_a_name_that_nobody_knows_and_a_port_where_nobody_listens_are_no_refusals():
    watched = Watched()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    async def main():
        way = watched.egress.way(AGENT, ["gone.test:443", f"127.0.0.1:{port}"])
        with pytest.raises(Unavailable, match=r"gone\.test could not be looked up"):
            await watched.egress.connect(way, parse_host("gone.test"), 443)
        with pytest.raises(Unavailable, match="refused the connection"):
            await watched.egress.connect(way, parse_host("127.0.0.1"), port)
        with pytest.raises(CapabilityDenied) as caught:
            await watched.egress.connect(way, parse_host("evil.test"), 443)
        assert caught.value.hint is not None
        assert '- network-access: ["evil.test:443"]' in caught.value.hint
        async with proxy(watched, f"127.0.0.1:{port}") as handle:
            assert (await ask(handle, connect(f"127.0.0.1:{port}"))).startswith("HTTP/1.1 502 ")

    asyncio.run(main())


def test_the_resolver_of_the_machine_is_asked():
    found = asyncio.run(Egress(on_decision=lambda *_: None).resolve("127.0.0.1", 1))
    assert list(found) == ["127.0.0.1"]


# --- plain HTTP ---


@pytest.mark.parametrize("named", ["evil.test", "evil.test:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.2:{port}", "127.0.0.1:{port}@evil.test", ""])
def test_the_field_host_fits_the_target(origin, named):
    watched = Watched()

    async def main():
        async with proxy(watched, f"127.0.0.1:{origin.port}", "evil.test") as handle:
            answer = await ask(handle, get(f"http://127.0.0.1:{origin.port}/", named.format(port=origin.port)))
            assert answer.startswith(("HTTP/1.1 403 ", "HTTP/1.1 400 "))

    asyncio.run(main())
    assert origin.connections == 0


UNCLEAR = {
    "a length and chunks": "POST {url} HTTP/1.1\r\nHost: {host}\r\nTOKEN\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": "POST {url} HTTP/1.1\r\nHost: {host}\r\nTOKEN\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "a length that is none": "POST {url} HTTP/1.1\r\nHost: {host}\r\nTOKEN\r\nContent-Length: +3\r\n\r\nabc",
    "another encoding": "POST {url} HTTP/1.1\r\nHost: {host}\r\nTOKEN\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "two hosts": "GET {url} HTTP/1.1\r\nHost: {host}\r\nHost: evil.test\r\nTOKEN\r\n\r\n",
    "no host": "GET {url} HTTP/1.1\r\nTOKEN\r\n\r\n",
    "a folded line": "GET {url} HTTP/1.1\r\nHost: {host}\r\nX: a\r\n b\r\nTOKEN\r\n\r\n",
    "a space before the colon": "GET {url} HTTP/1.1\r\nHost : {host}\r\nHost: {host}\r\nTOKEN\r\n\r\n",
    "a bare line feed": "GET {url} HTTP/1.1\r\nHost: {host}\nX: y\r\nTOKEN\r\n\r\n",
    "a NUL": "GET {url} HTTP/1.1\r\nHost: {host}\r\nX: a\0b\r\nTOKEN\r\n\r\n",
    "https in the clear": "GET https://{host}/ HTTP/1.1\r\nHost: {host}\r\nTOKEN\r\n\r\n",
    "another scheme": "GET ftp://{host}/ HTTP/1.1\r\nHost: {host}\r\nTOKEN\r\n\r\n",
    "a name in the target": "GET http://u:p@{host}/ HTTP/1.1\r\nHost: {host}\r\nTOKEN\r\n\r\n",
    "a path alone": "GET / HTTP/1.1\r\nHost: {host}\r\nTOKEN\r\n\r\n",
    "another version": "GET {url} HTTP/2.0\r\nHost: {host}\r\nTOKEN\r\n\r\n",
    "no words at all": "\r\n\r\n",
    "TLS to the proxy": "\x16\x03\x01\x00\x05hello\r\n\r\n",
    "CONNECT without a port": "CONNECT 127.0.0.1 HTTP/1.1\r\nHost: x\r\nTOKEN\r\n\r\n",
    "CONNECT with a path": "CONNECT {host}/ HTTP/1.1\r\nHost: x\r\nTOKEN\r\n\r\n",
    "CONNECT with a bare IPv6 address": "CONNECT ::1:443 HTTP/1.1\r\nHost: x\r\nTOKEN\r\n\r\n",
    "a head that is too long": "GET {url} HTTP/1.1\r\nHost: {host}\r\nTOKEN\r\nX: " + "x" * 20_000 + "\r\n\r\n",
    "too many fields": "GET {url} HTTP/1.1\r\nHost: {host}\r\nTOKEN\r\n" + "X: y\r\n" * 200 + "\r\n",
}


@pytest.mark.parametrize("how", sorted(UNCLEAR))
def test_what_can_be_read_in_two_ways_is_not_handed_on(origin, how):
    watched = Watched()

    async def main():
        async with proxy(watched, f"127.0.0.1:{origin.port}") as handle:
            host = f"127.0.0.1:{origin.port}"
            answer = await ask(handle, UNCLEAR[how].format(url=f"http://{host}/", host=host))
            assert answer[:12] in {"HTTP/1.1 400", "HTTP/1.1 431", "HTTP/1.1 501", "HTTP/1.1 407"} or (how == "a head that is too long" and answer == "")

    asyncio.run(main())
    assert origin.connections == 0


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_goes_on_whole_and_nothing_behind_it(origin, chunked):
    watched = Watched()
    content = os.urandom(300_000)

    async def main():
        async with proxy(watched, f"127.0.0.1:{origin.port}") as handle:
            host = f"127.0.0.1:{origin.port}"
            if chunked:
                parts = b"".join(b"%x;e=1\r\n%b\r\n" % (len(part), part) for part in (content[:7], content[7:]))
                about, data = "Transfer-Encoding: chunked", parts + b"0\r\nX: y\r\n\r\n"
            else:
                about, data = f"Content-Length: {len(content)}", content
            client = await Client.to(handle.port)
            head = f"POST http://{host}/in HTTP/1.1\r\nHost: {host}\r\n{shown(handle.token)}{about}\r\n\r\n"
            # A second request behind the first is not looked at.
            await client.send(head.encode() + data + b"GET /smuggled HTTP/1.1\r\nHost: evil.test\r\n\r\n")
            assert (await client.everything()).endswith(b"hello from /in")
            client.close()

    asyncio.run(main())
    (asked,) = origin.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/in", content)


# --- tunnels ---


async def through(handle, target, context, server_name):
    """A TLS connection through a tunnel, made by hand so that the name in it can be another one. The answer to a GET."""
    client = await Client.to(handle.port)
    try:
        await client.send(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{shown(handle.token)}\r\n".encode())
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 200 "), head
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        inside = context.wrap_bio(incoming, outgoing, server_hostname=server_name)

        async def until_done(act):
            async with asyncio.timeout(20):
                while True:
                    try:
                        result = act()
                        await client.send(outgoing.read())
                        return result
                    except ssl.SSLWantReadError:
                        # In small pieces: a ClientHello need not come at once.
                        data = outgoing.read()
                        for start in range(0, len(data), 60):
                            await client.send(data[start : start + 60])
                        piece = await client.reader.read(65536)
                        if not piece:
                            raise ConnectionError("closed in the middle") from None
                        incoming.write(piece)

        await until_done(inside.do_handshake)
        await until_done(lambda: inside.write(f"GET / HTTP/1.1\r\nHost: {server_name or 'x'}\r\nConnection: close\r\n\r\n".encode()))
        answer = b""
        while not answer.endswith(b"hello from /"):
            answer += await until_done(lambda: inside.read(65536))
        return answer
    finally:
        client.close()


def trusting(cert):
    context = ssl.create_default_context(cafile=cert)
    context.check_hostname = False
    return context


def test_tls_goes_through_a_tunnel_when_it_names_the_host_of_the_tunnel(tls_origin, key_and_cert):
    watched = Watched()
    watched.resolver.says("good.test", ["127.0.0.1"])

    async def main():
        async with proxy(watched, f"good.test:{tls_origin.port}", f"127.0.0.1:{tls_origin.port}") as handle:
            for name in ("good.test", "GOOD.test", None):
                answer = await through(handle, f"good.test:{tls_origin.port}", trusting(key_and_cert[1]), name)
                assert answer.endswith(b"hello from /")
            # An address that is listed, with a host that is listed for it.
            assert (await through(handle, f"127.0.0.1:{tls_origin.port}", trusting(key_and_cert[1]), "good.test")).endswith(b"hello from /")

    asyncio.run(main())
    assert len(tls_origin.asked) == 4


@pytest.mark.parametrize("target", ["good.test", "127.0.0.1"])
def test_tls_that_names_another_host_is_ended_before_the_server_hears_of_it(tls_origin, key_and_cert, target):
    watched = Watched()
    watched.resolver.says("good.test", ["127.0.0.1"])

    async def main():
        async with proxy(watched, f"good.test:{tls_origin.port}", f"127.0.0.1:{tls_origin.port}") as handle:
            with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
                await through(handle, f"{target}:{tls_origin.port}", trusting(key_and_cert[1]), "other.test")

    asyncio.run(main())
    assert tls_origin.asked == []
    assert watched.decisions[-1] == (AGENT, target, tls_origin.port, False, "TLS names other.test")


def test_plain_http_in_a_tunnel_names_the_host_of_the_tunnel(origin):
    watched = Watched()

    async def main():
        async with proxy(watched, f"127.0.0.1:{origin.port}") as handle:
            for named in ("evil.test", f"127.0.0.1:{origin.port}"):
                client = await Client.to(handle.port)
                await client.send(connect(f"127.0.0.1:{origin.port}").replace("TOKEN\r\n", shown(handle.token)).encode())
                assert (await client.head()).startswith(b"HTTP/1.1 200 ")
                await client.send(f"GET / HTTP/1.1\r\nHost: {named}\r\nConnection: close\r\n\r\n".encode())
                answer = await client.everything()
                assert answer.endswith(b"hello from /") if named.startswith("127") else answer == b""
                client.close()

    asyncio.run(main())
    assert len(origin.asked) == 1
    assert watched.decisions[1][3:] == (False, "HTTP names evil.test")


def test_a_server_that_speaks_first_is_heard():
    """Protocols where the client waits for a greeting (SMTP, databases) work: only what goes out is held back."""
    watched = Watched()

    async def main():
        async def greet(reader, writer):
            writer.write(b"220 here\r\n")
            writer.write(b"you said " + await reader.readline())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with proxy(watched, f"127.0.0.1:{port}") as handle:
            client = await Client.to(handle.port)
            await client.send(connect(f"127.0.0.1:{port}").replace("TOKEN\r\n", shown(handle.token)).encode())
            await client.head()
            assert await client.reader.readline() == b"220 here\r\n"
            await client.send(b"EHLO me\r\n")
            assert await client.everything() == b"you said EHLO me\r\n"
            client.close()
        server.close()

    asyncio.run(main())


def client_hello(*names, records=1):
    """A ClientHello as Python's TLS writes it; with several names, or spread over several records, by hand."""
    context = ssl.create_default_context()
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    inside = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=names[0] if names else None)
    with pytest.raises(ssl.SSLWantReadError):
        inside.do_handshake()
    data = outgoing.read()
    if len(names) > 1:
        one = b"\x00" + len(names[0]).to_bytes(2, "big") + names[0].encode()
        many = b"".join(b"\x00" + len(name).to_bytes(2, "big") + name.encode() for name in names)
        old, new = [b"\x00\x00" + (len(part) + 2).to_bytes(2, "big") + len(part).to_bytes(2, "big") + part for part in (one, many)]
        body = data[9:].replace(old, new)
        extensions = body.index(new) - 2
        size = int.from_bytes(body[extensions : extensions + 2], "big") + len(new) - len(old)
        body = body[:extensions] + size.to_bytes(2, "big") + body[extensions + 2 :]
        message = b"\x01" + len(body).to_bytes(3, "big") + body
        data = data[:3] + len(message).to_bytes(2, "big") + message
    if records > 1:
        message = data[5:]
        step = len(message) // records + 1
        parts = [message[start : start + step] for start in range(0, len(message), step)]
        data = b"".join(data[:3] + len(part).to_bytes(2, "big") + part for part in parts)
    return data


def test_a_hello_is_read_in_any_pieces():
    for data in (client_hello("good.test"), client_hello("good.test", records=7)):
        for cut in range(1, len(data)):
            assert first_words(data[:cut]) is None
        assert first_words(data) == Named("tls", ("good.test",))
    assert first_words(client_hello()) == Named("tls", ())
    assert first_words(client_hello("good.test", "evil.test")) == Named("tls", ("good.test", "evil.test"))


@given(st.binary(max_size=300), st.integers(0, 600), st.booleans())
@settings(max_examples=500, deadline=None)
@example(b"", 0, True)
def test_no_bytes_break_the_reading_of_the_first_words(noise, place, hello):
    data = client_hello("good.test") if hello else b""
    data = data[:place] + noise + data[place:]
    try:
        named = first_words(data)
    except Garbled:
        return
    assert named is None or named.kind in {"tls", "http", "other"}


# --- bounds ---


def test_connections_are_counted_and_bounded(origin):
    watched = Watched(limits=EgressLimits(connections=2))

    async def main():
        async with proxy(watched, f"127.0.0.1:{origin.port}") as handle:
            clients = [await Client.to(handle.port) for _ in range(2)]
            await until(lambda: handle.way.open == 2)
            assert (await ask(handle, connect("x:1"))).startswith("HTTP/1.1 503 ")
            for client in clients:
                client.close()
            await until(lambda: handle.way.open == 0)
            assert (await ask(handle, get(f"http://127.0.0.1:{origin.port}/", f"127.0.0.1:{origin.port}"))).endswith("hello from /")

    asyncio.run(main())


def test_what_goes_through_is_bounded(origin):
    watched = Watched(limits=EgressLimits(total_bytes=100_000))
    origin.answers["/big"] = (200, {}, b"x" * 1_000_000)

    async def main():
        async with proxy(watched, f"127.0.0.1:{origin.port}") as handle:
            request = get(f"http://127.0.0.1:{origin.port}/big", f"127.0.0.1:{origin.port}")
            assert len(await ask(handle, request)) < 1_000_000
            answer = await ask(handle, request)
            assert answer.startswith("HTTP/1.1 403 ")
            assert "more than 100000 bytes" in answer

    asyncio.run(main())
    assert origin.connections == 1


def test_a_client_that_says_nothing_and_a_tunnel_that_is_silent_are_ended(origin):
    watched = Watched(limits=EgressLimits(head_s=0.2, idle_s=0.2))

    async def main():
        async with proxy(watched, f"127.0.0.1:{origin.port}") as handle:
            silent = await Client.to(handle.port)
            assert (await silent.everything()).startswith(b"HTTP/1.1 504 ")
            silent.close()
            client = await Client.to(handle.port)
            await client.send(connect(f"127.0.0.1:{origin.port}").replace("TOKEN\r\n", shown(handle.token)).encode())
            assert (await client.everything()).startswith(b"HTTP/1.1 200 ")
            client.close()
            await until(lambda: handle.way.open == 0)

    asyncio.run(main())


def test_closing_ends_what_is_under_way(origin):
    watched = Watched()

    async def main():
        async with proxy(watched, f"127.0.0.1:{origin.port}") as handle:
            client = await Client.to(handle.port)
            await client.send(connect(f"127.0.0.1:{origin.port}").replace("TOKEN\r\n", shown(handle.token)).encode())
            await client.head()
            await handle.close()
            assert await client.everything() == b""
            client.close()
            with pytest.raises(OSError):
                await Client.to(handle.port)

    asyncio.run(main())


def test_the_lookup_is_bounded():
    watched = Watched(limits=EgressLimits(lookup_s=0.05))

    async def never(name, port):
        await asyncio.Event().wait()

    watched.egress.resolve = never

    async def main():
        way = watched.egress.way(AGENT, ["good.test"])
        with pytest.raises(Unavailable, match="could not be looked up within"):
            await watched.egress.connect(way, parse_host("good.test"), 443)

    asyncio.run(main())


# --- secrets and signs ---


def watch(threats, **more):
    finder = SecretFinder(lambda text: text.replace(SECRET, "*"))
    return ThreatWatch(AGENT, lambda kind, detail: threats.append((kind, detail)), clock=lambda: 0.0, secrets=finder, **more)


def test_a_known_secret_does_not_leave_in_the_clear(origin):
    watched = Watched()
    threats = []
    host = f"127.0.0.1:{origin.port}"

    async def main():
        async with proxy(watched, host, threats=watch(threats)) as handle:
            assert (await ask(handle, get(f"http://{host}/?key={SECRET}", host))).startswith("HTTP/1.1 403 ")
            assert (await ask(handle, get(f"http://{host}/", host, f"Authorization: Bearer {SECRET}"))).startswith("HTTP/1.1 403 ")
            assert origin.connections == 0
            # In two pieces, in the middle of a body.
            client = await Client.to(handle.port)
            body = b"a" * 1000 + SECRET.encode() + b"b" * 1000
            head = f"POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{shown(handle.token)}Content-Length: {len(body)}\r\n\r\n"
            await client.send(head.encode() + body[:1010])
            await until(lambda: handle.way.sent > 1000)
            await client.send(body[1010:])
            await client.everything()
            client.close()

    asyncio.run(main())
    assert all(SECRET.encode() not in asked.body for asked in origin.asked)
    assert [kind for kind, _ in threats] == ["secret"]
    assert SECRET not in threats[0][1]


def test_refusals_and_new_hosts_are_told_once(origin):
    watched = Watched()
    threats = []

    async def main():
        async with proxy(watched, "*.example.org", threats=watch(threats, burst=4)) as handle:
            for number in range(6):
                await ask(handle, connect(f"h{number % 2}.test:443"))

    asyncio.run(main())
    assert watched.new_hosts == [(AGENT, "h0.test", 443, False), (AGENT, "h1.test", 443, False)]
    assert [kind for kind, _ in threats] == ["new_host", "denials"]


# --- real clients ---


def run(argv, handle, **more):
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **proxy_environment(handle.port, handle.token)}
    return asyncio.to_thread(subprocess.run, argv, env=environment, capture_output=True, timeout=60, **more)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(origin, tls_origin, key_and_cert):
    watched = Watched()
    watched.resolver.says("good.test", ["127.0.0.1"])

    async def main():
        hosts = (f"127.0.0.1:{origin.port}", f"good.test:{tls_origin.port}", f"127.0.0.1:{tls_origin.port}")
        async with proxy(watched, *hosts) as handle:
            done = await run(["curl", "-sS", f"http://127.0.0.1:{origin.port}/plain", "-d", "body"], handle)
            assert done.stdout == b"hello from /plain", done.stderr
            done = await run(["curl", "-sS", "--cacert", key_and_cert[1], f"https://good.test:{tls_origin.port}/safe"], handle)
            assert done.stdout == b"hello from /safe", done.stderr
            done = await run(["curl", "-sS", "https://evil.test/"], handle)
            assert done.returncode == 56
            assert b"403" in done.stderr

    asyncio.run(main())
    assert origin.asked[0].body == b"body"


def test_pythons_own_client(origin, tls_origin, key_and_cert):
    watched = Watched()
    watched.resolver.says("good.test", ["127.0.0.1"])
    code = "import sys, urllib.request, ssl; print(urllib.request.urlopen(sys.argv[1], context=ssl.create_default_context(cafile=sys.argv[2])).read())"

    async def main():
        async with proxy(watched, f"good.test:{tls_origin.port}", f"127.0.0.1:{tls_origin.port}") as handle:
            done = await run([sys.executable, "-c", code, f"https://good.test:{tls_origin.port}/py", str(key_and_cert[1])], handle)
            assert done.stdout.strip() == b"b'hello from /py'", done.stderr

    asyncio.run(main())


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_which_waits_to_be_asked_for_the_token(origin, tmp_path):
    """It first asks without, is told what to show, and comes again."""
    watched = Watched()
    Path(tmp_path / "r").mkdir()
    line = b"1" * 40 + b" refs/heads/main\x00 \n"
    refs = b"001e# service=git-upload-pack\n0000" + b"%04x" % (len(line) + 4) + line + b"0000"
    origin.answers["/r/info/refs?service=git-upload-pack"] = (200, {"Content-Type": "application/x-git-upload-pack-advertisement"}, refs)

    async def main():
        async with proxy(watched, f"127.0.0.1:{origin.port}") as handle:
            done = await run(["git", "ls-remote", f"http://127.0.0.1:{origin.port}/r"], handle, cwd=tmp_path)
            assert b"refs/heads/main" in done.stdout, done.stderr

    asyncio.run(main())


def test_the_variables_hold_the_token_in_both_spellings():
    made = proxy_environment(8080, "secret")
    assert made["http_proxy"] == made["HTTPS_PROXY"] == made["ALL_PROXY"] == "http://toka:secret@127.0.0.1:8080"  # toka: not a secret
    assert made["NO_PROXY"] == ""
    assert base64.b64encode(b"toka:secret").decode() in shown("secret")
