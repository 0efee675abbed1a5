"""What an ingress counts while a new version of a model is on trial, and tells the supervisor now and then.

A request that the new version fails is asked again of the old one. It counts against the new one if the old one answers
it, and against nobody if that fails it as well: then its caller is to blame.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from cluster import errors
from cluster.routes import ModelRoutes
from cluster.status import WorkerName
from cluster.tally import CanaryTally, Counting
from deployments.ingress.routing import RouteTable

log = logging.getLogger("cluster.ingress")

#: How often the supervisor is told.
TELL_S = 1.0
#: What a version cannot help: it is full, or about to go.
NO_FAULT = (
    errors.Overloaded,
    errors.WorkerDraining,
    errors.WorkerReserved,
    errors.ModelLoading,
    errors.RequestCancelled,
)


@dataclass
class Compared:
    """Of one model: the version on trial and the old one."""

    canary: Counting = field(default_factory=Counting)
    stable: Counting = field(default_factory=Counting)


class CanaryCounts:
    def __init__(self, table: RouteTable, tell: Callable[[Sequence[CanaryTally]], Awaitable[None]]) -> None:
        self._table = table
        self._tell = tell
        #: By the uid of the model and the generation on trial; empty while none is.
        self._counts: dict[tuple[str, int], Compared] = {}
        self._has_news = False
        self._telling: asyncio.Task[None] | None = None

    def goes_back(self, model: ModelRoutes, worker: str, error: errors.ClusterError) -> bool:
        """Whether a request that failed is to be asked again of the old version."""
        # Without time left the old one could only refuse it.
        if worker not in model.canary or isinstance(error, (*NO_FAULT, errors.DeadlineExceeded)):
            return False
        return self._table.is_usable(model, model.canary)

    def answered(self, model: ModelRoutes, worker: str, seconds: float | None, was_failed: bool) -> None:
        """`seconds`: None where nothing was computed. `was_failed`: by the version on trial, before."""
        if (compared := self._of(model)) is None:
            return
        (compared.canary if worker in model.canary else compared.stable).answered(seconds)
        if was_failed:
            compared.canary.failed()

    def failed(self, model: ModelRoutes, worker: str, error: errors.ClusterError) -> None:
        """The caller gets this error, or the worker is asked no more."""
        if error.status < 500 or isinstance(error, NO_FAULT) or (compared := self._of(model)) is None:
            return
        (compared.canary if worker in model.canary else compared.stable).failed()

    @contextmanager
    def told_of(self, uid: str, worker: str) -> Iterator[None]:
        """Of an answer that breaks off when some of it has been told, so that nobody else can be asked."""
        try:
            yield
        except errors.ClusterError as error:
            if (model := self._table.models.get(uid)) is not None:
                self.failed(model, worker, error)
            raise

    def _of(self, model: ModelRoutes) -> Compared | None:
        if not model.canary or (name := WorkerName.parse(model.canary[0])) is None:
            return None
        self._has_news = True
        if self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._tell_news(), name="canaries")
        return self._counts.setdefault((name.uid, name.generation), Compared())

    async def _tell_news(self) -> None:
        """Until no version is on trial any more."""
        while self._counts:
            await asyncio.sleep(TELL_S)
            if self._has_news:
                self._has_news = False
                await self._tell_now()
            self._counts = {key: compared for key, compared in self._counts.items() if self._is_on_trial(*key)}
        self._telling = None

    async def _tell_now(self) -> None:
        tallies = [
            CanaryTally(uid, generation, compared.canary.so_far, compared.stable.so_far)
            for (uid, generation), compared in self._counts.items()
        ]
        try:
            await self._tell(tallies)
        except errors.ClusterError as error:
            # What is told next includes it.
            self._has_news = True
            log.info("the supervisor was not told how a canary does: %s", error)

    def _is_on_trial(self, uid: str, generation: int) -> bool:
        """A worker of it may be missing for a while."""
        model = self._table.models.get(uid)
        if model is None or not model.canary_share:
            return False
        names = [WorkerName.parse(worker) for worker in model.canary]
        return not names or any(name is not None and name.generation == generation for name in names)
