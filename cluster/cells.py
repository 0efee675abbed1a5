"""How the replicas of a model are split over several clusters, called cells, by the room that each has. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.value import JsonObject


@dataclass(frozen=True)
class CellRoom:
    """What is free in a cell, all its nodes together."""

    cards: float
    memory_bytes: float
    #: Of one card; 0 where that is not known.
    card_bytes: int = 0

    @classmethod
    def of(cls, nodes: Iterable[JsonObject]) -> CellRoom:
        """`nodes`: the rows of `/v1/cluster/info`."""
        nodes = [node for node in nodes if node["state"] == "ready"]
        return cls(
            sum(node["gpu_count"] - node["gpu_claimed"] for node in nodes),
            sum(node["mem_total"] - node["mem_claimed"] for node in nodes),
            max((node["gpu_vram_total"] // node["gpu_count"] for node in nodes if node["gpu_count"]), default=0),
        )

    def minus(self, need: ReplicaNeed, count: int = 1) -> CellRoom:
        cards = need.cards_of(self) * count
        return CellRoom(self.cards - cards, self.memory_bytes - need.memory_bytes * count, self.card_bytes)

    def replicas(self, need: ReplicaNeed) -> float:
        """How many would fit if all was one node."""
        cards = need.cards_of(self)
        by_cards = [self.cards / cards] if cards else []
        by_memory = [self.memory_bytes / need.memory_bytes] if need.memory_bytes else []
        return min(by_cards + by_memory, default=0.0)


@dataclass(frozen=True)
class ReplicaNeed:
    """What one more replica would take in a cell, and whether it would fit there now."""

    fits: bool
    memory_bytes: int
    card_bytes: int = 0
    #: Where the launch says how many.
    cards: float | None = None

    def cards_of(self, room: CellRoom) -> float:
        if not self.card_bytes and not self.cards:
            return 0.0
        if self.cards is not None:
            return self.cards
        return self.card_bytes / room.card_bytes if room.card_bytes else 1.0


def split(
    total: int, present: Mapping[str, int], needs: Mapping[str, ReplicaNeed], rooms: Mapping[str, CellRoom]
) -> dict[str, int]:
    """How many replicas each cell has in the end. What is there stays, as far as it is wanted: only what is missing is
    given to whoever has most room, and only what is too much is taken from whoever has least."""
    counts = dict(present)
    rooms = dict(rooms)
    while sum(counts.values()) < total:
        cell = max(needs, key=lambda name: (_fits(name, needs, rooms), rooms[name].replicas(needs[name])))
        counts[cell] = counts.get(cell, 0) + 1
        rooms[cell] = rooms[cell].minus(needs[cell])
    while sum(counts.values()) > total:
        cell = min((name for name in counts if counts[name]), key=lambda name: _free(rooms[name]))
        counts[cell] -= 1
    return counts


def _fits(cell: str, needs: Mapping[str, ReplicaNeed], rooms: Mapping[str, CellRoom]) -> bool:
    return needs[cell].fits and rooms[cell].replicas(needs[cell]) >= 1


def _free(room: CellRoom) -> tuple[float, float]:
    return room.cards, room.memory_bytes
