"""A model server on loopback: real HTTP, wire formats of OpenAI's chat completions and Anthropic's messages (JSON and SSE), answers and faults by script.

    with ModelServer([calls(call("read_file", path="a")), text("done")]) as server:
        ... LLM_BASE_URL=server.url (OpenAI) or server.anthropic_url ...
    assert [seen.turn for seen in server.requests] == [1, 2]

A script is a list of replies taken in order (each a Reply, or a function of the request that makes one), a function, or lanes: a dict from a text that
stands in the request's messages to the list for such requests, so that many agents at once each get their own. As a program it serves a script from a
file: `python tests/llm/server.py --port 0 --script script.json [--log requests.jsonl]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

LIMIT_S = 600.0
"""Nothing here goes on for longer: a forgotten server ends its connections by itself."""
MAX_BODY_BYTES = 256 << 20


@dataclass(frozen=True)
class Call:
    """A tool call that the model wants. `arguments` that are text go out as they are, broken or not."""

    name: str
    arguments: dict[str, Any] | str
    id: str | None = None

    @property
    def as_text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True)
class Reply:
    """One answer. Without a `fault` and with status 200 it is a good one.

    Faults: `reset` (RST instead of an answer), `close` (the connection ends without one), `truncate` (half of the body), `drip` (a byte of the body every
    `between_s`), `hang` (never a byte), `bad_json`, `empty_choices`, `no_message`, `huge` (`size_bytes` of text), `no_end` (a stream that just stops, its
    connection in good order), `error_event` (a stream that turns into an overload error).
    """

    text: str | None = None
    calls: tuple[Call, ...] = ()
    finish: str | None = None
    usage: tuple[int, int] | None = (10, 5)
    cached_tokens: int = 0
    delay_s: float = 0.0
    hold: threading.Event | None = None
    """The answer waits until this is set."""
    status: int = 200
    body: str | None = None
    """Replaces the whole body, whatever the wire format."""
    headers: tuple[tuple[str, str], ...] = ()
    fault: str | None = None
    size_bytes: int = 0
    pieces: int = 3
    """Into how many deltas text and arguments are cut when the request streams."""
    between_s: float = 0.0
    """Pause between deltas, or between the bytes of a drip."""


def text(words: str, **more: Any) -> Reply:
    """The model says something."""
    return Reply(text=words, **more)


def call(tool: str, /, **arguments: Any) -> Call:
    """A tool call."""
    return Call(tool, arguments)


def calls(*wanted: Call, words: str | None = None, **more: Any) -> Reply:
    """The model wants tools."""
    return Reply(text=words, calls=wanted, **more)


def error(status: int, message: str = "something went wrong", *, kind: str = "error", code: str | None = None, retry_after: str | float | None = None) -> Reply:
    """An answer that says no. Has the fields of both providers' error bodies."""
    headers = () if retry_after is None else (("retry-after", str(retry_after)),)
    body = {"type": "error", "error": {"message": message, "type": kind, "param": None, "code": code}}
    return Reply(status=status, body=json.dumps(body), headers=headers)


def rate_limited(retry_after: str | float | None = None) -> Reply:
    """429, as OpenAI says it."""
    return error(429, "Rate limit reached for requests", kind="requests", code="rate_limit_exceeded", retry_after=retry_after)


def quota() -> Reply:
    """429 again, but no waiting will help."""
    message = "You exceeded your current quota, please check your plan and billing details."
    return error(429, message, kind="insufficient_quota", code="insufficient_quota")


def unauthorized() -> Reply:
    """401."""
    return error(401, "Incorrect API key provided", kind="invalid_request_error", code="invalid_api_key")


def too_long() -> Reply:
    """The messages do not fit the window."""
    message = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."
    return error(400, message, kind="invalid_request_error", code="context_length_exceeded")


def overloaded() -> Reply:
    """529, Anthropic's own."""
    return error(529, "Overloaded", kind="overloaded_error")


@dataclass
class Seen:
    """One request, as it came. Times are of time.monotonic()."""

    number: int
    at_s: float
    path: str
    headers: dict[str, str]
    raw: bytes
    body: dict[str, Any]
    status: int | None = None
    answered_at_s: float | None = None
    abandoned: bool = False
    """The client hung up before the answer was complete."""
    lane: str | None = None

    @property
    def wire(self) -> str:
        return "anthropic" if self.path.endswith("/messages") else "openai"

    @property
    def model(self) -> str:
        return str(self.body.get("model"))

    @property
    def messages(self) -> list[dict[str, Any]]:
        return list(self.body.get("messages", []))

    @property
    def tools(self) -> list[str]:
        """The names of the tools that were offered."""
        return [str(tool.get("function", tool).get("name")) for tool in self.body.get("tools", [])]

    @property
    def turn(self) -> int:
        """From 1: how many times the model speaks in this conversation, this time included."""
        return 1 + sum(message.get("role") == "assistant" for message in self.messages)

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def words(self) -> str:
        """All text of the request's messages, the system's first."""
        system = self.body.get("system")
        return "\n".join([json.dumps(system) if system else "", *(json.dumps(message, ensure_ascii=False) for message in self.messages)])


Step = Reply | Callable[[Seen], Reply]
Script = Sequence[Step] | Callable[[Seen], Reply] | Mapping[str, Sequence[Step]]
OVER = error(400, "the script of the test server is over", kind="invalid_request_error", code="script_over")


class ModelServer:
    """Serves on a port of its own from `start` to `close`, in a thread. `requests` grows as they come; `probes` are the other paths that were asked."""

    def __init__(self, script: Script = (), *, then: Reply = OVER, port: int = 0, models: Sequence[str] = ("test-model",), log: TextIO | None = None) -> None:
        self.requests: list[Seen] = []
        self.probes: list[str] = []
        self.models = list(models)
        self.most_at_once = 0
        self.port = port
        self._at_once = 0
        self._log = log
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="model server", daemon=True)
        self._listening = threading.Event()
        self._closing = asyncio.Event()
        self._failed: Exception | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.play(script, then=then)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """What LLM_BASE_URL is for an OpenAI-compatible server."""
        return f"{self.origin}/v1"

    @property
    def anthropic_url(self) -> str:
        """What the base URL is for Anthropic's wire format."""
        return self.origin

    def play(self, script: Script, *, then: Reply = OVER) -> None:
        """Take another script, from its beginning; `then` answers when a list is over."""
        self._lanes: dict[str, Iterator[Step]] = {}
        self._function: Callable[[Seen], Reply] | None = None
        if callable(script):
            self._function = script
        elif isinstance(script, Mapping):
            self._lanes = {key: iter(list(steps)) for key, steps in script.items()}
        else:
            self._lanes = {"": iter(list(script))}
        self._then = then

    def most_within(self, seconds: float) -> int:
        """The most requests that came within any such span."""
        times = sorted(seen.at_s for seen in self.requests)
        most = start = 0
        for end, time_s in enumerate(times):
            while time_s - times[start] >= seconds:
                start += 1
            most = max(most, end - start + 1)
        return most

    def start(self) -> ModelServer:
        """Listen. Raises OSError when the port is taken."""
        self._thread.start()
        self._listening.wait(10.0)
        if self._failed is not None:
            self._thread.join(10.0)
            raise self._failed
        assert self._listening.is_set(), "the model server did not start"
        return self

    def close(self) -> None:
        """End every connection and the thread. The port refuses from here on."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(10.0)
        if not self._loop.is_running() and not self._loop.is_closed():
            self._loop.close()

    def __enter__(self) -> ModelServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except (OSError, RuntimeError) as problem:  # told to the thread that waits
            self._failed = problem
        self._listening.set()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, limit=1 << 20, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._closing.wait()
        server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read a request and answer it; False when the connection is to end."""
        begun = await asyncio.wait_for(reader.readexactly(1), LIMIT_S)
        if begun == b"\x16":
            # The greeting of a TLS client: what web servers do.
            await _send(writer, 400, b"Client sent an HTTPS request to an HTTP server.")
            return False
        head = (begun + await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT_S)).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        path = path.partition("?")[0]
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        raw = await _read_body(reader, headers)
        if method != "POST" or not path.endswith(("/chat/completions", "/messages")):
            self.probes.append(f"{method} {path}")
            known = path.endswith("/models")
            body = json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]} if known else {"error": "no such path"})
            await _send(writer, 200 if known else 404, body.encode())
            return headers.get("connection", "").lower() != "close"
        seen = Seen(len(self.requests) + 1, time.monotonic(), path, headers, raw, json.loads(raw))
        self.requests.append(seen)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._answer(seen, reader, writer)
        except (OSError, asyncio.CancelledError):
            seen.abandoned = seen.status is None
            raise
        finally:
            self._at_once -= 1
            seen.answered_at_s = time.monotonic()
            if self._log is not None:
                line = {name: value for name, value in asdict(seen).items() if name != "raw"}
                self._log.write(json.dumps(line) + "\n")
                self._log.flush()

    def _choose(self, seen: Seen) -> Reply:
        if self._function is not None:
            return self._function(seen)
        lane = next((key for key in self._lanes if key in seen.words), None)
        seen.lane = lane
        step = next(self._lanes[lane], self._then) if lane is not None else self._then
        return step(seen) if callable(step) else step

    async def _answer(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        reply = self._choose(seen)
        if not await self._wait(reply, seen, reader):
            return False
        if reply.fault == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if reply.fault == "close":
            return False
        if reply.fault == "huge":
            reply = replace(reply, text="x" * reply.size_bytes)
        if seen.streams and reply.status == 200 and reply.body is None and reply.fault not in {"bad_json", "drip"}:
            await self._stream(seen, reply, writer)
            return reply.fault != "truncate"
        body = _whole(seen, reply)
        if reply.fault == "truncate":
            await _send(writer, reply.status, body[: len(body) // 2], reply.headers, length=len(body))
            return False
        if reply.fault == "drip":
            return await self._drip(seen, reply, body, reader, writer)
        await _send(writer, reply.status, body, reply.headers)
        seen.status = reply.status
        return True

    async def _wait(self, reply: Reply, seen: Seen, reader: asyncio.StreamReader) -> bool:
        """Hold the answer back as the script says; False when the client hung up meanwhile."""
        deadline = time.monotonic() + (LIMIT_S if reply.fault == "hang" or reply.hold is not None else reply.delay_s)
        while (left := deadline - time.monotonic()) > 0 and not (reply.hold is not None and reply.hold.is_set()):
            span = min(left, 0.005 if reply.hold is not None else LIMIT_S)
            if await self._gone(reader, span):
                seen.abandoned = True
                return False
        return True

    async def _gone(self, reader: asyncio.StreamReader, span: float) -> bool:
        """Wait so long; True as soon as the client hangs up."""
        try:
            async with asyncio.timeout(span):
                return not await reader.read(1)
        except TimeoutError:
            return False

    async def _drip(self, seen: Seen, reply: Reply, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        kind = "text/event-stream" if seen.streams else "application/json"
        writer.write(_head(200, reply.headers, kind, len(body) + 10_000))
        for byte in body + b" " * 10_000:
            writer.write(bytes([byte]))
            await writer.drain()
            if await self._gone(reader, max(reply.between_s, 0.001)):
                seen.abandoned = True
                return False
        return False

    async def _stream(self, seen: Seen, reply: Reply, writer: asyncio.StreamWriter) -> None:
        events = list(_anthropic_events(seen, reply) if seen.wire == "anthropic" else _openai_events(seen, reply))
        if reply.fault in {"truncate", "no_end", "error_event"}:
            events = events[: len(events) // 2]
        if reply.fault == "error_event":
            body = json.dumps({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
            events.append(f"event: error\ndata: {body}\n\n" if seen.wire == "anthropic" else f"data: {body}\n\n")
        writer.write(_head(200, reply.headers, "text/event-stream", None))
        for event in events:
            data = event.encode()
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await writer.drain()
            if reply.between_s:
                await asyncio.sleep(reply.between_s)
        if reply.fault != "truncate":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            seen.status = 200


def _head(status: int, headers: Sequence[tuple[str, str]], kind: str, length: int | None) -> bytes:
    body = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = [f"HTTP/1.1 {status} Said", f"content-type: {kind}", body, *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _send(writer: asyncio.StreamWriter, status: int, body: bytes, headers: Sequence[tuple[str, str]] = (), length: int | None = None) -> None:
    writer.write(_head(status, headers, "application/json", len(body) if length is None else length))
    writer.write(body)
    await writer.drain()


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "chunked" in headers.get("transfer-encoding", ""):
        found = b""
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            found += (await reader.readexactly(size + 2))[:-2]
            if len(found) > MAX_BODY_BYTES:
                raise ValueError("too large")
        await reader.readuntil(b"\r\n")
        return found
    size = int(headers.get("content-length", "0"))
    if size > MAX_BODY_BYTES:
        raise ValueError("too large")
    return await reader.readexactly(size)


def _finish(reply: Reply, wire: str) -> str:
    finish = reply.finish or ("tool_calls" if reply.calls else "stop")
    if wire == "openai":
        return finish
    return {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refusal"}.get(finish, finish)


def _ids(seen: Seen, reply: Reply) -> list[str]:
    return [call.id or f"call_{seen.number}_{index}" for index, call in enumerate(reply.calls)]


def _whole(seen: Seen, reply: Reply) -> bytes:
    """The body of an answer that does not stream."""
    if reply.fault == "bad_json":
        return b'{"id": "x", "choices": [{"mess'
    if reply.body is not None:
        return reply.body.encode()
    body: dict[str, Any]
    if seen.wire == "anthropic":
        content: list[dict[str, Any]] = [{"type": "text", "text": reply.text}] if reply.text is not None else []
        for call_id, wanted in zip(_ids(seen, reply), reply.calls, strict=True):
            content.append({"type": "tool_use", "id": call_id, "name": wanted.name, "input": wanted.arguments})
        body = {"id": f"msg_{seen.number}", "type": "message", "role": "assistant", "model": seen.model, "content": content}
        body |= {"stop_reason": _finish(reply, "anthropic"), "stop_sequence": None, "usage": _anthropic_usage(reply)}
        if reply.fault == "empty_choices":
            body["content"] = []
        if reply.fault == "no_message":
            del body["content"]
        return json.dumps(body).encode()
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.calls:
        message["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": wanted.name, "arguments": wanted.as_text}}
            for call_id, wanted in zip(_ids(seen, reply), reply.calls, strict=True)
        ]
    choices: list[dict[str, Any]] = [{"index": 0, "message": message, "finish_reason": _finish(reply, "openai"), "logprobs": None}]
    if reply.fault == "no_message":
        del choices[0]["message"]
    body = {"id": f"chatcmpl-{seen.number}", "object": "chat.completion", "created": 1, "model": seen.model, "service_tier": "default"}
    body["choices"] = [] if reply.fault == "empty_choices" else choices
    if reply.usage is not None:
        body["usage"] = _openai_usage(reply)
    return json.dumps(body).encode()


def _openai_usage(reply: Reply) -> dict[str, Any]:
    given, made = reply.usage or (0, 0)
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made, "prompt_tokens_details": {"cached_tokens": reply.cached_tokens}}


def _anthropic_usage(reply: Reply) -> dict[str, Any]:
    given, made = reply.usage or (0, 0)
    # Anthropic counts what came from its cache apart from the other input.
    cached = {"cache_read_input_tokens": reply.cached_tokens, "cache_creation_input_tokens": 0}
    return {"input_tokens": given - reply.cached_tokens, "output_tokens": made, **cached}


def _cut(words: str, pieces: int) -> list[str]:
    size = max(1, -(-len(words) // max(1, pieces)))
    return [words[start : start + size] for start in range(0, len(words), size)]


def _openai_events(seen: Seen, reply: Reply) -> Iterator[str]:
    def chunk(delta: dict[str, Any] | None, finish: str | None = None, usage: dict[str, Any] | None = None) -> str:
        choices = [] if delta is None or reply.fault == "empty_choices" else [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]
        body = {"id": f"chatcmpl-{seen.number}", "object": "chat.completion.chunk", "created": 1, "model": seen.model, "choices": choices}
        return f"data: {json.dumps(body | ({'usage': usage} if usage else {}))}\n\n"

    yield chunk({"role": "assistant", "content": ""})
    for piece in _cut(reply.text or "", reply.pieces):
        yield chunk({"content": piece})
    for index, (call_id, wanted) in enumerate(zip(_ids(seen, reply), reply.calls, strict=True)):
        yield chunk({"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": {"name": wanted.name, "arguments": ""}}]})
        for piece in _cut(wanted.as_text, reply.pieces):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, _finish(reply, "openai"))
    if reply.usage is not None and (seen.body.get("stream_options") or {}).get("include_usage"):
        yield chunk(None, usage=_openai_usage(reply))
    yield "data: [DONE]\n\n"


def _anthropic_events(seen: Seen, reply: Reply) -> Iterator[str]:
    def event(kind: str, **fields: Any) -> str:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"

    usage = _anthropic_usage(reply)
    message = {"id": f"msg_{seen.number}", "type": "message", "role": "assistant", "model": seen.model, "content": [], "stop_reason": None}
    yield event("message_start", message=message | {"stop_sequence": None, "usage": usage | {"output_tokens": 1}})
    index = 0
    if reply.text is not None and reply.fault != "empty_choices":
        yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for piece in _cut(reply.text, reply.pieces):
            yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
        yield event("content_block_stop", index=0)
        index = 1
    for number, (call_id, wanted) in enumerate(zip(_ids(seen, reply), reply.calls, strict=True), start=index):
        yield event("content_block_start", index=number, content_block={"type": "tool_use", "id": call_id, "name": wanted.name, "input": {}})
        for piece in _cut(wanted.as_text, reply.pieces):
            yield event("content_block_delta", index=number, delta={"type": "input_json_delta", "partial_json": piece})
        yield event("content_block_stop", index=number)
    yield event("message_delta", delta={"stop_reason": _finish(reply, "anthropic"), "stop_sequence": None}, usage={"output_tokens": usage["output_tokens"]})
    yield event("message_stop")


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port on loopback that nobody listens on, kept so for as long as it is needed."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


def reply_of(found: Mapping[str, Any]) -> Reply:
    """A reply from JSON: the fields of Reply, `calls` as [{"name", "arguments"}], or {"error": {the arguments of `error`}}."""
    if "error" in found:
        return error(**found["error"])
    fields = dict(found)
    if "calls" in fields:
        fields["calls"] = tuple(Call(**wanted) for wanted in fields["calls"])
    if fields.get("usage") is not None:
        fields["usage"] = tuple(fields["usage"])
    fields["headers"] = tuple((name, value) for name, value in dict(fields.get("headers", {})).items())
    return Reply(**fields)


def _until_told() -> None:
    told = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: told.set())
    parent = os.getppid()
    while os.getppid() == parent and not told.wait(1.0):
        pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a script from a file until SIGINT or SIGTERM comes, or whoever started this is gone.

    The file: {"replies": [...]} or {"lanes": {text: [...]}}, with "then" for what comes after and "models" for GET /models, all optional.
    """
    parser = argparse.ArgumentParser(description="a scripted model server on loopback")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    asked = parser.parse_args(arguments)
    found = json.loads(asked.script.read_text("utf-8"))
    lanes = {key: [reply_of(step) for step in steps] for key, steps in found.get("lanes", {"": found.get("replies", [])}).items()}
    then = reply_of(found["then"]) if "then" in found else OVER
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(asked.log.open("a", encoding="utf-8")) if asked.log else None
        server = stack.enter_context(ModelServer(lanes, then=then, port=asked.port, models=found.get("models", ["test-model"]), log=log))
        print(f"listening {server.url}", flush=True)
        _until_told()
    return 0


if __name__ == "__main__":
    sys.exit(main())
