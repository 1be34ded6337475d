"""CapabilityValidator: may this agent do that? In: the grants of an agent and what an act needs. Out: None, or the refusal with the YAML lines to add.

Pure; asked by the kernel for every act, each time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from toka_cli.policy.capability import held, values_of
from toka_cli.policy.confine import covers
from toka_cli.policy.programs import program_of

STANDING = "this is a policy of the sandbox, trying again or another way does not help"


@dataclass(frozen=True, slots=True)
class Denial:
    """A refusal: the grant that is missing, one line for people and models, and the lines to add."""

    capability: str
    message: str
    hint: str


def lines_to_add(capability: str, *values: str) -> str:
    """The lines of a spec that grant a power, narrowed to `values` if there are any."""
    return f"security:\n  capabilities_required:\n    - {capability}" + (f": [{', '.join(_quoted(value) for value in values)}]" if values else "")


@dataclass(frozen=True, slots=True)
class CapabilityValidator:
    """The grants of one agent, or of one task of it: powers by their canonical names, names it declared, and what each power is narrowed to."""

    powers: Collection[str]
    declared: Collection[str] = ()
    values: Mapping[str, Collection[str]] = field(default_factory=dict)

    def check(self, capability: str | None, act: str) -> Denial | None:
        """None if `capability` is granted (or none is needed), else the denial of `act`."""
        if capability is None or capability in held(self.powers):
            return None
        return Denial(
            capability,
            f"Capability not authorized: {capability} required for {act}",
            f"add it to the agent's spec ({STANDING}):\n{lines_to_add(capability)}",
        )

    def check_all(self, capabilities: Iterable[str], act: str) -> Denial | None:
        """The first denial among several; a declared name grants nothing, but a task may ask that it was declared."""
        wanted = (name for name in capabilities if name not in self.declared)
        return next((denial for name in wanted if (denial := self.check(name, act)) is not None), None)

    def check_path(self, capability: str | None, path: str, act: str) -> Denial | None:
        """None if a resolved path below the workdir lies where `capability` is granted, else the denial.

        A power that is held through another one is narrowed like that one.
        """
        if capability is None:
            return None
        patterns = self._values(capability)
        if patterns is not None and (not patterns or covers(patterns, path)):
            return None
        granted = ", ".join(patterns or ())
        return Denial(
            capability,
            f"Capability not authorized: {capability} required for {act} on {path}" + (f" (granted for {granted})" if granted else ""),
            f"widen it in the agent's spec ({STANDING}):\n{lines_to_add(capability, path)}",
        )

    def check_program(self, argv: Sequence[str] | str, *, always: str | None = None) -> Denial | None:
        """None if this agent may run an argv, else the denial: the program belongs to a power that is not held, or that is narrowed to other programs.

        `always` is a power that whatever is run needs and has to be listed by, where that one is narrowed (that of the tool which runs it). The text of
        a shell line is not taken apart, so a power that is narrowed to programs does not cover it.
        """
        shell = isinstance(argv, str)
        program = program_of(("/bin/sh", "-c", argv) if isinstance(argv, str) else argv)
        for capability in dict.fromkeys((always, program.power)):
            if capability is None:
                continue
            denial = self.check(capability, program.name)
            if denial is not None:
                return denial
            listed = self._values(capability)
            if not listed or (capability == always and program.power not in {None, always}):
                continue
            if shell or not (program.name in listed or ("/" in program.name and covers(listed, program.name))):
                what = "a shell line or code" if shell else program.name
                return Denial(
                    capability,
                    f"Capability not authorized: {capability} required for {what} (granted for {', '.join(listed)})",
                    f"widen it in the agent's spec ({STANDING}):\n{lines_to_add(capability, *([] if shell else [program.name]))}",
                )
        return None

    def _values(self, capability: str) -> tuple[str, ...] | None:
        return values_of({name: tuple(self.values.get(name, ())) for name in self.powers}, capability)


def _quoted(value: str) -> str:
    """A value as a YAML flow list takes it."""
    return value if value and not any(mark in value for mark in "[]{},#&*!|>'\"%@`: ") else "'" + value.replace("'", "''") + "'"
