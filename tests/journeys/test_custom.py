"""Tasks and tools of an installed package through all of toka: planned, run in a cell, judged by the kernel. The package is in an environment of its own."""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Toka
from tests.journeys.asking import connect, finish, of_lane, prompt
from tests.llm.server import ModelServer, call, calls

MODULE = """
import pathlib

class Words:
    description = "Count words"
    is_retryable = False

    def __init__(self, path):
        self.path = path

    def execute(self, context):
        text = (context.workdir / self.path).read_text()
        (context.workdir / "seen").write_text("x" + (pathlib.Path("seen").read_text() if pathlib.Path("seen").exists() else ""))
        if not text:
            raise ValueError("there are no words")
        print("counting for", context.agent)
        return {"words": len(text.split())}
"""


TOOLS = """
import os
from toka_cli.tools.tool import Arguments, Tool, ToolFailed

class Shout(Arguments, frozen=True):
    text: str

async def run(arguments, context):
    if not arguments.text:
        raise ToolFailed("there is nothing to shout", hint="give it a text")
    return {"text": arguments.text.upper(), "here": os.environ.get("AGENT_NAME", "not in a cell")}

def tool(name, **more):
    fields = {"power": None, "effect": "pure", "where": "cell", "read_only": True, **more}
    return Tool(name=name, description="Shouts.", arguments=Shout, result=dict, run=run, **fields)

shout = tool("shout")
write = tool("shout_to_file", power="filesystem-write", effect="effect", read_only=False, calls_per_task=1)
kernel = tool("shout_in_kernel", where="kernel")
power = tool("shout_with_power", power="shouting")
if os.environ.get("ANTHROPIC_API_KEY"):
    raise RuntimeError("loaded where there is a key")
"""

POINTS = """[toka.tasks]
words = words_task:Words
[toka.tools]
shout = shout_tools:shout
write = shout_tools:write
kernel = shout_tools:kernel
power = shout_tools:power
broken = shout_tools:nothing_of_that_name
"""


class Installed(Toka):
    """The command line in an environment that has one package more."""

    @property
    def argv(self) -> list[str]:
        return [str(self.root / "env" / "bin" / "python"), "-m", "toka_cli"]


@pytest.fixture
def installed(tmp_path: Path) -> Any:
    venv.create(tmp_path / "env", symlinks=True)
    (packages,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    # What toka itself needs comes from where these tests run.
    (packages / "around.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (packages / "words_task.py").write_text(MODULE)
    info = packages / "words_task-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: words-task\nVersion: 1.0\n")
    (packages / "shout_tools.py").write_text(TOOLS)
    (info / "entry_points.txt").write_text(POINTS)
    made = Installed(tmp_path)
    try:
        yield made
    finally:
        made.tear_down()


def task(name: str = "words", **more: Any) -> dict[str, Any]:
    return {"id": "t", "custom": name, "args": {"path": "a.txt"}, **more}


def test_a_task_of_a_package(installed: Any) -> None:
    (installed.work / "a.txt").write_text("one two three\n")
    view = installed.run(installed.spec("one", [task(output_schema={"type": "object", "required": ["words"]})]))
    (done,) = view["agents"][0]["tasks"]
    assert (done["kind"], done["state"], done["value"]) == ("custom", "succeeded", {"words": 3})
    assert "counting for one" in done["stderr"]


def test_a_failure_that_it_calls_final_is_not_tried_again(installed: Any) -> None:
    (installed.work / "a.txt").write_text("")
    view = installed.run(installed.spec("one", [task(retries={"max": 3, "delay": "10ms"})]), code=1)
    (failed,) = view["agents"][0]["tasks"]
    assert failed["reason"].startswith("not_retryable: exit 77")
    assert failed["attempts"] == 1
    assert (installed.work / "seen").read_text() == "x"
    assert "ValueError: there are no words" in failed["stderr"]


def test_a_name_that_no_package_offers_is_an_error_of_the_spec(installed: Any) -> None:
    done = installed("orchestrate", installed.spec("one", [task("word")]))
    assert done.code == 3
    assert "there is no custom task 'word'" in done.err
    assert "did you mean words?" in done.err


def test_a_tool_of_a_package(installed: Any) -> None:
    """Its code runs in the cell and nowhere where a key is; the kernel checks its grant and counts its calls."""
    spec = installed.spec(
        "one",
        [
            {"id": "a", "tool": "shout", "args": {"text": "hello"}},
            {"id": "b", "tool": "shout", "args": {"text": ""}, "allow_failure": True},
            {"id": "c", "tool": "shout_to_file", "args": {"text": "x"}, "allow_failure": True},
        ],
        security={"capabilities_required": []},
    )
    view = installed.run(spec, env={"ANTHROPIC_API_KEY": "sk-never-seen"})
    done, failed, refused = view["agents"][0]["tasks"]
    assert done["value"] == {"text": "HELLO", "here": "one"}
    assert failed["reason"] == "tool: there is nothing to shout (give it a text)"
    assert refused["reason"].startswith("capability_denied: filesystem-write")


def test_tools_that_cannot_be_used_are_named_and_the_others_listed(installed: Any) -> None:
    done = installed("runtime", "tools", "-o", "json").expect(0)
    told = {tool["name"]: tool for tool in done.envelope["data"]["tools"]}
    assert told["shout"]["input_schema"]["required"] == ["text"]
    assert told["shout_to_file"]["calls_per_task"] == 1
    assert not {"shout_in_kernel", "shout_with_power"} & set(told)
    for words in ("shout_in_kernel cannot be used: tools of other packages run in cells", "there is no power 'shouting'", "nothing_of_that_name"):
        assert words in done.err


def test_a_misspelt_tool_of_a_package_is_known_by_its_neighbour(installed: Any) -> None:
    done = installed("orchestrate", installed.spec("one", [{"id": "a", "tool": "shuot"}]))
    assert done.code == 3
    assert "did you mean shout?" in done.err


def test_a_model_is_offered_the_tools_of_a_package_that_its_grants_open(installed: Any, model_server: ModelServer) -> None:
    connect(installed, model_server)
    task = prompt(installed, "thinker", "Shout hello.")
    model_server.play({"Shout hello.": [calls(call("shout", text="hello")), calls(call("shout_to_file", text="x")), finish("shouted")]})
    view = installed.run(task)
    assert view["agents"][0]["tasks"][0]["output"] == "shouted"
    first, second, third = of_lane(model_server, "Shout hello.")
    offered = {tool["function"]["name"]: tool["function"] for tool in first.body["tools"]}
    assert offered["shout"]["parameters"]["required"] == ["text"]
    assert "shout_to_file" not in offered
    assert "HELLO" in second.messages[-1]["content"]
    assert "thinker" in second.messages[-1]["content"], "it ran in the agent's cell"
    assert "filesystem-write" in third.messages[-1]["content"], "a tool that was not offered is refused with the grant that it needs"
