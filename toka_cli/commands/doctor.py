"""`toka runtime doctor`: a real run of real agents that try what they must not, and what came of it. In: settings. Out: a level, checks and gaps.

What is reported as held was tried and did not happen; what could not be tried is not reported as held.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

import toka_cli
from toka_cli.commands.context import Format, Globals
from toka_cli.commands.planning import Asked, limit_notes, prepare_loaded
from toka_cli.commands.running import run_here
from toka_cli.errors import EXIT_OK, EXIT_REFUSED, Unavailable
from toka_cli.protocol.control import MAX_SOCKET_PATH_BYTES
from toka_cli.sandbox import probe
from toka_cli.settings import ProcessSettings
from toka_cli.spec.load import load_text
from toka_cli.state.snapshot import AgentView, RunView

Enforced = Literal["kernel", "sampled", "none"]
Rule = Callable[[AgentView], tuple[bool, str]]
"""Whether a limit was held, and what was seen."""

WALLS: Final = "walls"
# name, the trials that have to fail, the trials that have to succeed (or the check proves nothing), what it is about.
WALL_CHECKS: Final = (
    ("files.read", ("read_outside", "link_outside", "read_shadow"), ("read_system", "read_workspace"), "reading files that were not granted"),
    ("files.write", ("write_outside", "write_workspace"), ("write_private",), "writing files that were not granted"),
    ("files.names", ("list_home",), ("read_workspace",), "listing the caller's home"),
    ("files.metadata", ("change_mode_outside",), (), "changing the mode of files that were not granted"),
    ("files.execute", ("run_planted",), ("read_workspace",), "running a program that lies in the workspace"),
    ("network.tcp", ("connect_tcp",), (), "connecting to this machine's loopback"),
    ("network.listen", ("bind_tcp",), (), "listening where others on this machine can connect"),
    ("network.udp", ("send_udp",), (), "sending datagrams"),
    ("network.unix", ("connect_unix", "connect_abstract"), (), "unix sockets of the caller, by path and abstract"),
    ("network.netlink", ("open_netlink",), (), "the kernel's network interface"),
    ("processes.keys", ("find_key", "read_owner_environment"), (), "keys in the environment of other processes"),
    ("processes.signals", ("signal_owner", "signal_own_agent"), (), "signals to toka and to its own agent's process"),
    ("processes.trace", ("trace_owner",), (), "tracing toka"),
    ("processes.descriptors", ("inherited_descriptors",), (), "descriptors that were inherited"),
    ("system.namespaces", ("new_user_namespace",), (), "new namespaces"),
    ("system.calls", ("use_keyring", "use_bpf", "use_io_uring"), (), "keyring, bpf and io_uring"),
    ("system.privileges", ("gain_privileges",), (), "setuid programs"),
    ("system.terminal", ("open_terminal",), (), "the caller's terminal"),
)
_BUSY: Final = "import os, time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass\nprint(sum(os.times()[:2]))"
_MEMORY: Final = "import time\ndata = []\nfor _ in range(40):\n    data.append(bytearray(b'x') * (8 << 20)); time.sleep(0.02)\nprint('held', len(data))"
_FORKS: Final = (
    "import os, signal, time\nalive = []\ntry:\n    for _ in range(60):\n        pid = os.fork()\n        if pid == 0:\n"
    "            time.sleep(10); os._exit(0)\n        alive.append(pid); time.sleep(0.02)\n    print('made', len(alive))\n"
    "except OSError:\n    print('refused after', len(alive))\n"
    "for pid in alive: os.kill(pid, signal.SIGKILL)\n"
)
# The daemon holds a lock that only its end gives back; it says that it is there through a pipe.
_ORPHAN: Final = (
    "import fcntl, os, time\nread, write = os.pipe()\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.environ.clear()\n"
    "        lock = os.open('lock', os.O_RDWR | os.O_CREAT)\n        fcntl.lockf(lock, fcntl.LOCK_EX)\n        os.write(write, b'x')\n"
    "        os.close(1); os.close(2); time.sleep(60)\n    os._exit(0)\nos.close(write)\nassert os.read(read, 1)\nprint('left one behind')"
)
CPU_SHARE: Final = 0.5
MAX_PROCESSES: Final = 20
# Limits, by the agent that tries to pass each: what it runs and under which limit.
LIMIT_AGENTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "memory": (_MEMORY, {"max_memory": "96MB"}),
    "cpu": (_BUSY, {"max_cpu": "50%"}),
    "processes": (_FORKS, {"max_processes": MAX_PROCESSES}),
    "timeout": ("import time\ntime.sleep(30)", {"timeout": "1s"}),
    "task_timeout": ("import time\ntime.sleep(30)", {"task_timeout": "1s"}),
    "output": ("import sys\nfor _ in range(64): sys.stdout.write('x' * 65536)", {"max_output": "1MB"}),
    "open_files": ("import os\nfor _ in range(200): os.open('/dev/null', os.O_RDONLY)\nprint('opened 200')", {"max_open_files": 64}),
    "orphans": (_ORPHAN, {}),
}


class Check(msgspec.Struct, frozen=True):
    """One wall or limit: by what it is enforced, what happened when it was tried, and what to do where it is not."""

    name: str
    enforced: Enforced
    detail: str
    fix: str | None = None


class Report(msgspec.Struct, frozen=True):
    """What this machine enforces."""

    level: str
    checks: tuple[Check, ...]
    gaps: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 when every wall and limit is enforced by the kernel or by sampling, else 5."""
        return EXIT_OK if self.level != "process" and all(check.enforced != "none" for check in self.checks) else EXIT_REFUSED


@dataclass(frozen=True, slots=True)
class _Bait:
    """What the trials are to reach for: real files, sockets and a key of this process."""

    facts: dict[str, Any]
    udp: socket.socket
    workdir: Path


def examine(cli: Globals) -> Report:
    """Start a real run with agents that try everything; what came of it. Raises TokaError when no run can begin."""
    with tempfile.TemporaryDirectory(prefix="toka-doctor-", dir=_short_place()) as folder, _bait(Path(folder)) as bait:
        asked = Asked(specs=(), workdir=bait.workdir)
        quiet = replace(cli, state_flag=Path(folder) / "state", quiet=True)
        ready = prepare_loaded(quiet, asked, load_text(_spec(bait), path="doctor").checked(), quiet.output(Format.TEXT))
        view = run_here(quiet, ready, Format.TEXT, quiet=True)
        return _report(view, bait, _fix(ready.settings.process), {what: (why, fix) for what, why, fix in limit_notes(ready.settings)})


def _short_place() -> str:
    """Where temporary folders lie, unless a socket below that would have a longer name than sockets can have: then in /tmp, where everybody's may."""
    place = tempfile.gettempdir()
    return place if len(os.fsencode(f"{place}/toka-doctor-12345678/outside/socket")) <= MAX_SOCKET_PATH_BYTES else "/tmp"  # noqa: S108


def text_of(report: Report) -> list[str]:
    """The report for people, one line per check."""
    width = max(len(check.name) for check in report.checks)
    lines = [f"level: {report.level}", ""]
    for check in report.checks:
        # What was held is said in short; the whole is in the JSON.
        detail = check.detail if check.enforced == "none" else check.detail.split(" (")[0]
        lines.append(f"{check.enforced:8} {check.name:{width}}  {detail}")
        if check.fix:
            lines.append(f"{'':8} {'':{width}}  fix: {check.fix}")
    if report.gaps:
        lines += ["", "not covered on this machine:", *(f"  - {gap}" for gap in report.gaps)]
    return lines


@contextmanager
def _bait(folder: Path) -> Iterator[_Bait]:
    with ExitStack() as stack:
        workdir, outside = folder / "workspace", folder / "outside"
        workdir.mkdir()
        outside.mkdir()
        (workdir / "readable").write_text("readable")
        (workdir / "planted").write_text("#!/bin/sh\necho planted\n")
        (workdir / "planted").chmod(0o755)
        (outside / "secret").write_text("secret")
        canary = secrets.token_hex(16)
        os.environ["TOKA_DOCTOR_API_KEY"] = canary
        stack.callback(os.environ.pop, "TOKA_DOCTOR_API_KEY", None)
        try:
            tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            udp.bind(("127.0.0.1", 0))
            udp.setblocking(False)
            unix = stack.enter_context(socket.socket(socket.AF_UNIX))
            unix.bind(str(outside / "socket"))
            unix.listen()
            abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
            abstract.bind(f"\0toka-doctor-{canary[:12]}")
            abstract.listen()
        except PermissionError as error:
            hint = "run it outside of the sandbox, or of the agent of another toka, that is around it"
            raise Unavailable("walls cannot be tried from here: a filter around toka refuses sockets, and they would prove nothing", hint=hint) from error
        facts = {
            "workdir": str(workdir), "secret": str(outside / "secret"), "home": os.path.expanduser("~"), "port": tcp.getsockname()[1],  # noqa: PTH111
            "udp_port": udp.getsockname()[1], "unix": str(outside / "socket"), "abstract": f"toka-doctor-{canary[:12]}", "owner": os.getpid(),
            "canary": canary, "pid_namespace": os.readlink("/proc/self/ns/pid"),  # noqa: PTH115
        }  # fmt: skip
        yield _Bait(facts, udp, workdir)


def _spec(bait: _Bait) -> str:
    """The agents as an orchestration: one that tries the walls, and one for each limit."""
    trials = (Path(toka_cli.__file__).parent / "sandbox" / "trials.py").read_text(encoding="utf-8")
    # Facts come first; a `from __future__` import may not.
    body = trials.replace("from __future__ import annotations\n", "", 1)
    source = f"FACTS = {bait.facts!r}\n{body}"
    agents = [_agent(WALLS, source, {}, ["filesystem-read"])]
    agents += [_agent(name, code, limits, ["filesystem-write"] if name == "orphans" else []) for name, (code, limits) in LIMIT_AGENTS.items()]
    return json.dumps({"agents": agents, "max_agents": 4, "timeout": "2m"})


def _agent(name: str, source: str, limits: dict[str, Any], grants: list[str]) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "workstream": "doctor"},
        "tasks": [{"id": "try", "description": f"Try {name}", "code": {"python": source}}],
        "security": {"capabilities_required": grants, "resource_limits": limits},
        "restart": {"policy": "never"},
    }


def _fix(settings: ProcessSettings) -> str:
    """What a person can do about walls that are not there."""
    if not settings.enable_isolation:
        return "[process] enable_isolation = false switches walls off: leave it out"
    if settings.walls == "standard":
        return '[process] walls = "standard" does without namespaces: leave it out'
    return "; ".join(f"{what}: {why}" + (f" ({fix})" if fix else "") for what, why, fix in probe.walls().notes) or "a newer kernel"


def _report(view: RunView, bait: _Bait, fix: str, polled: dict[str, tuple[str, str]]) -> Report:
    agents = {agent.name: agent for agent in view.agents}
    walls = agents[WALLS]
    checks = [*_wall_checks(walls, bait, fix), *_limit_checks(agents, bait.workdir, polled)]
    return Report(str(walls.isolation.get("level", "process")), tuple(checks), tuple(str(gap) for gap in walls.isolation.get("gaps", ())))


def _wall_checks(agent: AgentView, bait: _Bait, fix: str) -> list[Check]:
    try:
        tried: dict[str, dict[str, Any]] = json.loads(agent.tasks[0].output)
    except ValueError:
        why = agent.reason or agent.tasks[0].reason or "no answer"
        return [Check("walls", "none", f"the agent that tries them did not get to work: {why}", agent.tasks[0].stderr[-500:] or agent.hint or fix)]
    if not _arrived(bait.udp):
        # The send succeeded inside; what counts is whether anybody outside got it.
        tried["send_udp"] = {"done": False, "detail": "nothing arrived"}
    checks = []
    for name, forbidden, twins, what in WALL_CHECKS:
        happened = [trial for trial in forbidden if tried[trial]["done"]]
        dead = [trial for trial in twins if not tried[trial]["done"]]
        words = ", ".join(f"{trial}: {tried[trial]['detail']}" for trial in (happened or forbidden))
        if dead:
            checks.append(Check(name, "none", f"{what}: proves nothing, because what is allowed failed too ({dead[0]}: {tried[dead[0]]['detail']})", fix))
        else:
            checks.append(Check(name, "none" if happened else "kernel", f"{what}: {'done' if happened else 'refused'} ({words})", fix if happened else None))
    return checks


def _arrived(udp: socket.socket) -> bool:
    try:
        return bool(udp.recv(16))
    except BlockingIOError:
        return False


def _limit_checks(agents: dict[str, AgentView], workdir: Path, polled: dict[str, tuple[str, str]]) -> list[Check]:
    """Each limit and what came of it; for one that is held by polling, `polled` says why and what to do to have it held exactly."""
    checks = []
    for name in LIMIT_AGENTS:
        agent = agents[name]
        held, words = _orphans(agent, workdir) if name == "orphans" else _LIMIT_RULES[name](agent)
        mechanism = agent.isolation.get("limits", {}).get(name)
        by: Enforced = "sampled" if mechanism == "sampled" else "kernel"
        fix = None if held else f"the agent's own words: {agent.reason or agent.tasks[0].reason or agent.tasks[0].output.strip()[:200]}"
        if held and by == "sampled" and name in polled:
            why, what = polled[name]
            fix = f"held by polling because {why}" + (f"; for a cgroup: {what}" if what else "")
        checks.append(Check(f"limit.{name}", by if held else "none", f"{words} ({mechanism})" if mechanism else words, fix))
    return checks


def _ended_by(reason: str) -> Rule:
    def rule(agent: AgentView) -> tuple[bool, str]:
        found = agent.reason or ""
        return reason in found, found[:200] or "it was let through"

    return rule


def _cpu(agent: AgentView) -> tuple[bool, str]:
    task = agent.tasks[0]
    if not task.duration_s or task.cpu_time_s is None:
        return False, "no figures"
    share = task.cpu_time_s / task.duration_s
    return share <= CPU_SHARE + 0.15, f"used {share:.2f} of a core where {CPU_SHARE} was the limit"


def _processes(agent: AgentView) -> tuple[bool, str]:
    words = agent.tasks[0].output.strip()
    if "refused after" in words:
        return int(words.rsplit(" ", 1)[1]) <= MAX_PROCESSES, words
    return _ended_by("limit.processes")(agent)


def _open_files(agent: AgentView) -> tuple[bool, str]:
    refused = "Too many open files" in agent.tasks[0].stderr
    return refused, "the 65th was refused" if refused else "200 files were opened"


def _orphans(agent: AgentView, workdir: Path) -> tuple[bool, str]:
    """The agent left a daemon behind; the lock that it held is free if nothing of it is left."""
    if agent.tasks[0].output.strip() != "left one behind":
        return False, "the daemon could not be started"
    with (workdir / "lock").open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False, "a daemon outlived its agent"
    return True, "a daemon that left its session and cleared its environment was ended with its agent"


_LIMIT_RULES: Final[dict[str, Rule]] = {
    "memory": _ended_by("limit.memory"),
    "cpu": _cpu,
    "processes": _processes,
    "timeout": _ended_by("limit.timeout"),
    "task_timeout": _ended_by("timeout"),
    "output": _ended_by("limit.output"),
    "open_files": _open_files,
}
