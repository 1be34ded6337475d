"""What the agents of a run reach through the kernel: the proxy, the kernel's own tools, and the watch over both. In: planned agents. Out: audit rows, denials.

It decides nothing that a plan has not decided: a host that is not listed stays unreachable whoever asks. What follows a sign of danger is the policy's.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from toka_cli import events as e
from toka_cli.kernel.egress import Egress, ProxyHandle, proxy_environment
from toka_cli.kernel.git_guard import changed, git_state
from toka_cli.kernel.threats import SecretFinder, ThreatWatch
from toka_cli.kernel.tool_calls import AgentTools, KernelTools
from toka_cli.plan.plan import PlannedAgent
from toka_cli.state.log import EventLog

TOKEN: Final = "TOKA_PROXY_TOKEN"  # noqa: S105  the name of a variable
"""The variable in which a cell with a network of its own finds what its clients have to show."""

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

Threat = Callable[[str, str, str], None]
"""Told of (agent id, kind, detail)."""


@dataclass(slots=True)
class _Way:
    """One agent's part."""

    tools: AgentTools
    token: str
    listener: socket.socket | None = None
    port: int = 0
    git: dict[str, str] | None = None


@dataclass(slots=True)
class Outside:
    """See the module. `caller` is the environment toka was started with, `mask` takes out what must not leave, `walls` False where the run has none.

    `on_threat` is told of signs that an agent does what nobody asked for; set it before the first agent starts.
    """

    log: EventLog
    state_dir: Path
    workdir: str
    caller: Mapping[str, str]
    mask: Callable[[str], str] | None = None
    walls: bool = True
    on_threat: Threat = lambda _agent, _kind, _detail: None
    egress: Egress = field(init=False)
    tools: KernelTools = field(init=False)
    _finder: SecretFinder = field(init=False)
    _ways: dict[str, _Way] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.egress = Egress(self._decided)
        self.tools = KernelTools(self.egress, self.state_dir, self.workdir, self.caller, walls=self.walls)
        self._finder = SecretFinder(self.mask)

    def agent(self, planned: PlannedAgent, agent_id: str) -> AgentTools:
        """The kernel's tools of an agent; to be asked for before anything of it runs."""
        return self._way(planned, agent_id).tools

    def before_spawn(self, planned: PlannedAgent, agent_id: str) -> tuple[dict[str, str], int]:
        """What the next cell of this agent gets for its way out: variables, and the port of a proxy on this machine's loopback (0: it has its own)."""
        way = self._way(planned, agent_id)
        if way.git is None:
            self.look_at_git(planned, agent_id)
        walls = planned.walls
        if walls is None or walls.network != "proxy":
            return {}, 0
        if walls.level == "full":
            # A granted host of this machine's loopback is the proxy's to reach: inside, the same name is the cell's own loopback.
            granted = {host.rpartition(":")[0].strip("[]") for host in planned.hosts}
            return {TOKEN: way.token, "NO_PROXY": ",".join(name for name in LOOPBACK if name not in granted)}, 0
        way.listener, way.port = self.egress.listen()
        return proxy_environment(way.port, way.token), way.port

    async def serve(self, planned: PlannedAgent, agent_id: str, listener: socket.socket | None) -> ProxyHandle | None:
        """Answer the proxy's clients of this cell until the handle is closed. `listener` came from inside the cell's own network, if it has one."""
        way = self._way(planned, agent_id)
        listener, way.listener = listener or way.listener, None
        if listener is None:
            return None
        return await self.egress.serve(listener, agent_id, planned.hosts, token=way.token)

    def look_at_git(self, planned: PlannedAgent, agent_id: str) -> str | None:
        """What an agent changed of the parts of a repository that make git start programs, where no wall keeps it from that; None if nothing.

        The first look of each agent only remembers.
        """
        if planned.walls is None or planned.walls.level == "full" or not {"filesystem-write", "script-execution", "git-access"} & set(planned.grants):
            return None
        way = self._way(planned, agent_id)
        now = git_state(self.workdir)
        before, way.git = way.git, now
        found = changed(before, now) if before is not None else []
        return "; ".join(found[:5]) or None

    async def close(self) -> None:
        """End every call and every proxy."""
        await self.tools.close()
        await self.egress.close()
        for way in self._ways.values():
            if way.listener is not None:
                way.listener.close()

    def _way(self, planned: PlannedAgent, agent_id: str) -> _Way:
        way = self._ways.get(agent_id)
        if way is None:
            watch = ThreatWatch(agent_id, lambda kind, detail: self.on_threat(agent_id, kind, detail), time.monotonic, self._finder)
            tools = self.tools.agent(agent_id, planned.name, self.workdir, planned.hosts, watch)
            way = self._ways[agent_id] = _Way(tools, self.egress.new_token())
        return way

    def _decided(self, agent_id: str, host: str, port: int, allowed: bool, why: str) -> None:
        # Any text can be asked for as a name, a secret too.
        host = self.mask(host) if self.mask is not None else host
        context = {"host": host, "port": port, "why": why, "power": "network-access"}
        self.log.audit("network.connect", "allowed" if allowed else "denied", subject=agent_id, context=context)
        if not allowed:
            message = f"Capability not authorized: network-access required for {host}:{port} ({why})"
            self.log.append(e.ToolDenied("network", "network-access", message[:500]), agent=agent_id)
