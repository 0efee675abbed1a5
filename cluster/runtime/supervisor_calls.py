"""What may be asked of the supervisor from another process.

Both ends are checked against it: the actor that answers and the client that calls. Renaming a method at one end is an
error of types.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from cluster.catalog.entry import Entry
from cluster.control.changes import Change
from cluster.control.closed_nodes import NodeMark
from cluster.control.fitting import Fit
from cluster.control.growing import CardsWanted
from cluster.control.scaling import Bounds
from cluster.keys import Key
from cluster.launch import Wanted
from cluster.routes import Amendment, Snapshot
from cluster.status import Claim, Event, EventQuery, ModelStatus, Node, ScaleNumbers, StatusNews
from cluster.tally import CanaryTally


class SupervisorCalls(Protocol):
    # ------------------------------------------------------------------------------------ what is

    async def home(self) -> tuple[str, str, str]:
        """Whose cluster this is: the id of its home, where that is, and the URL it serves at."""

    async def status(self, uid: str, version: int | None = None, wait_s: float = 0.0) -> ModelStatus:
        """One model; with a version, as soon as its status is not that one."""

    async def all_statuses(self) -> list[ModelStatus]: ...

    async def sent_statuses(self) -> list[bytes]:
        """The same, each pickled: most of them have been before, for another caller."""

    async def events(self, uid: str) -> list[Event]:
        """What happened to a model, or with no uid to the cluster itself."""

    async def recent_events(self, query: EventQuery) -> list[Event]:
        """What happened to all models and to the cluster itself, the newest first."""

    async def logs(self, uid: str, lines: int) -> list[str]: ...

    async def worker_logs(self, uid: str, lines: int) -> dict[str, list[str]]:
        """The last lines of each worker, by the name of the worker."""

    async def nodes(self) -> list[tuple[Node, Claim, int]]:
        """Every node, what is claimed on it, and by how many workers."""

    async def mark_node(self, node: str, mark: NodeMark) -> Node:
        """Closes a node by its name, its address or its id, has its workers moved elsewhere, or opens it again."""

    async def cards_wanted(self) -> list[CardsWanted]:
        """The cards that all models need together. For an autoscaler, which is taken to be
        there as long as it asks."""

    async def uptime(self) -> float: ...

    async def free_bytes(self) -> int | None:
        """What is left on the disk of the store."""

    # ------------------------------------------------------------------------------------ what is wanted

    async def launch(self, wanted: Wanted, uid_given: bool, disk: str = "", /) -> ModelStatus:
        """`disk`: the node by whose weights it was planned, the caller's own."""

    async def could_launch(self, wanted: Wanted, disk: str = "", /) -> Fit:
        """Whether it would fit now, and what it would claim."""

    async def would_fit(self, variants: Sequence[Wanted], /) -> list[Fit]:
        """The same of each by itself, by the weights that they were planned with."""

    async def terminate(self, uid: str) -> None: ...

    async def cancel(self, uid: str) -> None:
        """Ends a launch that is not READY yet."""

    async def doze(self, uid: str) -> ModelStatus:
        """Its workers drop their model and keep their processes; the next request has them load it again."""

    async def keep(self, uid: str, sleep_s: float) -> None:
        """The model sleeps so long after its last request; 0 for never."""

    async def left_s(self) -> dict[str, float | None]:
        """How long each model stays yet that does not sleep, if nobody asks for it; None for ever."""

    async def sleep(self, uid: str) -> ModelStatus:
        """Ends its workers; the next request starts them again."""

    async def wake(self, uid: str) -> ModelStatus:
        """Starts the workers of one that sleeps; returns at once."""

    async def scale(self, uid: str, replica: int | None, bounds: Bounds | None = None) -> ModelStatus:
        """Another number of replicas, other bounds between which it follows the load, or both."""

    async def scale_of(self, uid: str) -> ScaleNumbers:
        """How many replicas it has now, and how much there is to do."""

    async def restart(self, uid: str, why: str) -> ModelStatus:
        """New processes take the place of those that run; returns at once."""

    async def apply(self, declared: Sequence[Wanted], prune: bool, dry_run: bool) -> list[Change]: ...

    # ------------------------------------------------------------------------------------ registrations, keys

    async def registered(self) -> list[Entry]: ...

    async def register(self, entry: Entry) -> None: ...

    async def unregister(self, type: str, name: str) -> None: ...

    async def create_key(self, name: str, scopes: Iterable[str], models: Iterable[str] | None) -> tuple[Key, str]:
        """The key, and its text, which nobody can read again."""

    async def all_keys(self) -> list[Key]: ...

    async def revoke_key(self, id: str) -> None: ...

    async def log_in(self, key_id: str) -> tuple[Key, str]:
        """A session of that key, and its text, which nobody can read again."""

    async def log_out(self, digest: str) -> None: ...

    # ------------------------------------------------------------------------------------ from the ingresses

    async def watch(self, version: int, timeout_s: float) -> Snapshot:
        """The routing table, as soon as it is not that version."""

    async def changes(self, version: int, timeout_s: float) -> Snapshot | Amendment:
        """What has changed in it since that version, as soon as something has; all of it on a gap."""

    async def status_news(self, version: int, timeout_s: float) -> StatusNews:
        """What has changed in the statuses of all models since that version, as soon as something has."""

    async def suspect(self, name: str) -> None:
        """This worker has work and answers nothing."""

    async def poisoned(self, uid: str, fingerprint: str, workers: Sequence[str]) -> None:
        """The call with this fingerprint ended these workers."""

    async def tallied(self, ingress: str, tallies: Sequence[CanaryTally]) -> None:
        """What an ingress has counted of the versions on trial, each since it is."""

    async def metrics(self, ingress: str, own: bytes) -> list[bytes]:
        """Takes the page of one ingress; returns those of the other ingresses, and the fleet's."""
