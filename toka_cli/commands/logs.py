"""`toka agent logs`: the lines that an agent's tasks wrote, from its log file; with -f until the agent ends."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from toka_cli.commands.context import Format, Globals
from toka_cli.commands.monitoring import agent_of
from toka_cli.kernel.outputs import LogLine
from toka_cli.lifecycle import AGENT_FINAL
from toka_cli.state import query
from toka_cli.view.json import encode_json
from toka_cli.view.text import clean

READ_BYTES: Final = 1 << 20


def print_logs(
    cli: Globals, name: str, run: str | None, *, follow: bool, tail: int | None, task: str | None, timestamps: bool, form: Format
) -> None:
    """Print an agent's log; see `toka agent logs`. Raises NotFound."""
    folder, agent_id = query.find_agent(cli.state_dir, name, run=run)
    out = cli.output(form)
    reader = _Reader(folder.agent_log(agent_id))

    def wanted(found: Iterable[LogLine]) -> Iterator[LogLine]:
        return (line for line in found if task is None or line.task == task)

    lines: Iterable[LogLine] = wanted(reader.new())
    if tail is not None:
        lines = deque(lines, maxlen=tail)
    if form is Format.JSON and not follow:
        out.emit("agent logs", {"agent_id": agent_id, "lines": list(lines)}, text=())
        return
    _print(lines, timestamps, form, out.out.ascii_only)
    if follow:
        from toka_cli.commands.watching import follow as looks

        with closing(looks(folder)) as looking:
            for look in looking:
                _print(wanted(reader.new()), timestamps, form, out.out.ascii_only)
                if agent_of(look.view, agent_id).state in AGENT_FINAL:
                    break
        _print(wanted(reader.new()), timestamps, form, out.out.ascii_only)
    if form is not Format.TEXT:
        out.emit("agent logs", {"agent_id": agent_id}, text=())


class _Reader:
    """Reads what was added to a log since the last time; a line that is not whole yet waits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._rest = b""

    def new(self) -> Iterator[LogLine]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._at)
            while data := file.read(READ_BYTES):
                self._at += len(data)
                *whole, self._rest = (self._rest + data).split(b"\n")
                for line in whole:
                    yield msgspec.json.decode(line, type=LogLine)


def _print(lines: Iterable[LogLine], timestamps: bool, form: Format, ascii_only: bool) -> None:
    for line in lines:
        if form is not Format.TEXT:
            sys.stdout.write(encode_json(line, ascii_only=ascii_only) + "\n")
            continue
        when = f"{line.at.isoformat(timespec='milliseconds')} " if timestamps else ""
        mark = "" if line.stream == "stdout" else ("! " if line.stream == "stderr" else "* ")
        sys.stdout.write(f"{when}[{clean(line.task, ascii_only=ascii_only)}] {mark}{clean(line.text, ascii_only=ascii_only)}\n")
    sys.stdout.flush()
