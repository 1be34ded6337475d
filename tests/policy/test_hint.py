"""Was it the sandbox? Real words of real programs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toka_cli.policy.hint import denied_hint, nothing_there
from toka_cli.protocol.messages import Walls

NONE = Walls(level="full", read=("/etc/ssl",), execute=("/usr",), write=("/dev/null",))
READ = Walls(level="full", read=("/w",), execute=("/usr",))
WRITE = Walls(level="full", write=("/w",), execute=("/usr",), protect=("/w/.git",))
GIT = Walls(level="full", read=("/w",), write=("/w/.git",), protect=("/w/.git/hooks", "/w/.git/config"), execute=("/usr",))
PROXY = Walls(level="full", network="proxy", execute=("/usr",))


def hint(text: str, walls: Walls | None, *powers: str, code: int | None = 1) -> str | None:
    return denied_hint(text, code, walls, powers, "/w", private="/tmp/toka-a-")


@pytest.mark.parametrize(
    ("text", "walls", "powers", "grant"),
    [
        ("cat: readable: Permission denied", NONE, (), "filesystem-read"),
        ("ls: cannot open directory '.': Permission denied", NONE, (), "filesystem-read"),
        ("PermissionError: [Errno 13] Permission denied: 'a.py'", NONE, (), "filesystem-read"),
        ("npm error EACCES: permission denied, open '/w/package.json'", NONE, (), "filesystem-read"),
        ("sh: 1: cannot create out.txt: Permission denied", READ, ("filesystem-read",), "filesystem-write"),
        ("sh: 1: cannot create out.txt: Read-only file system", READ, ("filesystem-read",), "filesystem-write"),
        ("touch: cannot touch 'x': Permission denied", READ, ("filesystem-read",), "filesystem-write"),
        ("OSError: [Errno 30] Read-only file system: '/w/out'", READ, ("filesystem-read",), "filesystem-write"),
        ("mkdir: cannot create directory \u2018out\u2019: Permission denied", NONE, (), "filesystem-write"),
        ("bash: ./run.sh: Permission denied", WRITE, ("filesystem-write",), "script-execution"),
        ("/bin/sh: 1: ./run.sh: Permission denied", READ, ("filesystem-read",), None),
        ("fatal: Unable to create '/w/.git/index.lock': Permission denied", WRITE, ("filesystem-write",), "git-access"),
        ("warning: unable to access '/etc/gitconfig': Permission denied", WRITE, ("filesystem-write",), "git-access"),
        ("sqlite3.OperationalError: unable to open database file", READ, ("filesystem-read",), "filesystem-write"),
        ("Error: attempt to write a readonly database", READ, ("filesystem-read",), "filesystem-write"),
        ("sqlite3.OperationalError: unable to open database file", NONE, (), "filesystem-read"),
        ("fatal: not a git repository: /r/.git/worktrees/w", WRITE, ("filesystem-write",), "git-access"),
        ("/bin/sh: 1: pytest: not found", READ, ("filesystem-read",), "script-execution"),
        ("bash: line 1: cargo: command not found", READ, ("filesystem-read",), "cargo-execution"),
        ("pytest: No such file or directory", READ, (), "script-execution"),
        ("env: \u2018node\u2019: No such file or directory", READ, (), "script-execution"),
        ("/bin/sh: 1: cargo: Permission denied", READ, (), "cargo-execution"),
        ("cat: readable: No such file or directory", NONE, (), "filesystem-read"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'a.py'", NONE, (), "filesystem-read"),
        ("Error: ENOENT: no such file or directory, open '/w/package.json'", NONE, (), "filesystem-read"),
        ("/home/u/.cargo/bin/cargo: Permission denied", WRITE, ("filesystem-write",), "cargo-execution"),
        ("bash: /home/u/.pyenv/shims/pytest: Permission denied", NONE, (), "script-execution"),
        ("curl: (6) Could not resolve host: api.github.com", NONE, (), "network-access: ['api.github.com:443']"),
        ("socket.gaierror: [Errno -3] Temporary failure in name resolution", NONE, (), "network-access: ['HOST:443']"),
        ("OSError: [Errno 101] Network is unreachable", NONE, (), "network-access"),
        ("Error: getaddrinfo EAI_AGAIN registry.npmjs.org", NONE, (), "network-access: ['registry.npmjs.org:443']"),
        ("OSError: Tunnel connection failed: 403 Forbidden for https://pypi.org/simple", PROXY, ("network-access",), "network-access: ['pypi.org:443']"),
    ],
)  # fmt: skip
def test_words_of_programs_name_the_grant(text: str, walls: Walls, powers: tuple[str, ...], grant: str | None) -> None:
    code = 127 if "not found" in text or text.startswith(("pytest:", "env:")) else 126 if "sh: 1: cargo" in text or "run.sh" in text or "shims" in text else 1
    found = hint(text, walls, *powers, code=code)
    if grant is None:
        assert found is None or "script-execution" in found or "filesystem" in found
        return
    assert found is not None
    assert f"    - {grant}" in found
    *_, last = found.split("\n")
    assert last.startswith("sandbox: ")
    assert "trying again or another way does not help" in last


@pytest.mark.parametrize(
    ("text", "walls", "words"),
    [
        ("cat: /home/u/.ssh/id: Permission denied", READ, "outside the workdir, and no grant opens it"),
        ("touch: cannot touch '/tmp/x': Permission denied", READ, "temporary folder is $TMPDIR"),
        ("sh: 1: cannot create .git/hooks/pre-commit: Read-only file system", GIT, "stays read-only whatever is granted"),
    ],
)
def test_what_no_grant_opens_is_said_without_lines_to_add(text: str, walls: Walls, words: str) -> None:
    found = hint(text, walls, "filesystem-read", "git-access")
    assert found is not None
    assert words in found
    assert "capabilities_required" not in found


def test_a_narrowed_grant_is_to_be_widened() -> None:
    walls = Walls(level="full", write=("/w/src",), execute=("/usr",))
    found = hint("sh: 1: cannot create docs/a: Permission denied", walls, "filesystem-write")
    assert found is not None
    assert "outside of what filesystem-write is narrowed to" in found
    assert "- filesystem-write: [docs/a]" in found


@pytest.mark.parametrize(
    ("text", "walls"),
    [
        ("AssertionError: 1 != 2", NONE),
        ("", NONE),
        ("cat: readable: Permission denied", None),
        ("cat: readable: Permission denied", Walls(level="process")),
        # The walls allow it: somebody else refused.
        ("cat: readable: Permission denied", READ),
        ("sh: 1: cannot create out.txt: Permission denied", WRITE),
        ("cat: /tmp/toka-a-xyz/tmp/x: Permission denied", NONE),
        ("cat: nothing: No such file or directory", READ),
        ("unable to open database file", WRITE),
        ("cat: nothing: No such file or directory", Walls(level="standard")),
        ("cat: /home/u/x: No such file or directory", NONE),
        ("sh: 1: frobnicate: not found", NONE),
        ("Problem(message='cannot be read: Permission denied')", NONE),
        ("error: Landlock: trial failed: Permission denied", NONE),
    ],
)
def test_what_was_not_the_walls_gets_no_hint(text: str, walls: Walls | None) -> None:
    assert hint(text, walls, "filesystem-read") is None


def test_an_empty_workdir_is_explained_when_something_is_missed() -> None:
    for text in ("fatal: not a git repository", "make: *** No targets specified and no makefile found.", "ModuleNotFoundError: No module named 'x'"):
        found = nothing_there(text, NONE, "/w")
        assert found is not None
        assert "nothing of the workdir /w is there" in found
        assert nothing_there(text, READ, "/w") is None
    assert nothing_there("AssertionError", NONE, "/w") is None
    assert nothing_there("No such file or directory", None, "/w") is None


def test_only_the_end_of_much_output_is_looked_at_and_soon_done() -> None:
    assert hint("cat: readable: Permission denied\n" + "x" * 200_000, NONE) is None
    assert hint("a: Permission denied\n" * 20_000, WRITE, "filesystem-read") is None
    assert hint("'" * 60_000, NONE) is None


@given(st.text(max_size=300), st.sampled_from([NONE, READ, WRITE, GIT, PROXY]))
def test_any_text_has_an_answer(text: str, walls: Walls) -> None:
    found = hint(text, walls)
    assert found is None or "sandbox: " in found
