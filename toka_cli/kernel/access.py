"""A run's access to models: provider processes or a recording, checked before anything starts, behind one gateway; and the end of all of it.

In: the plan, settings, an environment with keys. Out: a Gateway, and the texts that nobody may see. Where no task of the plan asks a model, it starts nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from toka_cli.errors import Unavailable
from toka_cli.kernel.ledger import Ledger, spent
from toka_cli.llm.budget import Amount, BudgetLimits
from toka_cli.llm.cache import ReplyCache
from toka_cli.llm.child import ProviderSetup
from toka_cli.llm.gateway import Gateway, GatewayPolicy
from toka_cli.llm.keys import keyring_lookup, provider_environment, providers_of, secrets_of
from toka_cli.llm.limits import RateLimits
from toka_cli.llm.preflight import Checked, local_servers, preflight, suggestion
from toka_cli.llm.process import ProviderProcess
from toka_cli.llm.recorded import Recorder, Replay
from toka_cli.llm.redact import Redactor
from toka_cli.llm.wire import Price
from toka_cli.plan.plan import Plan
from toka_cli.settings import LlmSettings
from toka_cli.state.log import EventLog

DEBUG_LOG: Final = "provider.log"
MAX_NOTES: Final = 5


@dataclass(frozen=True, slots=True)
class ModelSetup:
    """What the user said about models. `record` and `replay` are files; the cache, where it is switched on, lies below `state_dir`. `resumed`: the run goes
    on, and so does its recording.
    """

    settings: LlmSettings
    environment: Mapping[str, str] = field(repr=False)
    state_dir: Path
    record: Path | None = None
    replay: Path | None = None
    resumed: bool = False


class ModelAccess:
    """See the module. Order: `start`, `check`, `gateway`, `close`; `close` may come at any time. `on_warn` is told when a recording cannot go on."""

    def __init__(self, plan: Plan, setup: ModelSetup, version: str) -> None:
        self._plan = plan
        self._setup = setup
        self._version = version
        prompts = [agent.prompt for agent in plan.agents if agent.prompt is not None and any(task.kind == "prompt" for task in agent.tasks)]
        self._first = list(dict.fromkeys(prompt.model for prompt in prompts))
        self._others = [model for model in dict.fromkeys(model for prompt in prompts for model in prompt.fallbacks) if model not in self._first]
        names = [*self._first, *self._others]
        settings = setup.settings
        self._keys = (
            provider_environment(setup.environment, providers_of(names, settings.provider, settings.base_url), lookup=keyring_lookup()) if names else {}
        )
        self.redactor = Redactor(secrets_of(setup.environment, self._keys))
        self._provider: ProviderProcess | None = None
        self._replay: Replay | None = None
        self._recorder: Recorder | None = None
        self._gateway: Gateway | None = None
        self._checked: Checked | None = None
        self.on_warn: Callable[[str], None] = lambda _: None

    @property
    def wanted(self) -> bool:
        """True if a task of the plan asks a model."""
        return bool(self._first)

    def start(self) -> None:
        """Begin to load what speaks to providers, or open the recording. Raises NotFound, Unavailable, UsageError, ProviderError."""
        if self._setup.replay is not None:
            self._replay = Replay.open(self._setup.replay, places=self._places())
        elif self.wanted:
            settings = self._setup.settings
            self._provider = ProviderProcess(
                ProviderSetup(
                    environment=self._keys,
                    secrets=tuple(secrets_of(self._setup.environment, self._keys)),
                    base_url=settings.base_url,
                    provider=settings.provider,
                    prices={name: Price(*price) for name, price in settings.prices.items()},
                    debug_log=self._setup.state_dir / DEBUG_LOG if settings.debug else None,
                )
            )
            self._provider.start()

    def own_children(self) -> set[int]:
        """Pids of provider processes: whoever ends strays leaves these alone."""
        return self._provider.own_children() if self._provider is not None else set()

    async def check(self) -> tuple[str, ...]:
        """Look whether the models can be asked, then begin the recording; sentences about what is doubtful.

        Raises NoModel, Unavailable, ProviderError, Refused for a model without a price under a budget in USD, UsageError for a recording that is there already.
        """
        warnings = await self._preflight() if self._provider is not None else ()
        if self.wanted and self._setup.record is not None:
            self._recorder = self._recording(self._setup.record)
            for info in self._checked.infos.values() if self._checked is not None else ():
                self._recorder.model(info)
        return warnings

    async def _preflight(self) -> tuple[str, ...]:
        assert self._provider is not None
        settings, environment = self._setup.settings, self._setup.environment
        self._checked = await preflight(
            self._provider, [*self._first, *self._others], base_url=settings.base_url, environment=environment, need_prices=self._budget().in_usd
        )
        # A fallback that cannot be asked takes nothing away as long as the first model can.
        vital = Checked(self._checked.infos, tuple(problem for problem in self._checked.problems if problem.model in self._first))
        refusal = vital.refusal()
        if refusal is not None:
            near = suggestion(await local_servers()) if isinstance(refusal, Unavailable) else None
            refusal.hint = "\n".join(text for text in (refusal.hint, near) if text) or None
            raise refusal
        return tuple(f"model {problem.model}: {problem.message}" for problem in self._checked.problems if problem.warning or problem.model not in self._first)

    def gateway(self, log: EventLog, rng: random.Random) -> Gateway | None:
        """The way to models for this run, or None where none is wanted. What the log says was spent is spent, and requests are written into it."""
        if self._provider is None and self._replay is None:
            return None
        ledger = Ledger(log, self.redactor)
        settings = self._setup.settings
        policy = GatewayPolicy(
            rates=RateLimits(requests_per_minute=settings.rate_limit, tokens_per_minute=settings.tokens_per_minute),
            budget=self._budget(),
            prices={name: Price(*price) for name, price in settings.prices.items()},
            # The cell fences what comes from outside where it builds the prompt.
            fence_results=False,
        )
        cache = ReplyCache(self._setup.state_dir / "replies", scope=settings.base_url or "") if settings.cache and self._replay is None else None
        provider = self._replay if self._replay is not None else self._provider
        assert provider is not None
        self._gateway = Gateway(
            provider,
            policy,
            clock=time.time,
            rng=rng,
            spent=spent(log.view),
            secrets=self.redactor,
            recorder=self._recorder,
            cache=cache,
            on_warn=self.on_warn,
            on_send=ledger.sends,
            on_call=ledger.ended,
            earlier=ledger.earlier(),
        )
        return self._gateway

    def replay_notes(self) -> tuple[str, ...]:
        """What was not as recorded, line by line: the first request that the recording does not hold, with what is nearest; else what tools came to, and
        exchanges that nobody asked for.
        """
        replay = self._replay
        if replay is None:
            return ()
        if replay.missed is not None:
            return (replay.missed.message, *(replay.missed.hint or "").splitlines())
        notes = [f"replay: {text}" for text in replay.notes[:MAX_NOTES]]
        if replay.differences > MAX_NOTES:
            notes.append(f"replay: {replay.differences - MAX_NOTES} more differences like these")
        if replay.unused:
            notes.append(f"replay: not asked for: {replay.unused} of the recorded exchanges")
        return tuple(notes)

    async def close(self, within_s: float = 10.0) -> None:
        """Let what is under way end, then end everything. No process is left."""
        if self._gateway is not None:
            await self._gateway.close(within_s)
        if self._recorder is not None:
            self._recorder.close()
        if self._provider is not None:
            await self._provider.close()

    def _recording(self, path: Path) -> Recorder:
        def failed(text: str) -> None:
            self.on_warn(text)

        if self._setup.resumed and path.exists():
            return Recorder.resume(path, places=self._places(), on_failed=failed)
        return Recorder.create(path, version=self._version, clock=time.time, places=self._places(), on_failed=failed)

    def _places(self) -> dict[str, str]:
        return {"WORKDIR": self._plan.workdir}

    def _budget(self) -> BudgetLimits:
        options = self._plan.options
        agents = {agent.name: Amount(agent.limits.max_cost_usd, agent.limits.max_tokens) for agent in self._plan.agents}
        return BudgetLimits(
            run=Amount(options.get("budget_usd"), options.get("budget_tokens")),
            agents={name: amount for name, amount in agents.items() if amount != Amount()},
        )
