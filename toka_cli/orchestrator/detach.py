"""Leaving the terminal: the same owner code after a double fork and setsid, reporting back through a pipe until the run is under way.

Called before there is a thread, an event loop or an open state file. No daemon stays: the process ends with its run.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from toka_cli.errors import TokaError

MAX_REPORT_BYTES: Final = 1 << 20


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the detached owner says once: the run is under way, or why there is none."""

    run_id: str | None = None
    error: str | None = None
    hint: str | None = None
    code: str | None = None
    exit_code: int = 0


Tell = Callable[[Report], None]


def detached(owner: Callable[[Tell], int], log_path: Path) -> Report:
    """Run `owner` in a process of its own session; return in the caller as soon as it has told. `log_path` takes what it prints.

    The owner's process never returns from here. Raises TokaError if it ended without telling.
    """
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _leave(owner, write_end, log_path)
    os.close(write_end)
    os.waitpid(child, 0)
    with os.fdopen(read_end, "rb") as pipe:
        text = pipe.read(MAX_REPORT_BYTES)
    if not text:
        raise TokaError("the run ended before it was under way", hint=f"its own words are in {log_path}", code="detach")
    return msgspec.json.decode(text, type=Report)


def _leave(owner: Callable[[Tell], int], write_end: int, log_path: Path) -> None:
    status = 1
    try:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)

        told = False

        def tell(report: Report) -> None:
            nonlocal told
            if not told:
                told = True
                os.write(write_end, msgspec.json.encode(report))
                os.close(write_end)

        status = owner(tell)
    except BaseException:  # noqa: BLE001  a forked child must never run its parent's code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
