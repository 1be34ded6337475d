"""CapabilityValidator: may this agent do that? In: the grants of an agent and what an act needs. Out: None, or the refusal with the YAML lines to add.

Pure; asked by the kernel for every act, each time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from toka_cli.policy.capability import held
from toka_cli.policy.confine import covers


@dataclass(frozen=True, slots=True)
class Denial:
    """A refusal: the grant that is missing, one line for people and models, and the lines to add."""

    capability: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class CapabilityValidator:
    """The grants of one agent: powers it holds by their canonical names, names it declared, and the paths that a power is narrowed to."""

    powers: Collection[str]
    declared: Collection[str] = ()
    paths: Mapping[str, Collection[str]] = field(default_factory=dict)

    def check(self, capability: str | None, act: str) -> Denial | None:
        """None if `capability` is granted (or none is needed), else the denial of `act`."""
        if capability is None or capability in held(self.powers):
            return None
        return Denial(
            capability,
            f"Capability not authorized: {capability} required for {act}",
            f"add it to the agent's spec (this is a policy, trying again does not help):\n"
            f"security:\n  capabilities_required:\n    - {capability}",
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
        holders = [name for name in self.powers if capability in held([name])]
        if any(not self.paths.get(name) or covers(self.paths[name], path) for name in holders):
            return None
        granted = ", ".join(pattern for name in holders for pattern in self.paths.get(name, ()))
        return Denial(
            capability,
            f"Capability not authorized: {capability} required for {act} on {path} (granted for {granted})",
            f"widen it in the agent's spec (this is a policy, trying again does not help):\n"
            f"security:\n  capabilities_required:\n    - {capability}: [{path}]",
        )
