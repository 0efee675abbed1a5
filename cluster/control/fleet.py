"""All that is known of wanted models, workers and nodes at this moment, and what follows from it.

Pure: time is passed in, nothing is awaited, no process is touched. The supervisor feeds it facts and carries out its
plans; the simulation in the tests does the same with workers that exist only on paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from cluster.control import pressure
from cluster.control.canary import Canaries
from cluster.control.card_users import CardUsers
from cluster.control.lifecycle import COMPUTES, HOLDS_CLAIM, LEAVES, WorkerEvent, WorkerRecord, limit_s, step
from cluster.control.peaks import Peak, key_of, larger, measured_by, merged
from cluster.control.placement import Placement, share_of
from cluster.control.reconcile import GOOD_RUN_S, NO_LOSS, FleetPlan, Loss, Waiting, is_at_rest, reconcile
from cluster.control.resting import Resting
from cluster.control.room import Room, room_beside
from cluster.control.scaling import Scales
from cluster.control.workers import Workers
from cluster.errors import DownloadFailed
from cluster.launch import Needs, Wanted
from cluster.settings import Settings
from cluster.status import Claim, Memory, Node, Report, WorkerName, WorkerState

S = WorkerState
E = WorkerEvent

#: The event that each phase of a worker's report stands for.
EVENT_OF_PHASE = {
    "created": E.ANSWERED,
    "loading": E.STARTED,
    "ready": E.LOADED,
    "failed": E.FAILED,
    "draining": E.ANSWERED,
    "drained": E.DRAINED,
    "nodding": E.NODS,
    "dozing": E.DOZED,
}
#: In which state a worker is adopted that says this; in STARTING all others.
STATE_OF_PHASE = {"draining": S.DRAINING, "nodding": S.NODDING, "dozing": S.NODDING}


@dataclass
class Fleet:
    settings: Settings
    new_suffix: Callable[[], str]
    wanted: dict[str, Wanted] = field(default_factory=dict)
    #: Launches that are being written down: they have their room already, and nothing else.
    accepted: dict[str, Wanted] = field(default_factory=dict)
    workers: Workers = field(default_factory=Workers)
    nodes: dict[str, Node] = field(default_factory=dict)
    #: Losses of an index, for the back-off.
    losses: dict[tuple[str, int], Loss] = field(default_factory=dict)
    #: How often each index of a model was lost.
    restarts: dict[tuple[str, int], int] = field(default_factory=dict)
    #: Why a model short of workers gets no more now; from the last plan.
    waiting: dict[str, Waiting] = field(default_factory=dict)
    #: Wanted models that can be shown but not acted on, with the reason: their workers are left as they are.
    unreadable: dict[str, str] = field(default_factory=dict)
    #: Losses of workers of an older generation, which goes on until the wanted one is READY.
    old_losses: dict[tuple[str, int], Loss] = field(default_factory=dict)
    #: Each model as it was wanted when it last was READY.
    last_ready: dict[str, Wanted] = field(default_factory=dict)
    resting: Resting = field(default_factory=Resting)
    scales: Scales = field(default_factory=Scales)
    canaries: Canaries = field(default_factory=Canaries)
    #: Models that have served, in whatever generation: requests wait for their next worker instead of failing.
    served: set[str] = field(default_factory=set)
    #: Workers whose end has a known cause that will not come again: their loss delays no start.
    excused: set[str] = field(default_factory=set)
    card_users: CardUsers = field(default_factory=CardUsers)
    hold_until: float = 0.0
    #: By node; from the reports of its workers.
    memory: dict[str, pressure.NodeMemory] = field(default_factory=dict)
    #: What launches were measured to take, and which of that is not written down yet.
    peaks: dict[str, Peak] = field(default_factory=dict)
    new_peaks: dict[str, Peak] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------- facts in

    def see_nodes(self, nodes: Iterable[Node], now: float) -> list[str]:
        """The nodes there are now; many gone at once look like a partition, so relaunching waits a while."""
        last, self.nodes = self.nodes, self.card_users.shown(nodes, self.workers, now)
        before = set(last)
        gone = before - set(self.nodes)
        for node in before | self.nodes.keys():
            if last.get(node) != self.nodes.get(node):
                self.workers.changed_nodes.add(node)
                self.workers.touch(*(worker.name.uid for worker in self.workers.on(node)))
        self.memory = {node: memory for node, memory in self.memory.items() if node in self.nodes}
        if len(before) > 2 and len(gone) >= max(2, self.settings.storm_fraction * len(before)):
            self.hold_until = now + self.settings.storm_hold_s
            return [
                f"{len(gone)} of {len(before)} nodes vanished at once; holding for {self.settings.storm_hold_s:g} s"
            ]
        return []

    def adopt(self, name: WorkerName, report: Report, claim: Claim, now: float) -> WorkerRecord:
        """A live worker found by its name, with what it says of itself."""
        state = STATE_OF_PHASE.get(report.phase, S.STARTING)
        worker = WorkerRecord(
            name, state, report.node_id, claim, now, report=report, created=report.created, story=("adopted",)
        )
        self.workers[str(name)] = worker
        return self.see_report(str(name), report, now)

    def started(self, name: WorkerName, placement: Placement, now: float, created: float = 0.0) -> WorkerRecord:
        """`created` is the wall clock's time."""
        worker = WorkerRecord(name, S.STARTING, placement.node, placement.claim, now, created=created)
        self.workers[str(name)] = worker
        return worker

    def see_report(self, name: str, report: Report, now: float) -> WorkerRecord:
        worker = self.workers[name]
        if report.load != worker.report.load:
            self.scales.watched.add(worker.name.uid)
            if self.workers.hear_load(name, report):
                return self.workers[name]
        moved = worker.report.progress != report.progress
        claim = worker.claim
        if report.phase == "ready" and report.peak is not None:
            claim = _held_to(self, worker, claim, report, report.peak)
        # Most reports of most workers say what the last one said.
        if report != worker.report or claim != worker.claim:
            self.workers[name] = replace(worker, report=report, claim=claim, since=now if moved else worker.since)
        # What it loaded once it can load again: only its process is to blame.
        event = E.DIED if report.phase == "failed" and report.loads else EVENT_OF_PHASE[report.phase]
        after = self.see(name, event, now, str(report.error) if report.error else "")
        uid = after.name.uid
        # Nothing about the worker may have changed, where it was woken before it was told to go.
        if uid in self.wanted and self.resting.see(worker, after, self.workers.of(uid), now):
            self.workers.untold.add(uid)
        return after

    def see_memory(self, node: str, memory: Memory, now: float) -> tuple[WorkerRecord, str] | None:
        """Takes a reading of a node's memory; returns the worker that has to end for it, if any, and the reason."""
        if not memory.total_bytes:
            return None
        floor = self._floor(memory)
        before = self.memory.get(node, pressure.NodeMemory())
        after = pressure.after_reading(before, memory, floor, now)
        tenant = pressure.who_gives_way(after, pressure.tenants_of(self.workers.on(node)), floor, now)
        self.memory[node] = after if tenant is None else pressure.gave_way(after, tenant, now)
        if tenant is None:
            return None
        return self.workers[tenant.name], pressure.reason_of(after, tenant, self.ip_of(node), floor)

    def why_died(self, worker: WorkerRecord, reason: str, now: float) -> str:
        """The reason given, or that memory is the likely cause."""
        node_memory = self.memory.get(worker.node)
        if node_memory is None:
            return reason
        if not pressure.was_killed_for_memory(node_memory, self._floor(node_memory.memory), now):
            return reason
        return pressure.reason_of_kernel(node_memory, self.ip_of(worker.node))

    def _floor(self, memory: Memory) -> int:
        return pressure.floor_of(memory.total_bytes, self.settings.memory_floor_bytes)

    def ip_of(self, node: str) -> str:
        return self.nodes[node].ip if node in self.nodes else node

    def open_nodes(self) -> tuple[Node, ...]:
        """The nodes, with what is left for models on those whose memory has run out."""
        return tuple(map(self._open, self.nodes.values()))

    def _open(self, node: Node) -> Node:
        node_memory = self.memory.get(node.id)
        room = None if node_memory is None else pressure.room_bytes(node_memory, self._floor(node_memory.memory))
        if node_memory is None or room is None:
            return node
        return replace(node, room_bytes=room, room_reason=pressure.others(node_memory.memory))

    def room(self) -> Room:
        """What is left on the nodes beside all workers."""
        return room_beside(self.workers, self.open_nodes(), self.settings.memory_fraction)

    def see(self, name: str, event: WorkerEvent, now: float, reason: str = "") -> WorkerRecord:
        worker = self.workers[name]
        after = step(worker, event, now, reason)
        self.workers[name] = after
        key = (worker.name.uid, worker.name.index)
        wanted = self.wanted.get(worker.name.uid)
        is_old = wanted is not None and wanted.generation != worker.name.generation
        if is_old and after.state == S.FAILED and worker.state != S.FAILED:
            # This version was READY once, so loading can succeed.
            self.old_losses[key] = self.old_losses.get(key, NO_LOSS).again(now, self.settings.backoff_max_s)
        if after.state == S.LOST and worker.state != S.LOST:
            good_run = worker.ready_since is not None and now - worker.ready_since >= GOOD_RUN_S
            losses = self.old_losses if is_old else self.losses
            loss = NO_LOSS if good_run else losses.get(key, NO_LOSS)
            if name in self.excused:
                self.excused.discard(name)
            else:
                losses[key] = loss.again(now, self.settings.backoff_max_s)
            self.restarts[key] = self.restarts.get(key, 0) + 1
        if after.state == S.READY and worker.name.uid in self.wanted:
            self.served.add(worker.name.uid)
        return after

    def excuse(self, names: Iterable[str]) -> None:
        """Their replacements need not wait: what ended these workers is known and refused from now on."""
        for name in names:
            parsed, worker = WorkerName.parse(name), self.workers.get(name)
            if worker is not None and worker.state in HOLDS_CLAIM:
                self.excused.add(name)
            elif parsed is not None and (loss := self.losses.get((parsed.uid, parsed.index))) is not None:
                self.losses[parsed.uid, parsed.index] = replace(loss, not_before=float("-inf"))

    def want(self, wanted: Wanted, unreadable: str = "") -> None:
        self.wanted[wanted.uid] = wanted
        self.scales.watched.add(wanted.uid)
        self.resting.heed(wanted, self.settings)
        self.canaries.heed(wanted)
        self.unreadable.pop(wanted.uid, None)
        if unreadable:
            self.unreadable[wanted.uid] = unreadable
        self.workers.touch(wanted.uid)
        # It may be wanted otherwise than what failed: it need not wait.
        self.forget_losses(wanted.uid)

    def forget_losses(self, uid: str) -> None:
        self.losses = {key: loss for key, loss in self.losses.items() if key[0] != uid}
        self.old_losses = {key: loss for key, loss in self.old_losses.items() if key[0] != uid}

    def unwant(self, uid: str) -> None:
        self.wanted.pop(uid, None)
        self.unreadable.pop(uid, None)
        self.last_ready.pop(uid, None)
        self.forget_losses(uid)
        self.served.discard(uid)
        self.restarts = {key: count for key, count in self.restarts.items() if key[0] != uid}
        self.waiting.pop(uid, None)
        self.resting.forget(uid)
        self.scales.forget(uid)
        self.canaries.forget(uid)
        self.workers.touch(uid)

    # ------------------------------------------------------------------------------------------- decisions out

    def expired(self, now: float) -> list[WorkerRecord]:
        """Workers that stayed in their state beyond its deadline."""
        expired = []
        for worker in self.workers.unsteady.values():
            age, limit = now - worker.since, limit_s(worker.state, self.settings)
            is_ours = worker.name.uid not in self.unreadable or worker.state in LEAVES
            # Weights that could not be had today may be had in a minute; anything else fails the same way again.
            if worker.state == S.FAILED and isinstance(worker.report.error, DownloadFailed):
                limit, is_ours = self.settings.backoff_max_s, True
            if is_ours and limit is not None and age > limit:
                expired.append(worker)
        return expired

    def orphaned(self) -> list[WorkerRecord]:
        """Workers whose node is not there any more."""
        gone = [node for node in self.workers.nodes() if node not in self.nodes]
        return [w for node in gone for w in self.workers.on(node) if w.state in HOLDS_CLAIM]

    def plan(self, now: float) -> FleetPlan:
        """Looks only at models that something has changed about, or that were not at rest when last looked at."""
        self.memory = {node: pressure.without_old(last, now) for node, last in self.memory.items()}
        hold = "many nodes vanished at once; waiting for them" if now < self.hold_until else ""
        if not self.workers.unplanned:
            return FleetPlan()
        uids, self.workers.unplanned = self.workers.unplanned, set()
        plan = reconcile(
            self.resting.awake(self.wanted, uids, self.served, now),
            [worker for uid in sorted(uids) for worker in self.workers.of(uid)],
            self.room(),
            now=now,
            new_suffix=self.new_suffix,
            losses=self.losses,
            hold=hold,
            last_ready=self.last_ready,
            old_losses=self.old_losses,
            untouched=self.unreadable,
            peaks=self.peaks,
            dozing=self.resting.dozing,
            canaries=self.canaries,
            kept_nodes=self.resting.kept_nodes,
        )
        before, self.waiting = self.waiting, plan.waiting
        self.workers.untold.update(
            uid for uid in before.keys() | plan.waiting.keys() if before.get(uid) != plan.waiting.get(uid)
        )
        self.workers.unplanned.update(uid for uid in uids if not self._is_at_rest(uid))
        return plan

    def _is_at_rest(self, uid: str) -> bool:
        target, workers = self.wanted.get(uid), list(self.workers.of(uid))
        if target is None or uid in self.resting.asleep:
            return not workers
        if uid in self.resting.dozing:
            return bool(workers) and all(worker.state == S.DOZING for worker in workers)
        return is_at_rest(target, self.last_ready.get(uid, target), workers, self.nodes)

    def take_changed(self) -> set[str]:
        """The models of which something else can be told than when this was last asked."""
        changed, self.workers.untold = self.workers.untold, set()
        return changed

    def take_changed_nodes(self) -> set[str]:
        """The nodes whose workers may have to share its cores otherwise."""
        changed, self.workers.changed_nodes = self.workers.changed_nodes, set()
        return changed

    def newly_ready(self, uids: Iterable[str]) -> list[Wanted]:
        """Those of these models that have become READY: each is now the version to go back to. The first version of a
        model counts from its first READY worker on."""
        newly = []
        for uid in uids:
            wanted, last = self.wanted.get(uid), self.last_ready.get(uid)
            if wanted is None or uid in self.unreadable or uid in self.canaries.on_trial:
                continue
            if last is not None and (last.generation, last.replica) == (wanted.generation, wanted.replica):
                continue
            ready = [w for w in self.of(uid) if w.state == S.READY and w.name.generation == wanted.generation]
            if len(ready) >= (1 if last is None else wanted.replica):
                newly.append(wanted)
        self.remember(newly)
        return newly

    def remember(self, ready: Iterable[Wanted]) -> None:
        """Models that were READY: their requests wait for their next worker."""
        for wanted in ready:
            if wanted.uid in self.wanted and wanted.uid not in self.unreadable:
                self.last_ready[wanted.uid] = wanted
                self.served.add(wanted.uid)
                self.workers.touch(wanted.uid)

    # ------------------------------------------------------------------------------------------- views

    def of(self, uid: str) -> list[WorkerRecord]:
        workers = [w for w in self.workers.of(uid) if w.state != S.GONE]
        return sorted(workers, key=lambda w: (w.name.generation, w.name.index))

    def threads_on(self, node_id: str) -> int:
        """Workers of a node share its cores: each computes with this many threads."""
        node = self.nodes.get(node_id)
        sharing = sum(w.state in COMPUTES for w in self.workers.on(node_id))
        return max(1, int((node.cpus if node else 1) // max(1, sharing)))


def _held_to(fleet: Fleet, worker: WorkerRecord, claim: Claim, report: Report, peak: Needs) -> Claim:
    """The claim of a worker that took more than was expected; what it took is remembered for the next launch."""
    wanted = fleet.wanted.get(worker.name.uid)
    if worker.report.phase != "ready" and wanted is not None and wanted.generation == worker.name.generation:
        key = key_of(wanted, on_card=bool(claim.cards))
        before = fleet.peaks.get(key)
        if (row := merged(before, measured_by(wanted, report, peak))) != before:
            fleet.peaks[key] = fleet.new_peaks[key] = row
    most = larger(Needs(memory_bytes=claim.memory_bytes, card_bytes=claim.card_bytes), peak)
    claim = replace(claim, memory_bytes=most.memory_bytes, card_bytes=most.card_bytes)
    node = fleet.nodes.get(worker.node)
    if node is None or wanted is None or wanted.spec.place_of(worker.name.index).n_gpu != "auto":
        return claim
    # A share that was asked for stays; one that was worked out of what was expected follows what was measured.
    shares = ((card, share, node.size_of(card)) for card, share in claim.cards)
    return replace(claim, cards=tuple((card, _at_least(share, most.card_bytes, size)) for card, share, size in shares))


def _at_least(share: float, card_bytes: int, size: int | None) -> float:
    return min(max(share, share_of(card_bytes, size)), 1.0) if size else share
