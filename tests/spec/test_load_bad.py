"""Bad and hostile files: each a sentence at its exact place, never a traceback, never much work."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from toka_cli.errors import InvalidSpecs, Problem
from toka_cli.spec import guard
from toka_cli.spec.findings import Findings
from toka_cli.spec.load import documents, load_paths, load_text

HEAD = "metadata: {name: a}\n"
TASKS = "tasks: {default: [{description: x}]}\n"


def bad(text: str | bytes, path: str = "f.yaml") -> tuple[Problem, ...]:
    loaded = load_paths(["-"], stdin=text if isinstance(text, bytes) else text.encode())
    assert loaded.agents == () or loaded.errors
    return loaded.problems


def where(problem: Problem) -> tuple[int, int]:
    return problem.line, problem.column


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        pytest.param("metadata:\n\tname: x\n", (2, 1), "a tab indents this line", id="tab"),
        pytest.param("metadata:\n  name: x\n\tversion: 1\n", (3, 1), "a tab indents this line", id="tab later"),
        pytest.param("tasks:\n  - x\n\t- y\n", (3, 1), "a tab indents this line", id="tab that a parser takes"),
        pytest.param(
            HEAD + TASKS + "metadata: {name: b}\n", (3, 1), "'metadata' is here twice (first at line 1, column 1)", id="duplicate key"
        ),
        pytest.param('metadata:\n  name: "x\n\n', (2, 9), "a quote is not closed", id="quote"),
        pytest.param("metadata:\n  name: a: b\n", (2, 10), "a ':' cannot stand here", id="colon"),
        pytest.param("metadata: {name: a\ntasks: [a]\n", (2, 6), "',' or '}' was expected", id="bracket"),
        pytest.param("metadata:\n  name: a\n version: b\n", (3, 2), "a 'key: value' was expected", id="indentation"),
        pytest.param("metadata:\n  name: @a\n", (2, 9), "text cannot begin with this character", id="at sign"),
        pytest.param("metadata: {name: *x}\n", (1, 18), "the alias *x has no anchor &x", id="alias without anchor"),
        pytest.param("a: &x [*x]\n", (1, 8), "the alias *x stands inside what it repeats", id="recursive alias"),
        pytest.param("a: &x {b: *x}\n", (1, 11), "the alias *x stands inside what it repeats", id="recursive mapping"),
        pytest.param(
            "metadata: {name: !!python/object:os.system x}\n", (1, 18), "the tag '!!python/object:os.system' is not read", id="python tag"
        ),
        pytest.param(HEAD + "tasks: !tool [x]\n", (2, 8), "the tag '!tool' is not read", id="own tag"),
        pytest.param("? [a]\n: b\n", (1, 3), "a key must be text", id="list as key"),
        pytest.param("{a: b}: c\n", (1, 1), "a key must be text", id="mapping as key"),
        pytest.param("? \n: b\n", (1, 2), "a key is missing before ':'", id="no key"),
        pytest.param('metadata: {name: "a\\0b"}\n', (1, 18), "text cannot hold a NUL", id="NUL in text"),
        pytest.param("a: <<\nb:\n  <<: [1]\n", (3, 7), "a merge key (<<) takes a mapping", id="merge of no mapping"),
        pytest.param("- a\n", (1, 1), "this is not an agent spec", id="list"),
        pytest.param("services: {web: {image: x}}\n", (1, 1), "this is not an agent spec", id="something else"),
        pytest.param("", (0, 0), "the file is empty", id="empty"),
        pytest.param("# only words\n---\n...\n", (0, 0), "the file is empty", id="comments"),
        pytest.param(HEAD + "tasks: []\n", (2, 1), "an agent needs tasks", id="no tasks"),
        pytest.param(HEAD, (1, 1), "an agent needs tasks", id="tasks missing"),
        pytest.param(TASKS, (1, 1), "metadata.name is missing", id="no metadata"),
        pytest.param("metadata: {version: 1}\n" + TASKS, (1, 1), "metadata.name is missing", id="no name"),
        pytest.param("metadata: {name: '../etc'}\n" + TASKS, (1, 18), "cannot name an agent", id="name"),
        pytest.param("metadata: {name: [a]}\n" + TASKS, (1, 18), "metadata.name must be text, not a list", id="name is a list"),
        pytest.param("metadata: x\n" + TASKS, (1, 11), "metadata must be a mapping, not 'x'", id="metadata is text"),
        pytest.param(HEAD + TASKS + "spec: {priority: hihg}\n", (3, 18), "must be one of critical, high, medium, low", id="priority"),
        pytest.param(
            HEAD + TASKS + "security:\n  resource_limits:\n    max_memory: lots\n", (5, 17), "not an amount of memory", id="memory"
        ),
        pytest.param(HEAD + TASKS + "security: {resource_limits: {max_cpu: 0}}\n", (3, 39), "leaves no processor time", id="no processor"),
        pytest.param(HEAD + TASKS + "security: {resource_limits: {timeout: -5s}}\n", (3, 39), "not a duration", id="negative time"),
        pytest.param(HEAD + TASKS + "security: {resource_limits: {max_cost_usd: .nan}}\n", (3, 44), "must be a number from 0", id="NaN"),
        pytest.param(
            HEAD + TASKS + "security: {resource_limits: {max_processes: 1.5}}\n", (3, 45), "must be a whole number", id="half a process"
        ),
        pytest.param(HEAD + TASKS + "security: {sandbox: perhaps}\n", (3, 21), "must be true or false", id="flag"),
        pytest.param(
            HEAD + TASKS + "security: {capabilities_required: [{network-access: []}]}\n", (3, 37), "narrowed to nothing", id="empty grant"
        ),
        pytest.param(
            HEAD + TASKS + "security:\n  capabilities_required:\n    - a\n    - a: [x]\n",
            (6, 7),
            "once with values and once without",
            id="both forms",
        ),
        pytest.param(HEAD + TASKS + "llm: {base_url: 'http://x'}\n", (3, 7), "llm.base_url cannot be set here", id="address"),
        pytest.param(HEAD + TASKS + "llm: {temperature: 3}\n", (3, 20), "must be a number from 0 to 2", id="temperature"),
        pytest.param(HEAD + TASKS + "dependencies: {required: {a: self}}\n", (3, 27), "'a' depends on itself", id="itself"),
        pytest.param(HEAD + TASKS + "dependencies: {required: ['a b']}\n", (3, 27), "cannot name an agent", id="dependency name"),
        pytest.param(HEAD + TASKS + "mcp_servers: {x: {args: [a]}}\n", (3, 15), "needs a command or a url", id="server"),
        pytest.param(HEAD + TASKS + "mcp_servers: {x: {url: 'file:///etc'}}\n", (3, 19), "must begin with http", id="server url"),
        pytest.param(HEAD + TASKS + "workspace: {mode: worktree}\n" + "x: 1\n", None, "", id="fine"),
        pytest.param("metadata: {name: a, branch: '-x'}\nworkspace: worktree\n" + TASKS, (1, 29), "is not a git branch name", id="branch"),
        pytest.param(HEAD + "agents: [x.yaml]\n" + TASKS, (2, 1), "not both", id="two kinds"),
    ],
)
def test_mistakes_have_a_place_and_a_sentence(text: str, place: tuple[int, int] | None, words: str) -> None:
    found = bad(text) if place else load_text(text).problems
    if place is None:
        assert found == ()
        return
    assert [problem for problem in found if where(problem) == place and words in problem.message], found


@pytest.mark.parametrize(
    ("task", "place", "words"),
    [
        ("{run: [a], code: {python: x}}", (4, 18), "has two targets: run and code"),
        ("{}", (4, 7), "neither a description nor something to run"),
        ("[a]", (4, 7), "must be a task, not a list"),
        ("{id: 'a b', description: x}", (4, 8), "cannot be an id"),
        ("{id: t2, description: x}\n    - {description: y}", (5, 7), "the task id 't2' is used twice (first at line 4, column 8)"),
        ("{description: x, depends_on: [t9]}", (4, 37), "there is no task 't9'"),
        ("{id: a, description: x, depends_on: a}", (4, 43), "tasks wait for each other: a -> a"),
        (
            "{id: a, run: xxxxxxxxx, depends_on: [c]}\n    - {id: b, run: x, depends_on: a}\n    - {id: c, run: x, depends_on: b}",
            (4, 44),
            "a -> c -> b -> a",
        ),
        ("{description: x, run: []}", (4, 24), "names no program"),
        ("{description: x, run: ' '}", (4, 29), "is empty"),
        ("{description: x, run: {a: b}}", (4, 24), "must be a list of arguments"),
        ("{description: x, code: {perl: x}}", (4, 24), "names no language"),
        ("{description: x, code: {python: x, shell: y}}", (4, 24), "more than one language"),
        ("{description: x, timeout: soon}", (4, 33), "not a duration"),
        ("{description: x, retries: {max: 1000}}", (4, 39), "whole number from 0 to 100"),
        ("{description: x, retries: {backoff: 0}}", (4, 43), "number from 1 to 10"),
        ("{description: x, output_schema: {properties: {a: {type: txt}}}}", (4, 57), "is not JSON Schema"),
        ("{description: x, output_schema: [a]}", (4, 24), "must be a mapping"),
        ("{description: x, verify: {timeout: 5s}}", (4, 24), "verify.run is missing"),
        ("{description: x, on_interrupted: maybe}", (4, 40), "one of rerun, fail, ask"),
        ("{agent: 'a/b'}", (4, 8), "cannot name an agent"),
        ("{description: x, args: 3, tool: t}", (4, 30), "args must be a mapping"),
    ],
)
def test_mistakes_in_tasks(task: str, place: tuple[int, int], words: str) -> None:
    found = bad(f"{HEAD}tasks:\n  default:\n    - {task}\n")
    assert [problem for problem in found if where(problem) == place and words in problem.message], found


def test_all_problems_at_once_and_a_key_that_nobody_knows_with_its_neighbour() -> None:
    text = HEAD + "tasks: {defualt: [x], default: [{description: x, timout: 1s}]}\nsecurty: {}\nllm: {api_key: sk}\n"
    found = {where(problem): problem for problem in load_text(text).problems}
    assert found[2, 9].hint == "did you mean 'default'?"
    assert found[2, 50].hint == "did you mean 'timeout'?"
    assert found[3, 1].hint == "did you mean 'security'?"
    assert {problem.severity for place, problem in found.items() if place[0] < 4} == {"warning"}
    assert found[4, 7].severity == "error"
    assert {problem.severity for problem in load_text(text, strict=True).problems} == {"error"}


def test_an_unknown_limit_is_never_silent() -> None:
    (found,) = load_text(HEAD + TASKS + "security: {resource_limits: {bandwidth: 1}}\n").problems
    assert (found.severity, found.line, found.column) == ("warning", 3, 30)


@pytest.mark.parametrize(
    ("data", "code", "place"),
    [
        (b"x" * (guard.MAX_FILE_BYTES + 1), "too_large", (0, 0)),
        (b"\xff\xfem\x00", "encoding", (1, 1)),
        (b"a: b\nc: \xff\n", "encoding", (2, 4)),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "encoding", (1, 1)),
        (b"a: b\r\nc: \x00\n", "binary", (2, 4)),
        (b"a: \x1b[31m\n", "encoding", (1, 4)),
        (b"[" * 60 + b"]" * 60, "too_deep", (1, 51)),
        (b"[" * 900_000, "too_deep", (1, 51)),
        (b"{a: " * 200_000, "too_deep", (1, 201)),
        (b"[" + b"a," * 400_000 + b"]", "too_many_nodes", (1, 100_000)),
        (b"--- a\n" * 300, "too_many_nodes", (201, 1)),
    ],
    ids=["size", "utf-16", "not utf-8", "png", "nul", "escape", "deep", "very deep", "deep mappings", "wide", "documents"],
)
def test_files_that_are_not_worth_reading(data: bytes, code: str, place: tuple[int, int]) -> None:
    (found,) = bad(data)
    assert (found.code, where(found)) == (code, place)


def bomb(shape: str) -> str:
    lines = ["a: &a " + ("[x,x,x,x,x,x,x,x,x]" if shape == "list" else "{x: 1, y: 2}")]
    for number in range(12):
        name, nine = chr(98 + number), ",".join(["*" + chr(97 + number)] * 9)
        body = {"list": f"[{nine}]", "merge": f"{{<<: [{nine}]}}"}[shape]
        lines.append(f"{name}: &{name} {body}")
    return "\n".join(lines)


@pytest.mark.parametrize("loader", [yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)])
@pytest.mark.parametrize("shape", ["list", "merge"])
def test_bombs_are_refused_without_being_expanded(shape: str, loader: object) -> None:
    assert len(bomb(shape)) < 720
    meter = guard.Meter("bomb")
    with pytest.raises(InvalidSpecs) as caught:
        documents(bomb(shape), Findings("bomb"), meter, loader_class=loader)
    assert caught.value.problems[0].code == "too_many_nodes"
    assert meter.visited < 200


def test_depth_counts_what_an_alias_repeats() -> None:
    (found,) = bad("a: &a " + "[" * 30 + "]" * 30 + "\nb: " + "[" * 30 + "*a" + "]" * 30 + "\n")
    assert found.code == "too_deep"


def test_aliases_and_merge_keys_within_bounds_are_fine() -> None:
    text = (
        "x-base: &base {timeout: 5s, priority: low}\n"
        + HEAD
        + "tasks:\n  - {<<: *base, description: x, priority: high}\n  - {<<: [*base], run: y}\n"
    )
    first, second = load_text(text).checked().agents[0].spec.tasks.default
    assert (first.timeout_s, first.priority, second.timeout_s, second.priority) == (5.0, "high", 5.0, "low")


def test_problems_are_bounded_and_none_hides_that_there_are_errors() -> None:
    text = HEAD + "tasks:\n" + "".join("  - {run: [], id: '?'}\n" for _ in range(2000))
    loaded = load_text(text)
    assert loaded.agents == ()
    assert 0 < len(loaded.problems) <= 250


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (HEAD + "tasks: [" + "x," * 1001 + "]\n", (2, 1), "at most 1000 tasks, not 1001"),
        (
            HEAD + TASKS + "security: {capabilities_required: [" + ",".join(f"g{n}" for n in range(201)) + "]}\n",
            (3, 12),
            "at most 200 grants",
        ),
        (HEAD + "tasks: [{description: x, output_schema: {title: " + "x" * 70_000 + "}}]\n", (2, 26), "larger than 64 KB"),
    ],
    ids=["tasks", "grants", "schema"],
)
def test_more_than_anybody_writes(text: str, place: tuple[int, int], words: str) -> None:
    assert [problem for problem in bad(text) if where(problem) == place and words in problem.message]


def test_a_thousand_unknown_tasks_are_fifty_problems() -> None:
    waits = ",".join(f"q{number}" for number in range(1000))
    assert len(bad(HEAD + f"tasks: [{{description: x, depends_on: [{waits}]}}]\n")) == 50


def test_both_parsers_see_the_same_trees() -> None:
    text = HEAD + "tasks: &t\n  - 'a\n    b'\n  - |\n    x\n    \ty\n  - \"\\u00e9\"\nextra: *t\n"
    fast = documents(text, Findings("f"), guard.Meter("f"))
    slow = documents(text, Findings("f"), guard.Meter("f"), loader_class=yaml.SafeLoader)
    assert fast == slow


PIECES = st.sampled_from(
    [
        "metadata:",
        " name: a",
        "tasks:",
        "- ",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "<<: ",
        "\n",
        "  ",
        "\t",
        "!!str ",
        "!x ",
        "? ",
        ": ",
        "'",
        '"',
        "|\n",
        "run",
        "code: ",
        "default:",
        "---\n",
        "%YAML 1.1\n",
        "security: ",
        "capabilities_required: ",
        "~",
        "1e999",
        "0x",
        ".nan",
        "\ufeff",
        "\x85",
        "\\ud800",
        "output_schema: ",
        "$ref: ",
    ]
)


@settings(max_examples=250)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")),
        st.lists(PIECES, max_size=40).map(lambda parts: "".join(parts).encode()),
    )
)
def test_any_bytes_give_agents_or_problems(data: bytes) -> None:
    loaded = load_paths(["-"], stdin=data)
    assert loaded.agents or loaded.orchestration or loaded.problems


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)
SECTIONS = (
    "metadata",
    "spec",
    "capabilities",
    "objectives",
    "tasks",
    "dependencies",
    "security",
    "llm",
    "mcp_servers",
    "restart",
    "workspace",
    "reporting",
)
KEYS = st.sampled_from(
    [
        "name",
        "priority",
        "default",
        "conditional",
        "parallel",
        "required",
        "optional",
        "resource_limits",
        "max_memory",
        "capabilities_required",
        "run",
        "code",
        "python",
        "retries",
        "max",
        "verify",
        "output_schema",
        "depends_on",
        "args",
        "tool",
        "metrics",
        "policy",
        "mode",
        "command",
        "env",
        "x",
    ]
)
SHAPES = st.recursive(JSON, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)), max_leaves=15)


@settings(max_examples=250)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*SECTIONS, "agents", "limits", "budget"), SHAPES)))
def test_any_shape_in_any_section_gives_agents_or_problems(document: dict[str, object]) -> None:
    loaded = load_text(yaml.safe_dump(document, allow_unicode=False))
    assert loaded.agents or loaded.orchestration or loaded.problems
