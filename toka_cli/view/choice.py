"""Chooses the renderer for a stream: the live table only where animation is allowed."""

from __future__ import annotations

from typing import TextIO

from toka_cli.view.plain import PlainRenderer
from toka_cli.view.renderer import Renderer
from toka_cli.view.terminal import Terminal


def choose_renderer(stream: TextIO, terminal: Terminal, *, watch: bool | None = None, focus: str | None = None) -> Renderer:
    """Return the live table on a terminal and plain lines elsewhere.

    `watch` False asks for plain lines; True cannot animate a pipe, a CI log or a dumb terminal.
    """
    if terminal.animate and watch is not False:
        # Rich is loaded only for those who see it.
        from toka_cli.view.live import LiveRenderer

        return LiveRenderer(stream, terminal, focus=focus)
    return PlainRenderer(stream, terminal)
