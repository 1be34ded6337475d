"""CommandRunner with real commands: how they end, what they wrote, what they cost, and what is left of them."""

from __future__ import annotations

import os
import select
import signal
import sys
import time

import pytest

from toka_cli.agent import command
from toka_cli.agent.command import INLINE_HEAD_BYTES, INLINE_TAIL_BYTES, Capture, CommandRunner
from toka_cli.agent.strands import Cancelled, Scheduler


@pytest.fixture
def run(tmp_path):
    """Run a command to its end, in a scheduler of its own: argv, or text for the shell."""

    def start(what, timeout_s=None, on_output=None, output_bytes=1 << 20):
        argv = ["/bin/sh", "-c", what] if isinstance(what, str) else what
        scheduler = Scheduler()
        runner = CommandRunner(scheduler, {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}, str(tmp_path), output_bytes)
        return scheduler.run(runner.run(argv, timeout_s=timeout_s, timeout_reason="too late", on_output=on_output))

    return start


@pytest.fixture
def short_grace(monkeypatch):
    monkeypatch.setattr(command, "TERM_GRACE_S", 0.05)


class LateAt:
    """A clock that jumps past every deadline as soon as a command has written a word: no test has to guess how long a command takes to start."""

    def __init__(self, word):
        self.word, self.seen, self.jump = word, b"", 0.0

    def __call__(self):
        return time.monotonic() + self.jump

    def hear(self, _, data):
        self.seen += data
        if self.word in self.seen:
            self.jump = 1000.0


@pytest.fixture
def run_late(tmp_path):
    """Run a shell line with a deadline that passes once it has written `on`."""

    def start(line):
        late = LateAt(b"on\n")
        scheduler = Scheduler(late)
        runner = CommandRunner(scheduler, {"PATH": "/usr/local/bin:/usr/bin:/bin"}, str(tmp_path), 1 << 20)
        return scheduler.run(runner.run(["/bin/sh", "-c", line], timeout_s=500.0, timeout_reason="too late", on_output=late.hear))

    return start


def python(code):
    return [sys.executable, "-I", "-S", "-c", code]


def gone(pid, limit_s=10.0):
    """True once a process that is no child of ours has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with os.fdopen(descriptor):
        return bool(select.select([descriptor], [], [], limit_s)[0])


def test_a_command_that_does_well(run):
    finished = run("printf out; printf err >&2")
    assert finished.reason is None
    outcome = finished.outcome
    assert (outcome.exit_code, outcome.signal, outcome.output, outcome.stderr, outcome.output_bytes, outcome.truncated) == (
        0,
        None,
        "out",
        "err",
        6,
        False,
    )
    assert outcome.duration_s > 0


def test_an_exit_status_is_a_reason(run):
    finished = run("exit 3")
    assert (finished.reason, finished.outcome.exit_code) == ("exit 3", 3)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_an_end_by_a_signal_is_no_exit_status(run, signum):
    finished = run(f"kill -{int(signum)} $$")
    assert finished.reason == f"signal {int(signum)}"
    assert (finished.outcome.exit_code, finished.outcome.signal) == (None, signum)


def test_a_missing_program_is_127_and_says_which(run):
    finished = run(["surely-not-a-program", "x"])
    assert finished.outcome.exit_code == 127
    assert finished.reason.startswith("not_started: surely-not-a-program")


def test_what_may_not_be_run_is_126(run, tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    for argv in ([str(plain)], [str(tmp_path)]):
        finished = run(argv)
        assert finished.outcome.exit_code == 126
        assert finished.reason.startswith("not_started")


@pytest.mark.parametrize("argv", [["with\0nul"], ["true", "\0"], ["true", "x" * (1 << 22)], ["true", "\ud800"], [""]])
def test_arguments_that_no_program_can_take_are_an_end_not_a_crash(run, argv):
    finished = run(argv)
    assert finished.reason.startswith("not_started")
    assert finished.outcome.exit_code in {126, 127}


def test_a_directory_that_is_gone_is_named(go, scheduler, tmp_path):
    runner = CommandRunner(scheduler, {"PATH": "/usr/bin:/bin"}, str(tmp_path / "gone"), 1000)
    finished = go(runner.run(["true"], timeout_s=None, timeout_reason=""))
    assert finished.reason.startswith("not_started")
    assert "gone" in finished.reason


def test_there_is_nothing_to_read_and_no_terminal(run):
    finished = run("cat; test ! -t 0 && test ! -t 1 && test ! -t 2 && ps -o tty= -p $$ >/dev/null; echo done")
    assert finished.outcome.output == "done\n"


def test_a_command_is_a_process_group_of_its_own_with_the_environment_it_was_given(run):
    finished = run(
        python("import os; print(os.getpgrp() == os.getpid(), sorted(set(os.environ) - {'LC_CTYPE', '__CF_USER_TEXT_ENCODING'}))")
    )
    assert finished.outcome.output == "True ['LANG', 'PATH']\n"


def test_a_command_inherits_no_descriptor(run):
    read, write = os.pipe()
    try:
        os.set_inheritable(write, True)
        assert run("ls /proc/self/fd").outcome.output.split() == ["0", "1", "2", "3"]
    finally:
        os.close(read)
        os.close(write)


def test_output_comes_in_pieces_in_order_and_complete(run):
    got = {"stdout": b"", "stderr": b""}

    def on_output(stream, data):
        got[stream] += data

    finished = run("for n in 1 2 3; do echo out$n; echo err$n >&2; done", on_output=on_output)
    assert got == {"stdout": b"out1\nout2\nout3\n", "stderr": b"err1\nerr2\nerr3\n"}
    assert finished.outcome.output == "out1\nout2\nout3\n"


def test_output_beyond_the_bound_ends_the_command_and_is_not_passed_on(run):
    got = []
    finished = run("exec yes", on_output=lambda _, data: got.append(len(data)), output_bytes=10 << 20)
    assert finished.reason == f"limit.output: more than {10 << 20} bytes written"
    assert sum(got) == 10 << 20
    assert finished.outcome.output_bytes == 10 << 20
    assert finished.outcome.truncated
    assert len(finished.outcome.output) < INLINE_HEAD_BYTES + INLINE_TAIL_BYTES + 100


def test_a_command_that_will_not_end_cannot_write_on_while_it_is_being_ended(run, short_grace):
    got = []
    finished = run("trap '' TERM; while :; do echo xxxxxxxxxx; done", on_output=lambda _, data: got.append(len(data)), output_bytes=1000)
    assert finished.reason.startswith("limit.output")
    assert sum(got) == 1000
    assert finished.outcome.signal == signal.SIGKILL


def test_the_bound_counts_both_streams_and_exactly_the_bound_is_allowed(run):
    assert run("printf 0123456789; printf 0123456789 >&2", output_bytes=20).reason is None
    assert run("printf 0123456789; printf 0123456789x >&2", output_bytes=20).reason.startswith("limit.output")


def test_a_command_that_takes_too_long_is_asked_to_end(run_late):
    finished = run_late("trap 'echo bye; exit 0' TERM; echo on; while :; do sleep 0.01; done")
    assert finished.reason == "too late"
    assert finished.outcome.output == "on\nbye\n"
    assert finished.outcome.exit_code == 0


def test_a_group_that_ignores_the_asking_is_killed(run_late, short_grace, tmp_path):
    child = "sh -c 'trap \"\" TERM; echo $$ > child; while :; do sleep 1; done'"
    code = f"trap '' TERM; (trap '' TERM; {child}) & while [ ! -s child ]; do :; done; echo on; wait"
    finished = run_late(code)
    assert finished.reason == "too late"
    assert finished.outcome.signal == signal.SIGKILL
    assert gone(int((tmp_path / "child").read_text()))


def test_a_deadline_that_is_over_at_once_is_an_end_too(run, short_grace):
    assert run("sleep 60", timeout_s=0.0).reason == "too late"


def test_something_left_in_the_background_that_holds_the_output_open_does_not_hold_the_task(run, tmp_path):
    finished = run("sleep 60 & echo $! > left; echo done")
    try:
        assert finished.reason is None
        assert finished.outcome.output == "done\n"
        assert finished.outcome.duration_s < 30
    finally:
        os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)


def test_something_left_in_the_background_that_writes_without_end_does_not_hold_the_task(run, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "DRAIN_LIMIT_S", 0.2)
    finished = run("(while :; do echo x; sleep 0.01; done) & echo $! > left")
    try:
        assert finished.reason is None
    finally:
        os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)


def test_what_was_written_just_before_the_end_is_all_there(run):
    assert run(python("import os; os.write(1, b'x' * 60000); os.write(2, b'y' * 60000); os._exit(0)")).outcome.output_bytes == 120_000


def test_cost_is_what_the_command_and_its_children_used(run):
    burn = "import time\nwhile time.process_time() < 0.15: pass\nx = bytearray(40 << 20)"
    finished = run(f"'{sys.executable}' -I -S -c '{burn}'; true")
    assert finished.outcome.cpu_time_s >= 0.15
    assert finished.outcome.peak_memory_bytes > 40 << 20


def test_output_that_is_no_text_is_shown_as_well_as_it_can_be(run):
    data = []
    finished = run(python("import os; os.write(1, bytes(range(256)))"), on_output=lambda _, piece: data.append(piece))
    assert b"".join(data) == bytes(range(256))
    assert finished.outcome.output_bytes == 256
    assert "\ufffd" in finished.outcome.output


def test_one_huge_line_keeps_its_head_and_its_tail(run):
    finished = run(python("import os\nos.write(1, b'HEAD')\nfor n in range(20): os.write(1, b'x' * 25000)\nos.write(1, b'TAIL')"))
    outcome = finished.outcome
    assert outcome.output.startswith("HEADxxx")
    assert outcome.output.endswith("xxxTAIL")
    assert outcome.truncated
    assert f"{500_008 - INLINE_HEAD_BYTES - INLINE_TAIL_BYTES} bytes left out" in outcome.output


@pytest.mark.parametrize("size", [0, 1, INLINE_HEAD_BYTES, INLINE_HEAD_BYTES + 1, INLINE_HEAD_BYTES + INLINE_TAIL_BYTES])
def test_what_fits_is_shown_whole(size):
    capture = Capture()
    data = bytes(97 + n % 26 for n in range(size))
    for start in range(0, size, 7919):
        capture.add(data[start : start + 7919])
    assert capture.text() == data.decode()
    assert not capture.truncated


@pytest.mark.parametrize("more", [1, INLINE_TAIL_BYTES, 5 * INLINE_TAIL_BYTES])
def test_what_does_not_fit_says_how_much_is_left_out(more):
    capture = Capture()
    size = INLINE_HEAD_BYTES + INLINE_TAIL_BYTES + more
    data = bytes(97 + n % 26 for n in range(size))
    for start in range(0, size, 7919):
        capture.add(data[start : start + 7919])
    assert capture.truncated
    assert capture.text() == f"{data[:INLINE_HEAD_BYTES].decode()}\n[... {more} bytes left out ...]\n{data[-INLINE_TAIL_BYTES:].decode()}"


def test_cancelling_ends_the_whole_group_and_goes_on_up(go, scheduler, runner, tmp_path):
    os.mkfifo(tmp_path / "meet")
    meet = os.open(tmp_path / "meet", os.O_RDWR | os.O_NONBLOCK)

    async def main():
        work = scheduler.spawn(
            runner.run(["/bin/sh", "-c", "sleep 60 & echo $! > pid; echo up > meet; wait"], timeout_s=None, timeout_reason="")
        )
        assert await scheduler.rest((meet,), 60.0) == (meet,)
        scheduler.cancel(work)
        with pytest.raises(Cancelled):
            await scheduler.join(work)

    go(main())
    os.close(meet)
    assert gone(int((tmp_path / "pid").read_text()))


def test_many_commands_at_once(go, scheduler, runner):
    async def main():
        strands = [
            scheduler.spawn(runner.run(["/bin/sh", "-c", f"sleep 0.0{n % 5}; echo {n}; exit {n % 3}"], timeout_s=60.0, timeout_reason=""))
            for n in range(30)
        ]
        return [await scheduler.join(strand) for strand in strands]

    for n, finished in enumerate(go(main())):
        assert finished.outcome.output == f"{n}\n"
        assert finished.outcome.exit_code == n % 3


def test_no_descriptor_is_left(run):
    before = sorted(os.listdir("/proc/self/fd"))
    for what in ("true", "exit 1", ["surely-not-a-program"], "kill -9 $$"):
        run(what)
    assert sorted(os.listdir("/proc/self/fd")) == before
