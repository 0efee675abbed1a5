"""The fleet as metrics: derived from its state when a page is asked for, never counted. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from cluster.cards import Card
from cluster.metrics import gauge_page
from cluster.status import Claim, ModelStatus, Node


def page_of(
    statuses: Collection[ModelStatus],
    nodes: Collection[tuple[Node, Claim, int]],
    uptime_s: float,
    free_bytes: int | None = None,
) -> bytes:
    """`nodes`: each with what is claimed on it, and by how many workers."""
    # Written as they come: ten thousand rows at once would have the garbage collector look through the whole fleet.
    states = (
        ({"model": status.uid, "replica": worker.id, "state": str(worker.state)}, 1.0)
        for status in statuses
        for worker in status.workers
    )
    replicas = (({"model": status.uid}, float(status.replica)) for status in statuses)
    models = (({"model": status.uid, "state": str(status.state)}, 1.0) for status in statuses)
    restarts = (({"model": status.uid}, float(status.restarts)) for status in statuses)
    memory = (({"node": node.ip}, float(node.memory_bytes)) for node, _, _ in nodes)
    claimed = (({"node": node.ip}, float(claim.memory_bytes)) for node, claim, _ in nodes)
    cards = [(node.ip, number, card) for node, _, _ in nodes for number, card in enumerate(node.cards)]
    shares: defaultdict[tuple[str, int], float] = defaultdict(float)
    for node, claim, _ in nodes:
        for number, share in claim.cards:
            shares[node.ip, number] += share
    card_bytes = (
        ({"node": ip, "card": str(number), "kind": kind}, float(size))
        for ip, number, card in cards
        for kind, size in _card_sizes(card, shares[ip, number])
        if size is not None
    )
    loads = (({"node": ip, "card": str(number)}, card.load) for ip, number, card in cards if card.load is not None)
    free: list[tuple[dict[str, str], float]] = [({}, float(free_bytes))] if free_bytes is not None else []
    pages = [
        gauge_page("cluster_worker_state", "Workers by state.", states),
        gauge_page("cluster_model_state", "Models by state.", models),
        gauge_page("cluster_replicas_wanted", "Workers wanted.", replicas),
        gauge_page("cluster_worker_restarts", "Workers lost and replaced.", restarts),
        gauge_page("cluster_node_memory_bytes", "Memory of a node.", memory),
        gauge_page("cluster_node_claimed_bytes", "Memory claimed on a node.", claimed),
        gauge_page("cluster_card_bytes", "Memory of a card: all, used, claimed, and used by others.", card_bytes),
        gauge_page("cluster_card_utilisation", "The part of the last moment in which a card computed.", loads),
        gauge_page("cluster_disk_free_bytes", "Left on the disk of the store.", free),
        gauge_page("cluster_uptime_seconds", "Age of the supervisor.", [({}, uptime_s)]),
    ]
    return b"".join(pages)


def _card_sizes(card: Card, share: float) -> tuple[tuple[str, float | None], ...]:
    """None where nobody knows."""
    is_told = card.used_bytes is not None
    return (
        ("total", card.total_bytes),
        ("used", card.used_bytes),
        ("claimed", None if card.total_bytes is None else share * card.total_bytes),
        ("foreign", card.foreign_bytes if is_told else None),
    )
