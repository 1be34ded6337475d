"""The quick look writes every value as msgspec does, or says that it cannot tell."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toka_cli import events as e
from toka_cli.state import glance

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8")),
    lambda it: st.lists(it) | st.dictionaries(st.text(st.characters(codec="utf-8")), it),
)


@given(values)
def test_json_is_written_as_it_is_stored(value):
    assert glance.encoded(value) == msgspec.json.encode(value).decode()


@pytest.mark.parametrize("number", [3e-05, 1e-05, 9.999e-06, 1.5e-07, 1.5e-10, 1e15, 1e16, 1.25e22, -4.2e-05, -2e-300, 0.0001, 0.0, 123456789.25])
def test_numbers_of_any_size(number):
    assert glance.encoded([number, {"e-05": "e+"}]) == msgspec.json.encode([number, {"e-05": "e+"}]).decode()


def test_what_cheap_models_cost_does_not_keep_a_list_from_being_quick(log, tools, state_dir):
    (agent,) = tools.begin(log, "one")
    tools.up(log, agent)
    log.append(e.TaskStarted(), agent=agent, task="t1")
    log.append(e.LlmReplied(1, "x", "stop", 10, 2, 0.000031), agent=agent, task="t1")
    log.append(e.LlmReplied(2, "x", "stop", 10, 2, 1.5e-07), agent=agent, task="t1")
    log.flush()
    (found,) = glance.agents(str(state_dir), everything=True, now=log.clock())
    assert found.usage.cost_usd == pytest.approx(3.115e-05)
    tools.work(log, agent, "t2")
    log.append(e.TaskSucceeded(), agent=agent, task="t1")
    tools.finish(log, agent)
    log.close()
    (run,) = glance.runs(str(state_dir), live=False)
    assert run.state == "succeeded"
