"""What a run without owner left behind: found by its whole id, ended and removed; nothing that only looks like it is touched."""

from __future__ import annotations

import signal
import subprocess
import tempfile

import pytest

from toka_cli.paths import RunFolder
from toka_cli.supervisor.sweep import leftover_files, run_processes, sweep_files, sweep_processes

RUN = "q0swept0id"


@pytest.fixture
def start():
    started = []

    def begin(command, **environment):
        process = subprocess.Popen(["sh", "-c", f"{command}; :"], env={"PATH": "/usr/bin:/bin", **environment}, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline()
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_processes_are_found_by_the_whole_id(start):
    mine = start("echo up; sleep 1000", TOKA_RUN_ID=RUN)
    others = [
        start("echo up; sleep 1000", TOKA_RUN_ID=f"{RUN}0"),
        start("echo up; sleep 1000", TOKA_RUN_ID=RUN[:-1]),
        start("echo up; sleep 1000", XTOKA_RUN_ID=RUN),
        start("echo up; sleep 1000", OTHER=f"TOKA_RUN_ID={RUN}"),
    ]
    found = run_processes(RUN)
    assert mine.pid in found
    assert not {other.pid for other in others} & set(found)
    # The shell and its sleep.
    assert sweep_processes(RUN) == len(found) == 2
    assert mine.wait(timeout=10) == -signal.SIGKILL
    assert [other.poll() for other in others] == [None] * 4
    for other in others:
        subprocess.run(["pkill", "-P", str(other.pid)], check=False)


def test_what_forks_meanwhile_is_met_too(start):
    start("i=0; echo up; while [ $i -lt 200 ]; do i=$((i + 1)); setsid sleep 1000 & done; wait", TOKA_RUN_ID=RUN)
    assert sweep_processes(RUN) >= 1
    assert [pid for pid in run_processes(RUN) if not zombie(pid)] == []


def zombie(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_nothing_to_end_is_nothing(start):
    assert sweep_processes("q0nobodys0") == 0


def test_files_are_removed_by_the_whole_id_and_links_are_not_followed(tmp_path, monkeypatch):
    temporary, kept = tmp_path / "tmp", tmp_path / "kept"
    for folder in (temporary, kept):
        folder.mkdir()
    (kept / "precious").write_text("x")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    folder = RunFolder(tmp_path / "runs" / RUN)
    folder.artifacts.mkdir(parents=True)
    (folder.artifacts / ".partial-a").write_text("half")
    (folder.artifacts / "0123").write_text("whole")
    folder.socket.write_text("")
    (temporary / f"toka-{RUN}-1-abc").mkdir()
    (temporary / f"toka-{RUN}-1-abc" / "deep").mkdir()
    (temporary / f"toka-{RUN}-2-link").symlink_to(kept)
    (temporary / f"toka-{RUN}0-1-abc").mkdir()
    assert len(leftover_files(folder)) == 4
    assert sweep_files(folder) == 4
    assert leftover_files(folder) == []
    assert sweep_files(folder) == 0
    assert [path.name for path in temporary.iterdir()] == [f"toka-{RUN}0-1-abc"]
    assert (kept / "precious").read_text() == "x"
    assert [path.name for path in folder.artifacts.iterdir()] == ["0123"]
