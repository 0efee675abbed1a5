"""Which worker gets the next call: least work in flight, counted here, on the last table that was seen.

Knows nothing of actors; whoever sends the calls takes a worker with `choose` and cannot forget to give it back.
"""

from __future__ import annotations

import zlib
from bisect import insort
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from cluster import errors
from cluster.keys import Key, models_of, sees
from cluster.names import cut, likely, nearest
from cluster.routes import ModelRoutes, Namesake, Route, answers_to, meant
from cluster.status import ModelState
from deployments.ingress.affinity import Beginning, preferred

T = TypeVar("T", str, Namesake)

LOADING_RETRY_S = 30.0
FULL_RETRY_S = 1.0
#: The ability that every model has: to be there.
ANYTHING = ""
#: No name is longer.
MOST_CHARACTERS = 300
#: Models that went, whose going is remembered for those who ask what has changed.
MOST_GONE = 1000
#: Models that a message names.
NAMED = 5
#: An odd number; multiplied by it, numbers that lie close together are spread over all.
SPREAD = 2654435761


@dataclass
class RouteTable:
    models: dict[str, ModelRoutes] = field(default_factory=dict)
    version: int = -1
    in_flight: dict[str, int] = field(default_factory=dict)
    #: What workers said of their queues; other ingresses' work shows here.
    queued: dict[str, int] = field(default_factory=dict)
    #: Workers seen to be dead or draining before the next table says so.
    avoided: set[str] = field(default_factory=set)
    #: Workers that compute for much longer than is usual: they get calls where no other is left.
    overdue: set[str] = field(default_factory=set)
    #: Whether a name that nobody has means the only model that can do what is asked.
    any_name: bool = False
    #: Who answers to a name, and who can do what, in order.
    _namesakes: dict[str, list[Namesake]] = field(default_factory=dict)
    _able: dict[str, list[str]] = field(default_factory=dict)
    #: The version with which each model last changed, those that went among them, and since when that is known.
    _changed_in: dict[str, int] = field(default_factory=dict, compare=False)
    _known_since: int = field(default=-1, compare=False)
    _turn: int = 0

    def __post_init__(self) -> None:
        for model in self.models.values():
            self._index(None, model)

    def update(self, version: int, models: Mapping[str, ModelRoutes]) -> bool:
        """Takes a newer table as a whole; an older one that arrives late is dropped."""
        if version <= self.version:
            return False
        changed = {uid: model for uid, model in models.items() if self.models.get(uid) != model}
        self.amend(version, changed, [uid for uid in self.models if uid not in models])
        return True

    def amend(self, version: int, changed: Mapping[str, ModelRoutes], gone: Iterable[str] = ()) -> None:
        """Takes what is other than before in a newer table."""
        if self.version < 0 or len(self._changed_in) > 2 * len(self.models) + MOST_GONE:
            self._changed_in = dict.fromkeys(self.models, version)
            self._known_since = version
        self.version = version
        self._changed_in.update(dict.fromkeys((*changed, *gone), version))
        for uid in (*changed, *gone):
            before, after = self.models.get(uid), changed.get(uid)
            if after is not None:
                # In its old place, or the last one: models are listed in the order of their launches.
                self.models[uid] = after
            else:
                self.models.pop(uid, None)
            self._index(before, after)
            left = {route.worker for route in before.workers} if before else set()
            for worker in left - {route.worker for route in (after.workers if after else ())}:
                self.avoided.discard(worker)
                self.overdue.discard(worker)
                self.queued.pop(worker, None)

    def _index(self, before: ModelRoutes | None, after: ModelRoutes | None) -> None:
        """Most models differ from before in their workers only."""
        if before and after and (before.names, before.abilities) == (after.names, after.abilities):
            return
        for model, change in ((before, _left_out), (after, _put_in)):
            if model is not None:
                for text, namesake in answers_to(model):
                    change(self._namesakes, text, namesake)
                for ability in dict.fromkeys((ANYTHING, *model.abilities)):
                    change(self._able, ability, model.uid)

    def changed_since(self, version: int) -> list[str] | None:
        """The uids that changed or went after that version; None where that is not known."""
        if not self._known_since <= version <= self.version:
            return None
        return [uid for uid, since in self._changed_in.items() if since > version]

    def visible(self, key: Key | None) -> Mapping[str, ModelRoutes]:
        """The models that this key may know of."""
        uids = models_of(key)
        return self.models if uids is None else {uid: self.models[uid] for uid in uids if uid in self.models}

    def able(self, key: Key | None, abilities: Collection[str]) -> list[ModelRoutes]:
        """The models with any of these abilities that this key may know of, by uid."""
        uids = {uid for ability in abilities for uid in self._able.get(ability, ()) if sees(key, uid)}
        return [self.models[uid] for uid in sorted(uids)]

    def find(
        self, model: str | None, ability: str = ANYTHING, key: Key | None = None, request: str = ""
    ) -> ModelRoutes:
        """The model of that uid or name; without a name, the only one that can do what is asked. A key learns nothing
        of models that it is not for, not even whether they exist. `request`: its id, by which models that share a name
        share the requests, so that one request always gets the same."""
        if self.version < 0:
            raise errors.Unavailable(
                "This ingress was just started and does not know the models yet; try again.", retry_after_s=1.0
            )
        match = self._named(model, ability, key, request) if model else self._only(ability, key)
        if ability and ability not in match.abilities:
            raise errors.BadRequest(
                f"Model {match.uid} cannot {cut(ability)}; it can {', '.join(match.abilities)}.", "model"
            )
        return match

    def _named(self, name: str, ability: str, key: Key | None, request: str) -> ModelRoutes:
        model = self.models.get(name)
        if model is not None and sees(key, name):
            return model
        uids = meant(
            self._answering(name, key),
            lambda uid: not ability or ability in self.models[uid].abilities,
            lambda uid: self.is_usable(self.models[uid]),
            lambda: share_of(request),
        )
        if len(uids) == 1:
            return self.models[uids[0]]
        if uids:
            raise _several(name, uids, f", or launch them with aliases={cut(name)}=<weight> to share it")
        able = self.able(key, [ability]) if self.any_name else []
        if len(able) != 1:
            raise self._unknown(name, key)
        return able[0]

    def _answering(self, name: str, key: Key | None) -> list[Namesake]:
        return [n for n in self._namesakes.get(name[:MOST_CHARACTERS].lower(), ()) if sees(key, n.uid)]

    def uid_of(self, name: str, key: Key | None = None) -> str:
        """The uid of the model that is to be managed, which a shared name does not say. A name that no model has is
        left as it is: models that went are asked about by their uids, and new ones are not in the table at once."""
        if name in self.models:
            return name
        namesakes = self._answering(name, key)
        best = min((n.kind for n in namesakes), default=None)
        uids = [n.uid for n in namesakes if n.kind == best]
        if len(uids) > 1:
            raise _several(name, uids)
        return uids[0] if uids else name

    def _only(self, ability: str, key: Key | None) -> ModelRoutes:
        able = self.able(key, [ability])
        if len(able) != 1:
            can, uids = f"can {cut(ability) or 'serve it'}", _few([model.uid for model in able])
            raise errors.BadRequest(
                f"The request names no model and {len(able)} running models {can}: {uids}.",
                "model",
            )
        return able[0]

    def latest(self, model: ModelRoutes) -> ModelRoutes:
        """The same model in the last table."""
        if model.uid not in self.models:
            raise self._unknown(model.uid)
        return self.models[model.uid]

    def _unknown(self, name: str, key: Key | None = None) -> errors.ClusterError:
        visible = self.visible(key)
        if visible is self.models:
            return _unknown(name, self._able.get(ANYTHING, ()), is_limited=False)
        return _unknown(name, sorted(visible), is_limited=True)

    def is_usable(self, model: ModelRoutes, avoiding: Collection[str] = ()) -> bool:
        return any(r.worker not in avoiding and r.worker not in self.avoided for r in model.workers)

    @contextmanager
    def choose(
        self,
        model: ModelRoutes,
        avoiding: Collection[str] = (),
        beginning: Beginning | None = None,
        request: str = "",
    ) -> Iterator[Route]:
        """The worker with the least work, or the one that is preferred for a prompt with this beginning; raises what a
        caller should see when there is none. `request`: its id, which decides whether it gets a version on trial."""
        routes = [r for r in model.workers if r.worker not in avoiding and r.worker not in self.avoided]
        if not routes:
            raise self.why_not(model)
        open_routes = [r for r in routes if r.limit is None or self.in_flight.get(r.worker, 0) < r.limit]
        if not open_routes:
            raise errors.Overloaded(
                f"Rate limit reached for the model: {model.uid} takes {routes[0].limit} requests at once per replica.",
                retry_after_s=FULL_RETRY_S,
            )
        if model.canary:
            open_routes = of_version(request, model, open_routes)
        if beginning is not None and len(open_routes) > 1:
            worker = preferred(beginning(), {r.worker: self._load(r) for r in open_routes})
            route = next(r for r in open_routes if r.worker == worker)
        else:
            self._turn += 1
            turned = (open_routes[(i + self._turn) % len(open_routes)] for i in range(len(open_routes)))
            route = min(turned, key=self._load)
        with self.counted(route.worker):
            yield route

    def _load(self, route: Route) -> int:
        return max(self.in_flight.get(route.worker, 0), self.queued.get(route.worker, 0))

    @contextmanager
    def counted(self, worker: str) -> Iterator[None]:
        """A call is in flight there."""
        self.in_flight[worker] = self.in_flight.get(worker, 0) + 1
        try:
            yield
        finally:
            left = self.in_flight[worker] - 1
            if left:
                self.in_flight[worker] = left
            else:
                del self.in_flight[worker]

    @staticmethod
    def why_not(model: ModelRoutes) -> errors.ClusterError:
        reason = f": {model.reason}" if model.reason else "."
        if model.rests:
            text = f"Model {model.uid} is being woken, please retry later{reason}"
            return errors.ModelLoading(text, retry_after_s=model.wake_s or LOADING_RETRY_S)
        if model.state == ModelState.FAILED:
            return errors.Unavailable(f"Model {model.uid} could not be loaded{reason}")
        if model.recovering:
            return errors.WorkerLost(
                f"Model {model.uid} has no worker at the moment and is being restarted{reason}", retry_after_s=5.0
            )
        return errors.ModelLoading(
            f"Model is loading, please retry later: {model.uid}{reason}", retry_after_s=LOADING_RETRY_S
        )


def _put_in(index: dict[str, list[T]], key: str, item: T) -> None:
    insort(index.setdefault(key, []), item)


def _left_out(index: dict[str, list[T]], key: str, item: T) -> None:
    index[key].remove(item)
    if not index[key]:
        del index[key]


def _several(name: str, uids: Sequence[str], way_out: str = "") -> errors.ClusterError:
    return errors.BadRequest(
        f"{len(uids)} models answer to {cut(name)}: {_few(uids)}. Ask for one by its uid{way_out}.", "model"
    )


def share_of(request: str) -> float:
    """Where a request of that id falls, from 0 to 1."""
    return zlib.crc32(request.encode()) / 2**32


def of_version(request: str, model: ModelRoutes, routes: Sequence[Route]) -> list[Route]:
    """Those of the version that this request gets while a new one is on trial, or of the other where that has none."""
    # Not as names are shared: all requests of a name that is shared might get the same version then.
    is_new = zlib.crc32(request.encode()) * SPREAD % 2**32 < model.canary_share * 2**32
    of_its_own = [route for route in routes if (route.worker in model.canary) == is_new]
    return of_its_own or list(routes)


def _unknown(name: str, uids: Sequence[str], *, is_limited: bool) -> errors.ClusterError:
    if is_limited:
        text = f"API key does not have access to model: {cut(name)}. It is for models such as {_few(uids)}"
        return errors.NotPermitted(text, "model")
    text = f"Model not found in the model list, uid: {cut(name)}."
    if len(uids) > NAMED:
        near = nearest(name, likely(name, uids), NAMED, 0.5) or uids[:NAMED]
        return errors.ModelNotFound(f"{text} The nearest of {len(uids)} model uids: {list(near)}", "model")
    return errors.ModelNotFound(f"{text} Available model uids: {list(uids)}", "model")


def _few(uids: Sequence[str]) -> str:
    return f"{list(uids)}" if len(uids) <= NAMED else f"{list(uids[:NAMED])} and {len(uids) - NAMED} more"
