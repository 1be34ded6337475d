"""Keeps a conversation below the model's window: knows how large each message is, and says which of them the model need not see any more.

In: messages as they come, and how many tokens the model counted. Out: numbers of messages to shorten, and up to which one to leave everything out. A call and
its result stay together. The kernel does it; its journal keeps all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import msgspec

DEFAULT_WINDOW: Final = 64_000
"""Tokens, when nobody knows the model's own."""
DEFAULT_REPLY: Final = 4096
CHARS_PER_TOKEN: Final = 3.0
"""Fewer than most models need for text in English, so that a guess errs to the safe side; what is left out counts for less."""
HIGH: Final = 0.75
LOW: Final = 0.5
"""From HIGH on so much is left out that LOW is reached: seldom and much, because each time a provider's cache of the prompt is lost."""

_HEAD: Final = 2
_KEPT_TURNS: Final = 2
_WORTH_CHARS: Final = 400
_SHORT_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Cut:
    """What to leave out: messages to shorten, and the number of the first one after the head that stays whole in the conversation (0: all stay)."""

    shorten: tuple[int, ...] = ()
    drop: int = 0


@dataclass(slots=True)
class Context:
    """Sizes of a conversation's messages. `window` and `reply_tokens` are in tokens."""

    window: int
    reply_tokens: int
    roles: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    dropped: int = 0
    _short: set[int] = field(default_factory=set)
    _counted: int = 0
    _added: int = 0
    _saved: int = 0

    def add(self, message: dict[str, Any]) -> None:
        """Take in the next message."""
        size = len(msgspec.json.encode(message))
        self.roles.append(str(message.get("role") or "left out"))
        self.sizes.append(size)
        self._added += size

    def counted(self, input_tokens: int, output_tokens: int) -> None:
        """The model counted so many tokens for everything up to now, its reply included."""
        if input_tokens > 0:
            self._counted, self._added, self._saved = input_tokens + output_tokens, 0, 0

    @property
    def room(self) -> int:
        """Tokens that a request may hold."""
        return max(1000, self.window - self.reply_tokens)

    def tokens(self) -> int:
        """About how many tokens the next request has: what the model counted last, and a guess for what came since."""
        if self._counted:
            return max(0, self._counted + int(self._added / CHARS_PER_TOKEN - self._saved / (1.5 * CHARS_PER_TOKEN)))
        return int(sum(self.sizes) / CHARS_PER_TOKEN)

    def fit(self, *, pressed: bool = False) -> Cut:
        """What to leave out of the next request. `pressed`: the model has just said that it was too long, whatever we think."""
        aim = LOW * self.room
        if pressed:
            aim = min(aim, self.tokens() * LOW)
        elif self.tokens() <= HIGH * self.room:
            return Cut()
        shorten: list[int] = []
        # The last turns stay whole as long as leaving out the older ones is enough.
        for kept in (_KEPT_TURNS, 1):
            for index in self._older(kept):
                if self.tokens() <= aim:
                    break
                if self._shorten(index):
                    shorten.append(index)
            if self.tokens() <= aim:
                return Cut(tuple(shorten))
        drop = self._drop(aim)
        if self.tokens() > (aim if pressed else HIGH * self.room):
            shorten += [index for index in range(_HEAD, len(self.roles)) if index >= drop and self._shorten(index)]
        return Cut(tuple(index for index in shorten if index >= drop), drop)

    def was_cut(self, shortened: tuple[int, ...], dropped: int) -> None:
        """Take in what was left out in an earlier life: the sizes given are those of what is still shown."""
        self._short.update(shortened)
        self.dropped = dropped

    def _turns(self) -> list[int]:
        """The numbers of the assistant's messages, oldest first."""
        return [index for index, role in enumerate(self.roles) if role == "assistant" and index >= max(_HEAD, self.dropped)]

    def _older(self, kept: int) -> range:
        """Messages before the last `kept` turns."""
        turns = self._turns()
        return range(max(_HEAD, self.dropped), turns[-kept] if len(turns) >= kept else _HEAD)

    def _shorten(self, index: int) -> bool:
        worth = self.roles[index] in {"tool", "assistant"} and self.sizes[index] > _WORTH_CHARS and index not in self._short
        if worth:
            self._short.add(index)
            self._shrink(index, _SHORT_CHARS)
        return worth

    def _drop(self, aim: float) -> int:
        """Leave out whole turns, oldest first, but never the last one; up to which message."""
        turns = self._turns()
        until = self.dropped
        for start, end in pairwise(turns):
            if self.tokens() <= aim:
                break
            for index in range(max(start, until, _HEAD), end):
                self._shrink(index, 0)
            until = end
        self.dropped = until
        return until

    def _shrink(self, index: int, size: int) -> None:
        saved = self.sizes[index] - min(size, self.sizes[index])
        self.sizes[index] -= saved
        self._saved += saved
