"""Every error that toka raises on purpose.

    TokaError                 .code (stable, JSON and wire)  .exit_code  .retryable  .hint  .where
     ├─ UsageError            2   wrong command line
     ├─ InvalidSpecs          3   one or many problems in specs or in the plan, each with its place
     ├─ NotFound              4   no such run, agent or file
     ├─ Refused               5   a grant, sandbox or limit that was asked for cannot be given
     │   └─ CapabilityDenied  5   an act needs a grant that the spec does not hold
     ├─ Unavailable           6   no key, provider, quota, MCP server, or the state file
     │   ├─ NoModel           6   a prompt task, and no model to ask
     │   └─ StateUnavailable  6   the state file cannot be read or written
     ├─ BudgetExhausted       7
     ├─ ReplayMiss            8
     ├─ DecisionNeeded        9
     ├─ TimedOut              124
     ├─ Stopped               130 / 143, by the signal that asked for it
     └─ Bug                   70  never a user's mistake
         ├─ IllegalMove           an event that the lifecycle tables do not allow
         └─ ProtocolError         the other side of a door broke the protocol

Raised where the fact is known; caught only where something can be done. Exit codes are API (see the README's table).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

EXIT_OK: Final = 0
EXIT_RUN_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INVALID: Final = 3
EXIT_NOT_FOUND: Final = 4
EXIT_REFUSED: Final = 5
EXIT_UNAVAILABLE: Final = 6
EXIT_BUDGET: Final = 7
EXIT_REPLAY: Final = 8
EXIT_DECISION: Final = 9
EXIT_BUG: Final = 70
EXIT_TIMED_OUT: Final = 124
EXIT_SIGINT: Final = 130
EXIT_SIGTERM: Final = 143


class TokaError(Exception):
    """An error with a stable code, an exit code and a hint that says what to do next.

    `where` is `file:line:column` when a file is to blame.
    """

    code: str = "error"
    exit_code: int = EXIT_RUN_FAILED
    retryable: bool = False

    def __init__(self, message: str, *, hint: str | None = None, where: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.where = where
        if code is not None:
            self.code = code


class UsageError(TokaError):
    """The command line does not make sense."""

    code = "usage"
    exit_code = EXIT_USAGE


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One problem in a spec or plan, at its place. Lines and columns count from 1; 0 means the whole file.

    `severity` is `error` or `warning`; under --strict warnings count as errors.
    """

    path: str
    line: int
    column: int
    message: str
    hint: str | None = None
    code: str = "spec"
    severity: str = "error"

    @property
    def where(self) -> str:
        """The place as `path:line:column`, or the path alone when no line is known."""
        return f"{self.path}:{self.line}:{self.column}" if self.line else self.path


class InvalidSpecs(TokaError):
    """Specs or the plan are invalid; carries every problem that was found, not only the first."""

    code = "invalid_spec"
    exit_code = EXIT_INVALID

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} found")


class NotFound(TokaError):
    """No such run, agent or file; or a name that fits more than one."""

    code = "not_found"
    exit_code = EXIT_NOT_FOUND


class Refused(TokaError):
    """Something asked for cannot be given on this machine or by this policy."""

    code = "refused"
    exit_code = EXIT_REFUSED


class CapabilityDenied(Refused):
    """An act needs a grant that is not held."""

    code = "capability_denied"


class Unavailable(TokaError):
    """Something outside toka is not there now."""

    code = "unavailable"
    exit_code = EXIT_UNAVAILABLE
    retryable = True


class NoModel(Unavailable):
    """A prompt task is part of the run, and no model can be asked."""

    code = "no_model"
    retryable = False


class StateUnavailable(Unavailable):
    """The state file cannot be read or written."""

    code = "state_unavailable"


class BudgetExhausted(TokaError):
    """A budget (USD or tokens) is used up. `of_run`: the one of the whole run, so nobody has any left."""

    code = "budget"
    of_run: bool = False
    exit_code = EXIT_BUDGET


class ReplayMiss(TokaError):
    """The run asked for something that the recording does not hold."""

    code = "replay_miss"
    exit_code = EXIT_REPLAY


class DecisionNeeded(TokaError):
    """A person has to decide and nobody can be asked."""

    code = "decision_needed"
    exit_code = EXIT_DECISION


class TimedOut(TokaError):
    """The run's own time limit passed."""

    code = "timeout"
    exit_code = EXIT_TIMED_OUT


class Stopped(TokaError):
    """A signal asked toka to stop; `exit_code` is 128 + the signal's number."""

    code = "stopped"

    def __init__(self, message: str, *, signum: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = 128 + signum


class Bug(TokaError):
    """Something that must not happen did; a report file is written."""

    code = "bug"
    exit_code = EXIT_BUG


class IllegalMove(Bug):
    """An event that the lifecycle tables do not allow in the present state."""

    code = "illegal_move"


class ProtocolError(Bug):
    """The other side of a door broke the protocol: size, depth, rate, shape or order of frames."""

    code = "protocol"
