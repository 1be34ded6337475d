"""The second layer: walls around one command, within those of its cell. A command can then neither signal nor look into the agent that started it.

In: what the cell's own walls are, and the narrower ones of a task. Out: something to call in the forked child, after which it is confined for ever. Built once
for each set of walls.
"""

from __future__ import annotations

import os
import resource
import struct
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from toka_cli.sandbox import landlock, seccomp
from toka_cli.sandbox.namespaces import NotHeld

if TYPE_CHECKING:
    from toka_cli.protocol.messages import Walls

# Tasks of an agent share their walls as a rule; each set that is kept holds a descriptor.
KEPT: Final = 8
CPU_SLACK_S: Final = 60
# No process has such a number (the kernel's highest is 2^22), and no instruction of a filter compares with one.
_STAND_IN: Final = 0x7EDC_BA00


class Calls(NamedTuple):
    """Which system calls walls leave, as `seccomp.program` names them."""

    inet: bool
    unix: bool
    namespaces: bool
    ipc: bool
    netlink: bool
    truncate: bool = True

    def template(self, protected: int) -> bytes:
        """A filter that protects so many processes, which do not exist yet. Kept. Raises OSError on a machine whose numbers are not known."""
        return _template(self, 2 * protected)

    def program(self, protect_pids: tuple[int, ...] = ()) -> bytes:
        """The filter that protects these and their groups. Raises OSError on a machine whose numbers are not known."""
        template = self.template(len(protect_pids))
        numbers = [each for pid in protect_pids for each in (pid, _group_of(pid))]
        meant = {_word(sign * (_STAND_IN + at)): _word(sign * number) for at, number in enumerate(numbers) for sign in (1, -1)}
        # An instruction has eight bytes; the last four are what it compares with.
        parts = (template[at : at + 4] for at in range(0, len(template), 4))
        return b"".join(meant.get(part, part) for part in parts)


@cache
def _template(calls: Calls, count: int) -> bytes:
    # Assembling takes half as long as a fork: it is done once, in the fork server.
    stand_ins = tuple(_STAND_IN + at for at in range(count))
    return seccomp.program(
        inet=calls.inet, unix=calls.unix, namespaces=calls.namespaces, ipc=calls.ipc, netlink=calls.netlink, truncate=calls.truncate,
        protect_pids=stand_ins,
    )  # fmt: skip


def _word(number: int) -> bytes:
    return struct.pack("=I", number & 0xFFFFFFFF)


def _group_of(pid: int) -> int:
    """The process group of a process; itself, where that is not known here."""
    try:
        return os.getpgid(pid) or pid
    except OSError:
        return pid


class Inner:
    """Makes second walls for commands of one cell.

    `of_cell`: the walls that the cell has; `always` adds to any walls what every command gets (the system, the private folder); `allowed` says which system
    calls walls leave.
    """

    def __init__(
        self, of_cell: Walls, always: Callable[[Walls], tuple[Walls, tuple[str, ...]]], allowed: Callable[[Walls], Calls], port: int
    ) -> None:
        self._of_cell = of_cell
        self._always = always
        self._allowed = allowed
        self._port = port
        self._made: OrderedDict[Walls, tuple[landlock.Ruleset, bytes | None]] = OrderedDict()

    def around(self, walls: Walls | None, timeout_s: float | None = None) -> Callable[[], None]:
        """What to call in the child, between fork and exec. Walls of nobody's own are those of the cell. Raises NotHeld, OSError."""
        ruleset, filter_bytes = self._ready(walls if walls is not None else self._of_cell)
        cpu_s = None if timeout_s is None else int(timeout_s * (os.cpu_count() or 1)) + CPU_SLACK_S

        def confine() -> None:
            if cpu_s is not None:
                _, hard = resource.getrlimit(resource.RLIMIT_CPU)
                bound = cpu_s if hard == resource.RLIM_INFINITY else min(cpu_s, hard)
                resource.setrlimit(resource.RLIMIT_CPU, (bound, bound))
            ruleset.restrict()
            if filter_bytes is not None:
                seccomp.load(filter_bytes)

        return confine

    def _ready(self, walls: Walls) -> tuple[landlock.Ruleset, bytes | None]:
        found = self._made.get(walls)
        if found is None:
            found = self._made[walls] = self._build(walls)
            if len(self._made) > KEPT:
                _, (oldest, _) = self._made.popitem(last=False)
                oldest.close()
        else:
            self._made.move_to_end(walls)
        return found

    def _build(self, walls: Walls) -> tuple[landlock.Ruleset, bytes | None]:
        full, writable = self._always(walls)
        ruleset = landlock.build(full, extra_write=writable, tcp_connect_port=self._port if walls.network == "proxy" and self._port else None)
        if ruleset is None:
            raise NotHeld("Landlock is gone")
        allowed = self._allowed(walls)
        # The cell's own filter goes on holding; another one is needed only where this command may do less.
        same = allowed == self._allowed(self._of_cell)
        return ruleset, None if same else allowed.program()
