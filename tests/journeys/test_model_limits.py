"""What holds for all agents of a run together: requests a minute, pauses that a provider asks for, its quota, and the budget, also over a resume."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Toka
from tests.journeys.asking import MODEL, connect, events, finish, of_lane, orchestrate, prompt
from tests.llm.server import ModelServer, Reply, Seen, call, calls, quota, rate_limited

USAGE = (2000, 2000)
INPUT_USD, OUTPUT_USD = 0.5, 0.4
"""Per million tokens."""
CALL_USD = (USAGE[0] * INPUT_USD + USAGE[1] * OUTPUT_USD) / 1e6


def priced(toka: Toka) -> Path:
    """A configuration that knows what the test's model costs."""
    path = toka.root / "toka.toml"
    path.write_text(f'[llm.prices]\n"{MODEL}" = {{input = {INPUT_USD}, output = {OUTPUT_USD}}}\n')
    return path


def test_a_budget_is_held_over_many_calls_at_once_and_over_a_resume(toka: Toka, model_server: ModelServer) -> None:
    connect(toka, model_server, LLM_RATE_LIMIT="1000", TOKA_CONFIG=str(priced(toka)))
    for number in range(10):
        tasks = {"default": [{"id": f"t{task}", "description": f"Count to {task}."} for task in range(5)], "parallel": 5}
        toka.spec(f"agent{number}", tasks, security={"capabilities_required": []}, llm={"max_output_tokens": 2500})
    model_server.play(lambda _: finish(usage=USAGE, delay_s=0.2))

    view = orchestrate(toka, "--budget-usd", "0.05", code=7)
    run, answered = view["id"], len(model_server.requests)
    assert (view["state"], view["exit_code"]) == ("interrupted", 7)
    asked = events(toka, run, "llm.asked")
    most = max(event["most_usd"] for event in asked)
    assert answered == len(asked) == view["usage"]["turns"]
    assert view["usage"]["cost_usd"] == pytest.approx(answered * CALL_USD)
    assert 0.05 - most <= answered * CALL_USD <= 0.05 + most
    assert view["reason"].startswith("budget: the budget of the run is used up: ")
    assert model_server.most_at_once > 1
    done = [task["id"] for agent in view["agents"] for task in agent["tasks"] if task["state"] == "succeeded"]
    assert len(done) == answered

    again = toka("run", "resume", run, "--budget-usd", "0.07", "-o", "json").expect(7).envelope["data"]["run"]
    asked = events(toka, run, "llm.asked")
    assert len(asked) == len(model_server.requests) > answered
    assert 0.07 - most <= len(asked) * CALL_USD <= 0.07 + most
    spent = re.search(r"used up: ([\d.]+) of 0\.0700 USD", again["reason"])
    assert spent is not None
    assert float(spent[1]) == pytest.approx(len(asked) * CALL_USD, abs=0.0001)

    final = toka("run", "resume", run, "--budget-usd", "1", "-o", "json").expect(0).envelope["data"]["run"]
    assert (final["state"], final["usage"]["turns"]) == ("succeeded", 50)
    assert final["usage"]["cost_usd"] == pytest.approx(50 * CALL_USD)
    assert len(model_server.requests) == 50


def test_a_model_without_a_price_is_refused_under_a_budget_in_dollars(toka: Toka, model_server: ModelServer) -> None:
    connect(toka, model_server)
    prompt(toka, "one", "Say hello.")
    done = toka("orchestrate", toka.root / "specs", "--budget-usd", "1").expect(5)
    assert f"error: no price is known for {MODEL}, so a budget in USD cannot be held" in done.err
    assert f'[llm.prices] "{MODEL}" = {{input = ..., output = ...}}' in done.err
    assert "--budget-tokens" in done.err
    assert (toka.folders(), model_server.requests) == ([], [])


def test_a_used_up_quota_stops_the_run_after_one_failure_and_it_can_go_on(toka: Toka, model_server: ModelServer) -> None:
    connect(toka, model_server)
    tasks = {"default": [{"id": f"t{task}", "description": f"Count to {task}."} for task in range(5)], "parallel": 5}
    toka.spec("first", tasks, security={"capabilities_required": []})
    prompt(toka, "next", "Count on.", dependencies={"required": {"first": "x"}})
    model_server.play([quota()])
    done = toka("orchestrate", toka.root / "specs", "-o", "json").expect(6)
    view = done.envelope["data"]["run"]
    assert len(model_server.requests) == 1
    assert (view["state"], view["exit_code"]) == ("interrupted", 6)
    assert view["reason"].startswith("provider: ")
    assert "You exceeded your current quota" in view["reason"]
    assert f"toka run resume {view['id']}" in done.err
    assert {task["state"] for agent in view["agents"] for task in agent["tasks"]} == {"pending"}

    model_server.play(lambda _: finish())
    again = toka("run", "resume", view["id"], "-o", "json").expect(0).envelope["data"]["run"]
    assert (again["state"], again["usage"]["turns"]) == ("succeeded", 6)
    assert len(model_server.requests) == 7


def test_a_pause_that_the_provider_asks_for_holds_for_everybody(toka: Toka, model_server: ModelServer) -> None:
    connect(toka, model_server)
    agents = [f"agent{number}" for number in range(5)]
    for name in agents:
        prompt(toka, name, f"You are {name}.")
    all_there, release = threading.Event(), threading.Event()

    def answer(seen: Seen) -> Reply:
        if seen.number == len(agents):
            all_there.set()
        if seen.number == 1:
            return replace(rate_limited(retry_after=3), hold=all_there)
        if seen.number <= len(agents):
            return calls(call("report_progress", detail="half"), hold=release)
        return finish()

    model_server.play(answer)
    running = toka.start("orchestrate", toka.root / "specs", "-o", "jsonl")
    # Everybody has asked once, and one of them has been told to wait: from here on toka knows.
    noted = running.event("agent.noted")
    while not noted["detail"].startswith("waiting for rate limit until "):
        noted = running.event("agent.noted")
    release.set()
    running.wait().expect(0)
    told_at = model_server.requests[0].answered_at_s
    assert told_at is not None
    later = [seen.at_s - told_at for seen in model_server.requests[len(agents) :]]
    assert len(later) == len(agents)
    assert min(later) >= 3.0
    assert all(seen.answered_at_s < told_at + 3.0 for seen in model_server.requests[1 : len(agents)])
    assert all(len(of_lane(model_server, f"You are {name}.")) == 2 for name in agents[1:])


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_never_more_requests_a_minute_than_allowed_and_fair(toka: Toka, model_server: ModelServer) -> None:
    connect(toka, model_server, LLM_RATE_LIMIT="60")
    agents = [f"agent{number:02}" for number in range(20)]
    for name in agents:
        prompt(toka, name, f"You are {name}.")
    model_server.play(lambda seen: finish() if seen.turn == 6 else calls(call("report_progress", detail=str(seen.turn))))
    running = toka.start("orchestrate", toka.root / "specs", "--max-agents", "20", "-o", "json")
    out, err = running.process.communicate(timeout=150)
    assert running.process.returncode == 0, err.decode()
    times = sorted(seen.at_s for seen in model_server.requests)
    assert len(times) == 120
    assert model_server.most_within(60.0) == 60
    # The minute was used to the full, and the rest began when it was over.
    assert times[60] - times[0] >= 60.0
    # As long as there is room everybody goes at once, early agents more often. From then on those who had least come first: 5 each, within 20 %.
    served = [sum(f"You are {name}." in seen.words for seen in model_server.requests[:100]) for name in agents]
    assert sum(served) == 100
    assert all(5 * 0.8 <= count <= 5 * 1.2 for count in served), served
    waited = [event["detail"] for event in events(toka, json.loads(out)["data"]["run"]["id"], "agent.noted") if "rate limit" in event["detail"]]
    assert all(re.fullmatch(r"waiting for rate limit until \d\d:\d\d:\d\d", detail) for detail in waited)
    assert len(waited) >= len(agents)
