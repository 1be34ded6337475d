"""run_command and run_code: processes. In: what to run. Out: how it ended, with the beginning and the end of what it wrote.

The processes are started, limited and ended by whoever made the context; nothing here starts anything.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from toka_cli.tools.tool import Arguments, CommandResult, Tool, ToolContext, ToolFailed, both_ends

MAX_TIMEOUT_S: Final = 24 * 3600.0

Timeout = Annotated[
    float, msgspec.Meta(gt=0, le=MAX_TIMEOUT_S, description="Seconds after which it is ended; left out: what the task still has.")
]


class RunCommand(Arguments, frozen=True):
    """Arguments of run_command: argv or shell."""

    argv: Annotated[tuple[str, ...] | None, msgspec.Meta(description="Program and arguments, run as they are, without a shell.")] = None
    shell: Annotated[str | None, msgspec.Meta(description="In place of argv: a line for sh -c.")] = None
    timeout_s: Timeout | None = None


class RunCode(Arguments, frozen=True):
    """Arguments of run_code."""

    language: Literal["python", "javascript", "shell"]
    code: Annotated[str, msgspec.Meta(description="The source text; it runs in an interpreter of its own.", min_length=1)]
    timeout_s: Timeout | None = None


async def run_run_command(arguments: RunCommand, context: ToolContext) -> CommandResult:
    """Raises ToolFailed unless there is exactly one of argv and shell. A command that fails is an answer, not an error."""
    argv, shell = arguments.argv, arguments.shell
    if (argv is None) == (shell is None):
        raise ToolFailed("run_command takes either argv or shell")
    if argv is not None and (not argv or not argv[0]):
        raise ToolFailed("argv names no program", hint='the program comes first: ["pytest", "-q"]')
    if shell is not None and not shell.strip():
        raise ToolFailed("shell holds no command")
    if any("\0" in text for text in argv or (shell or "",)):
        raise ToolFailed("a command cannot hold a NUL character")
    return _bounded(await context.command(argv if argv is not None else shell, timeout_s=arguments.timeout_s, language=None), context)


async def run_run_code(arguments: RunCode, context: ToolContext) -> CommandResult:
    """Code that fails is an answer, not an error. Raises ToolFailed for source text with a NUL, which no interpreter takes."""
    if "\0" in arguments.code:
        raise ToolFailed("source text cannot hold a NUL character")
    return _bounded(await context.command(arguments.code, timeout_s=arguments.timeout_s, language=arguments.language), context)


def _bounded(result: CommandResult, context: ToolContext) -> CommandResult:
    """The result with both streams in the output limit; a stream may use what the other one leaves."""
    half = context.output_limit // 2
    sizes = [len(text.encode("utf-8", "replace")) for text in (result.stdout, result.stderr)]
    stdout, cut_out = both_ends(result.stdout, max(half, context.output_limit - sizes[1]))
    stderr, cut_err = both_ends(result.stderr, max(half, context.output_limit - sizes[0]))
    return msgspec.structs.replace(result, stdout=stdout, stderr=stderr, truncated=result.truncated or cut_out or cut_err)


TOOLS: Final = (
    Tool(
        name="run_command",
        description="Run a program with its arguments, or a shell line, in the working directory. A failing exit code is part of the answer.",
        arguments=RunCommand,
        result=CommandResult,
        power="script-execution",
        effect="effect",
        where="cell",
        read_only=False,
        run=run_run_command,
    ),
    Tool(
        name="run_code",
        description="Run source text in python, javascript or shell, each time in a new interpreter.",
        arguments=RunCode,
        result=CommandResult,
        power="script-execution",
        effect="effect",
        where="cell",
        read_only=False,
        run=run_run_code,
    ),
)
