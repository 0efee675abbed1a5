"""The workers of a fleet by name, by model and by node: a question about one of these looks at no others.

What is asked of all of them is kept up to date with each change: what they hold of each node, which are not READY, and
of which models something has changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, MutableMapping
from dataclasses import replace

from cluster.control.held import NOTHING, Held
from cluster.control.lifecycle import HOLDS_CLAIM, WorkerRecord
from cluster.status import Report, WorkerState


class Workers(MutableMapping[str, WorkerRecord]):
    def __init__(self) -> None:
        self._by_name: dict[str, WorkerRecord] = {}
        self._by_model: dict[str, dict[str, WorkerRecord]] = {}
        self._by_node: dict[str, dict[str, WorkerRecord]] = {}
        #: Models of which something else can be told, and which have to be planned anew, since these were last cleared.
        self.untold: set[str] = set()
        self.unplanned: set[str] = set()
        #: Nodes whose workers have changed since this was last cleared.
        self.changed_nodes: set[str] = set()
        #: Whether some may hold other cards since this was last cleared.
        self.cards_changed = True
        #: What the workers of each node hold of it.
        self.held: dict[str, Held] = {}
        #: All that are not READY; only they can stay in a state for too long.
        self.unsteady: dict[str, WorkerRecord] = {}

    def of(self, uid: str) -> Collection[WorkerRecord]:
        return self._by_model.get(uid, {}).values()

    def on(self, node: str) -> Collection[WorkerRecord]:
        return self._by_node.get(node, {}).values()

    def nodes(self) -> Collection[str]:
        """All that have workers."""
        return self._by_node

    def touch(self, *uids: str) -> None:
        """Something has changed about these models."""
        self.untold.update(uids)
        self.unplanned.update(uids)

    def __getitem__(self, name: str) -> WorkerRecord:
        return self._by_name[name]

    def __setitem__(self, name: str, worker: WorkerRecord) -> None:
        before = self._by_name.get(name)
        if before is not None:
            if before == worker:
                return
            if before.node != worker.node:
                self._leave_node(name, before.node)
        self._by_name[name] = worker
        self._by_model.setdefault(worker.name.uid, {})[name] = worker
        self._by_node.setdefault(worker.node, {})[name] = worker
        self._count(before, worker)
        if worker.state == WorkerState.READY:
            self.unsteady.pop(name, None)
        else:
            self.unsteady[name] = worker
        self.touch(worker.name.uid)
        self.changed_nodes.add(worker.node)

    def hear_load(self, name: str, report: Report) -> bool:
        """Takes a report in which nothing but the load of a READY worker is new: nothing else follows from that, and
        busy workers report it often. False where there is more."""
        before = self._by_name[name]
        if before.state != WorkerState.READY or replace(before.report, load=report.load) != report:
            return False
        after = replace(before, report=report)
        for workers in (self._by_name, self._by_model[after.name.uid], self._by_node[after.node]):
            workers[name] = after
        return True

    def __delitem__(self, name: str) -> None:
        worker = self._by_name.pop(name)
        siblings = self._by_model[worker.name.uid]
        del siblings[name]
        if not siblings:
            del self._by_model[worker.name.uid]
        self._leave_node(name, worker.node)
        self._count(worker, None)
        if worker.node not in self._by_node:
            self.held.pop(worker.node, None)
        self.unsteady.pop(name, None)
        self.touch(worker.name.uid)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def _count(self, before: WorkerRecord | None, after: WorkerRecord | None) -> None:
        old = (before.node, before.claim) if before is not None and before.state in HOLDS_CLAIM else None
        new = (after.node, after.claim) if after is not None and after.state in HOLDS_CLAIM else None
        if old == new:
            return
        self.cards_changed |= any(each is not None and each[1].cards for each in (old, new))
        if old is not None:
            node, claim = old
            self.held[node] = self.held[node].minus(claim)
        if new is not None:
            node, claim = new
            self.held[node] = self.held.get(node, NOTHING).plus(claim)

    def _leave_node(self, name: str, node: str) -> None:
        neighbours = self._by_node[node]
        del neighbours[name]
        if not neighbours:
            del self._by_node[node]
        self.changed_nodes.add(node)
