"""What the global options say, kept for the command that follows; and the types of options that several commands share. Imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from toka_cli import paths
from toka_cli.commands.output import Output
from toka_cli.errors import NotFound, UsageError


class Format(StrEnum):
    """Ways to print data."""

    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"


class Color(StrEnum):
    """When to colour."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


OutputOption = Annotated[Format, typer.Option("--output", "-o", help="How to print data on stdout.")]


@dataclass(slots=True)
class Globals:
    """The options before the command."""

    state_flag: Path | None = None
    config: Path | None = None
    color: Color = Color.AUTO
    quiet: bool = False
    verbose: int = 0

    @property
    def state_dir(self) -> Path:
        """The state folder that applies."""
        return paths.state_dir(self.state_flag, os.environ)

    def output(self, form: Format = Format.TEXT) -> Output:
        """Where and how this command prints."""
        return Output(format=form.value, quiet=self.quiet, verbosity=self.verbose, color=self.color.value)


def read_env_file(path: Path | None) -> None:
    """Take variables from a file that was named aloud, NAME=value lines; what is set already stays. Raises NotFound, UsageError with the line."""
    if path is None:
        return
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise NotFound(f"--env-file: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--env-file: {path} is not UTF-8 text") from error
    for number, line in enumerate(lines, 1):
        text = line.strip().removeprefix("export ").strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.strip().replace("_", "a").isalnum() or name.strip()[0].isdigit() or "\0" in value:
            # The line itself may hold a secret: only its number is said.
            raise UsageError(f"--env-file: {path}:{number}: not NAME=value")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        os.environ.setdefault(name.strip(), value)


def globals_of(context: typer.Context) -> Globals:
    """The global options of this invocation."""
    found = context.find_root().obj
    assert isinstance(found, Globals)
    return found
