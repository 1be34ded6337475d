"""Was it the sandbox? In: what a failed command wrote and its exit status, its walls, the powers of its agent. Out: a hint that names the missing grant.

A hint is given only where the walls really refuse what the output complains about; everything else may be anybody's fault. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from posixpath import join, normpath
from typing import Final

from toka_cli.policy.capability import held
from toka_cli.policy.confine import within
from toka_cli.policy.programs import power_of_program
from toka_cli.policy.validator import STANDING, lines_to_add
from toka_cli.protocol.messages import Walls

MAX_CHARS: Final = 64 * 1024
MAX_COMPLAINTS: Final = 200

EXIT_NOT_EXECUTABLE: Final = 126
"""What shells, and toka itself, answer for a program that is there and may not be run."""

EXIT_NOT_FOUND: Final = 127
"""The same for a program that is not there; where an agent has a view of its own, that is what it is told of all that was not granted."""

_MISSING: Final = r"[Nn]o such file or directory|[Dd]irectory nonexistent"
_REFUSED: Final = rf"(?:[Pp]ermission denied|[Oo]peration not permitted|[Rr]ead-only file system|{_MISSING})"
_PATH: Final = (
    r"(?:'(?P<single>[^'\n]{1,1000})'|\"(?P<double>[^\"\n]{1,1000})\"|`(?P<tick>[^'`\n]{1,1000})[`']"
    r"|\u2018(?P<curly>[^\u2019\n]{1,1000})\u2019|(?P<bare>[^\s:'\"\u2018]{1,1000}))"
)
_FAILED_TO: Final = (
    r"cannot (?:open|create|touch|remove|write|stat|access|create directory)|could not (?:open|lock|write|create)"
    r"|unable to (?:create|open|access|write)|can't (?:open|create|cd to)"
)
_COMPLAINTS: Final = (
    # PermissionError: [Errno 13] Permission denied: 'out.txt' / Error: EACCES: permission denied, open '/x'
    re.compile(rf"\[Errno (?:1|2|13|30)\] (?P<what>{_REFUSED}): {_PATH}"),
    re.compile(rf"(?:EACCES|EPERM|EROFS|ENOENT): (?P<what>[a-z -]{{1,60}}), (?P<act>\w{{1,20}}) {_PATH}"),
    # cat: cannot open 'x': Permission denied / sh: 1: cannot create out.txt: Permission denied / bash: ./x: Permission denied
    re.compile(rf"(?P<act>{_FAILED_TO})[^'\"\n:`]{{0,40}}? {_PATH}:[^\n]{{0,200}}?(?P<what>{_REFUSED})"),
    re.compile(rf"(?:^|[\s:]){_PATH}: (?P<what>{_REFUSED})", re.MULTILINE),
)
# `this could not be read: Permission denied`: a word of a sentence, and not the name of a file.
_SENTENCE: Final = re.compile(r"\w[ \t]$", re.ASCII)
_WRITES: Final = re.compile(r"create|touch|remove|write|lock|mkdir|unlink|rename|rmdir|copyfile|symlink|link|chmod|[Rr]ead-only")
_READER: Final = re.compile(r"(?:^|[/\s])(?:cat|head|tail|less|more|grep|ls|wc|sort|uniq|diff|cmp|find|file|stat|md5sum|sha256sum|awk|sed): ?$", re.MULTILINE)
_READS: Final = re.compile(r"scandir|opendir|readdir|readlink|access|stat|cd to")
_UNFOUND: Final = re.compile(
    rf"(?:^|[\s:])[\u2018'\"]?(?P<name>[A-Za-z0-9][\w.+-]{{0,60}})[\u2019'\"]?: (?:command not found|not found|{_MISSING}|[Pp]ermission denied)", re.MULTILINE
)
_SOMETHING_MISSING: Final = re.compile(
    rf"{_MISSING}|ENOENT|[Nn]ot found|[Cc](?:ould not|annot|an't) (?:find|locate|open|load)|[Dd]oes not exist|No module named|[Nn]ot a git repository"
    r"|[Nn]o tests ran|[Nn]o rule to make|[Nn]o targets specified"
)
_NO_REPOSITORY: Final = re.compile(r"^fatal: not a git repository", re.MULTILINE)
# SQLite names no file and no reason.
_DATABASE: Final = re.compile(r"unable to open database|attempt to write a readonly database")
_INTERPRETER: Final = re.compile(r"(?:python|pypy)(?:\d+(?:\.\d+)*)?|node|nodejs|deno|ruby|php|java|go")
_NETWORK: Final = re.compile(
    r"[Cc]ould not resolve (?:host|proxy)|[Nn]ame or service not known|[Tt]emporary failure in name resolution|[Nn]etwork is unreachable"
    r"|[Nn]o address associated with hostname|getaddrinfo E\w+|EAI_AGAIN|ENETUNREACH|[Nn]ame does not resolve|[Ff]ailed to lookup address"
    r"|Tunnel connection failed: 403|Received HTTP code 403 from proxy|403 (?:Forbidden )?from (?:the )?proxy|failed to resolve '?[\w.-]+'?"
    r"|\[Errno (?:1|13|97)\] [^\n]{0,60}(?:socket|[Aa]ddress family)|socket[^\n]{0,40}: (?:[Oo]peration not permitted|[Pp]ermission denied)"
    r"|spurious network error|attempting to make an HTTP request, but --offline"
)
_HOST: Final = re.compile(
    r"(?:resolve host:? |resolve '|ENOTFOUND |EAI_AGAIN |https?://|to |host=')"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})?(?:\.[A-Za-z0-9-]{1,63}){1,8})(?::(?P<port>\d{1,5}))?"
)
# Where toolchains live when they are not the system's; what lies there comes with the power.
_TOOLCHAINS: Final = (
    ("git-access", re.compile(r"^/etc/git(?:config|attributes)$")),
    ("cargo-execution", re.compile(r"/\.(?:cargo|rustup)(?:/|$)")),
    ("script-execution", re.compile(r"/(?:\.pyenv|\.nvm|\.asdf|\.volta|\.rbenv|\.fnm|miniconda3?|anaconda3?|\.local/share/(?:mise|uv|fnm|pipx))(?:/|$)")),
)


def denied_hint(
    text: str, exit_code: int | None, walls: Walls | None, powers: Collection[str], workdir: str, *, private: str = ""
) -> str | None:
    """Return what the walls refused and which grant would allow it: the lines to add, then one sentence, last. None when it was not the walls, or nobody
    can tell.

    `text` is what the command wrote (its end is looked at), `powers` are those of the agent or task, `workdir` is absolute and resolved. `private` is how
    paths of the agent's own folder begin.
    """
    if walls is None or walls.level == "process":
        return None
    end = text[-MAX_CHARS:]
    owned = held(powers)
    program = _program_hint(end, exit_code, owned)
    if program is not None:
        return program
    for path, right, missing in _complaints(end, exit_code, workdir):
        if private and path.startswith(private):
            continue
        # What is missing was hidden only where an agent has a view of its own, and only if nothing of it is shown.
        if missing and (walls.level != "full" or _rights(path, walls) or not within(path, workdir)):
            continue
        found = _file_hint(path, right or ("read" if missing else None), walls, owned, workdir)
        if found is not None:
            return found
    if "git-access" not in owned and _NO_REPOSITORY.search(end) and _rights(workdir, walls):
        return _hint("the files of git come with git-access, which is not granted", "git-access")
    if _DATABASE.search(end) and "write" not in (allowed := _rights(workdir, walls)):
        return _file_hint(workdir, "write" if allowed else "read", walls, owned, workdir)
    return _network_hint(end, walls, owned)


def nothing_there(text: str, walls: Walls | None, workdir: str) -> str | None:
    """Return a hint for a command that missed something where no grant opens the workdir: that is an empty place then. None when nothing was missed."""
    if walls is None or walls.level == "process" or _SOMETHING_MISSING.search(text[-MAX_CHARS:]) is None:
        return None
    granted = (*walls.read, *walls.execute, *walls.write, *walls.write_execute)
    if any(within(path, workdir) or within(workdir, path) for path in granted):
        return None
    opens = "filesystem-read shows its files, filesystem-write lets them be changed, script-execution lets them be run"
    return _hint(f"nothing of the workdir {workdir} is there, because no grant opens it ({opens})", "filesystem-read")


def _program_hint(text: str, exit_code: int | None, owned: Collection[str]) -> str | None:
    """For a program that was not found, or could not be run: the power that it comes with, where that is not held."""
    if exit_code not in {EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND}:
        return None
    for match, _ in zip(_UNFOUND.finditer(text), range(MAX_COMPLAINTS), strict=False):
        name = match["name"]
        power = power_of_program([name]) or ("script-execution" if _INTERPRETER.fullmatch(name) else None)
        if power is not None and power not in owned:
            return _hint(f"{name} comes with {power}, which is not granted", power)
    return None


def _complaints(text: str, exit_code: int | None, workdir: str) -> Iterator[tuple[str, str | None, bool]]:
    """(absolute path, what was wanted of it as far as it can be told, whether it was missing) of each refusal in the text."""
    seen: set[int] = set()
    for pattern in _COMPLAINTS:
        for match in pattern.finditer(text):
            if match.start("what") in seen:
                # Another shape has read the same complaint, and more of it.
                continue
            seen.add(match.start("what"))
            if len(seen) > MAX_COMPLAINTS:
                return
            groups = match.groupdict()
            path = next(found for name in ("single", "double", "tick", "curly", "bare") if (found := groups.get(name)))
            at = match.start("bare")
            if groups.get("act") is None and at > 0 and path.isalpha() and _SENTENCE.search(text[max(0, at - 2) : at]):
                continue
            words = f"{groups.get('act') or ''} {groups['what']}"
            right = "write" if _WRITES.search(words) else "read" if _READS.search(words) else None
            if right is None and exit_code == EXIT_NOT_EXECUTABLE:
                right = "run"
            elif right is None and _READER.search(text, max(0, match.start() - 80), match.start() + 1):
                right = "read"
            yield normpath(join(workdir, path)), right, re.search(f"{_MISSING}|no such file", groups["what"]) is not None


def _file_hint(path: str, right: str | None, walls: Walls, owned: Collection[str], workdir: str) -> str | None:
    allowed = _rights(path, walls)
    # Unless it is said, a refusal of what may be read was about writing it.
    wanted = right or next((each for each in ("read", "write") if each not in allowed), None)
    if wanted is None or wanted in allowed:
        return None
    act = {"read": "reading", "write": "changing", "run": "running"}[wanted]
    for power, places in _TOOLCHAINS:
        if places.search(path) and power not in owned and not within(path, workdir):
            return _hint(f"{path} comes with {power}, which is not granted", power)
    if within(path, f"{workdir}/.git"):
        if "git-access" not in owned:
            return _hint(f"{act} {path} needs git-access, which is not granted", "git-access")
        return _hint(f"{path} stays read-only whatever is granted: it runs code for whoever uses the repository")
    if not within(path, workdir):
        if path.startswith(("/tmp/", "/var/tmp/")):  # noqa: S108
            return _hint(f"{path} belongs to everybody; the agent's own temporary folder is $TMPDIR")
        return _hint(f"{act} {path} is not possible: it is outside the workdir, and no grant opens it")
    power = {"read": "filesystem-read", "write": "filesystem-write", "run": "script-execution"}[wanted]
    if power in owned:
        return _hint(f"{act} {path} is outside of what {power} is narrowed to", power, path[len(workdir) + 1 :] or ".")
    return _hint(f"{act} {path} needs {power}, which is not granted", power)


def _network_hint(text: str, walls: Walls, owned: Collection[str]) -> str | None:
    match = _NETWORK.search(text)
    if match is None:
        return None
    host = _HOST.search(text[max(0, match.start() - 300) : match.end() + 300])
    address = f"{host['host']}:{host['port'] or 443}" if host else "HOST:443"
    if "network-access" in owned and walls.network == "proxy":
        return _hint("only hosts that network-access lists can be reached, and only through the proxy that HTTPS_PROXY names", "network-access", address)
    return _hint("this has no network, because network-access is not granted", "network-access", address)


def _rights(path: str, walls: Walls) -> frozenset[str]:
    """What the walls let be done with a path."""
    found: set[str] = set()
    for paths, rights in (
        (walls.read, {"read"}),
        (walls.execute, {"read", "run"}),
        (walls.write, {"read", "write"}),
        (walls.write_execute, {"read", "write", "run"}),
    ):
        if any(within(path, place) for place in paths):
            found |= rights
    if any(within(path, place) for place in walls.protect):
        found.discard("write")
    return frozenset(found)


def _hint(what: str, power: str | None = None, *values: str) -> str:
    lines = f"to allow it, add to the agent's spec:\n{lines_to_add(power, *values)}\n" if power is not None else ""
    return f"{lines}sandbox: {what}; {STANDING}"
