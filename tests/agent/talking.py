"""A kernel for the talks of one cell: it keeps them as the real one does, and its model says what a script says."""

from __future__ import annotations

import json
import sys
from itertools import count

from tests.agent.conftest import ENVIRONMENT, ScriptedKernel
from toka_cli.agent.client import Client
from toka_cli.agent.command import CommandRunner
from toka_cli.agent.executor import AgentExecutor
from toka_cli.agent.strands import Scheduler
from toka_cli.agent.task import TaskExecutor
from toka_cli.kernel.conversation import Conversation, normalised
from toka_cli.protocol import messages as m
from toka_cli.protocol import talk as t
from toka_cli.state.journal import Sent

READING = ("read_file", "list_dir", "grep", "glob")
ALL = (*READING, "write_file", "edit_file", "run_command", "run_code", "report_progress")


def call(tool, _text=None, **arguments):
    """A call as a model writes it; `_text` in place of its arguments."""
    return {"type": "function", "function": {"name": tool, "arguments": json.dumps(arguments) if _text is None else _text}}


def says(*calls, text=None, **more):
    """A reply with these calls."""
    numbers = count(1)
    listed = [{"id": f"c{next(numbers)}", **one} for one in calls]
    return t.Turn({"role": "assistant", "content": text, **({"tool_calls": listed} if listed else {})}, **{"finish_reason": "stop", **more})


def finish(status="success", summary="done", **more):
    return says(call("finish", status=status, summary=summary, **more))


class TalkingKernel:
    """Answers what a ScriptedKernel is asked. `script` are Turns in order, or functions of the request's messages that give one."""

    def __init__(self, kernel, script, *, grants=ALL, attempt=1, max_calls=None, failed=None, conversation=None, **opened):
        self.kernel, self.script = kernel, list(script)
        self.conversation = conversation or Conversation("p", attempt, attempt, failed)
        self.grants, self.max_calls, self.opened = set(grants), max_calls, opened
        self.turns, self.requests, self.tool_calls, self.done = [], [], [], []
        kernel.answers = self.answer

    def answer(self, method, params):
        match params:
            case t.OpenTalk():
                return self.open(params)
            case t.TakeTurn():
                return self.turn(params)
            case m.CallTool():
                return self.call(params)
            case m.FinishTool():
                self.done.append(params)
                self.conversation.result(self.conversation.planned(params.call_id).index, params.result)
        return None

    def open(self, params):
        it = self.conversation
        return t.Talk(
            attempt=it.attempt,
            turn=it.turn,
            total=len(it.messages),
            messages=it.page(params.after, 3000),
            shortened=tuple(sorted(it.shortened)),
            dropped=it.dropped,
            open_calls=tuple(t.OpenCall(call.index, call.index in it.doubtful) for call in it.open_calls()),
            results=dict(it.results),
            failed=it.failed,
            **self.opened,
        )

    def turn(self, params):
        self.turns.append(params)
        assert params.turn == self.conversation.turn + 1
        self.conversation.send(Sent(params.answers, params.messages, params.shorten, max(params.drop, self.conversation.dropped)))
        self.requests.append(self.conversation.request())
        said = self.script.pop(0)
        said = said(self.requests[-1]) if callable(said) else said
        if said is not None and said.error is None:
            self.conversation.reply(normalised(said.message))
        return said

    def call(self, params):
        assert self.conversation.planned(params.call_id) is not None
        if params.tool not in self.grants:
            return m.ToolReply(go=False, reason=f"capability_denied: x: Capability not authorized: x required for tool {params.tool}", hint="add it:\n- x")
        if self.max_calls is not None and len(self.tool_calls) >= self.max_calls:
            return m.ToolReply(go=False, reason=f"limit.tool_calls: more than {self.max_calls} tool calls")
        self.tool_calls.append(params)
        return m.ToolReply(go=True)

    def results(self):
        """All results that the model was shown, in order."""
        return [message["content"] for message in self.requests[-1] if message["role"] == "tool"]

    def told(self):
        """All that toka itself said after the first message."""
        return [message["content"] for message in self.requests[-1][2:] if message["role"] == "user"]


class Life:
    """One life of a cell with one prompt task: its scheduler, its door, its executor, and the kernel behind the door."""

    def __init__(self, folder, *, task=None, tools=ALL, limits=None, prompt=None):
        self.scheduler = Scheduler()
        self.kernel = ScriptedKernel(self.scheduler)
        work, scratch = folder / "work", folder / "scratch"
        work.mkdir(exist_ok=True)
        scratch.mkdir(exist_ok=True)
        fields = {"title": "Tester", "domain": "testing", "tools": tuple(tools), "model": "m", "temperature": 0.7, **(prompt or {})}
        one = m.TaskBrief(**{"id": "p", "description": "Do it.", "kind": "prompt", **(task or {})})
        limits = m.Limits(**(limits or {}))
        brief = m.AgentBrief(
            "r-1", "one", str(work), (one,), limits=limits, task_timeout_s=limits.task_timeout_s, python=sys.executable, prompt=m.PromptContext(**fields)
        )
        client = Client(self.kernel.theirs, self.scheduler, self.obey)
        tasks = TaskExecutor(brief, client, CommandRunner(self.scheduler, ENVIRONMENT, str(work), 1 << 20), scratch)
        self.executor = AgentExecutor(brief, client, self.scheduler, tasks)

    def obey(self, message):
        match message:
            case m.StopAgent():
                self.executor.stop(message.reason)
            case m.PauseAgent():
                self.executor.pause()
            case m.ResumeAgent():
                self.executor.resume()
            case t.TalkWait():
                self.executor.tasks.talk_waits(message)

    def run(self):
        """To the end; how the attempt ended, as the cell says it."""
        try:
            self.scheduler.run(self.executor.run())
        finally:
            self.kernel.close()
        (end,) = self.kernel.said(m.FinishAttempt)
        return end
