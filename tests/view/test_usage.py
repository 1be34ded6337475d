"""Models on the screen: turns, tokens and cost, the seconds of a wait, in every picture and at every width."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest

from toka_cli import events as e
from toka_cli.state.snapshot import Usage
from toka_cli.view.activity import activity, waits
from toka_cli.view.agent import agent_lines, agent_table
from toka_cli.view.jsonl import JsonLinesRenderer
from toka_cli.view.plain import PlainRenderer
from toka_cli.view.rows import agent_screen, run_screen
from toka_cli.view.style import paint
from toka_cli.view.summary import markdown_summary, text_summary
from toka_cli.view.terminal import Terminal
from toka_cli.view.text import display_width
from toka_cli.view.usage import brief, cost, money, together, tokens, turns, usage_text
from toka_cli.view.why import why

PIPE = Terminal(tty=False, color=False, animate=False, width=None, ascii_only=False)
LIMIT = "waiting for rate limit until 12:04:05"


def plain(lines: Any) -> list[str]:
    return [paint(line, color=False) for line in lines]


@pytest.fixture
def thinking(story: Any) -> Any:
    """Two agents of one workstream: `build` had one answer and waits for the second, `docs` waits for its turn to ask; `lint` asks nobody."""
    build, docs = (story.agent(name, workstream="quality", tasks=("t1", "t2")) for name in ("build", "docs"))
    lint = story.agent("lint")
    story.tell(e.RunStarted())
    for agent in (build, docs, lint):
        story.start(agent)
        story.tell(e.TaskStarted(), agent, "t1")
    story.tell(e.LlmStarted(turn=1, model="anthropic/y"), docs, "t1")
    story.tell(e.AgentNoted(detail=LIMIT), docs)
    story.ask(build, "t1", calls=("read_file", "grep"))
    story.tell(e.LlmStarted(turn=2, model="openai/x"), build, "t1")
    return story


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (0.0, "$0.00"), (0.00001, "<$0.0001"), (0.0031, "$0.0031"), (0.09994, "$0.0999"), (0.09996, "$0.100"), (0.1234, "$0.123"), (0.99951, "$1.00"),
        (12.3, "$12.30"), (1234.5, "$1234.50"),
    ],
)  # fmt: skip
def test_money_has_as_many_digits_as_tell_something(usd: float, text: str) -> None:
    assert money(usd) == text


def test_usage_in_words() -> None:
    nothing = Usage()
    assert (turns(nothing), tokens(nothing), cost(nothing), brief(nothing)) == ("", "", "", "")
    one = Usage(1, 1204, 88, 0.0031, 1)
    assert (turns(one), tokens(one), cost(one)) == ("1", "1.3k", "$0.0031")
    assert brief(one) == "$0.0031, 1 turn, 1.3k tokens"
    assert usage_text(Usage(2, 1204, 88, None, 3)) == "3 turns (1 from the cache), 1,204 tokens in, 88 out, cost not known"
    assert cost(Usage(1, 1, 1, None, 1)) == "?"
    # An answer that toka had itself was a turn, and cost nothing.
    assert (turns(Usage(turns=1)), cost(Usage(turns=1))) == ("1", "$0.00")


def test_the_seconds_of_a_wait_are_counted_by_the_clock_of_the_view(thinking: Any) -> None:
    build, docs, lint = thinking.view.agents
    now = thinking.now
    assert activity(build, now + 8.9) == "waiting for the model 8s (turn 2, openai/x)"
    assert activity(build, now + 128) == "waiting for the model 2m8s (turn 2, openai/x)"
    assert activity(build, None) == "waiting for the model (turn 2, openai/x)"
    assert activity(build, now - 100) == "waiting for the model 0s (turn 2, openai/x)", "the clock may be set back"
    assert activity(docs, now + 8) == LIMIT
    assert activity(lint, now) == "executing task t1"
    thinking.tell(e.AgentNoted(detail="waiting for other model calls to end (3 under way)"), docs.id)
    assert activity(docs, thinking.now + 12) == "waiting for other model calls to end (3 under way), 12s"
    thinking.tell(e.AgentNoted(detail="asking openai/x, turn 2: 1,204 characters so far"), build.id)
    assert activity(build, thinking.now + 3) == "turn 2: 1,204 characters so far"
    thinking.tell(e.LlmFailed(turn=2, cause="timeout", message="no"), build.id, "t1")
    assert activity(build, thinking.now + 3) == "executing task t1"
    thinking.tell(e.AgentPaused(), docs.id)
    assert waits(docs, thinking.now + 12) == ()


ALIKE = ["asking", "asking , turn 1", "asking x, turn", "asking x, turn y: z", "waiting", "waiting for  until ", "asking a, turn 1: "]


@pytest.mark.parametrize("detail", ALIKE)
def test_what_an_agent_notes_itself_may_look_like_a_wait_and_breaks_nothing(thinking: Any, detail: str) -> None:
    build = thinking.view.agents[0]
    thinking.tell(e.AgentNoted(detail=detail), build.id)
    assert activity(build, thinking.now + 5)
    for width in (20, 80):
        assert run_screen(thinking.view, thinking.now + 5, width, 10)


def test_the_live_table_says_who_waits_for_what(thinking: Any) -> None:
    wide = "\n".join(plain(run_screen(thinking.view, thinking.now + 8, 200, 24)))
    assert "t1: waiting for the model 8s (turn 2, openai/x)" in wide
    assert f"t1: {LIMIT}" in wide
    assert "$0.0031, 1.3k tokens" in wide.split("\n")[0]
    heading = next(line for line in wide.split("\n") if line.startswith("agent"))
    assert heading.split()[-4:] == ["turns", "tokens", "cost", "time"]
    middle = "\n".join(plain(run_screen(thinking.view, thinking.now + 8, 80, 24)))
    assert "model 8s" in middle
    assert "limit until 12:04:05" in middle
    assert "$0.0031" in middle
    assert "turns" not in middle


def test_what_holds_the_run_has_a_line_of_its_own(thinking: Any) -> None:
    thinking.tell(e.RunHeld(reason="memory is short: 100 MB of 8 GB available"))
    for width, line in ((80, "nothing new starts: memory is short: 100 MB of 8 GB available"), (20, "nothing new starts:…")):
        assert plain(run_screen(thinking.view, thinking.now, width, 10))[1] == line
    low = plain(run_screen(thinking.view, thinking.now, 80, 5))
    assert (len(low), "nothing new starts" in low[0]) == (5, True)
    thinking.tell(e.RunReleased())
    assert "nothing new" not in "\n".join(plain(run_screen(thinking.view, thinking.now, 80, 10)))


def test_two_tasks_at_once_wait_together(thinking: Any) -> None:
    thinking.tell(e.TaskStarted(), thinking.view.agents[0].id, "t2")
    thinking.tell(e.LlmStarted(turn=1, model="openai/x"), thinking.view.agents[0].id, "t2")
    assert "2 tasks: waiting for the model 4s" in "\n".join(plain(run_screen(thinking.view, thinking.now + 4, 200, 24)))


def test_one_agent_on_the_screen(thinking: Any) -> None:
    view, build = thinking.view, thinking.view.agents[0]
    lines = plain(agent_screen(view, build, thinking.now + 8, 100, 24))
    assert "$0.0031, 1 turn, 1.3k tokens" in lines[0]
    assert lines[1] == "  waiting for the model 8s (turn 2, openai/x)"
    assert lines[2].split() == ["task", "state", "time", "turns", "tokens", "cost", "what"]
    narrow = plain(agent_screen(view, build, thinking.now + 8, 20, 24))
    assert narrow[1] == "  model 8s"


@pytest.mark.parametrize("width", range(20, 210, 3))
def test_no_picture_is_wider_than_the_screen(thinking: Any, width: int) -> None:
    view, now = thinking.view, thinking.now + 8
    pictures = [run_screen(view, now, width, 24), agent_table(view.agents, now=now, width=width)]
    pictures += [agent_screen(view, agent, now, width, 24) for agent in view.agents]
    for picture in pictures:
        assert max(display_width(line) for line in plain(picture)) <= width


@pytest.mark.parametrize("width", [20, 33, 80, 200])
def test_no_hostile_picture_is_wider_than_the_screen(hostile_run: Any, forbidden: re.Pattern[str], width: int) -> None:
    view, now = hostile_run.view, hostile_run.now + 8
    for record in list(hostile_run.records):
        # While it still ran: what it waited for was hostile too.
        if isinstance(record.event, e.AgentNoted):
            agent = view.agents[0]
            agent.state, agent.detail = type(agent.state)("running"), record.event.detail
            for picture in (run_screen(view, now, width, 24), agent_screen(view, agent, now, width, 24), agent_table(view.agents, now=now, width=width)):
                for line in plain(picture):
                    assert display_width(line) <= width
                    assert not forbidden.search(line)
            assert not forbidden.search(why(view, agent, now))


def test_agent_list_and_show(thinking: Any) -> None:
    view, build = thinking.view, thinking.view.agents[0]
    listed = plain(agent_table(view.agents, now=thinking.now + 8, width=None))
    assert listed[1].endswith("waiting for the model 8s (turn 2, openai/x)")
    shown = plain(agent_lines(view, build, now=thinking.now + 8, width=None))
    assert "Model: 1 turn, 1,204 tokens in, 88 out, $0.0031" in shown
    heading = next(line for line in shown if line.startswith("TASK"))
    assert heading.split()[-3:] == ["TURNS", "TOKENS", "COST"]
    assert "TURNS" not in "\n".join(plain(agent_lines(view, view.agents[2], now=thinking.now, width=None)))


def test_why_says_what_is_waited_for_and_what_was_denied(thinking: Any) -> None:
    view, build = thinking.view, thinking.view.agents[0]
    assert why(view, build, thinking.now + 8) == (
        "build is running task t1 (do t1): waiting for the model 8s (turn 2, openai/x); 0 of 2 tasks done."
    )
    assert why(view, view.agents[1], thinking.now + 8) == f"docs is running task t1 (do t1): {LIMIT}; 0 of 2 tasks done."
    assert "waiting for the model (turn 2" in why(view, build)
    thinking.tell(e.ToolDenied(tool="http_fetch", capability="network-access", message="no"), build.id, "t1")
    assert why(view, build, thinking.now).endswith("; 0 of 2 tasks done; 1 act was denied for want of a grant.")
    thinking.tell(e.ToolDenied(tool="http_fetch", capability="network-access", message="no"), build.id, "t1")
    thinking.tell(e.TaskFailed(reason="gave up"), build.id, "t1")
    thinking.tell(e.AgentFailed(reason="task_failed: t1", hint="grant it"), build.id)
    assert why(view, build) == "build failed because task t1 (do t1): gave up; 2 acts were denied for want of a grant; hint: grant it."


def lines_of(story: Any) -> list[str]:
    stream = io.StringIO()
    renderer = PlainRenderer(stream, PIPE)
    for record in story.records[1:]:
        renderer.show([record], story.view)
    return stream.getvalue().splitlines()


def test_plain_lines_have_one_for_each_turn(thinking: Any) -> None:
    build = thinking.view.agents[0].id
    second = e.LlmReplied(turn=2, model="openai/x", finish_reason="stop", input_tokens=2204, output_tokens=9, cost_usd=None, cached_tokens=2000)
    thinking.tell(second, build, "t1")
    thinking.ask(build, "t1", 3, from_cache=True, calls=tuple(f"tool{n}" for n in range(10)))
    thinking.tell(e.LlmStarted(turn=4, model="openai/x"), build, "t1")
    thinking.tell(e.LlmFailed(turn=4, cause="rate_limit", message="come back later"), build, "t1")
    turned = [line for line in lines_of(thinking) if " turn " in line]
    assert turned == [
        "[build] task t1 turn 1: openai/x, 1,204 in, 88 out, $0.0031, calls read_file, grep",
        "[build] task t1 turn 2: openai/x, 2,204 in (2,000 cached), 9 out, cost not known",
        "[build] task t1 turn 3: openai/x, 1,204 in, 88 out, from the cache, calls tool0, tool1, tool2, tool3, tool4, tool5, tool6, tool7 and 2 more",
        "[build] task t1 turn 4: no answer: rate_limit: come back later",
    ]


def test_a_wait_is_one_plain_line_however_often_its_end_is_put_off(thinking: Any) -> None:
    docs = thinking.view.agents[1].id
    for second in range(10, 20):
        thinking.tell(e.AgentNoted(detail=f"waiting for rate limit until 12:04:{second}"), docs)
    assert [line for line in lines_of(thinking) if "waiting" in line] == [f"[docs] {LIMIT}"]
    thinking.tell(e.LlmReplied(turn=1, model="anthropic/y", finish_reason="stop", input_tokens=1, output_tokens=1), docs, "t1")
    thinking.tell(e.LlmStarted(turn=2, model="anthropic/y"), docs, "t1")
    thinking.tell(e.AgentNoted(detail="waiting for rate limit until 12:05:00"), docs)
    assert [line for line in lines_of(thinking) if "waiting" in line] == [f"[docs] {LIMIT}", "[docs] waiting for rate limit until 12:05:00"]


def test_the_sign_of_life_says_what_is_waited_for(thinking: Any) -> None:
    stream = io.StringIO()
    renderer = PlainRenderer(stream, PIPE)
    renderer.tick(thinking.view, thinking.now)
    renderer.tick(thinking.view, thinking.now + 60)
    assert stream.getvalue().endswith(
        f"3 running (build: waiting for the model 1m0s (turn 2, openai/x), docs: {LIMIT}, lint)\n"
    )


def test_who_reads_the_log_afterwards_sees_that_the_run_was_held(story: Any) -> None:
    story.agent("a")
    story.tell(e.RunStarted())
    story.tell(e.RunHeld(reason="memory is short"))
    story.tell(e.RunReleased())
    story.tell(e.RunHeld(reason="again"))
    story.tell(e.RunReleased())
    stream = io.StringIO()
    PlainRenderer(stream, PIPE).show(story.records, story.view)
    assert stream.getvalue().splitlines() == [
        "nothing new starts for now: memory is short", "there is room again: agents start as before",
        "nothing new starts for now: again", "there is room again: agents start as before",
    ]  # fmt: skip


def test_json_lines_hold_the_figures_of_each_turn(thinking: Any) -> None:
    stream = io.StringIO()
    JsonLinesRenderer(stream).show(thinking.records, thinking.view)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (turn,) = [line for line in lines if line["kind"] == "llm.replied"]
    assert turn | {"task": "t1", "turn": 1, "model": "openai/x", "input_tokens": 1204, "output_tokens": 88, "cost_usd": 0.0031} == turn
    assert turn["calls"] == ["read_file", "grep"]


def test_the_summary_says_who_spent_what(thinking: Any) -> None:
    build, docs, _ = (agent.id for agent in thinking.view.agents)
    thinking.tell(e.LlmFailed(turn=2, cause="stopped", message="x"), build, "t1")
    thinking.tell(e.LlmReplied(turn=1, model="anthropic/y", finish_reason="stop", input_tokens=10_000, output_tokens=20, cost_usd=0.25), docs, "t1")
    text = text_summary(thinking.view)
    start = text.index("Model: 2 turns, 11,204 tokens in, 108 out, $0.253")
    assert text[start + 1 : start + 4] == [
        "  docs (quality): 1 turn, 10,000 tokens in, 20 out, $0.250",
        "  build (quality): 1 turn, 1,204 tokens in, 88 out, $0.0031",
        "  workstream quality: 2 turns, 11,204 tokens in, 108 out, $0.253",
    ]
    markdown = markdown_summary(thinking.view)
    assert "Model&#58; 2 turns" in markdown or "Model: 2 turns" in markdown
    assert "| docs | quality | 1 | 10,000 | 20 | &#36;0.250 |\n| build | quality | 1 | 1,204 | 88 | &#36;0.0031 |\n" in markdown
    assert "| all of the workstream | quality | 2 | 11,204 | 108 | &#36;0.253 |\n" in markdown


def test_what_a_request_without_an_answer_may_have_cost_is_said(thinking: Any) -> None:
    build = thinking.view.agents[0]
    thinking.tell(e.LlmAsked(turn=2, model="openai/x", number=1, most_usd=0.02, most_tokens=5000), build.id, "t1")
    assert activity(build, thinking.now) == "waiting for the model 1s (turn 2, openai/x)"
    thinking.tell(e.LlmUnanswered(turn=2, number=1, cause="timeout", message="no answer in 30s", usd=0.02, tokens=5000), build.id, "t1")
    assert "[build] task t1 turn 2: request 1 came to nothing: timeout: no answer in 30s" in lines_of(thinking)
    wanted = "1 turn, 1,204 tokens in, 88 out, $0.0031, at most $0.0200 more (5,000 tokens) for requests without an answer"
    assert usage_text(build.usage) == wanted
    assert f"Model: {wanted}" in text_summary(thinking.view)
    assert usage_text(together([build.usage, build.usage])).endswith("at most $0.0400 more (10,000 tokens) for requests without an answer")
    assert brief(Usage(unsettled_tokens=10)) == "$0.00, 0 turns, 0 tokens"


def test_a_run_without_models_says_nothing_of_them(failed_run: Any) -> None:
    assert not [line for line in text_summary(failed_run.view) if "Model" in line or "$" in line]
    assert "asked a model" not in markdown_summary(failed_run.view)
    assert "cost" not in "\n".join(plain(run_screen(failed_run.view, failed_run.now, 200, 24)))


def test_many_agents_are_counted_in_the_summary_and_one_unknown_price_makes_the_sum_unknown(story: Any) -> None:
    ids = [story.agent(f"a{number}", workstream=f"w{number // 2}") for number in range(30)]
    story.tell(e.RunStarted())
    for agent in ids:
        story.start(agent)
        story.tell(e.TaskStarted(), agent, "t1")
        story.ask(agent, "t1", cost=None if agent == ids[7] else 0.01)
    lines = text_summary(story.view)
    assert "Model: 30 turns, 36,120 tokens in, 2,640 out, cost not known" in lines
    assert lines[lines.index("Model: 30 turns, 36,120 tokens in, 2,640 out, cost not known") + 1].startswith("  a7 (w3): "), "the unknown may be the dearest"
    assert "  and 20 more agents that asked a model" in lines
    assert "  and 5 more workstreams" in lines
    assert len(lines) < 40


@pytest.mark.parametrize("state", ["final", "running", "interrupted"])
def test_the_audit_head_stands_in_both_summaries_of_a_finished_run_only(story: Any, state: str) -> None:
    agent = story.agent("a")
    story.tell(e.RunStarted())
    story.view.audit_head = "c0ffee" * 10
    if state == "final":
        story.start(agent)
        story.tell(e.AgentSucceeded(), agent)
        story.tell(e.RunSucceeded())
    elif state == "interrupted":
        story.tell(e.RunInterrupted(reason="signal SIGINT"))
    wanted = [f"Audit head: {'c0ffee' * 10}"] if state == "final" else []
    assert [line for line in text_summary(story.view) if "Audit" in line] == wanted
    assert [line for line in markdown_summary(story.view).splitlines() if "Audit" in line] == wanted
