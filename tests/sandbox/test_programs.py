"""Ordinary programs go on working behind the walls of the level standard: Landlock, the filter and no capabilities, with nothing granted but a folder."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from toka_cli.sandbox import landlock, seccomp

pytestmark = pytest.mark.skipif(landlock.abi() < 3 or not seccomp.available(), reason="needs Landlock ABI 3 and a filter of system calls")

USERS = ["root", "nobody"]
CONFINED = """
place = sys.argv[1]
os.chdir(place)
os.environ.update(HOME=place, TMPDIR=place, LANG="C.UTF-8")
os.setsid()
"""
WALLS = """
tools = [os.path.realpath(path) for path in sys.argv[2:]]
# /dev/shm: named semaphores live there, and with them the locks of Python's processes.
walls = Walls("standard", execute=(*SYSTEM, *tools), read=("/proc", "/dev/urandom"), write=("/dev/null", "/dev/shm"), write_execute=(place,))
ruleset = landlock.build(walls)
program = seccomp.program(inet=False, unix=False, namespaces=False, ipc=False, protect_pids=(os.getppid(),))
def confine():
    if os.geteuid() == 0:
        capabilities.drop()
    prctl.forbid_new_privileges()
    ruleset.restrict()
    seccomp.load(program)
def shell(text):
    "Code, output and errors of a script behind two layers: the agent's, and the command's own."
    def layers():
        confine()
        confine()
    return run("/bin/bash", "-euo", "pipefail", "-c", text, preexec_fn=layers, cwd=place)
"""


@pytest.fixture
def scripts(act, place):
    """Runs a shell script in a folder, behind the walls; what it wrote."""

    def run(text, *tools, user="root"):
        code, out, err = act(f"{CONFINED}\n{WALLS}\nshow(shell({text!r}))", place, *tools, user=user)
        assert code == 0, f"exit {code}\n{out}\n{err}"
        return out

    return run


def needs(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason=f"not here: {', '.join(missing)}")


@pytest.mark.parametrize("user", USERS)
def test_a_shell_and_its_tools(scripts, user):
    text = """
    diff <(printf 'a\\nb\\n') <(printf 'a\\nb\\n') && echo same
    mkdir -p deep/er && echo words > deep/er/file
    tar czf all.tgz deep && rm -r deep && tar xzf all.tgz && cat deep/er/file
    cat <<< here
    mkfifo pipe; (echo through > pipe &) ; cat pipe
    sleep 30 & kill $! ; wait $! || echo ended $?
    find . -name file | xargs grep -c words
    nice -n 5 echo nicer
    seq 100000 | sort -R | sort -n | tail -1
    """
    expected = ["same", "words", "here", "through", "ended 143", "1", "nicer", "100000"]
    assert scripts(text, user=user).split("\n")[:-1] == expected


@needs("git")
@pytest.mark.parametrize("user", USERS)
def test_git_with_worktrees_and_gc(scripts, user):
    text = """
    git init -q repo && cd repo
    git config user.name toka && git config user.email toka@example.com
    for n in 1 2 3 4 5; do echo $n > file; git add file; git commit -qm "change $n"; done
    git worktree add -q ../other -b branch && (cd ../other && echo more > more && git add more && git commit -qm more)
    git merge -q branch && git gc -q && git repack -adq && git fsck
    git clone -q . ../copy && git stash list && git log --oneline | wc -l
    git diff HEAD~1 --stat | tail -1
    """
    out = scripts(text, user=user)
    assert "6" in out.split()
    assert "1 file changed" in out


@needs("gcc")
@pytest.mark.parametrize("user", USERS)
def test_gcc_and_what_it_makes(scripts, user):
    text = """
    printf '#include <stdio.h>\\n#include <pthread.h>\\nvoid *f(void *p) { puts("thread"); return p; }\\n' > a.c
    printf 'int main(void) { pthread_t t; pthread_create(&t, 0, f, 0); pthread_join(t, 0); puts("done"); return 0; }\\n' >> a.c
    gcc -O2 -pthread -o a a.c && ./a
    """
    assert scripts(text, user=user).split() == ["thread", "done"]


@needs("node", "npm")
@pytest.mark.parametrize("user", USERS)
def test_node_and_npm(scripts, user):
    text = """
    node -e 'const {execFileSync, spawn} = require("child_process"); const {Worker} = require("worker_threads");
      console.log(execFileSync("echo", ["started"]).toString().trim());
      new Worker("require(\\"worker_threads\\").parentPort.postMessage(1)", {eval: true}).on("message", () => {
        require("fs").promises.writeFile("made", "x").then(() => {
          const forked = require("child_process").fork("child.js"); forked.on("message", m => { console.log(m); forked.disconnect(); });
        });
      });' 2>&1 &
    echo 'process.send("told")' > child.js
    wait $!
    echo '{"name": "x", "version": "1.0.0", "scripts": {"test": "node -e \\"console.log(6*7)\\""}}' > package.json
    npm --offline --silent test
    """
    assert scripts(text, user=user).split() == ["started", "told", "42"]


@needs("sqlite3")
@pytest.mark.parametrize("user", USERS)
def test_sqlite_with_a_log(scripts, user):
    text = """
    sqlite3 some.db 'pragma journal_mode=wal; create table t(x); insert into t values (1), (2); select sum(x) from t;'
    sqlite3 some.db 'pragma integrity_check; select count(*) from t;'
    """
    assert scripts(text, user=user).split() == ["wal", "3", "ok", "2"]


PYTHON = """
import asyncio, concurrent.futures, multiprocessing, os, signal, sqlite3, subprocess, tempfile, threading
def double(x):
    return 2 * x
async def main():
    process = await asyncio.create_subprocess_exec("echo", "sub", stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    print(out.decode().strip(), await asyncio.to_thread(double, 4), await asyncio.wait_for(asyncio.sleep(0, "slept"), 5))
if __name__ == "__main__":
    asyncio.run(main())
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        print(sum(pool.map(double, range(100))))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(pool.map(double, [1, 2]))
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        print(list(pool.map(double, [3])))
    signal.signal(signal.SIGALRM, lambda *_: print("alarm"))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.pause()
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
    print(subprocess.run(["sh", "-c", "ulimit -n 99; ulimit -n"], capture_output=True, text=True).stdout.strip())
"""
PYTHON_SAYS = ["sub 8 slept", "9900", "[2, 4]", "[6]", "alarm", "99"]


def interpreter(user):
    """The interpreter of the tests for root; one that everybody may run for others."""
    found = sys.executable if user == "root" else next((path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(path)), None)
    return found or pytest.skip("no interpreter that an ordinary user may run")


def tools_of(user):
    return (sys.prefix, sys.base_prefix) if user == "root" else ()


@pytest.mark.parametrize("user", USERS)
def test_python_with_threads_processes_and_asyncio(scripts, place, user):
    (place / "program.py").write_text(PYTHON)
    (place / "program.py").chmod(0o755)
    assert scripts(f"{interpreter(user)} program.py", *tools_of(user), user=user).splitlines() == PYTHON_SAYS


def test_pytest_runs_tests(scripts, place):
    (place / "test_it.py").write_text("import pytest\ndef test_it(tmp_path):\n    (tmp_path / 'x').write_text('x')\n")
    out = scripts(f"{sys.executable} -m pytest -q -p no:cacheprovider test_it.py", *tools_of("root"))
    assert "1 passed" in out


def toolchain():
    """Where the Rust toolchain lies: its own folder and that of the installer's links, if there is one."""
    home = os.path.expanduser("~")
    return [path for path in (os.environ.get("RUSTUP_HOME", f"{home}/.rustup"), os.environ.get("CARGO_HOME", f"{home}/.cargo") + "/bin") if os.path.isdir(path)]


@needs("cargo", "rustc")
def test_cargo_builds_and_tests(scripts):
    home = os.path.expanduser("~")
    text = f"""
    export PATH="$PATH:{os.path.dirname(shutil.which("cargo"))}" RUSTUP_HOME="{os.environ.get("RUSTUP_HOME", home + "/.rustup")}" CARGO_HOME="$PWD/cargo"
    mkdir -p crate/src && cd crate
    printf '[package]\\nname = "crate1"\\nversion = "0.1.0"\\nedition = "2021"\\n' > Cargo.toml
    printf 'fn main() {{ println!("{{}}", std::thread::spawn(|| 42).join().unwrap()); }}\\n#[test]\\nfn holds() {{ assert_eq!(2 * 2, 4); }}\\n' > src/main.rs
    cargo --offline -q run && cargo --offline -q test
    """
    out = scripts(text, *toolchain())
    assert out.split()[0] == "42"
    assert "1 passed" in out


def test_what_is_not_granted_is_refused_to_the_same_programs(act, place):
    """The negative twin of all above: these walls were really there."""
    code = f"""{CONFINED}\n{WALLS}
texts = ("cat /etc/../root/.bashrc", "echo x > /usr/x", "ls /home", "exec 3<>/dev/tcp/127.0.0.1/9", "kill -0 " + str(os.getppid()), "unshare -U true")
show([[done[0] != 0, done[2].strip()[-40:]] for done in map(shell, texts)])
"""
    found = act(code, place)
    assert [refused for refused, _ in found] == [True] * 6
    assert all("ermitted" in said or "enied" in said for _, said in found), found
