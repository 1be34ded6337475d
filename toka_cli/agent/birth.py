"""From a fresh fork to a working cell, in a fixed order that fails closed: session, parent's death, stdio, descriptors, namespaces and view, directory,
environment, limits, walls; then work. In: a SpawnRequest and its descriptors. Never returns.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from toka_cli.agent import main as cell_main
from toka_cli.agent import shim
from toka_cli.protocol.messages import EXIT_NOT_BORN, EXIT_NOT_HELD, SpawnRequest
from toka_cli.sandbox import enter, prctl
from toka_cli.sandbox.inner import Inner
from toka_cli.sandbox.limits import apply_rlimits
from toka_cli.sandbox.namespaces import NotHeld, Threshold, reap_until


def be_shim(request: SpawnRequest, door: int, lifeline: int, log: int, handover: int | None = None) -> NoReturn:
    """Become the shim of a new cell. Descriptors: the door (for the cell), the lifeline (for the shim), the cell's own log.

    `handover`, where there is one, is for the listener of the kernel's proxy, made in the cell's own network.
    """
    try:
        _only_these_descriptors((door, lifeline, *(() if handover is None else (handover,))), log)
        threshold = Threshold() if request.walls is not None and request.walls.level == enter.FULL else None
        owners = tuple(pid for pid in (request.owner_pid, os.getpid()) if pid)
        if request.walls is not None and threshold is None:
            prctl.forbid_dumps()

        def cell() -> NoReturn:
            if threshold is None:
                _end_with(lambda: _be_cell(request, door, owners))
            _end_with(lambda: _be_first(request, door, threshold, None if handover is None else socket.socket(fileno=handover)))

        the_cells = (door,) if handover is None else (door, handover)
        shim.run(socket.socket(fileno=lifeline), request.owner_pid, cell, threshold, the_cells)
    except BaseException:  # noqa: BLE001  a forked child must never run its parent's code
        with suppress(BaseException):
            traceback.print_exc()
        os._exit(EXIT_NOT_BORN)


def _end_with(act: Callable[[], int]) -> NoReturn:
    """Do it and exit with its answer. What went wrong is said in the cell's log, which the owner shows."""
    status = EXIT_NOT_BORN
    try:
        status = act()
    except NotHeld as wall:
        status = EXIT_NOT_HELD
        with suppress(BaseException):
            sys.stderr.write(f"sandbox: {wall}\n")
            sys.stderr.flush()
    except BaseException:  # noqa: BLE001  a forked child must never run its parent's code
        with suppress(BaseException):
            traceback.print_exc()
            sys.stderr.flush()
    os._exit(status)


def _be_first(request: SpawnRequest, door: int, threshold: Threshold, handover: socket.socket | None) -> int:
    """Process 1 of the cell's namespaces: start the cell, wait for it and for all orphans, pass on how it ended. The namespaces end with it.

    It does next to nothing itself: what it does not touch, it shares with the fork server.
    """
    os.setsid()
    # The view becomes the root of every process that is at the old one.
    os.chdir("/")
    apart = enter.arrive(threshold)
    pid = os.fork()
    if pid == 0:
        threshold.leave()
        _end_with(lambda: _be_cell(request, door, (1,), apart, handover))
    os.close(door)
    if handover is not None:
        handover.close()
    enter.give_up(())
    threshold.tell(reap_until(pid))
    return 0


def _be_cell(
    request: SpawnRequest, door: int, protect: tuple[int, ...], apart: enter.Apart | None = None, handover: socket.socket | None = None
) -> int:
    os.setsid()
    # Writing to a door that closed must be an error here, not a silent death; what the cell starts gets the default back.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if apart is not None:
        enter.furnish(request, apart, handover)
    os.umask(0o077 if request.sandbox else 0o022)
    os.chdir(request.workdir)
    os.environ.clear()
    os.environ.update(request.environment)
    inner: Inner | None = None
    if request.walls is None or request.walls.level not in {enter.FULL, enter.STANDARD}:
        isolation = _without_walls(request)
    else:
        os.environ.pop(enter.TOKEN, None)
        if apart is not None:
            os.environ.update(apart.environment)
        isolation, inner = enter.confine(request, apart, protect)
    gc.enable()
    return cell_main.run(socket.socket(fileno=door), isolation, inner)


def _without_walls(request: SpawnRequest) -> dict[str, Any]:
    limits = request.limits
    in_force = apply_rlimits(
        memory_bytes=limits.memory_bytes,
        disk_bytes=limits.disk_bytes,
        max_open_files=limits.max_open_files,
        timeout_s=limits.timeout_s,
    )
    return {
        "level": "process",
        "rlimits": in_force,
        "no_new_privs": request.sandbox and prctl.forbid_new_privileges(),
        "filesystem": "none",
        "network": "none",
    }


def _only_these_descriptors(kept: tuple[int, ...], log: int) -> None:
    """Own stdio (no terminal, nothing to read), and everything closed but what is kept."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0, inheritable=True)
    os.dup2(log, 1, inheritable=True)
    os.dup2(log, 2, inheritable=True)
    low = 3
    for keep in sorted(kept):
        os.closerange(low, keep)
        low = keep + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") > 0 else 65536)
    for keep in kept:
        os.set_inheritable(keep, False)
