"""Remembers what no further asking can change: a key that is refused, a quota that is used up, a model that does not exist. For the whole run.

In: the first failure of such a kind. Out: the same failure, for everybody who would have asked next, without asking. It never closes again: a resumed run
starts with a new one.
"""

from __future__ import annotations

from toka_cli.llm.provider import BREAKING, ProviderError


class Breaker:
    """Failures by provider (`auth`, `quota`) and by model (`unknown_model`)."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str | None], ProviderError] = {}

    def trip(self, lane: str, model: str, error: ProviderError) -> tuple[str, str | None] | None:
        """Note a failure. Returns what is not asked any more, (lane, model or None for all of the lane), if that is new; None otherwise."""
        if error.cause not in BREAKING:
            return None
        key = (lane, model if error.cause == "unknown_model" else None)
        if key in self._open:
            return None
        self._open[key] = error
        return key

    def found(self, lane: str, model: str) -> ProviderError | None:
        """Why this model is not asked, as a new error; None: ask."""
        first = self._open.get((lane, None)) or self._open.get((lane, model))
        return again(first) if first is not None else None


def again(first: ProviderError) -> ProviderError:
    """The failure of another agent, told to one that has not asked."""
    return ProviderError(first.cause, f"{first.message} (found out by another request of this run; not asked again)", hint=first.hint)
