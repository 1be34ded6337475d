"""What shows a run while it happens.

The owner of a run (or whoever follows its log) hands over what was committed, in order; a renderer writes to its own stream. Watching never changes a run:
a renderer gets views and records, nothing to act with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from toka_cli.events import Record
from toka_cli.state.snapshot import RunView


class Renderer(Protocol):
    """The life of a renderer: `start`, any number of `show` and `tick`, `finish` when the run ended, `close` always, even after an error and twice.

    Times (`now`) are seconds since 1970. Any method may raise BrokenPipeError when the reader of its stream went away.
    """

    def start(self, view: RunView) -> None:
        """Begin to show a run."""

    def show(self, records: Sequence[Record], view: RunView) -> None:
        """Show what was just committed; `view` is the run after it."""

    def tick(self, view: RunView, now: float) -> None:
        """Called about every 250 ms, for clocks and signs of life."""

    def finish(self, view: RunView) -> None:
        """Show how the run ended, once."""

    def close(self) -> None:
        """Give the stream back as it was."""

    def drain(self, timeout_s: float | None) -> None:
        """Wait until the reader has taken everything (None: as long as it takes)."""
