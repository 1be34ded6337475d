"""Layers of settings, their origins, and what a project's file may not do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toka_cli.errors import InvalidSpecs, Problem
from toka_cli.settings import Settings, describe, key_status, load_settings


def file(folder: Path, text: str | bytes, name: str = "toka.toml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(project: Path | None = None, user: Path | None = None, **env: str) -> tuple[Problem, ...]:
    with pytest.raises(InvalidSpecs) as caught:
        load_settings({}, env, project, user)
    return caught.value.problems


def test_built_in_values_are_the_documented_ones() -> None:
    found, origins = load_settings({}, {}, None, None)
    assert found == Settings()
    assert found.process.max_concurrent_processes == 10
    assert found.resources.max_memory_bytes == 2 * 1024**3
    assert (found.resources.cpu_share, found.llm.rate_limit, found.llm.timeout_s) == (0.8, 60, 30.0)
    assert set(origins.values()) == {"built in"}
    assert "process.spawn_timeout" in origins


def test_every_layer_beats_the_one_below_and_says_so(tmp_path: Path) -> None:
    user = file(tmp_path, '[llm]\nmodel = "user"\nrate_limit = 50\ntimeout = "5s"\nprovider = "p"\n', "user.toml")
    project = file(tmp_path, '[llm]\nmodel = "project"\nrate_limit = 40\ntimeout = "6s"\n')
    env = {"LLM_MODEL": "seed", "LLM_RATE_LIMIT": "30", "TOKA_LLM_MODEL": "toka"}
    found, origins = load_settings({"llm.model": "flag", "llm.timeout": None}, env, project, user)
    assert (found.llm.model, origins["llm.model"]) == ("flag", "flag")
    assert (found.llm.rate_limit, origins["llm.rate_limit"]) == (30, "LLM_RATE_LIMIT")
    assert (found.llm.timeout_s, origins["llm.timeout"]) == (6.0, str(project))
    assert (found.llm.provider, origins["llm.provider"]) == ("p", str(user))
    assert load_settings({}, env, project, user)[1]["llm.model"] == "TOKA_LLM_MODEL"


def test_file_values_in_every_group(tmp_path: Path) -> None:
    text = (
        '[process]\nmax_concurrent_processes = 3\nspawn_timeout = "1m"\nstart_method = "fresh"\n[resources]\nmax_memory = "1GB"\ncpu_limit = "50%"\n'
        "[mcp]\nrequest_timeout = 5\n[monitoring]\nheartbeat_timeout = 2.5\nprogress_timeout = 600\n"
        "[recovery]\nenable_auto_restart = false\n[llm]\ndebug = true\n"
    )
    found, _ = load_settings({}, {}, file(tmp_path, text), None)
    assert (found.process.max_concurrent_processes, found.process.spawn_timeout_s, found.process.start_method) == (3, 60.0, "fresh")
    assert (found.resources.max_memory_bytes, found.resources.cpu_share) == (1024**3, 0.5)
    assert (found.mcp.request_timeout_s, found.monitoring.heartbeat_timeout_s, found.monitoring.progress_timeout_s) == (5.0, 2.5, 600.0)
    assert (found.recovery.enable_auto_restart, found.llm.debug) == (False, True)


def test_an_empty_variable_is_not_set() -> None:
    assert load_settings({}, {"LLM_MODEL": ""}, None, None)[1]["llm.model"] == "built in"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('[llm]\nbase_url = "http://evil.example"', "not_allowed"),
        ("[process]\nenable_isolation = false", "not_allowed"),
        ('[llm]\napi_key = "sk-1"', "not_allowed"),
    ],
)
def test_a_project_cannot_open_anything(tmp_path: Path, line: str, code: str) -> None:
    project = file(tmp_path, line)
    (found,) = problems(project)
    assert (found.code, found.path, found.line, found.column) == (code, str(project), 2, 1)
    assert "sk-1" not in found.message + (found.hint or "")


def test_the_user_can_set_what_a_project_cannot(tmp_path: Path) -> None:
    user = file(tmp_path, '[llm]\nbase_url = "http://127.0.0.1:8000/v1"\n[process]\nenable_isolation = false\n')
    found, _ = load_settings({}, {}, None, user)
    assert found.llm.base_url == "http://127.0.0.1:8000/v1"
    assert found.process.enable_isolation is False


def test_a_project_lowers_a_users_limit_but_does_not_raise_it(tmp_path: Path) -> None:
    user = file(tmp_path, '[resources]\nmax_memory = "1GB"\ncpu_limit = "50%"\n', "user.toml")
    project = file(tmp_path, '[resources]\nmax_memory = "8GB"\ncpu_limit = "20%"\n')
    found, origins = load_settings({}, {}, project, user)
    assert (found.resources.max_memory_bytes, origins["resources.max_memory"]) == (1024**3, str(user))
    assert (found.resources.cpu_share, origins["resources.cpu_limit"]) == (0.2, str(project))


def test_the_users_file_is_not_judged_as_a_project(tmp_path: Path) -> None:
    both = file(tmp_path, '[llm]\nbase_url = "https://x.example"\n')
    assert load_settings({}, {}, both, both)[0].llm.base_url == "https://x.example"


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("[process]\nspawn_timout = 3\n", 2, 1, "unknown key process.spawn_timout"),
        ("\n[proces]\nx = 1\n", 2, 1, "unknown group [proces]"),
        ("[resources]\n  max_memory = 'lots'\n", 2, 3, "resources.max_memory: not an amount"),
        ("a = \n", 1, 5, "not TOML"),
        ("[process]\nstart_method = ['x']\n", 2, 1, "must be auto, forkserver or fresh"),
        ("[llm]\nrate_limit = true\n", 2, 1, "whole number"),
        ("x = " + "[" * 5000, 0, 0, "not TOML"),
    ],
)
def test_bad_files_name_the_place(tmp_path: Path, text: str, line: int, column: int, words: str) -> None:
    (found,) = problems(file(tmp_path, text))
    assert words in found.message
    if line:
        assert (found.line, found.column) == (line, column)


def test_did_you_mean(tmp_path: Path) -> None:
    assert problems(file(tmp_path, "[process]\nspawn_timout = 3\n"))[0].hint == "did you mean 'spawn_timeout'?"


def test_all_problems_of_all_layers_at_once(tmp_path: Path) -> None:
    found = problems(file(tmp_path, "[llm]\nx = 1\ny = 2\n"), file(tmp_path, b"\xff\xfe", "user.toml"), TOKA_PROCESS_SPAWN_TIMEOUT="never")
    assert len(found) == 4
    assert any("TOKA_PROCESS_SPAWN_TIMEOUT" in problem.message for problem in found)


def test_a_file_that_is_not_there_sets_nothing(tmp_path: Path) -> None:
    assert load_settings({}, {}, tmp_path / "none.toml", None)[0] == Settings()


def test_keys_and_passwords_are_never_shown() -> None:
    env = {"OPENAI_API_KEY": "sk-secret", "LLM_BASE_URL": "https://me:hunter2@host.example/v1?key=abc"}
    found, origins = load_settings({}, env, None, None)
    text = str(describe(found, origins)) + str(key_status(env))
    assert "('llm.base_url', 'https://host.example/v1', 'LLM_BASE_URL')" in text
    assert "hunter2" not in text
    assert "abc" not in text
    assert "sk-secret" not in text
    assert key_status(env)["OPENAI_API_KEY"] == "set"
    assert key_status(env)["ANTHROPIC_API_KEY"] == "not set"


def test_values_are_shown_as_people_write_them() -> None:
    shown = {name: value for name, value, _ in describe(*load_settings({}, {}, None, None))}
    assert (shown["resources.max_memory"], shown["resources.cpu_limit"], shown["resources.max_task_duration"]) == ("2 GB", "80%", "5m0s")
    assert (shown["process.enable_isolation"], shown["llm.model"]) == ("true", "not set")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.one_of(st.binary(), st.text().map(str.encode), st.text().map(lambda text: f"[llm]\nmodel = {text}".encode())))
def test_any_file_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    found: Settings | None = None
    refused: tuple[Problem, ...] = ()
    try:
        found, _ = load_settings({}, {}, file(tmp_path, data), None)
    except InvalidSpecs as error:
        refused = error.problems
    assert (found is None) == bool(refused)


def test_the_policy_of_the_user(tmp_path: Path) -> None:
    text = '[policy]\npreset = "restricted"\nallow = ["agent-spawn", {network-access = ["api.example.com:443"]}]\ndeny = ["git-access"]\non_threat = "stop"\n'
    user = file(tmp_path, text, "user.toml")
    found, origins = load_settings({}, {}, None, user)
    assert found.policy.preset == "restricted"
    assert found.policy.allow == (("agent-spawn", ()), ("network-access", ("api.example.com:443",)))
    assert (found.policy.deny, found.policy.on_threat, found.policy.source) == (("git-access",), "stop", str(user))
    assert origins["policy.deny"] == str(user)
    assert found.project_policy is None
    shown = {name: value for name, value, _ in describe(found, origins)}
    assert shown["policy.allow"] == "agent-spawn, network-access=api.example.com:443"
    assert shown["policy.deny"] == "git-access"


def test_the_policy_in_variables() -> None:
    env = {"TOKA_POLICY_PRESET": "sandboxed", "TOKA_POLICY_ALLOW": "git-access, filesystem-write=src/**+docs/**", "TOKA_POLICY_DENY": "agent-spawn"}
    found, _ = load_settings({}, env, None, None)
    assert found.policy.preset == "sandboxed"
    assert found.policy.allow == (("git-access", ()), ("filesystem-write", ("src/**", "docs/**")))
    assert (found.policy.deny, found.policy.source) == (("agent-spawn",), "TOKA_POLICY_PRESET and TOKA_POLICY_ALLOW and TOKA_POLICY_DENY")


def test_a_projects_policy_stands_beneath_the_users_and_replaces_nothing_of_it(tmp_path: Path) -> None:
    user = file(tmp_path, '[policy]\npreset = "sandboxed"\n', "user.toml")
    project = file(tmp_path, '[policy]\npreset = "privileged"\nallow = ["network-access"]\n')
    found, origins = load_settings({}, {}, project, user)
    assert (found.policy.preset, found.policy.allow, origins["policy.preset"]) == ("sandboxed", (), str(user))
    assert found.project_policy is not None
    assert (found.project_policy.preset, found.project_policy.source) == ("privileged", str(project))
    rows = {name: (value, origin) for name, value, origin in describe(found, origins)}
    assert rows["policy.allow (narrows)"] == ("network-access", str(project))
    assert "policy.deny (narrows)" not in rows


@pytest.mark.parametrize(
    ("mine", "theirs", "holds"),
    [("record", "stop", "stop"), ("stop", "record", "stop"), ("pause", "stop", "stop"), (None, "record", "pause"), (None, "stop", "stop")],
)
def test_the_stricter_answer_to_a_threat_holds(tmp_path: Path, mine: str | None, theirs: str, holds: str) -> None:
    user = file(tmp_path, f'[policy]\non_threat = "{mine}"\n' if mine else "", "user.toml")
    project = file(tmp_path, f'[policy]\non_threat = "{theirs}"\n')
    assert load_settings({}, {}, project, user)[0].policy.on_threat == holds


@pytest.mark.parametrize(
    "line",
    [
        'preset = "open"', "allow = 3", "allow = [3]", "allow = [{a = ['x'], b = ['y']}]", "allow = [{a = []}]", "allow = ['a', 'a']", "allow = [{a = 'x'}]",
        "deny = [{a = ['x']}]", "deny = ['']", "on_threat = 'ask'",
    ],
)  # fmt: skip
def test_a_policy_that_cannot_be_read(tmp_path: Path, line: str) -> None:
    (found,) = problems(file(tmp_path, f"[policy]\n{line}\n"))
    assert (found.code, found.line) == ("setting", 2)
    assert found.message.startswith("policy.")
