"""Ends a computation that takes too much processor time. In: seconds and a function. Out: whether it came to its end. It waits for nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from toka_cli.errors import Bug


class _OutOfTime(Exception):
    """The timer rang."""


def within_cpu(seconds: float, compute: Callable[[], None]) -> bool:
    """Run `compute`; False if it was ended because it took more than `seconds` of this program's own processor time.

    Works on regular expressions too: their matcher looks for signals every 4096 steps. The timer is ITIMER_VIRTUAL, so that sleeping costs nothing and no
    alarm of somebody else is disturbed. `compute` may be ended between any two steps: it must own no resource. Raises Bug outside of the main thread, the only
    one that Python lets handle signals.
    """

    def ring(_signum: int, _frame: FrameType | None) -> None:
        raise _OutOfTime

    try:
        before = signal.signal(signal.SIGVTALRM, ring)
    except ValueError as error:
        raise Bug("a bound on processor time was asked for outside of the main thread") from error
    try:
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, max(seconds, 0.001))
            compute()
        finally:
            # The timer rings once. If it rings just here, it is caught below and there is nothing left to switch off.
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except _OutOfTime:
        return False
    finally:
        signal.signal(signal.SIGVTALRM, before)
    return True
