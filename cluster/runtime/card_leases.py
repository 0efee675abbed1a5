"""What workers have of cards, in Ray's own ledger: a placement group beside each worker, and not the worker itself, so
that one that dozes gives its share back while its process stays.

Which card a worker gets is decided without Ray. These are for whoever else asks the same Ray for cards, and for its
autoscaler. They outlive a supervisor; the next one finds them by their names, and removes those that nobody has any
more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from cluster.control.platform import Lease

log = logging.getLogger("cluster.card_leases")

#: How their names begin; what follows is the name of the worker.
PREFIX = "lease:"
#: How long until all are compared with what Ray has, though nothing has changed here.
COMPARE_EVERY = 60
#: Every node has one of the resource of its address: a little of it keeps a lease on its node.
LITTLE = 0.001


class CardLeases:
    """Used from the supervisor's loop."""

    def __init__(self) -> None:
        #: None as long as nobody knows what workers have.
        self._wanted: Mapping[str, Lease] | None = None
        self._made: Mapping[str, Lease] | None = None
        self._until_compared = 0
        self._keeping: asyncio.Task[None] | None = None

    def want(self, leases: Mapping[str, Lease]) -> None:
        self._wanted = leases

    def look(self, nodes: Mapping[str, tuple[str, str]]) -> None:
        """At each tick, with the address of each node and the name by which Ray counts its cards. What cannot be done
        now is done by a later one."""
        self._until_compared -= 1
        if self._wanted is None or (self._keeping is not None and not self._keeping.done()):
            return
        if self._wanted is not self._made or self._until_compared <= 0:
            self._keeping = asyncio.ensure_future(self._keep(self._wanted, nodes))

    async def _keep(self, leases: Mapping[str, Lease], nodes: Mapping[str, tuple[str, str]]) -> None:
        try:
            await asyncio.to_thread(keep_now, leases, nodes)
            self._made, self._until_compared = leases, COMPARE_EVERY
        # Ray raises many kinds of errors while its control process is being replaced; the next tick tries again.
        except Exception as error:
            log.warning("the leases of cards could not be brought up to date: %s", error)


def keep_now(leases: Mapping[str, Lease], nodes: Mapping[str, tuple[str, str]]) -> None:
    """Ends those that nobody has, and makes those that are missing."""
    wanted = {PREFIX + worker: bundle for worker, lease in leases.items() if (bundle := _bundle(lease, nodes))}
    for id, facts in placement_group_table().items():
        name = facts["name"]
        if not name.startswith(PREFIX) or facts["state"] == "REMOVED":
            continue
        if _is_same(wanted.get(name), facts["bundles"]):
            del wanted[name]
        else:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(id))))
    for name, bundle in wanted.items():
        placement_group([bundle], strategy="STRICT_PACK", name=name, lifetime="detached")


def _bundle(lease: Lease, nodes: Mapping[str, tuple[str, str]]) -> dict[str, float] | None:
    """None for a node that is not there any more."""
    address, resource = nodes.get(lease.node, ("", ""))
    return {resource: lease.cards, f"node:{address}": LITTLE} if resource else None


def _is_same(bundle: Mapping[str, float] | None, bundles: Mapping[int, Mapping[str, float]]) -> bool:
    if bundle is None or len(bundles) != 1:
        return False
    (made,) = bundles.values()
    return made.keys() == bundle.keys() and all(abs(made[name] - bundle[name]) < 1e-4 for name in bundle)
