"""Replies to requests that were made before, word for word the same. Only where somebody asked for it; nothing is paid for such a reply.

In: requests and good replies. Out: a reply, or None. One small file per reply in a folder of its own, replaced atomically, so that several runs can use it at
once; bounded in number and size, the oldest go first. A file that is damaged is no reply. It never holds a request, only its digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from toka_cli.llm.provider import ModelReply, ModelRequest

MAX_FILES: Final = 10_000
MAX_BYTES: Final = 256 * 1024 * 1024
MAX_REPLY_BYTES: Final = 4 * 1024 * 1024
KEPT_SHARE: Final = 0.9
"""How full the folder is left when something had to go, so that it does not have to be looked through for every reply."""
_WHOLE: Final = frozenset({"stop", "tool_calls", "end_turn", "function_call"})
_SUFFIX: Final = ".json"


class ReplyCache:
    """The folder. `scope` keeps apart what the same request means to different servers (their address). Never raises: a cache may fail, a run may not."""

    def __init__(self, folder: Path, *, scope: str = "", max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._scope = scope
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._files: int | None = None
        self._bytes = 0
        self.hits = 0

    def get(self, request: ModelRequest) -> ModelReply | None:
        """The reply to exactly this request, marked `from_cache` and with a cost of 0; None when there is none."""
        path = self._path(request)
        try:
            reply = msgspec.json.decode(path.read_bytes(), type=ModelReply)
        except OSError:
            return None
        except msgspec.DecodeError:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            # What is used stays.
            os.utime(path)
        self.hits += 1
        return msgspec.structs.replace(reply, from_cache=True, cost_usd=0.0, duration_s=0.0)

    def put(self, request: ModelRequest, reply: ModelReply) -> None:
        """Keep a reply, if it is whole: one that was cut or filtered would be no better the next time."""
        if reply.finish_reason not in _WHOLE or reply.from_cache:
            return
        data = msgspec.json.encode(reply)
        if len(data) > min(MAX_REPLY_BYTES, self._max_bytes):
            return
        path = self._path(request)
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as out:
                out.write(data)
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            return
        self._bound(len(data))

    def _path(self, request: ModelRequest) -> Path:
        digest = key(request, self._scope)
        return self._folder / digest[:2] / f"{digest}{_SUFFIX}"

    def _bound(self, added: int) -> None:
        """Remove the oldest files when there are too many or they are too large together. Others may remove some at the same time."""
        if self._files is not None:
            self._files += 1
            self._bytes += added
            if self._files <= self._max_files and self._bytes <= self._max_bytes:
                return
        found = sorted(_files(self._folder))
        self._files, self._bytes = len(found), sum(size for _, size, _ in found)
        if self._files <= self._max_files and self._bytes <= self._max_bytes:
            return
        for _, size, path in found:
            if self._files <= self._max_files * KEPT_SHARE and self._bytes <= self._max_bytes * KEPT_SHARE:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            self._files -= 1
            self._bytes -= size


def key(request: ModelRequest, scope: str = "") -> str:
    """The sha256 of everything about a request that a reply depends on, in one canonical form. How long to wait is no part of it."""
    parts = (scope, request.model, request.messages, request.tools, request.temperature, request.max_output_tokens)
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def _files(folder: Path) -> Iterable[tuple[int, int, Path]]:
    """(age as nanoseconds of the last use, size in bytes, path) of every reply."""
    for path in folder.glob(f"??/*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            found = path.stat(follow_symlinks=False)
            yield found.st_mtime_ns, found.st_size, path
