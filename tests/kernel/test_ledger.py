"""What requests to models use is written down request by request; whoever resumes the run starts with all of it, and with what nobody knows at its most."""

from __future__ import annotations

import pytest

from tests.kernel.conftest import AGENT, RUN
from toka_cli import events as e
from toka_cli.kernel.ledger import Ledger, spent
from toka_cli.llm.budget import SpentRow
from toka_cli.llm.call import CallRecord, Sending
from toka_cli.llm.provider import Caller
from toka_cli.llm.redact import Redactor
from toka_cli.state.log import EventLog

SECRET = "sk-of-the-ledger-1234"
TASK = "p"


def caller(turn: int = 1) -> Caller:
    return Caller(AGENT, "one", "w", TASK, 1, turn)


class Books:
    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.ledger = Ledger(log, Redactor([SECRET]))
        log.append(e.RunCreated(RUN, "/w", "0"))
        log.append(e.RunStarted())
        info = e.AgentInfo("one", "One", "w", tasks=(e.TaskInfo(TASK, "d", "prompt"), e.TaskInfo("other", "d", "prompt")))
        for event in (e.AgentCreated(info), e.AgentQueued(), e.AgentStarting(), e.AgentStarted(4242)):
            log.append(event, agent=AGENT)
        self.tell(e.TaskStarted())
        self.tell(e.LlmStarted(1, "m"))

    def tell(self, event: e.AnyEvent) -> None:
        self.log.append(event, agent=AGENT, task=TASK)

    def asks(self, number: int = 1, most_usd: float = 0.02, most_tokens: int = 2000) -> None:
        self.ledger.sends(Sending(caller(), "m", number, most_usd, most_tokens))

    def fails(self, number: int = 1, charged: tuple[float, int] = (0.02, 2000), cause: str = "timeout") -> None:
        self.ledger.ended(CallRecord(caller(), "m", "provider", number, *charged, cause, f"no answer to {SECRET}", estimated=True))

    def replies(self, cost_usd: float | None = 0.001) -> None:
        self.ledger.ended(CallRecord(caller(), "m", "provider", 1, cost_usd or 0.0, 110))
        self.tell(e.LlmReplied(1, "m", "stop", 100, 10, cost_usd))

    def used(self) -> tuple[float, int]:
        rows = spent(self.log.view).rows
        assert all((row.workstream, row.agent, row.task) == ("w", "one", TASK) for row in rows)
        return (round(sum(row.usd for row in rows), 9), sum(row.tokens for row in rows))


@pytest.fixture
def books(log: EventLog) -> Books:
    return Books(log)


def test_nothing_asked_is_nothing_spent(books: Books) -> None:
    assert spent(books.log.view).rows == ()


def test_a_request_under_way_counts_with_its_most_until_it_has_an_answer(books: Books) -> None:
    books.asks()
    assert spent(books.log.view).rows == (SpentRow("w", "one", TASK, 0.02, 2000),)
    books.replies()
    assert books.used() == (0.001, 110)
    assert books.log.view.usage.unsettled_tokens == 0


def test_what_came_to_nothing_stays_on_the_books_as_it_was_charged(books: Books) -> None:
    books.asks(1)
    books.fails(1)
    books.asks(2)
    books.fails(2, charged=(0.0, 0), cause="overloaded")
    books.asks(3)
    books.replies()
    assert books.used() == (0.021, 2110)
    for usage in (books.log.view.usage, books.log.agent(AGENT).usage, books.log.agent(AGENT).tasks[0].usage):
        assert (usage.unsettled_usd, usage.unsettled_tokens, usage.cost_usd) == (0.02, 2000, 0.001)
    assert books.log.agent(AGENT).tasks[1].usage.unsettled_tokens == 0


def test_a_turn_that_is_given_up_is_charged_once(books: Books) -> None:
    books.asks()
    books.tell(e.LlmFailed(1, "abandoned", "its process ended"))
    books.fails(cause="cancelled")
    assert books.used() == (0.02, 2000)


def test_a_failure_that_was_settled_is_not_charged_again_at_the_end_of_its_turn(books: Books) -> None:
    books.asks()
    books.fails()
    books.tell(e.LlmFailed(1, "timeout", "x"))
    assert books.used() == (0.02, 2000)


def test_answers_that_nobody_was_asked_for_are_not_written_down(books: Books) -> None:
    before = books.log.view.last_seq
    for source in ("cache", "replay", "provider"):
        books.ledger.ended(CallRecord(caller(), "m", source, 0))
    assert books.log.view.last_seq == before


def test_the_next_owner_knows_it_all(books: Books) -> None:
    books.asks(1)
    books.fails(1)
    books.asks(2)
    books.log.flush()
    folder, clock = books.log.folder, books.log.clock
    sent_at = clock()
    # Killed: nobody says how the second request ended.
    books.log.close()
    with EventLog.open(folder, clock=lambda: sent_at + 30) as log:
        assert sum(row.usd for row in spent(log.view).rows) == pytest.approx(0.04)
        moments = Ledger(log, Redactor()).earlier()
        assert len(moments) == 2
        assert all(abs(moment - sent_at) < 10 for moment in moments)
        log.append(e.LlmFailed(1, "abandoned", "interrupted"), agent=AGENT, task=TASK)
        assert sum(row.usd for row in spent(log.view).rows) == pytest.approx(0.04)
        assert log.view.usage.unsettled_usd == pytest.approx(0.04)
    with EventLog.open(folder, clock=lambda: sent_at + 90) as log:
        assert Ledger(log, Redactor()).earlier() == ()


def test_no_secret_is_written_down_and_a_log_that_is_over_is_no_error(books: Books) -> None:
    books.asks()
    books.fails()
    books.log.flush()
    (stored,) = books.log._connection.execute("SELECT event FROM events WHERE kind = 'llm.unanswered'").fetchone()
    assert SECRET not in stored
    assert "no answer to [redacted]" in stored
    books.log.close()
    books.asks(2)
    books.fails(2)
