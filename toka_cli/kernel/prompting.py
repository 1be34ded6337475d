"""What only this machine can add to an agent's prompts: the user's own templates, and how much its models can take in. In: a folder, the gateway. Out: a
PromptContext for the cell. Reads files of the user, never of a repository.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from toka_cli.llm.provider import ModelInfo, ProviderError
from toka_cli.protocol.messages import PromptContext

MAX_TEMPLATES: Final = 32
MAX_TEMPLATE_BYTES: Final = 32 * 1024
MAX_TOTAL_BYTES: Final = 256 * 1024
"""All of them go into one brief, which has to fit into a frame."""


def own_templates(folder: Path) -> dict[str, str]:
    """The files `NAME.md` of a folder by their names: a domain, one of the templates that ship with toka, or `rules`. No folder: none.

    A file that is no regular one, is too large or is not UTF-8 is passed over.
    """
    found: dict[str, str] = {}
    room = MAX_TOTAL_BYTES
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix == ".md")
    except OSError:
        return {}
    for name in names[:MAX_TEMPLATES]:
        text = _text(folder / name)
        if text is not None and len(text.encode()) <= room:
            room -= len(text.encode())
            found[name.removesuffix(".md").lower()] = text
    return found


async def cell_prompt(
    prompt: PromptContext | None, describe: Callable[[str], Awaitable[ModelInfo]] | None, templates: Mapping[str, str]
) -> PromptContext | None:
    """The context as its cell gets it: with the user's templates, and with the smallest window among its models, as far as those are known."""
    if prompt is None:
        return None
    windows = [prompt.context_window]
    if describe is not None and prompt.model:
        windows += [await _window(describe, model) for model in (prompt.model, *prompt.fallbacks)]
    window = min((one for one in windows if one), default=None)
    return msgspec.structs.replace(prompt, templates=dict(templates), context_window=window)


async def _window(describe: Callable[[str], Awaitable[ModelInfo]], model: str) -> int | None:
    """Tokens that a model takes in, None when that is not known: the first turn will say what is wrong with it."""
    try:
        return (await describe(model)).context_window
    except ProviderError:
        return None


def _text(path: Path) -> str | None:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            data = file.read(MAX_TEMPLATE_BYTES + 1)
            return data.decode("utf-8") if len(data) <= MAX_TEMPLATE_BYTES else None
    except (OSError, UnicodeDecodeError):
        return None
