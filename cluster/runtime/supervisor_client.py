"""The supervisor, called from an ingress or a command."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray

from cluster import errors
from cluster.catalog.entry import Entry
from cluster.control.changes import Change
from cluster.control.closed_nodes import NodeMark
from cluster.control.fitting import Fit
from cluster.control.growing import CardsWanted
from cluster.control.scaling import Bounds
from cluster.keys import Key
from cluster.launch import Wanted
from cluster.routes import Amendment, Snapshot
from cluster.runtime.actor_calls import SUPERVISOR, answer_of
from cluster.runtime.supervisor_calls import SupervisorCalls
from cluster.settings import Settings
from cluster.status import Claim, Event, EventQuery, ModelStatus, Node, ScaleNumbers, StatusNews
from cluster.tally import CanaryTally

Arguments = ParamSpec("Arguments")
T = TypeVar("T")
#: A call of the supervisor: one of `SupervisorCalls`' methods.
Method = Callable[Concatenate[SupervisorCalls, Arguments], Awaitable[T]]

#: How long one call may take; one that waits for news takes that wait longer.
CALL_S = 30.0
NEWS_S = 10.0
METRICS_S = 5.0
#: A patient call is repeated for so long while the supervisor restarts.
PATIENCE_S = 15.0
#: The same for the first question to a supervisor that Ray itself has just brought back.
ADOPTION_S = 30.0
RETRY_S = 0.3


class SupervisorClient(SupervisorCalls):
    """The supervisor, called from an ingress or a command. Ray finds it again when it was restarted elsewhere.

    Calls that may be made twice go through `_patiently`: they survive a restart of the supervisor. The others go
    through `_once`, because nobody knows whether the supervisor carried them out before it died; so do those whose
    caller tries again by itself or does without the answer.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    def find(cls, settings: Settings) -> SupervisorClient:
        try:
            return cls(ray.get_actor(SUPERVISOR, settings.namespace))
        except ValueError:
            raise errors.Unavailable("No supervisor runs; start a cluster with `cluster up`.") from None

    # ------------------------------------------------------------------------------------ may be made twice

    async def home(self) -> tuple[str, str, str]:
        return await self._patiently(ADOPTION_S, CALL_S, SupervisorCalls.home)

    async def snapshot(self) -> Snapshot:
        """The routing table as it is now."""
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.watch, -1, 5.0)

    async def status(self, uid: str, version: int | None = None, wait_s: float = 0.0) -> ModelStatus:
        if version is None:
            return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.status, uid)
        # Callers that wait for news ask again by themselves.
        return await self._once(wait_s + NEWS_S, SupervisorCalls.status, uid, version, wait_s)

    async def cards_wanted(self) -> list[CardsWanted]:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.cards_wanted)

    async def all_statuses(self) -> list[ModelStatus]:
        sent = await self.sent_statuses()
        # On a thread: with thousands of models it takes longer than any request should wait.
        return await asyncio.to_thread(lambda: [pickle.loads(status) for status in sent])

    async def sent_statuses(self) -> list[bytes]:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.sent_statuses)

    async def events(self, uid: str) -> list[Event]:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.events, uid)

    async def recent_events(self, query: EventQuery) -> list[Event]:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.recent_events, query)

    async def logs(self, uid: str, lines: int) -> list[str]:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.logs, uid, lines)

    async def worker_logs(self, uid: str, lines: int) -> dict[str, list[str]]:
        return await self._once(CALL_S, SupervisorCalls.worker_logs, uid, lines)

    async def nodes(self) -> list[tuple[Node, Claim, int]]:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.nodes)

    async def mark_node(self, node: str, mark: NodeMark) -> Node:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.mark_node, node, mark)

    async def uptime(self) -> float:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.uptime)

    async def free_bytes(self) -> int | None:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.free_bytes)

    async def launch(self, wanted: Wanted, uid_given: bool, disk: str = "", /) -> ModelStatus:
        disk = disk or _own_node()
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.launch, wanted, uid_given, disk)

    async def could_launch(self, wanted: Wanted, disk: str = "", /) -> Fit:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.could_launch, wanted, disk or _own_node())

    async def would_fit(self, variants: Sequence[Wanted], /) -> list[Fit]:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.would_fit, variants)

    async def doze(self, uid: str) -> ModelStatus:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.doze, uid)

    async def keep(self, uid: str, sleep_s: float) -> None:
        await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.keep, uid, sleep_s)

    async def left_s(self) -> dict[str, float | None]:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.left_s)

    async def sleep(self, uid: str) -> ModelStatus:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.sleep, uid)

    async def wake(self, uid: str) -> ModelStatus:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.wake, uid)

    async def scale(self, uid: str, replica: int | None, bounds: Bounds | None = None) -> ModelStatus:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.scale, uid, replica, bounds)

    async def scale_of(self, uid: str) -> ScaleNumbers:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.scale_of, uid)

    async def apply(self, declared: Sequence[Wanted], prune: bool, dry_run: bool) -> list[Change]:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.apply, declared, prune, dry_run)

    async def registered(self) -> list[Entry]:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.registered)

    async def all_keys(self) -> list[Key]:
        return await self._patiently(PATIENCE_S, CALL_S, SupervisorCalls.all_keys)

    # ------------------------------------------------------------------------------------ are made once

    async def terminate(self, uid: str) -> None:
        await self._once(CALL_S, SupervisorCalls.terminate, uid)

    async def cancel(self, uid: str) -> None:
        await self._once(CALL_S, SupervisorCalls.cancel, uid)

    async def restart(self, uid: str, why: str) -> ModelStatus:
        return await self._once(CALL_S, SupervisorCalls.restart, uid, why)

    async def register(self, entry: Entry) -> None:
        await self._once(CALL_S, SupervisorCalls.register, entry)

    async def unregister(self, type: str, name: str) -> None:
        await self._once(CALL_S, SupervisorCalls.unregister, type, name)

    async def create_key(self, name: str, scopes: Iterable[str], models: Iterable[str] | None) -> tuple[Key, str]:
        return await self._once(CALL_S, SupervisorCalls.create_key, name, scopes, models)

    async def revoke_key(self, id: str) -> None:
        await self._once(CALL_S, SupervisorCalls.revoke_key, id)

    async def log_in(self, key_id: str) -> tuple[Key, str]:
        return await self._once(CALL_S, SupervisorCalls.log_in, key_id)

    async def log_out(self, digest: str) -> None:
        await self._once(CALL_S, SupervisorCalls.log_out, digest)

    async def watch(self, version: int, timeout_s: float) -> Snapshot:
        return await self._once(timeout_s + NEWS_S, SupervisorCalls.watch, version, timeout_s)

    async def changes(self, version: int, timeout_s: float) -> Snapshot | Amendment:
        return await self._once(timeout_s + NEWS_S, SupervisorCalls.changes, version, timeout_s)

    async def status_news(self, version: int, timeout_s: float) -> StatusNews:
        return await self._once(timeout_s + NEWS_S, SupervisorCalls.status_news, version, timeout_s)

    async def suspect(self, name: str) -> None:
        await self._once(CALL_S, SupervisorCalls.suspect, name)

    async def poisoned(self, uid: str, fingerprint: str, workers: Sequence[str]) -> None:
        await self._once(CALL_S, SupervisorCalls.poisoned, uid, fingerprint, workers)

    async def tallied(self, ingress: str, tallies: Sequence[CanaryTally]) -> None:
        await self._once(CALL_S, SupervisorCalls.tallied, ingress, tallies)

    async def metrics(self, ingress: str, own: bytes) -> list[bytes]:
        return await self._once(METRICS_S, SupervisorCalls.metrics, ingress, own)

    # ------------------------------------------------------------------------------------ the call itself

    async def _patiently(
        self,
        patience_s: float,
        timeout_s: float,
        method: Method[Arguments, T],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> T:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return await self._once(timeout_s, method, *args, **kwargs)
            except errors.Unavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_S)

    async def _once(
        self, timeout_s: float, method: Method[Arguments, T], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> T:
        try:
            # Ray knows an actor's methods by their names only.
            call = getattr(self._actor, method.__name__)
            answer: T = await answer_of(call.remote(*args, **kwargs), timeout_s)
            return answer
        except (errors.Unavailable, errors.WorkerLost):
            raise errors.Unavailable(
                "The control plane does not answer at the moment; models go on serving. Try again.", retry_after_s=5.0
            ) from None


def _own_node() -> str:
    return str(ray.get_runtime_context().get_node_id())
