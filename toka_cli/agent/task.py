"""One attempt at one task: what its kind means, its deadline, and the check that proves it. In: a TaskBrief. Out: ok or not, a reason, an Outcome.

Whether the attempt may begin, whether it counts and whether there is another one is the kernel's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from toka_cli.agent.client import Client
from toka_cli.agent.command import CommandRunner
from toka_cli.agent.deadline import Deadline
from toka_cli.agent.dialogue import Dialogue, Pace
from toka_cli.agent.loop import Loop
from toka_cli.agent.tool_runs import ToolRuns, timeout_reason, tool_verdict
from toka_cli.events import Outcome
from toka_cli.protocol import messages as m
from toka_cli.protocol import talk as t
from toka_cli.tools.catalog import ToolCatalog
from toka_cli.tools.custom import FINAL_EXIT, source_of

TOOL_RESULT_BYTES: Final = 64 * 1024


@dataclass(slots=True)
class TaskExecutor:
    """Executes attempts for one agent. `scratch` is the agent's private folder for the source of code tasks; `pace` is set by whoever leads the tasks."""

    brief: m.AgentBrief
    client: Client
    runner: CommandRunner
    scratch: Path
    pace: Pace | None = None
    calls: int = 0
    runs: ToolRuns = field(init=False)
    _talking: dict[str, Dialogue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.runs = ToolRuns(self.brief, self.client, self.runner, self.scratch, ToolCatalog())

    async def attempt(self, task: m.TaskBrief) -> tuple[bool, str | None, Outcome]:
        """Run the task once, and its `verify` after it; (ok, reason, outcome)."""
        match task.kind:
            case "tool":
                ok, reason, outcome = await self._tool(task)
            case "prompt":
                ok, reason, outcome = await self._prompt(task)
            case _:
                ok, reason, outcome = await self._command(task)
        if ok and task.verify is not None:
            return await self._verify(task, task.verify, outcome)
        return ok, reason, outcome

    def talk_waits(self, message: t.TalkWait) -> None:
        """The kernel says that a turn waits for its model to be free, or no longer does."""
        dialogue = self._talking.get(message.task)
        if dialogue is not None:
            dialogue.waits(waiting=message.waiting)

    async def _prompt(self, task: m.TaskBrief) -> tuple[bool, str | None, Outcome]:
        assert self.pace is not None
        deadline = Deadline(self.runner.scheduler, self._deadline(task))
        prompt = self.brief.prompt or m.PromptContext()
        self._talking[task.id] = dialogue = Dialogue(task, prompt, self.client, self.runner.scheduler, self.pace, deadline)
        try:
            return await Loop(task, self.brief, self.runs, dialogue).run()
        finally:
            del self._talking[task.id]

    async def _command(self, task: m.TaskBrief) -> tuple[bool, str | None, Outcome]:
        runs = self.runs
        argv = runs.argv(task.run) if task.run is not None else runs.code_argv(task.id, *_source(task))
        limit = self._deadline(task)
        finished = await self.runner.run(
            argv, timeout_s=limit, timeout_reason=timeout_reason(task.id, limit), on_output=self._streamer(task.id), walls=task.walls
        )
        reason = finished.reason
        if task.custom is not None and finished.outcome.exit_code == FINAL_EXIT:
            reason = f"not_retryable: {reason}"
        return reason is None, reason, self._with_value(task, finished.outcome)

    async def _verify(self, task: m.TaskBrief, check: m.Check, outcome: Outcome) -> tuple[bool, str | None, Outcome]:
        limit = check.timeout_s if check.timeout_s is not None else self._deadline(task)
        finished = await self.runner.run(
            self.runs.argv(check.run),
            timeout_s=limit,
            timeout_reason=timeout_reason(f"{task.id} (verify)", limit),
            on_output=self._streamer(task.id),
            walls=task.walls,
        )
        evidence = {"verify": command_text(check.run), "exit_code": finished.outcome.exit_code, "output": finished.outcome.output[-4096:]}
        said = outcome.evidence if isinstance(outcome.evidence, dict) else {}
        outcome = msgspec.structs.replace(outcome, evidence={**said, **evidence})
        return finished.reason is None, None if finished.reason is None else f"verify: {finished.reason}", outcome

    async def _tool(self, task: m.TaskBrief) -> tuple[bool, str | None, Outcome]:
        self.calls += 1
        clock = self.runner.scheduler.clock
        started = clock()
        deadline = Deadline(self.runner.scheduler, self._deadline(task))
        end = await self.runs.call(task, f"{task.id}.{self.calls}", task.tool or "", task.args, deadline)
        if end.refused is not None:
            return False, end.refused, Outcome(stderr=end.refused)
        if end.error is not None:
            return False, f"tool: {end.text}", Outcome(stderr=end.text, duration_s=clock() - started)
        value = end.value
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        ok, reason = tool_verdict(value)
        # What the tool answered is the output of the task, in the log and as an artifact like that of a command.
        self._streamer(task.id)("stdout", text.encode())
        return ok, reason, Outcome(
            exit_code=value.get("exit_code") if isinstance(value, dict) else None,
            output=text[:TOOL_RESULT_BYTES],
            output_bytes=len(text.encode()),
            truncated=len(text) > TOOL_RESULT_BYTES,
            duration_s=round(clock() - started, 6),
            value=value if len(text) <= TOOL_RESULT_BYTES else None,
        )

    def _deadline(self, task: m.TaskBrief) -> float | None:
        return task.timeout_s if task.timeout_s is not None else self.brief.task_timeout_s

    def _streamer(self, task_id: str) -> Callable[[str, bytes], None]:
        def send(stream: str, data: bytes) -> None:
            self.client.notify("task.output", m.Output(task_id, stream, data))

        return send

    def _with_value(self, task: m.TaskBrief, outcome: Outcome) -> Outcome:
        """With an output schema, stdout has to be JSON, and that of a custom task always is; the kernel checks it against the schema."""
        if (task.output_schema is None and task.custom is None) or outcome.exit_code != 0:
            return outcome
        try:
            return msgspec.structs.replace(outcome, value=msgspec.json.decode(outcome.output.encode()))
        except msgspec.MsgspecError:
            return outcome


def _source(task: m.TaskBrief) -> tuple[str, str]:
    """Language and source of a task that is code, or becomes some."""
    if task.custom is not None:
        return "python", source_of(task.custom, task.id, task.args)
    return task.language or "", task.source or ""


def command_text(run: tuple[str, ...] | str) -> str:
    """A command as a person would write it."""
    return run if isinstance(run, str) else " ".join(run)
