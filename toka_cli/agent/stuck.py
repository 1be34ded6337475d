"""Notices that a model goes in circles: the same call with the same result, again and again, or two or three of them by turns.

In: calls and results in order. Out: yes or no. A result that differs only in how long something took, or when, is the same result.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final

LONGEST_PERIOD: Final = 3
ROUNDS: Final = 3
"""So many times in a row is a circle (RELIABILITY, "Providers")."""
ROUNDS_AFTER_NUDGE: Final = 2

_TIMES: Final = re.compile(r"\b\d+(?:\.\d+)?\s?(?:s|ms|us|µs|ns|sec|secs|seconds|minutes)\b|\b\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?\b")


class Circle:
    """The last calls of a conversation. `nudged`: the model was told once already."""

    def __init__(self) -> None:
        self.nudged = False
        self._seen: list[bytes] = []

    def add(self, tool: str, arguments: str, result: str) -> None:
        """Note a call and what came of it."""
        text = f"{tool}\0{arguments}\0{_TIMES.sub('#', result)}"
        self._seen.append(sha256(text.encode("utf-8", "backslashreplace")).digest())
        del self._seen[: -LONGEST_PERIOD * ROUNDS]

    def found(self) -> bool:
        """True if the last calls repeat with a period of at most LONGEST_PERIOD."""
        rounds = ROUNDS_AFTER_NUDGE if self.nudged else ROUNDS
        for period in range(1, LONGEST_PERIOD + 1):
            last = self._seen[-period * rounds :]
            if len(last) == period * rounds and all(last[at] == last[at % period] for at in range(len(last))):
                return True
        return False

    def nudge(self) -> None:
        """The model is told: what it did until now does not count twice."""
        self.nudged = True
        self._seen.clear()
