"""What is watched while agents run: progress, working time over all lives and owners, who waits for what, and what is said when there is less than planned."""

from __future__ import annotations

from tests.conftest import Toka, ended

NEVER = {"policy": "never"}


def test_who_waits_for_a_slot_says_how_many_there_are_and_why(toka: Toka) -> None:
    ready, gate = toka.meeting("ready"), toka.meeting("gate")
    for name in ("one", "two", "three"):
        toka.spec(name, [{"id": "t", "description": "T", "run": "echo up > ready; read x < gate"}])
    toka.spec("after", [{"id": "t", "description": "T", "run": "true"}], dependencies={"required": {"one": "x"}, "optional": {"two": "x"}})
    running = toka.start("orchestrate", toka.root / "specs", "--max-agents", "2", "-o", "jsonl")
    ready.take()
    ready.take()
    waiting = next(agent for agent in toka("agent", "list", "-o", "json").expect(0).envelope["data"]["agents"] if agent["state"] == "queued")
    said = toka("agent", "why", waiting["id"]).expect(0).out
    assert said == f"{waiting['name']} waits for a free slot: 2 agents hold one now, and 2 run at once: said by --max-agents.\n"
    assert toka("agent", "why", "after").expect(0).out.startswith("after waits for one: ")
    for _ in range(3):
        gate.give()
    running.wait().expect(0)


def test_a_command_that_says_nothing_for_too_long_makes_no_progress(toka: Toka) -> None:
    toka.env["TOKA_MONITORING_PROGRESS_TIMEOUT"] = "2s"
    toka.spec("stuck", [{"id": "t", "description": "S", "run": "echo last words; exec sleep 1000"}])
    toka.spec("slow", [{"id": "t", "description": "S", "run": "for i in 1 2 3 4 5 6 7 8; do sleep 0.5; echo $i; done"}])
    done = toka("orchestrate", toka.root / "specs", "-o", "json").expect(1)
    agents = {agent["name"]: agent for agent in done.envelope["data"]["run"]["agents"]}
    assert (agents["stuck"]["state"], agents["stuck"]["reason"]) == ("failed", "no_progress: nothing but heartbeats for 2s")
    assert agents["stuck"]["restarts"] == 0
    assert agents["stuck"]["tasks"][0]["output"] == "last words\n"
    assert agents["slow"]["state"] == "succeeded"
    toka.nothing_left()


def test_a_time_limit_is_that_of_all_lives_together(toka: Toka) -> None:
    """A command that kills its agent (without walls it can), again and again: each life is shorter than the limit."""
    tasks = [{"id": "t", "description": "T", "run": "echo life >> lives; sleep 1; kill -9 $PPID", "on_interrupted": "rerun"}]
    spec = toka.spec("one", tasks, restart={"policy": "on-failure", "delay": "1ms", "max_attempts": 9}, security={"resource_limits": {"timeout": "2500ms"}})
    agent = toka.run(spec, "--no-sandbox", code=1)["agents"][0]
    assert agent["reason"] == "limit.timeout: longer than 2.5s"
    assert agent["worked_s"] >= 2.5
    assert 2 <= len((toka.work / "lives").read_text().split()) <= 3


def test_a_time_limit_goes_on_counting_when_the_run_has_a_new_owner(toka: Toka) -> None:
    ready = toka.meeting("ready")
    command = "echo up > ready; exec sleep 1000"
    tasks = [{"id": "t", "description": "T", "run": command, "on_interrupted": "rerun"}]
    spec = toka.spec("one", tasks, restart=NEVER, security={"resource_limits": {"timeout": "10s"}})
    running = toka.start("orchestrate", spec, "-o", "jsonl")
    run = running.event("agent.started")["run"]
    ready.take()
    look = toka.until(run, lambda look: (look.view.agents[0].worked_s or 0.0) >= 3.0)
    running.process.kill()
    running.wait()
    before = look.view.agents[0].worked_s or 0.0
    resumed = toka.start("run", "resume", run, "-o", "jsonl")
    resumed.event("agent.started")
    ready.take()
    look = toka.until(run, lambda look: (look.view.agents[0].worked_s or 0.0) > before)
    assert before <= (look.view.agents[0].worked_s or 0.0) < 10.0
    # Not the whole limit again: what is left of it.
    assert not ended(resumed.pid, 0.0)
    agent = resumed.wait().expect(1).lines[-1]["data"]["run"]["agents"][0]
    assert agent["reason"] == "limit.timeout: longer than 10s"
    assert 10.0 <= agent["worked_s"] < 10.0 + before, "a limit that began anew would have been passed later"


def test_an_agent_that_was_killed_by_a_stop_keeps_what_it_had_written(toka: Toka) -> None:
    ready = toka.meeting("ready")
    command = "trap '' TERM; echo so far; echo and an error >&2; echo up > ready; while :; do sleep 1; done"
    running = toka.start("orchestrate", toka.spec("one", [{"id": "t", "description": "T", "run": command}], restart=NEVER), "-o", "jsonl")
    ready.take()
    (stopped,) = toka("agent", "stop", "one", "--force", "-o", "json").expect(0).envelope["data"]["stopped"]
    assert stopped["rung"] == "kill"
    view = running.wait().expect(1).lines[-1]["data"]["run"]
    assert (view["state"], view["reason"]) == ("stopped", "agents_stopped: one")
    task = view["agents"][0]["tasks"][0]
    assert (task["state"], task["output"], task["stderr"]) == ("stopped", "so far\n", "and an error\n")
    toka.nothing_left()
