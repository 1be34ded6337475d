"""`toka runtime exec`: one piece of code, one command or one tool call as a run of one agent with one task, and the unified result."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from toka_cli.commands.context import Format, Globals
from toka_cli.commands.durations import seconds, share, size
from toka_cli.commands.planning import Asked, prepare_loaded, say_warnings
from toka_cli.commands.running import run_here
from toka_cli.errors import EXIT_REFUSED, EXIT_RUN_FAILED, EXIT_TIMED_OUT, NotFound, UsageError
from toka_cli.paths import RunFolder, runs_dir
from toka_cli.spec.load import load_text
from toka_cli.spec.target import CodeTarget, CommandTarget, ShellTarget, ToolTarget, target_from_parts
from toka_cli.state.snapshot import AgentView, TaskView

NAME: Final = "exec"


class Result(msgspec.Struct, frozen=True):
    """What came of it. What cannot be known is None; memory is that of the largest process, in bytes; times in seconds."""

    ok: bool
    exit_code: int | None
    signal: int | None
    reason: str | None
    output: str
    stderr: str
    duration_s: float | None
    peak_memory_bytes: int | None
    cpu_time_s: float | None
    isolation: dict[str, Any]
    artifacts: list[str]
    value: Any
    run_id: str


@dataclass(frozen=True, slots=True)
class Target:
    """What was asked for on the command line; exactly one of the first four."""

    python: Path | None
    javascript: Path | None
    shell: str | None
    tool: str | None
    arguments: tuple[str, ...]
    grants: tuple[str, ...]
    memory: str | None
    cpu: str | None
    timeout: str | None
    workdir: Path | None
    no_sandbox: bool


def run_target(cli: Globals, target: Target, form: Format) -> int:
    """Run it in a cell; prints its output, or the unified result; the exit status to end with."""
    out = cli.output(form)
    spec = msgspec.json.encode(_spec(target)).decode("utf-8")
    loaded = load_text(spec, path="command line").checked()
    ready = prepare_loaded(cli, Asked(specs=(), workdir=target.workdir, no_sandbox=target.no_sandbox, direct=True), loaded, out)
    say_warnings(ready, out)
    view = run_here(cli, ready, form, quiet=True)
    agent = view.agents[0]
    result = _result(agent, agent.tasks[0])
    code = exit_code_of(result)
    if form is Format.TEXT:
        with out.quiet_pipe():
            _print(result, RunFolder(runs_dir(cli.state_dir) / view.id))
    out.emit("runtime exec", {"result": result}, exit_code=code, text=())
    if result.reason is not None and result.exit_code is None:
        out.note(f"{NAME}: {result.reason}")
    return code


def exit_code_of(result: Result) -> int:
    """The code's own exit status; by reason where it has none: 124 for its time limit, 5 for a refusal, 128 + signal, else 1."""
    reason = result.reason or ""
    if "limit.task_timeout" in reason or "limit.timeout" in reason:
        return EXIT_TIMED_OUT
    if "capability_denied" in reason or reason.startswith("sandbox:"):
        return EXIT_REFUSED
    if result.exit_code is not None and not result.ok:
        return result.exit_code or EXIT_RUN_FAILED
    if result.signal is not None:
        return 128 + result.signal
    return 0 if result.ok else EXIT_RUN_FAILED


def _spec(target: Target) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    # Checked here, so that the message names the option and not a line of a file that nobody wrote.
    for option, name, text, check in (
        ("--memory", "max_memory", target.memory, size),
        ("--cpu", "max_cpu", target.cpu, share),
        ("--timeout", "task_timeout", target.timeout, seconds),
    ):
        if text is not None:
            check(option, text)
            limits[name] = text
    return {
        "metadata": {"name": NAME, "workstream": "runtime exec"},
        "tasks": [{"id": NAME, "description": "toka runtime exec", **_what(target)}],
        "security": {"capabilities_required": [_grant(text) for text in target.grants], "resource_limits": limits},
        "restart": {"policy": "never"},
    }


def _grant(text: str) -> Any:
    """A grant as a spec writes it: `NAME`, or `NAME=VALUE,VALUE` for the long form. Raises UsageError."""
    name, separator, values = text.partition("=")
    if not separator:
        return name
    listed = [value.strip() for value in values.split(",")]
    if not name.strip() or not all(listed):
        raise UsageError(f"--grant takes NAME or NAME=VALUE,VALUE; not {text!r}", hint="such as --grant filesystem-write='src/**'")
    return {name: listed}


def _what(target: Target) -> dict[str, Any]:
    """The target as the task of a spec. Raises UsageError unless exactly one thing was asked for."""
    asked = target_from_parts(
        python=_source(target.python),
        javascript=_source(target.javascript),
        shell=target.shell,
        tool=target.tool,
        args=target.arguments,
    )
    match asked:
        case CodeTarget():
            return {"code": {asked.language: asked.source}}
        case ToolTarget():
            return {"tool": asked.tool, "args": asked.args}
        case ShellTarget():
            return {"run": asked.command}
        case CommandTarget():
            return {"run": list(asked.argv)}


def _source(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text") from error


def _result(agent: AgentView, task: TaskView) -> Result:
    # The agent has the last word: a task can succeed whose agent was found to have got round a wall.
    ok = task.state == "succeeded" and agent.state == "succeeded"
    return Result(
        ok=ok,
        exit_code=task.exit_code,
        signal=task.signal,
        reason=None if ok else (task.reason or agent.reason),
        output=task.output,
        stderr=task.stderr,
        duration_s=task.duration_s,
        peak_memory_bytes=task.peak_memory_bytes,
        cpu_time_s=task.cpu_time_s,
        isolation=agent.isolation,
        artifacts=[task.artifact] if task.artifact else [],
        value=task.value,
        run_id=agent.run_id,
    )


def _print(result: Result, folder: RunFolder) -> None:
    """The code's own output, on its own streams, as it was: this is a program's output, asked for by name, as `docker run` would give it.

    What is too long for the result is in the artifact, whole: its bytes are those of stdout if nothing was written to stderr. With both, the result's
    head and tail are shown, and where the rest is.
    """
    kept = folder.artifacts / result.artifacts[0] if result.artifacts else None
    if kept is not None and not result.stderr:
        with kept.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
    else:
        sys.stdout.write(result.output)
        sys.stderr.write(result.stderr)
        if kept is not None:
            sys.stderr.write(f"{NAME}: all that was written is in {kept}\n")
    sys.stdout.flush()
    sys.stderr.flush()
