"""Decides which node and which cards a replica gets, or gives one reason per node why it gets none.

Knows nothing of Ray. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cluster import errors
from cluster.control.peaks import Peaks, needs_of
from cluster.launch import Needs, ReplicaPlace, Wanted
from cluster.status import Claim, Node

#: Shares are counted in hundredths of a card, rounded up: Ray's own resolution is finer, people's is not.
SHARE_STEP = 0.01


@dataclass(frozen=True)
class Demand:
    """What one replica needs."""

    uid: str
    #: Where it has no card.
    memory_bytes: int
    place: ReplicaPlace = field(default_factory=ReplicaPlace)
    n_cpu: float | None = None
    on_card: Needs = field(default_factory=lambda: Needs(memory_bytes=0))

    def needs(self, *, on_card: bool) -> Needs:
        return self.on_card if on_card else Needs(memory_bytes=self.memory_bytes)


@dataclass(frozen=True)
class Taken:
    """What one worker holds already."""

    uid: str
    node: str
    claim: Claim


@dataclass(frozen=True)
class Placement:
    node: str
    claim: Claim


@dataclass(frozen=True)
class NoRoom:
    """One reason per node, by its address."""

    uid: str
    reasons: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        reasons = "; ".join(f"{node}: {reason}" for node, reason in self.reasons) or "there are no nodes"
        return f"{self.uid} fits on no node ({reasons})."

    def error(self) -> errors.DoesNotFit:
        return errors.DoesNotFit(str(self), retry_after_s=30.0)


def demand_of(wanted: Wanted, index: int, peaks: Peaks) -> Demand:
    """`peaks`: what launches were measured to take."""
    return Demand(
        wanted.uid,
        needs_of(wanted, peaks, on_card=False).memory_bytes,
        wanted.spec.place_of(index),
        wanted.spec.n_cpu,
        needs_of(wanted, peaks, on_card=True),
    )


def place(
    demand: Demand, nodes: Sequence[Node], taken: Iterable[Taken], *, memory_fraction: float = 1.0
) -> Placement | NoRoom:
    """The best node, or the reasons.

    Replicas of one model spread over nodes first. Then, for GPUs, the tightest card that fits wins, on the node with
    the fewest free cards: whole cards, and several on one node, stay free for models that need them. Without GPUs the
    node with the most free memory wins.
    """
    taken = tuple(taken)
    wants_gpu = is_for_cards(demand, nodes)
    offers: list[tuple[tuple[float, float, float, str], Placement]] = []
    reasons: list[tuple[str, str]] = []
    for node in nodes:
        on_node = [item for item in taken if item.node == node.id]
        offer = _offer(demand, node, on_node, wants_gpu, memory_fraction)
        if isinstance(offer, str):
            reasons.append((node.ip, offer))
            continue
        siblings = sum(item.uid == demand.uid for item in on_node)
        if offer.cards:
            tightness = sum(_free_share(card, on_node) for card, _ in offer.cards)
            free = sum(_free_share(card, on_node) for card in range(node.gpus))
        else:
            tightness = 0.0
            free = -(node.memory_bytes - sum(item.claim.memory_bytes for item in on_node))
        # The address last, so that equal nodes are always taken in the same order.
        offers.append(((siblings, tightness, free, node.ip), Placement(node.id, offer)))
    if offers:
        return min(offers, key=lambda offer: offer[0])[1]
    return NoRoom(demand.uid, tuple(reasons))


def room_for(
    demand: Demand, nodes: Sequence[Node], taken: Iterable[Taken], *, memory_fraction: float = 1.0
) -> int | None:
    """The most that a launch could claim now on any node that is open to it, of a card or of main memory; None where
    nobody knows how much a card has."""
    taken = tuple(taken)
    on_card = is_for_cards(demand, nodes)
    rooms: list[int | None] = [0]
    for node in nodes:
        on_node = [item for item in taken if item.node == node.id]
        if _why_closed(demand, node) is None:
            rooms += _card_rooms(demand, node, on_node) if on_card else [_free_bytes(node, on_node, memory_fraction)]
    return None if None in rooms else max(room or 0 for room in rooms)


def _card_rooms(demand: Demand, node: Node, on_node: Sequence[Taken]) -> list[int | None]:
    """What the launch could have of this node's cards: the share that it asks for, or what is free of each."""
    if not node.gpus or not node.card_bytes:
        return [None] if node.gpus else []
    share = demand.place.n_gpu
    if isinstance(share, float):
        return [int(share * node.card_bytes)]
    return [int(_free_share(card, on_node) * node.card_bytes) for card in range(node.auto_gpus or node.gpus)]


def is_for_cards(demand: Demand, nodes: Sequence[Node]) -> bool:
    """`auto` means a GPU wherever the nodes that the launch may go to have any that can be used; it never falls back to
    CPU in silence because cards are full."""
    if demand.place.n_gpu is None:
        return False
    if demand.place.n_gpu != "auto" or demand.place.gpu_idx is not None:
        return True
    return any(node.auto_gpus for node in nodes if _is_named(demand, node))


def _offer(
    demand: Demand, node: Node, on_node: Sequence[Taken], wants_gpu: bool, memory_fraction: float
) -> Claim | str:
    closed = _why_closed(demand, node)
    if closed is not None:
        return closed
    needs = demand.needs(on_card=wants_gpu)
    if node.room_bytes is not None and needs.memory_bytes > node.room_bytes:
        left = _gib(max(node.room_bytes, 0))
        return f"its memory ran out, {left} left for models, {_gib(needs.memory_bytes)} asked; {node.room_reason}"
    cpus = demand.n_cpu or 0.0
    free_cpus = node.cpus - sum(item.claim.cpus for item in on_node)
    if cpus > free_cpus:
        return f"{free_cpus:g} of {node.cpus:g} cores free, {cpus:g} asked"
    cards = _cards(demand, node, on_node) if wants_gpu else ()
    if isinstance(cards, str):
        return cards
    free = _free_bytes(node, on_node, memory_fraction)
    if needs.memory_bytes > free:
        room = _gib(_room_bytes(node, memory_fraction))
        return f"{_gib(max(free, 0))} of {room} memory free, {_gib(needs.memory_bytes)} asked"
    return Claim(needs.memory_bytes, cards, cpus, needs.card_bytes)


def _why_closed(demand: Demand, node: Node) -> str | None:
    """Why the launch cannot have anything of this node, however little it needs."""
    if node.draining:
        return "draining"
    if node.cpus <= 0:
        return "holds no models (0 cores)"
    return None if _is_named(demand, node) else f"is not {demand.place.worker_ip}"


def _is_named(demand: Demand, node: Node) -> bool:
    """Whether the launch names this node, or none."""
    ip = demand.place.worker_ip
    return ip is None or ip.rsplit(":", 1)[0] == node.ip


def _room_bytes(node: Node, memory_fraction: float) -> int:
    """What models may claim of its main memory, all together."""
    return int(node.memory_bytes * memory_fraction)


def _free_bytes(node: Node, on_node: Sequence[Taken], memory_fraction: float) -> int:
    return _room_bytes(node, memory_fraction) - sum(item.claim.memory_bytes for item in on_node)


def _cards(demand: Demand, node: Node, on_node: Sequence[Taken]) -> tuple[tuple[int, float], ...] | str:
    if not node.gpus:
        return "has no GPU"
    is_free_choice = demand.place.n_gpu == "auto" and demand.place.gpu_idx is None
    usable = node.auto_gpus if is_free_choice else node.gpus
    if not usable:
        return "has no GPU that torch can use"
    share, count = _share(demand, node)
    if share > 1:
        return f"a GPU has {_gib(node.card_bytes or 0)}, {_gib(demand.on_card.card_bytes)} asked"
    room = int(share * count * (node.card_bytes or 0))
    if isinstance(demand.place.n_gpu, float) and 0 < room < demand.on_card.card_bytes:
        what = f"{count} GPUs have" if count > 1 else f"{share:g} of a GPU has" if share < 1 else "a GPU has"
        return f"{what} {_gib(room)}, {_gib(demand.on_card.card_bytes)} asked"
    if demand.place.gpu_idx is not None:
        cards = demand.place.gpu_idx
        absent = [card for card in cards if not 0 <= card < node.gpus]
        if absent:
            return f"has GPUs 0 to {node.gpus - 1}, not {absent[0]}"
        short = [card for card in cards if _free_share(card, on_node) + 1e-9 < share]
        if short:
            return f"{_free_share(short[0], on_node):g} of GPU {short[0]} free, {share:g} asked"
        return tuple((card, share) for card in cards)
    fitting = sorted(
        (card for card in range(usable) if _free_share(card, on_node) + 1e-9 >= share),
        key=lambda card: (_free_share(card, on_node), card),
    )
    if len(fitting) < count:
        if share < 1:
            most = max(_free_share(card, on_node) for card in range(usable))
            return f"{most:g} of a GPU free, {share:g} asked"
        return f"{len(fitting)} of {usable} GPUs free, {count} asked"
    return tuple((card, share) for card in fitting[:count])


def _share(demand: Demand, node: Node) -> tuple[float, int]:
    """Share of each card, and how many cards."""
    share_wanted = demand.place.n_gpu
    if share_wanted == "auto" or share_wanted is None:
        if not node.card_bytes:
            return 1.0, 1
        return max(math.ceil(demand.on_card.card_bytes / node.card_bytes / SHARE_STEP), 1) * SHARE_STEP, 1
    if share_wanted < 1:
        return float(share_wanted), 1
    return 1.0, int(share_wanted)


def _free_share(card: int, on_node: Sequence[Taken]) -> float:
    held = sum(share for item in on_node for number, share in item.claim.cards if number == card)
    return round(1.0 - held, 6)


def _gib(amount: float) -> str:
    return f"{amount / 2**30:.1f} GiB"
