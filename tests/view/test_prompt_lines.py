from __future__ import annotations

import re
from typing import Any

from toka_cli import events as e
from toka_cli.state.prompts import Said, Talk, Turn
from toka_cli.view.prompt import prompt_lines
from toka_cli.view.style import paint


def turn(number: int, *messages: Said, reply: Said | None = None, **more: Any) -> Turn:
    facts: dict[str, Any] = {
        "state": "replied" if reply else "failed", "model": "openai/x", "error": None, "finish_reason": "stop", "input_tokens": 1204, "output_tokens": 88,
        "cost_usd": 0.0031, "tools": ("read_file",), "temperature": 0.2, "shortened": (), "dropped": 0,
    }  # fmt: skip
    return Turn(turn=number, messages=messages, reply=reply, **(facts | more))


def thinker(story: Any, *ids: str, kind: str = "prompt") -> Any:
    story.agent("build", tasks=tuple(e.TaskInfo(task, "Mend it", kind) for task in ids))
    story.view.agents[0].tasks = [type(task)(id=task.id.id, description=task.id.description, kind=kind) for task in story.view.agents[0].tasks]
    return story.view.agents[0]


def plain(agent: Any, *talks: Talk, **more: Any) -> list[str]:
    return [paint(line, color=False) for line in prompt_lines(agent, talks, artifacts="/state/artifacts", **more)]


def test_a_conversation_reads_like_one(story: Any) -> None:
    first = turn(1, Said("system", "You are.\nSecond line."), Said("user", "Do it."), reply=Said("assistant", "I look.", (("read_file", '{"path":"a"}'),)))
    second = turn(2, Said("tool", None, tool="read_file", artifact="ab" * 32), reply=Said("assistant", None, (("finish", "{}"),)), cost_usd=None)
    third = turn(3, Said("user", "x"), error="rate_limit: later", input_tokens=None, cost_usd=None, dropped=6, shortened=(6, 8))
    assert plain(thinker(story, "t1", "t2"), Talk("t1", 1, 1, (first, second, third))) == [
        "task t1 (Mend it)",
        "  system:",
        "    You are.",
        "    Second line.",
        "  user:",
        "    Do it.",
        "  assistant (turn 1: openai/x, temperature 0.2, tools read_file, 1,204 tokens in, 88 out, $0.0031):",
        "    I look.",
        '    calls read_file {"path":"a"}',
        "  tool read_file:",
        f"    [the result is in /state/artifacts/{'ab' * 32}]",
        "  assistant (turn 2: openai/x, temperature 0.2, 1,204 tokens in, 88 out):",
        "    calls finish {}",
        "  (from here on the model was not shown messages 3 to 6 and the long texts of 7, 9)",
        "  user:",
        "    x",
        "  turn 3 (openai/x, temperature 0.2): failed: rate_limit: later",
        "",
        "task t2 (Mend it): not started",
    ]


def test_several_conversations_are_counted(story: Any) -> None:
    talks = [Talk("t1", number, number, (turn(1, Said("system", "s"), reply=Said("assistant", "a")),)) for number in (1, 2)]
    heads = [line for line in plain(thinker(story, "t1"), *talks) if line.startswith("task")]
    assert heads == ["task t1 (Mend it), conversation 1 of 2, begun with attempt 1", "task t1 (Mend it), conversation 2 of 2, begun with attempt 2"]


def test_an_agent_that_asks_nobody_says_so(story: Any) -> None:
    assert plain(thinker(story, "t1", kind="command")) == ["build has no prompt task: it asks no model"]


def test_what_models_and_tools_say_is_shown_and_not_obeyed(story: Any, hostile: str, forbidden: re.Pattern[str]) -> None:
    said = Said("assistant", hostile, ((hostile, hostile),))
    one = turn(1, Said("system", hostile), Said("tool", hostile, tool=hostile), Said(hostile, hostile), reply=said, model=hostile, tools=(hostile,))
    two = turn(2, error=hostile, model=hostile, state=hostile)
    agent = thinker(story, "t1")
    for ascii_only in (False, True):
        lines = plain(agent, Talk("t1", 1, 1, (one, two)), ascii_only=ascii_only)
        for line in lines:
            assert not forbidden.search(line)
            assert not ascii_only or line.isascii()
        # No text makes a line that could be taken for one of ours.
        assert len([line for line in lines if not line.startswith("    ")]) == 6
