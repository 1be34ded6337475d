"""Compares two runs by what they came to: states, reasons, exit codes, outputs, files, what models used, what was denied.

In: two runs as readers see them, and the acts that each denied. Out: the differences, none when both came to the same. What is another in every run is not
compared: times, durations, measurements, processes, and the ids of runs and agents, also where a reason or an output repeats them; and a run that was played
back paid nobody, so that only its turns are compared. Pure.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from toka_cli.state.snapshot import AgentView, Deliverable, GateView, RunView, TaskView, Usage

_MISSING: Final = "missing"
# A time of day, an amount, a duration, a process: what a reason may say that is another each time.
_FLEETING: Final = re.compile(r"\b\d{1,2}:\d\d(:\d\d)?\b|\b(pid|process) \d+|\b\d+(\.\d+)?( ?[KMGT]?B|ms|s|m\d+s|h\d+m)\b")
_LINE_CHARS: Final = 200


class Difference(msgspec.Struct, frozen=True):
    """One thing that is not the same. `what` is a stable word; `a` and `b` are its values (outputs and files by sha256), `missing` where it is not there.

    `agent`, `task`, `gate` (number of the objective) and `path` say where; all None: the run itself. `detail` says more to people.
    """

    what: str
    a: Any
    b: Any
    agent: str | None = None
    task: str | None = None
    gate: int | None = None
    path: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """One of two runs. `denied`: agent id, tool and missing grant of each act that was refused."""

    view: RunView
    denied: Sequence[tuple[str, str, str]] = ()


@dataclass(frozen=True, slots=True)
class _Pair:
    """The same place in both runs, and a way to take out of a text what is no difference. `paid`: both asked providers, not a recording."""

    ids: tuple[str, str]
    paid: bool
    where: dict[str, Any] = field(default_factory=dict)
    found: list[Difference] = field(default_factory=list)

    def at(self, **more: Any) -> _Pair:
        return _Pair(self.ids, self.paid, {**self.where, **more}, self.found)

    def value(self, what: str, a: Any, b: Any) -> None:
        if a != b:
            self.found.append(Difference(what, a, b, **self.where))

    def reason(self, a: str | None, b: str | None) -> None:
        """Reasons that are the same but for what is another each time are the same."""
        same = _FLEETING.sub("#", self._steady(a, 0)) == _FLEETING.sub("#", self._steady(b, 1))
        if not same:
            self.found.append(Difference("reason", a, b, **self.where))

    def text(self, what: str, a: tuple[str, str | None], b: tuple[str, str | None]) -> None:
        """Texts, each with the sha256 of the artifact that holds the whole of it where it is longer."""
        (text, whole), (other, other_whole) = (self._steady(a[0], 0), a[1]), (self._steady(b[0], 1), b[1])
        one, two = whole or _digest(text), other_whole or _digest(other)
        if one != two:
            self.found.append(Difference(what, one, two, **self.where, detail=_first_line(text, other)))

    def _steady(self, text: str | None, side: int) -> str:
        return (text or "").replace(self.ids[side], "RUN")


def differences(a: Compared, b: Compared) -> list[Difference]:
    """What is not the same in both runs: of the run first, then agent by agent in the order of the first run, then files."""
    pair = _Pair((a.view.id, b.view.id), not (a.view.options.get("replay") or b.view.options.get("replay")))
    pair.value("state", a.view.state.value, b.view.state.value)
    pair.reason(a.view.reason, b.view.reason)
    pair.value("exit_code", a.view.exit_code, b.view.exit_code)
    denied = _denied(a), _denied(b)
    for name, one, two in _paired(a.view.agents, b.view.agents, _key_of(lambda agent: agent.name)):
        here = pair.at(agent=name[0])
        if one is None or two is None:
            here.value("agent", _there(one), _there(two))
        else:
            _agent(here, one, two)
            _acts(here, denied[0].get(one.id, Counter()), denied[1].get(two.id, Counter()))
    for key, file, other in _paired(a.view.deliverables, b.view.deliverables, _key_of(lambda it: (it.path, it.agent, it.objective))):
        path, agent, _ = key[0]
        pair.at(agent=agent, path=path).value("deliverable", _sha256(file), _sha256(other))
    return pair.found


def _agent(here: _Pair, a: AgentView, b: AgentView) -> None:
    here.value("state", a.state.value, b.state.value)
    here.reason(a.reason, b.reason)
    for name, one, two in _paired(a.tasks, b.tasks, _key_of(lambda task: task.id)):
        _task(here.at(task=name[0]), one, two)
    for key, gate, other in _paired(a.gates, b.gates, _key_of(lambda it: (it.index, it.description))):
        _gate(here.at(gate=key[0][0]), gate, other)
    _usage(here, a.usage, b.usage)


def _task(here: _Pair, a: TaskView | None, b: TaskView | None) -> None:
    if a is None or b is None:
        here.value("task", _there(a), _there(b))
        return
    here.value("state", a.state.value, b.state.value)
    here.reason(a.reason, b.reason)
    here.value("exit_code", a.exit_code, b.exit_code)
    here.value("signal", a.signal, b.signal)
    if a.artifact or b.artifact:
        # The whole of both streams is in one artifact; what is shown of each is a part of it.
        here.text("output", (a.output, a.artifact), (b.output, b.artifact))
        return
    here.text("output", (a.output, None), (b.output, None))
    here.text("stderr", (a.stderr, None), (b.stderr, None))
    if a.value is not None or b.value is not None:
        here.text("value", (_json(a.value), None), (_json(b.value), None))


def _gate(here: _Pair, a: GateView | None, b: GateView | None) -> None:
    if a is None or b is None:
        here.value("gate", _there(a), _there(b))
        return
    here.value("state", a.state, b.state)
    here.reason(a.reason, b.reason)
    here.value("exit_code", a.exit_code, b.exit_code)


def _usage(here: _Pair, a: Usage, b: Usage) -> None:
    here.value("usage.turns", a.turns, b.turns)
    if not here.paid:
        return
    for name in ("llm_requests", "input_tokens", "output_tokens"):
        here.value(f"usage.{name}", getattr(a, name), getattr(b, name))
    if a.cost_usd is None or b.cost_usd is None or not math.isclose(a.cost_usd, b.cost_usd, rel_tol=1e-9, abs_tol=1e-12):
        here.value("usage.cost_usd", a.cost_usd, b.cost_usd)


def _acts(here: _Pair, a: Counter[tuple[str, str]], b: Counter[tuple[str, str]]) -> None:
    for tool, capability in sorted({*a, *b}):
        counts = a[tool, capability], b[tool, capability]
        if counts[0] != counts[1]:
            here.found.append(Difference("denied", *counts, **here.where, detail=f"{tool} without {capability}"))


def _denied(run: Compared) -> Mapping[str, Counter[tuple[str, str]]]:
    found: dict[str, Counter[tuple[str, str]]] = {}
    for agent, tool, capability in run.denied:
        found.setdefault(agent, Counter())[tool, capability] += 1
    return found


def _paired(a: Sequence[Any], b: Sequence[Any], keys: Callable[[Sequence[Any]], dict[Any, Any]]) -> Iterator[tuple[Any, Any, Any]]:
    """Things of the same key, in the order of the first run; then those that only the second has."""
    first, second = keys(a), keys(b)
    for key, one in first.items():
        yield key, one, second.get(key)
    for key, other in second.items():
        if key not in first:
            yield key, None, other


def _key_of(name: Callable[[Any], Any]) -> Callable[[Sequence[Any]], dict[Any, Any]]:
    """Things by their name and its how-manieth they are: nothing keeps two from having the same."""

    def keys(things: Sequence[Any]) -> dict[Any, Any]:
        seen: Counter[Any] = Counter()
        found = {}
        for thing in things:
            seen[name(thing)] += 1
            found[name(thing), seen[name(thing)]] = thing
        return found

    return keys


def _there(thing: Any) -> str:
    return _MISSING if thing is None else str(thing.state)


def _sha256(file: Deliverable | None) -> str:
    return _MISSING if file is None else file.sha256


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _first_line(a: str, b: str) -> str | None:
    """The first line that is not the same; None where what is shown is the same and only the rest is not."""
    one, two = a.split("\n"), b.split("\n")
    for number in range(max(len(one), len(two))):
        pair = [lines[number][:_LINE_CHARS] if number < len(lines) else None for lines in (one, two)]
        if pair[0] != pair[1]:
            return f"line {number + 1}: " + " / ".join("no such line" if line is None else repr(line) for line in pair)
    return None
