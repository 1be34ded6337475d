"""Tasks of other packages: `custom: NAME` in a spec names an entry point of the group `toka.tasks`, a class that is made with the task's `args`.

In: a name and arguments. Out: the source text that runs it, in an interpreter of its own like any code of a task: the package's code never runs in the kernel,
nor in the process that talks to the kernel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

GROUP: Final = "toka.tasks"
FINAL_EXIT: Final = 77
"""The exit code by which `custom_runner.py` says that another attempt would not help."""

# Read here, before there are walls: the text is a file of the package.
_RUNNER: Final = Path(__file__).with_name("custom_runner.py").read_text("utf-8")


class TaskContext(Protocol):
    """What `execute` is given, if it takes an argument: the directory to work in, the task's id in the spec, the agent's name, the run's id."""

    workdir: Path
    task: str
    agent: str
    run_id: str


class AgentTask(Protocol):
    """What a class offered as a task has to have: `execute`, which gives something that JSON can hold, or raises. It may be a coroutine.

    `task_id`, `description`, `estimated_duration` (seconds or a timedelta; None: not known) and `is_retryable` (False: a failure is final) are optional,
    as attributes or methods. What it prints is shown; what it gives back is the task's value.
    """

    def execute(self, context: TaskContext) -> Any:
        """Do it."""
        ...


def installed() -> tuple[str, ...]:
    """The names of the tasks that installed packages offer. Loads none of them."""
    # Late: it loads a dozen modules, which nobody else needs.
    from importlib.metadata import entry_points

    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def source_of(name: str, task: str, args: dict[str, Any]) -> str:
    """Python source that runs a custom task, whole: it needs nothing of toka where it runs."""
    arguments = msgspec.json.encode(args).decode()
    main, _, _ = _RUNNER.rpartition('if __name__ == "__main__":')
    return f"{main}sys.exit(main({name!r}, {task!r}, {arguments!r}))\n"
