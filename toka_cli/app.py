"""The command line: global options, commands, and the one place where errors become exit codes and words on stderr.

Commands import what they need when they run, so that `--help` and `agent list` stay quick.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from toka_cli import __version__
from toka_cli.commands import agent, audit, run, runtime, spec
from toka_cli.commands.context import Color, Format, Globals
from toka_cli.commands.orchestrate import orchestrate
from toka_cli.commands.output import Output
from toka_cli.errors import EXIT_BUG, EXIT_SIGINT, EXIT_USAGE, Bug, TokaError, UsageError

app = typer.Typer(
    name="toka",
    help="Run teams of LLM agents as real processes, with limits, gates, budgets and exit codes that scripts can trust.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("orchestrate")(orchestrate)
app.add_typer(agent.app, name="agent")
app.add_typer(run.app, name="run")
app.add_typer(runtime.app, name="runtime")
app.add_typer(spec.app, name="spec")
app.add_typer(audit.app, name="audit")

# Typer keeps click inside itself; this is the base of its usage errors, reached through the one that is public.
_CLICK_ERROR: Any = typer.BadParameter.__mro__[2]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"toka {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    context: typer.Context,
    state_dir: Annotated[Path | None, typer.Option("--state-dir", metavar="DIR", help="Where runs are recorded (TOKA_STATE_DIR).")] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The user's toka.toml (TOKA_CONFIG).")] = None,
    color: Annotated[Color, typer.Option("--color", help="When to colour.")] = Color.AUTO,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only data and errors.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more; twice for more still.")] = 0,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options before the command."""
    context.obj = Globals(state_dir, config, color, quiet, verbose)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code. Never raises, never shows a traceback."""
    _open_missing_streams()
    # Said explicitly: a shell that starts `toka ... &` in a script leaves SIGINT ignored, and Python would leave it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return _run(arguments)
    finally:
        _flush_streams()


def _run(arguments: list[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    name = _command_name(words)
    try:
        result = app(args=words, prog_name="toka", standalone_mode=False)
    except TokaError as error:
        return _report_bug(error) if isinstance(error, Bug) else _output(words).fail(name, error)
    except _CLICK_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            # No error, only the help that was not asked for by name.
            sys.stderr.write(error.format_message() + "\n")
            return EXIT_USAGE
        return _output(words).fail(name, _usage_error(error))
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_SIGINT
    except BrokenPipeError:
        return 0
    except SystemExit as error:
        # Click turns a reader that went away into exit status 1.
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return 0
    except Exception as error:  # noqa: BLE001  the last stop: a report file instead of a traceback
        return _report_bug(error)
    return result if isinstance(result, int) else 0


def _command_name(words: list[str]) -> str:
    """The command as the envelope names it: `orchestrate`, `agent list`."""
    names: list[str] = []
    groups = {group.name for group in app.registered_groups}
    rest = iter(words)
    for word in rest:
        if word in {"--state-dir", "--config", "--color"}:
            next(rest, None)
        elif not word.startswith("-"):
            names.append(word)
            if names[0] not in groups or len(names) == 2:
                break
    return " ".join(names)


def _usage_error(error: Any) -> UsageError:
    """Click's words in our form, with the way to the help."""
    path = error.ctx.command_path if getattr(error, "ctx", None) is not None else "toka"
    usage = UsageError(error.format_message(), hint=f"{path} --help")
    usage.exit_code = EXIT_USAGE
    return usage


def _output(words: list[str]) -> Output:
    """Where errors go when no command has said how it prints: -o is looked for among the words."""
    form = "text"
    for index, word in enumerate(words):
        if word in {"-o", "--output"} and index + 1 < len(words):
            form = words[index + 1]
        elif word.startswith("--output="):
            form = word.partition("=")[2]
        elif word.startswith("-o") and len(word) > 2 and not word.startswith("--"):
            form = word[2:]
    return Globals().output(Format(form) if form in set(Format) else Format.TEXT)


def _report_bug(error: Exception) -> int:
    """A file with the traceback, and one line that names it."""
    text = f"toka {__version__}\npython {sys.version}\n{sys.platform}\nargv: {sys.argv[1:]}\n\n{''.join(traceback.format_exception(error))}"
    try:
        descriptor, path = tempfile.mkstemp(prefix="toka-bug-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        where = f"the details are in {path}"
    except OSError:
        where = "and the details could not be written"
    with suppress(OSError):
        sys.stderr.write(f"error: this is a bug in toka, not your mistake: {type(error).__name__}; {where}\n")
    return EXIT_BUG


def _open_missing_streams() -> None:
    """Where the shell closed a standard stream (`>&-`), put the void: else the next file that is opened takes its number, and gets what is written to it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one: those before it are open by now.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


def _flush_streams() -> None:
    """What nobody reads any more goes into the void: Python would flush it once more at its end, and complain with an exit status of its own."""
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except ValueError:
            pass
