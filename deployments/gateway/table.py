"""Which cell gets the next request: of those that have the model, the one with the least work for each of its workers.

Decides only; knows no sockets and no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from cluster import errors
from cluster.routes import ModelName, ModelRoutes, NameKind, Route
from cluster.status import ModelState
from cluster.value import JsonObject
from deployments.gateway.meaning import names_in
from deployments.ingress.routing import RouteTable


class CellTable:
    def __init__(self, cells: Sequence[str]) -> None:
        self.cells = tuple(cells)
        self.live: set[str] = set()
        self.in_flight: Counter[str] = Counter()
        #: By cell: what it last said of each of its models.
        self._models: dict[str, dict[str, JsonObject]] = {cell: {} for cell in cells}
        #: How many of them serve.
        self._serving: Counter[str] = Counter()
        self._names = RouteTable(version=0)
        #: Which of equals is asked first.
        self._turn = 0

    def take(self, cell: str, news: JsonObject) -> None:
        """All that a cell serves, or what has changed of it."""
        models = self._models[cell]
        rows = {row["uid"]: row for row in news["models"]}
        gone = news["gone"] if news["since"] is not None else [uid for uid in models if uid not in rows]
        models.update(rows)
        for uid in gone:
            models.pop(uid, None)
        self._serving[cell] = sum(1 for row in models.values() if row["workers"])
        self._index({*rows, *gone})

    def set_live(self, cell: str, is_live: bool) -> None:
        if is_live == (cell in self.live):
            return
        (self.live.add if is_live else self.live.discard)(cell)
        self._index(self._models[cell])

    def _index(self, uids: Collection[str]) -> None:
        changed = {uid: merged for uid in uids if (merged := self._merged(uid)) is not None}
        self._names.amend(self._names.version + 1, changed, [uid for uid in uids if uid not in changed])

    def _merged(self, uid: str) -> ModelRoutes | None:
        """The model as one that has the cells for its workers."""
        rows = {cell: models[uid] for cell, models in self._models.items() if uid in models}
        if not rows:
            return None
        names = {
            ModelName(text, NameKind(kind), weight): None
            for row in rows.values()
            for text, kind, weight in row["names"]
        }
        serving = tuple(Route(cell) for cell, row in rows.items() if row["workers"] and cell in self.live)
        return ModelRoutes(uid, (), serving, ModelState.READY, names=tuple(names))

    def uid_of(self, name: str | None, request_id: str) -> str | None:
        """The model that a cell would take that name for; None for a name that no model has, or several."""
        if name is None:
            return None
        try:
            return self._names.find(name, request=request_id).uid
        except errors.ClusterError:
            return None

    def uid_in_path(self, path: str, request_id: str) -> str | None:
        return next((uid for name in names_in(path) if (uid := self.uid_of(name, request_id))), None)

    def having(self, uid: str | None) -> list[str]:
        """The live cells that have the model, those where it serves first; without a model, all that live."""
        if uid is None:
            return [cell for cell in self.cells if cell in self.live]
        cells = [cell for cell in self.cells if cell in self.live and uid in self._models[cell]]
        return sorted(cells, key=lambda cell: not self._models[cell][uid]["workers"])

    def is_known(self, uid: str) -> bool:
        return any(uid in models for models in self._models.values())

    def order(self, uid: str | None, avoiding: Collection[str] = ()) -> list[str]:
        """The cells to ask, the best first: those where the model serves, and of those the least busy. A model that no
        live cell has is asked for in any: the cell says in its own words that it is not there."""
        cells = [cell for cell in self.having(uid) if cell not in avoiding]
        if not cells and uid is not None and not self.is_known(uid):
            return self.order(None, avoiding)
        first = self._turn % max(1, len(cells))
        turned = cells[first:] + cells[:first]
        return sorted(turned, key=lambda cell: self._burden(cell, uid))

    def _burden(self, cell: str, uid: str | None) -> tuple[bool, float, int]:
        models = self._models[cell]
        if uid is None:
            # Of cells that have the same models, the least busy.
            return False, -self._serving[cell], self.in_flight[cell]
        workers = models.get(uid, {}).get("workers", 0)
        return not workers, self.in_flight[cell] / max(1, workers), 0

    @contextmanager
    def counted(self, cell: str) -> Iterator[None]:
        """A request is in flight there."""
        self._turn += 1
        self.in_flight[cell] += 1
        try:
            yield
        finally:
            self.in_flight[cell] -= 1

    def rows(self) -> Mapping[str, JsonObject]:
        """For people, by cell."""
        return {
            cell: {
                "live": cell in self.live,
                "models": len(models),
                "serving": self._serving[cell],
                "in_flight": self.in_flight[cell],
            }
            for cell, models in self._models.items()
        }
