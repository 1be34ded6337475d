from __future__ import annotations

from typing import Any

from toka_cli import events as e
from toka_cli.view.why import why


def test_waiting_for_others_names_them_and_how_they_stand(story: Any) -> None:
    build, lint = story.agent("build"), story.agent("lint")
    story.agent("test", depends_on=("build", "lint"), after=("docs",))
    story.agent("docs")
    view = story.view
    assert why(view, view.agents[2]) == "test waits: its run has not started yet."
    story.tell(e.RunStarted())
    assert why(view, view.agents[2]) == "test waits for build: pending, lint: pending, docs: pending (if possible)."
    story.start(build)
    story.tell(e.AgentQueued(), lint)
    assert why(view, view.agents[2]) == "test waits for build: running, lint: queued, docs: pending (if possible)."
    assert why(view, view.agents[1]) == "lint waits for a free slot: 1 agent holds one now."
    story.tell(e.RunPaused())
    assert why(view, view.agents[1]).endswith("The run is paused.")
    story.tell(e.RunStopping(reason="user"))
    assert why(view, view.agents[2]) == "test waits, and will not start: the run is being stopped (user)."


def test_waiting_for_a_slot_says_how_many_there_are_and_why(story: Any) -> None:
    ids = [story.agent(name) for name in ("one", "two", "three")]
    view = story.view
    view.options |= {"at_once": 2, "max_agents_reason": "their memory limits fit together into 90% of 8 GB"}
    story.tell(e.RunStarted())
    for agent in ids[:2]:
        story.start(agent)
    story.tell(e.AgentQueued(), ids[2])
    assert why(view, view.agents[2]) == (
        "three waits for a free slot: 2 agents hold one now, and 2 run at once: their memory limits fit together into 90% of 8 GB."
    )
    story.tell(e.AgentBackedOff(reason="crashed: signal 9", delay_s=3.0), ids[0])
    assert why(view, view.agents[2]).startswith("three waits for a free slot: 2 agents hold one now"), "who waits for its restart keeps its slot"
    story.tell(e.AgentStopped(reason="stopped: user"), ids[0])
    assert why(view, view.agents[2]).startswith("three is about to start: 1 agent holds one now, and 2 run at once: ")
    story.tell(e.RunWarned("at most 1 agents at once from now on: fork: Resource temporarily unavailable", "crowded", at_once=1))
    assert why(view, view.agents[2]) == (
        "three waits for a free slot: 1 agent holds one now, and 1 run at once: fork: Resource temporarily unavailable."
    )


def test_waiting_for_room_on_the_machine_says_what_is_short(story: Any) -> None:
    one, two = story.agent("one"), story.agent("two", depends_on=("one",))
    view = story.view
    story.tell(e.RunStarted())
    story.tell(e.AgentQueued(), one)
    story.tell(e.RunHeld("memory is short: 100 MB of 8 GB available"))
    assert why(view, view.agents[0]) == "one waits until this machine has room again: memory is short: 100 MB of 8 GB available."
    assert why(view, view.agents[1]) == "two waits for one: queued."
    story.tell(e.RunReleased())
    assert why(view, view.agents[0]) == "one waits for a free slot: 0 agents hold one now."
    assert two == view.agents[1].id


def test_running_says_what(story: Any) -> None:
    agent = story.agent("build", tasks=("t1", "t2"))
    view = story.view
    build = view.agents[0]
    story.tell(e.RunStarted())
    story.tell(e.AgentQueued(), agent)
    story.tell(e.AgentStarting(), agent)
    assert why(view, build) == "build is starting: its process is being made."
    story.tell(e.AgentStarted(pid=1), agent)
    assert why(view, build) == "build is running: between two tasks; 0 of 2 tasks done."
    story.tell(e.TaskStarted(), agent, "t1")
    assert why(view, build) == "build is running task t1 (do t1); 0 of 2 tasks done."
    story.tell(e.TaskRetrying(attempt=1, reason="exit status 1", delay_s=2.0), agent, "t1")
    assert why(view, build) == "build tries task t1 again after 2s, because it failed (exit status 1) (attempt 1); 0 of 2 tasks done."
    story.tell(e.TaskStarted(attempt=2), agent, "t1")
    assert why(view, build) == "build is running task t1 (do t1, attempt 2); 0 of 2 tasks done."
    story.tell(e.TaskSucceeded(), agent, "t1")
    story.tell(e.GateStarted(index=1, description="it holds"), agent)
    assert why(view, build) == "build is checking the gate of objective 1 (it holds); 1 of 2 tasks done."
    story.tell(e.AgentPaused(), agent)
    assert why(view, build) == "build is paused and starts nothing new until it is resumed."
    story.tell(e.AgentResumed(), agent)
    story.tell(e.AgentPaused("a burst of refusals"), agent)
    assert why(view, build) == "build is paused (a burst of refusals) and starts nothing new until it is resumed."
    story.tell(e.AgentBackedOff(reason="crashed: signal 9", delay_s=3.0), agent)
    assert why(view, build) == "build failed (crashed: signal 9) and tries again: starts again after 3s."
    story.tell(e.AgentRequeued(), agent)
    story.tell(e.AgentStarting(attempt=2), agent)
    assert why(view, build) == "build is starting (attempt 2): its process is being made."
    story.tell(e.AgentStopping(reason="user"), agent)
    assert why(view, build) == "build is being stopped (user)."
    story.tell(e.RunInterrupted(reason="its owner is gone"))
    assert why(view, build) == "build does nothing: it was stopping when its run was interrupted (its owner is gone)."


def test_the_end_says_why(failed_run: Any) -> None:
    view = failed_run.view
    build, test, docs, lint = view.agents
    blame = "task t2 (do t2): exit status 2"
    assert why(view, build) == f'build failed because {blame}; it said last: "main.c:3: error: nope"; hint: look at main.c.'
    assert why(view, test) == f"test was skipped because build, which it needs, failed: {blame} (dependency_failed: build)."
    assert why(view, docs) == f"docs was skipped because build, which it needs, failed: {blame} (dependency_failed: test)."
    assert why(view, lint) == "lint succeeded in 10s: 1 of 1 tasks done, 1 of 1 gates passed."


def test_other_ends(story: Any) -> None:
    names = ("crashed", "gate", "stopped", "allowed")
    ids = {name: story.agent(name, tasks=("t1", "t2")) for name in names}
    story.tell(e.RunStarted())
    for agent in ids.values():
        story.start(agent)
    story.tell(e.TaskStarted(), ids["crashed"], "t1")
    story.tell(e.TaskStopped(reason="crashed: signal 9", outcome=e.Outcome(output="half\n")), ids["crashed"], "t1")
    story.tell(e.AgentFailed(reason="crashed: signal 9"), ids["crashed"])
    story.tell(e.GateFailed(index=2, description="sum fits", reason="exit status 1", outcome=e.Outcome(output="no\n")), ids["gate"])
    story.tell(e.AgentFailed(reason="gate_failed: objective 2: exit status 1"), ids["gate"])
    story.tell(e.AgentStopping(reason="user"), ids["stopped"])
    story.tell(e.AgentStopped(reason="stopped: user"), ids["stopped"])
    story.tell(e.TaskStarted(), ids["allowed"], "t1")
    story.tell(e.TaskFailed(reason="exit status 1", allowed=True), ids["allowed"], "t1")
    story.tell(e.AgentSucceeded(), ids["allowed"])
    sentences = [why(story.view, agent) for agent in story.view.agents]
    assert sentences == [
        'crashed failed because crashed: signal 9; it said last: "half".',
        'gate failed because gate of objective 2 (sum fits): exit status 1; it said last: "no".',
        "stopped was stopped (stopped: user), with 0 of 2 tasks done.",
        "allowed succeeded in 11s: 1 of 2 tasks done, 1 allowed to fail and did.",
    ]


def test_the_task_that_the_reason_names_is_blamed_not_one_that_was_allowed_to_fail(story: Any) -> None:
    agent = story.agent("a", tasks=("t1", "t2"))
    story.tell(e.RunStarted())
    story.start(agent)
    for task in ("t1", "t2"):
        story.tell(e.TaskStarted(), agent, task)
        story.tell(e.TaskFailed(reason=f"exit status {task}", allowed=task == "t1"), agent, task)
    story.tell(e.AgentFailed(reason="task_failed: t2: exit status t2"), agent)
    assert why(story.view, story.view.agents[0]) == "a failed because task t2 (do t2): exit status t2."


def test_it_is_one_harmless_line_for_any_text(hostile_run: Any, forbidden: Any) -> None:
    for agent in hostile_run.view.agents:
        assert not forbidden.search(why(hostile_run.view, agent))
