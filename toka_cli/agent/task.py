"""One attempt at one task: what its kind means, its deadline, and the check that proves it. In: a TaskBrief. Out: ok or not, a reason, an Outcome.

Whether the attempt may begin, whether it counts and whether there is another one is the kernel's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from toka_cli.agent.client import Client
from toka_cli.agent.command import CommandRunner, Finished
from toka_cli.events import Outcome
from toka_cli.protocol import messages as m
from toka_cli.tools.catalog import ToolCatalog
from toka_cli.tools.tool import CommandResult, ToolContext, ToolFailed
from toka_cli.units import format_duration

# File names by language; node reads a .js file without a package.json beside it as CommonJS, or as a module where it must be one.
SUFFIXES: Final = {"python": ".py", "javascript": ".js", "shell": ".sh"}
TOOL_RESULT_BYTES: Final = 64 * 1024


@dataclass(slots=True)
class TaskExecutor:
    """Executes attempts for one agent. `scratch` is the agent's private folder for the source of code tasks."""

    brief: m.AgentBrief
    client: Client
    runner: CommandRunner
    scratch: Path
    calls: int = 0

    async def attempt(self, task: m.TaskBrief) -> tuple[bool, str | None, Outcome]:
        """Run the task once, and its `verify` after it; (ok, reason, outcome)."""
        ok, reason, outcome = await (self._tool(task) if task.kind == "tool" else self._command(task))
        if ok and task.verify is not None:
            return await self._verify(task, task.verify, outcome)
        return ok, reason, outcome

    async def _command(self, task: m.TaskBrief) -> tuple[bool, str | None, Outcome]:
        argv = self.argv(task.run) if task.run is not None else self.code_argv(task.id, task.language or "", task.source or "")
        limit = self._deadline(task)
        finished = await self.runner.run(
            argv, timeout_s=limit, timeout_reason=timeout_reason(task.id, limit), on_output=self._streamer(task.id)
        )
        return finished.reason is None, finished.reason, self._with_value(task, finished.outcome)

    async def _verify(self, task: m.TaskBrief, check: m.Check, outcome: Outcome) -> tuple[bool, str | None, Outcome]:
        limit = check.timeout_s if check.timeout_s is not None else self._deadline(task)
        finished = await self.runner.run(
            self.argv(check.run), timeout_s=limit, timeout_reason=timeout_reason(f"{task.id} (verify)", limit), on_output=self._streamer(task.id)
        )
        evidence = {"verify": command_text(check.run), "exit_code": finished.outcome.exit_code, "output": finished.outcome.output[-4096:]}
        outcome = msgspec.structs.replace(outcome, evidence=evidence)
        return finished.reason is None, None if finished.reason is None else f"verify: {finished.reason}", outcome

    async def _tool(self, task: m.TaskBrief) -> tuple[bool, str | None, Outcome]:
        self.calls += 1
        call_id = f"{task.id}.{self.calls}"
        name = task.tool or ""
        clock = self.runner.scheduler.clock
        started = clock()
        answer = await self.client.call("tool.call", m.CallTool(task.id, call_id, name, task.args), m.ToolReply)
        if not answer.go:
            return False, answer.reason, Outcome(stderr=answer.reason or "")
        try:
            value = answer.result if answer.result is not None else await self._run_tool(task, name)
        except ToolFailed as error:
            text = str(error) + (f" ({error.hint})" if error.hint else "")
            await self.client.call("tool.done", m.FinishTool(call_id, ok=False, error=text[:4096]), m.Ack)
            return False, f"tool: {text}", Outcome(stderr=text, duration_s=clock() - started)
        await self.client.call("tool.done", m.FinishTool(call_id, ok=True), m.Ack)
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

    async def _run_tool(self, task: m.TaskBrief, name: str) -> Any:
        tool = ToolCatalog().find(name)
        limit = self._deadline(task)

        async def command(
            command: tuple[str, ...] | str, *, timeout_s: float | None = None, language: str | None = None
        ) -> CommandResult:
            if language is not None:
                assert isinstance(command, str)
                argv = self.code_argv(f"{task.id}.{self.calls}", language, command)
            else:
                argv = self.argv(command)
            seconds = min(value for value in (timeout_s, limit, float("inf")) if value is not None)
            bound = None if seconds == float("inf") else seconds
            return command_result(await self.runner.run(argv, timeout_s=bound, timeout_reason=timeout_reason(task.id, bound)))

        async def report(message: m.Note | m.Measure) -> None:
            self.client.notify("agent.measure" if isinstance(message, m.Measure) else "agent.note", message)

        return await tool.call(task.args, ToolContext(workdir=Path(self.brief.workdir), command=command, report=report))

    def argv(self, run: tuple[str, ...] | str | None) -> list[str]:
        """A command as argv; text goes to `sh -c`."""
        return ["/bin/sh", "-c", run] if isinstance(run, str) else list(run or ())

    def code_argv(self, name: str, language: str, source: str) -> list[str]:
        """Write the source into the scratch folder; the interpreter and the file."""
        path = self.scratch / f"task-{name}{SUFFIXES[language]}"
        path.write_text(source, encoding="utf-8")
        interpreter = {"python": self.brief.python, "javascript": "node", "shell": "/bin/sh"}[language]
        return [interpreter, str(path)]

    def _deadline(self, task: m.TaskBrief) -> float | None:
        return task.timeout_s if task.timeout_s is not None else self.brief.task_timeout_s

    def _streamer(self, task_id: str) -> Callable[[str, bytes], None]:
        def send(stream: str, data: bytes) -> None:
            self.client.notify("task.output", m.Output(task_id, stream, data))

        return send

    def _with_value(self, task: m.TaskBrief, outcome: Outcome) -> Outcome:
        """With an output schema, stdout has to be JSON; the kernel checks it against the schema."""
        if task.output_schema is None or outcome.exit_code != 0:
            return outcome
        try:
            return msgspec.structs.replace(outcome, value=msgspec.json.decode(outcome.output.encode()))
        except msgspec.MsgspecError:
            return outcome


def timeout_reason(task_id: str, limit_s: float | None) -> str:
    """The reason of an attempt that passed its deadline, a stable word first."""
    return f"limit.task_timeout: Task execution timeout: {task_id} exceeded {format_duration(limit_s or 0.0)}"


def command_text(run: tuple[str, ...] | str) -> str:
    """A command as a person would write it."""
    return run if isinstance(run, str) else " ".join(run)


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


