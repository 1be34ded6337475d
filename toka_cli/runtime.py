"""AgentRuntime: builds everything a run needs, runs it, and closes everything again. In: a plan and how to show it. Out: the final view of the run.

The order is part of the design: processes that will fork are started before the state file is opened and locked.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import anyio.lowlevel
import msgspec

import toka_cli
from toka_cli import events as e
from toka_cli import ids
from toka_cli.errors import Bug
from toka_cli.kernel.access import ModelAccess, ModelSetup
from toka_cli.kernel.confined import own_children
from toka_cli.kernel.kernel import Kernel
from toka_cli.kernel.outside import Outside
from toka_cli.kernel.prompting import own_templates
from toka_cli.lifecycle import RunState
from toka_cli.orchestrator.cell_watch import Patience
from toka_cli.orchestrator.control import ControlServer
from toka_cli.orchestrator.danger import Blocked, Danger
from toka_cli.orchestrator.orchestrator import Orchestrator, create_events
from toka_cli.orchestrator.recovery import requeue
from toka_cli.paths import RunFolder, make_state_dir, user_config_file
from toka_cli.plan.plan import Plan
from toka_cli.state import query
from toka_cli.state.log import EventLog
from toka_cli.state.snapshot import RunView
from toka_cli.supervisor.manager import AgentProcessManager
from toka_cli.supervisor.sweep import sweep_files, sweep_processes
from toka_cli.tools.plugins import PLUGIN_TOOLS, add_described
from toka_cli.view.renderer import Renderer

TICK_S: Final = 0.25
SAMPLE_S: Final = 1.0
SUSPEND_DRAIN_S: Final = 0.2
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run is run; durations in seconds. `start_method` is `forkserver` or `fresh`; `command` is recorded with the run.

    `resume` is the folder of an interrupted run to go on with; `in_doubt` (rerun or fail) decides for tasks that ask. `models` says how models are reached
    (None: they are not). `attended`: a person can be asked while it runs. `note` tells people something before there is a run to look at.
    """

    state_dir: Path
    start_method: str = "forkserver"
    patience: Patience = field(default_factory=lambda: Patience(spawn_s=30.0, heartbeat_s=30.0))
    grace_s: float = 10.0
    restart_enabled: bool = True
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    no_sandbox: bool = False
    cgroups: bool = True
    resume: RunFolder | None = None
    in_doubt: str | None = None
    models: ModelSetup | None = None
    attended: bool = False
    degrade: bool = True
    note: Callable[[str], None] = lambda _: None


class AgentRuntime:
    """One run from its folder to its end. `on_ready(run_id)` is called once the first agent has started, or the run is over."""

    def __init__(
        self, plan: Plan, spec_text: str, options: RunOptions, renderer: Renderer, *, on_ready: Callable[[RunView], None] = lambda _: None
    ) -> None:
        self._plan = plan
        self._spec_text = spec_text
        self._options = options
        self._renderer: Renderer | None = renderer
        self._on_ready: Callable[[RunView], None] | None = on_ready
        self._rng = random.Random()  # noqa: S311  ids and jitter, no secrets
        self._log: EventLog | None = None
        self._orchestrator: Orchestrator | None = None
        # Who was started by nohup(1) goes on when the terminal is gone.
        self._signals = [signum for signum in SIGNALS if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN]
        self._signalled = 0
        self._early_signal: int | None = None
        self._bug: BaseException | None = None

    def execute(self) -> RunView:
        """Run to the end; the final view. Raises TokaError when the run could not begin."""
        add_described(self._plan.options.get(PLUGIN_TOOLS, ()))
        try:
            return anyio.run(self._execute, backend="asyncio")
        finally:
            # The run is over and its lock is free: a slow reader holds nothing any more but this process.
            self._orchestrator = None
            self._guard(lambda renderer: renderer.drain(None))

    async def _execute(self) -> RunView:
        for signum in self._signals:
            asyncio.get_running_loop().add_signal_handler(signum, self._on_signal, signum)
        access = self._access()
        async with AsyncExitStack() as stack:
            if access is not None:
                stack.push_async_callback(access.close)
            models = access.own_children if access is not None else set
            manager = await stack.enter_async_context(
                AgentProcessManager(self._options.start_method, cgroups=self._options.cgroups, spare=lambda: models() | own_children())
            )
            warnings = await self._checked(access)
            folder = self._options.resume or new_run_folder(self._options.state_dir, self._rng)
            self._log = log = self._open_log(folder)
            try:
                self._first_events(folder, log)
                await self._govern(folder, log, manager, access, warnings)
            finally:
                log.close()
        if self._bug is not None:
            raise self._bug
        # What was cut off is nobody's work any more; readers know how to show that.
        return query.load_run(folder) if log.view.state == RunState.INTERRUPTED else log.view

    def _access(self) -> ModelAccess | None:
        """The way to models begins to load at once, beside everything else."""
        if self._options.models is None:
            return None
        access = ModelAccess(self._plan, self._options.models, toka_cli.__version__)
        access.start()
        return access

    async def _checked(self, access: ModelAccess | None) -> tuple[str, ...]:
        """Nothing starts before it is known that models can be asked. Raises NoModel, Unavailable."""
        if access is None or not access.wanted:
            return ()
        loop = asyncio.get_running_loop()
        told = loop.call_later(1.0, self._options.note, "looking whether the models of this run can be asked (loading takes some seconds)")
        try:
            return await access.check()
        finally:
            told.cancel()

    async def _govern(
        self, folder: RunFolder, log: EventLog, manager: AgentProcessManager, access: ModelAccess | None, warnings: tuple[str, ...]
    ) -> None:
        """The run itself, between the first event and the last."""
        kernel = Kernel(
            folder=folder,
            log=log,
            workdir=self._plan.workdir,
            caller=self._options.environment,
            python=sys.executable,
            rng=self._rng,
            on_output=lambda: control.tell_watchers(),
            # Several beats fit into the time after which a cell counts as hung.
            heartbeat_s=min(5.0, self._options.patience.heartbeat_s / 4),
        )
        self._orchestrator = orchestrator = Orchestrator(
            self._plan,
            log,
            kernel,
            manager,
            patience=self._options.patience,
            grace_s=self._options.grace_s,
            restart_enabled=self._options.restart_enabled,
            degrade=self._options.degrade,
        )
        mask = access.redactor.text if access is not None else None
        kernel.outside = outside = Outside(
            log, self._options.state_dir, self._plan.workdir, self._options.environment, mask, walls=not self._options.no_sandbox
        )
        outside.on_threat = Danger(self._plan, log, kernel, orchestrator, attended=self._options.attended).sign
        for warning in warnings:
            log.append(e.RunWarned(warning, "model"))
        if access is not None:
            kernel.redactor = access.redactor
            access.on_warn = lambda text: _warn(log, text)
            gateway = access.gateway(log, self._rng)
            kernel.models, kernel.describe = gateway, gateway.describe if gateway is not None else None
            kernel.templates = own_templates(user_config_file(self._options.environment).parent / "prompts") if gateway is not None else {}
            kernel.on_blocked = Blocked(orchestrator).by
            kernel.model_timeout_s = self._options.models.settings.timeout_s if self._options.models is not None else kernel.model_timeout_s
        log.subscribe(self._show)
        control = ControlServer(folder, log, orchestrator)
        async with control:
            try:
                await self._run(orchestrator, log)
            finally:
                await outside.close()
        self._note_replay(access)

    def _note_replay(self, access: ModelAccess | None) -> None:
        """What was not as recorded: no part of the run, but of interest to whoever plays it back."""
        for text in access.replay_notes() if access is not None else ():
            self._options.note(text)

    async def _run(self, orchestrator: Orchestrator, log: EventLog) -> None:
        self._guard(lambda renderer: renderer.start(log.view))
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_bug)
        loop.add_signal_handler(signal.SIGTSTP, self._on_suspend)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._tick)
                group.start_soon(self._sample)
                if self._early_signal is not None:
                    # It came while this was being built: the run begins, and is stopped at once.
                    loop.call_soon(self._on_signal, self._early_signal)
                await orchestrator.run()
                group.cancel_scope.cancel()
        finally:
            for signum in (*self._signals, signal.SIGTSTP):
                loop.remove_signal_handler(signum)
            self._ready(log.view)
            self._guard(lambda renderer: renderer.finish(log.view))
            self._guard(lambda renderer: renderer.close())

    def _open_log(self, folder: RunFolder) -> EventLog:
        if self._options.resume is not None:
            return EventLog.open(folder)
        return EventLog.create(folder, plan_json=msgspec.json.encode(self._plan), spec_text=self._spec_text)

    def _first_events(self, folder: RunFolder, log: EventLog) -> None:
        """A new run begins; an interrupted one is swept, and begins again where it was."""
        if self._options.resume is None:
            create_events(self._plan, log, folder.run_id, self._options.command, toka_cli.__version__)
            self._audit_start(log)
            return
        swept = sweep_processes(folder.run_id), sweep_files(folder)
        requeue(log, self._plan, self._options.in_doubt)
        log.audit("run.resume", "recorded", context={"command": list(self._options.command), "processes": swept[0], "files": swept[1]})

    def _audit_start(self, log: EventLog) -> None:
        context = {"command": list(self._options.command), "workdir": self._plan.workdir, "agents": [agent.name for agent in self._plan.agents]}
        log.audit("run.start", "recorded", context=context)
        if self._options.no_sandbox:
            log.audit("sandbox.off", "allowed", context={"by": "--no-sandbox"})

    # --- while it runs ---

    def _show(self, records: Sequence[e.Record]) -> None:
        assert self._log is not None
        view = self._log.view
        self._guard(lambda renderer: renderer.show(records, view))
        if any(isinstance(record.event, e.AgentStarted) for record in records):
            self._ready(view)

    async def _tick(self) -> None:
        assert self._log is not None
        view = self._log.view
        while True:
            await anyio.sleep(TICK_S)
            self._guard(lambda renderer: renderer.tick(view, time.time()))

    async def _sample(self) -> None:
        """Memory and CPU of live agents, for those who watch. One agent per turn of the loop, so that calls are answered in between."""
        assert self._log is not None
        assert self._orchestrator is not None
        while True:
            await anyio.sleep(SAMPLE_S)
            for run in list(self._orchestrator.runs.values()):
                if run.cell is not None:
                    self._log.sample(run.agent_id, *run.cell.usage(), run.worked_s)
                    await anyio.lowlevel.checkpoint()

    def _on_signal(self, signum: int) -> None:
        """Once: stop cleanly. Again: at once."""
        if self._orchestrator is None:
            self._early_signal = signum
            return
        self._signalled += 1
        name = signal.Signals(signum).name
        self._orchestrator.stop_run(f"signal {name}", force=self._signalled > 1, exit_code=128 + signum, resumable=True)

    def _on_suspend(self) -> None:
        """Ctrl-Z: agents are frozen and clocks stand still while this process is stopped; all goes on with `fg` or `bg`."""
        assert self._orchestrator is not None
        assert self._log is not None
        view = self._log.view
        frozen = self._orchestrator.suspend()
        self._log.flush()
        self._guard(lambda renderer: renderer.close())
        # A reader further down the pipe is stopped by the same Ctrl-Z: it is not waited for.
        self._guard(lambda renderer: renderer.drain(SUSPEND_DRAIN_S))
        os.kill(os.getpid(), signal.SIGSTOP)
        # Here after SIGCONT.
        self._orchestrator.unsuspend(frozen)
        self._guard(lambda renderer: renderer.start(view))

    def _on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Something of ours raised where nobody can catch it (answering a call, showing an event): end the run, and raise it from there."""
        error = context.get("exception")
        if self._bug is None:
            self._bug = error if isinstance(error, BaseException) else Bug(str(context.get("message")))
        if self._orchestrator is not None:
            self._orchestrator.stop_run("bug", force=True)

    def _ready(self, view: RunView) -> None:
        if self._on_ready is not None:
            ready, self._on_ready = self._on_ready, None
            ready(view)

    def _guard(self, show: Callable[[Renderer], None]) -> None:
        """Show something. When nobody reads any more (`| head`, a closed window), the run is stopped; on a full disk it goes on, unseen."""
        if self._renderer is None:
            return
        try:
            show(self._renderer)
        except (OSError, ValueError) as error:
            self._renderer = None
            with suppress(OSError, ValueError):
                sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  kept to the end of the process
            if self._orchestrator is None:
                return
            if isinstance(error, OSError) and error.errno == errno.EIO:
                # The terminal is gone: the SIGHUP that says so may be a moment behind.
                if signal.SIGHUP not in self._signals:
                    return
                self._orchestrator.stop_run("signal SIGHUP", exit_code=128 + signal.SIGHUP, resumable=True)
            elif isinstance(error, BrokenPipeError | ValueError):
                self._orchestrator.stop_run("closed pipe: nobody reads the output any more", resumable=True)


def _warn(log: EventLog, text: str) -> None:
    log.append(e.RunWarned(text, "model"))


def new_run_folder(state_dir: Path, rng: random.Random) -> RunFolder:
    """A new, empty folder for a run. Raises StateUnavailable."""
    runs = make_state_dir(state_dir)
    while True:
        folder = RunFolder(runs / ids.run_id(rng))
        try:
            folder.root.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return folder
