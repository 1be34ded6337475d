"""What counts as going in circles, and what does not."""

from __future__ import annotations

import pytest

from toka_cli.agent.stuck import LONGEST_PERIOD, ROUNDS, ROUNDS_AFTER_NUDGE, Circle


def after(circle, *steps):
    """How many of these steps it takes until a circle is found; None if none is."""
    for number, step in enumerate(steps, 1):
        circle.add("run_command", step, f"result of {step}")
        if circle.found():
            return number
    return None


@pytest.mark.parametrize("period", range(1, LONGEST_PERIOD + 1))
def test_a_circle_is_found_after_so_many_rounds_and_sooner_after_the_nudge(period):
    circle, around = Circle(), [str(number) for number in range(period)] * 10
    assert after(circle, *around) == period * ROUNDS
    circle.nudge()
    assert not circle.found()
    assert after(circle, *around) == period * ROUNDS_AFTER_NUDGE


def test_a_longer_period_is_no_circle():
    assert after(Circle(), *[str(number) for number in range(LONGEST_PERIOD + 1)] * 10) is None


def test_a_circle_that_begins_late_is_found():
    assert after(Circle(), "a", "b", "c", "d", "x", "x", "x") == 7


def test_another_result_of_the_same_call_is_progress():
    circle = Circle()
    for number in range(20):
        circle.add("run_command", "make", f"{20 - number} tests failed")
        assert not circle.found()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3 passed in 0.12s", "3 passed in 4.01s"),
        ("took 15 ms", "took 2 ms"),
        ("at 12:04:31 it failed", "at 12:05:02 it failed"),
        ("1.5 seconds", "2 seconds"),
    ],
)
def test_a_result_that_only_took_another_time_is_the_same(one, other):
    circle = Circle()
    for result in (one, other, one):
        circle.add("run_command", "x", result)
    assert circle.found()


@pytest.mark.parametrize(("one", "other"), [("3 passed", "4 passed"), ("line 12", "line 13"), ("12 sheep", "13 sheep"), ("v1.2", "v1.3")])
def test_other_numbers_are_another_result(one, other):
    circle = Circle()
    for result in (one, other, one):
        circle.add("run_command", "x", result)
    assert not circle.found()


def test_a_tool_its_arguments_and_its_result_do_not_run_into_each_other():
    circle = Circle()
    for tool, arguments, result in (("a", "bc", ""), ("ab", "c", ""), ("a", "b", "c")):
        circle.add(tool, arguments, result)
    assert not circle.found()
