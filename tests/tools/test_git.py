"""git_status, git_diff and git_commit with real git, in repositories as a well-behaved agent leaves them, and as a malicious one does."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess

import pytest

from tests.tools.kernel_side import SECRET, Desk, Failed

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
WHO = ["-c", "user.name=a", "-c", "user.email=a@b.c"]


def git(where, *arguments, check=True, **environment):
    """Git as a person uses it."""
    clean = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", **environment}
    return subprocess.run(["git", *WHO, *arguments], cwd=where, check=check, capture_output=True, text=True, env=clean, timeout=60).stdout


@pytest.fixture
def repo(tmp_path):
    path = tmp_path / "work"
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    (path / "a.txt").write_text("one\n")
    git(path, "add", ".")
    git(path, "commit", "-qm", "first")
    return path


@pytest.fixture
def desks(tmp_path):
    made = []

    def make(workdir, **more):
        made.append(Desk(tmp_path / "state", workdir, **more))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


@pytest.fixture
def desk(repo, desks):
    return desks(repo)


def message_of(repo, name="HEAD"):
    return git(repo, "log", "-1", "--format=%B", name)


# --- honest work ---


def test_status_diff_commit(repo, desk):
    assert desk("git_status") == {"branch": "main", "commit": git(repo, "rev-parse", "HEAD").strip(), "changed": [], "total": 0, "cut": False}
    (repo / "a.txt").write_text("one\ntwo\n")
    (repo / "new file.txt").write_text("x\n")
    changed = {one["path"]: (one["index"], one["tree"]) for one in desk("git_status")["changed"]}
    assert changed == {"a.txt": (".", "M"), "new file.txt": ("?", "?")}
    assert "\n+two\n" in desk("git_diff")["diff"]
    assert desk("git_diff", paths=["new file.txt"])["diff"] == ""
    made = desk("git_commit", message="Add two\n\nBecause one was not enough.")
    assert made["branch"] == "main"
    assert sorted(made["files"]) == ["a.txt", "new file.txt"]
    assert made["commit"] == git(repo, "rev-parse", "main").strip()
    assert git(repo, "status", "--porcelain") == ""
    assert git(repo, "fsck", "--strict") == ""
    assert message_of(repo).startswith("Add two\n\nBecause one was not enough.\n\nToka-Call: run-1/t.5/")
    assert git(repo, "log", "-1", "--format=%an <%ae> %cn") == "builder (toka) <builder@toka.invalid> builder (toka)\n"
    # What a person sees afterwards is a repository like any other.
    assert "commit: Add two" in git(repo, "reflog")


def test_the_first_commit_of_a_repository(tmp_path, desks):
    path = tmp_path / "fresh"
    path.mkdir()
    desk = desks(path)
    with pytest.raises(Failed, match="no git repository"):
        desk("git_status")
    git(path, "init", "-q", "-b", "main")
    (path / "a").write_text("a\n")
    assert desk("git_status")["commit"] is None
    assert desk("git_commit", message="first")["files"] == ["a"]
    assert git(path, "rev-list", "--count", "HEAD") == "1\n"


def test_only_the_named_paths_are_committed(repo, desk):
    for name in ("b", "c", "d"):
        (repo / name).write_text(name)
    git(repo, "add", "c")
    (repo / "a.txt").unlink()
    assert desk("git_commit", message="some", paths=["b", "a.txt"])["files"] == ["a.txt", "b"]
    assert git(repo, "status", "--porcelain") == "A  c\n?? d\n"
    assert desk("git_diff", staged=True)["diff"].startswith("diff --git a/c b/c")


def test_a_commit_is_made_once_however_often_its_call_is_made(repo, desk):
    (repo / "b").write_text("b")
    first = desk("git_commit", call_id="t.7", message="add b")
    (repo / "c").write_text("c")
    assert desk("git_commit", call_id="t.7", message="add b") == first
    assert git(repo, "rev-list", "--count", "HEAD") == "2\n"
    # Another call, or other arguments, is another commit.
    assert desk("git_commit", call_id="t.7", message="add c")["files"] == ["c"]


def test_trailers_stay_together(repo, desk):
    (repo / "b").write_text("b")
    desk("git_commit", message="add b\n\nReviewed-by: A <a@b.c>")
    trailers = git(repo, "log", "-1", "--format=%(trailers)").splitlines()
    assert trailers[0] == "Reviewed-by: A <a@b.c>"
    assert trailers[1].startswith("Toka-Call: ")
    (repo / "c").write_text("c")
    desk("git_commit", message="fix: one line with a colon")
    assert message_of(repo).startswith("fix: one line with a colon\n\nToka-Call: ")


def test_the_authors_that_the_caller_names(repo, desks):
    caller = {"PATH": os.environ["PATH"], "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.org"}
    desk = desks(repo, caller=caller)
    (repo / "b").write_text("b")
    desk("git_commit", message="b")
    assert git(repo, "log", "-1", "--format=%an <%ae> %cn") == "Ada <ada@example.org> builder (toka)\n"


def test_names_of_every_kind(repo, desk):
    for name in ("-rf", ":(top)x", "*", "ünï cödé", "new\nline", '"quoted"', "--help"):
        (repo / name).write_text("x")
    (repo / os.fsdecode(b"\xff\xfe")).write_text("x")
    paths = {one["path"] for one in desk("git_status")["changed"]}
    assert {"-rf", ":(top)x", "*", "ünï cödé", "new\nline", '"quoted"', "\\xff\\xfe"} <= paths
    assert desk("git_commit", message="star", paths=["*"])["files"] == ["*"]
    assert desk("git_commit", message="all")["total"] == 7


def test_line_ends_as_the_repository_says(repo, desk):
    git(repo, "config", "core.autocrlf", "true")
    (repo / "b.txt").write_bytes(b"one\r\ntwo\r\n")
    desk("git_commit", message="b")
    assert git(repo, "cat-file", "blob", "HEAD:b.txt") == "one\ntwo\n"


def test_a_repository_with_other_hashes(tmp_path, desks):
    path = tmp_path / "sha256"
    path.mkdir()
    git(path, "init", "-q", "--object-format=sha256", "-b", "main")
    (path / "a").write_text("a")
    assert len(desks(path)("git_commit", message="a")["commit"]) == 64


def test_packed_refs_and_a_linked_working_tree(repo, desks, tmp_path):
    git(repo, "pack-refs", "--all")
    tree = tmp_path / "tree"
    git(repo, "worktree", "add", "-q", str(tree), "-b", "feature/x")
    (tree / "b").write_text("b")
    made = desks(tree)("git_commit", message="in the tree")
    assert made["branch"] == "feature/x"
    assert git(repo, "rev-parse", "feature/x").strip() == made["commit"]
    assert git(tree, "status", "--porcelain") == ""
    assert git(repo, "log", "--format=%s", "main") == "first\n"


def test_a_long_answer_is_cut(repo, desk):
    (repo / "a.txt").write_text("line of text\n" * 50_000)
    diff = desk("git_diff")
    assert diff["cut"]
    assert diff["size_bytes"] > 500_000
    assert len(diff["diff"]) < 70_000
    for number in range(1200):
        (repo / f"f{number}").write_text("")
    status = desk("git_status")
    assert status["cut"]
    assert status["total"] == 1201
    assert len(status["changed"]) <= 1000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository to somebody else")
def test_a_repository_of_another_user(repo, desk):
    for folder, names, files in os.walk(repo):
        for name in (*names, *files):
            os.chown(os.path.join(folder, name), 65534, 65534, follow_symlinks=False)
    os.chown(repo, 65534, 65534)
    (repo / "b").write_text("b")
    assert desk("git_commit", message="b")["files"] == ["b"]


# --- what cannot be done ---


REFUSED = {
    "an option": {"paths": ["--output=/tmp/x"]},
    "a short option": {"paths": ["-A"]},
    "magic": {"paths": [":(exclude)x"]},
    "another root": {"paths": ["/etc/passwd"]},
    "a way up": {"paths": ["x/../../y"]},
    "the repository itself": {"paths": [".git/config"]},
    "the repository in another case": {"paths": ["sub/.GIT/hooks"]},
    "a NUL": {"paths": ["a\0b"]},
}


@pytest.mark.parametrize("how", sorted(REFUSED))
@pytest.mark.parametrize("tool", ["git_status", "git_diff", "git_commit"])
def test_paths_that_are_none(desk, tool, how):
    more = {"message": "x"} if tool == "git_commit" else {}
    with pytest.raises(Failed, match="is no path below the working directory"):
        desk(tool, **REFUSED[how], **more)


@pytest.mark.parametrize("message", [" \n ", "x\0y", "fine\n\nToka-Call: forged", "fine\ntoka-call: forged", f"the key is {SECRET}"])
def test_messages_that_are_none(repo, desk, message):
    (repo / "b").write_text("b")
    with pytest.raises(Failed):
        desk("git_commit", message=message)
    assert git(repo, "rev-list", "--count", "HEAD") == "1\n"
    assert git(repo, "status", "--porcelain") == "?? b\n"
    assert bool(desk.threats) == (SECRET in message)


def test_nothing_to_commit_a_detached_head_and_a_merge_under_way(repo, desk):
    with pytest.raises(Failed, match="nothing to commit"):
        desk("git_commit", message="x")
    with pytest.raises(Failed, match="nothing to commit"):
        desk("git_commit", message="x", paths=["missing"])
    git(repo, "switch", "-qc", "other")
    (repo / "a.txt").write_text("other\n")
    git(repo, "commit", "-qam", "other")
    git(repo, "switch", "-q", "main")
    (repo / "a.txt").write_text("main\n")
    git(repo, "commit", "-qam", "main")
    git(repo, "merge", "other", check=False)
    with pytest.raises(Failed, match="a merge is under way"):
        desk("git_commit", message="x")
    git(repo, "merge", "--abort")
    git(repo, "switch", "-q", "--detach")
    (repo / "b").write_text("b")
    with pytest.raises(Failed, match="HEAD names no branch"):
        desk("git_commit", message="x")
    assert desk("git_status")["branch"] is None


def test_a_folder_without_a_repository_of_its_own(repo, desks):
    below = repo / "sub"
    below.mkdir()
    with pytest.raises(Failed, match="no git repository"):
        desks(below)("git_status")


# --- what an agent may have left behind ---


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "ran"


@pytest.fixture
def evil(repo, marker):
    """A program in the working directory that leaves a mark, and does what a filter, a hook or a monitor would."""
    path = repo / "evil.sh"
    path.write_text(f"#!/bin/sh\necho \"$0 $*\" >> {marker}\ncat 2>/dev/null\nexit 0\n")
    path.chmod(0o755)
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "evil")
    return path


def config(**keys):
    return lambda repo, evil: [git(repo, "config", name.replace("__", ".").replace("_X", ""), value.format(evil=evil)) for name, value in keys.items()]


def hooks(repo, evil):
    for name in ("pre-commit", "prepare-commit-msg", "commit-msg", "post-commit", "post-index-change", "reference-transaction", "pre-auto-gc", "post-rewrite"):
        shutil.copy(evil, repo / ".git/hooks" / name)


def hooks_elsewhere(repo, evil):
    (repo / "hooks").mkdir()
    for name in ("pre-commit", "post-commit", "reference-transaction", "post-index-change"):
        shutil.copy(evil, repo / "hooks" / name)
    git(repo, "config", "core.hooksPath", "hooks")


def filters(repo, evil):
    for key in ("clean", "smudge", "process"):
        git(repo, "config", f"filter.evil.{key}", str(evil))
    git(repo, "config", "filter.evil.required", "true")
    (repo / ".git/info/attributes").write_text("* filter=evil\n")


def drivers(repo, evil):
    git(repo, "config", "diff.evil.command", str(evil))
    git(repo, "config", "diff.evil.textconv", str(evil))
    git(repo, "config", "diff.external", str(evil))
    git(repo, "config", "merge.evil.driver", str(evil))
    (repo / ".git/info/attributes").write_text("* diff=evil merge=evil\n")


def included(repo, evil):
    (repo / "more.cfg").write_text(f"[core]\nfsmonitor = {evil}\n[filter \"evil\"]\nclean = {evil}\nprocess = {evil}\n")
    git(repo, "config", "include.path", "../more.cfg")
    git(repo, "config", f"includeIf.gitdir:{repo}/.path", str(repo / "more.cfg"))
    (repo / ".gitattributes").write_text("* filter=evil\n")


def worktree_config(repo, evil):
    git(repo, "config", "core.repositoryformatversion", "1")
    git(repo, "config", "extensions.worktreeConfig", "true")
    (repo / ".git/config.worktree").write_text(f"[core]\nfsmonitor = {evil}\nhooksPath = {evil.parent}\n")


def submodule(repo, evil):
    sub = repo / "sub"
    shutil.copytree(repo / ".git", sub / ".git")
    git(sub, "reset", "-q", "--hard")
    git(sub, "config", "core.fsmonitor", str(evil))
    git(sub, "config", "filter.evil.clean", str(evil))
    (sub / ".git/info/attributes").write_text("* filter=evil\n")
    (sub / "a.txt").write_text("changed\n")
    git(repo, "-c", "advice.addEmbeddedRepo=false", "add", "sub")


PLANTED = {
    "hooks": hooks,
    "hooks elsewhere": hooks_elsewhere,
    "a monitor": config(core__fsmonitor="{evil}"),
    "a monitor of the second kind": config(core__fsmonitor="{evil}", core__fsmonitorHookVersion="2"),
    "filters": filters,
    "drivers": drivers,
    "an included file": included,
    "config of the working tree": worktree_config,
    "a submodule": submodule,
    "signing": config(commit__gpgSign="true", gpg__program="{evil}", user__signingKey="x", gpg__ssh__program="{evil}"),
    "pager and editor": config(core__pager="{evil}", core__editor="{evil}", sequence__editor="{evil}", pager__status="{evil}", pager__diff="{evil}"),
    "transport": config(core__sshCommand="{evil}", core__gitProxy="{evil}", core__askPass="{evil}", credential__helper="{evil}"),
    "aliases": config(alias__status="!{evil}", alias__commit="!{evil}", alias__add="!{evil}"),
    "trailers": config(trailer__x__command="{evil}", trailer__x__cmd="{evil}", trailer__ifexists="replace"),
    "another working tree": config(core__worktree="/etc"),
    "maintenance": config(gc__auto="1", gc__recentObjectsHook="{evil}", maintenance__auto="true", core__alternateRefsCommand="{evil}"),
}


@pytest.mark.parametrize("walls", [True, False], ids=["walls", "config alone"])
@pytest.mark.parametrize("how", sorted(PLANTED))
def test_nothing_in_the_repository_gets_to_act(repo, desks, evil, marker, how, walls):
    """Neither with Landlock around git nor without it: each of the two holds alone."""
    PLANTED[how](repo, evil)
    marker.unlink(missing_ok=True)
    desk = desks(repo, walls=walls)
    time_before = (repo / "a.txt").stat().st_mtime_ns
    (repo / "a.txt").write_text("changed\n")
    os.utime(repo / "a.txt", ns=(time_before + 10**10, time_before + 10**10))
    assert "a.txt" in {one["path"] for one in desk("git_status")["changed"]}
    assert "+changed" in desk("git_diff")["diff"]
    end = desk.end("git_commit", message="changed", paths=["a.txt"])
    if how in {"filters", "an included file"}:
        # What would be stored is not what the repository says should be.
        assert "is to be stored through the filter evil" in (end.error or "")
    else:
        assert end.error is None, end.error
        assert end.result["files"] == ["a.txt"]
    assert not marker.exists(), marker.read_text()


def test_the_traps_of_these_tests_do_catch_git_itself(repo, evil, marker):
    """The positive twin: git as a person runs it falls into them, so an unsprung trap above means something."""
    for name in ("hooks", "a monitor", "filters"):
        PLANTED[name](repo, evil)
        (repo / "a.txt").write_text(f"{name}\n")
        git(repo, "add", "a.txt", check=False)
        git(repo, "commit", "-m", name, check=False)
        assert marker.exists(), name
        marker.unlink()


@pytest.fixture
def other(tmp_path):
    """A repository of somebody else, with a secret in it."""
    path = tmp_path / "other"
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    (path / "secret.txt").write_text("the secret\n")
    git(path, "add", ".")
    git(path, "commit", "-qm", "secret")
    return path


def pointed(repo, other):
    shutil.rmtree(repo / ".git")
    (repo / ".git").write_text(f"gitdir: {other}/.git\n")


def pointed_as_worktree(repo, other):
    forged = repo / "forged" / "worktrees" / "x"
    forged.mkdir(parents=True)
    (forged / "commondir").write_text(f"{other}/.git\n")
    (forged / "gitdir").write_text(f"{repo}/.git\n")
    (forged / "HEAD").write_text("ref: refs/heads/main\n")
    shutil.rmtree(repo / ".git")
    (repo / ".git").write_text(f"gitdir: {forged}\n")


def linked(repo, other):
    shutil.rmtree(repo / ".git")
    (repo / ".git").symlink_to(other / ".git")


def replaced(name):
    def act(repo, other):
        path = repo / ".git" / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(other / ".git" / name)

    return act


def borrowed(repo, other):
    (repo / ".git/objects/info/alternates").write_text(f"{other}/.git/objects\n")


def common(repo, other):
    (repo / ".git/commondir").write_text(f"{other}/.git\n")


def fifo(name):
    def act(repo, other):
        (repo / ".git" / name).unlink(missing_ok=True)
        os.mkfifo(repo / ".git" / name)

    return act


def head(content):
    return lambda repo, other: (repo / ".git/HEAD").write_bytes(content)


ELSEWHERE = {
    "a pointer": pointed,
    "a forged working tree": pointed_as_worktree,
    "a link": linked,
    "objects": replaced("objects"),
    "refs": replaced("refs"),
    "HEAD": replaced("HEAD"),
    "index": replaced("index"),
    "config": replaced("config"),
    "packed-refs": replaced("packed-refs"),
    "alternates": borrowed,
    "commondir": common,
    "a pipe as index": fifo("index"),
    "a pipe as HEAD": fifo("HEAD"),
    "a pipe as config": fifo("config"),
    "a pipe as packed-refs": fifo("packed-refs"),
    "a HEAD that leads out": head(b"ref: refs/heads/../../x\n"),
    "a HEAD that is no branch": head(b"ref: refs/remotes/x\n"),
    "a HEAD of garbage": head(b"\xff" * 9000),
    "a HEAD with an option": head(b"ref: --help\n"),
}


@pytest.mark.parametrize("how", sorted(ELSEWHERE))
def test_a_repository_that_leads_elsewhere_is_not_used(repo, desk, other, how):
    before = git(other, "log", "--all", "--format=%H")
    ELSEWHERE[how](repo, other)
    (repo / "b").write_text("b")
    for tool, more in (("git_status", {}), ("git_diff", {}), ("git_commit", {"message": "x"})):
        with pytest.raises(Failed) as caught:
            desk(tool, **more)
        assert "the secret" not in str(caught.value)
    assert git(other, "log", "--all", "--format=%H") == before


def test_alternates_that_were_there_before_are_used(other, desks, tmp_path):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--shared", str(other), str(clone))
    desk = desks(clone)
    (clone / "b").write_text("b")
    assert desk("git_commit", message="b")["files"] == ["b"]


def test_links_in_the_tree_are_links_and_not_what_they_lead_to(repo, desk, tmp_path):
    (tmp_path / "secret.txt").write_text("the secret\n")
    (repo / "file").symlink_to(tmp_path / "secret.txt")
    (repo / "folder").symlink_to(tmp_path)
    desk("git_commit", message="links", paths=["file", "folder"])
    assert git(repo, "cat-file", "blob", "HEAD:file") == str(tmp_path / "secret.txt")
    with pytest.raises(Failed):
        desk("git_commit", message="through", paths=["folder/secret.txt"])
    assert "the secret" not in git(repo, "log", "-p", "--all")


def test_a_git_that_was_planted_is_not_run(repo, desks, marker):
    planted = repo / "bin"
    planted.mkdir()
    (planted / "git").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (planted / "git").chmod(0o755)
    desk = desks(repo, caller={"PATH": f"{planted}:.:{os.environ['PATH']}"})
    assert desk("git_status")["branch"] == "main"
    assert not marker.exists()
    empty = desks(repo, caller={"PATH": str(planted)})
    with pytest.raises(Failed, match="git is not installed"):
        empty("git_status")


def test_git_gets_an_environment_of_its_own(repo, desks, tmp_path):
    """Nothing of the caller's but three kinds of names, above all no key."""
    tools = tmp_path / "tools"
    tools.mkdir()
    seen = tmp_path / "seen"
    (tools / "git").write_text(f"#!/bin/sh\n/usr/bin/env > {seen}\nexec {shutil.which('git')} \"$@\"\n")
    (tools / "git").chmod(0o755)
    caller = {"PATH": f"{tools}:/usr/bin:/bin", "ANTHROPIC_API_KEY": SECRET, "GIT_DIR": "/elsewhere", "GIT_CONFIG_COUNT": "1", "HOME": "/root", "TZ": "UTC"}
    desk = desks(repo, caller=caller, walls=False)
    desk("git_status")
    names = {line.partition("=")[0] for line in seen.read_text().splitlines()}
    assert SECRET not in seen.read_text()
    assert "GIT_DIR" not in names
    assert "GIT_CONFIG_COUNT" not in names
    assert {"GIT_CONFIG_NOSYSTEM", "GIT_TERMINAL_PROMPT", "TZ"} <= names
    assert "HOME=/root" not in seen.read_text()


def test_a_lock_that_somebody_left_is_said_and_one_of_ours_is_not_left(repo, desk):
    (repo / "b").write_text("b")
    lock = repo / ".git/index.lock"
    lock.write_text("")
    with pytest.raises(Failed, match=r"index\.lock"):
        desk("git_commit", message="b")
    lock.unlink()
    desk("git_commit", message="b")
    assert not lock.exists()
    # Nothing of the kernel's own view is left either.
    scratch = desk.run.scratch()
    assert list(scratch.iterdir()) == []
    assert stat.S_IMODE(scratch.stat().st_mode) == 0o700


def test_a_filter_on_another_path_is_no_matter(repo, desk):
    (repo / ".gitattributes").write_text("*.bin filter=lfs\n")
    (repo / "b.txt").write_text("b")
    (repo / "c.bin").write_text("c")
    assert desk("git_commit", message="b", paths=["b.txt", ".gitattributes"])["total"] == 2
    with pytest.raises(Failed, match=r"c\.bin is to be stored through the filter lfs"):
        desk("git_commit", message="c")
