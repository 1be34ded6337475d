"""Each line of a spec's grants, compiled three ways; who held what back; what a task is left with; what prompts are built from."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from toka_cli.plan.options import Machine, PlanOptions
from toka_cli.plan.plan import Plan, plan_json
from toka_cli.plan.planner import make_plan
from toka_cli.policy.ceiling import ceiling
from toka_cli.policy.places import GitPlaces, Named, Places
from toka_cli.spec.load import load_paths, load_text

MACHINE = Machine(cpu_count=4, memory_bytes=1 << 33, start_method="forkserver", filesystem="landlock", network="namespace", landlock_abi=7)
PLACES = Places(
    workdir="/work", system=("/usr",), scripts=("/home/u/.pyenv",), git=GitPlaces(("/work/.git",), ("/work/.git/hooks",), ("/work/.git",)),
    named={"src": Named("folder", "/work/src"), "docs": Named("folder", "/work/docs"), "out": Named("missing", "/work/out")},
)  # fmt: skip
TOOLS = {"read_file": "filesystem-read", "write_file": "filesystem-write", "git_status": "git-access", "run_command": "script-execution", "report": None}

SPEC = """\
metadata: {name: x}
spec: {name: The X, domain: testing, description: Does x}
capabilities: {primary: [python], secondary: [yaml, python]}
objectives:
  - {description: It works, deliverable: [out/**], validation: somebody looks}
  - {description: It is tested, validation: {run: [pytest, -q]}}
behavioral_directives: {never: [push, {delete: files}], style: calm}
success_criteria: [fast, correct]
tasks:
  default:
    - {id: look, description: Look, run: [cat, a], requires: [filesystem_read]}
    - {id: commit, description: Commit, run: [git, commit], requires: [git-access]}
    - {id: test, description: Test, run: [pytest]}
    - {id: think, description: Think}
security:
  capabilities_required:
    - file_system_write: [src/**]
    - git-access
    - mcp:cortex.search_*
    - report-generation
    - filesystem-raed
"""


def agents_of(text: str = SPEC):
    return load_text(text, path="x.yaml").checked().agents


def plan_of(agents=None, machine=MACHINE, orchestration=None, **options) -> Plan:
    options = {"workdir": "/work", "places": PLACES, "model": "test/model", **options}
    result = make_plan(agents or agents_of(), orchestration, PlanOptions(**options), machine, TOOLS)
    assert result.plan is not None, result.problems
    return result.plan


def permission(plan: Plan, grant: str):
    return next(each for each in plan.agents[0].permissions if each.grant == grant)


# --- three forms -----------------------------------------------------------------------------------------------------------------------


def test_each_line_comes_with_its_place_its_tools_its_kernel_and_its_walls():
    plan = plan_of()
    assert [each.grant for each in plan.agents[0].permissions] == [
        "file_system_write", "git-access", "mcp:cortex.search_*", "report-generation", "filesystem-raed",
    ]  # fmt: skip
    write = permission(plan, "file_system_write")
    assert (write.power, write.where, write.values) == ("filesystem-write", "x.yaml:17:7", ("src/**",))
    assert write.tools == ("read_file", "write_file")
    assert write.kernel == ("file tools below the workdir, links resolved, only src/**",)
    assert write.walls == ("read and write /work/src", "never .git")
    assert write.held_back is None
    git = permission(plan, "git-access")
    assert (git.where, git.tools) == ("x.yaml:18:7", ("git_status",))
    assert "read and write /work/.git" in git.walls
    mcp = permission(plan, "mcp:cortex.search_*")
    assert mcp.kernel == ("tools search_* of the MCP server cortex",)
    assert mcp.walls == ()


def test_names_that_grant_nothing_say_so():
    plan = plan_of()
    assert permission(plan, "report-generation").kernel == ("grants nothing: a skill, for the prompt",)
    unknown = permission(plan, "filesystem-raed")
    assert unknown.kernel == ("grants nothing: nobody knows this name (did you mean filesystem-read?)",)
    assert (unknown.tools, unknown.walls) == ((), ())


def test_the_plans_json_has_permissions_and_walls_and_survives_storage():
    plan = plan_of()
    (agent,) = json.loads(json.dumps(plan_json(plan)))["agents"]
    assert {"grant", "power", "where", "values", "tools", "kernel", "walls", "held_back"} == agent["permissions"][0].keys()
    assert agent["walls"]["level"] == "full"
    assert "/work/src" in agent["walls"]["write"]
    assert (agent["hosts"], agent["model"]) == ([], "test/model")
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_without_walls_the_permissions_do_not_claim_any():
    plan = plan_of(no_sandbox=True)
    assert permission(plan, "git-access").walls == ("nothing is held: no walls",)
    assert plan.agents[0].walls is None
    assert all(task.walls is None for task in plan.agents[0].tasks)
    (agent,) = plan_json(plan)["agents"]
    assert agent["walls"] is None


def test_folders_to_be_made_and_wider_walls_of_the_cell():
    text = SPEC.replace("[src/**]", '["out/**", "docs/*.md"]')
    agent = plan_of(agents_of(text)).agents[0]
    assert agent.folders == ("out",)
    assert agent.cell_walls is not None
    assert "/work/docs" in agent.cell_walls.write
    assert "/work/docs" not in agent.walls.write
    assert plan_of().agents[0].cell_walls is None
    assert plan_of(agents_of(text), no_sandbox=True).agents[0].folders == ()


# --- tasks -----------------------------------------------------------------------------------------------------------------------------


def test_a_task_that_requires_something_gets_that_and_no_more():
    tasks = {task.id: task for task in plan_of().agents[0].tasks}
    assert "/work/src" in tasks["look"].walls.read
    assert tasks["look"].walls.write == ()
    assert "/work/.git" in tasks["commit"].walls.write
    assert "/work/src" not in (*tasks["commit"].walls.write, *tasks["commit"].walls.read)
    assert tasks["test"].walls is None


def test_programs_without_their_power_are_warned_about_at_their_place():
    plan = plan_of()
    (warning,) = [each for each in plan.warnings if "script-execution required for pytest" in each]
    assert warning.startswith("x.yaml:13:")
    assert "in task test ('Test') of x" in warning
    assert "    - script-execution" in warning
    narrowed = SPEC.replace("{id: look, description: Look, run: [cat, a]", "{id: look, description: Look, run: [git, log]")
    assert any("git-access required for git in task look" in each for each in plan_of(agents_of(narrowed)).warnings)


def test_commands_that_cannot_see_the_workdir_are_warned_about_but_not_denied():
    text = SPEC.replace("    - file_system_write: [src/**]\n", "")
    plan = plan_of(agents_of(text))
    (warning,) = [each for each in plan.warnings if "see nothing of it" in each]
    assert warning.startswith("x.yaml:")
    assert "no grant opens the workdir, so the commands of look, commit, test see nothing of it" in warning
    assert "    - filesystem-read" in warning
    assert not any("see nothing of it" in each for each in plan_of().warnings)
    assert not any("see nothing of it" in each for each in plan_of(agents_of(text), direct=True).warnings)
    assert not any("see nothing of it" in each for each in plan_of(agents_of(text), no_sandbox=True).warnings)


def test_a_workdir_that_holds_the_home_is_worth_a_word():
    text = SPEC.replace("- git-access\n", "- filesystem-read\n")
    for home, said in (("/work", True), ("/work/me", True), ("/home/me", False), ("", False)):
        plan = plan_of(agents_of(text), places=replace(PLACES, home=home))
        assert any("holds your home: whoever may read it may read your keys" in each for each in plan.warnings) == said


# --- who holds back --------------------------------------------------------------------------------------------------------------------


def test_the_user_holds_back_and_is_named():
    me = ceiling("your settings", preset="sandboxed", why="policy.preset = sandboxed in config.toml")
    plan = plan_of(ceilings=(me,))
    agent = plan.agents[0]
    assert agent.grants == ("filesystem-read",)
    assert agent.grant_values == {"filesystem-read": ("src/**",)}
    write = permission(plan, "file_system_write")
    assert write.held_back == "held back by your settings (policy.preset = sandboxed in config.toml); filesystem-read is left"
    assert (write.tools, write.walls) == (("read_file",), ("read /work/src",))
    git = permission(plan, "git-access")
    assert (git.tools, git.kernel, git.walls) == ((), (), ())
    assert any(each.startswith("x: git-access: held back by your settings") for each in plan.warnings)


def test_a_run_holds_back_and_is_named(tmp_path):
    (tmp_path / "x.yaml").write_text(SPEC)
    (tmp_path / "run.yaml").write_text("agents: [x.yaml]\ncapabilities_allowed:\n  - filesystem-write: [src/a/**]\n  - teleport\n")
    loaded = load_paths([tmp_path / "run.yaml"]).checked()
    plan = plan_of(loaded.agents, orchestration=loaded.orchestration)
    assert plan.agents[0].grant_values == {"filesystem-write": ("src/a/**",)}
    held = permission(plan, "git-access").held_back
    assert held is not None
    assert "run.yaml (capabilities_allowed)" in held
    assert any("'teleport' is no power and allows nothing" in each for each in plan.warnings)


def test_a_run_that_allows_nothing(tmp_path):
    (tmp_path / "x.yaml").write_text(SPEC)
    (tmp_path / "run.yaml").write_text("agents: [x.yaml]\ncapabilities_allowed: []\n")
    loaded = load_paths([tmp_path / "run.yaml"]).checked()
    assert plan_of(loaded.agents, orchestration=loaded.orchestration).agents[0].grants == ()


def test_a_long_form_that_nothing_can_hold_grants_nothing():
    plan = plan_of(agents_of(SPEC.replace("- git-access\n", "- git-access: [main]\n")))
    assert "git-access" not in plan.agents[0].grants
    assert permission(plan, "git-access").held_back == "git-access has no long form, so what it is narrowed to cannot be held"
    assert any("has no long form; narrowed to main it grants nothing" in each for each in plan.warnings)


@pytest.mark.parametrize(
    ("grant", "words"),
    [
        ("network-access", "lists nothing that may be reached"),
        ("network-access: [example.com/x]", "'example.com/x' opens nothing (write host:port"),
        ("database-access: [db.example]", "'db.example' opens nothing"),
        ("filesystem-read: [/etc/**]", "'/etc/**' opens nothing (write paths"),
    ],
)
def test_values_that_open_nothing_are_warned_about_at_their_place(grant, words):
    plan = plan_of(agents_of(SPEC.replace("- git-access\n", f"- {grant}\n")))
    (warning,) = [each for each in plan.warnings if words in each]
    assert warning.startswith("x.yaml:18:7: ")


# --- prompts ---------------------------------------------------------------------------------------------------------------------------


def test_a_prompt_is_built_from_the_spec_and_offers_the_tools_whose_power_is_held():
    prompt = plan_of().agents[0].prompt
    assert prompt is not None
    assert (prompt.title, prompt.description, prompt.domain, prompt.skills) == ("The X", "Does x", "testing", ("python", "yaml"))
    assert prompt.objectives == (
        "It works; deliver: out/**; validation (nobody verifies it but you): somebody looks",
        "It is tested; proved afterwards by running: pytest -q",
    )
    assert prompt.directives == "never:\n  - push\n  - delete: files\nstyle: calm"
    assert prompt.criteria == "- fast\n- correct"
    assert prompt.tools == ("git_status", "read_file", "report", "write_file")
    assert prompt.model == "test/model"


def test_what_is_held_back_is_not_offered():
    prompt = plan_of(ceilings=(ceiling("me", preset="sandboxed"),)).agents[0].prompt
    assert prompt is not None
    assert prompt.tools == ("read_file", "report")


def test_the_model_of_the_spec_then_of_the_run_then_of_the_user(tmp_path):
    (tmp_path / "x.yaml").write_text(SPEC)
    (tmp_path / "run.yaml").write_text("agents: [x.yaml]\nllm: {model: run/m, fallbacks: [run/f], temperature: 0.1}\n")
    loaded = load_paths([tmp_path / "run.yaml"]).checked()
    prompt = plan_of(loaded.agents, orchestration=loaded.orchestration).agents[0].prompt
    assert (prompt.model, prompt.fallbacks, prompt.temperature) == ("run/m", ("run/f",), 0.1)
    own = agents_of(SPEC + "llm: {model: spec/m, max_output_tokens: 50}\n")
    prompt = plan_of(own, orchestration=loaded.orchestration).agents[0].prompt
    assert (prompt.model, prompt.fallbacks, prompt.temperature, prompt.max_output_tokens) == ("spec/m", ("run/f",), 0.1, 50)


def test_agents_without_prompts_have_none():
    assert plan_of(agents_of(SPEC.replace("    - {id: think, description: Think}\n", "")), model=None).agents[0].prompt is None


def test_a_section_of_any_shape_and_size_becomes_bounded_text():
    deep = "behavioral_directives: " + "[" * 30 + "x" + "]" * 30 + "\n"
    text = SPEC.replace("behavioral_directives: {never: [push, {delete: files}], style: calm}\n", deep)
    assert plan_of(agents_of(text)).agents[0].prompt.directives.endswith("...")
    long = "success_criteria: " + json.dumps(["x" * 1000] * 40) + "\n"
    criteria = plan_of(agents_of(SPEC.replace("success_criteria: [fast, correct]\n", long))).agents[0].prompt.criteria
    assert "characters left out" in criteria
    assert len(criteria) < 17_000
