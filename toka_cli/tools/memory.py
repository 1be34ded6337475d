"""memory_store, memory_search, memory_retrieve, memory_consolidate: what an agent wants to know in a later run. In: notes and words. Out: notes.

Each agent has its own notes, by its name and by the directory that it works on; nobody else's can be read. The kernel keeps them (`state/memory.py`). The
same four tools answer to the names `cortex_*` too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final

import msgspec

from toka_cli.tools.tool import Answer, Arguments, Tool, ToolContext, ToolFailed

MAX_TEXT: Final = 16 * 1024
MAX_KEY: Final = 200
MAX_TAGS: Final = 10
MAX_HITS: Final = 50
MAX_KEYS: Final = 100

Key = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KEY, description="The name of a note.")]
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT)]


class MemoryStore(Arguments, frozen=True):
    """Arguments of memory_store."""

    text: Annotated[Text, msgspec.Meta(description="What to remember.")]
    key: Key | None = None
    tags: Annotated[tuple[Tag, ...], msgspec.Meta(max_length=MAX_TAGS)] = ()


class Stored(Answer, frozen=True):
    """The note is kept under `key`. `replaced`: there was one of that name before. `notes` counts all of them."""

    key: str
    replaced: bool
    notes: int


class MemorySearch(Arguments, frozen=True):
    """Arguments of memory_search."""

    query: Annotated[str, msgspec.Meta(min_length=1, max_length=1000, description="Words to look for; the notes that fit best come first.")]
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_HITS)] = 10
    tags: Annotated[tuple[Tag, ...], msgspec.Meta(max_length=MAX_TAGS, description="Only notes that have all of these.")] = ()


class Hit(Answer, frozen=True):
    """A note that fits. `excerpt` is its beginning or the part with the words; `updated_at` is RFC 3339, UTC."""

    key: str
    excerpt: str
    tags: tuple[str, ...]
    updated_at: str


class Hits(Answer, frozen=True):
    """What was found, best first. `notes` counts all notes there are. `partly`: no note has all the words, these have some."""

    hits: tuple[Hit, ...]
    notes: int
    partly: bool = False


class MemoryRetrieve(Arguments, frozen=True):
    """Arguments of memory_retrieve."""

    keys: Annotated[tuple[Key, ...], msgspec.Meta(max_length=MAX_KEYS, description="Names of notes; left out: the newest ones.")] = ()
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_HITS)] = 10


class NoteText(Answer, frozen=True):
    """A whole note. Times are RFC 3339, UTC."""

    key: str
    text: str
    tags: tuple[str, ...]
    created_at: str
    updated_at: str


class Notes(Answer, frozen=True):
    """Notes, and the names under which there is none. `cut`: there are more, or they did not fit."""

    notes: tuple[NoteText, ...]
    missing: tuple[str, ...] = ()
    cut: bool = False


class MemoryConsolidate(Arguments, frozen=True):
    """Arguments of memory_consolidate."""

    keys: Annotated[tuple[Key, ...], msgspec.Meta(max_length=MAX_KEYS, description="Notes to put together; left out: only remove doubles.")] = ()
    text: Annotated[Text | None, msgspec.Meta(description="What to keep in their place.")] = None
    key: Key | None = None
    tags: Annotated[tuple[Tag, ...], msgspec.Meta(max_length=MAX_TAGS)] = ()


class Consolidated(Answer, frozen=True):
    """How many notes are gone, the name of the one that was made of them, and how many there are now."""

    removed: int
    key: str | None
    notes: int


async def run_memory(arguments: Arguments, context: ToolContext) -> Answer:
    """Raises ToolFailed, also for text that holds a known secret."""
    if context.hands is None:
        raise ToolFailed("notes are kept by the kernel only")
    if isinstance(arguments, MemoryConsolidate) and bool(arguments.keys) != (arguments.text is not None):
        raise ToolFailed("memory_consolidate takes keys and text together, or neither")
    if isinstance(arguments, MemoryStore | MemoryConsolidate):
        written = "\n".join(part for part in (arguments.text, arguments.key, *arguments.tags) if part)
        if context.hands.sees_secret(written, "a note"):
            raise ToolFailed("refused: a secret of toka's own is in the note", code="secret")
    answer: Answer = await context.hands.remember(arguments)
    return _bounded(answer, context.output_limit) if isinstance(answer, Notes) else answer


def _bounded(notes: Notes, limit: int) -> Notes:
    kept: list[NoteText] = []
    for note in notes.notes:
        limit -= len(note.text.encode("utf-8", "replace")) + len(note.key) + 128
        if limit < 0 and kept:
            return msgspec.structs.replace(notes, notes=tuple(kept), cut=True)
        kept.append(note)
    return notes


# No power: an agent's own notes are nobody else's, and hold nothing that it did not write itself (SECURITY).
_OWN: Final = (
    Tool(
        name="memory_store",
        description="Remember a note for later runs, under a name; the same name replaces it.",
        arguments=MemoryStore,
        result=Stored,
        power=None,
        effect="keyed",
        where="kernel",
        read_only=False,
        run=run_memory,
        calls_per_minute=60,
    ),
    Tool(
        name="memory_search",
        description="Search your own notes of this and earlier runs.",
        arguments=MemorySearch,
        result=Hits,
        power=None,
        effect="pure",
        where="kernel",
        read_only=True,
        run=run_memory,
        calls_per_minute=240,
    ),
    Tool(
        name="memory_retrieve",
        description="Read whole notes of your own by their names, or the newest ones.",
        arguments=MemoryRetrieve,
        result=Notes,
        power=None,
        effect="pure",
        where="kernel",
        read_only=True,
        run=run_memory,
        calls_per_minute=240,
    ),
    Tool(
        name="memory_consolidate",
        description="Put several notes of your own together into one that you write, or remove notes that say the same twice.",
        arguments=MemoryConsolidate,
        result=Consolidated,
        power=None,
        effect="keyed",
        where="kernel",
        read_only=False,
        run=run_memory,
        calls_per_minute=30,
    ),
)


def _also_called(tool: Tool, name: str) -> Tool:
    return replace(tool, name=name, description=f"The same as {tool.name}.", alias_of=tool.name)


TOOLS: Final = (*_OWN, *(_also_called(tool, tool.name.replace("memory_", "cortex_")) for tool in _OWN))
