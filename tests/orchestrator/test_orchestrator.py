"""The orchestrator with cells that do what a test says: order, failures, stops, restarts, and cells that lie."""

from __future__ import annotations

import asyncio

import pytest

from toka_cli.lifecycle import RunState
from toka_cli.plan.plan import Gate, Promise
from toka_cli.protocol import frames
from toka_cli.protocol import messages as m


def kinds(run, name):
    identity = run.agent(name).id
    rows = run.log._connection.execute("SELECT kind FROM events WHERE agent = ? ORDER BY seq", (identity,)).fetchall()
    return [kind for (kind,) in rows]


async def hang(cell):
    """Works without end, and ends when it is told to."""
    brief = await cell.call("agent.hello", m.Hello(cell.pid, {}))
    await cell.call("attempt.start", m.StartAttempt(brief.tasks[0].id, 1))
    await cell.told("agent.stop")
    await cell.call("attempt.finish", m.FinishAttempt(brief.tasks[0].id, 1, False, "stopped: x"))
    await cell.call("agent.finish", m.FinishAgent())


async def deaf(cell):
    cell.deaf = True
    brief = await cell.call("agent.hello", m.Hello(cell.pid, {}))
    await cell.call("attempt.start", m.StartAttempt(brief.tasks[0].id, 1))
    await asyncio.shield(cell.ended)


def test_agents_run_in_the_order_of_what_they_require(orchestrate, make, backend):
    run = orchestrate(make("c", ["b"]), make("b", ["a"]), make("a"))
    assert backend.names() == ["a", "b", "c"]
    assert run.log.view.state == RunState.SUCCEEDED


def test_no_more_agents_than_allowed_run_at_once_and_all_slots_are_used(orchestrate, make, backend):
    orchestrate(*(make(f"a{n}") for n in range(12)), max_agents=3)
    assert backend.most == 3
    assert len(backend.cells) == 12


def test_a_diamond_with_one_that_fails_skips_exactly_its_dependants(orchestrate, make, backend, acts):
    backend.acts["bad"] = acts["failing"]
    run = orchestrate(
        make("top"),
        make("bad", ["top"]),
        make("good", ["top"]),
        make("low", ["bad", "good"]),
        make("lower", ["low"]),
        make("beside", ["good"]),
        make("after", after=["bad"]),
    )
    assert run.states() == {
        "top": "succeeded",
        "bad": "failed",
        "good": "succeeded",
        "low": "skipped",
        "lower": "skipped",
        "beside": "succeeded",
        "after": "succeeded",
    }
    assert run.agent("low").reason == run.agent("lower").reason == "dependency_failed: bad"
    assert run.agent("bad").reason == "task_failed: t1: exit 1"
    assert run.log.view.state == RunState.FAILED


@pytest.mark.parametrize(
    ("reasons", "code"),
    [
        (["budget: the budget of agent bad is used up"], 7),
        (["provider_dns: the name is not known"], 6),
        (["provider_timeout: no answer", "provider_quota: used up"], 6),
        (["provider_timeout: no answer", "budget: used up"], 1),
        (["provider_content_filter: no", "exit 1"], 1),
        (["replay_miss: not recorded"], 8),
        (["decision_needed: which one?"], 9),
        (["exit 1"], 1),
    ],
)
def test_a_run_that_failed_for_one_cause_alone_ends_with_its_exit_code(orchestrate, make, backend, reasons, code):
    def failing_with(reason):
        async def act(cell):
            await cell.call("agent.hello", m.Hello(cell.pid, {}))
            await cell.call("attempt.start", m.StartAttempt("t1", 1))
            await cell.call("attempt.finish", m.FinishAttempt("t1", 1, False, reason))
            await cell.call("agent.finish", m.FinishAgent())

        return act

    backend.acts = {f"bad{number}": failing_with(reason) for number, reason in enumerate(reasons)}
    run = orchestrate(make("good"), *(make(name) for name in backend.acts), make("after", ["bad0"]))
    assert (run.log.view.state, run.log.view.exit_code) == (RunState.FAILED, code)
    assert run.agent("bad0").reason == f"task_failed: t1: {reasons[0]}"


def test_fail_fast_ends_the_rest(orchestrate, make, backend, acts):
    backend.acts = {"bad": acts["failing"], "busy": hang}
    run = orchestrate(make("busy"), make("bad"), make("later", ["busy"]), fail_fast=True)
    assert run.states() == {"busy": "stopped", "bad": "failed", "later": "stopped"}
    assert run.log.view.state == RunState.FAILED


def test_stopping_the_run_ends_what_runs_and_starts_nothing(orchestrate, make, backend):
    backend.acts["a"] = hang

    async def beside(run):
        await run.until("a", "running")
        run.orchestrator.stop_run("enough")

    run = orchestrate(make("a"), make("b", ["a"]), beside=beside)
    assert run.states() == {"a": "stopped", "b": "stopped"}
    assert run.log.view.state == RunState.STOPPED
    assert backend.names() == ["a"]
    assert backend.cells[0].orders == ["release"]


def test_one_that_does_not_listen_is_killed_in_the_end(orchestrate, make, backend):
    backend.acts["a"] = deaf

    async def beside(run):
        await run.until("a", "running")
        run.orchestrator.stop_run("enough", grace_s=0.01)

    run = orchestrate(make("a"), beside=beside)
    assert backend.cells[0].orders == ["release", "term", "kill"]
    assert run.states() == {"a": "stopped"}


def test_by_force_nobody_is_asked(orchestrate, make, backend):
    backend.acts["a"] = deaf

    async def beside(run):
        await run.until("a", "running")
        run.orchestrator.stop_run("first")
        await run.until("a", "stopping")
        run.orchestrator.stop_run("now", force=True)

    run = orchestrate(make("a"), beside=beside)
    assert backend.cells[0].orders[-1] == "kill"
    assert run.states() == {"a": "stopped"}


def test_stopping_one_agent_leaves_the_others(orchestrate, make, backend):
    backend.acts["a"] = hang

    async def beside(run):
        await run.until("a", "running")
        assert run.orchestrator.stop_agent("a", "enough")
        await run.until("a", "stopped")
        assert not run.orchestrator.stop_agent("a", "again")

    run = orchestrate(make("a"), make("b"), make("c", ["a"]), make("d", ["b"]), beside=beside)
    assert run.states() == {"a": "stopped", "b": "succeeded", "c": "skipped", "d": "succeeded"}


def test_stopping_one_that_waits_ends_it_without_a_start(orchestrate, make, backend):
    backend.acts["a"] = hang

    async def beside(run):
        await run.until("a", "running")
        run.orchestrator.stop_agent("b", "not wanted")
        run.orchestrator.stop_agent("a", "enough")

    run = orchestrate(make("a"), make("b", ["a"]), make("c", ["b"]), beside=beside)
    assert run.states() == {"a": "stopped", "b": "stopped", "c": "skipped"}
    assert backend.names() == ["a"]


def test_the_runs_own_time_limit_is_exit_124(orchestrate, make, backend):
    backend.acts["a"] = hang
    run = orchestrate(make("a"), timeout_s=0.05)
    assert run.log.view.exit_code == 124
    assert run.states()["a"] == "stopped"


def test_an_agents_time_limit_kills_it_alone(orchestrate, make, backend):
    backend.acts["a"] = deaf
    run = orchestrate(make("a", limits=m.Limits(timeout_s=0.05)), make("b"))
    assert run.states() == {"a": "failed", "b": "succeeded"}
    assert run.agent("a").reason == "limit.timeout: longer than 50ms"
    assert backend.cells[0].orders == ["kill"]


# --- cells that break or lie ---------------------------------------------------------------------------------------------------------


async def dies(cell):
    await cell.call("agent.hello", m.Hello(cell.pid, {}))
    await cell.call("attempt.start", m.StartAttempt("t1", 1))
    return 7


async def says_it_is_done(cell):
    await cell.call("agent.hello", m.Hello(cell.pid, {}))
    await cell.call("agent.finish", m.FinishAgent())


async def skips_all(cell):
    await cell.call("agent.hello", m.Hello(cell.pid, {}))
    await cell.call("task.skip", m.SkipTask("t1", "x"))
    await cell.call("agent.finish", m.FinishAgent())


async def garbage(cell):
    await cell.call("agent.hello", m.Hello(cell.pid, {}))
    await asyncio.get_running_loop().sock_sendall(cell.inside, b"\xff" * 100)
    await asyncio.shield(cell.ended)


async def no_text(cell):
    await cell.call("agent.hello", m.Hello(cell.pid, {}))
    body = b'{"jsonrpc":"2.0","method":"agent.note","params":{"detail":"\xff"}}'
    await asyncio.get_running_loop().sock_sendall(cell.inside, frames.pack_bytes(body))
    await asyncio.shield(cell.ended)


async def floods(cell):
    await cell.call("agent.hello", m.Hello(cell.pid, {}))
    await cell.call("attempt.start", m.StartAttempt("t1", 1))
    await asyncio.get_running_loop().sock_sendall(cell.inside, frames.request("task.output", m.Output("t1", "stdout", b"x" * 2000)))
    await asyncio.shield(cell.ended)


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (dies, "crashed: exit 7"),
        (says_it_is_done, "protocol: agent.finish before"),
        (skips_all, "protocol: task.skip"),
        (garbage, "protocol: "),
        (no_text, "protocol: "),
        (floods, "limit.output: more than 1000 bytes"),
    ],
)
def test_a_bad_cell_fails_its_agent_and_nobody_else(orchestrate, make, backend, act, reason):
    backend.acts["bad"] = act
    run = orchestrate(make("bad", limits=m.Limits(output_bytes=1000)), make("good"), make("low", ["bad"]))
    assert run.states() == {"bad": "failed", "good": "succeeded", "low": "skipped"}
    assert run.agent("bad").reason.startswith(reason)
    assert backend.cells[0].ended.done()


def test_a_cell_that_never_says_a_word_has_failed_to_start(orchestrate, make, backend):
    async def silent(cell):
        return 120

    backend.acts["a"] = silent
    run = orchestrate(make("a"))
    assert run.agent("a").reason.startswith("spawn: Agent failed to start")


def test_a_machine_without_room_is_tried_again(orchestrate, make, backend, crowded):
    backend.refusals = [crowded, crowded]
    run = orchestrate(make("a"))
    assert run.states() == {"a": "succeeded"}


# --- restarts ------------------------------------------------------------------------------------------------------------------------


def test_a_crashed_agent_starts_again_at_the_first_task_that_has_not_ended(orchestrate, make, backend, acts):
    async def half(cell):
        await cell.call("agent.hello", m.Hello(cell.pid, {}))
        await cell.attempt("t1")
        return 9

    seen = []

    async def second(cell):
        brief = await cell.call("agent.hello", m.Hello(cell.pid, {}))
        seen.extend(task.id for task in brief.tasks)
        await cell.attempt("t2")
        await cell.call("agent.finish", m.FinishAgent())

    backend.acts["a"] = [half, second]
    run = orchestrate(make("a", tasks=("t1", "t2"), restart="on-failure", restart_attempts=2, restart_delay_s=0.001))
    assert run.states() == {"a": "succeeded"}
    assert seen == ["t2"]
    assert kinds(run, "a").count("agent.backoff") == 1


def test_it_is_started_again_only_so_often(orchestrate, make, backend):
    backend.acts["a"] = [dies_early] * 3
    run = orchestrate(make("a", restart="on-failure", restart_attempts=2, restart_delay_s=0.001))
    assert run.states() == {"a": "failed"}
    assert len(backend.cells) == 3


async def dies_early(cell):
    await cell.call("agent.hello", m.Hello(cell.pid, {}))
    return 1


def test_a_task_that_was_cut_off_is_not_repeated_unless_it_may_be(orchestrate, make, backend):
    backend.acts["a"] = [dies]
    run = orchestrate(make("a", restart="on-failure", restart_attempts=2, restart_delay_s=0.001))
    assert len(backend.cells) == 1
    assert run.agent("a").tasks[0].reason.startswith("interrupted")


def test_after_a_failed_task_no_new_life_runs_what_would_have_been_skipped(orchestrate, make, backend):
    async def fails_and_dies(cell):
        await cell.call("agent.hello", m.Hello(cell.pid, {}))
        await cell.attempt("t1", ok=False)
        return 9

    backend.acts["a"] = [fails_and_dies]
    run = orchestrate(make("a", tasks=("t1", "t2"), restart="on-failure", restart_attempts=2, restart_delay_s=0.001))
    assert len(backend.cells) == 1
    assert run.states() == {"a": "failed"}


# --- gates and deliverables ----------------------------------------------------------------------------------------------------------


def test_gates_are_checked_in_cells_of_their_own_and_one_that_fails_fails_the_agent(orchestrate, make, backend, acts):
    gates = (Gate(1, "it works", m.Check("true")), Gate(2, "it is fast", m.Check("false")), Gate(3, "never asked", m.Check("true")))
    backend.acts["a"] = [acts["honest"], acts["honest"], acts["failing"]]
    run = orchestrate(make("a", gates=gates))
    assert run.agent("a").reason == "gate_failed: objective 2: exit 1"
    assert [kind for kind in kinds(run, "a") if kind.startswith("gate")] == ["gate.started", "gate.passed", "gate.started", "gate.failed"]
    assert len({cell.pid for cell in backend.cells}) == 3


def test_what_was_promised_and_exists_is_recorded(orchestrate, make, backend, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "report.md").write_text("x")
    (tmp_path / "work" / "folder").mkdir()
    run = orchestrate(make("a", promises=(Promise(1, ("report.md", "folder", "gone.md", "A fine report.")),)))
    assert run.states() == {"a": "succeeded"}
    assert kinds(run, "a").count("deliverable.recorded") == 1


def test_three_hundred_agents_in_a_chain_and_side_by_side(orchestrate, make, backend):
    agents = [make(f"chain{n}", [f"chain{n - 1}"] if n else []) for n in range(60)] + [make(f"wide{n}") for n in range(240)]
    run = orchestrate(*agents, max_agents=16)
    assert set(run.states().values()) == {"succeeded"}
    assert backend.names().index("chain59") > backend.names().index("chain58")


# --- how a run of stopped agents ends, and what they leave behind ----------------------------------------------------------------------------


def test_a_run_whose_only_agent_was_stopped_was_stopped(orchestrate, make, backend):
    backend.acts["a"] = hang

    async def beside(run):
        await run.until("a", "running")
        run.orchestrator.stop_agent("a", "user")

    run = orchestrate(make("a"), make("b", ["a"]), make("c"), beside=beside)
    assert run.states() == {"a": "stopped", "b": "skipped", "c": "succeeded"}
    assert (run.log.view.state, run.log.view.reason, run.log.view.exit_code) == (RunState.STOPPED, "agents_stopped: a", 1)


def test_a_failure_beside_a_stop_is_a_failure_and_blames_only_who_failed(orchestrate, make, backend, acts):
    backend.acts = {"a": hang, "bad": acts["failing"]}

    async def beside(run):
        await run.until("a", "running")
        await run.until("bad", "failed")
        run.orchestrator.stop_agent("a", "user")

    run = orchestrate(make("a"), make("bad"), beside=beside)
    assert (run.log.view.state, run.log.view.reason) == (RunState.FAILED, "agents_failed: bad")


async def writes_and_hangs(cell):
    cell.deaf = True
    brief = await cell.call("agent.hello", m.Hello(cell.pid, {}))
    await cell.call("attempt.start", m.StartAttempt(brief.tasks[0].id, 1))
    await cell.say("task.output", m.Output("t1", "stdout", b"out\n" * 30_000))
    await cell.say("task.output", m.Output("t1", "stderr", b"complaint\n"))
    await cell.say("agent.note", m.Note("written"))
    await asyncio.shield(cell.ended)


@pytest.mark.parametrize("end", ["stop", "limit"])
def test_who_is_cut_off_keeps_what_it_had_written(orchestrate, make, backend, end):
    backend.acts["a"] = writes_and_hangs

    async def beside(run):
        await run.when(lambda: run.agent("a").detail == "written")
        if end == "stop":
            run.orchestrator.stop_agent("a", "user", force=True)
        else:
            backend.cells[0].breached.set_result("limit.memory: resource limit exceeded: x")

    run = orchestrate(make("a"), beside=beside)
    task = run.agent("a").tasks[0]
    assert task.state == "stopped"
    assert task.output.endswith("out\nout\n")
    assert task.stderr == "complaint\n"
    assert (task.output_bytes, task.truncated) == (120_010, True)
    kept = run.log.folder.artifacts / task.artifact
    assert kept.read_bytes() == b"out\n" * 30_000 + b"complaint\n"


def test_over_the_limit_of_output_what_was_within_it_is_kept(orchestrate, make, backend):
    async def pours(cell):
        await cell.call("agent.hello", m.Hello(cell.pid, {}))
        await cell.call("attempt.start", m.StartAttempt("t1", 1))
        for _ in range(4):
            await cell.say("task.output", m.Output("t1", "stdout", b"x" * 50_000))
        await asyncio.shield(cell.ended)

    backend.acts["a"] = pours
    run = orchestrate(make("a", limits=m.Limits(output_bytes=120_000)))
    assert run.agent("a").reason == "limit.output: more than 120000 bytes written"
    task = run.agent("a").tasks[0]
    assert (run.log.folder.artifacts / task.artifact).read_bytes() == b"x" * 100_000


def test_a_task_that_is_stopped_when_asked_keeps_its_output_too(orchestrate, make, backend):
    async def obeys(cell):
        await cell.call("agent.hello", m.Hello(cell.pid, {}))
        await cell.call("attempt.start", m.StartAttempt("t1", 1))
        await cell.say("task.output", m.Output("t1", "stdout", b"so far\n"))
        await cell.say("agent.note", m.Note("written"))
        await cell.told("agent.stop")
        await cell.call("attempt.finish", m.FinishAttempt("t1", 1, False, "stopped: user"))
        await cell.call("agent.finish", m.FinishAgent())

    backend.acts["a"] = obeys

    async def beside(run):
        await run.when(lambda: run.agent("a").detail == "written")
        run.orchestrator.stop_agent("a", "user")

    run = orchestrate(make("a"), beside=beside)
    assert (run.agent("a").tasks[0].state, run.agent("a").tasks[0].output) == ("stopped", "so far\n")


def test_what_the_last_look_finds_ends_an_agent_that_thought_it_was_done(orchestrate, make, backend, acts):
    async def too_much(cell):
        cell.last_words = "limit.disk: resource limit exceeded: disk usage 2 GB > limit 1 GB; held by polling"
        await acts["honest"](cell)

    backend.acts["a"] = too_much
    run = orchestrate(make("a"), make("b", ["a"]))
    assert run.states() == {"a": "failed", "b": "skipped"}
    assert run.agent("a").reason.startswith("limit.disk: ")
    assert run.agent("a").tasks[0].state == "succeeded"


@pytest.mark.parametrize(("deafness", "grace_s", "rung"), [(False, 60.0, "asked"), (True, 0.01, "kill")])
def test_a_stop_during_a_gate_says_what_it_took(orchestrate, make, backend, acts, deafness, grace_s, rung):
    async def gate(cell):
        cell.deaf = deafness
        await cell.call("agent.hello", m.Hello(cell.pid, {}))
        await cell.call("attempt.start", m.StartAttempt("gate1", 1))
        checking.set()
        if deafness:
            await asyncio.shield(cell.ended)
        await cell.told("agent.stop")
        await cell.call("attempt.finish", m.FinishAttempt("gate1", 1, False, "stopped: user"))
        await cell.call("agent.finish", m.FinishAgent())

    backend.acts["a"] = [acts["honest"], gate]
    checking = asyncio.Event()

    async def beside(run):
        await run.when(lambda: any(gate.state == "running" for gate in run.agent("a").gates))
        await checking.wait()
        run.orchestrator.stop_agent("a", "user", grace_s=grace_s)

    run = orchestrate(make("a", gates=(Gate(1, "it works", m.Check("true")),)), beside=beside)
    assert (run.agent("a").state, run.agent("a").reason, run.agent("a").rung) == ("stopped", "stopped: user", rung)
