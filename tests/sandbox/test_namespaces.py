"""Process 1 of a cell: how it comes to be, who it is to the machine and to itself, and how its end is told."""

from __future__ import annotations

import pytest

GIVEN = """
from toka_cli.sandbox import namespaces
from toka_cli.sandbox.namespaces import NotHeld, Threshold

def first(act):
    "What process 1 of new namespaces answers, as JSON; then its wait status, and what the shim makes of it."
    threshold = Threshold()
    read, write = os.pipe()
    pid = threshold.fork()
    if pid == 0:
        try:
            ids = threshold.enter()
            said = act(ids, threshold)
        except NotHeld as error:
            said = f"not held: {error}"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, json.dumps(said).encode())
        os._exit(7)
    os.close(write)
    threshold.admit(pid)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    status = os.waitpid(pid, 0)[1]
    return [json.loads(said) if said else None, status, threshold.status(status), pid]
"""


@pytest.fixture(params=["root", "nobody"])
def apart(act, request):
    """Runs code with the words above, as this user; (what it showed, the user)."""

    def run(code, *words):
        return act(code, *words, user=request.param, given=GIVEN)

    run.user = request.param
    return run


def test_it_is_process_1_in_namespaces_of_its_own(apart):
    said, status, passed, pid = apart("""
        show(first(lambda ids, threshold: [os.getpid(), os.getppid(), sorted(threshold.entered()), os.geteuid(), ids]))
    """)
    assert said[:3] == [1, 0, ["ipc", "mnt", "net", "pid", "user", "uts"]]
    assert said[3:] == ([0, "all"] if apart.user == "root" else [65534, "own"])
    assert pid > 1
    # Without a word from it, its own status is the cell's.
    assert status == passed == 7 << 8


def test_its_users_are_all_of_ours_for_root_and_only_ourselves_for_others(apart):
    found = apart("""
        read = lambda name: [line.split() for line in open(f"/proc/self/{name}")]
        show([read("uid_map"), read("gid_map"), first(lambda ids, threshold: [read("uid_map"), read("gid_map"), open("/proc/self/setgroups").read()])[0]])
    """)
    users, groups, inside = found
    if apart.user == "root":
        assert inside == [[[first, first, count] for first, _, count in users], [[first, first, count] for first, _, count in groups], "allow\n"]
    else:
        assert inside == [[["65534", "65534", "1"]], [["65534", "65534", "1"]], "deny\n"]


def test_how_the_cell_ended_is_passed_on_and_orphans_are_waited_for(apart):
    said, status, passed, _ = apart("""
        def work(ids, threshold):
            threshold_pid = os.getpid()
            cell = os.fork()
            if cell == 0:
                # An orphan that ends first, and one that does not end at all.
                for seconds in (0, 1000):
                    if os.fork() == 0:
                        if os.fork() == 0:
                            time.sleep(seconds)
                        os._exit(0)
                    os.wait()
                os.kill(os.getpid(), signal.SIGKILL)
            threshold.tell(namespaces.reap_until(cell))
            return "told"
        show(first(work))
    """)
    assert said == "told"
    assert status == 7 << 8
    assert passed == 9


def test_when_the_shim_is_gone_before_it_may_begin_it_ends(apart):
    assert apart("""
        read, write = os.pipe()
        if os.fork() == 0:
            os.close(read)
            threshold = Threshold()
            if threshold.fork() == 0:
                threshold.enter()
                os.write(write, b"began")
                time.sleep(1000)
            os._exit(0)
        os.close(write)
        os.wait()
        # Closed by the last who holds it.
        show(os.read(read, 10).decode())
    """) == ""


def test_a_shim_that_ends_after_it_let_it_begin_is_noticed_too(apart):
    assert apart("""
        read, write = os.pipe()
        if os.fork() == 0:
            os.close(read)
            threshold = Threshold()
            gate_read, gate_write = os.pipe()
            pid = threshold.fork()
            if pid == 0:
                os.close(gate_write)
                os.read(gate_read, 1)
                threshold.enter()
                os.write(write, b"began")
                time.sleep(1000)
            os.close(gate_read)
            threshold.admit(pid)
            # Both pipes close with it, the word already in the one.
            os._exit(0)
        os.close(write)
        os.wait()
        show(os.read(read, 10).decode())
    """) == ""


def test_where_namespaces_are_not_allowed_it_is_an_ordinary_child_that_says_so(act):
    said, _, passed, _ = act("""
        syscalls.call("unshare", namespaces.FLAGS["user"])
        for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
            open(f"/proc/self/{name}", "w").write(text)
        open("/proc/sys/user/max_user_namespaces", "w").write("0")
        show(first(lambda ids, threshold: "entered"))
    """, given=GIVEN)
    assert said == "not held: the system does not allow namespaces of one's own: No space left on device"
    assert passed == 7 << 8


def test_root_without_the_power_to_map_users_is_mapped_like_others(act):
    said, *_ = act("""
        capabilities.drop(("setfcap",))
        show(first(lambda ids, threshold: [ids, open("/proc/self/uid_map").read().split(), os.geteuid()]))
    """, given=GIVEN)
    assert said == ["own", ["0", "0", "1"], 0]


def test_its_loopback_is_its_own_and_comes_up_when_asked(apart):
    said, *_ = apart("""
        outside = socket.create_server(("127.0.0.1", 0))
        def work(ids, threshold):
            def reach(port):
                with socket.socket() as asking:
                    return tried(asking.connect, ("127.0.0.1", port))
            before = reach(outside.getsockname()[1])
            namespaces.raise_loopback()
            inside = socket.create_server(("127.0.0.1", 0))
            six = socket.create_server(("::1", 0), family=socket.AF_INET6) if socket.has_ipv6 else None
            return [before, reach(inside.getsockname()[1]), reach(outside.getsockname()[1]), [name for _, name in socket.if_nameindex()][:1]]
        show(first(work))
    """)
    assert said == ["ENETUNREACH", "done", "ECONNREFUSED", ["lo"]]


def test_nothing_of_it_is_left_when_it_ends(apart):
    assert apart("""
        read, write = os.pipe()
        def work(ids, threshold):
            for _ in range(3):
                if os.fork() == 0:
                    os.setsid()
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    if os.fork() == 0:
                        os.setsid()
                    time.sleep(1000)
            return "working"
        said = first(work)[0]
        os.close(write)
        show([said, os.read(read, 1).decode()])
    """) == ["working", ""]
