"""Puts into an agent's private home what the toolchains of its grants look for there: who commits, and the crates that this machine has already.

In: the private folder, the plan, the environment that toka was started in. Never a credential, and nothing of the user's own configuration but a name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from toka_cli.plan.plan import PlannedAgent

MAX_CONFIG_BYTES: Final = 256 * 1024
_SECTION: Final = re.compile(r"\[\s*(?P<name>[A-Za-z0-9.-]+)\s*(?P<sub>\"[^\"]*\")?\s*\]\s*(?P<rest>.*)")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def furnish_home(private: Path, planned: PlannedAgent, caller: Mapping[str, str]) -> None:
    """Write what the agent's grants call for; done again it changes nothing. Raises OSError when the folder cannot be written."""
    if "git-access" in planned.grants:
        name, address = identity(planned, caller)
        text = f'[user]\n\tname = "{_quoted(name)}"\n\temail = "{_quoted(address)}"\n'
        (private / ".gitconfig").write_text(text, encoding="utf-8")
    if "cargo-execution" in planned.grants and not planned.hosts:
        # With a network it fills a registry of its own; without one it can only build from what is there.
        _link_registry(private / ".cargo", Path(caller.get("CARGO_HOME") or f"{caller.get('HOME', '/')}/.cargo"))


def identity(planned: PlannedAgent, caller: Mapping[str, str]) -> tuple[str, str]:
    """(name, address) for commits: those of the user, as the environment or git's own files of the user say; else the agent's name."""
    found = {"name": caller.get("GIT_AUTHOR_NAME"), "email": caller.get("GIT_AUTHOR_EMAIL")}
    home = caller.get("HOME", "")
    files = [f"{home}/.gitconfig", f"{caller.get('XDG_CONFIG_HOME') or f'{home}/.config'}/git/config", "/etc/gitconfig"]
    for path in files if home else files[-1:]:
        for key, value in _user_of(path).items():
            found[key] = found.get(key) or value
    return found["name"] or f"toka agent {planned.name}", found["email"] or f"{planned.name}@toka.invalid"


def _user_of(path: str) -> dict[str, str]:
    """The keys of the section [user] in a file of git's (git-config(1)); what the file includes is not followed."""
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            lines = file.read(MAX_CONFIG_BYTES).splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    inside = False
    for line in lines:
        text = line.strip()
        section = _SECTION.match(text)
        if section is not None:
            inside, text = section["name"].lower() == "user" and section["sub"] is None, section["rest"]
        key, separator, value = text.partition("=")
        if inside and separator and key.strip().lower() in {"name", "email"}:
            # The last one counts, as it does for git.
            found[key.strip().lower()] = _value(value)
    return {key: value for key, value in found.items() if value}


def _value(text: str) -> str:
    """A value as git reads it: quotes go, escapes are undone, a comment ends it."""
    found: list[str] = []
    quoted = False
    chars = iter(text.strip())
    for char in chars:
        if char == "\\":
            found.append(next(chars, ""))
        elif char == '"':
            quoted = not quoted
        elif char in "#;" and not quoted:
            break
        else:
            found.append(char)
    return _UNPRINTABLE.sub("", "".join(found)).strip()[:200]


def _quoted(text: str) -> str:
    return _UNPRINTABLE.sub("", text).replace("\\", "\\\\").replace('"', '\\"')


def _link_registry(cargo_home: Path, real: Path) -> None:
    cargo_home.mkdir(mode=0o700, exist_ok=True)
    for name in ("registry", "git"):
        target = Path(os.path.realpath(real / name))
        if target.is_dir() and target.is_relative_to(os.path.realpath(real)):
            with suppress(FileExistsError):
                (cargo_home / name).symlink_to(target)
