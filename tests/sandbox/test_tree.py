"""Ending process trees that do not want to end.

The proof that nothing is left is a pipe that every process of the tree holds: it ends when the last one does.
"""

from __future__ import annotations

import os

import pytest

from toka_cli.sandbox import tree

HOSTILE = """
import json, os, select, signal, subprocess, sys, time
from toka_cli.sandbox import prctl, tree

def sleeper():
    while True:
        time.sleep(60)

def setsid():
    os.setsid()
    sleeper()

def double_fork():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            sleeper()
        os._exit(0)
    sleeper()

def deaf():
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if os.fork() == 0:
        setsid()
    sleeper()

def nameless():
    os.execve(sys.executable, ["x", "-I", "-S", "-c", "import os, time\\nos.setsid()\\nif os.fork(): time.sleep(60)\\ntime.sleep(60)"], {})

def hopping():
    # Always somebody else: the parent is gone before anybody can look at it.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if os.fork():
            time.sleep(0.001)
            os._exit(0)
        os.setsid()

def breeding():
    for _ in range(3):
        if os.fork() == 0:
            for _ in range(3):
                if os.fork() == 0:
                    hopping()
            sleeper()
    sleeper()

KINDS = {"setsid": [setsid], "double_fork": [double_fork], "deaf": [deaf], "nameless": [nameless], "hopping": [hopping],
         "all": [setsid, double_fork, deaf, nameless, hopping, hopping, breeding]}

assert prctl.become_subreaper()
for kind in sys.argv[1:]:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    for act in KINDS[kind]:
        if os.fork() == 0:
            os.close(read)
            act()
    os.close(write)
    # Up: more processes than were forked here, or at least those.
    while len(tree.descendants(os.getpid())) < len(KINDS[kind]):
        pass
    deadline = time.monotonic() + 0.03
    while time.monotonic() < deadline:
        tree.descendants(os.getpid())
    reaped = []
    tree.kill_all(lambda pid, status: reaped.append(pid))
    ready, _, _ = select.select([read], [], [], 0)
    assert ready and os.read(read, 1) == b"", f"{kind}: somebody still holds the pipe"
    assert tree.children(os.getpid()) == []
    assert len(reaped) >= len(KINDS[kind])
    os.close(read)
print(json.dumps("nothing left"))
"""


@pytest.mark.parametrize("kind", ["setsid", "double_fork", "deaf", "nameless", "hopping"])
def test_no_trick_survives(beside, kind):
    assert beside(HOSTILE, kind, kind, kind) == "nothing left"


def test_all_tricks_together_do_not_survive(beside):
    assert beside(HOSTILE, *["all"] * 5) == "nothing left"


def test_without_children_there_is_nothing_to_do(beside):
    code = "import json; from toka_cli.sandbox.tree import kill_all; told = []; kill_all(lambda *one: told.append(one)); print(json.dumps(told))"
    assert beside(code) == []


def test_children_and_descendants_are_found_parents_first(beside):
    code = """
    import json, os, time
    from toka_cli.sandbox import tree
    read, write = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os.write(write, b"x")
            time.sleep(60)
        time.sleep(60)
    os.read(read, 1)
    (child,) = tree.children(os.getpid())
    (grandchild,) = tree.children(child)
    by_parent = (tree._children_by_parent(os.getpid()), tree._children_by_parent(child))
    found = tree.descendants(os.getpid())
    # It would be nobody's child once its parent is killed: this process is no subreaper.
    os.kill(grandchild, 9)
    tree.kill_all()
    print(json.dumps([found == [child, grandchild], by_parent == ([child], [grandchild])]))
    """
    assert beside(code) == [True, True]


def test_a_process_that_is_gone_has_no_children():
    pid = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(pid, 0)
    assert tree.children(pid) == []
    assert tree.descendants(pid) == []


def test_children_of_every_thread_are_found(beside):
    code = """
    import json, os, threading, time
    from toka_cli.sandbox import tree
    pids, go, done = [], threading.Event(), threading.Event()
    def other():
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
        pids.append(pid)
        go.set()
        done.wait()
    thread = threading.Thread(target=other)
    thread.start()
    go.wait()
    found = tree.children(os.getpid())
    os.kill(pids[0], 9)
    done.set()
    thread.join()
    print(json.dumps(found == pids))
    """
    assert beside(code) is True
