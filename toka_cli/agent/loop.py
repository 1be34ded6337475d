"""The tool loop: one attempt at a prompt task, turn by turn, until the model calls finish or there is a reason to stop.

In: a task, its conversation, tools. Out: ok or not, a reason, an Outcome. Its own state is only what it can read off the conversation again: the process may
end at any point, and the next one goes on at the same turn. It never mends what a model wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import msgspec

from toka_cli.agent import prompt as words
from toka_cli.agent.context import DEFAULT_WINDOW
from toka_cli.agent.dialogue import Call, Dialogue, Late
from toka_cli.agent.guidance import Guidance, read_guidance
from toka_cli.agent.render import answer_text
from toka_cli.agent.stuck import Circle
from toka_cli.agent.tool_runs import ToolEnd, ToolRuns, timeout_reason, tool_verdict
from toka_cli.events import Outcome
from toka_cli.protocol import messages as m
from toka_cli.protocol import talk as t
from toka_cli.tools.ending import Ask, Finish
from toka_cli.tools.tool import OUTPUT_LIMIT, ToolFailed, nearest_hint

MAX_TURNS: Final = 500
"""Turns of one attempt, whatever its budget: a bound for a loop that nothing else ends."""
MAX_IDLE_TURNS: Final = 6
"""Turns in a row in which nothing could be done: arguments that do not parse, tools that do not exist, refusals."""
LEAST_OUTPUT: Final = 4096
BUDGET_ENDS: Final = "budget: nearly used up, and the model did not finish"
_SHARE_OF_WINDOW: Final = 0.15
_BYTES_PER_TOKEN: Final = 3

End = tuple[bool, str | None, Outcome]


@dataclass(slots=True)
class Loop:
    """One attempt. `last` is the reason with which the attempt fails if the model does not use its last turn to finish; None while there are more."""

    task: m.TaskBrief
    brief: m.AgentBrief
    runs: ToolRuns
    dialogue: Dialogue
    _circle: Circle = field(default_factory=Circle)
    _pending: list[tuple[str, str]] = field(default_factory=list)
    _nudged: bool = False
    _repaired: bool = False
    _last: str | None = None
    _last_told: bool = False
    _idle: int = 0

    async def run(self) -> End:
        """The whole attempt. Raises what calls of the kernel raise, and Cancelled."""
        clock = self.runs.runner.scheduler.clock
        began = clock()
        try:
            ok, reason, outcome = await self._to_the_end()
        except Late:
            ok, reason, outcome = self._fails(timeout_reason(self.task.id, self.dialogue.deadline.limit_s))
        return ok, reason, msgspec.structs.replace(outcome, duration_s=round(clock() - began, 6))

    async def _to_the_end(self) -> End:
        dialogue, prompt = self.dialogue, self.dialogue.prompt
        await dialogue.open(self._remember)
        for call in dialogue.calls:
            call.well = call.text is None or not call.text.startswith(words.NOT_WELL)
        if dialogue.fresh:
            guidance = read_guidance(self.brief.workdir) if "read_file" in prompt.tools else Guidance()
            limit_s = dialogue.deadline.limit_s
            dialogue.begin(words.system(prompt, guidance), words.task_message(self.brief, self.task, dialogue.opened, limit_s))
        temperature = words.RETRY_TEMPERATURE if dialogue.opened.failed is not None else prompt.temperature
        while True:
            if dialogue.replied and (ended := await self._act()) is not None:
                return ended
            if dialogue.turn >= MAX_TURNS:
                return self._fails(f"limit.turns: more than {MAX_TURNS} turns")
            self._last = self._last or (BUDGET_ENDS if dialogue.last else None)
            if self._last is not None and not self._last_told:
                dialogue.say.append(words.last_turn(self._last.partition(": ")[2]))
                self._last_told = True
            error = await dialogue.ask((t.FINISH,) if self._last_told else self._offered, temperature)
            if error is not None:
                return self._fails(f"{error.code}: {error.message}", Outcome(stderr=error.hint or ""))

    @property
    def _offered(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.dialogue.prompt.tools, t.ASK, t.FINISH)))

    def _remember(self, message: dict[str, Any]) -> None:
        """What a message of an earlier life says of the state of this loop."""
        role, content = message.get("role"), message.get("content")
        if role == "assistant":
            self._pending = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()]
        elif role == "tool" and self._pending:
            tool, arguments = self._pending.pop(0)
            self._circle.add(tool, arguments, str(content))
            self._repaired = self._repaired or (tool == t.FINISH and str(content).startswith(words.NOT_FITTING))
        elif content == words.NUDGE_STUCK:
            self._circle.nudge()
        elif isinstance(content, str):
            self._nudged = self._nudged or content == words.NUDGE_FINISH
            if content.startswith(words.LAST_TURN):
                limit = self.brief.limits.max_tool_calls
                calls = None if limit is None else words.too_many_calls(limit)
                self._last_told, self._last = True, calls if calls is not None and calls.partition(": ")[2] in content else BUDGET_ENDS

    # --- acting on a reply ---

    async def _act(self) -> End | None:
        """Do what the newest reply asks for. An end, or None when the model has to be asked again."""
        dialogue = self.dialogue
        if not dialogue.calls:
            return self._text_alone()
        finish = next((call for call in dialogue.calls if call.tool == t.FINISH and call.text is None), None)
        question = next((call for call in dialogue.calls if call.tool == t.ASK and call.text is None), None)
        if question is not None and (ended := self._asked(question)) is not None:
            return ended
        if not self._last_told:
            await self._make([call for call in dialogue.calls if call.tool not in {t.FINISH, t.ASK} and call.text is None])
        for call in dialogue.calls:
            if call.text is None and call is not finish:
                call.text, call.well = words.not_run("this was the last turn" if self._last_told else "the conversation ends with the first finish"), False
        if finish is not None and (ended := self._finished(finish)) is not None:
            return ended
        if self._last_told:
            return self._fails(self._last or BUDGET_ENDS)
        return self._go_round()

    def _text_alone(self) -> End | None:
        """A reply without calls: asked once to finish, then it is over."""
        if self._last_told:
            return self._fails(self._last or BUDGET_ENDS)
        if self._nudged:
            return self._fails("no_finish: the model wrote text and did not call finish", Outcome(output=self.dialogue.said))
        self._nudged = True
        self.dialogue.say.append(words.NUDGE_FINISH)
        return None

    def _go_round(self) -> End | None:
        """Before the next turn: is anything still moving?"""
        dialogue = self.dialogue
        for call in dialogue.calls:
            self._circle.add(call.tool, call.arguments, call.text or "")
        self._idle = 0 if any(call.recorded for call in dialogue.calls) else self._idle + 1
        if self._idle >= MAX_IDLE_TURNS:
            return self._fails(f"stuck: {MAX_IDLE_TURNS} turns without a call that could be made")
        if self._circle.found():
            if self._circle.nudged:
                return self._fails("stuck: the same calls with the same results, again after it was told")
            self._circle.nudge()
            dialogue.say.append(words.NUDGE_STUCK)
        if dialogue.warning:
            dialogue.say.append(f"{words.MARK} {dialogue.warning}")
        return None

    # --- finish and ask ---

    def _finished(self, call: Call) -> End | None:
        """The end that a finish means; None when it cannot be taken, and the model is told why."""
        arguments = _parsed(call.arguments)
        failing = sum(not other.well for other in self.dialogue.calls if other is not call)
        if failing and not self._last_told:
            call.text = f"Not taken: {failing} of the calls beside it did not do what they should. Look at their results, then call finish again."
            return None
        if isinstance(arguments, str):
            call.text = words.not_run(arguments)
            return None
        try:
            said = self.runs.catalog.find(t.FINISH).decode({name: value for name, value in arguments.items() if name != "output"})
        except ToolFailed as error:
            call.text = words.failed(str(error), error.hint)
            return None
        assert isinstance(said, Finish)
        evidence = {"status": said.status, "summary": said.summary, "evidence": said.proofs}
        outcome = Outcome(output=said.summary, output_bytes=len(said.summary.encode("utf-8", "replace")), evidence=evidence)
        if said.status != "success":
            word = "blocked" if said.status == "blocked" else "reported_failure"
            return self._fails(f"{word}: {said.summary[:500]}", outcome)
        if self.task.output_schema is None:
            return True, None, outcome
        if self.dialogue.schema_problem is not None:
            if self._repaired or self._last_told:
                return self._fails(self.dialogue.schema_problem, outcome)
            self._repaired = True
            call.text = words.repair(self.dialogue.schema_problem)
            return None
        value = arguments.get("output")
        text = msgspec.json.encode(value).decode()
        return True, None, msgspec.structs.replace(outcome, output=text, output_bytes=len(text.encode()), value=value)

    def _asked(self, call: Call) -> End | None:
        """Nobody sits beside a run: a question that only a person can decide ends the task."""
        arguments = _parsed(call.arguments)
        try:
            if isinstance(arguments, str):
                raise ToolFailed(arguments)
            question = self.runs.catalog.find(t.ASK).decode(arguments)
        except ToolFailed as error:
            call.text, call.well = words.failed(str(error), error.hint), False
            return None
        assert isinstance(question, Ask)
        choices = f" (choices: {'; '.join(question.options)})" if question.options else ""
        return self._fails(f"decision_needed: {question.question}{choices}"[:2000])

    # --- other calls ---

    async def _make(self, calls: list[Call]) -> None:
        """Make calls: side by side when all of them only look, else one after the other."""
        scheduler = self.runs.runner.scheduler
        known = self.runs.catalog.tools
        if len(calls) > 1 and all(call.tool in known and known[call.tool].read_only for call in calls):
            strands = [scheduler.spawn(self._one(call)) for call in calls]
            try:
                for strand in strands:
                    await scheduler.join(strand)
            except BaseException:
                for strand in strands:
                    scheduler.cancel(strand)
                raise
            return
        for call in calls:
            await self._one(call)

    async def _one(self, call: Call) -> None:
        """Make one call, and see to it that it has a text in the end."""
        arguments = _parsed(call.arguments)
        if isinstance(arguments, str):
            call.text, call.well = words.not_run(arguments), False
            return
        tool = self.runs.catalog.tools.get(call.tool)
        if tool is None:
            hint = nearest_hint(call.tool, self._offered) or f"your tools are: {', '.join(self._offered)}"
            call.text, call.well = words.failed(f"there is no tool {call.tool[:100]!r}", hint), False
            return
        try:
            tool.decode(arguments)
        except ToolFailed as error:
            call.text, call.well = words.failed(str(error), error.hint), False
            return
        await self.dialogue.pace.step()
        if self.dialogue.deadline.over:
            raise Late
        await self._run(call, arguments)

    async def _run(self, call: Call, arguments: dict[str, Any]) -> None:
        opened, deadline = self.dialogue.opened, self.dialogue.deadline
        call_id = t.call_id(self.task.id, opened.attempt, self.dialogue.turn, call.index)
        if call.doubtful and self.runs.took_effect(self.task, call_id, call.tool, arguments, deadline):
            end = ToolEnd("This call was cut off, and has taken effect: what it was to bring about is there.")
            call.text, call.recorded = str(end.value), True
            await self.runs.done(call_id, end, lambda end: str(end.value))
            return
        told = partial(self._told, call.tool)
        end = await self.runs.call(self.task, call_id, call.tool, arguments, deadline, told=told, output_limit=self._output_limit)
        call.text, call.recorded = told(end), end.refused is None
        call.well = end.refused is None and end.error is None and tool_verdict(end.value)[0]
        limit = self.brief.limits.max_tool_calls
        if end.refused is not None and limit is not None and end.refused == words.too_many_calls(limit):
            self._last = end.refused
        if deadline.over:
            raise Late

    def _told(self, tool: str, end: ToolEnd) -> str:
        """What the model is told of a call: toka's own words as they are, what a tool brought between marks."""
        if end.refused is not None:
            denied = end.refused.startswith("capability_denied")
            return words.refused(end.refused, end.hint) if denied else words.not_run(end.refused)
        if end.error is not None:
            return words.failed(end.error, end.hint)
        return words.fenced(answer_text(end.value, self._output_limit), f"tool {tool}")

    @property
    def _output_limit(self) -> int:
        """Bytes that one result may have: a small window must not be filled by one answer."""
        window = self.dialogue.prompt.context_window or DEFAULT_WINDOW
        return max(LEAST_OUTPUT, min(OUTPUT_LIMIT, int(window * _SHARE_OF_WINDOW * _BYTES_PER_TOKEN)))

    def _fails(self, reason: str, outcome: Outcome | None = None) -> End:
        return False, reason, outcome or Outcome(output=self.dialogue.said[:4000])


def _parsed(arguments: str) -> dict[str, Any] | str:
    """Arguments as the model wrote them, or what is wrong with them. They are never mended: a repaired command is another command."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError) as error:
        return f"its arguments are not JSON ({error}); write the whole call again"
    return value if isinstance(value, dict) else "its arguments are no JSON object; write the whole call again"
