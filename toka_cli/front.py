"""Answers the simplest command lines before the command line is loaded: version, help, `agent list` and `run list`.

In: the words after `toka`, the environment, the state folder. Out: what the whole command line would have written, byte for byte, and its exit code; or
None for everything that is not understood to the last word, and then the whole command line is asked. It decides nothing and says nothing of its own. The
modules it needs do without `typing`, `dataclasses` and `pathlib`, each of which costs more than the answer.

The help texts lie in `help.txt`, made from the commands themselves: `python -m toka_cli.front` writes it anew.
"""

from __future__ import annotations

import os
import sys

from toka_cli import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

HELP_FILE: Final = f"{__file__.rpartition('/')[0]}/help.txt"
HEADING: Final = "\x0c toka"
"""What the line before each text begins with; the words of the command follow."""
HELP_WIDTH: Final = 80
"""Columns the texts are made for. A wider terminal changes nothing: see `HelpFormatter` of click."""
_COMPLETION: Final = ("_TOKA_COMPLETE", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION")


class Asked:
    """A list command, read from the words."""

    __slots__ = ("color", "command", "everything", "form", "live", "state_dir")

    def __init__(self) -> None:
        self.command = ""
        self.state_dir = ""
        self.color = "auto"
        self.form = "text"
        self.everything = self.live = False


def answer(words: list[str]) -> int | None:
    """Answer a command line and return its exit code; None, with nothing written, if that is not for here."""
    if any(os.environ.get(name) for name in _COMPLETION) or sys.stdout is None or sys.stderr is None:
        return None
    if words == ["--version"]:
        return _write(f"toka {__version__}\n")
    if words and words[-1] in {"-h", "--help"}:
        return _help(words[:-1])
    asked = _read(words)
    return None if asked is None else _list(asked)


# --- help ----------------------------------------------------------------------------------------------------------------------------


def _help(command: list[str]) -> int | None:
    if any(word.startswith("-") for word in command) or _columns() < HELP_WIDTH:
        return None
    try:
        with open(HELP_FILE, encoding="utf-8") as file:  # noqa: PTH123
            texts = file.read()
    except (OSError, ValueError):
        return None
    _, found, rest = texts.partition(" ".join((HEADING, *command)) + "\n")
    return _write(rest.partition(HEADING)[0]) if found else None


def _columns() -> int:
    """The width that click would find: like `shutil.get_terminal_size`."""
    try:
        columns = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        columns = 0
    if columns <= 0:
        try:
            columns = os.get_terminal_size(sys.__stdout__.fileno()).columns  # type: ignore[union-attr]
        except (AttributeError, ValueError, OSError):
            columns = 0
    return columns if columns > 0 else HELP_WIDTH


def texts() -> Iterator[str]:
    """Yield the content of the help file as the commands say it at this width: for each a line that names it, and its text."""
    from contextlib import redirect_stdout
    from io import StringIO

    from toka_cli.app import main

    commands: list[list[str]] = [[]]
    for command in commands:
        with redirect_stdout(StringIO()) as out:
            main([*command, "--help"])
        text = out.getvalue()
        yield " ".join((HEADING, *command)) + "\n" + text
        # Names stand two columns in, what goes on from the line before further.
        listed = text.partition("\nCommands:\n")[2].split("\n")
        commands += [[*command, line.split()[0]] for line in listed if line[:2] == "  " != line[2:4]]


# --- lists ---------------------------------------------------------------------------------------------------------------------------


def _read(words: list[str]) -> Asked | None:
    """The list command that the words ask for; None for all others, for words that come twice, and for values that need a second look."""
    asked = Asked()
    todo = _split(words)
    seen = set()
    while todo:
        word, *todo = todo
        if word in seen:
            return None
        seen.add(word)
        if word in {"agent", "run"} and todo[:1] == ["list"] and not asked.command:
            asked.command = f"{word} list"
            todo = todo[1:]
        elif not asked.command:
            if word in {"--state-dir", "--color"} and todo:
                value, *todo = todo
                if not value or value[0] in "-~" or (word == "--color" and value not in {"auto", "always", "never"}):
                    return None
                if word == "--color":
                    asked.color = value
                else:
                    asked.state_dir = value
            elif word not in {"-q", "--quiet"}:
                return None
        elif word in {"-a", "--all"} and asked.command == "agent list":
            asked.everything = True
        elif word == "--live" and asked.command == "run list":
            asked.live = True
        elif word in {"-o", "--output"} and todo[:1] and todo[0] in {"text", "json", "jsonl"}:
            asked.form, *todo = todo
        else:
            return None
    return asked if asked.command else None


def _split(words: list[str]) -> list[str]:
    """The words, with `--option=value` and `-ovalue` in two."""
    parts: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in {"--state-dir", "--color", "--output"}:
            parts += [name, value]
        elif word.startswith("-o") and len(word) > 2:
            parts += ["-o", word[2:]]
        else:
            parts.append(word)
    return parts


def _list(asked: Asked) -> int | None:
    state_dir = _state_dir(asked.state_dir or os.environ.get("TOKA_STATE_DIR", ""))
    if state_dir is None:
        return None
    import time

    from toka_cli.state import glance

    now = time.time()
    try:
        things: list[Any]
        if asked.command == "agent list":
            things = glance.agents(state_dir, everything=asked.everything, now=now)
        else:
            things = glance.runs(state_dir, live=asked.live)
        text = _text(asked, things, now) if asked.form == "text" else _json(asked, things)
    except Exception:  # noqa: BLE001  whatever it is, the whole command line says it better
        return None
    return None if text is None else _write(text)


def _state_dir(chosen: str) -> str | None:
    """The state folder; None where `paths` has to be asked. The default is platformdirs' for Linux (the XDG directories)."""
    if chosen:
        return None if chosen.startswith("~") else f"{os.getcwd()}/{chosen}" if chosen[0] != "/" else chosen  # noqa: PTH109
    home, known = os.environ.get("HOME", ""), os.environ.get("XDG_STATE_HOME", "")
    if sys.platform != "linux" or "ANDROID_DATA" in os.environ or not home.startswith("/"):
        return None
    return f"{known if known.startswith('/') else home.rstrip('/') + '/.local/state'}/toka"


def _text(asked: Asked, things: list[Any], now: float) -> str:
    if not things:
        return "no runs\n" if asked.command == "run list" else "no agents\n" if asked.everything else "no live agents\n"
    from toka_cli.view.style import paint
    from toka_cli.view.terminal import judge

    terminal = judge(sys.stdout, color=asked.color)
    if asked.command == "agent list":
        from toka_cli.view.agent import agent_table as lines_of
    else:
        from toka_cli.view.run import run_table as lines_of  # type: ignore[assignment]
    lines = lines_of(things, now=now, width=terminal.width, ascii_only=terminal.ascii_only)
    return "".join(paint(line, color=terminal.color) + "\n" for line in lines)


def _json(asked: Asked, things: list[Any]) -> str | None:
    """The envelope; None where it would be indented or hold characters that are escaped."""
    if asked.form == "json" and sys.stdout.isatty():
        return None
    if things:
        from toka_cli.state.glance import encoded

        data = encoded(things)
    else:
        data = "[]"
    text = f'{{"schema":1,"command":"{asked.command}","exit_code":0,"data":{{"{asked.command.partition(" ")[0]}s":{data}}},"errors":[]}}\n'
    return text if text.isascii() and "\x7f" not in text else None


# --- writing -------------------------------------------------------------------------------------------------------------------------


def _write(text: str) -> int | None:
    """Write to standard output; a reader that went away is no error. None when it cannot be written for another reason."""
    # Past the stream's buffer: nothing may be left in it for the whole command line to write again.
    data = text.encode(sys.stdout.encoding, "backslashreplace")
    try:
        while data:
            data = data[os.write(sys.stdout.fileno(), data) :]
    except BrokenPipeError:
        return 0
    except OSError:
        return None
    return 0


if __name__ == "__main__":
    os.environ["COLUMNS"] = str(HELP_WIDTH)
    with open(HELP_FILE, "w", encoding="utf-8") as out:  # noqa: PTH123
        out.writelines(texts())
