"""What the supervisor needs of whatever runs the workers. Ray is one such platform, a test's world another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from cluster.catalog.entry import Source
from cluster.control.placement import Placement
from cluster.launch import Wanted
from cluster.status import Claim, Memory, Node, Report, WorkerName
from cluster.weights.memory import MemoryPlan


class Handle(Protocol):
    """A worker somewhere. Every call raises WorkerLost when its process is gone, and Unavailable when it does not
    answer in time; those with an epoch raise StaleEpoch when a newer supervisor has spoken to the worker."""

    #: What an ingress needs to call it.
    remote: Any

    async def describe(self, *, timeout_s: float) -> tuple[Wanted, Claim, Report]:
        """For a supervisor that finds this worker running."""

    async def start(self, epoch: int, where: tuple[str, str], threads: int, *, timeout_s: float) -> None:
        """Begins to load, also where it dozes; `where` is the node's id and address."""

    async def report(self, epoch: int, version: int, wait_s: float, *, timeout_s: float) -> tuple[int, Report]:
        """What the worker says of itself and the version of that, as soon as it is not the version named."""

    async def set_threads(self, epoch: int, threads: int, *, timeout_s: float) -> None: ...

    async def drain(self, epoch: int, *, timeout_s: float) -> None: ...

    async def doze(self, epoch: int, *, timeout_s: float) -> None:
        """Drops its model as soon as it has nothing in hand, until it is started again."""

    async def logs(self, lines: int, *, timeout_s: float) -> list[str]: ...

    async def probe(self, timeout_s: float) -> float: ...

    async def overdue(self, timeout_s: float) -> Sequence[str]:
        """The ids of calls that it computes for much longer than is usual."""

    async def whereabouts(self) -> tuple[str, str, int]:
        """Its node, the node's address and its process, as the platform knows them without asking the worker."""

    def kill(self) -> None: ...


class Weighed(NamedTuple):
    """A launch by the weights that one node has of it."""

    wanted: Wanted
    without_card: MemoryPlan | None = None
    on_card: MemoryPlan | None = None


class Lease(NamedTuple):
    """What a worker has of a node's cards at this moment; one that dozes has nothing."""

    node: str
    cards: float


class Platform(Protocol):
    async def nodes(self) -> Sequence[Node]: ...

    async def may_start(self, wanted: Wanted, placement: Placement) -> bool:
        """False while a worker that is started a moment later would be READY sooner."""

    async def start(self, name: WorkerName, wanted: Wanted, placement: Placement) -> Handle: ...

    def keep_leases(self, leases: Mapping[str, Lease]) -> None:
        """Has the cards of these workers, and no others, count as taken for whoever else asks the platform for cards;
        returns at once."""

    async def find(self) -> Mapping[WorkerName, Handle]:
        """Workers that may be running, by what their names say."""

    async def look_for(self, node_id: str, source: Source) -> None:
        """Raises where the weights can neither be loaded from that node's disk nor be fetched."""

    async def weigh(self, node_id: str, wanted: Wanted) -> Weighed:
        """With what it takes by that node's disk, or as it is where that node does not answer; raises what cannot be
        loaded there."""

    async def end_process(self, node_id: str, pid: int) -> bool:
        """Ends a worker's process that may not react to `kill`; False where that cannot be done now."""

    async def stand_back(self) -> None:
        """Called when a newer supervisor commands the workers. Does not return where this supervisor is the one that
        others find by its name: its process ends and is started again, with a newer epoch than the other's."""

    def memory(self) -> tuple[str, Memory] | None:
        """The supervisor's own node and its memory, where that can be read."""
