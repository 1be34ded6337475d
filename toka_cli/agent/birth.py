"""From a fresh fork to a working cell, in a fixed order that fails closed: session, parent's death, stdio, descriptors, directory, environment, limits, no new
privileges; then work. In: a SpawnRequest and three descriptors. Never returns.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from typing import NoReturn

from toka_cli.agent import main as cell_main
from toka_cli.agent import shim
from toka_cli.protocol.messages import SpawnRequest
from toka_cli.sandbox import prctl
from toka_cli.sandbox.limits import apply_rlimits

# Exit statuses of a cell that did not get to work; the owner reads them.
EXIT_NOT_BORN = 120


def be_shim(request: SpawnRequest, door: int, lifeline: int, log: int) -> NoReturn:
    """Become the shim of a new cell. Descriptors: the door (for the cell), the lifeline (for the shim), the cell's own log."""
    try:
        _only_these_descriptors(door, lifeline, log)
        line = socket.socket(fileno=lifeline)

        def cell() -> NoReturn:
            _be_cell(request, door)

        shim.run(line, request.owner_pid, cell)
    except BaseException:  # noqa: BLE001  a forked child must never run its parent's code
        with suppress(BaseException):
            traceback.print_exc()
        os._exit(EXIT_NOT_BORN)


def _be_cell(request: SpawnRequest, door: int) -> NoReturn:
    status = EXIT_NOT_BORN
    try:
        os.setsid()
        # Writing to a door that closed must be an error here, not a silent death; what the cell starts gets the default back.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.umask(0o077 if request.sandbox else 0o022)
        os.chdir(request.workdir)
        os.environ.clear()
        os.environ.update(request.environment)
        limits = request.limits
        in_force = apply_rlimits(
            memory_bytes=limits.memory_bytes,
            disk_bytes=limits.disk_bytes,
            max_open_files=limits.max_open_files,
            timeout_s=limits.timeout_s,
        )
        isolation = {
            "level": "process",
            "rlimits": in_force,
            "no_new_privs": request.sandbox and prctl.forbid_new_privileges(),
            "filesystem": "none",
            "network": "none",
        }
        gc.enable()
        status = cell_main.run(socket.socket(fileno=door), isolation)
    except BaseException:  # noqa: BLE001  said in the cell's log, which the owner shows
        with suppress(BaseException):
            traceback.print_exc()
            sys.stderr.flush()
    os._exit(status)


def _only_these_descriptors(door: int, lifeline: int, log: int) -> None:
    """Own stdio (no terminal, nothing to read), and everything closed but the door and the lifeline."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0, inheritable=True)
    os.dup2(log, 1, inheritable=True)
    os.dup2(log, 2, inheritable=True)
    low = 3
    for keep in sorted((door, lifeline)):
        os.closerange(low, keep)
        low = keep + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") > 0 else 65536)
    for keep in (door, lifeline):
        os.set_inheritable(keep, False)
