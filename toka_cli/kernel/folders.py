"""Makes what was granted for writing in the workdir and does not exist yet, because a wall opens only what is there. In: names. Out: the paths made.

Links on the way are never followed; what cannot be made is left, and the wall then opens nothing there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Self


def make_granted(workdir: str, folders: Iterable[str], files: Iterable[str] = ()) -> list[str]:
    """Make folders and empty files by their names relative to the workdir, with the rights that new ones of this user get; the paths made."""
    made: list[str] = []
    for name, is_file in (*((name, False) for name in folders), *((name, True) for name in files)):
        above, _, last = name.rpartition("/") if is_file else (name, "", "")
        with _Walk(workdir) as walk:
            parts = above.split("/") if above else []
            if all(walk.into(part) for part in parts) and (not is_file or walk.touch(last)):
                made += [f"{workdir}/{name}"] if walk.made else []
    return made


class _Walk:
    """A way down from the workdir, each folder opened beneath the one before. `made`: something on it was not there."""

    def __init__(self, workdir: str) -> None:
        self._fd = os.open(workdir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.made = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def into(self, part: str) -> bool:
        """Go one folder down, making it where it is missing. False if that cannot be."""
        if part in {"", ".", ".."}:
            return part != ".."
        try:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=self._fd)
                self.made = True
            below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError:
            return False
        os.close(self._fd)
        self._fd = below
        return True

    def touch(self, name: str) -> bool:
        """Make an empty file here, unless something of that name is there. False if that cannot be."""
        try:
            with suppress(FileExistsError):
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=self._fd))
                self.made = True
        except OSError:
            return False
        return True
