"""prctl calls, each seen from outside."""

from __future__ import annotations


def test_no_new_privileges_holds_and_is_inherited(beside):
    code = """
    import json, subprocess
    from toka_cli.sandbox import prctl
    said = prctl.forbid_new_privileges()
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
    print(json.dumps([said, "NoNewPrivs:\\t1" in status]))
    """
    assert beside(code) == [True, True]


def test_a_subreaper_adopts_orphans(beside):
    code = """
    import json, os
    from toka_cli.sandbox import prctl
    assert prctl.become_subreaper()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            os.read(read, 1)
            os._exit(7)
        os._exit(0)
    os.waitpid(pid, 0)
    os.write(write, b"x")
    print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1])))
    """
    assert beside(code) == 7


def test_a_child_dies_with_its_parent(beside):
    code = """
    import json, os, select, signal
    from toka_cli.sandbox import prctl
    read, write = os.pipe()
    up, say = os.pipe()
    parent = os.fork()
    if parent == 0:
        if os.fork() == 0:
            prctl.die_with_parent(signal.SIGKILL)
            os.write(say, b"x")
            signal.pause()
        signal.pause()
    os.close(write)
    os.read(up, 1)
    os.kill(parent, signal.SIGKILL)
    print(json.dumps(bool(select.select([read], [], [], 30)[0]) and os.read(read, 1) == b""))
    """
    assert beside(code) is True


def test_dumps_are_forbidden(beside):
    code = """
    import json
    from toka_cli.sandbox import prctl
    print(json.dumps([prctl.forbid_dumps(), prctl._prctl(3, 0)]))
    """
    assert beside(code) == [True, 0]
