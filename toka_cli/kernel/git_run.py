"""Runs git for an agent, in a repository that the agent may have written, so that nothing in it gets to act: no hook, filter, monitor, remote or editor.

In: a place that was checked (`git_place.py`) and the arguments of one git command. Out: how it ended. Git works from a folder of the kernel's own: its config
is written here, of the repository's own only harmless keys are taken over, and objects, refs and index are linked in. The agent's config is never git's
config, so that nothing it writes there, before or while git runs, has any effect. Around it stands Landlock: this repository and nothing else of the user's.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from toka_cli.kernel.confined import Ended, run_confined
from toka_cli.kernel.git_place import GitPlace
from toka_cli.protocol.messages import Walls
from toka_cli.tools.git import GitEnd
from toka_cli.tools.tool import ToolFailed

TIMEOUT_S: Final = 60.0
MAX_STDERR: Final = 4000
DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
READABLE: Final = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/passwd", "/etc/nsswitch.conf", "/etc/localtime", "/dev/urandom")

CONFIG: Final[tuple[tuple[str, str], ...]] = (
    ("core.bare", "false"),
    ("core.logAllRefUpdates", "true"),
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.sshCommand", "/bin/false"),
    ("core.gitProxy", "/bin/false"),
    ("core.askPass", "/bin/false"),
    ("core.editor", "/bin/false"),
    ("core.pager", "cat"),
    ("core.alternateRefsCommand", "/bin/false"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("core.quotePath", "false"),
    ("commit.gpgSign", "false"),
    ("gpg.program", "/bin/false"),
    ("gpg.ssh.program", "/bin/false"),
    ("credential.helper", ""),
    ("protocol.allow", "never"),
    ("submodule.recurse", "false"),
    ("diff.ignoreSubmodules", "all"),
    ("status.submoduleSummary", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("advice.detachedHead", "false"),
)
"""What the repository's own config could make git start, switched off, and a few defaults that answers depend on (git-config(1))."""

_TRUE_OR_FALSE: Final = re.compile(r"true|false|yes|no|on|off|0|1", re.IGNORECASE)
TAKEN_OVER: Final[dict[str, re.Pattern[str]]] = {
    "core.filemode": _TRUE_OR_FALSE,
    "core.symlinks": _TRUE_OR_FALSE,
    "core.ignorecase": _TRUE_OR_FALSE,
    "core.precomposeunicode": _TRUE_OR_FALSE,
    "core.autocrlf": re.compile(r"true|false|input", re.IGNORECASE),
    "core.eol": re.compile(r"lf|crlf|native", re.IGNORECASE),
    "core.safecrlf": re.compile(r"true|false|warn", re.IGNORECASE),
    "core.repositoryformatversion": re.compile(r"[01]"),
    "extensions.objectformat": re.compile(r"sha1|sha256", re.IGNORECASE),
}
"""Keys of the repository's config that say what its files are, with the values that are believed."""


@dataclass(slots=True)
class GitRun:
    """Git commands in one repository. `scratch` is a folder that no agent can reach; `author` is (name, address).

    `secure` False: without Landlock even where there is one (only where the run itself was started without walls).
    """

    place: GitPlace
    scratch: Path
    program: Path
    author: tuple[str, str]
    caller: Mapping[str, str] = field(default_factory=dict)
    secure: bool = True
    _own: Path | None = None

    async def git(self, *arguments: str, stdin: bytes = b"") -> GitEnd:
        """Run one command. Raises ToolFailed when it cannot be run, or not to its end."""
        if arguments[0] == "commit" and (words := self.place.under_way()) is not None:
            # What would make it more than an ordinary commit is not part of the view that git is given.
            raise ToolFailed(f"{words} is under way in this working tree", hint="end it first, with git itself")
        if self._own is None:
            self._own = await self._make()
        options = ("--no-pager", "--no-replace-objects", "--literal-pathspecs", f"--git-dir={self._own}", f"--work-tree={self.place.workdir}")
        return self._end(await self._run(*options, *arguments, stdin=stdin), arguments[0])

    def close(self) -> None:
        """Remove the folder."""
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            self._own = None

    async def _make(self) -> Path:
        """The kernel's own view of the repository: the layout of git-new-workdir, with another config and without hooks."""
        head, _ = self.place.head()
        own = Path(tempfile.mkdtemp(prefix="git-", dir=self.scratch))
        try:
            taken = await self._taken_over()
            (own / "HEAD").write_bytes(head.encode("utf-8", "surrogateescape") + b"\n")
            (own / "config").write_text(_config_text({**dict(CONFIG), **taken}), encoding="utf-8")
            self._link(own)
        except BaseException:
            shutil.rmtree(own, ignore_errors=True)
            raise
        return own

    def _link(self, own: Path) -> None:
        """Let the kernel's own folder show what the repository has: objects, refs, what is ignored, and where changes of refs are noted."""
        common, tree = self.place.common, self.place.own
        (own / "logs").mkdir()
        (own / "info").mkdir()
        links = {name: common / name for name in ("objects", "refs", "packed-refs", "shallow")}
        links |= {f"info/{name}": common / "info" / name for name in ("exclude", "attributes")}
        links |= {"logs/refs": common / "logs" / "refs", "logs/HEAD": tree / "logs" / "HEAD"}
        links |= {path.name: path for path in tree.glob("sharedindex.*")}
        for name, target in links.items():
            if target.exists() and not target.is_symlink():
                (own / name).symlink_to(target)

    async def _taken_over(self) -> dict[str, str]:
        """Harmless keys of the repository's config. Git reads it as a file, and follows no include."""
        config = self.place.common / "config"
        if not config.exists():
            return {}
        ended = await self._run("config", "--no-includes", "-z", "--list", "--file", str(config))
        if ended.exit_code != 0:
            raise ToolFailed(f"the config of the repository cannot be read: {_words(ended)}")
        taken: dict[str, str] = {}
        for entry in ended.stdout.decode("utf-8", "replace").split("\0"):
            key, _, value = entry.partition("\n")
            if (allowed := TAKEN_OVER.get(key.lower())) is not None and allowed.fullmatch(value):
                taken[key.lower()] = value
            elif key.lower() == "extensions.refstorage" and value != "files":
                raise ToolFailed(f"the repository keeps its refs in a form ({value[:40]}) that toka does not read")
        return taken

    async def _run(self, *arguments: str, stdin: bytes = b"") -> Ended:
        try:
            return await run_confined(
                [str(self.program), *arguments],
                environment=self._environment(),
                directory=self._own or self.scratch,
                walls=self._walls() if self.secure else None,
                stdin=stdin,
                timeout_s=TIMEOUT_S,
            )
        except OSError as error:
            raise ToolFailed(f"git could not be started: {error.strerror or error}") from error

    def _end(self, ended: Ended, command: str) -> GitEnd:
        if ended.why is not None:
            raise ToolFailed(f"git {command} was ended: {ended.why}", hint="it may or may not have taken effect" if command in {"add", "commit"} else None)
        assert ended.exit_code is not None
        return GitEnd(ended.exit_code, ended.stdout, _words(ended))

    def _environment(self) -> dict[str, str]:
        name, address = self.author
        environment = {
            "PATH": str(self.program.parent),
            "HOME": str(self.scratch),
            "XDG_CONFIG_HOME": str(self.scratch),
            "LC_ALL": "C.UTF-8",
            "TERM": "dumb",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_SYSTEM": "/dev/null",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "SSH_ASKPASS": "/bin/false",
            "GIT_SSH_COMMAND": "/bin/false",
            "GIT_EDITOR": "/bin/false",
            "GIT_PAGER": "cat",
            "GIT_ALLOW_PROTOCOL": "",
            "GIT_PROTOCOL_FROM_USER": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_INDEX_FILE": str(self.place.own / "index"),
            "GIT_AUTHOR_NAME": self.caller.get("GIT_AUTHOR_NAME") or name,
            "GIT_AUTHOR_EMAIL": self.caller.get("GIT_AUTHOR_EMAIL") or address,
            "GIT_COMMITTER_NAME": self.caller.get("GIT_COMMITTER_NAME") or name,
            "GIT_COMMITTER_EMAIL": self.caller.get("GIT_COMMITTER_EMAIL") or address,
        }
        return environment | ({"TZ": self.caller["TZ"]} if self.caller.get("TZ") else {})

    def _walls(self) -> Walls:
        # /dev/null is opened for writing by every git.
        own = (str(self._own),) if self._own is not None else ()
        writable = (str(self.place.own), str(self.place.common), *own, "/dev/null")
        return Walls(
            level="standard",
            read=(*map(os.path.realpath, READABLE), str(self.place.workdir), *map(str, self.place.alternates)),
            execute=runnable(self.program),
            write=tuple(dict.fromkeys(writable)),
        )


def find_program(name: str, path: str, *, outside: Path) -> Path:
    """The absolute path of a program, links resolved; never one below `outside`, where it could have been planted. Raises ToolFailed."""
    for folder in path.split(":") if path else DEFAULT_PATH.split(":"):
        if folder.startswith("/") and (found := shutil.which(name, path=folder)):
            real = Path(os.path.realpath(found))
            if not real.is_relative_to(outside) and not Path(found).is_relative_to(outside):
                return real
    raise ToolFailed(f"{name} is not installed on this machine")


def runnable(program: Path) -> tuple[str, ...]:
    """What has to be executable for a program to start: itself, and the loader that it names."""
    loader = _loader(program)
    return (str(program), *((os.path.realpath(loader),) if loader else ()))


def _loader(program: Path) -> str | None:
    """PT_INTERP of an ELF file of 64 bits (elf(5)); None for anything else."""
    with program.open("rb") as file:
        head = file.read(64)
        if len(head) < 64 or head[:5] != b"\x7fELF\x02":
            return None
        order = "<" if head[5] == 1 else ">"
        (offset,) = struct.unpack_from(f"{order}Q", head, 32)
        size, count = struct.unpack_from(f"{order}HH", head, 54)
        file.seek(offset)
        table = file.read(min(size * count, 64 * 1024))
        for at in range(0, len(table) - size + 1, max(size, 1)):
            kind, _, where, _, _, length = struct.unpack_from(f"{order}IIQQQQ", table, at)
            if kind == 3 and 0 < length <= 4096:
                file.seek(where)
                return os.fsdecode(file.read(length).rstrip(b"\0"))
    return None


def _config_text(values: Mapping[str, str]) -> str:
    lines: list[str] = []
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        family, _, rest = section.partition(".")
        lines += [f'[{family} "{rest}"]' if rest else f"[{family}]", f'\t{name} = "{value}"']
    return "\n".join(lines) + "\n"


def _words(ended: Ended) -> str:
    return ended.stderr.decode("utf-8", "replace").strip()[:MAX_STDERR] or f"exit {ended.exit_code}"
