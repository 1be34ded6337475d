"""What one agent's session asks of the policy: may this task start, may this tool be called so, was it the sandbox. In: a plan and an act. Out: a denial or a
hint. It records nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from toka_cli.events import Outcome
from toka_cli.plan.plan import PlannedAgent
from toka_cli.policy.capability import takes
from toka_cli.policy.hint import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, denied_hint, nothing_there
from toka_cli.policy.profile import narrowed
from toka_cli.policy.validator import CapabilityValidator, Denial
from toka_cli.protocol.messages import TaskBrief, Walls
from toka_cli.tools.tool import Tool

_COMMANDS: Final = frozenset({"run_command", "run_code"})
_HEAD_CHARS: Final = 400
"""How far into a result the exit status of a command stands: its short values come first."""


@dataclass(frozen=True, slots=True)
class Permits:
    """The grants of one agent, task by task. `private` is how the paths of its own folder begin."""

    planned: PlannedAgent
    workdir: str
    walls: Walls | None = None
    private: str = ""

    def of(self, task: TaskBrief) -> CapabilityValidator:
        """What a task may do: as its agent; of that only what it requires, if it says so."""
        powers = {name: tuple(self.planned.grant_values.get(name, ())) for name in self.planned.grants}
        if task.requires:
            powers = narrowed(powers, task.requires)
        return CapabilityValidator(tuple(powers), self.planned.declared, powers)

    def start(self, task: TaskBrief) -> Denial | None:
        """None if an attempt at the task may begin: what it requires is held, and so is the power of each program that it runs."""
        whole = CapabilityValidator(self.planned.grants, self.planned.declared, self.planned.grant_values)
        denial = whole.check_all(task.requires, f"task {task.id}")
        if denial is not None:
            return denial
        holder = self.of(task)
        commands = [task.run if task.kind == "command" else None, task.verify.run if task.verify is not None else None]
        # The text of a shell line is not taken apart: the walls hold what it starts.
        return next((denial for run in commands if isinstance(run, tuple) and (denial := holder.check_program(run)) is not None), None)

    def call(self, task: TaskBrief, tool: Tool, args: dict[str, Any]) -> Denial | None:
        """None if a task may call a tool with these arguments."""
        holder = self.of(task)
        denial = holder.check(tool.power, f"tool {tool.name}") or self._path(holder, tool, args)
        if denial is None and tool.power == "script-execution":
            # Without a list of words (a shell line, code) nobody can say beforehand which program it will be.
            run = args.get("argv")
            argv = [word for word in run if isinstance(word, str)] if isinstance(run, list | tuple) else ""
            denial = holder.check_program(argv, always=tool.power)
        return denial

    def explained(self, task: TaskBrief, outcome: Outcome) -> str | None:
        """The hint for a failed attempt that the walls refused something; None when it was not them."""
        text = f"{outcome.output}\n{outcome.stderr}"
        powers = self.of(task).powers
        walls, workdir = task.walls or self.walls, os.path.realpath(self.workdir)
        return denied_hint(text, outcome.exit_code, walls, powers, workdir, private=self.private) or nothing_there(text, walls, workdir)

    def told(self, task: TaskBrief, tool: str, result: str) -> str:
        """What a model is told of a call: of a command that failed, with the hint behind it where the walls refused something."""
        if tool not in _COMMANDS or '"exit_code":0' in result[:_HEAD_CHARS]:
            return result
        code = next((code for code in (EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND) if f'"exit_code":{code}' in result[:_HEAD_CHARS]), 1)
        hint = self.explained(task, Outcome(exit_code=code, output=result))
        return result if hint is None else f"{result.rstrip()}\n\n{hint}"

    def _path(self, holder: CapabilityValidator, tool: Tool, args: dict[str, Any]) -> Denial | None:
        """A narrowed grant covers the file that the path really leads to, links followed; a path outside the workdir is the tool's to refuse."""
        path = args.get("path", ".")
        if tool.power is None or takes(tool.power) != "paths" or not isinstance(path, str) or not any(holder.values.values()):
            return None
        root = os.path.realpath(self.workdir)
        relative = os.path.relpath(os.path.realpath(os.path.join(root, path)), root)  # noqa: PTH118  pathlib drops what realpath needs
        return holder.check_path(tool.power, relative, f"tool {tool.name}")
