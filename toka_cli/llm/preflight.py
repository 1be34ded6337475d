"""Before anything starts: can these models be asked? In: names, a Provider that describes them, an address. Out: what stands in the way, with its fix.

Asks no model anything and costs nothing. Servers on this machine are looked for only to be suggested, never used unasked.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from toka_cli.errors import NoModel, Refused, Unavailable
from toka_cli.llm.provider import ModelInfo, Provider

ENDPOINT_TIMEOUT_S: Final = 2.0
LOCAL_TIMEOUT_S: Final = 0.3
MAX_ANSWER_BYTES: Final = 1 << 20
SHOWN_MODELS: Final = 3
UNPRICED: Final = "unpriced_model"

# Ollama, LM Studio, vLLM, llama.cpp: where they listen when nobody says otherwise.
LOCAL_PORTS: Final = (11434, 1234, 8000, 8080)
# Providers that are servers of one's own: the variable that says where, and where they are without it.
_OWN_SERVERS: Final[dict[str, tuple[str, str | None]]] = {
    "ollama": ("OLLAMA_API_BASE", "http://localhost:11434"),
    "ollama_chat": ("OLLAMA_API_BASE", "http://localhost:11434"),
    "lm_studio": ("LM_STUDIO_API_BASE", None),
    "hosted_vllm": ("HOSTED_VLLM_API_BASE", None),
    "llamafile": ("LLAMAFILE_API_BASE", "http://127.0.0.1:8080/v1"),
}
_PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy")


@dataclass(frozen=True, slots=True)
class ModelProblem:
    """What stands in the way of a model; a `warning` does not."""

    model: str
    cause: str
    message: str
    fix: str | None = None
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of the models, by the names they were asked for, and what stands in the way."""

    infos: Mapping[str, ModelInfo]
    problems: tuple[ModelProblem, ...] = ()

    def refusal(self) -> Unavailable | Refused | None:
        """One error that says all of it, or None: NoModel where a name or a key is wrong, Unavailable where a server is (exit 6 for both); Refused (exit 5)
        where nothing is in the way but a limit in USD that cannot be held.
        """
        errors = [problem for problem in self.problems if not problem.warning]
        if not errors:
            return None
        causes = {problem.cause for problem in errors}
        kind = Refused if causes == {UNPRICED} else Unavailable if causes <= {"refused", "dns", "tls", "timeout", "reset"} else NoModel
        message = "\n".join(dict.fromkeys(problem.message for problem in errors))
        hint = "\n".join(dict.fromkeys(problem.fix for problem in errors if problem.fix)) or None
        return kind(message, hint=hint, code=UNPRICED if kind is Refused else None)


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A server on this machine that speaks of models."""

    url: str
    models: tuple[str, ...] = field(default=())


async def preflight(
    provider: Provider, models: Sequence[str], *, base_url: str | None = None, environment: Mapping[str, str] | None = None, need_prices: bool = False
) -> Checked:
    """Check each model: its name, its key, its price if a budget in USD needs one, and whether its server answers where that is one of the user's own.

    Raises ProviderError when the provider process itself does not work.
    """
    names = list(dict.fromkeys(models))
    infos = dict(zip(names, await asyncio.gather(*(provider.describe(name) for name in names)), strict=True))
    problems: list[ModelProblem] = []
    for name, info in infos.items():
        if info.problem is not None:
            problems.append(ModelProblem(name, info.cause or "bad_request", info.problem, info.fix))
        elif need_prices and (info.input_usd is None or info.output_usd is None):
            price = f'"{info.model}" = {{input = ..., output = ...}}'
            fix = f"give its price in USD per million tokens in your own toka.toml ([llm.prices] {price}), or limit tokens instead (--budget-tokens)"
            problems.append(ModelProblem(name, UNPRICED, f"no price is known for {info.model}, so a budget in USD cannot be held", fix))
    problems += await _servers(infos, base_url, environment or {})
    return Checked(infos, tuple(problems))


async def local_servers(ports: Sequence[int] = LOCAL_PORTS) -> list[LocalServer]:
    """Servers on this machine that list models, in the order of `ports`. Takes milliseconds: a port that nobody listens on refuses at once."""
    urls = [f"http://127.0.0.1:{port}/v1" for port in ports]
    answers = await asyncio.gather(*(_get(f"{url}/models", LOCAL_TIMEOUT_S) for url in urls))
    found = [(url, _listed(answer.body)) for url, answer in zip(urls, answers, strict=True) if answer.status == 200]
    return [LocalServer(url, tuple(models)) for url, models in found if models]


def suggestion(servers: Sequence[LocalServer]) -> str | None:
    """What to type to use a server of this machine, or None where there is none."""
    lines = [f"a model server answers at {server.url}: LLM_BASE_URL={server.url} LLM_MODEL={server.models[0]} uses it" for server in servers if server.models]
    return "\n".join(lines) or None


async def _servers(infos: Mapping[str, ModelInfo], base_url: str | None, environment: Mapping[str, str]) -> list[ModelProblem]:
    """Look once at each server that these models are asked at, where it is the user's own."""
    by_url: dict[str, tuple[str, list[tuple[str, ModelInfo]]]] = {}
    for name, info in infos.items():
        if info.problem is not None:
            continue
        variable, url = "LLM_BASE_URL", base_url
        if url is None and info.provider in _OWN_SERVERS:
            variable, default = _OWN_SERVERS[info.provider]
            url = environment.get(variable) or default
        if url is not None:
            by_url.setdefault(url, (variable, []))[1].append((name, info))
    behind_proxy = any(environment.get(name) for name in _PROXIES)
    wanted = {url: models for url, models in by_url.items() if _is_here(url) or not behind_proxy}
    found = await asyncio.gather(*(_server(url, variable, models) for url, (variable, models) in wanted.items()))
    return [problem for problems in found for problem in problems]


async def _server(url: str, variable: str, models: list[tuple[str, ModelInfo]]) -> list[ModelProblem]:
    answer = await _get(url.rstrip("/") + "/models", ENDPOINT_TIMEOUT_S)
    first = models[0][0]
    if answer.status is None:
        return [ModelProblem(first, answer.cause, f"the model server at {url} cannot be reached: {answer.why}", f"start it, or correct {variable}")]
    listed = _listed(answer.body)
    if not listed:
        return []
    # Some servers list less than they serve, so this is said and not held against it.
    return [
        ModelProblem(
            name,
            "unknown_model",
            f"the server at {url} does not list {_bare(info)}; it lists {', '.join(listed[:SHOWN_MODELS])}{', ...' if len(listed) > SHOWN_MODELS else ''}",
            f"choose one that it lists, such as --model {listed[0]}",
            warning=True,
        )
        for name, info in models
        if _bare(info) not in listed and not any(other.startswith(_bare(info) + ":") for other in listed)
    ]


def _bare(info: ModelInfo) -> str:
    return info.model.removeprefix(f"{info.provider}/")


def _is_here(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _listed(body: bytes) -> list[str]:
    """The names in an answer to GET /models (OpenAI's shape), at most a hundred, fit to be shown."""
    try:
        found: Any = json.loads(body)
    except ValueError:
        return []
    entries = found.get("data") if isinstance(found, dict) else None
    names = [entry.get("id") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [name for name in names if isinstance(name, str) and name and len(name) <= 200 and name.isprintable()][:100]


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int | None = None
    body: bytes = b""
    cause: str = ""
    why: str = ""


async def _get(url: str, limit_s: float) -> _Answer:
    """One GET without a key; whatever happens, it ends in time and is told."""
    writer: asyncio.StreamWriter | None = None
    try:
        parts = urlsplit(url)
        host, secure = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        async with asyncio.timeout(limit_s):
            context = ssl.create_default_context() if secure else None
            reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=1 << 16)
            place = f"[{host}]" if ":" in host else host
            lines = (f"GET {parts.path or '/'} HTTP/1.0", f"Host: {place}:{port}", "Accept: application/json", "Connection: close", "", "")
            writer.write("\r\n".join(lines).encode())
            return await _read(reader)
    except TimeoutError:
        return _Answer(cause="timeout", why=f"no answer within {limit_s:g} s")
    except ssl.SSLError as error:
        return _Answer(cause="tls", why=f"no secure connection ({error.reason or error})")
    except ConnectionRefusedError:
        return _Answer(cause="refused", why="nobody listens there")
    except OSError as error:
        unknown = isinstance(error, socket.gaierror)
        return _Answer(cause="dns" if unknown else "reset", why="the name is not known" if unknown else str(error))
    except (ValueError, OverflowError) as error:
        return _Answer(cause="bad_request", why=str(error))
    finally:
        if writer is not None:
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> _Answer:
    """Status and body of an answer: as much of it as it says, or until it ends, or until it is too much."""
    status_line = await reader.readline()
    words = status_line.split()
    if not status_line.startswith(b"HTTP/") or len(words) < 2 or not words[1].isdigit():
        return _Answer(cause="bad_reply", why="it does not speak HTTP")
    wanted = MAX_ANSWER_BYTES
    while line := (await reader.readline()).strip():
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            wanted = min(wanted, int(value))
    body = bytearray()
    while len(body) < wanted and (data := await reader.read(1 << 16)):
        body += data
    return _Answer(int(words[1]), bytes(body))
