"""The workers of a fleet by name, by model and by node: a question about one of these looks at no others."""

from __future__ import annotations

from collections.abc import Collection, Iterator, MutableMapping

from cluster.control.lifecycle import WorkerRecord


class Workers(MutableMapping[str, WorkerRecord]):
    def __init__(self) -> None:
        self._by_name: dict[str, WorkerRecord] = {}
        self._by_model: dict[str, dict[str, WorkerRecord]] = {}
        self._by_node: dict[str, dict[str, WorkerRecord]] = {}
        #: Models and nodes whose workers have changed since these were last cleared.
        self.changed_models: set[str] = set()
        self.changed_nodes: set[str] = set()

    def of(self, uid: str) -> Collection[WorkerRecord]:
        return self._by_model.get(uid, {}).values()

    def on(self, node: str) -> Collection[WorkerRecord]:
        return self._by_node.get(node, {}).values()

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
        self.changed_models.add(worker.name.uid)
        self.changed_nodes.add(worker.node)

    def __delitem__(self, name: str) -> None:
        worker = self._by_name.pop(name)
        siblings = self._by_model[worker.name.uid]
        del siblings[name]
        if not siblings:
            del self._by_model[worker.name.uid]
        self._leave_node(name, worker.node)
        self.changed_models.add(worker.name.uid)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def _leave_node(self, name: str, node: str) -> None:
        neighbours = self._by_node[node]
        del neighbours[name]
        if not neighbours:
            del self._by_node[node]
        self.changed_nodes.add(node)
