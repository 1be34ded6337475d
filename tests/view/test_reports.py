"""JUnit XML, Markdown, text summaries, JSON lines: what programs and pages get."""

from __future__ import annotations

import contextlib
import html.parser
import io
import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toka_cli import events as e
from toka_cli.view.json import encode_json
from toka_cli.view.jsonl import JsonLinesRenderer
from toka_cli.view.junit import junit_xml
from toka_cli.view.summary import markdown_summary, text_summary

anything = st.text(st.one_of(st.characters(codec=None), st.sampled_from("<>&\"'|]\\`*_[](){}!#@\x1b\x00\n\r\t\u202e\uffff\ud800")))
many = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_junit_has_a_suite_for_each_agent_and_a_case_for_each_task_and_gate(failed_run: Any) -> None:
    root = ET.fromstring(junit_xml(failed_run.view).encode())
    assert (root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == ("7", "1", "0", "3")
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["build", "test", "docs", "lint"]
    cases = {case.get("name"): case for case in suites["build"].iter("testcase")}
    assert list(cases["t1: do t1"]) == []
    assert cases["t1: do t1"].get("time") == "1.500"
    failure = cases["t2: do t2"].find("failure")
    assert failure is not None
    assert failure.get("message") == "exit status 2"
    assert failure.text == "compiling\nmain.c:3: error: nope"
    assert cases["t3: do t3"].find("skipped") is not None
    assert [case.get("name") for case in suites["lint"].iter("testcase")] == ["t1: do t1", "gate 1: it is clean"]


def test_junit_is_red_when_an_agent_broke_without_a_task_to_blame(story: Any) -> None:
    crashed, stopped, empty = story.agent("crashed"), story.agent("stopped"), story.agent("empty", tasks=())
    story.tell(e.RunStarted())
    for agent in (crashed, stopped, empty):
        story.start(agent)
    story.tell(e.AgentFailed(reason="limit.memory: 300 MB of 200 MB"), crashed)
    story.tell(e.AgentStopping(reason="user"), stopped)
    story.tell(e.AgentStopped(reason="stopped: user"), stopped)
    story.tell(e.AgentSucceeded(), empty)
    root = ET.fromstring(junit_xml(story.view))
    assert root.get("errors") == "2"
    assert [error.get("message") for error in root.iter("error")] == ["limit.memory: 300 MB of 200 MB", "stopped: user"]
    assert root.get("tests") == "5"


def test_junit_of_a_hostile_run_is_valid_and_readable(hostile_run: Any, forbidden: re.Pattern[str]) -> None:
    text = junit_xml(hostile_run.view)
    ET.fromstring(text.encode())
    assert not forbidden.search(text.replace("\n", ""))


@many
@given(text=anything)
def test_junit_is_valid_xml_for_any_text(attack: Callable[[str], Any], text: str) -> None:
    root = ET.fromstring(junit_xml(attack(text).view).encode())
    # Two tasks and a gate; and the agent itself when its reason blames none of them.
    assert len(list(root.iter("testcase"))) in {3, 4}


def test_markdown(failed_run: Any) -> None:
    text = markdown_summary(failed_run.view)
    assert text.startswith("### toka: run r012345678 failed in 23s (agents failed&#58; build)\n")
    assert "| build | build | failed | 2/3 | 18s | task t2 (do t2)&#58; exit status 2 |\n" in text
    assert "<pre>compiling\nmain.c:3: error: nope</pre>" in text
    assert "* reports/lint.txt (2 KB, by lint)\n" in text


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not attrs


def unharmed(text: str) -> None:
    """No tag but ours, no markup sign outside of entities and our own lines, no table with another number of cells."""
    parser = Tags()
    parser.feed(text)
    assert set(parser.seen) <= {"details", "summary", "pre"}
    # Up to its end tag a <pre> is no Markdown at all.
    text = re.sub(r"(?s)<pre>.*?</pre>", "", text)
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.count("|") == 7, line
    bare = re.sub(r"</?(details|summary)>|&#\d+;|^\| ---.*$|^### |^\*( |$)", "", text, flags=re.MULTILINE)
    assert not re.search(r"[<>&`*_\[\]\\@#~!]|://", bare), bare


def test_markdown_of_a_hostile_run(hostile_run: Any, forbidden: re.Pattern[str]) -> None:
    text = markdown_summary(hostile_run.view)
    assert not forbidden.search(text.replace("\n", ""))
    unharmed(text)


@many
@given(text=anything)
def test_markdown_is_harmless_for_any_text(attack: Callable[[str], Any], text: str) -> None:
    unharmed(markdown_summary(attack(text).view))


def test_text_summary(failed_run: Any) -> None:
    assert text_summary(failed_run.view) == [
        "Run r012345678 failed in 23s (agents failed: build): 1 succeeded, 1 failed, 2 skipped",
        "  failed  build: task t2 (do t2): exit status 2",
        "    hint: look at main.c",
        "  skipped test: dependency_failed: build",
        "  skipped docs: dependency_failed: test",
        "Deliverables: reports/lint.txt (2 KB)",
        "Look deeper: toka agent logs r012345678-1; toka run show r012345678",
    ]


def test_text_summary_stays_short(story: Any) -> None:
    for number in range(60):
        story.agent(f"a{number}")
    story.tell(e.RunStarted())
    for agent in story.view.agents[:30]:
        story.start(agent.id)
        story.tell(e.AgentFailed(reason="crashed: signal 9"), agent.id)
    for agent in story.view.agents[30:]:
        story.tell(e.AgentSkipped(reason="dependency_failed: a0"), agent.id)
    lines = text_summary(story.view)
    assert len(lines) < 30
    assert "  and 40 more that failed or were skipped" in lines


def test_text_summary_of_a_hostile_run(hostile_run: Any, forbidden: re.Pattern[str]) -> None:
    for line in text_summary(hostile_run.view):
        assert not forbidden.search(line)
    assert all(line.isascii() for line in text_summary(hostile_run.view, ascii_only=True))


def test_json_lines(failed_run: Any) -> None:
    stream = io.StringIO()
    renderer = JsonLinesRenderer(stream)
    renderer.start(failed_run.view)
    renderer.show(failed_run.records, failed_run.view)
    renderer.tick(failed_run.view, 5.0)
    renderer.finish(failed_run.view)
    renderer.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["seq"] for line in lines] == [record.seq for record in failed_run.records]
    assert [line["kind"] for line in lines] == [record.event.kind for record in failed_run.records]
    failed = next(line for line in lines if line["kind"] == "task.failed")
    assert failed["run"] == "r012345678"
    assert (failed["agent"], failed["name"], failed["task"]) == ("r012345678-1", "build", "t2")
    assert failed["reason"] == "exit status 2"
    assert failed["at"] == "1970-01-01T00:16:59Z"
    assert failed["outcome"]["exit_code"] == 2
    assert lines[0]["at"] == "1970-01-01T00:16:41Z"


def test_json_lines_of_a_hostile_run_are_json_and_nothing_is_lost(hostile: str, hostile_run: Any, forbidden: re.Pattern[str]) -> None:
    stream = io.StringIO()
    JsonLinesRenderer(stream).show(hostile_run.records, hostile_run.view)
    written = stream.getvalue()
    assert not forbidden.search(written.replace("\n", ""))
    lines = [json.loads(line) for line in written.split("\n")[:-1]]
    assert len(lines) == len(hostile_run.records)
    whole = re.sub("[\ud800-\udfff]", "\ufffd", hostile)
    gauge = next(line for line in lines if line["kind"] == "agent.measured")
    assert gauge["name"] == whole
    assert gauge["metric"] == whole
    assert gauge["value"] is None


def test_each_batch_is_flushed_and_a_reader_that_went_away_is_told(failed_run: Any) -> None:
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    renderer = JsonLinesRenderer(stream)
    renderer.show(failed_run.records[:1], failed_run.view)
    assert json.loads(os.read(reader, 65536))["kind"] == "run.created"
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        renderer.show(failed_run.records, failed_run.view)
    with contextlib.suppress(BrokenPipeError):
        stream.close()


leaves = st.one_of(anything, st.floats(), st.integers(-(2**53), 2**53), st.none(), st.booleans())


@given(st.recursive(leaves, lambda it: st.lists(it) | st.dictionaries(anything, it)))
def test_json_is_valid_for_any_value(value: Any) -> None:
    text = encode_json(value)
    assert "\x1b" not in text
    assert "\n" not in text
    text.encode()
    plain = encode_json(value, ascii_only=True)
    assert plain.isascii()
    assert json.loads(plain) == json.loads(text)


def test_json_keeps_what_can_be_kept() -> None:
    assert json.loads(encode_json({"a": "\x9b\u202e日\U000e0041"}, ascii_only=True)) == {"a": "\x9b\u202e日\U000e0041"}
    assert encode_json({"a": float("nan"), "b": [float("inf")]}) == '{"a":null,"b":[null]}'
    with pytest.raises(TypeError):
        encode_json(object())
