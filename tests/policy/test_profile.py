"""Powers as walls: never wider than the grant."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toka_cli.policy.capability import POWERS
from toka_cli.policy.confine import within
from toka_cli.policy.places import GitPlaces, Named, Places
from toka_cli.policy.profile import Ground, narrowed, profile_of

FULL, STANDARD, OLD = Ground("full", proxy=True), Ground("standard", proxy=True), Ground("standard", proxy=False)
GIT = GitPlaces(folders=("/w/.git",), protect=("/w/.git/hooks", "/w/.git/config"), entries=("/w/.git", "/w/sub/.git"))
PLACES = Places(
    workdir="/w", system=("/usr",), settings=("/etc/ssl/certs",), devices=("/dev/null",), shared=("/etc/passwd", "/proc"), python=("/opt/py",),
    own=("/opt/toka", "/opt/py"), scripts=("/home/u/.pyenv",), cargo=("/home/u/.cargo/bin",), crates=("/home/u/.cargo/registry",),
    git_settings=("/etc/gitconfig",), git=GIT,
    named={
        "src": Named("folder", "/w/src"), "docs": Named("folder", "/w/docs"), "a.py": Named("file", "/w/a.py"), "out": Named("missing", "/w/out"),
        "away": Named("outside", "/etc"), "target": Named("folder", "/w/target"), "tools/run.sh": Named("file", "/w/tools/run.sh"),
    },
    sockets={"/run/db.sock": "/run/db.sock", "/run/none": None},
)  # fmt: skip


def made(powers, ground=FULL, places=PLACES):
    return profile_of(powers, places, ground)


def everything(walls):
    return {*walls.read, *walls.execute, *walls.write, *walls.write_execute}


def test_no_grant_is_the_system_and_nothing_of_the_workspace():
    walls = made({}).walls
    assert walls.level == "full"
    assert walls.execute == ("/usr", "/opt/py")
    assert walls.read == ("/etc/ssl/certs",)
    assert walls.write == ("/dev/null",)
    assert (walls.write_execute, walls.protect, walls.network, walls.sockets) == ((), (), "none", ())
    assert not any(path.startswith(("/w", "/home")) for path in everything(walls))


def test_names_of_users_and_proc_are_shared_only_where_there_are_none_of_its_own():
    assert {"/etc/passwd", "/proc"} <= set(made({}, STANDARD).walls.read)
    assert not {"/etc/passwd", "/proc"} & everything(made({}).walls)


def test_reading_is_read_only():
    walls = made({"filesystem-read": ()}).walls
    assert "/w" in walls.read
    assert "/w" not in (*walls.execute, *walls.write, *walls.write_execute)


def test_writing_keeps_git_and_runs_nothing():
    walls = made({"filesystem-write": ()}).walls
    assert "/w" in walls.write
    assert walls.write_execute == ()
    assert {"/w/.git", "/w/sub/.git"} <= set(walls.protect)
    assert "/w/.git" not in everything(walls)


def test_scripts_run_in_the_workspace_with_toolchains_and_a_private_loopback():
    profile = made({"script-execution": ()})
    assert profile.walls.write_execute == ("/w",)
    assert "/home/u/.pyenv" in profile.walls.execute
    assert profile.walls.network == "loopback"
    assert "/w/.git" in profile.walls.protect
    assert made({"script-execution": ()}, STANDARD).walls.network == "none"
    assert "/home/u/.cargo/bin" not in everything(profile.walls)


def test_git_is_written_but_for_hooks_and_config():
    alone = made({"git-access": ()}).walls
    assert "/w/.git" in alone.write
    assert "/w" not in everything(alone)
    assert alone.protect == ("/w/.git/hooks", "/w/.git/config")
    both = made({"git-access": (), "filesystem-write": ()}).walls
    # A submodule's pointer says which repository it is; the repository itself is open.
    assert set(both.protect) == {"/w/.git/hooks", "/w/.git/config", "/w/sub/.git"}
    assert "/etc/gitconfig" in alone.read
    assert "/etc/gitconfig" not in everything(made({"script-execution": ()}).walls)


def test_a_worktree_opens_its_real_repository_and_keeps_its_pointer():
    git = GitPlaces(folders=("/r/.git/worktrees/w", "/r/.git"), protect=("/r/.git/hooks",), entries=("/w/.git",))
    walls = made({"git-access": (), "filesystem-write": ()}, places=replace(PLACES, git=git)).walls
    assert "/r/.git" in walls.write
    assert "/r/.git/worktrees/w" not in walls.write
    assert {"/w/.git", "/r/.git/hooks"} <= set(walls.protect)


def test_a_repository_that_is_not_accepted_opens_nothing():
    profile = made({"git-access": ()}, places=replace(PLACES, git=GitPlaces(problem="/w/.git belongs to another user")))
    assert "/w/.git" not in everything(profile.walls)
    assert profile.notes == ("git-access: /w/.git belongs to another user; nothing is opened",)


def test_cargo_reads_sources_builds_in_target_and_sees_no_credential():
    walls = made({"cargo-execution": ()}).walls
    assert "/w" in walls.read
    assert walls.write_execute == ("/w/target",)
    assert "/home/u/.cargo/bin" in walls.execute
    assert "/home/u/.cargo/registry" in walls.read
    assert "/home/u/.cargo" not in everything(walls)
    assert walls.network == "none"


def test_cargo_gets_a_lock_file_to_write_where_there_is_a_project():
    missing = {name: Named("missing", f"/w/{name}") for name in ("Cargo.lock", "target")}
    named = {**PLACES.named, "Cargo.toml": Named("file", "/w/Cargo.toml"), **missing}
    profile = made({"cargo-execution": ()}, places=replace(PLACES, named=named))
    assert "/w/Cargo.lock" in profile.walls.write
    assert (profile.folders, profile.files) == (("target",), ("Cargo.lock",))
    without = made({"cargo-execution": ()}, places=replace(PLACES, named={**named, "Cargo.toml": Named("missing", "/w/Cargo.toml")}))
    assert without.files == ()


def test_a_target_that_leads_away_is_not_opened():
    profile = made({"cargo-execution": ()}, places=replace(PLACES, named={"target": Named("outside", "/etc")}))
    assert "/etc" not in everything(profile.walls)
    assert any("target is no folder" in note for note in profile.notes)


@pytest.mark.parametrize(
    ("ground", "network"),
    [(FULL, "proxy"), (STANDARD, "proxy"), (OLD, "none")],
)
def test_hosts_are_reached_through_the_proxy_or_not_at_all(ground, network):
    profile = made({"network-access": ("api.github.com:443", "x/y")}, ground)
    assert (profile.walls.network, profile.hosts) == (network, ("api.github.com:443",))
    assert any("commands get no network" in note for note in profile.notes) == (network == "none")


def test_a_network_grant_that_lists_nothing_opens_nothing():
    profile = made({"network-access": ()})
    assert (profile.walls.network, profile.hosts) == ("none", ())


def test_the_proxy_wins_over_the_loopback_in_any_order():
    powers = {"network-access": ("a.b:1",), "script-execution": ()}
    for order in (powers, dict(reversed(powers.items()))):
        assert made(order).walls.network == "proxy"


def test_databases_by_socket_and_by_address():
    powers = {"database-access": ("/run/db.sock", "unix:/run/none", "db.example:5432", "db.example")}
    profile = made(powers)
    assert (profile.walls.sockets, profile.walls.network, profile.hosts) == (("/run/db.sock",), "proxy", ("db.example:5432",))
    assert any("'/run/none' is no socket" in note for note in profile.notes)
    standard = made(powers, STANDARD)
    assert standard.walls.sockets == ()
    assert any("all unix sockets would be open" in note for note in standard.notes)


WALLED = {"filesystem-read", "filesystem-write", "script-execution", "cargo-execution", "git-access", "network-access", "database-access"}


@pytest.mark.parametrize("name", [*sorted({power.name for power in POWERS} - WALLED), "mcp:x", "unknown"])
def test_powers_without_walls_open_none(name):
    assert made({name: ()}).walls == made({}).walls


# --- narrowed grants -------------------------------------------------------------------------------------------------------------------


def test_the_long_form_opens_the_folders_that_it_names():
    profile = made({"filesystem-read": ("src/**", "a.py"), "filesystem-write": ("docs/**",)})
    assert {"/w/src", "/w/a.py"} <= set(profile.walls.read)
    assert "/w/docs" in profile.walls.write
    assert "/w" not in everything(profile.walls)
    assert profile.cell == profile.walls
    assert profile.notes == ()


def test_a_pattern_that_no_wall_can_express_opens_nothing_to_commands_and_its_folder_to_file_tools():
    profile = made({"filesystem-write": ("docs/*.md",)})
    assert "/w/docs" not in everything(profile.walls)
    assert "/w/docs" in profile.cell.write
    assert "commands get nothing of it" in profile.notes[0]
    at_the_top = made({"filesystem-read": ("*.md",)})
    assert "/w" not in everything(at_the_top.walls)
    assert "/w" in at_the_top.cell.read
    script = made({"script-execution": ("pytest",), "filesystem-write": ("docs/*.md",)})
    assert script.cell == script.walls or "/w" in script.cell.write


def test_the_cell_runs_nothing_more_than_its_commands():
    profile = made({"script-execution": ("tools/*.sh",)})
    assert set(profile.cell.execute) <= set(profile.walls.execute)
    assert set(profile.cell.write_execute) <= set(profile.walls.write_execute)


def test_a_folder_that_is_granted_for_writing_and_missing_is_to_be_made():
    profile = made({"filesystem-write": ("out/**",)})
    assert profile.folders == ("out",)
    assert "/w/out" in profile.walls.write
    reading = made({"filesystem-read": ("out/**",)})
    assert (reading.folders, "/w/out" in everything(reading.walls)) == ((), False)
    as_a_file = made({"filesystem-write": ("out",)})
    assert as_a_file.folders == ()
    assert "a folder to be made is written NAME/**" in as_a_file.notes[0]


@pytest.mark.parametrize("pattern", ["away/**", "../x", "/etc/**", "a.py/**", "unlooked/**"])
def test_what_leads_out_or_is_no_folder_opens_nothing(pattern):
    profile = made({"filesystem-write": (pattern,)})
    assert everything(profile.walls) == everything(made({}).walls)
    assert profile.folders == ()


def test_git_is_not_opened_by_naming_it():
    named = {".git": Named("folder", "/w/.git"), ".git/hooks": Named("folder", "/w/.git/hooks")}
    profile = made({"filesystem-write": (".git/**", ".git/hooks/**")}, places=replace(PLACES, named=named))
    assert everything(profile.walls) == everything(made({}).walls)
    assert all(".git is written with git-access" in note for note in profile.notes)
    assert "/w/.git" in made({"filesystem-read": (".git/**",)}, places=replace(PLACES, named=named)).walls.read


def test_scripts_narrowed_to_programs_run_only_those_of_the_workspace():
    walls = made({"script-execution": ("pytest", "tools/run.sh")}).walls
    assert "/w" in walls.write
    assert walls.write_execute == ("/w/tools/run.sh",)


def test_tokas_own_code_is_never_writable():
    places = replace(PLACES, own=("/w/toka_cli", "/w/.venv", "/opt/toka"), python=("/w/.venv",))
    walls = made({"script-execution": ()}, places=places).walls
    assert {"/w/toka_cli", "/w/.venv"} <= set(walls.protect)
    assert "/opt/toka" not in walls.protect


def test_each_path_is_named_once_and_in_one_list():
    powers = {"filesystem-read": (), "filesystem-write": (), "script-execution": (), "cargo-execution": (), "git-access": ()}
    for ground in (FULL, STANDARD):
        walls = made(powers, ground).walls
        lists = [*walls.read, *walls.execute, *walls.write, *walls.write_execute]
        assert len(lists) == len(set(lists))
        assert "/w/target" not in lists


def test_every_power_says_what_its_walls_do():
    powers = {
        "filesystem-read": (), "filesystem-write": ("src/**",), "script-execution": (), "cargo-execution": (), "git-access": (), "network-access": ("a.b:1",)
    }  # fmt: skip
    lines = made(powers).lines
    assert set(lines) == set(powers)
    assert lines["filesystem-write"] == ("read and write /w/src", "never .git")
    assert "reach a.b:1 through toka's proxy, and nothing else" in lines["network-access"]


# --- tasks -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["filesystem-read"], {"filesystem-read": ()}),
        (["git-access"], {"git-access": ()}),
        (["filesystem-write", "network-access"], {"filesystem-write": ("src/**",)}),
        (["report-generation"], {}),
        (["script-execution"], {}),
    ],
)
def test_a_task_is_left_with_what_it_requires_of_what_its_agent_holds(names, left):
    assert narrowed({"filesystem-read": (), "filesystem-write": ("src/**",), "git-access": ()}, names) == left


def test_a_power_held_through_another_is_narrowed_like_that_one():
    assert narrowed({"filesystem-write": ("src/**",)}, ["filesystem-read"]) == {"filesystem-read": ("src/**",)}
    assert narrowed({"script-execution": ("pytest",)}, ["filesystem-write"]) == {"filesystem-write": ()}


# --- never wider -----------------------------------------------------------------------------------------------------------------------

_WORDS = [*PLACES.named, ".", "**", ".git/**", "*.md", "src/*", "/", "..", "a.b:1", "pytest", "tools/run.sh"]
_PATTERNS = st.lists(st.one_of(st.sampled_from(_WORDS), st.text(max_size=6)), max_size=3)


@given(st.dictionaries(st.sampled_from([power.name for power in POWERS]), _PATTERNS.map(tuple)), st.sampled_from([FULL, STANDARD, OLD]))
def test_whatever_is_granted_writing_stays_below_the_workdir_and_the_repository(powers, ground):
    profile = made(powers, ground)
    for walls in (profile.walls, profile.cell):
        for path in (*walls.write, *walls.write_execute):
            assert path == "/dev/null" or within(path, "/w"), path
        assert not walls.write_execute or {"script-execution", "cargo-execution"} & set(powers)
        if "git-access" not in powers:
            assert not any(within(path, "/w/.git") for path in (*walls.write, *walls.write_execute))
            if any(within("/w/.git", path) for path in (*walls.write, *walls.write_execute)):
                assert "/w/.git" in walls.protect
        if walls.network == "proxy":
            assert profile.hosts
            assert ground.proxy
    # The cell may only hold more for file tools, never a program more.
    runs = {*profile.walls.execute, *profile.walls.write_execute}
    assert {*profile.cell.execute, *profile.cell.write_execute} <= runs


@given(st.dictionaries(st.sampled_from([power.name for power in POWERS]), _PATTERNS.map(tuple)))
def test_a_grant_never_takes_a_place_from_another_one(powers):
    together = made(powers).walls
    opened = everything(together)
    for name, values in powers.items():
        for path in everything(made({name: values}).walls):
            assert any(within(path, other) for other in opened), (name, path)
