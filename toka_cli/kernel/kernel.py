"""The kernel: opens a session for every cell and answers its calls. In: doors. Out: events and audit rows in the log.

It knows who is calling by the connection. It starts no process and decides no order.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from toka_cli.errors import TokaError
from toka_cli.kernel.egress import ProxyHandle
from toka_cli.kernel.environment import cell_environment
from toka_cli.kernel.exchange import Models
from toka_cli.kernel.gate import GateSession
from toka_cli.kernel.outputs import AgentLog
from toka_cli.kernel.outside import Outside
from toka_cli.kernel.prompting import cell_prompt
from toka_cli.kernel.session import Session
from toka_cli.lifecycle import TASK_FINAL
from toka_cli.llm.provider import ModelInfo
from toka_cli.llm.redact import Redactor
from toka_cli.paths import RunFolder
from toka_cli.plan.plan import Gate, PlannedAgent
from toka_cli.protocol import messages as m
from toka_cli.protocol.methods import TO_KERNEL
from toka_cli.protocol.peer import Peer
from toka_cli.state.log import EventLog
from toka_cli.tools.catalog import CATALOG, SHIPPED
from toka_cli.tools.plugins import package_folders


@dataclass(slots=True)
class Line:
    """An open door: the peer, and what the cell said through it so far. `broken` says how it broke the protocol, if it did."""

    session: Session | GateSession
    hello: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    broken: str | None = None
    breach: str | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    peer: Peer | None = None

    def tell(self, method: str, params: m.Message) -> None:
        """Notify the cell, if it is there."""
        if self.peer is not None:
            self.peer.notify(method, params)


@dataclass(slots=True)
class Kernel:
    """Answers every call of every agent of one run. `caller` is the environment toka was started with; `python` the interpreter for code tasks.

    Cells beat every `heartbeat_s` seconds. `outside` is what agents reach beyond their cells, `models` answers prompts (None: there is none), each exchange
    within `model_timeout_s` seconds; `describe` says what is known of a model, `templates` are the user's own for prompts. `on_blocked(error)` is told that
    a model could not be asked and says whether the run is being interrupted for that.
    """

    folder: RunFolder
    log: EventLog
    workdir: str
    caller: Mapping[str, str]
    python: str
    rng: random.Random
    on_output: Callable[[], None]
    heartbeat_s: float = 5.0
    outside: Outside | None = None
    models: Models | None = None
    describe: Callable[[str], Awaitable[ModelInfo]] | None = None
    templates: Mapping[str, str] = field(default_factory=dict)
    redactor: Redactor = field(default_factory=Redactor)
    model_timeout_s: float = 30.0
    on_blocked: Callable[[TokaError], bool] = lambda _: False
    _logs: dict[str, AgentLog] = field(default_factory=dict)
    _lines: dict[str, Line] = field(default_factory=dict)

    def request(self, planned: PlannedAgent, agent_id: str, private: Path, owner_pid: int) -> m.SpawnRequest:
        """What to ask the backend for, to get a cell for this agent."""
        environment = cell_environment(
            self.caller, planned, agent_id=agent_id, run_id=self.folder.run_id, workdir=self.workdir, private=private, python=self.python
        )
        variables, proxy_port = self.outside.before_spawn(planned, agent_id) if self.outside is not None else ({}, 0)
        return m.SpawnRequest(
            run_id=self.folder.run_id,
            agent_id=agent_id,
            environment=environment | variables,
            workdir=self.workdir,
            limits=planned.limits,
            owner_pid=owner_pid,
            sandbox=planned.sandbox,
            walls=planned.cell_walls or planned.walls,
            private=str(private),
            proxy_port=proxy_port,
        )

    async def open_agent(self, door: socket.socket, planned: PlannedAgent, agent_id: str, pid: int, held: dict[str, str]) -> Line:
        """Answer an agent's cell, process `pid`, from now on. Its brief holds the tasks that have not ended yet.

        `held` says which mechanism holds which limit of its tree; it is recorded beside what the cell itself reports.
        """
        view = self.log.agent(agent_id)
        ended = {task.id for task in view.tasks if task.state in TASK_FINAL}
        asks = any(task.kind == "prompt" for task in planned.tasks)
        prompt = await cell_prompt(planned.prompt, self.describe, self.templates) if asks else None
        brief = self._brief(planned, agent_id, tuple(task for task in planned.tasks if task.id not in ended), prompt)
        session = Session(
            folder=self.folder,
            log=self.log,
            agent_id=agent_id,
            pid=pid,
            held=held,
            planned=planned,
            brief=brief,
            output=self.agent_log(agent_id),
            rng=self.rng,
            on_hello=lambda: line.hello.set(),
            on_finish=lambda: line.finished.set(),
            on_breach=lambda reason: _breach(line, reason),
            models=self.models,
            redact=self.redactor.text,
            tell=lambda method, params: line.tell(method, params),
            on_blocked=self.on_blocked,
            model_timeout_s=self.model_timeout_s,
            kernel_tools=self.outside.agent(planned, agent_id) if self.outside is not None else None,
        )
        self._lines[agent_id] = line = Line(session)
        return await _open(door, line)

    async def open_way(self, planned: PlannedAgent, agent_id: str, listener: socket.socket | None) -> ProxyHandle | None:
        """Answer the proxy's clients of an agent's cell, if it has a way out, until the handle is closed."""
        return await self.outside.serve(planned, agent_id, listener) if self.outside is not None else None

    def breach(self, agent_id: str, reason: str) -> None:
        """End an agent's cell for a reason that the kernel found; nothing happens if it has none."""
        if agent_id in self._lines:
            _breach(self._lines[agent_id], reason)

    async def open_gate(self, door: socket.socket, planned: PlannedAgent, agent_id: str, gate: Gate) -> Line:
        """Answer a gate's cell from now on."""
        task = m.TaskBrief(
            id=f"gate{gate.index}", description=gate.description, kind="command", run=gate.check.run, timeout_s=gate.check.timeout_s
        )
        session = GateSession(
            brief=self._brief(planned, agent_id, (task,)),
            output=self.agent_log(agent_id),
            on_hello=lambda: line.hello.set(),
            on_finish=lambda: line.finished.set(),
        )
        line = Line(session)
        return await _open(door, line)

    def agent_log(self, agent_id: str) -> AgentLog:
        """The log file of an agent, opened once."""
        if agent_id not in self._logs:
            self._logs[agent_id] = AgentLog(self.folder.agent_log(agent_id), self.log.clock, self.on_output, self.redactor)
        return self._logs[agent_id]

    def close_log(self, agent_id: str) -> None:
        """The agent has ended: nothing more will be written."""
        log = self._logs.pop(agent_id, None)
        if log is not None:
            log.close()

    def _brief(
        self, planned: PlannedAgent, agent_id: str, tasks: tuple[m.TaskBrief, ...], prompt: m.PromptContext | None = None
    ) -> m.AgentBrief:
        # The schema of an output is checked on this side; the cell only needs to know that there is one.
        shown = tuple(msgspec.structs.replace(task, output_schema={}) if task.output_schema is not None else task for task in tasks)
        return m.AgentBrief(
            agent_id=agent_id,
            name=planned.name,
            workdir=self.workdir,
            tasks=shown,
            parallel=planned.parallel,
            limits=planned.limits,
            task_timeout_s=planned.limits.task_timeout_s,
            heartbeat_s=self.heartbeat_s,
            python=self.python,
            walls=planned.walls,
            prompt=prompt,
            plugins=package_folders() if len(CATALOG) > len(SHIPPED) and any(task.kind in {"tool", "prompt"} for task in tasks) else (),
        )


async def _open(door: socket.socket, line: Line) -> Line:
    def broken(why: str) -> None:
        line.broken = why
        line.changed.set()

    peer = Peer(TO_KERNEL, line.session.serve, on_broken=broken, on_closed=line.changed.set)
    line.peer = peer
    door.setblocking(False)
    await asyncio.get_running_loop().create_connection(lambda: peer, sock=door)
    return line


def _breach(line: Line, reason: str) -> None:
    if line.breach is None:
        line.breach = reason
        line.changed.set()
