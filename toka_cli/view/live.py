"""Shows a run as one table that is redrawn in place, on a terminal.

Views come in; at most 8 times a second (2 with many rows), and only when something changed, lines that fit the screen go out. The only file that knows Rich;
it hands Rich finished lines, because a Rich table costs fifteen times as much per redraw. At the end the table stays once, and the summary follows.
"""

from __future__ import annotations

import atexit
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TextIO

from rich.console import Console
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from toka_cli.events import Record
from toka_cli.state.snapshot import RunView
from toka_cli.view.causes import find
from toka_cli.view.queued import drain, is_behind
from toka_cli.view.rows import agent_screen, run_screen
from toka_cli.view.style import STYLES, Line, paint
from toka_cli.view.summary import summary_lines
from toka_cli.view.terminal import Terminal, judge, size
from toka_cli.view.text import display_width

FEW_ROWS: Final = 40
FAST_S: Final = 0.125
SLOW_S: Final = 0.5


class LiveRenderer:
    """Draws on a terminal. With `focus` (an agent's id or name) it shows this agent and its tasks.

    `clock` gives seconds since 1970. The cursor comes back with `close`, and at the latest when Python ends.
    """

    def __init__(
        self,
        stream: TextIO,
        terminal: Terminal | None = None,
        *,
        focus: str | None = None,
        clock: Callable[[], float] = time.time,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._stream = stream
        self._terminal = terminal or judge(stream, environ=environ)
        self._environ = environ
        self._focus = focus
        self._clock = clock
        self._console = console_for(stream, self._terminal)
        self._live: Live | None = None
        self._lines: list[Line] = []
        self._size = (0, 0)
        self._drawn_at = float("-inf")

    def start(self, view: RunView) -> None:
        """Hide the cursor and draw for the first time."""
        self._console.size = size(self._stream, self._environ)
        self._lines, self._size = [], (0, 0)
        self._live = Live(
            Text(""), console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False, vertical_overflow="crop"
        )
        atexit.register(self.close)
        self._live.start()
        self._draw(view, self._clock())

    def show(self, records: Sequence[Record], view: RunView) -> None:
        """Draw what changed, unless it was drawn a moment ago: then `tick` will."""
        if records:
            self._draw_if_due(view, self._clock())

    def tick(self, view: RunView, now: float) -> None:
        """Draw if anything changed: clocks do."""
        self._draw_if_due(view, now)

    def finish(self, view: RunView) -> None:
        """Draw the last state once, leave it on the screen and write the summary below it."""
        self._draw(view, self._clock())
        self.close()
        for line in summary_lines(view, ascii_only=self._terminal.ascii_only):
            self._stream.write(paint(line, color=self._terminal.color) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Give the terminal back: cursor visible, the table left where it is. A second time does nothing."""
        live, self._live = self._live, None
        atexit.unregister(self.close)
        if live is None:
            return
        try:
            live.stop()
        except OSError:
            # The terminal went away, or refuses the last picture: the cursor is all that is still owed.
            with contextlib.suppress(OSError, ValueError):
                self._stream.write("\x1b[?25h")
                self._stream.flush()

    def drain(self, timeout_s: float | None) -> None:
        """Wait until the terminal has taken everything (None: as long as it takes)."""
        drain(self._stream, timeout_s)

    def _draw_if_due(self, view: RunView, now: float) -> None:
        if is_behind(self._stream):
            # A terminal that was held (Ctrl-S) or is slow: it gets the newest picture once it reads again, not all that were.
            return
        pause = FAST_S if len(self._lines) <= FEW_ROWS else SLOW_S
        # A clock that was set back must not stop the picture.
        if not 0 <= now - self._drawn_at < pause:
            self._draw(view, now)

    def _draw(self, view: RunView, now: float) -> None:
        if self._live is None:
            return
        screen = size(self._stream, self._environ)
        width, height = screen
        # One line stays free: a table as high as the screen would scroll, and be drawn anew below itself.
        lines = self._picture(view, now, width, max(1, height - 1))
        self._drawn_at = now
        if lines == self._lines and screen == self._size:
            return
        if self._lines and width < self._size[0]:
            self._erase_wrapped(width)
        self._console.size = screen
        self._lines, self._size = lines, screen
        self._live.update(Text("\n").join(_rich(line, self._terminal.color) for line in lines), refresh=True)

    def _picture(self, view: RunView, now: float, width: int, height: int) -> list[Line]:
        ascii_only = self._terminal.ascii_only
        if self._focus is not None:
            agent = next((it for it in view.agents if it.id == self._focus), None) or find(view, self._focus)
            if agent is not None:
                return agent_screen(view, agent, now, width, height, ascii_only=ascii_only)
        return run_screen(view, now, width, height, ascii_only=ascii_only)

    def _erase_wrapped(self, width: int) -> None:
        """A window that became narrower wrapped the old lines: erase the rows that Rich does not know of."""
        rows = [-(-max(1, sum(display_width(span.text) for span in line)) // width) for line in self._lines]
        if sum(rows) > len(rows):
            up, back = sum(rows) - 1, len(rows) - 1
            moves: list[tuple[ControlType, int] | ControlType] = [ControlType.CARRIAGE_RETURN]
            for _ in range(up):
                moves += [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)]
            moves.append((ControlType.ERASE_IN_LINE, 2))
            moves += [(ControlType.CURSOR_DOWN, back)] if back else []
            self._console.control(Control(*moves))


def console_for(stream: TextIO, terminal: Terminal) -> Console:
    """Return a Rich console that obeys our judgement of the stream, not its own: FORCE_COLOR would make a pipe interactive."""
    return Console(
        file=stream,
        force_terminal=terminal.tty,
        force_interactive=terminal.animate,
        color_system="standard" if terminal.color else None,
        no_color=not terminal.color,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
        force_jupyter=False,
    )


def _rich(line: Line, color: bool) -> Text:
    text = Text(no_wrap=True, overflow="crop", end="")
    for span in line:
        text.append(span.text, STYLES[span.style][1] if color else "")
    return text
