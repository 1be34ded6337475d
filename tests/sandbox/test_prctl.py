"""prctl calls, each seen from outside."""

from __future__ import annotations

from toka_cli.sandbox import prctl


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


def test_dumps_are_allowed_again_and_with_them_ones_own_maps(beside):
    code = """
    import json, os
    from toka_cli.sandbox import prctl
    owner = lambda: os.stat("/proc/self/uid_map").st_uid
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    prctl.forbid_dumps()
    before = owner()
    print(json.dumps([before, prctl.allow_dumps(), prctl._prctl(3, 0), owner() == os.getuid()]))
    """
    assert beside(code) == [0, True, 1, True]


def test_the_mode_of_filters_is_known(beside):
    code = "import json; from toka_cli.sandbox import prctl; print(json.dumps(prctl.seccomp_mode()))"
    assert beside(code) in {0, prctl.SECCOMP_MODE_FILTER}
