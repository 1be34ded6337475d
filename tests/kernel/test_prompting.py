"""What a cell gets for its prompts besides the plan: templates of the user, and the window of its models; and which tools a task is offered."""

from __future__ import annotations

import asyncio
import os

import msgspec
import pytest

from tests.kernel.talkers import TOOLS, agent_of, prompt_task
from toka_cli.kernel import prompting
from toka_cli.kernel.offers import EARLIER_CHARS, EARLIER_TOTAL_CHARS, earlier, offered
from toka_cli.kernel.permits import Permits
from toka_cli.kernel.prompting import cell_prompt, own_templates
from toka_cli.lifecycle import TaskState
from toka_cli.llm.provider import ModelInfo, ProviderError
from toka_cli.protocol import frames
from toka_cli.protocol import messages as m
from toka_cli.state.snapshot import AgentView, RunView, TaskView
from toka_cli.tools.catalog import CATALOG


def test_templates_are_files_of_the_users_folder(tmp_path):
    assert own_templates(tmp_path / "nowhere") == {}
    (tmp_path / "Security.md").write_text("mine")
    (tmp_path / "notes.txt").write_text("no")
    (tmp_path / "large.md").write_text("x" * (prompting.MAX_TEMPLATE_BYTES + 1))
    (tmp_path / "binary.md").write_bytes(b"\xff\xfe")
    (tmp_path / "folder.md").mkdir()
    os.mkfifo(tmp_path / "pipe.md")
    assert own_templates(tmp_path) == {"security": "mine"}


def test_all_templates_together_fit_into_a_brief(tmp_path):
    for number in range(100):
        (tmp_path / f"t{number:03}.md").write_text("x" * prompting.MAX_TEMPLATE_BYTES)
    found = own_templates(tmp_path)
    assert 0 < len(found) <= prompting.MAX_TEMPLATES
    assert sum(map(len, found.values())) <= prompting.MAX_TOTAL_BYTES
    brief = m.AgentBrief("r-1", "one", "/w", (), prompt=m.PromptContext(templates=found))
    assert len(frames.reply(1, brief)) < frames.MAX_FRAME_BYTES


@pytest.mark.parametrize(
    ("windows", "own", "expected"),
    [({"m": 9000, "n": 5000}, None, 5000), ({"m": 9000}, None, 9000), ({}, None, None), ({"m": 9000}, 4000, 4000), ({}, 4000, 4000)],
)
def test_the_smallest_window_of_its_models_counts(windows, own, expected):
    async def describe(model):
        if model not in windows:
            raise ProviderError("crashed", "gone")
        return ModelInfo(model, context_window=windows[model])

    prompt = m.PromptContext(model="m", fallbacks=("n",), context_window=own)
    made = asyncio.run(cell_prompt(prompt, describe, {"rules": "x"}))
    assert (made.context_window, made.templates) == (expected, {"rules": "x"})
    assert asyncio.run(cell_prompt(prompt, None, {})).context_window == own
    assert asyncio.run(cell_prompt(None, describe, {})) is None


def names(tools):
    return [tool["function"]["name"] for tool in tools]


def test_a_task_that_requires_less_is_offered_less():
    agent = agent_of()
    asked = (*TOOLS, "finish", "ask", "http_fetch", "no_such_tool")
    assert names(offered(asked, agent, prompt_task())) == [*TOOLS, "finish", "ask"]
    assert names(offered(asked, agent, prompt_task(requires=("filesystem-read",)))) == ["read_file", "list_dir", "finish", "ask"]
    assert names(offered(("finish",), agent, prompt_task())) == ["finish"]


def test_a_tool_with_two_names_is_offered_once():
    twins = [tool for tool in CATALOG.values() if tool.alias_of is not None]
    assert twins
    agent = agent_of(grants=(*(tool.power for tool in twins if tool.power),), tools=tuple(CATALOG))
    offers = names(offered(tuple(CATALOG), agent, prompt_task()))
    assert not {tool.name for tool in twins} & set(offers)
    assert {tool.alias_of for tool in twins} <= set(offers)


def test_every_schema_that_is_offered_is_an_object_and_json():
    for name in CATALOG:
        agent = agent_of(grants=(CATALOG[name].power or "filesystem-read",), tools=(name,))
        for tool in offered((name,), agent, prompt_task()):
            assert tool["function"]["parameters"]["type"] == "object"
            assert msgspec.json.encode(tool)


def test_what_came_before_is_bounded_and_names_whose_it_is():
    done = {"state": TaskState.SUCCEEDED, "kind": "prompt", "description": "d"}
    mine = [TaskView(id=f"a{number}", output=str(number) * 5000, **done) for number in range(9)]
    theirs = [TaskView(id="x", output="theirs", **done), TaskView(id="y", output="no", **{**done, "kind": "command"})]
    view = RunView(
        id="r",
        agents=[
            AgentView("r-1", "r", "before", "B", "w", tasks=theirs),
            AgentView("r-2", "r", "stranger", "S", "w", tasks=[TaskView(id="z", output="secret", **done)]),
            AgentView("r-3", "r", "one", "O", "w", tasks=[*mine, TaskView(id="p", description="now", kind="prompt")]),
        ],
    )
    tasks = tuple(prompt_task(task) for task in (*(one.id for one in mine), "p"))
    told = earlier(view, msgspec.structs.replace(agent_of(), depends_on=("before",), tasks=tasks, parallel=1), "r-3", "p")
    assert [(one.task, one.agent) for one in told] == [("x", "before"), *((f"a{number}", None) for number in range(9))]
    assert sum(len(one.output) for one in told) <= EARLIER_TOTAL_CHARS
    assert told[-1].output == "8" * EARLIER_CHARS
    assert told[1].output == ""


@pytest.mark.parametrize(("parallel", "known"), [(1, ["a", "b", "c"]), (2, ["a", "c"])])
def test_of_tasks_side_by_side_only_those_count_that_were_waited_for(parallel, known):
    ended = [TaskView(id=task, description="d", kind="command", state=TaskState.SUCCEEDED) for task in ("a", "b", "c", "later")]
    view = RunView(id="r", agents=[AgentView("r-1", "r", "one", "O", "w", tasks=[*ended, TaskView(id="p", description="now", kind="prompt")])])
    tasks = [prompt_task(task) for task in ("a", "b", "c", "p", "later")]
    tasks[2] = msgspec.structs.replace(tasks[2], depends_on=("a",))
    tasks[3] = msgspec.structs.replace(tasks[3], depends_on=("c",))
    agent = msgspec.structs.replace(agent_of(), tasks=tuple(tasks), parallel=parallel)
    assert [one.task for one in earlier(view, agent, "r-1", "p")] == known


WALLS = m.Walls("standard", read=("/work", "/usr"), execute=("/usr",))


@pytest.mark.parametrize(
    ("tool", "result", "told"),
    [
        ("run_command", '{"exit_code":1}\nstderr:\ntouch: cannot touch \'x\': Permission denied\n', True),
        ("run_command", '{"exit_code":0}\nstdout:\ntouch: cannot touch \'x\': Permission denied\n', False),
        ("read_file", "content:\ntouch: cannot touch 'x': Permission denied\n", False),
        ("run_command", '{"exit_code":1}\nstderr:\nassert 1 == 2\n', False),
    ],
)
def test_a_command_that_the_walls_stopped_is_explained_to_the_model(tool, result, told):
    agent = agent_of(grants=("filesystem-read", "script-execution"))
    permits = Permits(msgspec.structs.replace(agent, grants=("filesystem-read",)), "/work", WALLS)
    text = permits.told(prompt_task(), tool, result)
    assert text.startswith(result.rstrip())
    assert ("filesystem-write" in text) == told
    assert ("capabilities_required" in text) == told
