"""Keeps files of a run by the sha256 of what they hold: written under another name, synced, then renamed, so that a name never lies."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from toka_cli.errors import StateUnavailable
from toka_cli.paths import RunFolder

_BLOCK: Final = 1 << 20


def store(folder: RunFolder, data: bytes | Path) -> tuple[str, int]:
    """Keep bytes, or move a file in; returns its sha256 and its size in bytes. Bytes that are kept already are not written twice.

    A file is copied and then removed: renaming it would leave it open to whoever still holds it. Raises StateUnavailable, leaving the source alone.
    """
    if isinstance(data, bytes):
        known = hashlib.sha256(data).hexdigest()
        with contextlib.suppress(OSError):
            if (folder.artifacts / known).stat(follow_symlinks=False).st_size == len(data):
                return known, len(data)
    part = folder.artifacts / f".{secrets.token_hex(8)}.part"
    try:
        digest, size = _write(part, data)
        target = folder.artifacts / digest
        part.rename(target)
        _sync_folder(folder.artifacts)
        if isinstance(data, Path):
            data.unlink(missing_ok=True)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise StateUnavailable(f"an artifact of run {folder.run_id} cannot be kept: {error.strerror}", hint="is the disk full?") from error
    return digest, size


def _write(part: Path, data: bytes | Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as out:
        for block in _blocks(data):
            digest.update(block)
            out.write(block)
            size += len(block)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest(), size


def _blocks(data: bytes | Path) -> Iterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    # No symbolic link is followed and no FIFO waited for: the path may lie where an agent writes.
    with os.fdopen(os.open(data, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as source:
        while block := source.read(_BLOCK):
            yield block


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
