from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from toka_cli.errors import NoModel, NotFound, Refused, Unavailable, UsageError
from toka_cli.plan.options import Machine, PlanOptions
from toka_cli.plan.plan import Plan, plan_json
from toka_cli.plan.planner import make_plan
from toka_cli.spec.load import load_paths, load_text
from toka_cli.spec.model import ResourceLimits

MB, GB = 1024**2, 1024**3
REAL = Path(__file__).resolve().parents[3] / "shared" / "real-specs"

MACHINE = Machine(
    cpu_count=4, memory_bytes=8 * GB, start_method="forkserver", memory="sampled", cpu="sampled", processes="rlimit", filesystem="landlock",
    network="namespace", landlock_abi=7,
)  # fmt: skip
STANDARD = replace(MACHINE, network="seccomp", notes=(("user namespaces", "user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=15000"),))
BARE = replace(MACHINE, filesystem="none", network="none", landlock_abi=0, notes=(("Landlock", "this kernel has none", "use Linux 5.13"),))
TOOLS = {"file_read": "filesystem-read", "file_write": "filesystem-write", "git_status": "git-access", "report": None}


def agents_of(*specs):
    loaded = [load_text(json.dumps(spec), path=f"{spec['metadata']['name']}.yaml") for spec in specs]
    assert not [problem for each in loaded for problem in each.errors]
    return tuple(agent for each in loaded for agent in each.agents)


def spec(name, *tasks, required=(), **more):
    tasks = list(tasks) or [{"description": "work", "run": ["true"]}]
    return {"metadata": {"name": name}, "tasks": {"default": tasks}, "dependencies": {"required": dict.fromkeys(required, "why")}} | more


def run(text):
    return {"description": text, "run": ["true"]}


def orchestration_of(tmp_path, **content):
    (tmp_path / "one.yaml").write_text(json.dumps(spec("inner")))
    (tmp_path / "all.yaml").write_text(json.dumps({"agents": ["one.yaml"]} | content))
    loaded = load_paths([tmp_path / "all.yaml"]).checked()
    assert loaded.orchestration is not None
    return loaded.orchestration


def planned(agents, orchestration=None, machine=MACHINE, **options):
    return make_plan(agents, orchestration, PlanOptions(workdir="/work", **options), machine, TOOLS)


def plan_of(agents, *args, **options) -> Plan:
    result = planned(agents, *args, **options)
    assert result.plan is not None, result.problems
    return result.plan


def warned(plan, text):
    return any(text in warning for warning in plan.warnings)


# --- the real specs ------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not any(REAL.glob("*.yaml")), reason="the nine public specs are not on this machine, or cannot be read")
def test_the_nine_real_specs():
    agents = load_paths([REAL]).checked().agents
    plan = plan_of(agents, preview=True)
    assert plan.waves[0] == ("build-system-stabilization",)
    assert len(plan.waves) == 2
    assert len(plan.waves[1]) == 8
    assert [agent.name for agent in plan.agents] == [name for wave in plan.waves for name in wave]
    build = plan.agent("build-system-stabilization")
    assert (build.limits.memory_bytes, build.limits.cpu_share, build.limits.timeout_s) == (512 * MB, 0.75, 7200.0)
    assert {"filesystem-read", "filesystem-write", "cargo-execution", "git-access"} <= set(build.grants)
    testing = plan.agent("testing-infrastructure")
    assert (testing.limits.memory_bytes, testing.limits.cpu_share, testing.limits.timeout_s) == (GB, 0.8, 14400.0)
    assert plan.agent("security-extension").after == ("storage-advancement",)
    assert warned(plan, "tasks are prompts")
    with pytest.raises(NoModel) as caught:
        planned(agents)
    assert caught.value.exit_code == 6
    for agent in agents:
        assert f"{agent.path}: {agent.name}: t1 (line " in caught.value.message
    assert "tasks.conditional" in (caught.value.hint or "")


# --- which agents --------------------------------------------------------------------------------------------------------------------


CHAIN = (spec("a"), spec("b", required=["a"]), spec("c", required=["b"]), spec("other"))


def test_only_draws_in_what_is_required():
    plan = plan_of(agents_of(*CHAIN), only=("b",))
    assert plan.waves == (("a",), ("b",))
    assert plan.left_out == ("c", "other")
    assert plan.options["only"] == ["b"]


def test_skip_takes_out_one_and_its_dependants_run_without_it():
    plan = plan_of(agents_of(*CHAIN), skip=("b",))
    assert {agent.name for agent in plan.agents} == {"a", "c", "other"}
    assert plan.agent("c").depends_on == ()
    assert warned(plan, "c runs without b, which it requires: b was left out of this run")


def test_only_with_skip_does_not_draw_in_what_only_the_skipped_requires():
    plan = plan_of(agents_of(*CHAIN), only=("c",), skip=("b",))
    assert [agent.name for agent in plan.agents] == ["c"]


def test_a_cycle_among_agents_that_are_left_out_does_not_matter():
    agents = agents_of(*CHAIN, spec("x", required=["y"]), spec("y", required=["x"]))
    assert planned(agents).plan is None
    assert len(plan_of(agents, only=("a",)).agents) == 1


def test_unknown_names_are_all_named_with_suggestions():
    with pytest.raises(NotFound) as caught:
        planned(agents_of(spec("build-system"), spec("docs")), only=("build-sistem",), skip=("zzz",))
    assert caught.value.exit_code == 4
    assert caught.value.message == "--only 'build-sistem': no such agent (did you mean build-system?); --skip 'zzz': no such agent"
    assert caught.value.hint == "agents: build-system, docs"


def test_leaving_nothing_is_a_usage_mistake():
    with pytest.raises(UsageError):
        planned(agents_of(spec("a")), skip=("a",))


def test_problems_of_all_agents_come_at_once_and_no_plan():
    agents = agents_of(spec("a", required=["zzz"]), spec("b", {"description": "x", "tool": "file_raed"}), spec("c", required=["d"]), spec("d", required=["c"]))
    result = planned(agents)
    assert result.plan is None
    assert [problem.path for problem in result.errors] == ["a.yaml", "b.yaml", "c.yaml"]
    assert [problem.code for problem in result.errors] == ["dependency_missing", "unknown_tool", "dependency_cycle"]
    assert result.errors[1].hint == "did you mean file_read?"
    assert all(problem.line for problem in result.errors)


def test_missing_dependencies_may_be_allowed_but_not_under_strict():
    agents = agents_of(spec("a", required=["zzz"]))
    assert warned(plan_of(agents, allow_missing=True), "a.yaml:1:")
    assert planned(agents, allow_missing=True, strict=True).plan is None


# --- which tasks ---------------------------------------------------------------------------------------------------------------------


def test_tasks_are_in_order_of_priority_then_file():
    tasks = [run("a") | {"id": "a", "priority": "low"}, run("b") | {"id": "b"}, run("c") | {"id": "c", "priority": "critical"}, run("d") | {"id": "d"}]
    plan = plan_of(agents_of(spec("x", *tasks)))
    assert [task.id for task in plan.agents[0].tasks] == ["c", "b", "d", "a"]


def conditional(*default):
    tasks = {"default": list(default), "conditional": {"enterprise": [run("more") | {"id": "more"}, run("again")], "model": [{"description": "think"}]}}
    return spec("x") | {"tasks": tasks}


def test_conditional_tasks_run_only_when_asked_for_and_are_counted_otherwise():
    agents = agents_of(conditional(run("a")))
    plan = plan_of(agents)
    assert len(plan.agents[0].tasks) == 1
    assert plan.agents[0].conditional == {"enterprise": 2, "model": 1}
    plan = plan_of(agents, when=("enterprise",))
    assert len(plan.agents[0].tasks) == 3
    assert plan.agents[0].conditional == {"model": 1}
    with pytest.raises(NoModel) as caught:
        planned(agents, when=("model",))
    assert "leave out --when model" in (caught.value.hint or "")
    assert "give each of the lines" not in (caught.value.hint or "")


def test_a_default_task_can_be_conditional_too():
    agents = agents_of(spec("x", run("a"), run("b") | {"when": "slow"}))
    assert plan_of(agents).agents[0].conditional == {"slow": 1}
    assert len(plan_of(agents, when=("slow",)).agents[0].tasks) == 2


def test_unknown_key_of_when_is_a_warning_with_a_suggestion():
    assert warned(plan_of(agents_of(conditional(run("a"))), when=("enterprize",)), "--when 'enterprize' selects no task; did you mean enterprise?")
    assert warned(plan_of(agents_of(spec("x")), when=("y",)), "no task is conditional")


def test_an_agent_without_a_task_in_this_run_is_kept_and_said():
    plan = plan_of(agents_of(conditional()))
    assert plan.agents[0].tasks == ()
    assert warned(plan, "x has no task in this run")
    assert warned(plan, "--when enterprise, --when model")


def test_order_is_kept_across_a_task_that_is_not_part_of_the_run():
    tasks = [run("a") | {"id": "a"}, run("b") | {"id": "b", "when": "slow", "depends_on": ["a"]}, run("c") | {"id": "c", "depends_on": ["b"]}]
    agent = plan_of(agents_of(spec("x", *tasks))).agents[0]
    assert agent.tasks[1].depends_on == ("a",)
    assert agent.notes[0] == "task c does not wait for b: not part of this run"


def test_a_task_keeps_everything_its_spec_says():
    task = {
        "id": "c", "description": "count", "code": {"python": "print(1)"}, "timeout": "10m", "retries": {"max": 2, "delay": "3s", "backoff": 1.5},
        "verify": {"run": "test -f x", "timeout": "5s"}, "allow_failure": True, "on_interrupted": "rerun", "output_schema": {"type": "integer"},
    }  # fmt: skip
    brief = plan_of(agents_of(spec("x", task))).agents[0].tasks[0]
    assert (brief.kind, brief.language, brief.source, brief.timeout_s) == ("code", "python", "print(1)", 600.0)
    assert (brief.retries, brief.retry_delay_s, brief.retry_backoff) == (2, 3.0, 1.5)
    assert brief.verify is not None
    assert (brief.verify.run, brief.verify.timeout_s) == ("test -f x", 5.0)
    assert (brief.allow_failure, brief.on_interrupted, brief.output_schema) == (True, "rerun", {"type": "integer"})


def test_gates_promises_and_metrics():
    objectives = [
        {"description": "text", "validation": "somebody looks"},
        {"description": "tests pass", "deliverable": ["reports/**.md", "../secret", "/etc/passwd"], "validation": {"run": ["pytest"], "timeout": "5m"}},
    ]
    plan = plan_of(agents_of(spec("x", objectives=objectives, reporting={"metrics": ["speed"]})))
    (gate,) = plan.agents[0].gates
    assert (gate.index, gate.check.run, gate.check.timeout_s) == (2, ("pytest",), 300.0)
    (promise,) = plan.agents[0].promises
    assert (promise.index, promise.globs) == (2, ("reports/**.md",))
    assert warned(plan, "'../secret' is not below the directory")
    assert plan.agents[0].metrics == ("speed",)


# --- grants --------------------------------------------------------------------------------------------------------------------------


def security(*grants, **limits):
    return {"security": {"capabilities_required": list(grants), "resource_limits": limits}}


def test_powers_declared_names_and_narrowed_values():
    agents = agents_of(spec("x", **security("file-system-write", {"network-access": ["api.github.com:443"]}, "document-analysis")))
    agent = plan_of(agents).agents[0]
    assert set(agent.grants) == {"filesystem-write", "network-access"}
    assert agent.grant_values["network-access"] == ("api.github.com:443",)
    assert "document-analysis" in agent.declared


def test_aliases_are_one_power_and_a_narrow_form_is_not_widened_by_another_name():
    agents = agents_of(spec("x", **security({"filesystem-write": ["src/**"]}, "kernel-modification", {"storage-modification": ["db/**"]})))
    agent = plan_of(agents).agents[0]
    assert agent.grants == ("filesystem-write",)
    assert agent.grant_values == {"filesystem-write": ("src/**", "db/**")}
    assert "kernel-modification means filesystem-write" in agent.notes


def test_task_text_gives_hints_and_decides_nothing():
    agents = agents_of(spec("x", {"description": "Commit the change with git"}))
    plan = plan_of(agents, model="test/model")
    assert plan.agents[0].grants == ()
    assert any("git-access is not granted" in note for note in plan.agents[0].notes)
    assert not warned(plan, "git-access")


def test_unknown_capability_is_a_warning_with_the_nearest_and_an_error_under_strict():
    agents = agents_of(spec("x", **security("filesystem-raed")))
    result = planned(agents)
    assert result.plan is not None
    assert result.plan.agents[0].grants == ()
    (problem,) = result.problems
    assert "filesystem-read" in f"{problem.message} {problem.hint}"
    assert planned(agents, strict=True).plan is None


def test_a_task_that_needs_a_grant_which_is_not_held_is_said_with_the_lines_to_add():
    agents = agents_of(spec("x", run("fetch") | {"requires": ["network-access"]}, {"description": "save", "tool": "file_write"}))
    result = planned(agents)
    assert result.plan is not None
    first, second = result.problems
    assert first.message.startswith("Capability not authorized: network-access required for task t1")
    assert "capabilities_required:\n    - network-access" in (first.hint or "")
    assert "filesystem-write required for task t2" in second.message
    assert warned(result.plan, "Capability not authorized: network-access required")
    assert plan_of(agents_of(spec("x", run("fetch") | {"requires": ["network-access"]}, **security("network-access")))).agents[0].tasks[0].requires


# --- limits and enforcement ----------------------------------------------------------------------------------------------------------


def test_limits_come_from_spec_then_orchestration_then_defaults_each_with_its_origin(tmp_path):
    orchestration = orchestration_of(tmp_path, limits={"max_cpu": "50%", "max_processes": 10})
    defaults = ResourceLimits(memory_bytes=GB, cpu_share=0.8, task_timeout_s=300.0)
    agents = agents_of(spec("x", **security(max_memory="200MB", max_processes=64)))
    plan = plan_of(agents, orchestration, default_limits=defaults, default_origins={"task_timeout_s": "toka.toml"})
    limits, origins = plan.agents[0].limits, plan.agents[0].limit_origins
    assert (limits.memory_bytes, limits.cpu_share, limits.max_processes, limits.task_timeout_s) == (200 * MB, 0.5, 10, 300.0)
    assert origins == {"memory_bytes": "spec", "cpu_share": orchestration.path, "max_processes": orchestration.path, "task_timeout_s": "toka.toml"}
    assert warned(plan, f"x: max_processes is 10, not 64: capped by {orchestration.path}")


def test_the_users_caps_hold_for_specs_and_for_single_tasks():
    caps = ResourceLimits(memory_bytes=100 * MB, task_timeout_s=60.0)
    agents = agents_of(spec("x", run("a") | {"timeout": "5m"}, **security(max_memory="1GB")))
    plan = plan_of(agents, cap_limits=caps)
    assert plan.agents[0].limits.memory_bytes == 100 * MB
    assert plan.agents[0].tasks[0].timeout_s == 60.0
    assert warned(plan, "max_memory is 100 MB, not 1 GB: capped by your settings")


def test_enforcement_says_only_what_the_machine_reported():
    agents = agents_of(spec("x", **security(max_memory="1GB", timeout="1h", max_disk_usage="1GB", max_tool_calls=5, max_tokens=100)))
    agent = plan_of(agents).agents[0]
    assert agent.enforcement == {
        "memory": "sampled", "cpu": "none", "filesystem": "landlock", "network": "namespace", "timeout": "owner", "disk": "sampled",
        "file_size": "rlimit", "tool_calls": "kernel", "tokens": "none",
    }  # fmt: skip
    bare = plan_of(agents, None, BARE, preview=True).agents[0]
    assert (bare.enforcement["filesystem"], bare.enforcement["network"], bare.walls) == ("none", "none", None)
    walls = plan_of(agents, None, MACHINE, no_sandbox=True)
    assert (walls.agents[0].enforcement["filesystem"], walls.agents[0].sandbox, walls.agents[0].walls) == ("none", False, None)
    assert warned(walls, "--no-sandbox: agents run without walls")


def test_tokens_are_counted_where_a_model_is_asked():
    agents = agents_of(spec("x", {"description": "think"}, **security(max_tokens=100)), spec("y", **security(max_tokens=100)))
    plan = plan_of(agents, model="test/model")
    assert [plan.agent(name).enforcement["tokens"] for name in "xy"] == ["kernel", "none"]


def test_without_walls_nothing_starts_unless_that_is_said_aloud():
    agents = agents_of(spec("x", **security(max_memory="1GB")))
    with pytest.raises(Refused) as caught:
        planned(agents, None, BARE)
    assert caught.value.exit_code == 5
    assert caught.value.message == "agents are not started without walls, and this machine can put up none: Landlock: this kernel has none"
    assert "use Linux 5.13; or say --no-sandbox" in (caught.value.hint or "")
    assert plan_of(agents, None, BARE, no_sandbox=True).agents[0].walls is None
    shown = plan_of(agents, None, BARE, preview=True)
    assert warned(shown, "cannot run: agents are not started without walls")
    assert warned(shown, "not in force: walls around files and the network: Landlock: this kernel has none (use Linux 5.13)")


def test_what_is_not_held_is_said_with_reason_and_fix():
    memory = replace(MACHINE, memory="none", notes=(("memory", "no cgroup", "delegate one"),))
    plan = plan_of(agents_of(spec("x", **security(max_memory="1GB"))), None, memory)
    assert warned(plan, "not in force: memory limit of x: no cgroup (delegate one)")
    standard = plan_of(agents_of(spec("x")), None, STANDARD)
    assert warned(standard, "walls hold at the level standard, not full: user namespaces: user.max_user_namespaces is 0 (sysctl -w")
    assert warned(standard, "not in force: chmod")
    assert not warned(plan_of(agents_of(spec("x"))), "not in force")


def test_why_limits_are_held_by_polling_is_noted_once_for_each_reason():
    why = (("memory", "not delegated", "log in"), ("cpu", "not delegated", "log in"), ("processes", "no controller", ""))
    machine = replace(MACHINE, processes="sampled", notes=why)
    limits = security(max_memory="1GB", max_cpu="50%", max_processes=5)
    noted, bare = plan_of(agents_of(spec("x", **limits), spec("y")), None, machine).agents
    assert "held by polling, not by a cgroup: memory, cpu: not delegated (log in)" in noted.notes
    assert "held by polling, not by a cgroup: processes: no controller" in noted.notes
    assert not any("polling" in note for note in bare.notes)
    cgroups = replace(machine, memory="cgroup", cpu="cgroup", processes="cgroup")
    assert not any("polling" in note for note in plan_of(agents_of(spec("x", **limits)), None, cgroups).agents[0].notes)


@pytest.mark.parametrize(
    ("machine", "network", "held"),
    [
        (MACHINE, "proxy", "namespace"),
        (STANDARD, "proxy", "landlock"),
        (replace(STANDARD, landlock_abi=3), "none", "seccomp"),
    ],
)
def test_a_network_grant_opens_the_proxy_or_nothing(machine, network, held):
    agents = agents_of(spec("x", **security({"network-access": ["api.github.com:443"]})), spec("y"))
    plan = plan_of(agents, None, machine)
    x, y = plan.agent("x"), plan.agent("y")
    assert (x.walls.network, x.hosts, x.enforcement["network"]) == (network, ("api.github.com:443",), held)
    assert (y.walls.network, y.hosts, y.enforcement["network"]) == ("none", (), machine.network)
    assert warned(plan, "commands get no network") == (network == "none")


def test_required_sandbox_levels():
    agents = agents_of(spec("x"))
    with pytest.raises(Refused, match="reaches only the level process: Landlock: this kernel has none") as caught:
        planned(agents, None, BARE, require_sandbox="standard")
    assert caught.value.exit_code == 5
    with pytest.raises(Refused, match="level standard"):
        planned(agents, None, STANDARD, require_sandbox="full")
    assert planned(agents, require_sandbox="full").plan
    assert planned(agents, None, STANDARD, require_sandbox="standard").plan
    with pytest.raises(UsageError):
        planned(agents, require_sandbox="full", no_sandbox=True)


def test_a_spec_cannot_switch_its_sandbox_off():
    agents = agents_of(spec("x", security={"sandbox": False}))
    plan = plan_of(agents)
    assert plan.agents[0].sandbox
    assert plan.agents[0].walls is not None
    assert warned(plan, "sandbox: false is not followed")


# --- how many at once ----------------------------------------------------------------------------------------------------------------


def test_auto_fits_the_largest_memory_limits_into_the_machine():
    agents = agents_of(*(spec(f"a{i}", **security(max_memory="1GB")) for i in range(20)))
    plan = plan_of(agents)
    assert plan.max_agents == 7  # 90 % of 8 GB
    assert "90% of 8 GB" in plan.options["max_agents_reason"]
    assert plan_of(agents, None, replace(MACHINE, memory_bytes=MB * 100)).max_agents == 1
    assert plan_of(agents, None, replace(MACHINE, memory_bytes=100 * GB)).options["max_agents_reason"] == "max_concurrent_processes"
    assert plan_of(agents, None, replace(MACHINE, memory_bytes=100 * GB, cpu_count=1)).max_agents == 4


def test_auto_of_few_agents_is_all_of_them():
    plan = plan_of(agents_of(spec("a"), spec("b")))
    assert (plan.max_agents, plan.options["max_agents_reason"]) == (2, "all of them fit")


def test_what_was_said_is_done(tmp_path):
    agents = agents_of(spec("a", **security(max_memory="6GB")), spec("b", **security(max_memory="6GB")))
    orchestration = orchestration_of(tmp_path, max_agents=3, timeout="1h", on_failure="stop")
    plan = plan_of(agents, orchestration)
    assert (plan.max_agents, plan.timeout_s, plan.fail_fast) == (3, 3600.0, True)
    assert warned(plan, "12 GB of memory together, more than this machine's 8 GB")
    assert plan_of(agents, orchestration, max_agents=1, timeout_s=5.0).max_agents == 1
    assert plan_of(agents, orchestration, max_agents="auto").max_agents == 1
    with pytest.raises(UsageError):
        planned(agents, max_agents=0)


# --- what cannot run -----------------------------------------------------------------------------------------------------------------


def test_prompts_without_a_model_are_all_named():
    agents = agents_of(spec("a", {"description": "think"}, run("x")), spec("b", {"description": "think", "id": "deep"}))
    with pytest.raises(NoModel) as caught:
        planned(agents)
    lines = caught.value.message.split("\n")
    assert lines[0] == "2 tasks are prompts and need a model, and none is named:"
    for way in ("--model NAME", "LLM_MODEL=NAME", "[llm] model in toka.toml", "llm: {model: NAME} in the spec"):
        assert way in (caught.value.hint or "")
    assert lines[1:] == ["  a.yaml: a: t1 (line 1)", "  b.yaml: b: deep (line 1)"]
    assert planned(agents, model="test/model").plan
    assert warned(plan_of(agents, preview=True), "2 tasks are prompts")


def test_delegation_mcp_tools_and_workspaces_are_refused_together_but_only_warned_about_in_a_preview():
    servers = {"mcp_servers": {"cortex": {"command": "cortex"}}}
    tool = {"description": "recall", "tool": "cortex_search"}
    with pytest.raises(Unavailable, match=r"MCP servers cannot be called.*\n  x.yaml:1:\d+: x: task t1: tool 'cortex_search'"):
        planned(agents_of(spec("x", tool, **servers)))
    with pytest.raises(Unavailable, match="delegate"):
        planned(agents_of(spec("x", {"description": "review", "agent": "reviewer"})))
    everything = agents_of(spec("x", tool, {"description": "review", "agent": "reviewer"}, {"description": "think"}, workspace={"mode": "copy"}, **servers))
    with pytest.raises(Refused) as caught:
        planned(everything)
    assert caught.value.exit_code == 5
    for part in ("worktree or copy", "delegate", "MCP servers", "prompt"):
        assert part in caught.value.message
        assert warned(plan_of(everything, preview=True), part)


def test_a_tool_that_no_server_has_is_unknown():
    (problem,) = planned(agents_of(spec("x", {"description": "recall", "tool": "cortex_search"}))).errors
    assert problem.code == "unknown_tool"


# --- the plan as data ----------------------------------------------------------------------------------------------------------------


def test_json_has_the_promised_shape_and_the_plan_survives_storage():
    plan = plan_of(agents_of(spec("x", **security("git-access", max_memory="1GB"))))
    data = json.loads(json.dumps(plan_json(plan)))
    assert {"waves", "critical_path", "agents"} <= data.keys()
    promised = {
        "name", "priority", "workstream", "depends_on", "after", "grants", "limits", "enforcement", "tasks", "gates", "conditional",
    }  # fmt: skip
    (agent,) = data["agents"]
    assert promised <= agent.keys()
    assert agent["limits"]["memory_bytes"] == GB
    assert agent["limits"]["cpu_share"] is None
    assert {"memory", "cpu", "filesystem", "network"} <= agent["enforcement"].keys()
    assert agent["tasks"] == [{"id": "t1", "kind": "command", "description": "work", "priority": "medium"}]
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_the_same_input_gives_the_same_plan():
    agents = agents_of(*CHAIN)
    assert plan_of(agents) == plan_of(agents)
