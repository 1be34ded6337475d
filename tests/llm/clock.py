"""An event loop whose time is an argument: it jumps to the next timer instead of waiting, so that an hour passes in a moment and every test is exact."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH = 1_700_000_000.0
"""What the wall clock shows when the loop's time is 0."""


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing: where others would sleep, it moves the time on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise AssertionError("everything waits, and no timer will ever ring: a wake-up was lost")
        self.now += max(0.0, timeout)
        return []


class JumpingLoop(asyncio.SelectorEventLoop):
    """A real loop with a time of its own. `turns` counts its rounds, so that a busy loop shows."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        self.turns = 0
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def _run_once(self) -> None:
        self.turns += 1
        super()._run_once()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to its end in a loop of its own, with a time of its own that begins at 0."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)


def now() -> float:
    """The running loop's time."""
    return asyncio.get_running_loop().time()


def wall() -> float:
    """The wall clock that goes with the running loop's time."""
    return EPOCH + now()
