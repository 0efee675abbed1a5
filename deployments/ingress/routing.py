"""Which worker gets the next call: least work in flight, counted here, on the last table that was seen.

Knows nothing of actors; whoever sends the calls takes a worker with `choose` and cannot forget to give it back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from cluster import errors
from cluster.keys import Key
from cluster.names import cut, nearest
from cluster.routes import ModelRoutes, Route
from cluster.status import ModelState

LOADING_RETRY_S = 30.0
FULL_RETRY_S = 1.0
#: Models that a message names.
NAMED = 5


@dataclass
class RouteTable:
    models: Mapping[str, ModelRoutes] = field(default_factory=dict)
    version: int = -1
    in_flight: dict[str, int] = field(default_factory=dict)
    #: What workers said of their queues; other ingresses' work shows here.
    queued: dict[str, int] = field(default_factory=dict)
    #: Workers seen to be dead or draining before the next table says so.
    avoided: set[str] = field(default_factory=set)
    _turn: int = 0

    def update(self, version: int, models: Mapping[str, ModelRoutes]) -> bool:
        """Takes a newer table; an older one that arrives late is dropped."""
        if version <= self.version:
            return False
        self.version, self.models = version, models
        listed = {route.worker for model in models.values() for route in model.workers}
        self.avoided &= listed
        self.queued = {worker: n for worker, n in self.queued.items() if worker in listed}
        return True

    def visible(self, key: Key | None) -> Mapping[str, ModelRoutes]:
        """The models that this key may know of."""
        if key is None or key.models is None:
            return self.models
        return {uid: self.models[uid] for uid in key.models if uid in self.models}

    def able(self, key: Key | None, abilities: Collection[str]) -> list[ModelRoutes]:
        """The models with any of these abilities that this key may know of, by uid."""
        models = (model for _, model in sorted(self.visible(key).items()))
        return [model for model in models if not set(abilities).isdisjoint(model.abilities)]

    def find(self, model: str | None, ability: str = "", key: Key | None = None) -> ModelRoutes:
        """The model of that uid, name or hub id; without a name, the only one that can do what is asked. A key
        learns nothing of models that it is not for, not even whether they exist."""
        if self.version < 0:
            raise errors.Unavailable(
                "This ingress was just started and does not know the models yet; try again.", retry_after_s=1.0
            )
        models = self.visible(key)
        if model:
            match = models.get(model) or _by_alias(models, model, ability)
            if match is None:
                raise _unknown(model, sorted(models), is_limited=models is not self.models)
        else:
            able = [m for m in models.values() if not ability or ability in m.abilities]
            if len(able) != 1:
                can, names = f"can {cut(ability) or 'serve it'}", _few(sorted(m.uid for m in able))
                raise errors.BadRequest(
                    f"The request names no model and {len(able)} running models {can}: {names}.",
                    "model",
                )
            match = able[0]
        if ability and ability not in match.abilities:
            raise errors.BadRequest(
                f"Model {match.uid} cannot {cut(ability)}; it can {', '.join(match.abilities)}.", "model"
            )
        return match

    def is_usable(self, model: ModelRoutes, avoiding: Collection[str] = ()) -> bool:
        return any(r.worker not in avoiding and r.worker not in self.avoided for r in model.workers)

    @contextmanager
    def choose(self, model: ModelRoutes, avoiding: Collection[str] = ()) -> Iterator[Route]:
        """The worker with the least work; raises what a caller should see when there is none."""
        routes = [r for r in model.workers if r.worker not in avoiding and r.worker not in self.avoided]
        if not routes:
            raise self.why_not(model)
        open_routes = [r for r in routes if r.limit is None or self.in_flight.get(r.worker, 0) < r.limit]
        if not open_routes:
            raise errors.Overloaded(
                f"Rate limit reached for the model: {model.uid} takes {routes[0].limit} requests at once per replica.",
                retry_after_s=FULL_RETRY_S,
            )
        self._turn += 1
        route = min(
            (open_routes[(i + self._turn) % len(open_routes)] for i in range(len(open_routes))),
            key=lambda r: max(self.in_flight.get(r.worker, 0), self.queued.get(r.worker, 0)),
        )
        self.in_flight[route.worker] = self.in_flight.get(route.worker, 0) + 1
        try:
            yield route
        finally:
            left = self.in_flight[route.worker] - 1
            if left:
                self.in_flight[route.worker] = left
            else:
                del self.in_flight[route.worker]

    @staticmethod
    def why_not(model: ModelRoutes) -> errors.ClusterError:
        reason = f": {model.reason}" if model.reason else "."
        if model.state == ModelState.FAILED:
            return errors.Unavailable(f"Model {model.uid} could not be loaded{reason}")
        if model.recovering:
            return errors.WorkerLost(
                f"Model {model.uid} has no worker at the moment and is being restarted{reason}", retry_after_s=5.0
            )
        return errors.ModelLoading(
            f"Model is loading, please retry later: {model.uid}{reason}", retry_after_s=LOADING_RETRY_S
        )


def _by_alias(models: Mapping[str, ModelRoutes], name: str, ability: str) -> ModelRoutes | None:
    wanted = name.lower()
    matches = [m for m in models.values() if wanted in m.aliases or m.uid.lower() == wanted]
    able = [m for m in matches if not ability or ability in m.abilities]
    return min(able or matches, key=lambda m: m.uid, default=None)


def _unknown(name: str, uids: Sequence[str], *, is_limited: bool) -> errors.ClusterError:
    if is_limited:
        text = f"API key does not have access to model: {cut(name)}. It is for models such as {_few(uids)}"
        return errors.NotPermitted(text, "model")
    text = f"Model not found in the model list, uid: {cut(name)}."
    if len(uids) > NAMED:
        near = nearest(name, uids, NAMED, 0.5) or uids[:NAMED]
        return errors.ModelNotFound(f"{text} The nearest of {len(uids)} model uids: {near}", "model")
    return errors.ModelNotFound(f"{text} Available model uids: {uids}", "model")


def _few(uids: Sequence[str]) -> str:
    return f"{list(uids)}" if len(uids) <= NAMED else f"{list(uids[:NAMED])} and {len(uids) - NAMED} more"
