from __future__ import annotations

import re
import signal
import threading

import pytest

from toka_cli.errors import Bug
from toka_cli.tools.bound import within_cpu


def forever() -> None:
    while True:
        pass


def test_what_ends_in_time_is_done() -> None:
    done: list[int] = []
    assert within_cpu(5, lambda: done.append(1)) is True
    assert done == [1]


@pytest.mark.parametrize("compute", [forever, lambda: re.search(r"(a|a)+$", "a" * 60 + "!")])
def test_what_does_not_end_is_ended_and_the_timer_is_put_away(compute: object) -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    assert within_cpu(0.02, compute) is False  # type: ignore[arg-type]
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGVTALRM) == before
    assert within_cpu(-1, forever) is False


def test_an_error_goes_through_and_the_timer_is_put_away() -> None:
    with pytest.raises(ZeroDivisionError):
        within_cpu(5, lambda: [][:] or 1 / 0)  # type: ignore[arg-type,return-value,func-returns-value]
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_outside_of_the_main_thread_it_is_a_bug() -> None:
    caught: list[BaseException] = []

    def other() -> None:
        try:
            within_cpu(1, lambda: None)
        except Bug as error:
            caught.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(caught) == 1
