"""Who is to blame when workers die, hang or fail: keeps one ingress's account of it, and tells the supervisor.

A worker that is to blame gets no calls until the supervisor has replaced it or it computes again. A call that may be to
blame is tried at a worker that does nothing else meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cluster import errors
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.runtime.worker_client import WorkerClient
from cluster.status import WorkerName
from cluster.suspicion import Suspicion
from deployments.ingress.routing import RouteTable
from deployments.ingress.worker_queue import Sent

log = logging.getLogger("cluster.ingress")

#: How long a worker that failed a call may take to compute its example; whoever got the error waits for that.
EXAMPLE_S = 3.0
#: How often a worker that failed its example is asked for it again.
AGAIN_S = 1.0


@dataclass(frozen=True)
class FailedCall:
    id: str
    fingerprint: str
    is_long: bool
    #: The worker had nothing else to do: it was a suspect before.
    was_alone: bool


@dataclass
class ExampleTrial:
    """Of a worker that failed a call: does it fail its own example as well?"""

    #: The ids of the calls of which one may have broken it, other ingresses' among them; none if it went away before it
    #: could be asked, and None if it is sound.
    verdict: asyncio.Future[Collection[str] | None]
    #: The calls of this ingress that it has failed or still has, by their ids.
    calls: dict[str, tuple[str, bool]] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None

    def add(self, id: str, fingerprint: str, is_long: bool) -> None:
        self.calls[id] = fingerprint, is_long


class Blame:
    def __init__(self, table: RouteTable, supervisor: SupervisorClient, announce: Callable[[], None]) -> None:
        """`announce` wakes the requests that wait for a worker."""
        self._table = table
        self._supervisor = supervisor
        self._announce = announce
        #: By uid, for models whose workers died lately.
        self._suspicions: dict[str, Suspicion] = {}
        #: By worker; empty as long as nothing fails.
        self._trials: dict[str, ExampleTrial] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    # ------------------------------------------------------------------------------------ calls

    def suspicion_of(self, uid: str) -> Suspicion | None:
        """None while no call of the model is suspected, which is nearly always."""
        suspicion = self._suspicions.get(uid)
        if suspicion is not None and suspicion.is_over(self._now()):
            del self._suspicions[uid]
            return None
        return suspicion

    def clear(self, uid: str, fingerprint: Callable[[], str]) -> None:
        """An answer, even an error, shows that the request did not end its worker."""
        suspicion = self._suspicions.get(uid)
        if suspicion is not None:
            suspicion.answered(fingerprint())

    def remember(self, poison: Iterable[tuple[str, str]]) -> None:
        """What other ingresses have found, by the uid of the model."""
        for uid, fingerprint in poison:
            self._suspicions.setdefault(uid, Suspicion()).remember(fingerprint, self._now())

    def _died_alone(self, uid: str, worker: str, poison: str) -> None:
        ended = self._suspicions.setdefault(uid, Suspicion()).died_alone(worker, poison, self._now())
        log.error("a request to %s ended %s and is refused from now on", uid, ", ".join(ended))
        self._tell_supervisor("a poisonous request", self._supervisor.poisoned(uid, poison, ended))

    # ------------------------------------------------------------------------------------ workers

    def see_death(self, worker: str, sent: Sequence[Sent]) -> None:
        """A worker died with these calls."""
        name = WorkerName.parse(worker)
        if name is None:
            return
        alone = next((each for each in sent if each.is_alone), None)
        if alone is not None:
            self._died_alone(name.uid, worker, alone.fingerprint)
        else:
            self._suspect(name.uid, worker, [(each.fingerprint, each.is_long) for each in sent])

    def _suspect(self, uid: str, worker: str, calls: Collection[tuple[str, bool]]) -> None:
        """`calls`: the fingerprint of each, and whether it is long."""
        suspects, are_short = {fingerprint for fingerprint, _ in calls}, not any(is_long for _, is_long in calls)
        self._suspicions.setdefault(uid, Suspicion()).died(worker, suspects, self._now(), are_short)

    def see_silence(self, worker: str, is_silent: bool) -> None:
        if is_silent:
            log.warning("%s has work and answers nothing; its calls go elsewhere", worker)
            self._table.avoided.add(worker)
            self._tell_supervisor("a silent worker", self._supervisor.suspect(worker))
        else:
            self._table.avoided.discard(worker)
            self._announce()

    def see_overdue(self, worker: str, sent: Sequence[Sent]) -> bool:
        """A worker computes for much longer than is usual, and these calls with it. True when all calls that it has are
        to be asked elsewhere: those with which it hangs alone, as if it had died with them."""
        name = WorkerName.parse(worker)
        if name is None:
            return False
        if worker not in self._table.overdue:
            log.warning("%s computes for much longer than is usual; its calls go elsewhere, where they can", worker)
            self._table.overdue.add(worker)
        model = self._table.models.get(name.uid)
        if model is None or not self._table.is_usable(model, self._table.overdue):
            return False
        self._suspect(name.uid, worker, [(each.fingerprint, each.is_long) for each in sent])
        return True

    def see_in_time(self, worker: str) -> None:
        """It was only slow."""
        name = WorkerName.parse(worker)
        if name is not None and name.uid in self._suspicions:
            self._suspicions[name.uid].survived(worker)
        self._table.overdue.discard(worker)
        self._announce()

    def forget(self, worker: str) -> None:
        """It is not in the table any more."""
        name, trial = WorkerName.parse(worker), self._trials.pop(worker, None)
        if name is not None and trial is not None:
            self._went_away(name, worker, trial)
            if trial.task is not None:
                trial.task.cancel()

    # ------------------------------------------------------------------------------------ workers that fail

    async def lets_go_on(
        self,
        error: errors.ClusterError,
        worker: str,
        client: WorkerClient,
        failed: FailedCall,
        others: Iterable[Sent],
    ) -> bool:
        """Whether a call that ended like this is to be asked elsewhere."""
        if isinstance(error, errors.InferenceFailed):
            return await self.is_worker_to_blame(worker, client, failed, others)
        return error.retryable

    async def is_worker_to_blame(
        self, worker: str, client: WorkerClient, failed: FailedCall, others: Iterable[Sent]
    ) -> bool:
        """Whether a call that failed is to be asked elsewhere: its worker fails its own example too.

        One of the calls that the worker had may have broken it. If they are few, each is tried alone, and the one that
        breaks another worker is refused from then on. If the worker had a single one, of whichever ingress, that keeps
        its error: asked elsewhere, it would most likely break the next.
        """
        name = WorkerName.parse(worker)
        if name is None:
            return False
        trial = self._trials.get(worker)
        if trial is None:
            trial = ExampleTrial(asyncio.get_running_loop().create_future())
            self._trials[worker] = trial
            for other in others:
                trial.add(other.call.id, other.fingerprint, other.is_long)
            trial.task = asyncio.ensure_future(self._try(name, worker, client, trial))
        trial.add(failed.id, failed.fingerprint, failed.is_long)
        suspects = await asyncio.shield(trial.verdict)
        if suspects is None:
            return False
        if failed.id not in suspects:
            return True
        if failed.was_alone:
            self._died_alone(name.uid, worker, failed.fingerprint)
            return True
        return len(suspects) > 1

    async def _try(self, name: WorkerName, worker: str, client: WorkerClient, trial: ExampleTrial) -> None:
        try:
            suspects = await client.failing(EXAMPLE_S)
            if suspects is not None:
                await self._avoid(name, worker, client, trial, suspects)
        except errors.WorkerLost:
            self._went_away(name, worker, trial)
        except errors.ClusterError as error:
            log.info("%s failed a call and could not be asked for its example: %s", worker, error)
        finally:
            if self._trials.get(worker) is trial:
                del self._trials[worker]
            if not trial.verdict.done():
                trial.verdict.set_result(None)

    def _went_away(self, name: WorkerName, worker: str, trial: ExampleTrial) -> None:
        """It is being replaced, most likely because another ingress told of it. Its calls are asked elsewhere, as if it
        had died with them: they may only have been beside the one that broke it."""
        if not trial.verdict.done():
            self._suspect(name.uid, worker, trial.calls.values())
            trial.verdict.set_result(())

    async def _avoid(
        self, name: WorkerName, worker: str, client: WorkerClient, trial: ExampleTrial, suspects: Collection[str]
    ) -> None:
        """Until it computes again, or is not in the table any more."""
        log.warning("%s fails its own example; its calls go elsewhere", worker)
        self._table.avoided.add(worker)
        if len(suspects) > 1:
            self._suspect(name.uid, worker, [call for id, call in trial.calls.items() if id in suspects])
        trial.verdict.set_result(suspects)
        self._tell_supervisor("a failing worker", self._supervisor.suspect(worker))
        is_sound = False
        while not is_sound:
            await asyncio.sleep(AGAIN_S)
            # Not knowing is no reason to send it work.
            with suppress(errors.ClusterError):
                is_sound = await client.failing(EXAMPLE_S) is None
        log.info("%s computes its example again", worker)
        self._table.avoided.discard(worker)
        if name.uid in self._suspicions:
            self._suspicions[name.uid].survived(worker)
        self._announce()

    def _tell_supervisor(self, of_what: str, call: Coroutine[Any, Any, None]) -> None:
        async def tell() -> None:
            try:
                await call
            except errors.ClusterError as error:
                log.warning("the supervisor was not told of %s: %s", of_what, error)

        task = asyncio.ensure_future(tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
