"""Which files that were written during a run make programs run code later, without anybody naming them: build files, hooks, an editor's or a shell's settings.

In: a working directory and a moment. Out: paths, each with the program that reads it. Looks at names and times only, at no more than so many entries, and
follows no links. A file is told by its ctime, which no program without power over the clock can put back. What git runs is the matter of `git_guard`.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

MAX_ENTRIES: Final = 100_000
MAX_S: Final = 2.0
SHOWN: Final = 12
TICK_S: Final = 0.02
"""Times of files come from a clock that ticks, every 10 ms at the slowest: one that was written just after a moment can seem to be from before it."""

# By name, wherever it lies: what the program's own manual says that it reads from the directory it is started in, or from one above.
FILES: Final[Mapping[str, str]] = {
    ".envrc": "direnv", ".npmrc": "npm", "package.json": "npm", ".yarnrc.yml": "yarn", ".pnpmfile.cjs": "pnpm",
    "Makefile": "make", "makefile": "make", "GNUmakefile": "make", "justfile": "just", "Rakefile": "rake", "CMakeLists.txt": "cmake",
    "conftest.py": "pytest", "pytest.ini": "pytest", "tox.ini": "tox", "noxfile.py": "nox", "setup.py": "pip", "setup.cfg": "pip", "pyproject.toml": "pip",
    "sitecustomize.py": "python", "usercustomize.py": "python", "build.rs": "cargo", "Cargo.toml": "cargo",
    "build.gradle": "gradle", "build.gradle.kts": "gradle", "gradlew": "gradle", "pom.xml": "maven", "Gemfile": "bundler",
    "Dockerfile": "docker", "Containerfile": "podman",
    "compose.yaml": "docker compose", "compose.yml": "docker compose", "docker-compose.yml": "docker compose",
    ".pre-commit-config.yaml": "pre-commit", ".gitlab-ci.yml": "GitLab CI", "Jenkinsfile": "Jenkins", ".mcp.json": "MCP clients", "Vagrantfile": "vagrant",
}  # fmt: skip
# By the folder that they lie in.
FOLDERS: Final[Mapping[str, str]] = {
    ".vscode": "Visual Studio Code", ".idea": "JetBrains IDEs", ".github/workflows": "GitHub Actions", ".circleci": "CircleCI", ".cargo": "cargo",
    ".husky": "git hooks of husky", ".claude": "coding agents", ".cursor": "coding agents", ".devcontainer": "dev containers",
}  # fmt: skip
SUFFIXES: Final[Mapping[str, str]] = {".pth": "python"}
SKIPPED: Final = frozenset({".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", "venv", ".tox", ".nox", "target"})
"""Made by tools and thrown away with them, or looked at elsewhere."""


def written_since(workdir: str, since_s: float) -> list[tuple[str, str]]:
    """Files below `workdir` that were written at or after `since_s` (seconds since 1970) and run code: (path, the program), sorted. Raises nothing."""
    found: list[tuple[str, str]] = []
    since_ns, entries, give_up = int((since_s - TICK_S) * 1e9), 0, time.monotonic() + MAX_S
    folders = [""]
    while folders and entries < MAX_ENTRIES and time.monotonic() < give_up:
        folder = folders.pop()
        with suppress(OSError), os.scandir(f"{workdir}/{folder}") as inside:
            for entry in inside:
                entries += 1
                path = f"{folder}/{entry.name}" if folder else entry.name
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders += [path] if entry.name not in SKIPPED else []
                    elif (reader := _reader(path, entry.name)) is not None:
                        status = entry.stat(follow_symlinks=False)
                        if status.st_ctime_ns >= since_ns and (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
                            found.append((path, reader))
    return sorted(found)


def sentence(found: Sequence[tuple[str, str]]) -> str | None:
    """What a person should know of them, None if there are none."""
    if not found:
        return None
    named = ", ".join(f"{path} ({reader})" for path, reader in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"written during this run, and run by programs that only find them there: {named}{more}; look at them before you use them"


def _reader(path: str, name: str) -> str | None:
    known = FILES.get(name) or SUFFIXES.get(f".{name.rpartition('.')[2]}")
    if known is not None:
        return known
    within = f"/{path}"
    return next((reader for folder, reader in FOLDERS.items() if f"/{folder}/" in within), None)
