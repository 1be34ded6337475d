"""What the tests of the view share: a run folded from real events, hostile strings, and a small terminal that obeys what is written to it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import pytest

from toka_cli import events as e
from toka_cli.state.fold import Fold
from toka_cli.state.snapshot import RunView

HOSTILE = {
    "colour": "\x1b[31mred\x1b[0m",
    "clear": "\x1b[2J\x1b[H\x1b[3J",
    "clipboard": "\x1b]52;c;ZWNobyBoaQ==\x07",
    "hyperlink": "\x1b]8;;https://example.invalid/\x1b\\click\x1b]8;;\x1b\\",
    "title": "\x1b]0;owned\x07",
    "dcs": "\x1bP$q\"p\x1b\\",
    "apc": "\x1b_Gf=24;AAAA\x1b\\",
    "c1": "\x9b31mred\x9d52;c;AAAA\x9c\x90q\x9c",
    "cursor": "a\rb\x08c\x0bd\x0ce\x00f\x7fg\x05",
    "charset": "\x1b(0lqk\x0e",
    "markup": "[bold red]hi[/] [link=https://example.invalid]x[/link] :boom: [/nope]",
    "newlines": "one\ntwo\r\nthree\x85four\u2028five\u2029six",
    "tabs": "a\tb\t\tc",
    "bidi": "\u202egnp.exe\u202c \u2066x\u2069 \u200e\u200f\u061c",
    "invisible": "a\u200bb\u200cc\u200dd\ufeffe\u2060f\u00adg\u3164h\U000e0041\U000e007f",
    "wide": "日本語のとても長いエージェント名前テスト" * 3,
    "family": "👨‍👩‍👧‍👦 ❤️ 🏳️‍🌈 👍🏽 x",
    "zalgo": "Z" + "\u0301\u0302\u0303\u0304\u0305\u0306" * 40 + "algo",
    "leading mark": "\u0301\u0302mark",
    "surrogates": "a\ud800b\udcffc",
    "noncharacter": "\ufffe\uffff\U0001ffff",
    "long": "long-" * 2000,
    "html": "<script>alert(1)</script> | a | b | @someone #1 https://example.invalid `x` **y** ]]> &amp; \"'",
    "ci": "::error::owned ##[error]x ##vso[task.setvariable]y",
    "empty": "",
}  # fmt: skip


@pytest.fixture(params=HOSTILE.values(), ids=HOSTILE.keys())
def hostile(request: pytest.FixtureRequest) -> str:
    text: str = request.param
    return text


@pytest.fixture(scope="session")
def forbidden() -> re.Pattern[str]:
    """Characters that must not reach a terminal from an agent's text: all that a terminal could obey or that hide."""
    return re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e0fff]")


class Screen:
    """A terminal of so many columns and lines: knows the few sequences that our live view may use and fails on all others.

    It wraps long lines as real ones do, and counts them in `wrapped`.
    """

    KNOWN = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.rows: list[list[str]] = [[]]
        self.row = self.column = 0
        self.top = 0
        self.cursor_visible = True
        self.wrapped = 0
        self.sgr = 0

    def feed(self, text: str) -> None:
        index = 0
        while index < len(text):
            char = text[index]
            if char == "\x1b":
                match = self.KNOWN.match(text, index)
                assert match, f"not a sequence of ours: {text[index : index + 20]!r}"
                self._obey(match[1], match[2], match[3])
                index = match.end()
                continue
            index += 1
            if char == "\n":
                self._down()
            elif char == "\r":
                self.column = 0
            else:
                assert char.isprintable() or unicodedata.category(char) in {"Mn", "Co", "Cn"} or char in "\u200c\u200d", f"obeyed: {char!r}"
                self._put(char)

    def _down(self) -> None:
        self.row += 1
        while self.row >= len(self.rows):
            self.rows.append([])
        self.top = max(self.top, self.row - self.lines + 1)

    def _put(self, char: str) -> None:
        wide = 2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.category(char) in {"Mn", "Me", "Cf"} else 1
        if self.column + wide > self.columns:
            self.wrapped += 1
            self.column = 0
            self._down()
        row = self.rows[self.row]
        row.extend(" " * (self.column - len(row)))
        if wide:
            row[self.column : self.column + wide] = [char, ""][:wide]
        self.column += wide

    def _obey(self, private: str, parameters: str, letter: str) -> None:
        count = int(parameters) if parameters.isdigit() else 0
        if private:
            assert parameters == "25", parameters
            self.cursor_visible = letter == "h"
        elif letter == "m":
            self.sgr += 1
        elif letter == "A":
            # A terminal cannot go above its first visible line.
            self.row = max(self.top, self.row - max(1, count))
        elif letter == "B":
            self.row = min(len(self.rows) - 1, self.row + max(1, count))
        elif letter == "K":
            assert count == 2
            self.rows[self.row] = []
        else:
            raise AssertionError(f"not ours: {private}{parameters}{letter}")

    @property
    def text(self) -> str:
        return "\n".join("".join(row).rstrip() for row in self.rows).rstrip("\n")


@pytest.fixture(scope="session")
def screen() -> type[Screen]:
    return Screen


class Story:
    """Tells a run event by event, from second 1000 on, and keeps the records."""

    def __init__(self, run: str = "r012345678") -> None:
        self.fold = Fold(RunView(id=""))
        self.records: list[e.Record] = []
        self.now = 1000.0
        self.tell(e.RunCreated(run_id=run, workdir="/work/place", version="0.1.0", command=("toka", "orchestrate", "agents/")))

    @property
    def view(self) -> RunView:
        return self.fold.view

    def tell(self, event: e.AnyEvent, agent: str | None = None, task: str | None = None, *, after: float = 1.0) -> e.Record:
        self.now += after
        record = e.Record(seq=len(self.records) + 1, at=self.now, event=event, agent=agent, task=task)
        self.fold.apply(record)
        self.records.append(record)
        return record

    def agent(self, name: str, *, tasks: tuple[str, ...] = ("t1",), depends_on: tuple[str, ...] = (), **more: object) -> str:
        agent_id = f"{self.view.id}-{len(self.view.agents) + 1}"
        infos = tuple(e.TaskInfo(id=task, description=f"do {task}", kind="command") for task in tasks)
        info = e.AgentInfo(**({"name": name, "title": name, "workstream": name, "depends_on": depends_on, "tasks": infos} | more))  # type: ignore[arg-type]
        self.tell(e.AgentCreated(info=info), agent_id, after=0)
        return agent_id

    def ask(self, agent: str, task: str, turn: int = 1, *, model: str = "openai/x", cost: float | None = 0.0031, **more: object) -> None:
        """One turn of a model: 1,204 tokens in, 88 out."""
        self.tell(e.LlmStarted(turn=turn, model=model), agent, task)
        counted = {"finish_reason": "stop", "input_tokens": 1204, "output_tokens": 88, "cost_usd": cost} | more
        self.tell(e.LlmReplied(turn=turn, model=model, **counted), agent, task)  # type: ignore[arg-type]

    def start(self, agent: str) -> None:
        self.tell(e.AgentQueued(), agent)
        self.tell(e.AgentStarting(), agent)
        self.tell(e.AgentStarted(pid=4242, isolation={"level": "process"}), agent)


def diamond() -> Story:
    """A run of four: build failed in its second task, test and docs needed it, lint succeeded with a gate and a file."""
    story = Story()
    build = story.agent("build", tasks=("t1", "t2", "t3"))
    test = story.agent("test", depends_on=("build",))
    docs = story.agent("docs", depends_on=("test",))
    lint = story.agent("lint")
    story.tell(e.RunStarted())
    story.start(build)
    story.start(lint)
    story.tell(e.TaskStarted(), build, "t1")
    story.tell(e.TaskStarted(), lint, "t1")
    story.tell(e.TaskSucceeded(outcome=e.Outcome(exit_code=0, output="fine\n", duration_s=1.5)), build, "t1")
    story.tell(e.TaskSucceeded(outcome=e.Outcome(exit_code=0, duration_s=0.5)), lint, "t1")
    story.tell(e.GateStarted(index=1, description="it is clean"), lint)
    story.tell(e.GatePassed(index=1, description="it is clean", outcome=e.Outcome(exit_code=0, duration_s=0.25)), lint)
    story.tell(e.DeliverableRecorded(path="reports/lint.txt", size_bytes=2048, sha256="ab" * 32, objective=1), lint)
    story.tell(e.AgentExited(exit_code=0, cpu_time_s=0.75, peak_memory_bytes=20 * 1024**2), lint)
    story.tell(e.AgentSucceeded(), lint)
    story.tell(e.TaskStarted(), build, "t2")
    outcome = e.Outcome(exit_code=2, output="compiling\n", stderr="main.c:3: error: nope\n", duration_s=2.0)
    story.tell(e.TaskFailed(reason="exit status 2", outcome=outcome), build, "t2")
    story.tell(e.TaskSkipped(reason="an earlier task failed"), build, "t3")
    story.tell(e.AgentExited(exit_code=1), build)
    story.tell(e.AgentFailed(reason="task_failed: t2", hint="look at main.c"), build)
    story.tell(e.AgentSkipped(reason="dependency_failed: build"), test)
    story.tell(e.AgentSkipped(reason="dependency_failed: test"), docs)
    story.tell(e.RunFailed(reason="agents failed: build"))
    return story


def attacked(text: str) -> Story:
    """A failed run in which every string that a stranger can choose is `text`."""
    story = Story()
    info = e.AgentInfo(
        name=text, title=text, workstream=text, domain=text, depends_on=(text,), after=(text,), grants=(text,), limits={text: 1},
        tasks=(e.TaskInfo(id=f"t1{text}", description=text, kind=text), e.TaskInfo(id=f"t2{text}", description=text, kind=text)),
    )  # fmt: skip
    agent = f"{story.view.id}-1"
    story.tell(e.AgentCreated(info=info), agent)
    story.tell(e.RunStarted())
    story.tell(e.RunWarned(message=text))
    story.tell(e.RunHeld(reason=text))
    story.start(agent)
    story.tell(e.AgentNoted(detail=text), agent)
    story.tell(e.AgentMeasured(name=text, value=float("nan")), agent)
    story.tell(e.TaskStarted(), agent, f"t1{text}")
    story.tell(e.ToolDenied(tool=text, capability=text, message=text), agent, f"t1{text}")
    story.ask(agent, f"t1{text}", model=text, calls=(text,))
    story.tell(e.LlmStarted(turn=2, model=text), agent, f"t1{text}")
    story.tell(e.AgentNoted(detail=f"waiting for {text} until {text}"), agent)
    story.tell(e.LlmFailed(turn=2, cause=text, message=text), agent, f"t1{text}")
    story.tell(e.RunReleased())
    story.view.audit_head = text or None
    outcome = e.Outcome(exit_code=1, output=text * 2, stderr=text, value=text, evidence=[text])
    story.tell(e.TaskRetrying(attempt=1, reason=text, delay_s=1.0, outcome=outcome), agent, f"t1{text}")
    story.tell(e.TaskStarted(attempt=2), agent, f"t1{text}")
    story.tell(e.TaskSucceeded(outcome=outcome), agent, f"t1{text}")
    story.tell(e.TaskStarted(), agent, f"t2{text}")
    story.tell(e.TaskFailed(reason=text, outcome=outcome), agent, f"t2{text}")
    story.tell(e.GateStarted(index=1, description=text), agent)
    story.tell(e.GateFailed(index=1, description=text, reason=text, outcome=outcome), agent)
    story.tell(e.DeliverableRecorded(path=text, size_bytes=1, sha256="ab" * 32, objective=1), agent)
    story.tell(e.AgentFailed(reason=text, hint=text), agent)
    story.tell(e.RunFailed(reason=text))
    return story


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def failed_run() -> Story:
    return diamond()


@pytest.fixture
def hostile_run(hostile: str) -> Story:
    return attacked(hostile)


@pytest.fixture
def attack() -> Callable[[str], Story]:
    return attacked
