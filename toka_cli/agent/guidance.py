"""What a working directory says to agents: its nearest AGENTS.md, and the skills that lie in it. In: a directory. Out: bounded texts.

Read with the cell's own eyes, within its walls, and only where the agent may read files at all. Links are not followed; what cannot be read is not there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

AGENTS_BYTES: Final = 32 * 1024
MAX_LEVELS: Final = 16
SKILL_FOLDERS: Final = (".agents/skills", ".claude/skills", "skills")
MAX_SKILLS: Final = 30
_SKILL_BYTES: Final = 8 * 1024


@dataclass(frozen=True, slots=True)
class Skill:
    """A file of instructions for one kind of work: its name and description, and where it lies below the working directory."""

    name: str
    description: str
    path: str


@dataclass(frozen=True, slots=True)
class Guidance:
    """`agents` is the path of the nearest AGENTS.md and its text."""

    agents: tuple[str, str] | None = None
    skills: tuple[Skill, ...] = ()


def read_guidance(workdir: str) -> Guidance:
    """What is there for agents that work in `workdir`."""
    return Guidance(_agents(workdir), tuple(_skills(workdir)))


def _agents(workdir: str) -> tuple[str, str] | None:
    """AGENTS.md of the working directory, else of the nearest folder above it that belongs to the same repository."""
    for level, folder in enumerate(_upwards(workdir)):
        data = _read(os.path.join(folder, "AGENTS.md"), AGENTS_BYTES + 1)
        if data is not None:
            text = data[:AGENTS_BYTES].decode("utf-8", "replace")
            if len(data) > AGENTS_BYTES:
                text += f"\n[cut after {AGENTS_BYTES} bytes]"
            return "../" * level + "AGENTS.md", text
    return None


def _upwards(workdir: str) -> Iterable[str]:
    """The working directory and, if it lies within a repository, the folders above it up to the root of that."""
    found, folder = [], os.path.abspath(workdir)
    for _ in range(MAX_LEVELS):
        found.append(folder)
        if os.path.lexists(os.path.join(folder, ".git")):
            return found
        above = os.path.dirname(folder)
        if above == folder:
            break
        folder = above
    return found[:1]


def _skills(workdir: str) -> Iterable[Skill]:
    seen: set[str] = set()
    for place in SKILL_FOLDERS:
        try:
            names = sorted(os.listdir(os.path.join(workdir, place)))
        except OSError:
            continue
        for name in names:
            path = f"{place}/{name}/SKILL.md"
            data = _read(os.path.join(workdir, path), _SKILL_BYTES)
            if data is None or len(seen) >= MAX_SKILLS:
                continue
            head = _head(data.decode("utf-8", "replace"))
            title = head.get("name") or name
            if title not in seen and title.isprintable():
                seen.add(title)
                yield Skill(title[:64], " ".join(head.get("description", "").split())[:500], path)


def _head(text: str) -> dict[str, str]:
    """The plain `key: value` lines between the two lines `---` at the beginning; other YAML is passed over, no cell loads a parser for it."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    found: dict[str, str] = {}
    for line in lines[1:60]:
        if line.strip() == "---":
            return found
        key, colon, value = line.partition(":")
        if colon and key.strip() == key and key.isidentifier():
            found[key] = value.strip().strip("\"'")
    return {}


def _read(path: str, limit: int) -> bytes | None:
    """At most `limit` bytes of a regular file; None for anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, limit) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except OSError:
        return None
    finally:
        os.close(descriptor)
