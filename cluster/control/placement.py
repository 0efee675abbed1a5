"""Decides what one node gives a replica: which cards and how much memory, or the reason why it gives nothing.

Which of several nodes it gets is decided in `room`. Knows nothing of Ray. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cluster import errors
from cluster.control.held import Held
from cluster.control.peaks import Peaks, needs_of, peak_of
from cluster.launch import Needs, ReplicaPlace, Wanted
from cluster.node_labels import lacking
from cluster.status import Claim, Node

#: Shares are counted in hundredths of a card, rounded up: Ray's own resolution is finer, people's is not.
SHARE_STEP = 0.01
#: What shares that add up to a whole may lack after rounding.
TINY = 1e-9
#: What others may have of a card that is given to a launch of which nobody knows how much it needs.
LITTLE = 0.05
#: Why a node gives none of its cards yet.
UNREAD = "how full its cards are is not known yet"
#: More nodes with the same reason are only counted, and a message has no more parts than this.
MOST_NAMED, MOST_TOLD = 3, 8


@dataclass(frozen=True)
class Demand:
    """What one replica needs."""

    uid: str
    #: Where it has no card.
    memory_bytes: int
    place: ReplicaPlace = field(default_factory=ReplicaPlace)
    n_cpu: float | None = None
    on_card: Needs = field(default_factory=lambda: Needs(memory_bytes=0))
    #: Whether what it takes at its largest has been measured.
    is_measured: bool = False

    def needs(self, *, on_card: bool) -> Needs:
        return self.on_card if on_card else Needs(memory_bytes=self.memory_bytes)

    @property
    def kind(self) -> Hashable:
        """All but whose it is: what nodes offer to one they offer to all of the same kind."""
        place, on_card = self.place, self.on_card
        # The type too: 1 is a whole card, and 1.0 a share of one.
        cards = (type(place.n_gpu), place.n_gpu, place.gpu_idx)
        needs = (self.memory_bytes, on_card.memory_bytes, on_card.card_bytes, self.n_cpu, self.is_measured)
        return (*needs, *cards, place.worker_ip, place.node_labels)


@dataclass(frozen=True)
class Placement:
    node: str
    claim: Claim


@dataclass(frozen=True)
class NoRoom:
    """One reason per node, by its address."""

    uid: str
    reasons: tuple[tuple[str, str], ...]

    @property
    def is_early(self) -> bool:
        """Whether there may be room all the same, as will be known in a moment."""
        return any(reason == UNREAD for _, reason in self.reasons)

    def __str__(self) -> str:
        yet = " yet" if self.is_early else ""
        return f"{self.uid} fits on no node{yet} ({_told(self.reasons) or 'there are no nodes'})."

    def error(self) -> errors.DoesNotFit:
        return errors.DoesNotFit(str(self), retry_after_s=30.0)


def demand_of(wanted: Wanted, index: int, peaks: Peaks) -> Demand:
    """`peaks`: what launches were measured to take."""
    measured = [peak_of(wanted, peaks, on_card=on_card) for on_card in (False, True)]
    return Demand(
        wanted.uid,
        needs_of(wanted, peaks, on_card=False).memory_bytes,
        wanted.spec.place_of(index),
        wanted.spec.n_cpu,
        needs_of(wanted, peaks, on_card=True),
        any(peak is not None and peak.is_full for peak in measured),
    )


@lru_cache(maxsize=64)
def _told(reasons: tuple[tuple[str, str], ...]) -> str:
    """`a: draining; 37 nodes: 0 of 8 GPUs free, 1 asked`: many nodes with one reason are only counted, and of very many
    reasons the rarest too."""
    nodes_by_reason: dict[str, list[str]] = {}
    for node, reason in reasons:
        nodes_by_reason.setdefault(reason, []).append(node)
    parts: list[str] = []
    left_out = 0
    for reason, nodes in sorted(nodes_by_reason.items(), key=lambda row: -len(row[1])):
        names = [f"{len(nodes)} nodes"] if len(nodes) > MOST_NAMED else nodes
        if parts and len(parts) + len(names) > MOST_TOLD:
            left_out += len(nodes)
        else:
            parts += [f"{who}: {reason}" for who in names]
    return "; ".join(parts) + (f"; and {left_out} other nodes" if left_out else "")


def rank_of(offer: Claim, node: Node, held: Held) -> tuple[float, float, str]:
    """The lowest is the best. The address last, so that equal nodes are always taken in the same order."""
    if not offer.cards:
        return 0.0, -(node.memory_bytes - held.memory_bytes), node.ip
    tightness = sum(held.free_share(card) for card, _ in offer.cards)
    return tightness, sum(held.free_share(card) for card in range(node.gpus)), node.ip


def rooms_of(demand: Demand, node: Node, held: Held, on_card: bool, memory_fraction: float) -> list[int | None]:
    """What the launch could have of this node: of each card, or of its main memory."""
    return _card_rooms(demand, node, held) if on_card else [_free_bytes(node, held, memory_fraction)]


def _card_rooms(demand: Demand, node: Node, held: Held) -> list[int | None]:
    """What the launch could have of this node's cards: the share that it asks for, or what is free of each."""
    if not node.gpus or not node.card_bytes:
        return [None] if node.gpus else []
    share = demand.place.n_gpu
    if isinstance(share, float):
        return [int(share * node.card_bytes)]
    return [max(int(_free_of(node, held, card)), 0) for card in range(node.auto_gpus or node.gpus)]


def is_for_cards(demand: Demand, nodes: Sequence[Node]) -> bool:
    """`auto` means a GPU wherever the nodes that the launch may go to have any that can be used; it never falls back to
    CPU in silence because cards are full."""
    if demand.place.n_gpu is None:
        return False
    if demand.place.n_gpu != "auto" or demand.place.gpu_idx is not None:
        return True
    return any(node.auto_gpus for node in nodes if _is_meant(demand, node))


def offer_of(demand: Demand, node: Node, held: Held, wants_gpu: bool, memory_fraction: float) -> Claim | str:
    """What the node would give, or why it gives nothing."""
    closed = closed_for(demand, node)
    if closed is not None:
        return closed
    needs = demand.needs(on_card=wants_gpu)
    if node.room_bytes is not None and needs.memory_bytes > node.room_bytes:
        left = _gib(max(node.room_bytes, 0))
        return f"its memory ran out, {left} left for models, {_gib(needs.memory_bytes)} asked; {node.room_reason}"
    cpus = demand.n_cpu or 0.0
    free_cpus = node.cpus - held.cpus
    if cpus > free_cpus:
        return f"{free_cpus:g} of {node.cpus:g} cores free, {cpus:g} asked"
    cards = _cards(demand, node, held) if wants_gpu else ()
    if isinstance(cards, str):
        return cards
    free = _free_bytes(node, held, memory_fraction)
    if needs.memory_bytes > free:
        room = _gib(_room_bytes(node, memory_fraction))
        return f"{_gib(max(free, 0))} of {room} memory free, {_gib(needs.memory_bytes)} asked"
    if cards and node.is_unread:
        return UNREAD
    return Claim(needs.memory_bytes, cards, cpus, needs.card_bytes, demand.is_measured)


def can_hold(node: Node, held: Held, claim: Claim, memory_fraction: float) -> bool:
    """Whether that claim fits on the node as it is, on the cards that it names."""
    if node.room_bytes is not None and claim.memory_bytes > node.room_bytes:
        return False
    has_memory = claim.memory_bytes <= _free_bytes(node, held, memory_fraction)
    has_cores = claim.cpus <= node.cpus - held.cpus + TINY
    return has_memory and has_cores and all(held.free_share(card) + TINY >= share for card, share in claim.cards)


def closed_for(demand: Demand, node: Node) -> str | None:
    """Why the launch cannot have anything of this node, however little it needs."""
    if node.draining:
        return "draining"
    if node.cordoned:
        return "cordoned"
    if node.cpus <= 0:
        return "holds no models (0 cores)"
    if not _is_named(demand, node):
        return f"is not {demand.place.worker_ip}"
    missing = lacking(demand.place.node_labels, node.labels)
    return f"no label {', '.join(missing)}" if missing else None


def _is_named(demand: Demand, node: Node) -> bool:
    """Whether the launch names this node, or none."""
    ip = demand.place.worker_ip
    return ip is None or ip.rsplit(":", 1)[0] == node.ip


def _is_meant(demand: Demand, node: Node) -> bool:
    return _is_named(demand, node) and not lacking(demand.place.node_labels, node.labels)


def _room_bytes(node: Node, memory_fraction: float) -> int:
    """What models may claim of its main memory, all together."""
    return int(node.memory_bytes * memory_fraction)


def _free_bytes(node: Node, held: Held, memory_fraction: float) -> int:
    return _room_bytes(node, memory_fraction) - held.memory_bytes


def _cards(demand: Demand, node: Node, held: Held) -> tuple[tuple[int, float], ...] | str:
    if not node.gpus:
        return "has no GPU"
    is_free_choice = demand.place.n_gpu == "auto" and demand.place.gpu_idx is None
    usable = node.auto_gpus if is_free_choice else node.gpus
    if not usable:
        return "has no GPU that torch can use"
    cards = range(usable) if demand.place.gpu_idx is None else demand.place.gpu_idx
    absent = [card for card in cards if not 0 <= card < node.gpus]
    if absent:
        return f"has GPUs 0 to {node.gpus - 1}, not {absent[0]}"
    count = _count(demand)
    shares = {card: _share(demand, node, card) for card in cards}
    large = {card: share for card, share in shares.items() if not _too_small(demand, node, card, share, count)}
    if not large:
        return _why_too_small(demand, node, shares, count)
    unclaimed = {card: share for card, share in large.items() if held.free_share(card) + TINY >= share}
    fitting = [card for card, share in unclaimed.items() if not _is_taken(demand, node, held, card, share, count)]
    if demand.place.gpu_idx is not None:
        short = [card for card in cards if card not in fitting]
        if short and short[0] in unclaimed:
            return f"{_story(node, held, short[0])}, {_gib(_bytes_of(demand, node, short[0], count))} asked"
        if short:
            return f"{max(held.free_share(short[0]), 0.0):g} of GPU {short[0]} free, {shares[short[0]]:g} asked"
        return tuple((card, shares[card]) for card in cards)
    if len(fitting) < count:
        return _why_full(demand, node, held, shares, list(unclaimed.keys() - set(fitting)), len(fitting))
    fitting.sort(key=lambda card: (_free_of(node, held, card), card))
    return tuple((card, shares[card]) for card in fitting[:count])


def _count(demand: Demand) -> int:
    """How many cards."""
    n_gpu = demand.place.n_gpu
    return 1 if n_gpu is None or n_gpu == "auto" or n_gpu < 1 else int(n_gpu)


def _share(demand: Demand, node: Node, card: int) -> float:
    """Of that card."""
    share, size = demand.place.n_gpu, node.size_of(card)
    if share == "auto" or share is None:
        if not size:
            return 1.0
        return share_of(demand.on_card.card_bytes, size)
    return float(share) if share < 1 else 1.0


def share_of(needed_bytes: int, size: int) -> float:
    """The part of a card of that size, rounded up."""
    return max(math.ceil(needed_bytes / size / SHARE_STEP), 1) * SHARE_STEP


def _too_small(demand: Demand, node: Node, card: int, share: float, count: int) -> bool:
    """Whether what it asks for is more than such a share of such cards has, were they empty."""
    room = int(share * count * (node.size_of(card) or 0))
    return share > 1 or (isinstance(demand.place.n_gpu, float) and 0 < room < demand.on_card.card_bytes)


def _why_too_small(demand: Demand, node: Node, shares: Mapping[int, float], count: int) -> str:
    largest = max(shares, key=lambda card: node.size_of(card) or 0)
    size, share = node.size_of(largest) or 0, shares[largest]
    need = f"{_gib(demand.on_card.card_bytes)} asked"
    if share > 1:
        return f"a GPU has {_gib(size)}, {need}"
    what = f"{count} GPUs have" if count > 1 else f"{share:g} of a GPU has" if share < 1 else "a GPU has"
    return f"{what} {_gib(int(share * count * size))}, {need}"


def _free_of(node: Node, held: Held, card: int) -> float:
    """What neither workers nor others have of it: in bytes, or as a share where its size is not known."""
    size = node.size_of(card)
    return held.free_share(card) * size - node.foreign_bytes(card) if size else held.free_share(card)


def _bytes_of(demand: Demand, node: Node, card: int, count: int) -> int:
    """What it needs of one of its cards; the whole share where nobody knows."""
    share = int(_share(demand, node, card) * (node.size_of(card) or 0))
    return math.ceil(demand.on_card.card_bytes / count) or share


def _is_taken(demand: Demand, node: Node, held: Held, card: int, share: float, count: int) -> bool:
    """Whether others have so much of it that the launch would fail, though no worker claims it."""
    size, foreign = node.size_of(card), node.foreign_bytes(card)
    if not size or not foreign:
        return False
    if not demand.on_card.card_bytes and foreign <= LITTLE * size:
        return False
    return _bytes_of(demand, node, card, count) > _free_of(node, held, card)


def _why_full(
    demand: Demand, node: Node, held: Held, shares: Mapping[int, float], taken: Sequence[int], fitting: int
) -> str:
    """`taken`: cards that would do if others had nothing of them."""
    count = _count(demand)
    if taken:
        most = max(taken, key=lambda card: (_free_of(node, held, card), -card))
        return f"{_story(node, held, most)}, {_gib(_bytes_of(demand, node, most, count))} asked"
    if min(shares.values()) < 1:
        most_free = max(0.0, *(held.free_share(card) for card in shares))
        return f"{most_free:g} of a GPU free, {min(shares.values()):g} asked"
    return f"{fitting} of {len(shares)} GPUs free, {count} asked"


def _story(node: Node, held: Held, card: int) -> str:
    """Who has how much of a card: `card 0: 24.0 GiB, 9.1 claimed, 12.0 used by others (pid 4711, python): 2.9 free`."""
    size, foreign = node.size_of(card) or 0, node.foreign_bytes(card)
    claimed = (1.0 - held.free_share(card)) * size
    free = max(_free_of(node, held, card), 0.0)
    return (
        f"card {card}: {_gib(size)}, {claimed / 2**30:.1f} claimed, {foreign / 2**30:.1f} used by others "
        f"({node.cards[card].foreign}): {free / 2**30:.1f} free"
    )


def _gib(amount: float) -> str:
    return f"{amount / 2**30:.1f} GiB"
