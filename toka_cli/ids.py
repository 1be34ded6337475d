"""Names for runs and agents: short, typeable, unique on a machine. Chance comes in as an argument so that tests and replay are deterministic."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import random
    from typing import Final

# Crockford's base 32: no i, l, o, u, so that an id read aloud or copied by hand is not mistaken.
ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
RUN_ID_LENGTH: Final = 10


def run_id(rng: random.Random) -> str:
    """A new run id: ten characters, 50 bits of chance, the first one a letter so that it is never mistaken for a number."""
    return rng.choice(ALPHABET[10:]) + "".join(rng.choice(ALPHABET) for _ in range(RUN_ID_LENGTH - 1))


def agent_id(run: str, index: int) -> str:
    """The id of the agent at `index` (from 1, in plan order) of a run: `RUN-INDEX`. A gate's cell has no id of its own."""
    return f"{run}-{index}"


def is_run_id(text: str) -> bool:
    """True if the text could be a run id: used before a folder name is trusted."""
    return len(text) == RUN_ID_LENGTH and all(char in ALPHABET for char in text)
