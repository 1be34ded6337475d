"""Every shape that is accepted, what comes of it, and the note that says so."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from toka_cli.spec.load import dump_yaml, load_paths, load_text
from toka_cli.spec.model import AgentSpec, Grant, LoadedAgent, Priority, Restart, is_branch
from toka_cli.spec.schema import json_schema

HEAD = "metadata: {name: a}\n"
TASKS = "tasks: {default: [{description: x}]}\n"


def loaded(text: str) -> tuple[LoadedAgent, list[str]]:
    """Load one agent without any problem; the schema must take the same text."""
    result = load_text(text, strict=True)
    assert result.problems == ()
    Draft202012Validator(json_schema()).validate(yaml.load(text, Loader=yaml.BaseLoader) if "1.10" in text else yaml.safe_load(text))
    (agent,) = result.agents
    return agent, [note.message for note in result.notes]


def spec(text: str) -> AgentSpec:
    return loaded(HEAD + TASKS + text)[0].spec


@pytest.mark.parametrize(
    ("shape", "names", "noted"),
    [
        ("{}", {}, False),
        ("", {}, False),
        ("{b: why}", {"b": "why"}, False),
        ("{b: }", {"b": ""}, False),
        ("[{b: why}, {c: also}]", {"b": "why", "c": "also"}, True),
        ("[b, c]", {"b": "", "c": ""}, True),
        ("[b, {c: why}]", {"b": "", "c": "why"}, True),
        ("[{name: b, reason: why}]", {"b": "why"}, True),
    ],
)
def test_dependencies(shape: str, names: dict[str, str], noted: bool) -> None:
    agent, notes = loaded(f"{HEAD}{TASKS}dependencies: {{required: {shape}, optional: {{}}}}\n")
    assert agent.spec.dependencies.required == names
    assert any("dependencies.required" in note for note in notes) is noted


def test_dependencies_as_a_plain_list_are_required() -> None:
    agent, notes = loaded(HEAD + TASKS + "dependencies: [b]\n")
    assert agent.spec.dependencies.required == {"b": ""}
    assert agent.where("dependencies.required.b") == (3, 16)
    assert len(notes) == 2


@pytest.mark.parametrize("shape", ["{m: words}", "[{m: words}]", "[{name: m, description: words}]"])
def test_metrics_in_three_shapes(shape: str) -> None:
    assert spec(f"reporting: {{frequency: real-time, metrics: {shape}}}\n").reporting.metrics == {"m": "words"}


@pytest.mark.parametrize(
    ("shape", "grants"),
    [
        ("[a, b]", (Grant(name="a"), Grant(name="b"))),
        ("a", (Grant(name="a"),)),
        ("[{w: [src/**, docs]}, a]", (Grant(name="w", values=("src/**", "docs")), Grant(name="a"))),
        ("[{n: 'h:443'}]", (Grant(name="n", values=("h:443",)),)),
        ("{n: [h], w: [x]}", (Grant(name="n", values=("h",)), Grant(name="w", values=("x",)))),
        ("[a, a, {n: [h]}, {n: [i]}]", (Grant(name="a"), Grant(name="n", values=("h", "i")))),
        ("", ()),
    ],
)
def test_grants_short_and_long(shape: str, grants: tuple[Grant, ...]) -> None:
    assert spec(f"security: {{capabilities_required: {shape}}}\n").security.grants == grants


def test_grants_are_found_by_their_name() -> None:
    agent, _ = loaded(HEAD + TASKS + "security:\n  capabilities_required:\n    - a\n    - a\n    - n: [h]\n")
    assert agent.where("security.grants.n") == (7, 7)
    assert agent.where("security.grants.other") == (3, 1)


def test_tasks_as_a_plain_list_have_the_documented_places() -> None:
    agent, notes = loaded(HEAD + "tasks:\n  - just words\n  - {run: [ls, -l], priority: HIGH, retries: 3, verify: [test, x]}\n")
    first, second = agent.spec.tasks.default
    assert (first.id, first.description, first.kind) == ("t1", "just words", "prompt")
    assert (second.id, second.description, second.run, second.priority) == ("t2", "ls -l", ("ls", "-l"), Priority.HIGH)
    assert second.retries.max == 3
    assert second.verify is not None
    assert second.verify.run == ("test", "x")
    assert agent.where("tasks.default[1].run") == (4, 6)
    assert agent.where("tasks.default[1].run[1]") == (4, 16)
    assert len(notes) == 6


def test_ids_follow_the_position_over_all_tasks() -> None:
    text = (
        HEAD
        + "tasks:\n  default: [{description: x}, {id: own, run: 'true'}, {description: y, depends_on: own}]\n  conditional: {k: [{description: z}]}\n"
    )
    tasks = loaded(text)[0].spec.tasks
    assert [(task.id, task.when) for task in tasks.every] == [("t1", None), ("own", None), ("t3", None), ("t4", "k")]
    assert tasks.default[2].depends_on == ("own",)


@pytest.mark.parametrize("shape", ["{python: 'x=1'}", "{py: 'x=1'}", "{language: python, source: 'x=1'}"])
def test_code(shape: str) -> None:
    (task,) = loaded(f"{HEAD}tasks: [{{description: x, code: {shape}}}]\n")[0].spec.tasks.default
    assert task.code is not None
    assert (task.kind, task.code.language, task.code.source) == ("code", "python", "x=1")


def test_every_field_of_a_task() -> None:
    text = HEAD + (
        "tasks:\n  parallel: 2\n  default:\n    - id: a\n      description: d\n      tool: t\n      "
        "args: {n: 1, s: '1', on: yes, date: 2025-01-02}\n      timeout: 1m\n"
        "      retries: {max: 2, delay: 0s, backoff: 1.5}\n      when: k\n      output_schema: {type: object}\n      "
        "requires: [git-access]\n      allow_failure: yes\n"
        "      on_interrupted: rerun\n    - {id: b, description: d, agent: other, input: [1, null, .5], depends_on: [a]}\n"
    )
    tasks = load_text(text).checked().agents[0].spec.tasks
    first, second = tasks.default
    assert first.args == {"n": 1, "s": "1", "on": "yes", "date": "2025-01-02"}
    assert (first.timeout_s, first.retries.delay_s, first.retries.backoff, first.when) == (60.0, 0.0, 1.5, "k")
    assert (first.output_schema, first.requires, first.allow_failure, first.on_interrupted) == (
        {"type": "object"},
        ("git-access",),
        True,
        "rerun",
    )
    assert (second.kind, second.agent, second.input, second.depends_on, tasks.parallel) == ("agent", "other", [1, None, 0.5], ("a",), 2)


def test_objectives_with_text_and_gates() -> None:
    found = spec(
        "objectives:\n  - {description: d, deliverable: one, validation: words}\n"
        "  - {description: e, deliverable: [a, b], validation: {run: [pytest, -q], timeout: 5m}}\n  - f\n"
    ).objectives
    assert (found[0].deliverable, found[0].validation, found[0].gate) == (("one",), "words", None)
    assert found[1].deliverable == ("a", "b")
    assert found[1].gate is not None
    assert (found[1].gate.run, found[1].gate.timeout_s) == (("pytest", "-q"), 300.0)
    assert found[2].description == "f"


def test_text_stays_the_text_that_was_written() -> None:
    agent, notes = loaded("metadata: {name: 123, version: 1.10, created: 2025-07-04, workstream: on, branch: ~}\n" + TASKS)
    metadata = agent.spec.metadata
    assert (metadata.name, metadata.version, metadata.created, metadata.workstream, metadata.branch) == (
        "123",
        "1.10",
        "2025-07-04",
        "on",
        None,
    )
    assert len(notes) == 4


def test_hostile_text_stays_data() -> None:
    text = (
        HEAD
        + 'tasks: [{description: "\\e]52;c;x\\a [bold]${HOME} $(id)\\r\\n\\u202e", run: ["echo", "$(id)", "; rm -rf /"]}]\nspec: {name: "\\e[31m"}\n'
    )
    (agent,) = load_text(text).checked().agents
    assert agent.spec.title == "\x1b[31m"
    assert agent.spec.tasks.default[0].run == ("echo", "$(id)", "; rm -rf /")
    assert agent.spec.tasks.default[0].description.startswith("\x1b]52;c;x\x07 [bold]${HOME}")


def test_all_limits() -> None:
    limits = spec(
        "security: {sandbox: off, resource_limits: {max_memory: 200MB, max_cpu: 75, timeout: 1h30m, max_open_files: 1024, max_processes: 64, max_output: 10MB,"
        " max_disk_usage: 1GB, max_tool_calls: 0, task_timeout: 5m, max_tokens: 150000, max_cost_usd: 2.00}}\n"
    ).security
    assert limits.sandbox is False
    assert limits.limits.model_dump() == {
        "memory_bytes": 200 * 1024**2, "cpu_share": 0.75, "timeout_s": 5400.0, "max_open_files": 1024, "max_processes": 64, "output_bytes": 10 * 1024**2,
        "disk_bytes": 1024**3, "max_tool_calls": 0, "task_timeout_s": 300.0, "max_tokens": 150000, "max_cost_usd": 2.0,
    }  # fmt: skip


def test_short_forms_of_small_sections() -> None:
    found = spec(
        "capabilities: [reading]\nllm: anthropic/x\nrestart: never\nworkspace: copy\nmcpServers: {c: {command: c, args: [a], env: {K: '${K}'}}}\n"
    )
    assert (found.capabilities.primary, found.llm.model, found.restart.policy, found.workspace.mode) == (
        ("reading",),
        "anthropic/x",
        "never",
        "copy",
    )
    assert (found.mcp_servers["c"].command, found.mcp_servers["c"].env) == ("c", {"K": "${K}"})
    assert spec("").restart == Restart(policy="on-failure", max_attempts=3, delay_s=5.0)


def test_unknown_sections_are_kept_and_listed_once() -> None:
    agent, notes = loaded(HEAD + TASKS + "test_scenarios: {a: [1, 2]}\nx-mine: 3\n")
    assert agent.spec.extra == {"test_scenarios": {"a": [1, 2]}, "x-mine": 3}
    assert notes == ["sections kept as they are: test_scenarios, x-mine"]


def test_names_for_people() -> None:
    agent = load_text(HEAD + TASKS).agents[0].spec
    assert (agent.name, agent.title, agent.workstream, agent.domain, agent.priority) == ("a", "a", "a", None, Priority.MEDIUM)
    assert [priority.rank for priority in (Priority.CRITICAL, Priority.HIGH, Priority.MEDIUM, Priority.LOW)] == [0, 1, 2, 3]


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"%YAML 1.1\n---\n", b"---\n"])
def test_byte_order_marks_and_line_ends(prefix: bytes) -> None:
    result = load_paths(["-"], stdin=prefix + (HEAD + TASKS).replace("\n", "\r\n").encode())
    assert result.problems == ()
    assert result.agents[0].name == "a"


def test_dump_loads_back() -> None:
    data: dict[str, Any] = {"metadata": {"name": "on", "version": "1.10"}, "tasks": [{"description": "é: # x\n- y"}]}
    agent = load_text(dump_yaml(data)).checked().agents[0].spec
    assert (agent.name, agent.metadata.version, agent.tasks.default[0].description) == ("on", "1.10", "é: # x\n- y")


@pytest.mark.parametrize("branch", ["main", "feature/x", "v1.0-rc"])
def test_branches(branch: str) -> None:
    assert is_branch(branch)


@pytest.mark.parametrize("branch", ["", "-x", "a..b", "a b", "a~1", "x.lock", "a//b", "/a", "a/", "a\nb", "@", "@{u}", ".a", "a/.b"])
def test_no_branches(branch: str) -> None:
    assert not is_branch(branch)
