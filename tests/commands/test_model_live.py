"""Watching agents that think: on a terminal, in plain lines and afterwards, with a real toka and a model server that answers when it is told to."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any

from tests.conftest import LIMIT_S, Toka
from tests.journeys.asking import connect, events, finish, prompt
from tests.llm.server import ModelServer, Reply, Seen, call, calls


def held(gate: threading.Event, reply: Reply) -> Callable[[Seen], Reply]:
    """A reply that comes once the gate is open."""

    def answer(_: Seen) -> Reply:
        assert gate.wait(LIMIT_S), "nobody opened the gate"
        return reply

    return answer


def test_a_terminal_counts_the_seconds_and_the_log_does_not(toka: Toka, model_server: ModelServer) -> None:
    connect(toka, model_server)
    gate = threading.Event()
    model_server.play([calls(call("list_dir", path="."), usage=(1204, 88)), held(gate, finish("all is well"))])
    terminal = toka.terminal("orchestrate", prompt(toka, "thinker", "Look around.", grants=["filesystem-read"]), columns=160)
    try:
        terminal.until(b"waiting for the model 1s (turn 2, ")
        terminal.until(b"waiting for the model 2s (turn 2, ")
        assert "waiting for the model" in toka("agent", "why", "thinker").expect(0).out
        assert "waiting for the model" in toka("agent", "list").expect(0).out
    finally:
        gate.set()
    assert terminal.wait() == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.shown.decode())
    assert "turns  tokens" in shown
    assert re.search(r"Model: 2 turns, [\d,]+ tokens in, \d+ out", shown)
    run = toka.folders()[0].run_id
    assert f"Audit head: {json.loads(toka('run', 'show', run, '-o', 'json').out)['data']['run']['audit_head']}" in shown
    noted = [event for event in events(toka, run, "agent.noted") if "asking" in event["detail"]]
    assert len(noted) < 3, "no event per second"


def test_plain_lines_and_what_was_said_afterwards(toka: Toka, model_server: ModelServer) -> None:
    connect(toka, model_server)
    model_server.play([calls(call("list_dir", path="."), call("glob", pattern="*"), usage=(1204, 88)), finish("all is well")])
    spec = prompt(toka, "thinker", "Look around.", grants=["filesystem-read"])
    done = toka("orchestrate", spec).expect(0)
    turns = [line for line in done.err.splitlines() if " turn " in line]
    assert re.sub(r"\$[\d.]+|cost not known", "COST", turns[0]) == (
        "[thinker] task t turn 1: openai/test-model, 1,204 in, 88 out, COST, calls list_dir, glob"
    )
    assert len(turns) == 2
    told = toka("agent", "show", "thinker", "--prompt").expect(0).out
    for part in ("  system:\n", "Look around.", "  assistant (turn 1: ", "    calls list_dir {", "  tool list_dir:\n", "  tool glob:\n"):
        assert part in told, part
    sent = [message["content"] for message in model_server.requests[0].messages if message["role"] == "system"]
    data = toka("agent", "show", "thinker", "--prompt", "-o", "json").expect(0).envelope["data"]["prompts"]
    system: Any = data[0]["turns"][0]["messages"][0]
    assert (system["role"], system["content"]) == ("system", sent[0]), "as it was sent"
    model_server.play([finish("all is well")])
    quiet = toka("-q", "orchestrate", spec).expect(0)
    assert (quiet.out, quiet.err) == ("", "")


def test_a_recorded_run_and_its_replay_came_to_the_same(toka: Toka, model_server: ModelServer) -> None:
    connect(toka, model_server)
    model_server.play([calls(call("list_dir", path=".")), finish("all is well")])
    spec, tape = prompt(toka, "thinker", "Look around.", grants=["filesystem-read"]), toka.root / "tape"
    first = toka.run(spec, "--record", tape)["id"]
    second = toka.run(spec, "--replay", tape)["id"]
    same = toka("run", "diff", first, second)
    assert (same.code, same.out) == (0, f"runs {first} and {second} came to the same: 1 agent, 1 task, 0 files\n")
    model_server.play([finish("nothing is well", status="blocked")])
    third = toka.run(spec, code=1)["id"]
    other = toka("run", "diff", first, third, "-o", "json").expect(1).envelope["data"]
    assert {"state", "output", "usage.turns"} <= {each["what"] for each in other["differences"]}
