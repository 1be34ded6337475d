"""The environment of a cell: what is on the list, who the agent is, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from toka_cli.kernel.environment import DEFAULT_PATH, absolute_path, cell_environment, make_private


@pytest.fixture
def build(make_planned, make_task, tmp_path):
    def make(caller, **more):
        return cell_environment(
            caller,
            make_planned(make_task("a"), **more),
            agent_id="r-1",
            run_id="r",
            workdir="/work",
            private=tmp_path,
            python="/usr/bin/python3",
        )

    return make


SECRETS = """
    OPENAI_API_KEY ANTHROPIC_API_KEY AWS_SECRET_ACCESS_KEY GITHUB_TOKEN SSH_AUTH_SOCK LD_PRELOAD LD_LIBRARY_PATH PYTHONPATH
    PYTHONSTARTUP BASH_ENV ENV GIT_SSH_COMMAND NODE_OPTIONS HTTP_PROXY https_proxy TOKA_STATE_DIR
    TOKA_CONFIG XDG_RUNTIME_DIR DISPLAY HISTFILE AGENT_NAME_ lc_all LANGX
""".split()  # noqa: SIM905  a column of names reads better


def test_nothing_is_inherited_but_what_is_on_the_list(build):
    caller = dict.fromkeys(SECRETS, "secret") | {"LANG": "de_DE.UTF-8", "LC_TIME": "C", "TZ": "UTC", "CI": "true", "PATH": "/usr/bin"}
    environment = build(caller)
    assert not set(SECRETS) & set(environment)
    assert "secret" not in environment.values()
    assert {name: environment[name] for name in ("LANG", "LC_TIME", "TZ", "CI", "PATH")} == {
        name: caller[name] for name in ("LANG", "LC_TIME", "TZ", "CI", "PATH")
    }


def test_who_the_agent_is_and_where_it_works(build):
    environment = build({}, domain="build", branch="agent/one", priority="high")
    expected = {"AGENT_ID": "r-1", "AGENT_NAME": "one", "AGENT_DOMAIN": "build", "AGENT_BRANCH": "agent/one", "AGENT_PRIORITY": "high",
                "AGENT_WORKDIR": "/work",                "WORKSTREAM": "w", "TOKA_RUN_ID": "r", "TERM": "dumb"}  # fmt: skip
    assert {name: environment[name] for name in expected} == expected


def test_the_caller_cannot_say_who_the_agent_is(build):
    assert build({"AGENT_NAME": "someone else", "HOME": "/root", "TMPDIR": "/tmp"})["AGENT_NAME"] == "one"


def test_home_and_caches_are_private(build, tmp_path):
    environment = build({"HOME": "/root", "XDG_CACHE_HOME": "/root/.cache"})
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "PIP_CACHE_DIR", "UV_CACHE_DIR", "npm_config_cache", "CARGO_HOME"):
        assert environment[name].startswith(str(tmp_path))
    make_private(tmp_path)
    make_private(tmp_path)
    assert Path(environment["HOME"]).is_dir()
    assert Path(environment["TMPDIR"]).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/usr/bin:/bin", "/usr/bin:/bin"),
        (".:/usr/bin", "/usr/bin"),
        ("/usr/bin:", "/usr/bin"),
        (":/usr/bin", "/usr/bin"),
        ("/usr/bin::/bin", "/usr/bin:/bin"),
        ("bin:node_modules/.bin:/usr/bin:../x", "/usr/bin"),
        ("~/bin:/bin", "/bin"),
        ("", DEFAULT_PATH),
        ("relative", DEFAULT_PATH),
    ],
)
def test_through_path_no_program_of_the_workdir_is_found(build, path, kept):
    assert absolute_path(path) == kept
    assert build({"PATH": path})["PATH"] == kept


def test_control_characters_in_names_do_not_make_lines(build):
    environment = build({}, domain="a\nLD_PRELOAD=/x.so", branch="b\x1b[31m\x00c", workstream="x\x9b2J\r\ty")
    assert environment["AGENT_DOMAIN"] == "a LD_PRELOAD=/x.so"
    assert environment["AGENT_BRANCH"] == "b [31m c"
    assert environment["WORKSTREAM"] == "x 2J  y"


def test_bytes_that_are_no_text_do_not_stop_an_agent(build):
    environment = build({"LANG": os.fsdecode(b"\xff\xfe"), "PATH": os.fsdecode(b"/usr/bin:/opt/\xff")})
    for value in environment.values():
        value.encode("utf-8")
    assert environment["PATH"].startswith("/usr/bin:")


def test_a_toolchain_is_found_only_with_its_grant(build):
    assert "RUSTUP_HOME" not in build({"HOME": "/root"})
    assert build({"HOME": "/root"}, grants=("cargo-execution",))["RUSTUP_HOME"] == "/root/.rustup"
    assert build({"RUSTUP_HOME": "/opt/rustup"}, grants=("cargo-execution",))["RUSTUP_HOME"] == "/opt/rustup"
