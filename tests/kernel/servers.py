"""Real servers on loopback for the tests of the way out: HTTP that writes down what it was asked, with and without TLS; a resolver that is told what to say."""

from __future__ import annotations

import asyncio
import base64
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from toka_cli.kernel.egress import Egress, EgressLimits


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, list[str]]
    body: bytes


class Origin:
    """A web server in threads of its own. `asked` is what came; `answers[path]` gives (status, fields, body)."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self.connections = 0
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20

            def setup(self) -> None:
                origin.connections += 1
                super().setup()

            def answer(self) -> None:
                headers: dict[str, list[str]] = {}
                for name, value in self.headers.items():
                    headers.setdefault(name.lower(), []).append(value)
                origin.asked.append(Asked(self.command, self.path, headers, self.read_body()))
                status, fields, body = origin.answers.get(self.path, (200, {"Content-Type": "text/plain"}, f"hello from {self.path}".encode()))
                self.send_response(status)
                for name, value in fields.items():
                    self.send_header(name, value)
                if "Transfer-Encoding" not in fields:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def read_body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    data = b""
                    while size := int(self.rfile.readline().strip() or b"0", 16):
                        data += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                    return data
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            do_GET = do_POST = do_HEAD = do_PUT = answer

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                # Clients that go away in the middle are a part of the tests.
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@dataclass
class Resolver:
    """Gives what it was told, one answer after the other (the last one for ever), and counts."""

    names: dict[str, list[list[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def says(self, name: str, *answers: list[str]) -> None:
        self.names[name] = [list(answer) for answer in answers]

    async def __call__(self, name: str, port: int) -> list[str]:
        self.asked.append(name)
        answers = self.names.get(name)
        if not answers:
            raise OSError(-2, "Name or service not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]


@dataclass
class Watched:
    """An Egress that writes its decisions down."""

    resolver: Resolver = field(default_factory=Resolver)
    limits: EgressLimits = field(default_factory=EgressLimits)
    decisions: list[tuple[str, str, int, bool, str]] = field(default_factory=list)
    new_hosts: list[tuple[str, str, int, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.egress = Egress(
            on_decision=lambda *what: self.decisions.append(what),
            on_new_host=lambda *what: self.new_hosts.append(what),
            resolve=self.resolver,
            limits=self.limits,
        )


class Client:
    """One connection to a proxy, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def everything(self) -> bytes:
        """What comes until the end; a reset is an end."""
        data = b""
        async with asyncio.timeout(20):
            while True:
                try:
                    piece = await self.reader.read(65536)
                except ConnectionError:
                    return data
                if not piece:
                    return data
                data += piece

    async def head(self) -> bytes:
        async with asyncio.timeout(20):
            return await self.reader.readuntil(b"\r\n\r\n")

    def close(self) -> None:
        self.writer.transport.abort()


def shown(token: str) -> str:
    return "Proxy-Authorization: Basic " + base64.b64encode(f"toka:{token}".encode()).decode() + "\r\n"


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that will be so soon."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.005)


def certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    """A key and a certificate of its own authority for these names."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, cert = folder / "key.pem", folder / "cert.pem"
    alternatives = ",".join(f"IP:{name}" if name[0].isdigit() else f"DNS:{name}" for name in names)
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
         "-subj", f"/CN={names[0]}", "-addext", f"subjectAltName={alternatives}"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return key, cert


def server_side(key: Path, cert: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context
