"""What the supervisor tells: routes to the ingresses, statuses to people who wait for them."""

from __future__ import annotations

import itertools
import pickle
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from cluster import errors
from cluster.control.fleet import Fleet
from cluster.control.records import Records
from cluster.control.views import model_routes_of, status_of
from cluster.control.watching import Watch
from cluster.keys import Key
from cluster.routes import Amendment, ModelRoutes, Snapshot, amended
from cluster.status import ModelState, ModelStatus, StatusNews
from cluster.suspicion import MOST_POISON, POISON_S
from cluster.versioned import Versioned

#: Poison is told for a little less than the ingresses remember it, or they would remember it again.
POISON_TOLD_LESS_S = 10.0
#: An ingress that has missed more versions than this is told everything.
MOST_HISTORY = 1000

T = TypeVar("T")


class Publisher:
    """Posts what differs from the last time, and lets callers wait for it."""

    def __init__(
        self,
        fleet: Fleet,
        watch: Watch,
        records: Records,
        keys: Mapping[str, Key],
        clock: Callable[[], float],
    ) -> None:
        """`keys` changes with the keys there are."""
        self._fleet = fleet
        self._watch = watch
        self._records = records
        self._keys = keys
        self._clock = clock
        # Above every version of an earlier supervisor: none posts a million changes a second.
        version = records.epoch << 20
        self.snapshots = Versioned(Snapshot(version, {}, {}, tuple(keys.values()), epoch=records.epoch), version)
        #: The last versions, with the models that changed in each, and whether keys did.
        self._history: deque[tuple[int, frozenset[str], bool]] = deque(maxlen=MOST_HISTORY)
        self.statuses: Versioned[Mapping[str, ModelStatus]] = Versioned({}, version)
        #: The last versions of the statuses, with the models whose status changed in each.
        self._status_history: deque[tuple[int, frozenset[str]]] = deque(maxlen=MOST_HISTORY)
        #: Those that have been sent and have not changed since.
        self._packed: dict[str, bytes] = {}
        #: All of them, and of which version.
        self._all_sent: tuple[int, list[bytes]] = (-1, [])
        #: Until when each is told to the ingresses.
        self._poison: dict[tuple[str, str], float] = {}
        #: Launches that were READY once, by uid and generation.
        self._launched: set[tuple[str, int]] = set()

    def publish(self) -> None:
        changed = self._fleet.take_changed()
        self._post_routes(changed)
        self._post_statuses(changed)
        for wanted in self._fleet.newly_ready(changed):
            self._records.put_later("ready", wanted.uid, wanted.model_dump(mode="json"))
        new_peaks, self._fleet.new_peaks = self._fleet.new_peaks, {}
        for key, peak in new_peaks.items():
            self._records.put_later("peak", key, peak.model_dump(mode="json"))

    def _post_routes(self, changed: Collection[str]) -> None:
        last = self.snapshots.value
        rows = {uid: self._routes_of(uid) for uid in changed}
        rows = {uid: row for uid, row in rows.items() if row != last.models.get(uid)}
        keys, poison = tuple(self._keys.values()), tuple(self._poison)
        if not rows and keys == last.keys and poison == last.poison:
            return
        models = {uid: row for uid, row in rows.items() if row is not None}
        change = Amendment(
            last.version,
            last.version + 1,
            models,
            self._handles_of(models.values()),
            tuple(uid for uid in rows if uid not in models),
            None if keys == last.keys else keys,
            self._records.epoch,
            poison,
        )
        self._history.append((change.version, frozenset(rows), change.keys is not None))
        self.snapshots.post(amended(last, change))

    def _handles_of(self, models: Iterable[ModelRoutes]) -> dict[str, Any]:
        handles = {route.worker: self._watch.handle_of(route.worker) for model in models for route in model.workers}
        return {worker: handle.remote for worker, handle in handles.items() if handle is not None}

    def _routes_of(self, uid: str) -> ModelRoutes | None:
        wanted = self._fleet.wanted.get(uid)
        return model_routes_of(self._fleet, wanted) if wanted else None

    def _post_statuses(self, changed: Collection[str]) -> None:
        statuses = updated(self.statuses.value, changed, self._status_of)
        if statuses is not None:
            for uid in changed:
                self._packed.pop(uid, None)
            self._status_history.append((self.statuses.version + 1, frozenset(changed)))
            self.statuses.post(statuses)

    def _status_of(self, uid: str) -> ModelStatus | None:
        """With the version it had, where nothing else has changed."""
        wanted, old = self._fleet.wanted.get(uid), self.statuses.value.get(uid)
        if wanted is None:
            return None
        status = status_of(self._fleet, wanted)
        if status.state == ModelState.READY:
            self._launched.add((uid, status.generation))
        version = old.version if old else self.snapshots.version
        if old is None or status.model_copy(update={"version": version}) != old:
            version += 1
        return status.model_copy(update={"version": version})

    async def watch(self, version: int, timeout_s: float) -> Snapshot:
        """The routing table as soon as it is not that version."""
        return (await self.snapshots.newer(version, timeout_s))[1]

    async def changes(self, version: int, timeout_s: float) -> Snapshot | Amendment:
        """What has changed since that version, as soon as something has; all of it where that is not known any more."""
        snapshot = await self.watch(version, timeout_s)
        first = self._history[0][0] if self._history else snapshot.version + 1
        if not first - 1 <= version <= snapshot.version:
            return snapshot
        later = list(itertools.takewhile(lambda entry: entry[0] > version, reversed(self._history)))
        uids = {uid for _, changed, _ in later for uid in changed}
        rows = {uid: model for uid, model in snapshot.models.items() if uid in uids}
        workers = [route.worker for model in rows.values() for route in model.workers]
        return Amendment(
            version,
            snapshot.version,
            rows,
            {worker: snapshot.handles[worker] for worker in workers if worker in snapshot.handles},
            tuple(sorted(uids - rows.keys())),
            snapshot.keys if any(has_keys for _, _, has_keys in later) else None,
            snapshot.epoch,
            snapshot.poison,
        )

    async def status(self, uid: str, version: int | None = None, wait_s: float = 0.0) -> ModelStatus:
        """What can be told of a model; with a version, as soon as it is not that one."""
        deadline = self._clock() + wait_s
        while True:
            posted, statuses = self.statuses.version, self.statuses.value
            status = statuses.get(uid)
            if status is None:
                raise errors.UnknownUid(f"Model not found in the model list, uid: {uid}", "model_uid")
            seconds_left = deadline - self._clock()
            if version is None or status.version != version or seconds_left <= 0:
                return status
            await self.statuses.newer(posted, seconds_left)

    async def status_news(self, version: int, timeout_s: float) -> StatusNews:
        """What has changed in all statuses since that version, as soon as something has; all of them where that is not
        known any more."""
        latest, statuses = await self.statuses.newer(version, timeout_s)
        first = self._status_history[0][0] if self._status_history else latest + 1
        if not first - 1 <= version <= latest:
            return StatusNews(latest, None, tuple(self._sent(statuses)))
        later = itertools.takewhile(lambda entry: entry[0] > version, reversed(self._status_history))
        uids = sorted({uid for _, changed in later for uid in changed})
        rows = tuple(self._sent(uid for uid in uids if uid in statuses))
        return StatusNews(latest, version, rows, tuple(uid for uid in uids if uid not in statuses))

    def sent_statuses(self) -> list[bytes]:
        """All of them as they travel; the same list until one changes."""
        version = self.statuses.version
        if self._all_sent[0] != version:
            self._all_sent = version, self._sent(self.statuses.value)
        return self._all_sent[1]

    def _sent(self, uids: Iterable[str]) -> list[bytes]:
        """Those that have not changed are not packed again."""
        packed, statuses, rows = self._packed, self.statuses.value, []
        for uid in uids:
            if uid not in packed:
                packed[uid] = pickle.dumps(statuses[uid])
            rows.append(packed[uid])
        return rows

    def was_ready(self, status: ModelStatus) -> bool:
        """Whether this launch was READY once; then it cannot be cancelled any more."""
        return (status.uid, status.generation) in self._launched

    # ------------------------------------------------------------------------------------ poison

    def add_poison(self, uid: str, fingerprint: str) -> None:
        self._poison[uid, fingerprint] = self._clock() + POISON_S - POISON_TOLD_LESS_S
        while len(self._poison) > MOST_POISON:
            del self._poison[next(iter(self._poison))]

    def drop_old_poison(self, now: float) -> None:
        self._poison = {poison: until for poison, until in self._poison.items() if until > now}


def updated(
    before: Mapping[str, T], changed: Collection[str], now: Callable[[str], T | None]
) -> Mapping[str, T] | None:
    """The table with what is told of these models now; None where that is what it holds already."""
    rows = {uid: now(uid) for uid in changed}
    if all(before.get(uid) == row for uid, row in rows.items()):
        return None
    after = dict(before)
    for uid, row in rows.items():
        if row is None:
            after.pop(uid, None)
        else:
            after[uid] = row
    return after
