"""What the supervisor tells workers to do: to load, to finish what they have, how many cores to use."""

from __future__ import annotations

from cluster.control.fleet import Fleet
from cluster.control.lifecycle import WorkerRecord
from cluster.control.records import Records
from cluster.control.watching import Watch
from cluster.settings import Settings
from cluster.status import Node, WorkerName, WorkerState

S = WorkerState


class Orders:
    def __init__(self, fleet: Fleet, watch: Watch, records: Records, settings: Settings) -> None:
        self._fleet = fleet
        self._watch = watch
        self._records = records
        self._settings = settings
        #: The threads that each worker was last told to compute with.
        self._threads: dict[str, int] = {}

    def start(self, name: WorkerName, node: Node) -> None:
        epoch, threads, timeout_s = self._records.epoch, self._fleet.threads_on(node.id), self._settings.start_timeout_s
        where = (node.id, node.ip)
        self._watch.order(str(name), lambda handle: handle.start(epoch, where, threads, timeout_s=timeout_s))

    def drain(self, worker: WorkerRecord) -> None:
        epoch, timeout_s = self._records.epoch, self._settings.start_timeout_s
        self._watch.order(str(worker), lambda handle: handle.drain(epoch, timeout_s=timeout_s))

    def doze(self, worker: WorkerRecord) -> None:
        epoch, timeout_s = self._records.epoch, self._settings.start_timeout_s
        self._watch.order(str(worker), lambda handle: handle.doze(epoch, timeout_s=timeout_s))

    def rouse(self, worker: WorkerRecord) -> None:
        """It may compute with other threads than before."""
        self.forget(str(worker))
        self.start(worker.name, self._fleet.nodes[worker.node])

    def share_cores(self) -> None:
        """Tells each worker how many threads to compute with, when that has changed."""
        for node in self._fleet.take_changed_nodes():
            share = self._fleet.threads_on(node)
            for worker in self._fleet.workers.on(node):
                threads = int(worker.claim.cpus) or share
                if worker.state == S.READY and self._threads.get(str(worker)) != threads:
                    self._threads[str(worker)] = threads
                    self._set_threads(str(worker), threads)

    def forget(self, name: str) -> None:
        """It is not there any more."""
        self._threads.pop(name, None)

    def _set_threads(self, name: str, threads: int) -> None:
        epoch, timeout_s = self._records.epoch, self._settings.start_timeout_s
        self._watch.order(name, lambda handle: handle.set_threads(epoch, threads, timeout_s=timeout_s))
