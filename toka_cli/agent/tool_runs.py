"""Runs tool calls of tasks: asks the kernel, does the work where it is the cell's, and says how it ended. For tool tasks and for conversations alike.

In: a tool's name and arguments. Out: a ToolEnd. Whether a call may be made is the kernel's to say; what its result means is for whoever asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from toka_cli.agent.client import Client
from toka_cli.agent.command import CommandRunner, Finished
from toka_cli.agent.deadline import Deadline
from toka_cli.protocol import messages as m
from toka_cli.tools.catalog import ToolCatalog
from toka_cli.tools.tool import OUTPUT_LIMIT, CommandResult, ToolContext, ToolFailed
from toka_cli.units import format_duration

# File names by language; node reads a .js file without a package.json beside it as CommonJS, or as a module where it must be one.
SUFFIXES: Final = {"python": ".py", "javascript": ".js", "shell": ".sh"}
MAX_ERROR_CHARS: Final = 4096


@dataclass(frozen=True, slots=True)
class ToolEnd:
    """How a call ended: `value` is the answer of the tool, unless the kernel `refused` it or the tool could not do it (`error`); then there may be a hint."""

    value: Any = None
    refused: str | None = None
    error: str | None = None
    hint: str | None = None

    @property
    def text(self) -> str:
        """What went wrong, in a line for people."""
        words = self.refused or self.error or ""
        return f"{words} ({self.hint})" if self.error and self.hint else words


@dataclass(slots=True)
class ToolRuns:
    """Runs the calls of one agent. `scratch` is its private folder, for the source of code."""

    brief: m.AgentBrief
    client: Client
    runner: CommandRunner
    scratch: Path
    catalog: ToolCatalog

    async def call(
        self,
        task: m.TaskBrief,
        call_id: str,
        name: str,
        args: dict[str, Any],
        deadline: Deadline,
        *,
        told: Callable[[ToolEnd], str] | None = None,
        output_limit: int = OUTPUT_LIMIT,
    ) -> ToolEnd:
        """Make one call, to its end. `told` gives what a model is told of it: that is kept with the call. Raises what `Client.call` raises."""
        answer = await self.client.call("tool.call", m.CallTool(task.id, call_id, name, args), m.ToolReply)
        if not answer.go:
            return ToolEnd(refused=answer.reason or "refused", hint=answer.hint)
        if answer.error is not None:
            end = ToolEnd(error=answer.error, hint=answer.hint)
        elif answer.result is not None:
            end = ToolEnd(answer.result)
        else:
            try:
                end = ToolEnd(await self._in_cell(task, call_id, name, args, deadline, output_limit))
            except ToolFailed as error:
                end = ToolEnd(error=str(error), hint=error.hint)
        await self.done(call_id, end, told)
        return end

    async def done(self, call_id: str, end: ToolEnd, told: Callable[[ToolEnd], str] | None) -> None:
        """Say how a call ended."""
        result = told(end) if told is not None else None
        error = end.text[:MAX_ERROR_CHARS] if end.error is not None else None
        await self.client.call("tool.done", m.FinishTool(call_id, ok=end.error is None, error=error, result=result), m.Ack)

    def took_effect(self, task: m.TaskBrief, call_id: str, name: str, args: dict[str, Any], deadline: Deadline) -> bool:
        """Whether a call that was cut off has taken effect, as far as the tool can see. Of the kernel's own tools the kernel knows it."""
        tool = self.catalog.find(name)
        if tool.verify is None or tool.where != "cell":
            return False
        try:
            return tool.verify(tool.decode(args), self._context(task, call_id, deadline, OUTPUT_LIMIT))
        except ToolFailed:
            return False

    async def _in_cell(self, task: m.TaskBrief, call_id: str, name: str, args: dict[str, Any], deadline: Deadline, output_limit: int) -> Any:
        return await self.catalog.find(name).call(args, self._context(task, call_id, deadline, output_limit))

    def _context(self, task: m.TaskBrief, call_id: str, deadline: Deadline, output_limit: int) -> ToolContext:
        async def command(
            command: tuple[str, ...] | str, *, timeout_s: float | None = None, language: str | None = None
        ) -> CommandResult:
            if language is not None:
                assert isinstance(command, str)
                argv = self.code_argv(call_id, language, command)
            else:
                argv = self.argv(command)
            left = deadline.left()
            bound = timeout_s if left is None else left if timeout_s is None else min(timeout_s, left)
            own = timeout_s is not None and bound == timeout_s
            reason = f"limit.timeout: ended after {format_duration(timeout_s or 0.0)}" if own else timeout_reason(task.id, deadline.limit_s)
            return command_result(await self.runner.run(argv, timeout_s=bound, timeout_reason=reason, walls=task.walls))

        async def report(message: m.Note | m.Measure) -> None:
            self.client.notify("agent.measure" if isinstance(message, m.Measure) else "agent.note", message)

        return ToolContext(workdir=Path(self.brief.workdir), command=command, report=report, output_limit=output_limit)

    def argv(self, run: tuple[str, ...] | str | None) -> list[str]:
        """A command as argv; text goes to `sh -c`."""
        return ["/bin/sh", "-c", run] if isinstance(run, str) else list(run or ())

    def code_argv(self, name: str, language: str, source: str) -> list[str]:
        """Write the source into the scratch folder; the interpreter and the file."""
        path = self.scratch / f"task-{name}{SUFFIXES[language]}"
        path.write_text(source, encoding="utf-8")
        interpreter = {"python": self.brief.python, "javascript": "node", "shell": "/bin/sh"}[language]
        return [interpreter, str(path)]


def timeout_reason(task_id: str, limit_s: float | None) -> str:
    """The reason of an attempt that passed its deadline, a stable word first."""
    return f"limit.task_timeout: Task execution timeout: {task_id} exceeded {format_duration(limit_s or 0.0)}"


def command_result(finished: Finished) -> CommandResult:
    """An outcome as the tools' result type."""
    outcome = finished.outcome
    return CommandResult(
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        stdout=outcome.output,
        stderr=outcome.stderr,
        duration_s=outcome.duration_s or 0.0,
        truncated=outcome.truncated,
        reason=finished.reason,
    )


def tool_verdict(value: Any) -> tuple[bool, str | None]:
    """A tool that ran a command succeeded if the command did; every other result is a success."""
    if not isinstance(value, dict) or "exit_code" not in value:
        return True, None
    if value["exit_code"] == 0:
        return True, None
    if value["exit_code"] is None:
        return False, str(value.get("reason") or f"signal {value.get('signal')}")
    return False, f"exit {value['exit_code']}"
