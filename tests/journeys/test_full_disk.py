"""A disk that is full for a while: new agents wait, it is said, nothing that was acknowledged is lost, and all goes on when there is room."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import LIMIT_S, Running, Toka

SIZE = "3m"


@pytest.fixture
def small_disk(toka: Toka) -> list[str]:
    """What to put before a command so that its state folder is a disk of its own with 3 MB, which nobody else sees."""
    toka.state.mkdir()
    prefix = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={SIZE},mode=0700 none "{toka.state}" && exec "$@"', "sh"]
    if os.geteuid() != 0 or subprocess.run([*prefix, "true"], capture_output=True).returncode != 0:
        pytest.skip("a disk of its own cannot be mounted here")
    return prefix


def until_said(running: Running, text: str, said: bytearray) -> None:
    """Read standard error until `text` was said."""
    assert running.process.stderr is not None
    deadline = time.monotonic() + LIMIT_S
    while text.encode() not in said:
        ready, _, _ = select.select([running.process.stderr], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{text!r} was not said; so far: {said.decode()}"
        data = os.read(running.process.stderr.fileno(), 1 << 16)
        assert data, f"it ended without {text!r}: {said.decode()}"
        said += data


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 16, 1 << 12, 1):
            while True:
                try:
                    file.write(b"x" * size)
                except OSError:
                    break
    return ballast


MANY_LINES = "i=0; while [ $i -lt 3000 ]; do echo line $i of many that there is no room for; i=$((i+1)); done"
LOUD = f"echo up > ready; read x < gate; {MANY_LINES}; echo > ready; read x < gate"


def test_it_is_waited_for_and_what_was_acknowledged_is_there(toka: Toka, small_disk: list[str]) -> None:
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    toka.spec("loud", [{"id": "t", "description": "L", "run": LOUD}, {"id": "u", "description": "L", "run": "echo second"}])
    toka.spec("quick", [{"id": "t", "description": "Q", "run": "echo > ready; read x < gate"}])
    toka.spec("later", [{"id": "t", "description": "A", "run": "echo at last"}], dependencies={"required": {"quick": "x"}})
    running = toka.start("orchestrate", toka.root / "specs", "--max-agents", "2", prefix=small_disk)
    said = bytearray()
    ready.take()
    ready.take()
    disk = Path(f"/proc/{running.pid}/root{toka.state}")
    ballast = fill(disk)
    # Both are told to go on: one writes what there is no room for, and the end of the other makes room for a third.
    gate.give()
    gate.give()
    until_said(running, "nothing new starts for now: ", said)
    assert running.process.poll() is None
    assert b"[later] starting" not in said
    ballast.unlink()
    until_said(running, "there is room again", said)
    ready.take()
    gate.give()
    until_said(running, "[later] succeeded", said)
    until_said(running, "[loud] succeeded", said)
    # Its state is on a disk that goes with it.
    until_said(running, "Look deeper: ", said)
    assert running.wait().code == 0
    assert b"Traceback" not in said, said.decode()
    toka.nothing_left()


def test_a_run_that_cannot_write_can_still_be_ended(toka: Toka, small_disk: list[str]) -> None:
    ready = toka.meeting("ready")
    running = toka.start("orchestrate", toka.spec("one", [{"id": "t", "description": "T", "run": "echo up > ready; exec sleep 1000"}]), prefix=small_disk)
    ready.take()
    fill(Path(f"/proc/{running.pid}/root{toka.state}"))
    running.signal(2)
    running.signal(2)
    done = running.wait()
    assert done.code in {6, 130}, done.err
    assert "Traceback" not in done.err
    toka.nothing_left()


