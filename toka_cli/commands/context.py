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


def globals_of(context: typer.Context) -> Globals:
    """The global options of this invocation."""
    found = context.find_root().obj
    assert isinstance(found, Globals)
    return found
