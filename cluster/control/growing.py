"""How many cards the wanted models need, for an autoscaler that adds nodes and removes them. Pure.

A part of a card is no card: models that share one ask for one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from cluster.control.fleet import Fleet
from cluster.control.lifecycle import HOLDS_CLAIM, WORKS
from cluster.control.placement import SHARE_STEP, Demand, demand_of
from cluster.errors import DoesNotFit
from cluster.launch import Wanted
from cluster.node_labels import lacking
from cluster.status import Node, WorkerState

#: What fits beside it once more after rounding.
TINY = 1e-6


class CardsWanted(NamedTuple):
    """So many cards on one node."""

    cards: int
    #: The labels that the node has to have.
    labels: tuple[str, ...] = ()


def cards_wanted(fleet: Fleet) -> list[CardsWanted]:
    """The cards that workers have and that replicas wait for for want of room."""
    #: The labels that those who share a card ask for, by node and card.
    shared: dict[tuple[str, int], tuple[str, ...]] = {}
    together: list[CardsWanted] = []
    for worker in fleet.workers.values():
        if worker.state not in HOLDS_CLAIM or not worker.claim.cards:
            continue
        wanted = fleet.wanted.get(worker.name.uid)
        labels = wanted.spec.place_of(worker.name.index).node_labels if wanted else ()
        if len(worker.claim.cards) > 1:
            together.append(CardsWanted(len(worker.claim.cards), labels))
        else:
            ((card, _),) = worker.claim.cards
            others = shared.get((worker.node, card), ())
            shared[worker.node, card] = tuple(sorted({*others, *labels}))
    shares: dict[tuple[str, ...], list[float]] = {}
    nodes = tuple(fleet.nodes.values())
    for demand in _waiting(fleet):
        place = demand.place
        if place.gpu_idx is not None:
            together.append(CardsWanted(len(place.gpu_idx), place.node_labels))
        elif place.n_gpu == "auto":
            shares.setdefault(place.node_labels, []).append(_share(demand, nodes))
        elif place.n_gpu is not None and place.n_gpu < 1:
            shares.setdefault(place.node_labels, []).append(float(place.n_gpu))
        elif place.n_gpu is not None:
            together.append(CardsWanted(int(place.n_gpu), place.node_labels))
    single = [CardsWanted(1, labels) for labels in shared.values()]
    single += [CardsWanted(1, labels) for labels, parts in shares.items() for _ in range(_packed(parts))]
    return sorted(together + single, reverse=True)


def may_wait_for_cards(wanted: Wanted) -> bool:
    """Whether a node that does not exist yet could have room for it: one without cards is never added."""
    places = [wanted.spec.place_of(index) for index in range(wanted.replica)]
    return all(place.n_gpu is not None and place.worker_ip is None for place in places)


def _waiting(fleet: Fleet) -> Iterable[Demand]:
    for uid, waiting in fleet.waiting.items():
        wanted = fleet.wanted.get(uid)
        if wanted is None or waiting.code != DoesNotFit.code():
            continue
        workers = fleet.workers.of(uid)
        covered = {w.name.index for w in workers if w.state in WORKS or w.state == WorkerState.FAILED}
        lives_on_cpu = any(w.state in HOLDS_CLAIM and not (w.whole_claim or w.claim).cards for w in workers)
        for index in range(wanted.replica):
            demand = demand_of(wanted, index, fleet.peaks)
            if index not in covered and not (lives_on_cpu and demand.place.n_gpu == "auto"):
                yield demand


def _share(demand: Demand, nodes: Iterable[Node]) -> float:
    """Of the largest card there is. Without any nobody knows, so all that wait together ask for one: the node that
    comes tells how much a card has, and then they ask for what they need."""
    with_cards = [node for node in nodes if node.gpus and not lacking(demand.place.node_labels, node.labels)]
    if not with_cards:
        return SHARE_STEP
    most = max(node.size_of(card) or 0 for node in with_cards for card in range(node.gpus))
    return min(math.ceil(demand.on_card.card_bytes / most / SHARE_STEP) * SHARE_STEP, 1.0) if most else 1.0


def _packed(shares: Iterable[float]) -> int:
    """How many cards these need, the largest placed first."""
    free: list[float] = []
    for share in sorted(shares, reverse=True):
        card = next((card for card, left in enumerate(free) if left + TINY >= share), None)
        if card is None:
            free.append(1.0 - share)
        else:
            free[card] -= share
    return len(free)
