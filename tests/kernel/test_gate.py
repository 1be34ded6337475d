"""A gate's cell: one command, no tools, and nothing else that it could say."""

from __future__ import annotations

import pytest

from toka_cli.errors import ProtocolError
from toka_cli.events import Outcome
from toka_cli.kernel.gate import GateSession
from toka_cli.kernel.outputs import AgentLog
from toka_cli.protocol import messages as m


class Gate:
    def __init__(self, output, task):
        self.signs, self.answers = [], []
        brief = m.AgentBrief("r-1", "one", "/work", (task,))
        self.session = GateSession(brief, output, lambda: self.signs.append("hello"), lambda: self.signs.append("finish"))

    def __call__(self, *messages):
        for message in messages:
            self.session.serve("a call", message, self.answers.append)


@pytest.fixture
def gate(tmp_path, make_task):
    output = AgentLog(tmp_path / "log.jsonl", lambda: 0.0, lambda: None)
    yield Gate(output, make_task("gate1"))
    output.close()


START = m.StartAttempt("gate1", 1)


def test_a_command_that_did_well_passes(gate):
    gate(
        m.Hello(1, {}),
        START,
        m.Output("gate1", "stdout", b"fine\n"),
        m.FinishAttempt("gate1", 1, True, None, Outcome(exit_code=0)),
        m.FinishAgent(),
    )
    assert gate.signs == ["hello", "finish"]
    assert gate.answers[1:] == [m.Go(go=True), m.Verdict("succeeded"), m.Ack()]
    assert gate.session.finished
    assert gate.session.reason is None


def test_a_command_that_failed_does_not(gate):
    gate(m.Hello(1, {}), START, m.FinishAttempt("gate1", 1, False, "exit 2", Outcome(exit_code=2)), m.FinishAgent())
    assert (gate.session.reason, gate.session.outcome.exit_code) == ("exit 2", 2)


def test_an_end_without_a_word_does_not(gate):
    gate(m.Hello(1, {}), START)
    assert gate.session.reason is not None
    gate(m.FinishAgent())
    assert gate.session.reason is not None


@pytest.mark.parametrize(
    "message",
    [
        m.StartAttempt("gate1", 2),
        m.StartAttempt("other", 1),
        m.FinishAttempt("other", 1, True),
        m.Output("other", "stdout", b"x"),
        m.Output("gate1", "toka", b"forged"),
        m.CallTool("gate1", "c", "read_file", {}),
        m.FinishTool("c", True),
        m.SkipTask("gate1", "x"),
        m.Measure("x", 1.0),
    ],
)
def test_it_may_say_nothing_else(gate, message):
    gate(m.Hello(1, {}))
    with pytest.raises(ProtocolError):
        gate(message)
