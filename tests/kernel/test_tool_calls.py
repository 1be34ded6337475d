"""Tools of the kernel behind a real session and a real log: what is recorded before, what is answered after, and what ends them."""

from __future__ import annotations

import asyncio
import os

import msgspec
import pytest

from tests.kernel.servers import until
from toka_cli.kernel import session as session_module
from toka_cli.kernel.egress import Egress
from toka_cli.kernel.threats import ThreatWatch
from toka_cli.kernel.tool_calls import MAX_AT_ONCE, CallLimits, KernelTools, call_key
from toka_cli.protocol import messages as m
from toka_cli.tools.catalog import CATALOG, ToolCatalog
from toka_cli.tools.tool import Arguments, Tool, ToolFailed


class Text(Arguments, frozen=True):
    text: str = ""


def tool(run, name="deed", **more):
    fields = {"result": dict, "power": None, "effect": "effect", "where": "kernel", "read_only": False, **more}
    return Tool(name=name, description="A deed.", arguments=Text, run=run, **fields)


class Case:
    """A session in a loop, with tools of the test's own beside the usual ones."""

    def __init__(self, cell, tools):
        self.cell, self.session, self.tools = cell, cell.session, tools
        self.answers = {}

    def call(self, name, call_id="c1", task="a", **args):
        self.session.serve("tool.call", m.CallTool(task, call_id, name, args), lambda answer: self.answers.__setitem__(call_id, answer))

    async def answer(self, name, call_id="c1", task="a", **args):
        self.call(name, call_id, task, **args)
        await until(lambda: call_id in self.answers)
        return self.answers[call_id]

    def done(self, call_id="c1", **more):
        self.session.serve("tool.done", m.FinishTool(call_id, **{"ok": True, **more}), lambda _: None)


@pytest.fixture
def case(talk, tmp_path, monkeypatch):
    """`case(main, tools, **agent)`: run `main(Case)` in a loop with task `a` under way."""

    def run(main, *tools, tasks=(), with_tools=True, **agent):
        catalog = ToolCatalog({**CATALOG, **{tool.name: tool for tool in tools}})
        monkeypatch.setattr(session_module, "CATALOG", catalog)
        cell = talk(*tasks, **agent)

        async def whole():
            kernel = KernelTools(Egress(on_decision=lambda *_: None), tmp_path / "state", str(tmp_path), {"PATH": os.environ["PATH"]})
            mine = kernel.agent(cell.session.agent_id, "one", tmp_path)
            cell.session.kernel_tools = mine if with_tools else None
            cell.hello()
            cell.start("a")
            try:
                return await main(Case(cell, mine))
            finally:
                await kernel.close()
                cell.log.flush()

        return asyncio.run(whole())

    return run


def test_the_order_is_decision_started_effect_done(case, log):
    seen = []

    async def deed(arguments, context):
        rows = log._connection.execute("SELECT kind FROM events UNION ALL SELECT decision || ' ' || action FROM audit").fetchall()
        seen.extend(kind for (kind,) in rows)
        return {"did": arguments.text}

    async def main(case):
        assert await case.answer("deed", text="it") == m.ToolReply(go=True, result={"did": "it"})
        case.done()

    case(main, tool(deed))
    # When the effect took place, the decision and the start were in the file.
    assert seen[-1] == "allowed tool.call"
    assert "tool.called" in seen
    assert "tool.done" not in seen
    kinds = [kind for (kind,) in log._connection.execute("SELECT kind FROM events ORDER BY seq")]
    assert kinds[-2:] == ["tool.called", "tool.done"]


def test_a_failure_is_answered_with_what_to_do(case, talk):
    async def deed(arguments, context):
        raise ToolFailed("it cannot be done", hint="do something else")

    async def main(case):
        assert await case.answer("deed") == m.ToolReply(go=True, error="it cannot be done", hint="do something else")
        case.done(ok=False, error="it cannot be done")
        # Wrong arguments are such a failure too.
        assert "has no argument nonsense" in (await case.answer("memory_search", "c2", nonsense=1)).error
        case.done("c2")
        case.cell.finish("a", ok=False, reason="tool: it cannot be done")

    case(main, tool(deed))


def test_notes_and_git_come_through_a_session(case):
    async def main(case):
        assert (await case.answer("memory_store", text="hello", key="k")).result == {"key": "k", "replaced": False, "notes": 1}
        assert (await case.answer("cortex_search", "c2", query="hello")).result["hits"][0]["key"] == "k"
        assert "no git repository" in (await case.answer("git_status", "c3")).error
        assert "only http" in (await case.answer("http_fetch", "c4", url="ftp://example.org")).error
        refused = await case.answer("http_fetch", "c5", url="http://example.org")
        assert refused.error.startswith("Capability not authorized: network-access required for example.org:80")
        assert "network-access:" in refused.hint

    case(main, grants=("git-access", "network-access"))


def test_without_the_grant_nothing_begins(case):
    async def deed(arguments, context):
        raise AssertionError("it began")

    async def main(case):
        answer = await case.answer("deed")
        assert answer.reason.startswith("capability_denied: git-access")
        assert not case.tools.running("c1")

    case(main, tool(deed, power="git-access"))


def test_refusals_of_a_session_are_signs_too(case):
    async def main(case):
        told = []
        case.tools.way.threats = ThreatWatch("a", lambda *what: told.append(what), lambda: 0.0, burst=3)
        for number in range(3):
            assert not (await case.answer("git_status", f"c{number}")).go
        assert [kind for kind, _ in told] == ["denials"]
        assert "git-access required for tool git_status" in told[0][1]

    case(main)


def test_a_kernel_without_tools_says_so(case):
    async def main(case):
        answer = await case.answer("memory_retrieve")
        assert answer.reason.startswith("not_started: memory_retrieve runs in the kernel")
        assert case.cell.kinds()[-1] != "tool.called"

    case(main, with_tools=False)


@pytest.mark.parametrize("how", ["abandon", "stop", "attempt ends", "close"])
def test_what_ends_a_call(case, how):
    began, ended = [], []

    async def deed(arguments, context):
        began.append(1)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(1)
            raise

    async def main(case):
        case.call("deed")
        await until(lambda: began)
        assert case.tools.running("c1")
        if how == "abandon":
            case.session.abandon()
        elif how == "stop":
            case.session.stop("user", resumable=False, wait_s=1.0)
        elif how == "attempt ends":
            case.session.serve("attempt.finish", m.FinishAttempt("a", 1, ok=False, reason="x"), lambda _: None)
        else:
            await case.tools.close()
        await until(lambda: ended)
        await until(lambda: not case.tools.running("c1"))
        assert case.answers == {}

    case(main, tool(deed))


def test_only_the_calls_of_the_attempt_that_ended_end_with_it(case):
    release = asyncio.Event()

    async def deed(arguments, context):
        await release.wait()
        return {"did": arguments.text}

    async def main(case):
        case.cell.start("b")
        case.call("deed", "of a", text="a")
        case.call("deed", "of b", task="b", text="b")
        await until(lambda: case.tools.running("of b"))
        case.session.serve("attempt.finish", m.FinishAttempt("a", 1, ok=False, reason="x"), lambda _: None)
        await until(lambda: not case.tools.running("of a"))
        release.set()
        await until(lambda: "of b" in case.answers)
        assert list(case.answers) == ["of b"]

    case(main, tool(deed))


def test_a_task_has_its_time(case, make_task):
    async def deed(arguments, context):
        await asyncio.Event().wait()

    async def main(case):
        assert (await case.answer("deed")).error == "deed did not end within 0.2 s"

    case(main, tool(deed), tasks=(make_task("a", timeout_s=0.2),))


def test_so_many_run_beside_each_other(case):
    running, most = [0], [0]
    release = asyncio.Event()

    async def deed(arguments, context):
        running[0] += 1
        most[0] = max(most[0], running[0])
        await release.wait()
        running[0] -= 1
        return {}

    async def main(case):
        for number in range(MAX_AT_ONCE * 3):
            case.call("deed", f"c{number}")
        await until(lambda: running[0] == MAX_AT_ONCE)
        release.set()
        await until(lambda: len(case.answers) == MAX_AT_ONCE * 3)

    case(main, tool(deed))
    assert most[0] == MAX_AT_ONCE


def test_an_answer_fits_into_a_frame(case):
    async def deed(arguments, context):
        return {"long": "x" * 600_000}

    async def main(case):
        assert "gave more than" in (await case.answer("deed")).error or "far above the limit" in case.answers["c1"].error

    case(main, tool(deed))


def test_a_bug_is_told_at_once(case):
    async def deed(arguments, context):
        raise RuntimeError("a bug of ours")

    async def main(case):
        told = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        case.call("deed")
        await until(lambda: told)
        assert isinstance(told[0]["exception"], RuntimeError)

    case(main, tool(deed))


def test_calls_per_minute_and_per_task(case, make_task):
    async def deed(arguments, context):
        return {}

    async def main(case):
        replies = [await case.answer("often", f"o{number}") for number in range(3)]
        assert [reply.go for reply in replies] == [True, True, False]
        assert replies[2].reason.startswith("limit.tool_rate: often may be called 2 times a minute; it can be called again in ")
        replies = [await case.answer("once", f"n{number}") for number in range(2)]
        assert [reply.go for reply in replies] == [True, False]
        assert replies[1].reason == "limit.tool_calls: once may be called 1 times in a task"
        # What was refused is not counted against the agent's own limit.
        assert (await case.answer("deed", "d")).go
        assert not (await case.answer("deed", "e")).go
        denied = case.cell.log._connection.execute("SELECT context FROM audit WHERE decision = 'denied'").fetchall()
        assert [msgspec.json.decode(row[0])["tool"] for row in denied] == ["often", "once", "deed"]

    tools = (tool(deed, "often", calls_per_minute=2), tool(deed, "once", calls_per_task=1), tool(deed))
    case(main, *tools, limits=m.Limits(max_tool_calls=4))


def test_limits_are_those_of_one_agent_and_pass_with_time():
    now = [0.0]
    limits = CallLimits(lambda: now[0])

    async def run(arguments, context):
        return {}

    of_cell = tool(run, "x", where="cell", calls_per_minute=2, calls_per_task=3)
    assert limits.refusal(of_cell, "a", 1, None) is None
    now[0] = 30.0
    assert limits.refusal(of_cell, "a", 1, None) is None
    refusal = limits.refusal(of_cell, "a", 1, None)
    assert refusal is not None
    assert refusal.endswith("again in 30 s")
    now[0] = 60.0
    assert limits.refusal(of_cell, "a", 1, None) is None
    now[0] = 600.0
    assert "3 times in a task" in (limits.refusal(of_cell, "a", 1, None) or "")
    # Another attempt, or another task, counts anew; a second name of a tool does not.
    assert limits.refusal(of_cell, "a", 2, None) is None
    also = tool(run, "y", where="cell", calls_per_minute=2, alias_of="x")
    assert limits.refusal(also, "b", 1, None) is None
    assert "y may be called 2 times a minute" in (limits.refusal(also, "b", 1, None) or "")


def test_a_call_has_one_name():
    assert call_key("r-1", "t.1", {"a": 1, "b": [2]}) == call_key("r-1", "t.1", {"b": [2], "a": 1})
    names = {call_key(*parts) for parts in (("r-1", "t.1", {}), ("r-2", "t.1", {}), ("r-1", "t.2", {}), ("r-1", "t.1", {"a": 1}))}
    assert len(names) == 4
    assert all("\n" not in name and "," not in name for name in names)
