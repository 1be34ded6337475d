"""The three tables hang together: every state can be reached and left, final means final, and every kind in them is a real event."""

from __future__ import annotations

import typing

import pytest

from toka_cli import events, lifecycle
from toka_cli.errors import EXIT_BUG, IllegalMove
from toka_cli.lifecycle import AgentState, RunState, TaskState

TABLES = {
    "run": (lifecycle.RUN_MOVES, RunState, lifecycle.RUN_FINAL, lifecycle.next_run_state),
    "agent": (lifecycle.AGENT_MOVES, AgentState, lifecycle.AGENT_FINAL, lifecycle.next_agent_state),
    "task": (lifecycle.TASK_MOVES, TaskState, lifecycle.TASK_FINAL, lifecycle.next_task_state),
}
KINDS = {kind.__struct_config__.tag for kind in typing.get_args(events.AnyEvent)}

nouns = pytest.mark.parametrize("noun", sorted(TABLES))


def reachable(moves, start):
    found, todo = {start}, [start]
    while todo:
        state = todo.pop()
        for (before, _), after in moves.items():
            if before is state and after not in found:
                found.add(after)
                todo.append(after)
    return found


@nouns
def test_every_state_can_be_reached_from_pending(noun):
    moves, states, _, _ = TABLES[noun]
    assert reachable(moves, states.PENDING) == set(states)


@nouns
def test_a_final_state_is_never_left(noun):
    moves, _, final, step = TABLES[noun]
    assert not {state for state, _ in moves} & final
    for state in final:
        for kind in {kind for _, kind in moves}:
            with pytest.raises(IllegalMove, match=rf"{kind} cannot happen to an? {noun} that is {state.value}"):
                step(state, kind)


@nouns
def test_every_other_state_can_come_to_an_end(noun):
    moves, states, final, _ = TABLES[noun]
    for state in set(states) - final:
        assert reachable(moves, state) & final, state


@nouns
def test_every_kind_is_an_event_of_that_noun(noun):
    moves, *_ = TABLES[noun]
    kinds = {kind for _, kind in moves}
    assert kinds <= KINDS
    assert {kind.partition(".")[0] for kind in kinds} == {noun}


@nouns
def test_each_move_is_what_the_table_says_and_nothing_else_moves(noun):
    moves, states, _, step = TABLES[noun]
    kinds = {kind for _, kind in moves}
    for state in states:
        for kind in KINDS - kinds:
            assert step(state, kind) is state
        for kind in kinds:
            if (state, kind) in moves:
                assert step(state, kind) is moves[state, kind]
            else:
                with pytest.raises(IllegalMove):
                    step(state, kind)


def test_nothing_but_recovery_leads_back_to_pending():
    back = {
        kind
        for moves, states, *_ in TABLES.values()
        for (before, kind), after in moves.items()
        if after is states.PENDING and before is not after
    }
    assert back == {"agent.requeued", "task.requeued"}


def test_an_illegal_move_is_a_bug_of_toka():
    with pytest.raises(IllegalMove) as caught:
        lifecycle.next_run_state(RunState.SUCCEEDED, "run.started")
    assert caught.value.exit_code == EXIT_BUG
    assert caught.value.code == "illegal_move"


def test_states_are_spelled_as_the_command_line_promises():
    assert [state.value for state in RunState] == [
        "pending",
        "running",
        "paused",
        "stopping",
        "interrupted",
        "succeeded",
        "failed",
        "stopped",
    ]
    assert [state.value for state in AgentState] == [
        "pending", "queued", "starting", "running", "paused", "stopping", "backoff", "succeeded", "failed", "stopped", "skipped",
    ]  # fmt: skip
    assert [state.value for state in TaskState] == ["pending", "running", "retrying", "succeeded", "failed", "stopped", "skipped"]
