"""Signs that an agent does what nobody asked it to: a burst of refusals, a known secret on its way out, a host that was never asked for before.

In: what the kernel sees of one agent. Out: `on_threat(kind, detail)`, once for each kind; what follows from it (pause, stop, a line in the record) is decided
elsewhere. A detail never holds a secret.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

ThreatKind = Literal["denials", "secret", "new_host"]

BURST: Final = 10
WINDOW_S: Final = 60.0
OVERLAP: Final = 4096
"""Bytes of a stream that are looked at once more with what follows: no key is longer, however it is spelled."""


class SecretFinder:
    """Known secrets in outgoing text or bytes. `mask` gives a text without them (`Redactor.text`); None: there are none. What is packed is not seen."""

    def __init__(self, mask: Callable[[str], str] | None = None) -> None:
        self._mask = mask

    def __bool__(self) -> bool:
        """True when there is anything to look for."""
        return self._mask is not None

    def found_in(self, data: bytes | str) -> bool:
        """Whether one of them is in there."""
        if self._mask is None:
            return False
        # Every byte is a character here, as it is for those who mask bytes.
        text = data.decode("latin-1") if isinstance(data, bytes) else data
        return self._mask(text) != text

    def stream(self) -> Callable[[bytes], bool]:
        """A function that is given one stream piece by piece, and answers whether a secret has just been seen, also across pieces."""
        tail = b""

        def feed(piece: bytes) -> bool:
            nonlocal tail
            data = tail + piece
            tail = data[-OVERLAP:]
            return self.found_in(data)

        return feed


@dataclass(slots=True)
class ThreatWatch:
    """The signs of one agent. `clock` gives seconds; `burst` refusals within `window_s` seconds are a threat (0: never)."""

    agent_id: str
    on_threat: Callable[[ThreatKind, str], None]
    clock: Callable[[], float]
    secrets: SecretFinder = field(default_factory=SecretFinder)
    burst: int = BURST
    window_s: float = WINDOW_S
    _denials: deque[float] = field(default_factory=deque)
    _said: set[ThreatKind] = field(default_factory=set)

    def denied(self, act: str) -> None:
        """The agent was refused something."""
        now = self.clock()
        self._denials.append(now)
        while self._denials and now - self._denials[0] > self.window_s:
            self._denials.popleft()
        if self.burst and len(self._denials) >= self.burst:
            self._say("denials", f"{len(self._denials)} refusals in {self.window_s:.0f} s, the last one: {act[:200]}")
            self._denials.clear()

    def new_host(self, host: str, port: int, *, named: bool) -> None:
        """The agent asked for a host for the first time. `named`: the spec lists it by its whole name."""
        if not named:
            self._say("new_host", f"asked for {host[:300]}:{port}, which is not listed by its name")

    def sees(self, text: bytes | str, where: str) -> bool:
        """Whether a known secret is in what is about to leave; if so that is a threat, and it should not leave. `where` says where it would go."""
        found = self.secrets.found_in(text)
        if found:
            self.secret_seen(where)
        return found

    def secret_seen(self, where: str) -> None:
        """A known secret was found in what was about to leave."""
        self._say("secret", f"a known secret was in {where[:300]}")

    def _say(self, kind: ThreatKind, detail: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self.on_threat(kind, detail)
