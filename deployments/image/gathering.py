"""Which waiting calls the next pass of the denoiser takes along. Pure: knows no tensors, threads or clock."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, TypeVar

#: Every so many passes are led by the call that has waited longest, so that long requests are not starved.
OLDEST_EVERY = 4


class WaitingCall(Protocol):
    @property
    def key(self) -> Hashable:
        """Equal for calls that can share a pass."""

    @property
    def arrived(self) -> float:
        """When it began to wait."""

    @property
    def cost_left(self) -> float:
        """Work that is left for its request, this call included."""

    @property
    def samples(self) -> int:
        """Rows that it adds to a pass."""


Call = TypeVar("Call", bound=WaitingCall)


def leader(waiting: Sequence[Call], turn: int) -> Call:
    """The call that the next pass is for: of the request with the least work left, every few turns the oldest."""
    if turn % OLDEST_EVERY == 0:
        return min(waiting, key=lambda call: call.arrived)
    return min(waiting, key=lambda call: call.cost_left)


def gathered(waiting: Sequence[Call], turn: int, capacity: Callable[[Call], int]) -> list[Call]:
    """The leader first, then the calls that can share its pass, least work left first, as many as fit.

    `capacity` says how many samples a pass of such calls should have; a call larger than that goes alone.
    """
    lead = leader(waiting, turn)
    alike = [call for call in waiting if call.key == lead.key]
    room = max(1, capacity(lead) // lead.samples)
    return sorted(alike, key=lambda call: (call is not lead, call.cost_left))[:room]
