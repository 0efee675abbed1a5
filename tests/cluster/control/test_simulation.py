"""The control plane against a simulated world that breaks at random; whatever happens, what is wanted must run in the
end.

The workers are simulated and the clock is a number. It is checked that no claim exceeds what a node has, no two workers
are sent requests for the same place, no worker of an unwanted model is left, and in the end exactly the wanted models
run, all of them READY.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from cluster import errors
from cluster.control.canary import Canary
from cluster.control.changes import COUNTS
from cluster.control.fleet import Fleet
from cluster.control.lifecycle import HOLDS_CLAIM, WorkerEvent, WorkerRecord
from cluster.control.making_room import tell_ways, ways_of
from cluster.control.publishing import updated
from cluster.control.reconcile import is_settled
from cluster.control.rescaling import Rescaled, follow, give_back
from cluster.control.sleeping import end_dozing, end_serving, fallen_asleep, let_doze, put_to_sleep, wake
from cluster.control.trying import go_on, rulings_of, trial_after, trial_of, turn_back
from cluster.control.views import model_routes_of, status_of
from cluster.launch import Wanted
from cluster.routes import ModelRoutes
from cluster.settings import Settings
from cluster.status import Claim, Load, LoadProgress, ModelStatus, Report, WorkerName, WorkerState
from cluster.tally import CanaryTally, Tally
from tests.make import make_node, make_wanted

E = WorkerEvent
S = WorkerState
GIB = 2**30
SETTINGS = Settings(_env_file=None, storm_hold_s=5.0, drain_s=5.0, canary_s=5.0)  # type: ignore[call-arg]
#: How far the clock goes from one tick to the next: while things break, and while nothing does.
BUSY_S, CALM_S = [0.2, 1.0, 3.0], [3.0]


class World:
    """Simulated workers; random numbers decide what happens to their processes."""

    def __init__(self, seed: int, nodes: int = 4, models: int = 5, check_every: int = 1, follows: float = 0.0) -> None:
        """`follows`: the part of the models that follow their load."""
        self.follows = follows
        #: How many callers each model has.
        self.callers: dict[str, int] = {}
        self.dice = random.Random(seed)
        self.uids = [f"m{number}" for number in range(models)]
        #: How often all that must hold is looked at, which takes as long as there is much of it.
        self.check_every = check_every
        self.ticks = 0
        self.restarted_at = -1
        self.steps_s = BUSY_S
        self.now = 0.0
        self.chaos = True
        self.processes: dict[str, dict[str, Any]] = {}
        self.fleet = Fleet(SETTINGS, new_suffix=self.suffix)
        self.store: dict[str, Wanted] = {}
        self.last_ready: dict[str, Wanted] = {}
        self.trials: dict[str, Canary] = {}
        self.generations = 0
        self.tried = self.turned_back = 0
        self.started = self.gave_way = self.yielded = self.roused = self.ended_dozing = 0
        self.rescaled: list[Rescaled] = []
        self.nodes = {f"n{i}": make_node(f"n{i}", gpus=2 if i % 2 else 0, memory_gib=8) for i in range(nodes)}
        self.away: dict[str, float] = {}
        #: What was last told of each model and each node.
        self.published: Mapping[str, tuple[ModelRoutes, ModelStatus]] = {}
        self.threads: dict[str, int] = {}
        #: What every worker that was ever started is called and claims.
        self.claims: dict[str, tuple[WorkerName, Claim]] = {}

    def next_generation(self) -> int:
        self.generations += 1
        return self.generations

    def suffix(self) -> str:
        return f"{self.dice.getrandbits(32):08x}"

    # --- what a supervisor does

    def tick(self) -> None:
        self.now += self.dice.choice(self.steps_s)
        fleet = self.fleet
        fleet.see_nodes([n for n in self.nodes.values() if n.id not in self.away], self.now)
        self.deliver()
        for worker in fleet.orphaned():
            fleet.see(str(worker), E.DIED, self.now, "its node is gone")
        for worker in fleet.expired(self.now):
            fleet.see(str(worker), E.EXPIRED, self.now)
        for change in follow(fleet, self.now):
            wanted = fleet.wanted[change.uid]
            assert wanted.replica == change.after != change.before
            self.store[change.uid] = wanted
            self.rescaled.append(change)
        self.end_trials()
        for uid in fallen_asleep(fleet):
            put_to_sleep(fleet, uid, "its process ended")
        plan = fleet.plan(self.now)
        ways = ways_of(fleet, self.now, plan)
        tell_ways(fleet, ways)
        for uid, way in ways.items():
            for gone in (*way.leaving, *way.dozing, *way.ending):
                assert fleet.wanted[gone].spec.rank <= fleet.wanted[uid].spec.rank
        for leaving in dict.fromkeys(leaving for way in ways.values() for leaving in way.leaving):
            assert self.fleet.of(leaving) and leaving not in fleet.resting.asleep
            put_to_sleep(fleet, leaving, "gave way")
            end_serving(fleet, leaving, plan)
            self.gave_way += 1
        for dozing in dict.fromkeys(dozing for way in ways.values() for dozing in way.dozing):
            assert self.fleet.of(dozing) and not fleet.resting.rests(dozing)
            assert let_doze(fleet, dozing, "gave way")
            self.gave_way += 1
        for ending in dict.fromkeys(ending for way in ways.values() for ending in way.ending):
            end_dozing(fleet, ending, plan)
            self.ended_dozing += 1
        for yielding in {uid for way in ways.values() for uid in way.yielding}:
            back = give_back(fleet, yielding, self.now)
            assert back is not None and back.after < back.before
            self.store[yielding] = fleet.wanted[yielding]
            self.yielded += 1
        for start in plan.start:
            if self.chaos and self.dice.random() < 0.1:
                continue  # the platform would rather start it later
            fleet.started(start.name, start.placement, self.now)
            self.started += 1
            if self.dice.random() < 0.95 or not self.chaos:
                bad = "bad" in start.wanted.spec.options
                self.processes[str(start.name)] = {
                    "node": start.placement.node,
                    "phase": "created",
                    "speed": self.dice.uniform(0.2, 1.0),
                    "bad": bad,
                    "work": 0.0,
                    "mute": False,
                    "order": None,
                    "loads": 0,
                }
        for worker in plan.drain:
            after = fleet.see(str(worker), E.DRAIN, self.now)
            if after.state == S.DRAINING and str(worker) in self.processes:
                self.processes[str(worker)]["phase"] = "drained"
        for worker in plan.doze:
            assert fleet.see(str(worker), E.DOZE, self.now).state == S.NODDING
            self.order(worker, "doze")
        for worker in plan.rouse:
            assert fleet.see(str(worker), E.ROUSE, self.now).state == S.STARTING
            self.order(worker, "rouse")
            self.roused += 1
        for worker in plan.forget:
            self.processes.pop(str(worker), None)
            del fleet.workers[str(worker)]
        self.ticks += 1
        is_checked = self.ticks % self.check_every == 0
        self.publish(is_checked)
        self.claims.update((n, (w.name, w.claim)) for n, w in fleet.workers.items() if n not in self.claims)
        if is_checked:
            self.check()

    def want(self, wish: Wanted) -> None:
        trial = trial_of(self.fleet, wish) or trial_after(self.fleet, wish)
        self.store[wish.uid] = wish
        self.fleet.want(wish)
        if trial is not None:
            self.trials[wish.uid] = trial
            self.fleet.canaries.begin(wish.uid, trial)

    def end_trials(self) -> None:
        """Every third version on trial that loads is worse than the old one."""
        canaries = self.fleet.canaries
        for uid, trial in canaries.on_trial.items():
            faults = 9 if trial.generation % 3 == 0 else 0
            canaries.hear("i", CanaryTally(uid, trial.generation, Tally(10, faults), Tally(90)))
        for uid, ruling in rulings_of(self.fleet, self.now).items():
            if ruling.verdict == "go on":
                del self.trials[uid]
                go_on(self.fleet, uid)
                self.tried += 1
            elif ruling.verdict == "return":
                # The row of a trial that is over stays where it is.
                self.store[uid] = turn_back(self.fleet, uid)
                self.turned_back += 1

    def order(self, worker: WorkerRecord, what: str) -> None:
        """It hears of it with the next tick, or later."""
        if process := self.processes.get(str(worker)):
            assert process["order"] is None
            process["order"] = what

    def obey(self, process: dict[str, Any]) -> None:
        order, phase = process["order"], process["phase"]
        if order is None or (self.chaos and self.dice.random() < 0.3):
            # What nods has something in hand for a while; some cannot let go of their model.
            if phase == "nodding" and self.dice.random() < 0.5:
                process["phase"] = "drained" if self.dice.random() < 0.1 else "dozing"
            return
        process["order"] = None
        if order == "doze" and phase == "ready":
            process["phase"] = "nodding"
        elif order == "rouse" and phase == "nodding":
            process["phase"] = "ready"
        elif order == "rouse" and phase == "dozing":
            process["phase"], process["work"] = "loading", 0.0

    def publish(self, is_checked: bool = True) -> None:
        """Looks only at what has changed, and must tell what a look at everything would."""
        changed = self.fleet.take_changed()
        every = {uid: self.row(uid) for uid in self.fleet.wanted} if is_checked else None
        rows = updated(self.published, changed, self.row if every is None else every.get)
        self.published = self.published if rows is None else rows
        assert every is None or self.published == every
        self.last_ready |= {wish.uid: wish for wish in self.fleet.newly_ready(changed)}
        for node in self.fleet.take_changed_nodes():
            self.threads[node] = self.fleet.threads_on(node)
        assert not is_checked or all(self.threads[node] == self.fleet.threads_on(node) for node in self.fleet.nodes)

    def row(self, uid: str) -> tuple[ModelRoutes, ModelStatus] | None:
        wanted = self.fleet.wanted.get(uid)
        return (model_routes_of(self.fleet, wanted), status_of(self.fleet, wanted)) if wanted else None

    def deliver(self) -> None:
        for name in list(self.fleet.workers):
            worker = self.fleet.workers[name]
            process = self.processes.get(name)
            if worker.state in (S.GONE, S.LOST, S.FAILED):
                continue
            if process is None:
                self.fleet.see(name, E.DIED, self.now, "no process")
                continue
            if process["mute"]:
                if worker.state in (S.READY, S.SUSPECT):
                    self.fleet.see(name, E.SILENT, self.now)
                continue
            self.obey(process)
            if process["phase"] in ("created", "loading"):
                process["phase"] = "loading"
                process["work"] += process["speed"]
                if process["work"] >= 2:
                    fails = process["bad"] or (process["loads"] and self.chaos and self.dice.random() < 0.1)
                    process["phase"] = "failed" if fails else "ready"
                    process["loads"] += not fails
            if self.fleet.see_report(name, self.report(worker.name.uid, process), self.now).state == S.FAILED:
                # It claims nothing any more, so its process must not live on and be adopted with a claim.
                del self.processes[name]

    def report(self, uid: str, process: dict[str, Any]) -> Report:
        """What a process says of itself; the same object for as long as it has nothing new to say."""
        load = self.load(uid) if process["phase"] == "ready" else Load()
        said = (process["phase"], process["work"], process["loads"], load)
        if process.get("said") != said:
            process["said"] = said
            process["report"] = Report(
                phase=process["phase"],
                progress=LoadProgress("loading", min(1.0, process["work"] / 2)),
                error=errors.LoadFailed("bad option") if process["phase"] == "failed" else None,
                node_id=process["node"],
                node_ip=process["node"],
                loads=process["loads"],
                load_seconds=process["speed"],
                memory_bytes=GIB // 4,
                load=load,
            )
        report: Report = process["report"]
        return report

    def load(self, uid: str) -> Load:
        """Of each READY worker: callers ask again once they are answered, and four are computed at once in 0.1 s."""
        callers = self.callers.get(uid, 0)
        if not callers:
            return Load()
        each = callers / max(sum(w.state == S.READY for w in self.fleet.workers.of(uid)), 1)
        running = min(each, 4)
        return Load((each - running) / 40, running / 40, each, running / 4)

    # --- what people and the world do

    def turn(self, uid: str) -> None:
        """What rests is woken, in most cases; what does not is sent to rest."""
        resting = self.fleet.resting
        if resting.rests(uid) and self.dice.random() < 0.8:
            wake(self.fleet, uid, self.now)
        elif self.dice.random() < 0.4:
            put_to_sleep(self.fleet, uid, "nobody needs it")
        elif not resting.rests(uid):
            let_doze(self.fleet, uid, "nobody needs it")

    def disturb(self) -> None:
        if self.dice.random() < 0.5:
            serving = {worker.name.uid for worker in self.fleet.workers.values() if worker.state == S.READY}
            resting = self.fleet.resting
            restless = sorted(self.store.keys() & {*serving, *resting.asleep, *resting.dozing, *resting.woken})
            if restless:
                self.turn(self.dice.choice(restless))
        if self.follows and self.dice.random() < 0.5:
            self.callers[self.dice.choice(self.uids)] = self.dice.choice([0, 1, 40, 200])
        happening = self.dice.random()
        alive = list(self.processes)
        uid = self.dice.choice(self.uids)
        if happening < 0.20 and alive:
            del self.processes[self.dice.choice(alive)]
        elif happening < 0.30 and alive:
            self.processes[self.dice.choice(alive)]["mute"] = True
        elif happening < 0.45:
            gpus = self.dice.choice([None, None, 0.5, 1.0])
            replica, bounds = self.dice.randint(1, 3), {}
            if self.follows and self.dice.random() < self.follows:
                bounds = {
                    "min_replica": self.dice.randint(0, replica),
                    "max_replica": replica + self.dice.randint(0, 4),
                }
            wish = make_wanted(
                uid,
                replica=replica,
                **bounds,
                target_queue_s=0.2 if bounds else None,
                n_gpu=gpus,
                claim_gib=self.dice.choice([0.5, 1, 2]),
                generation=self.next_generation(),
                options={"bad": True} if self.dice.random() < 0.15 else {},
                canary=10 if self.dice.random() < 0.4 else None,
                priority=self.dice.choice(["low", "normal", "normal", "high"]),
            )
            self.want(wish)
        elif happening < 0.55 and uid in self.store:
            del self.store[uid]
            self.last_ready.pop(uid, None)
            self.trials.pop(uid, None)
            self.fleet.unwant(uid)
        elif happening < 0.65:
            gone = self.dice.sample(list(self.nodes), self.dice.randint(1, 3))
            for node in gone:
                self.away[node] = self.now
                for name, process in list(self.processes.items()):
                    if process["node"] == node:
                        del self.processes[name]
        elif happening < 0.80 and self.away:
            del self.away[self.dice.choice(list(self.away))]
        elif happening < 0.88:
            # One that has done nothing yet would remember no less.
            if self.ticks != self.restarted_at:
                self.restart_supervisor()
        elif uid in self.store:
            self.turn(uid)

    def restart_supervisor(self) -> None:
        """Its memory is lost; wishes and processes are not, nor what sleeps."""
        self.restarted_at = self.ticks
        resting = {uid: self.fleet.resting.stored(uid) for uid in self.fleet.wanted}
        self.fleet = Fleet(self.fleet.settings, new_suffix=self.suffix)
        self.published, self.threads = {}, {}
        for wish in self.store.values():
            self.fleet.want(wish)
        self.fleet.remember(self.last_ready.values())
        for uid, rest in resting.items():
            self.fleet.resting.remember(uid, rest)
        for uid, trial in self.trials.items():
            if self.store[uid].generation == trial.generation:
                self.fleet.canaries.begin(uid, trial)
        self.fleet.see_nodes([n for n in self.nodes.values() if n.id not in self.away], self.now)
        for name, process in self.processes.items():
            from_name = self.claims[name]
            process["order"] = None
            phase = process["phase"] if process["phase"] in ("nodding", "dozing") else "created"
            report = Report(phase=phase, node_id=process["node"], memory_bytes=GIB // 4)
            self.fleet.adopt(from_name[0], report, from_name[1], self.now)

    def check(self) -> None:
        holding = [w for w in self.fleet.workers.values() if w.state in HOLDS_CLAIM]
        on_node: dict[str, list[WorkerRecord]] = {}
        for worker in holding:
            on_node.setdefault(worker.node, []).append(worker)
        for node in self.nodes.values():
            here = on_node.get(node.id, [])
            assert sum(w.claim.memory_bytes for w in here) <= node.memory_bytes
            cards = Counter()  # type: ignore[var-annotated]
            for worker in here:
                for card, share in worker.claim.cards:
                    cards[card] += share  # type: ignore[assignment]
            assert all(used <= 1.0001 for used in cards.values()), cards
        # What is told was found to be what a look at everything would tell.
        for model, _ in self.published.values():
            routed = {route.worker for route in model.workers}
            places = Counter((w.name.generation, w.name.index) for w in self.fleet.of(model.uid) if str(w) in routed)
            assert all(count == 1 for count in places.values())

    def rest(self, ticks: int) -> None:
        """Nothing disturbs it. What is wrong stays wrong, so it is looked at less often; and once more at the end."""
        before = self.check_every, self.steps_s
        self.check_every, self.steps_s = 10, CALM_S
        for _ in range(ticks - 1):
            self.tick()
        self.check_every, self.steps_s = before
        self.tick()

    def is_settled(self) -> bool:
        """What sleeps has no worker, and the workers of what dozes doze; all else that is wanted runs."""
        awake = {uid: wish for uid, wish in self.store.items() if not self.fleet.resting.rests(uid)}
        dozing = [worker for worker in self.fleet.workers.values() if worker.state == S.DOZING]
        assert all(worker.claim.memory_bytes == GIB // 4 for worker in dozing)
        at_rest = [worker for worker in dozing if worker.name.uid in self.fleet.resting.dozing]
        others = [worker for worker in self.fleet.workers.values() if worker not in at_rest]
        return is_settled(awake, others) and {w.name.uid for w in at_rest} == self.fleet.resting.dozing.keys()

    def calm(self) -> None:
        self.chaos = False
        self.away.clear()
        for process in self.processes.values():
            process["mute"] = False
        for uid, wish in list(self.store.items()):
            if "bad" in wish.spec.options or wish.spec.n_gpu:
                # Some of the models may never fit or load, so in the end models are wanted that can run.
                now = {"replica": wish.replica, "claim_gib": 0.5, "generation": self.next_generation()}
                bounds = wish.spec.model_dump(include=COUNTS - {"replica"})
                self.want(make_wanted(uid, **now, **bounds))
            elif wish.spec.rank:
                # One of a low priority may wait for ever for the room of others.
                spec = wish.spec.model_copy(update={"priority": 0})
                self.want(wish.model_copy(update={"spec": spec}))


@pytest.mark.parametrize("seed", range(200))
def test_whatever_breaks_it_ends_at_what_is_wanted(seed: int) -> None:
    world = World(seed)
    for _ in range(60):
        world.disturb()
        world.tick()
    world.calm()
    for _ in range(200):
        world.tick()
        if world.is_settled():
            break
    assert world.is_settled(), world.fleet.waiting
    assert set(world.processes) == set(world.fleet.workers)


@pytest.mark.parametrize("seed", range(100))
def test_models_that_follow_their_load_come_to_rest_at_what_it_needs_whatever_breaks(seed: int) -> None:
    world = World(seed, follows=0.7)
    for _ in range(80):
        world.disturb()
        world.tick()
        for wish in world.fleet.wanted.values():
            assert wish.spec.bounds is None or wish.spec.bounds.nearest(wish.replica) == wish.replica
    world.calm()
    world.callers = {uid: world.dice.choice([0, 1, 12, 40]) for uid in world.uids}
    world.rest(100)
    changed, started = len(world.rescaled), world.started
    world.rest(50)
    assert (len(world.rescaled), world.started) == (changed, started), "it does not come to rest"
    for uid, wish in world.fleet.wanted.items():
        bounds = wish.spec.bounds
        ready = sum(worker.state == S.READY for worker in world.fleet.of(uid))
        if bounds is None or world.fleet.resting.rests(uid):
            continue
        callers = world.callers[uid]
        needed = bounds.nearest({0: 0, 1: 1, 12: 1, 40: 4}[callers])
        # What is used stays, see `decide`; and there may be no room for what is needed.
        most = bounds.nearest(max(needed, math.ceil(world.load(uid).used * ready / 0.8)))
        assert needed <= wish.replica <= most, (wish.replica, needed, most)
        assert ready == wish.replica or uid in world.fleet.waiting


def test_a_thousand_models_on_two_hundred_nodes_end_at_what_is_wanted_too() -> None:
    world = World(1, nodes=200, models=1000, check_every=10)
    for uid in world.uids:
        wish = make_wanted(uid, replica=world.dice.randint(1, 2), claim_gib=0.5)
        world.store[uid] = wish
        world.fleet.want(wish)
    for _ in range(20):
        for _ in range(40):
            world.disturb()
        world.tick()
    world.calm()
    for _ in range(60):
        world.tick()
        if world.is_settled():
            break
    assert len(world.store) > 900
    assert world.is_settled()
    assert set(world.processes) == set(world.fleet.workers)


@pytest.mark.parametrize("seed", range(100))
def test_whatever_breaks_a_bad_update_ends_with_the_last_version_that_was_ready(seed: int) -> None:
    world = World(seed)
    for _ in range(60):
        world.disturb()
        world.tick()
    world.calm()
    for uid in [*world.fleet.resting.asleep, *world.fleet.resting.dozing]:
        wake(world.fleet, uid, world.now)
    world.rest(75)
    good = {uid: wish.generation for uid, wish in world.store.items()}
    for uid, wish in world.store.items():
        fields = {"replica": wish.replica, "claim_gib": 0.5, "generation": world.next_generation()}
        world.store[uid] = make_wanted(uid, options={"bad": True}, **fields)
        world.fleet.want(world.store[uid])
    for _ in range(60):
        if world.processes:
            del world.processes[world.dice.choice(list(world.processes))]
        if world.dice.random() < 0.2:
            world.restart_supervisor()
        world.tick()
    world.rest(50)
    started = world.started
    world.rest(50)
    assert world.started == started, "it does not come to rest"
    for uid, wish in world.store.items():
        ready = [w.name.generation for w in world.fleet.of(uid) if w.state == S.READY]
        assert ready == [good[uid]] * wish.replica


@pytest.mark.parametrize("seed", range(100))
def test_whatever_breaks_a_bad_canary_is_given_up_and_the_old_version_serves_all_along(seed: int) -> None:
    world = World(seed)
    for _ in range(60):
        world.disturb()
        world.tick()
    world.calm()
    for uid in [*world.fleet.resting.asleep, *world.fleet.resting.dozing]:
        wake(world.fleet, uid, world.now)
    world.rest(75)
    before = {uid: wish.generation for uid, wish in world.store.items()}
    assert not world.fleet.canaries.on_trial
    for uid, wish in world.store.items():
        # It does not load, or it fails what it is asked.
        bad = world.dice.random() < 0.5
        generation = 3 * world.next_generation()
        options = {"bad": True} if bad else {"other": True}
        fields = {"replica": wish.replica, "claim_gib": 0.1, "canary": 10, "options": options}
        world.want(make_wanted(uid, generation=generation, **fields))
    tried = len(world.fleet.canaries.on_trial)
    turned_back = world.turned_back
    for _ in range(40):
        if world.processes:
            del world.processes[world.dice.choice(list(world.processes))]
        if world.dice.random() < 0.2:
            world.restart_supervisor()
        world.tick()
    world.rest(50)
    assert tried == len(before) and world.turned_back - turned_back == tried
    assert {uid: wish.generation for uid, wish in world.store.items()} == before
    assert world.is_settled(), world.fleet.waiting
