"""Lets the first request of a kind go alone for a moment: a wrong key then costs one request instead of fifty, and a provider's prompt cache fills once.

In: the kinds that a request belongs to (its provider and model, the beginning of its prompt). Out: a `Lead`, after at most HOLD of waiting. It remembers
kinds, never requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

HOLD_MODEL_S: Final = 10.0
"""So long the first request to a model may keep the others waiting: the provider process may still be loading (about 5 s)."""
HOLD_PREFIX_S: Final = 2.0
"""So long the first request with a prompt's beginning may: a prompt cache is filled when its reply begins, and waiting longer costs more than it saves."""
TOLD_AFTER_S: Final = 1.0
_KINDS_KEPT: Final = 4096


@dataclass(slots=True, eq=False)
class _Leading:
    until: float
    over: asyncio.Event


class Lead:
    """What the others wait for, held while a request is under way. Leaving it without `answered` lets the next one lead."""

    def __init__(self, stagger: Stagger, kinds: tuple[str, ...]) -> None:
        self._stagger = stagger
        self._kinds = kinds

    def answered(self) -> None:
        """The provider said something, good or bad: the others may go."""
        self._stagger._end(self._kinds, led=True)
        self._kinds = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stagger._end(self._kinds, led=False)
        self._kinds = ()


class Stagger:
    """Who leads and who follows. For one event loop."""

    def __init__(self) -> None:
        self._leading: dict[str, _Leading] = {}
        self._led: dict[str, None] = {}

    async def enter(self, model: str, prefix: str, on_wait: Callable[[str], None]) -> Lead:
        """Wait while another request of the same model or prefix leads, at most HOLD_MODEL_S and HOLD_PREFIX_S; lead if nobody has yet.

        `on_wait` gets a word when that takes longer than TOLD_AFTER_S.
        """
        holds = {f"model {model}": HOLD_MODEL_S, f"prefix {prefix}": HOLD_PREFIX_S}
        loop = asyncio.get_running_loop()
        begun, told = loop.time(), False
        while (leading := next((self._leading[kind] for kind in holds if kind in self._leading), None)) is not None:
            if loop.time() >= leading.until:
                # It takes too long: nobody waits for it any more.
                self._end(tuple(kind for kind, known in self._leading.items() if known is leading), led=True)
                continue
            late = loop.time() >= begun + TOLD_AFTER_S
            if late and not told:
                told = True
                on_wait("waiting for the first reply to another agent")
            try:
                async with asyncio.timeout_at(leading.until if late else min(leading.until, begun + TOLD_AFTER_S)):
                    await leading.over.wait()
            except TimeoutError:
                pass
        mine = tuple(kind for kind in holds if kind not in self._led)
        for kind in mine:
            self._leading[kind] = _Leading(loop.time() + holds[kind], asyncio.Event())
        return Lead(self, mine)

    def close(self) -> None:
        """Nobody waits for anybody any more."""
        self._end(tuple(self._leading), led=True)

    def _end(self, kinds: tuple[str, ...], *, led: bool) -> None:
        for kind in kinds:
            leading = self._leading.pop(kind, None)
            if leading is None:
                continue
            if led:
                self._led[kind] = None
                if len(self._led) > _KINDS_KEPT:
                    del self._led[next(iter(self._led))]
            leading.over.set()
