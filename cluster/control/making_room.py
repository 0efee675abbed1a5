"""Which models give way to one that has no room: those that cost least to bring back. Pure.

They doze where that is enough, and sleep where it is not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from cluster.control.fitting import room_for
from cluster.control.fleet import Fleet
from cluster.control.lifecycle import HOLDS_CLAIM, LEAVES, LOADS, RESTS, WORKS, WorkerRecord
from cluster.control.placement import Demand, NoRoom, demand_of
from cluster.control.reconcile import FleetPlan, Waiting
from cluster.control.rescaling import extra_workers, is_served
from cluster.control.room import Room
from cluster.errors import DoesNotFit
from cluster.launch import Wanted
from cluster.status import Claim, WorkerState

#: A model serves at least this long, or half as long as it usually takes to load, before it gives way: two models that
#: share the room for one would otherwise do nothing but load. Those that keep using one are sure of it for `FAIR_S`.
#: With more, those that are asked for once keep the room of those that are asked for often: of 50 models with room for
#: eight that load for 4 s, 0.58 of what one who knows the future finds awake with the whole load, for 0.65.
LEAST_S = 1.0
TIMES_LOAD = 0.5
#: Whoever has waited so long for a model that was woken comes before those who use another one.
FAIR_S = 15.0
#: Seconds that it takes to wake a model beside its load, however deep it rests: others have to leave first. Without
#: them two that are used would doze for one that nobody uses, and models that load in no time be told apart by chance.
#: Of 50 models with room for eight that load in a second and give half of it back when they doze, 0.79 of what one who
#: knows the future finds awake, for 0.59, and callers wait less.
WAKE_S = 0.4
#: What one that was never used costs beside one that was used once.
UNUSED = 0.01
#: Nodes that are looked at for one model, and models for which room is made at once.
MOST_NODES = 64
MOST_WAITING = 16
#: Models that are looked at for those: for some of them nobody could give way.
MOST_LOOKED_AT = 64


#: What the process of a model takes that dozes, as long as it never did.
DOZING_BYTES = 300 * 10**6
#: What loading again takes beside loading in a new process, as long as it never did.
ROUSE_PART = 0.25


#: No priority is higher.
MOST_RANK = 1000


#: How a model gives way: it dozes, it sleeps, or it waits for room itself and the processes end in which it dozed.
Depth = Literal["dozing", "asleep", "ended"]


@dataclass(frozen=True)
class Guest:
    """A model that may be sent to rest."""

    uid: str
    #: What each of its workers gives back, by node.
    claims: tuple[tuple[str, Claim], ...]
    #: Seconds that bringing it back takes longer than now, times how often it is used.
    cost: float
    depth: Depth = "asleep"

    def on(self, node: str) -> list[Claim]:
        return [claim for at, claim in self.claims if at == node]


class Host(NamedTuple):
    """For whom others give way: up to which priority, also those in use, and of a lower one those in any case."""

    rank: int
    is_urgent: bool
    preempts: bool = False


#: Those that would give something back, by node.
Guests = dict[str, list[Guest]]


@dataclass(frozen=True)
class Way:
    """How a model may come by its room."""

    #: Models that are to be sent to sleep now.
    leaving: tuple[str, ...] = ()
    #: Why it waits; empty where nobody can give way. It names no other model: whoever may ask for this one may not
    #: know of them.
    reason: str = ""
    #: Models that are to give a replica back now.
    yielding: tuple[str, ...] = ()
    #: Models that are to doze now, and those whose dozing processes are to end.
    dozing: tuple[str, ...] = ()
    ending: tuple[str, ...] = ()
    #: The node whose room is kept for it: it has waited for long, and what comes free there piece by piece would go to
    #: smaller models.
    kept_node: str = ""


def ways_of(fleet: Fleet, now: float, plan: FleetPlan) -> dict[str, Way]:
    """For the models that wait for room, those of the highest priority first, and then in the order in which they began
    to wait. What is promised to one is not promised to the next. `plan`: what is about to be started."""
    waiting = [uid for uid, why in fleet.waiting.items() if why.code == DoesNotFit.code() and uid in fleet.wanted]
    # What a load brings about beyond what a model must have drives nobody away.
    waiting = [uid for uid in waiting if not is_served(fleet, fleet.wanted[uid])]
    if not waiting or not fleet.settings.make_room:
        return {}
    waiting.sort(key=lambda uid: (-fleet.wanted[uid].spec.rank, fleet.resting.woken.get(uid, now)))
    search, ways = _Search(fleet, now, plan), dict[str, Way]()
    for number, uid in enumerate(waiting[:MOST_LOOKED_AT]):
        if len(ways) == MOST_WAITING:
            # For whom nobody could ever give way shows when it is its turn.
            return ways | {
                later: Way(reason="waits for its turn: other models wait for longer") for later in waiting[number:]
            }
        if (way := search.way_of(fleet.wanted[uid])).reason:
            ways[uid] = way
    return ways


def hosts_of(wanted: Wanted, is_urgent: bool) -> list[Host]:
    """As which a model finds guests, the harmless ways first: those of a lower priority that nobody uses, all of its
    own as well, and then those of a lower one that are used."""
    rank = wanted.spec.rank
    return [Host(rank - 1, False), Host(rank, is_urgent), Host(rank, is_urgent, preempts=True)]


class _Search:
    """Looks at each model once, however many wait."""

    def __init__(self, fleet: Fleet, now: float, plan: FleetPlan) -> None:
        self._fleet = fleet
        self._now = now
        self._room = fleet.room()
        self._coming = _coming(fleet, plan, self._room)
        self._left = _give_back_what_leaves(fleet, self._room)
        #: Those that may give way now or later, to whom, and doze for it or not.
        self._guests: dict[tuple[Host, bool, bool], Guests] = {}
        #: Nodes whose room somebody is waiting for already.
        self._promised: set[str] = set()
        self._spare: Guests | None = None

    def way_of(self, wanted: Wanted) -> Way:
        """What its own worker takes that dozes there is its own."""
        workers = self._fleet.workers.of(wanted.uid)
        covered = {w.name.index for w in workers if w.state in WORKS}
        index = next((index for index in range(wanted.replica) if index not in covered), 0)
        own = [w for w in workers if w.state in RESTS and w.name.index == index]
        for worker in own:
            self._room.give_back(worker.node, worker.claim)
        way = self._way_of(wanted, demand_of(wanted, index, self._fleet.peaks))
        for worker in own:
            self._room.claim_more(worker.node, worker.claim)
        return way

    def _way_of(self, wanted: Wanted, demand: Demand) -> Way:
        woken = self._fleet.resting.woken
        is_urgent = wanted.uid in woken and self._now - woken[wanted.uid] >= FAIR_S
        way, node = self._way_and_node(wanted, demand, is_urgent)
        return replace(way, kept_node=node) if is_urgent else way

    def _way_and_node(self, wanted: Wanted, demand: Demand, is_urgent: bool) -> tuple[Way, str]:
        nodes = dict.fromkeys((*self._left, *self._fleet.resting.kept_nodes.values()))
        enough = [node for node in nodes if self._room.fits_without(demand, node, ())]
        if free := [node for node in enough if node not in self._promised]:
            self._promised.add(free[0])
            return Way(reason="waits for workers that leave"), free[0]
        # Those who need it least go first: what a load has brought about comes back by itself.
        chosen, node = who_gives_way(demand, self._room, self._extras(), self._promised)
        if chosen:
            self._promised.add(node)
            yielding = tuple(guest.uid for guest in chosen)
            return Way((), "waits for room, for which other models give replicas back", yielding), node
        chosen, node = self._cheapest(wanted.uid, demand, hosts_of(wanted, is_urgent))
        if chosen:
            self._promised.add(node)
            asleep = _of("asleep", chosen)
            reason = f"waits for room, for which other models {'go to sleep' if asleep else 'doze'}"
            return Way(asleep, reason, dozing=_of("dozing", chosen), ending=_of("ended", chosen)), node
        if enough:
            return Way(reason="waits for its turn: workers leave for another model"), enough[0]
        # Somebody uses those that could, or they have only just been loaded, or they come first.
        is_woken = wanted.uid in self._fleet.resting.woken
        guests = self._guests_for(wanted.uid, Host(wanted.spec.rank, is_woken), False, False)
        later, node = who_gives_way(demand, self._room, guests, ())
        if later or not is_woken:
            return Way(reason="waits until other models may give way" if later else ""), node
        guests = self._guests_for(wanted.uid, Host(MOST_RANK, is_woken), False, False)
        later, _ = who_gives_way(demand, self._room, guests, ())
        return Way(reason="waits until models of a higher priority rest" if later else ""), ""

    def _cheapest(self, uid: str, demand: Demand, hosts: Iterable[Host]) -> tuple[tuple[Guest, ...], str]:
        """Of the first of these for whom enough give way; nobody where they do for none."""
        for host in hosts:
            ways = [
                who_gives_way(demand, self._room, self._guests_for(uid, host, True, dozes), self._promised)
                for dozes in (True, False)
            ]
            if possible := [way for way in ways if way[0]]:
                return min(possible, key=lambda way: sum(guest.cost for guest in way[0]))
        return (), ""

    def _guests_for(self, uid: str, host: Host, is_now: bool, dozes: bool) -> Guests:
        """All but that model itself, which may doze."""
        key = (host, is_now, dozes)
        if key not in self._guests:
            guests = guests_of(self._fleet, self._now if is_now else None, host, dozes)
            guests += (
                ()
                if is_now
                else [guest for guest in self._coming if self._fleet.wanted[guest.uid].spec.rank <= host.rank]
            )
            self._guests[key] = by_node([*guests, *dozing_guests_of(self._fleet, self._now, host)])
        every = self._guests[key]
        if not any(worker.state in RESTS for worker in self._fleet.workers.of(uid)):
            return every
        return {node: [guest for guest in guests if guest.uid != uid] for node, guests in every.items()}

    def _extras(self) -> Guests:
        if self._spare is None:
            self._spare = by_node(extras_of(self._fleet))
        return self._spare


def extras_of(fleet: Fleet) -> list[Guest]:
    """The replicas that only a load has brought about, each by itself. Whichever is chosen, its model gives its last
    one back, and then is looked at again."""
    extras = []
    for uid in sorted(fleet.scales.watched & fleet.wanted.keys() - fleet.unreadable.keys()):
        load_s = max(fleet.resting.load_s.get(uid, 0.0), 0.1)
        extras += [
            Guest(uid, ((worker.node, worker.claim),), load_s / (1 + worker.name.index))
            for worker in extra_workers(fleet, fleet.wanted[uid])
            if not fleet.resting.rests(uid)
        ]
    return extras


def who_would_leave(fleet: Fleet, wanted: Wanted) -> tuple[str, ...]:
    """The models that would give way to a launch that has no room, by a replica or altogether; nobody where that is not
    enough."""
    room, gone = room_for(fleet, wanted), list[Guest]()
    extras, hosts = extras_of(fleet), hosts_of(wanted, is_urgent=False)
    tiers = [[*guests_of(fleet, None, host), *dozing_guests_of(fleet, None, host)] for host in hosts]
    for index in range(wanted.replica if fleet.settings.make_room else 0):
        demand = demand_of(wanted, index, fleet.peaks)
        placement = room.place(demand)
        for candidates in (extras, *tiers) if isinstance(placement, NoRoom) else ():
            others = [guest for guest in candidates if guest.uid != wanted.uid]
            for guest in who_gives_way(demand, room, by_node(others), ())[0]:
                gone.append(guest)
                # What gives back a replica is not sent to sleep as well, which would count that replica twice.
                extras = [other for other in extras if other is not guest]
                tiers = [[other for other in guests if other.uid != guest.uid] for guests in tiers]
                for node, claim in guest.claims:
                    room.give_back(node, claim)
            placement = room.place(demand)
            if not isinstance(placement, NoRoom):
                break
        if isinstance(placement, NoRoom):
            return ()
        room.take(wanted.uid, placement)
    return tuple(dict.fromkeys(guest.uid for guest in gone))


def guests_of(fleet: Fleet, now: float | None, host: Host, dozes: bool = False) -> list[Guest]:
    """The models that may give way: neither pinned, nor of a higher priority, nor short of workers, nor only just
    loaded, nor, unless it is urgent, in use. The last two do not count for those that a higher priority preempts.
    Without `now`: those that may sooner or later, also those that load. `dozes`: with what they give back when they
    doze, and what that costs."""
    guests = []
    for other, wanted in fleet.wanted.items():
        # First what is so of most, where far more models are wanted than there is room for.
        workers = fleet.workers.of(other)
        if not workers:
            continue
        if wanted.spec.pinned or fleet.resting.rests(other) or other in fleet.unreadable:
            continue
        if wanted.spec.rank > host.rank or (other in fleet.waiting and not is_served(fleet, wanted)):
            continue
        is_preempted = host.preempts and wanted.spec.rank < host.rank
        states = {WorkerState.READY} if now is not None else LOADS | {WorkerState.READY}
        if any(worker.state not in states for worker in workers):
            continue
        is_used = other not in fleet.resting.idle
        if is_used and not host.is_urgent and not is_preempted:
            continue
        # One that still has something in hand is not dozing yet, and the next request would keep it from that.
        if is_used and is_preempted and dozes:
            continue
        load_s = fleet.resting.load_s.get(other, 0.0)
        serves_since = max(worker.ready_since or 0.0 for worker in workers)
        if now is not None and not is_preempted and now - serves_since < max(LEAST_S, TIMES_LOAD * load_s):
            continue
        use = fleet.resting.spells(other, now if now is not None else serves_since) + UNUSED
        if not dozes:
            guests.append(Guest(other, claims_of(workers), use * (WAKE_S + load_s)))
            continue
        given = tuple((worker.node, dropped_of(fleet, worker)) for worker in workers)
        if any(claim.memory_bytes > 0 or claim.cards for _, claim in given):
            guests.append(Guest(other, given, use * (WAKE_S + _rouse_s(fleet, other)), "dozing"))
    return guests


def dozing_guests_of(fleet: Fleet, now: float | None, host: Host) -> list[Guest]:
    """Those that doze, or dozed until they were woken and have no room, of no higher priority. They give back what is
    left of them."""
    guests = []
    for uid in sorted((fleet.resting.dozing.keys() | fleet.waiting.keys()) & fleet.wanted.keys()):
        workers = [worker for worker in fleet.workers.of(uid) if worker.state == WorkerState.DOZING]
        if not workers or uid in fleet.unreadable or fleet.wanted[uid].spec.rank > host.rank:
            continue
        longer_s = max(fleet.resting.load_s.get(uid, 0.0) - _rouse_s(fleet, uid), 0.1)
        use = UNUSED if now is None else UNUSED + fleet.resting.spells(uid, now)
        depth: Depth = "asleep" if uid in fleet.resting.dozing else "ended"
        guests.append(Guest(uid, claims_of(workers), use * longer_s, depth))
    return guests


def _of(depth: Depth, guests: Iterable[Guest]) -> tuple[str, ...]:
    return tuple(guest.uid for guest in guests if guest.depth == depth)


def claims_of(workers: Iterable[WorkerRecord]) -> tuple[tuple[str, Claim], ...]:
    return tuple((worker.node, worker.claim) for worker in workers)


def dropped_of(fleet: Fleet, worker: WorkerRecord) -> Claim:
    """What a worker gives back when it dozes."""
    kept = fleet.resting.dozing_bytes.get(worker.name.uid, DOZING_BYTES)
    given_bytes = max(worker.claim.memory_bytes - kept, 0)
    return Claim(given_bytes, worker.claim.cards, card_bytes=worker.claim.card_bytes)


def _rouse_s(fleet: Fleet, uid: str) -> float:
    load_s = fleet.resting.load_s.get(uid, 0.0)
    return fleet.resting.rouse_s.get(uid, ROUSE_PART * load_s)


def by_node(guests: Iterable[Guest]) -> Guests:
    """They give something back of these nodes."""
    nodes: Guests = {}
    for guest in guests:
        for node in dict.fromkeys(node for node, _ in guest.claims):
            nodes.setdefault(node, []).append(guest)
    return nodes


def who_gives_way(
    demand: Demand, room: Room, guests: Guests, promised: Collection[str]
) -> tuple[tuple[Guest, ...], str]:
    """The cheapest of these without which there would be room, and on which node; nobody where that is not enough."""
    nodes = [node for node in guests if node not in promised][:MOST_NODES]
    ways = [(_cheapest(demand, room, node, guests[node]), node) for node in nodes]
    possible = [(sum(guest.cost for guest in chosen), len(chosen), node, chosen) for chosen, node in ways if chosen]
    if not possible:
        return (), ""
    _, _, node, chosen = min(possible, key=lambda way: way[:3])
    return chosen, node


def _cheapest(demand: Demand, room: Room, node: str, present: Sequence[Guest]) -> tuple[Guest, ...]:
    """By what each costs for what it gives back; then those are left out without whom it is still enough."""

    def is_enough(leaving: Sequence[Guest]) -> bool:
        return room.fits_without(demand, node, [claim for guest in leaving for claim in guest.on(node)])

    if not is_enough(present):
        return ()
    chosen: list[Guest] = []
    for guest in sorted(present, key=lambda guest: (guest.cost / max(_size(guest.on(node)), 1), guest.uid)):
        if is_enough(chosen):
            break
        chosen.append(guest)
    for guest in sorted(chosen, key=lambda guest: -guest.cost):
        others = [other for other in chosen if other is not guest]
        if is_enough(others):
            chosen = others
    # One alone may be cheaper than several that are cheap for their size.
    alone = min((guest for guest in present if is_enough([guest])), key=lambda guest: guest.cost, default=None)
    if alone is not None and alone.cost < sum(guest.cost for guest in chosen):
        return (alone,)
    return tuple(chosen)


def _size(claims: Iterable[Claim]) -> int:
    return sum(claim.memory_bytes + claim.card_bytes for claim in claims)


def _coming(fleet: Fleet, plan: FleetPlan, room: Room) -> list[Guest]:
    """Takes the room of what is about to be started, which may give way when it has served."""
    coming = []
    for start in plan.start:
        room.take(start.name.uid, start.placement)
        coming.append(Guest(start.name.uid, ((start.placement.node, start.placement.claim),), 0.0))
    for worker in plan.rouse:
        claim = worker.whole_claim or worker.claim
        room.give_back(worker.node, worker.claim)
        room.claim_more(worker.node, claim)
        coming.append(Guest(worker.name.uid, ((worker.node, claim),), 0.0))
    return [guest for guest in coming if not fleet.wanted[guest.uid].spec.pinned]


def _give_back_what_leaves(fleet: Fleet, room: Room) -> tuple[str, ...]:
    """Gives back what workers take that leave anyway; returns their nodes."""
    unsteady = [worker for worker in fleet.workers.unsteady.values() if worker.state in LEAVES]
    asleep = [worker for uid in fleet.resting.asleep for worker in fleet.workers.of(uid)]
    nodes: dict[str, None] = {}

    def give_back(worker: WorkerRecord, claim: Claim) -> None:
        nodes[worker.node] = None
        room.give_back(worker.node, claim)

    for worker in fleet.workers.unsteady.values():
        if worker.state == WorkerState.NODDING and worker.name.uid in fleet.resting.dozing:
            give_back(worker, dropped_of(fleet, worker))
    for worker in (w for uid in fleet.resting.dozing for w in fleet.workers.of(uid) if w.state == WorkerState.READY):
        give_back(worker, dropped_of(fleet, worker))
    # Models that have just given a replica back.
    followed = [fleet.wanted[uid] for uid in fleet.scales.watched & fleet.wanted.keys()]
    followed = [wanted for wanted in followed if not fleet.resting.rests(wanted.uid)]
    surplus = [w for wanted in followed for w in fleet.workers.of(wanted.uid) if w.name.index >= wanted.replica]
    for worker in (*unsteady, *(worker for worker in (*asleep, *surplus) if worker.state in HOLDS_CLAIM - LEAVES)):
        give_back(worker, worker.claim)
    return tuple(nodes)


def tell_ways(fleet: Fleet, ways: dict[str, Way]) -> None:
    """Says of each why it waits, and whose room is kept for it."""
    fleet.resting.kept_nodes = {uid: way.kept_node for uid, way in ways.items() if way.kept_node}
    for uid, way in ways.items():
        if fleet.waiting.get(uid) != (reason := Waiting(way.reason)):
            fleet.waiting[uid] = reason
            fleet.workers.untold.add(uid)
