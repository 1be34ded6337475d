"""How long to wait before another try. Pure: the chance comes in, the delay goes out; nobody sleeps here."""

from __future__ import annotations

import random
from typing import Final

MAX_DELAY_S: Final = 60.0
JITTER: Final = 0.2


def delay_s(attempt: int, *, first_s: float, factor: float, rng: random.Random, limit_s: float = MAX_DELAY_S) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 1): first_s * factor^(attempt-1), at most `limit_s`, give or take 20 %.

    The jitter keeps agents that failed together from trying again together.
    """
    # The exponent is bounded so that a large attempt number cannot overflow the float.
    base = min(first_s * factor ** min(attempt - 1, 64), limit_s)
    return base * rng.uniform(1 - JITTER, 1 + JITTER)
