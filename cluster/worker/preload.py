"""Which modules are imported once for many workers, before these are forked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Preload:
    """What the wings have imported."""

    #: For all of them, besides our own.
    common: tuple[str, ...] = ()
    #: By wing, what only its workers need.
    of_wing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def wing_of(self, family: str) -> str:
        """Empty where its wing needs nothing of its own."""
        return next((wing for wing in self.of_wing if family.startswith((f"{wing}.", f"{wing}:"))), "")
