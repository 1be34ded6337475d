"""The shim with a real tree below it: it leaves nothing, whoever wants the end and however they say it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys

import msgspec
import pytest

from toka_cli.protocol import frames
from toka_cli.protocol.messages import ShimOrder, ShimReport

LIMIT_S = 60.0

# A shim whose cell does one of these things. Every process of the tree holds the pipe, so its end proves that nothing is left.
SHIM = """
import os, signal, socket, sys, time
from toka_cli.agent import shim

def stubborn():
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.setsid()
            break
    say("up")
    while True:
        time.sleep(60)

def obedient():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(9))
    say("up")
    while True:
        signal.pause()

def leaving():
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(60)
    say("up")
    os._exit(5)

def at_once():
    os._exit(0)

def burning():
    if os.fork() == 0:
        data = bytearray(50 << 20)
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        os._exit(0)
    os.wait()
    os._exit(0)

def dispositions():
    found = [signal.getsignal(signum) == signal.SIG_DFL for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD)]
    os._exit(0 if all(found) else 1)

def say(word):
    os.write(1, word.encode() + b"\\n")

signal.signal(signal.SIGINT, signal.SIG_IGN)
line = socket.socket(fileno=int(sys.argv[1]))
shim.run(line, int(sys.argv[3]), globals()[sys.argv[2]])
"""


class Shim:
    def __init__(self, act, owner=0):
        self.line, theirs = socket.socketpair()
        self.line.settimeout(LIMIT_S)
        self.held, write = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SHIM, str(theirs.fileno()), act, str(owner)], pass_fds=(theirs.fileno(), write), stdout=subprocess.PIPE
        )
        theirs.close()
        os.close(write)
        self.reader = frames.FrameReader()
        self.reports = []

    def report(self):
        while not self.reports:
            data = self.line.recv(4096)
            if not data:
                return None
            self.reports += [msgspec.json.decode(body, type=ShimReport) for body in self.reader.feed(data)]
        return self.reports.pop(0)

    def up(self):
        assert self.process.stdout.readline() == b"up\n"

    def order(self, order):
        self.line.sendall(frames.pack_bytes(msgspec.json.encode(ShimOrder(order))))

    def nothing_left(self):
        """Every process of the tree, and the shim, has ended."""
        ready, _, _ = select.select([self.held], [], [], LIMIT_S)
        return bool(ready) and os.read(self.held, 1) == b"" and self.process.wait(LIMIT_S) is not None

    def close(self):
        self.line.close()
        self.process.wait(LIMIT_S)
        self.process.stdout.close()
        os.close(self.held)


@pytest.fixture
def shim():
    made = []

    def make(act, owner=0):
        made.append(Shim(act, owner))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_cell_that_ends_is_reported_with_its_status(shim):
    one = shim("at_once")
    forked, exited, empty = one.report(), one.report(), one.report()
    assert (forked.what, exited.what, empty.what) == ("forked", "exited", "empty")
    assert exited.pid == forked.pid > 0
    assert os.waitstatus_to_exitcode(exited.status) == 0
    assert one.report() is None
    assert one.nothing_left()


def test_many_cells_that_end_at_once_are_all_noticed(shim):
    for one in [shim("at_once") for _ in range(20)]:
        assert [one.report().what for _ in range(3)] == ["forked", "exited", "empty"]


def test_what_a_cell_leaves_behind_is_ended_with_it(shim):
    one = shim("leaving")
    assert [one.report().what for _ in range(2)] == ["forked", "exited"]
    assert one.report().what == "empty"
    assert one.nothing_left()


def test_told_to_kill_it_ends_a_tree_that_ignores_everything(shim):
    one = shim("stubborn")
    one.up()
    one.order("kill")
    words = [one.report().what for _ in range(3)]
    assert words == ["forked", "exited", "empty"]
    assert one.nothing_left()


def test_told_to_ask_it_asks(shim):
    one = shim("obedient")
    one.up()
    one.order("term")
    one.report()
    assert os.waitstatus_to_exitcode(one.report().status) == 9
    assert one.nothing_left()


def test_asking_in_vain_is_not_the_end_and_killing_still_works(shim):
    one = shim("stubborn")
    one.up()
    one.order("term")
    one.order("dance")
    one.order("kill")
    assert [one.report().what for _ in range(3)] == ["forked", "exited", "empty"]
    assert one.nothing_left()


def test_when_the_owner_closes_the_line_everything_ends(shim):
    one = shim("stubborn")
    one.up()
    one.line.shutdown(socket.SHUT_RDWR)
    assert one.nothing_left()


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff\xff\xff", frames.pack_bytes(b"garbage"), frames.pack_bytes(b'{"order":7}'), frames.pack_bytes(b"[]")]
)
def test_a_line_that_speaks_nonsense_is_an_end_too_and_a_complete_one(shim, garbage):
    one = shim("stubborn")
    one.up()
    one.line.sendall(garbage)
    assert one.nothing_left()


def test_half_an_order_is_waited_for(shim):
    one = shim("stubborn")
    one.up()
    whole = frames.pack_bytes(msgspec.json.encode(ShimOrder("kill")))
    one.line.sendall(whole[:7])
    one.line.sendall(whole[7:])
    assert one.nothing_left()


def test_when_the_owner_is_killed_everything_ends_although_the_line_stays_open(shim):
    owner = subprocess.Popen(["sleep", "600"])
    one = shim("stubborn", owner.pid)
    one.up()
    owner.kill()
    owner.wait()
    assert one.nothing_left()


def test_an_owner_that_is_gone_already_is_noticed(shim):
    owner = subprocess.Popen(["true"])
    owner.wait()
    assert shim("stubborn", owner.pid).nothing_left()


def test_signals_to_the_shim_do_not_part_it_from_its_tree(shim):
    one = shim("stubborn")
    one.up()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        one.process.send_signal(signum)
    one.order("kill")
    assert [one.report().what for _ in range(3)] == ["forked", "exited", "empty"]
    assert one.nothing_left()


def test_the_cost_of_the_whole_tree_is_reported(shim):
    one = shim("burning")
    reports = [one.report() for _ in range(3)]
    assert reports[-1].cpu_time_s >= 0.2
    assert reports[-1].peak_memory_bytes >= 50 << 20


def test_a_cell_begins_with_signals_as_the_system_has_them(shim):
    one = shim("dispositions")
    one.report()
    assert os.waitstatus_to_exitcode(one.report().status) == 0


def test_when_the_shim_is_killed_its_cell_dies_with_it(shim):
    one = shim("obedient")
    one.up()
    pid = one.report().pid
    descriptor = os.pidfd_open(pid)
    one.process.kill()
    assert select.select([descriptor], [], [], LIMIT_S)[0]
    os.close(descriptor)
