"""Which power a program belongs to: git to git-access, cargo to cargo-execution, test runners and scripts of the workspace to script-execution.

An argv comes in, a power and the program's name go out. Only what is going to be run is looked at, never what a task says of itself, and the text of a
shell line is not taken apart: the walls hold what it starts. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_BY_POWER: Final[dict[str, frozenset[str]]] = {
    "git-access": frozenset({"git", "git-lfs", "gitk", "tig", "jj"}),
    "cargo-execution": frozenset({"cargo", "rustc", "rustdoc", "rustup", "rustfmt", "clippy-driver"}),
    "script-execution": frozenset(
        {
            "pytest", "py.test", "tox", "nox", "unittest", "coverage", "pip", "pip3", "pipx", "uv", "uvx", "poetry", "pdm", "hatch", "venv", "virtualenv",
            "npm", "npx", "pnpm", "yarn", "bun", "bunx", "corepack", "jest", "vitest", "mocha", "tsc", "tsx", "ts-node", "eslint",
            "make", "gmake", "ninja", "cmake", "ctest", "meson", "bazel", "just", "task", "rake", "bundle", "gradle", "mvn", "ant", "go", "dotnet",
        }
    ),
}  # fmt: skip
"""Programs that run what lies in the workspace, or work on what only that power opens. Compilers, editors, shells and sqlite3 belong to none."""

_POWER_OF: Final = {program: power for power, programs in _BY_POWER.items() for program in programs}

# Interpreters, with the options after which the next word is not a script (`python -c code`, `node -e code`), and those that take a value with them.
_PYTHON: Final = re.compile(r"(?:python|pypy)(?:\d+(?:\.\d+)*)?t?", re.ASCII)
_VERSIONED: Final = re.compile(r"(?P<name>pip|pytest)-?\d+(?:\.\d+)*", re.ASCII)
_INLINE: Final[dict[str, frozenset[str]]] = {
    "python": frozenset({"-c"}),
    "node": frozenset({"-e", "--eval", "-p", "--print", "-pe"}),
    "deno": frozenset({"eval", "repl"}),
    "ruby": frozenset({"-e"}),
    "perl": frozenset({"-e", "-E"}),
    "php": frozenset({"-r"}),
    "sh": frozenset({"-c"}),
}
_WITH_VALUE: Final[dict[str, frozenset[str]]] = {
    "python": frozenset({"-W", "-X"}),
    "node": frozenset({"-r", "--require", "--import", "--loader", "--conditions", "-C"}),
    "ruby": frozenset({"-I", "-r"}),
    "perl": frozenset({"-I"}),
    "sh": frozenset({"-o", "-O", "--rcfile", "--init-file"}),
}
_SHELLS: Final = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash"})
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=", re.ASCII)


@dataclass(frozen=True, slots=True)
class Program:
    """What an argv runs: the power that it belongs to (None: a program of the system), and the name by which a narrowed grant lists it."""

    power: str | None
    name: str


def program_of(argv: Sequence[str]) -> Program:
    """Return what is run. A script of the workspace is named by its relative path, a module of `python -m` by its name."""
    words = _without_env(argv)
    if not words or not words[0]:
        return Program(None, "")
    first = words[0]
    name = first.rsplit("/", 1)[-1]
    versioned = _VERSIONED.fullmatch(name)
    plain = versioned["name"] if versioned else name
    if _in_workspace(first):
        # Whatever a file of the workspace is called, it is not the system's program of that name.
        return Program("script-execution", first.removeprefix("./"))
    if plain.startswith("cargo-"):
        return Program("cargo-execution", plain)
    if plain in _POWER_OF:
        return Program(_POWER_OF[plain], plain)
    language = "python" if _PYTHON.fullmatch(name) else "sh" if name in _SHELLS else "node" if name == "nodejs" else name
    if language in _INLINE:
        return _script(language, name, words[1:])
    return Program(None, name)


def power_of_program(argv: Sequence[str]) -> str | None:
    """Return the power that is needed to run this argv, or None when it is a program that every agent may run."""
    return program_of(argv).power


def _script(language: str, name: str, words: Sequence[str]) -> Program:
    """What an interpreter is going to run."""
    skip = False
    for index, word in enumerate(words):
        if skip:
            skip = False
            continue
        if word in _INLINE[language] or (language == "sh" and re.fullmatch(r"-[a-z]*c", word)):
            return Program(None, name)
        if language == "python" and word == "-m":
            module = words[index + 1].split(".")[0] if index + 1 < len(words) else ""
            return Program(_POWER_OF.get(module), module or name)
        if language == "node" and word == "--test":
            return Program("script-execution", name)
        if word.startswith("-") and word != "-":
            skip = word in _WITH_VALUE.get(language, frozenset())
            continue
        if language == "deno" and word in {"run", "test", "task", "bench"}:
            return Program("script-execution", name)
        return Program("script-execution", word.removeprefix("./")) if word != "-" and not word.startswith("/") else Program(None, name)
    return Program(None, name)


def _in_workspace(word: str) -> bool:
    return "/" in word and not word.startswith("/")


def _without_env(argv: Sequence[str]) -> Sequence[str]:
    """The argv behind `env NAME=value ...`, which runs it."""
    if not argv or argv[0].rsplit("/", 1)[-1] != "env":
        return argv
    for index, word in enumerate(argv[1:], start=1):
        if not (_ASSIGNMENT.match(word) or word in {"-i", "-", "--ignore-environment", "--"}):
            return () if word.startswith("-") else argv[index:]
    return ()
