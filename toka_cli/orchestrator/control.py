"""The owner's end of the control socket: commands from other terminals. Committed to the log first, answered then, carried out after that.

Where unix sockets are refused (toka within the walls of another one), the run goes on without, and says so.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Self

from toka_cli import events as e
from toka_cli.orchestrator.orchestrator import Orchestrator
from toka_cli.paths import RunFolder
from toka_cli.protocol import control as c
from toka_cli.protocol import messages as m
from toka_cli.protocol.peer import Answer, Peer
from toka_cli.state.log import EventLog


class ControlServer:
    """Listens while the block lasts. The socket is 0600 in a 0700 folder, and the peer's uid is checked all the same."""

    def __init__(self, folder: RunFolder, log: EventLog, orchestrator: Orchestrator) -> None:
        self._folder = folder
        self._log = log
        self._orchestrator = orchestrator
        self._watchers: set[Peer] = set()
        self._peers: set[Peer] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._told = True
        self._unsubscribe: Callable[[], None] = lambda: None
        self._listener: socket.socket | None = None

    async def __aenter__(self) -> Self:
        self._unsubscribe = self._log.subscribe(lambda _: self.tell_watchers())
        try:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except PermissionError as error:
            words = f"no other terminal can reach this run to stop, pause or follow it: a filter around toka refuses unix sockets ({error.strerror})"
            self._log.append(e.RunWarned(words, "no_control"))
            return self
        self._folder.socket.unlink(missing_ok=True)
        with c.short_path(self._folder.socket) as name:
            self._listener.bind(name)
        self._folder.socket.chmod(0o600)
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._spawn(self._accept(self._listener))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._unsubscribe()
        for task in self._tasks:
            task.cancel()
        if self._listener is not None:
            self._folder.socket.unlink(missing_ok=True)
            self._listener.close()
        for peer in list(self._peers):
            peer.close()

    def tell_watchers(self) -> None:
        """Something changed: watchers hear of it once per turn of the loop."""
        if self._told and self._watchers:
            self._told = False
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._told = True
        for peer in self._watchers:
            peer.notify("run.changed", c.Changed())

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            if c.peer_uid(connection) not in {os.geteuid(), 0}:
                connection.close()
                continue
            peer = self._peer()
            await loop.connect_accepted_socket(lambda peer=peer: peer, connection)  # type: ignore[misc]
            self._peers.add(peer)

    def _peer(self) -> Peer:
        def closed() -> None:
            self._watchers.discard(peer)
            self._peers.discard(peer)

        peer = Peer(c.TO_OWNER, lambda method, params, answer: self._serve(peer, params, answer), on_broken=lambda _: None, on_closed=closed)
        return peer

    def _serve(self, peer: Peer, params: m.Message, answer: Answer) -> None:
        match params:
            case c.Ping():
                answer(m.Ack())
            case c.Watch():
                self._watchers.add(peer)
                answer(m.Ack())
                # Whatever happened between the caller's last look and now is news to it.
                self.tell_watchers()
            case c.StopRun():
                self._received("run.stop", None, params.reason, force=params.force)
                self._then(answer, c.Accepted(), lambda: self._orchestrator.stop_run(params.reason, grace_s=params.grace_s, force=params.force))
            case c.StopAgents():
                self._stop_agents(params, answer)
            case c.PauseAgents():
                self._turn("agent.pause", params.agents, answer, lambda name: self._orchestrator.runs[name].pause(hard=params.hard))
            case c.ResumeAgents():
                self._turn("agent.resume", params.agents, answer, lambda name: self._orchestrator.runs[name].resume())

    def _stop_agents(self, params: c.StopAgents, answer: Answer) -> None:
        names = self._names()
        wanted = [agent for agent in params.agents if agent in names]
        already = tuple(agent for agent in wanted if self._orchestrator.runs[names[agent]].done.is_set())
        for agent in wanted:
            self._received("agent.stop", agent, params.reason, force=params.force)

        def act() -> None:
            for agent in wanted:
                self._orchestrator.stop_agent(names[agent], params.reason, grace_s=params.grace_s, force=params.force)

        self._then(answer, c.Accepted(already), act)

    def _turn(self, command: str, agents: tuple[str, ...], answer: Answer, act: Callable[[str], bool]) -> None:
        """Pause or resume: durable like any command, and acted on in the same transaction, so that the answer can say for whom nothing changed."""
        names, unchanged = self._names(), []
        for agent in agents:
            self._received(command, agent, "user", force=False)
            if agent not in names or not act(names[agent]):
                unchanged.append(agent)
        self._log.after_commit(lambda: answer(c.Accepted(tuple(unchanged))))

    def _names(self) -> dict[str, str]:
        """The names of the run's agents by their ids, which is how other terminals call them."""
        return {run.agent_id: name for name, run in self._orchestrator.runs.items()}

    def _received(self, command: str, target: str | None, reason: str, *, force: bool) -> None:
        self._log.append(e.CommandReceived(command, reason, target, {"force": force}))
        self._log.audit(command, "allowed", subject=target, context={"reason": reason, "force": force})

    def _then(self, answer: Answer, reply: m.Message, act: Callable[[], None]) -> None:
        def committed() -> None:
            answer(reply)
            act()

        self._log.after_commit(committed)

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
