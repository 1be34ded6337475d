"""What models cost, in words and numbers: turns, tokens, US dollars; for one agent, a workstream or a run.

Usage as the views hold it comes in, short text goes out. A price that is not known is never guessed, and a sum with such a price in it is not known either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from toka_cli.state.snapshot import AgentView, RunView, Usage


def asked(usage: Usage) -> bool:
    """True if a model was asked. An answer from toka's own cache counts too, and so does a request that may have been paid without an answer."""
    return bool(usage.turns or usage.llm_requests or usage.unsettled_tokens)


def turns(usage: Usage) -> str:
    """Return the number of answers; empty when no model was asked."""
    return str(usage.turns or usage.llm_requests) if usage.turns or usage.llm_requests else ""


def tokens(usage: Usage) -> str:
    """Return input and output tokens together as `950`, `12.3k`, `1.2M`; empty when no model was asked."""
    count = usage.input_tokens + usage.output_tokens
    if not asked(usage) and not count:
        return ""
    for factor, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= factor * 0.99995:
            return f"{count / factor:.1f}{unit}"
    return str(count)


def cost(usage: Usage) -> str:
    """Return the cost in US dollars, `?` when a price is not known, empty when no model was asked."""
    if usage.cost_usd is None:
        return "?"
    return money(usage.cost_usd) if asked(usage) or usage.cost_usd else ""


def money(usd: float) -> str:
    """Return US dollars with as many digits as tell something: `$12.30`, `$0.123`, `$0.0031`, `<$0.0001`."""
    if 0 < usd < 0.00005:
        return "<$0.0001"
    digits = 2 if usd >= 0.9995 or not usd else 3 if usd >= 0.09995 else 4
    return f"${usd:.{digits}f}"


def brief(usage: Usage) -> str:
    """Return usage in short: `$0.0123, 3 turns, 4.1k tokens`; empty when no model was asked."""
    return f"{paid(usage)}, {_turns(usage)}, {tokens(usage)} tokens" if asked(usage) else ""


def usage_text(usage: Usage) -> str:
    """Return usage as part of a sentence: `3 turns (1 from the cache), 3,204 tokens in, 881 out, $0.0123`.

    What requests without an answer may have cost comes on top, as the most that it can be.
    """
    cached = f" ({usage.turns - usage.llm_requests} from the cache)" if usage.turns > usage.llm_requests else ""
    return f"{_turns(usage)}{cached}, {usage.input_tokens:,} tokens in, {usage.output_tokens:,} out, {paid(usage)}{_unsettled(usage)}"


def paid(usage: Usage) -> str:
    """Return the cost as part of a sentence."""
    return "cost not known" if usage.cost_usd is None else money(usage.cost_usd)


def spenders(view: RunView) -> list[AgentView]:
    """Return the agents that asked a model, the dearest first; one of unknown cost may be the dearest of all."""
    found = [agent for agent in view.agents if asked(agent.usage)]
    return sorted(found, key=lambda agent: (agent.usage.cost_usd is not None, -(agent.usage.cost_usd or 0.0), -agent.usage.input_tokens))


def workstreams(agents: Iterable[AgentView]) -> dict[str, Usage]:
    """Return the usage of each workstream, in the order of the agents; nothing where none has more than one of them."""
    members: dict[str, list[AgentView]] = {}
    for agent in agents:
        members.setdefault(agent.workstream, []).append(agent)
    if all(len(found) == 1 for found in members.values()):
        return {}
    return {name: together([agent.usage for agent in found]) for name, found in members.items()}


def together(usages: Sequence[Usage]) -> Usage:
    """Return the sum of usages."""
    known = [usage.cost_usd for usage in usages if usage.cost_usd is not None]
    return Usage(
        llm_requests=sum(usage.llm_requests for usage in usages),
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        cost_usd=sum(known, 0.0) if len(known) == len(usages) else None,
        turns=sum(usage.turns for usage in usages),
        unsettled_usd=sum((usage.unsettled_usd for usage in usages), 0.0),
        unsettled_tokens=sum(usage.unsettled_tokens for usage in usages),
    )


def _turns(usage: Usage) -> str:
    count = turns(usage) or "0"
    return f"{count} {'turn' if count == '1' else 'turns'}"


def _unsettled(usage: Usage) -> str:
    if not usage.unsettled_tokens:
        return ""
    most = f"{money(usage.unsettled_usd)} " if usage.unsettled_usd else ""
    return f", at most {most}more ({usage.unsettled_tokens:,} tokens) for requests without an answer"
