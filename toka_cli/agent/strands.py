"""Strands: many waits in one thread. A strand is a coroutine; it rests on descriptors, a signal or a deadline, and goes on when one of them comes.

The standard library's loop would do, but costs each cell 1.4 MB and 1.6 ms more (measured), and a cell is forked for every agent. One thread, because the
children of a cell are forked with walls of their own, and a fork of a threaded process cannot safely run Python. Never touches what it waits for.
"""

from __future__ import annotations

import heapq
import selectors
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any, Final

# Timers of waits that ended early are kept until they are due, or until there are this many and twice as many as were alive at the last look.
MANY_TIMERS: Final = 64


class Cancelled(BaseException):
    """Thrown into a strand that is cancelled; not an Exception, so that nobody swallows it by accident."""


class Wait:
    """What a strand rests on: any of the descriptors (readable), or the deadline (on the scheduler's clock), or `wake`."""

    __slots__ = ("deadline", "fds")

    def __init__(self, fds: tuple[int, ...] = (), deadline: float | None = None) -> None:
        self.fds = fds
        self.deadline = deadline

    def __await__(self) -> Generator[Wait, tuple[int, ...], tuple[int, ...]]:
        return (yield self)


class Strand:
    """A coroutine under way. `result` or `error` is set when it is done."""

    __slots__ = ("coroutine", "done", "error", "joiners", "queued", "result", "wait")

    def __init__(self, coroutine: Coroutine[Wait, Any, Any]) -> None:
        self.coroutine = coroutine
        self.done = False
        self.queued = True
        self.result: Any = None
        self.error: BaseException | None = None
        self.joiners: list[Strand] = []
        self.wait: Wait | None = None


class Signal:
    """Something that happens once and carries a value."""

    __slots__ = ("_scheduler", "_waiters", "is_set", "value")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._waiters: list[Strand] = []
        self.is_set = False
        self.value: Any = None

    def set(self, value: Any = None) -> None:
        """Happen, and wake who waits. The first value stands."""
        if not self.is_set:
            self.is_set, self.value = True, value
            waiters, self._waiters = self._waiters, []
            for strand in waiters:
                self._scheduler.wake(strand)

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it has happened, at most `timeout_s` seconds; True if it has."""
        if not self.is_set:
            strand = self._scheduler.current
            assert strand is not None
            self._waiters.append(strand)
            try:
                await self._scheduler.rest((), timeout_s)
            finally:
                if strand in self._waiters:
                    self._waiters.remove(strand)
        return self.is_set


class Scheduler:
    """Runs strands until the main one is done. The clock is an argument so that tests need not wait.

    `now` is the time by which deadlines are judged, taken once per turn; `clock()` is for durations.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._raw_clock = clock
        self._skipped_s = 0.0
        self._stood_at: float | None = None
        self.now = clock()
        self.current: Strand | None = None
        self._ready: deque[tuple[Strand, tuple[int, ...], BaseException | None]] = deque()
        self._timers: list[tuple[float, int, Strand, Wait]] = []
        self._order = 0
        self._stale_at = MANY_TIMERS
        self._selector = selectors.DefaultSelector()
        self._by_fd: dict[int, Strand] = {}
        self._callbacks: dict[int, Callable[[], None]] = {}

    def clock(self) -> float:
        """Seconds on this scheduler's clock, without what was skipped; it can stand still."""
        return (self._raw_clock() if self._stood_at is None else self._stood_at) - self._skipped_s

    def stand_still(self) -> None:
        """Let the clock stand until `go_on`: no deadline comes nearer, while descriptors and signals wake strands as ever."""
        if self._stood_at is None:
            self._stood_at = self._raw_clock()

    def go_on(self, frozen_s: float = 0.0) -> None:
        """Let the clock go on. At least `frozen_s` seconds are counted nowhere: the whole process was frozen, perhaps before it was told to stand still."""
        stood_s = 0.0 if self._stood_at is None else self._raw_clock() - self._stood_at
        self._stood_at = None
        self._skipped_s += max(stood_s, frozen_s)

    def spawn(self, coroutine: Coroutine[Wait, Any, Any]) -> Strand:
        """Begin a strand; it runs from the next turn on."""
        strand = Strand(coroutine)
        self._ready.append((strand, (), None))
        return strand

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `fd` is readable, until the scheduler ends."""
        self._selector.register(fd, selectors.EVENT_READ)
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Stop watching."""
        self._selector.unregister(fd)
        del self._callbacks[fd]

    def wake(self, strand: Strand) -> None:
        """Let a resting strand go on without any of its descriptors being ready."""
        self._resume(strand, ())

    def cancel(self, strand: Strand) -> None:
        """Throw Cancelled into a strand where it rests."""
        if not strand.done:
            self._resume(strand, (), Cancelled())

    async def rest(self, fds: Iterable[int] = (), timeout_s: float | None = None) -> tuple[int, ...]:
        """Rest until a descriptor is readable (answers which), `timeout_s` seconds are over, or somebody wakes us (answers nothing)."""
        # From `now`, not from the clock: a process that was frozen since would sleep longer by that.
        return await Wait(tuple(fds), None if timeout_s is None else self.now + max(timeout_s, 0.0))

    async def join(self, strand: Strand) -> Any:
        """Wait for a strand; its result, or its error raised."""
        while not strand.done:
            joiner = self.current
            assert joiner is not None
            strand.joiners.append(joiner)
            try:
                await self.rest()
            finally:
                if joiner in strand.joiners:
                    strand.joiners.remove(joiner)
        if strand.error is not None:
            raise strand.error
        return strand.result

    def run(self, coroutine: Coroutine[Wait, Any, Any]) -> Any:
        """Run until this coroutine is done; the others are left where they are. Its result, or its error raised."""
        main = self.spawn(coroutine)
        try:
            while not main.done:
                while self._ready and not main.done:
                    self._step(*self._ready.popleft())
                if not main.done:
                    self._poll()
        finally:
            self._selector.close()
        if main.error is not None:
            raise main.error
        return main.result

    def _step(self, strand: Strand, fds: tuple[int, ...], error: BaseException | None) -> None:
        strand.queued = False
        if strand.done:
            return
        # Between a cancellation and its turn the strand may have gone on and come to rest once more.
        self._detach(strand)
        self.current = strand
        try:
            wait = strand.coroutine.throw(error) if error is not None else strand.coroutine.send(fds if strand.wait is not None else None)
        except StopIteration as stop:
            self._finish(strand, stop.value, None)
        except BaseException as raised:  # noqa: BLE001  kept for whoever joins
            self._finish(strand, None, raised)
        else:
            self._park(strand, wait)
        finally:
            self.current = None

    def _park(self, strand: Strand, wait: Wait) -> None:
        strand.wait = wait
        for fd in wait.fds:
            self._selector.register(fd, selectors.EVENT_READ)
            self._by_fd[fd] = strand
        if wait.deadline is not None:
            self._order += 1
            heapq.heappush(self._timers, (wait.deadline, self._order, strand, wait))
            if len(self._timers) >= self._stale_at:
                self._timers = [timer for timer in self._timers if timer[2].wait is timer[3]]
                heapq.heapify(self._timers)
                self._stale_at = 2 * len(self._timers) + MANY_TIMERS

    def _resume(self, strand: Strand, fds: tuple[int, ...], error: BaseException | None = None) -> None:
        if strand.queued and error is None:
            return
        self._detach(strand)
        strand.queued = True
        self._ready.append((strand, fds, error))

    def _detach(self, strand: Strand) -> None:
        wait = strand.wait
        if wait is not None:
            for fd in wait.fds:
                if self._by_fd.pop(fd, None) is not None:
                    self._selector.unregister(fd)
            # An empty wait stands for "resumed": a timer that still names the old one finds that it is not the strand's any more.
            strand.wait = Wait()

    def _poll(self) -> None:
        while self._timers and self._timers[0][2].wait is not self._timers[0][3]:
            heapq.heappop(self._timers)
        timeout = max(0.0, self._timers[0][0] - self.clock()) if self._timers else None
        if timeout and self._stood_at is not None:
            # It would be as far away when it is over.
            timeout = None
        woken: dict[Strand, list[int]] = {}
        for key, _ in self._selector.select(timeout):
            if (callback := self._callbacks.get(key.fd)) is not None:
                callback()
            elif (strand := self._by_fd.get(key.fd)) is not None:
                woken.setdefault(strand, []).append(key.fd)
        self._take_time()
        for strand, fds in woken.items():
            self._resume(strand, tuple(fds))
        while self._timers and self._timers[0][0] <= self.now:
            _, _, strand, wait = heapq.heappop(self._timers)
            if strand.wait is wait and not strand.done:
                self._resume(strand, ())

    def _take_time(self) -> None:
        """Set `now`. This process may have been frozen at any point, and what tells it so (`go_on`) was sent before it went on: it is heard between two
        looks at the clock, and the earlier one counts. So no deadline passes in time that nobody had.
        """
        before = self.clock()
        for key, _ in self._selector.select(0):
            if (callback := self._callbacks.get(key.fd)) is not None:
                callback()
        self.now = min(before, self.clock())

    def _finish(self, strand: Strand, result: Any, error: BaseException | None) -> None:
        strand.done, strand.result, strand.error = True, result, error
        joiners, strand.joiners = strand.joiners, []
        for joiner in joiners:
            self.wake(joiner)
