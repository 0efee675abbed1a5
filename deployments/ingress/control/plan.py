"""Looks up what a launch means: the model it names, its source, and how much memory it would take where."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NotRequired, TypeVar, TypeVarTuple

from typing_extensions import TypedDict

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.launch import LaunchSpec, Wanted
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from cluster.value import JsonObject
from deployments import Room, catalog_with, plan_of, resolve
from deployments.ingress.xinference import own_type

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")

#: Launches that are looked up at once, and those that wait for it.
MOST_LOOKUPS = 256
_threads = ThreadPoolExecutor(4, "lookup")
_places = threading.BoundedSemaphore(MOST_LOOKUPS)


class Fit(TypedDict):
    """Whether a launch would fit, or why not, and how it would use memory."""

    fits: bool
    reason: str
    claim_bytes: int
    plan: NotRequired[JsonObject]


async def looked_up(work: Callable[[*Arguments], R], *arguments: *Arguments) -> R:
    """Runs in one of a few threads kept for lookups: a folder that answers late must not hold up the threads that
    encode pictures."""
    if not _places.acquire(blocking=False):
        raise errors.Overloaded("Too many launches are looked up at once; ask again.", retry_after_s=5.0)
    try:
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(_threads, run, work, *arguments)
    finally:
        _places.release()


async def current_catalog(supervisor: SupervisorClient, settings: Settings) -> Catalog:
    """The catalogue with the models that were registered."""
    return catalog_with(await supervisor.registered(), settings)


async def resolved(spec: LaunchSpec, supervisor: SupervisorClient, settings: Settings) -> Wanted:
    """The launch with everything that follows from it; reads folders and the headers of files."""
    catalog = await current_catalog(supervisor, settings)
    type = own_type(spec.model_type, spec.model_name, catalog, settings)
    return await looked_up(resolve, spec.model_copy(update={"model_type": type}), catalog, settings)


async def fit_of(wanted: Wanted, supervisor: SupervisorClient, settings: Settings) -> Fit:
    """What a dry run answers."""
    reason = await supervisor.could_launch(wanted)
    plan = await _plan(wanted, supervisor, settings)
    fit: Fit = {"fits": not reason, "reason": reason, "claim_bytes": wanted.claim_bytes}
    if plan:
        fit["plan"] = plan
    return fit


async def _plan(wanted: Wanted, supervisor: SupervisorClient, settings: Settings) -> JsonObject | None:
    """How the model would use the card, or the node, with the most memory, if it had it to itself."""
    rows = await supervisor.nodes()
    nodes = [node for node, _, _ in rows]
    is_auto = wanted.spec.n_gpu == "auto"
    cards = [node.card_bytes or 0 for node in nodes if (node.auto_gpus if is_auto else node.gpus)]
    on_gpu = wanted.spec.n_gpu is not None and (not is_auto or bool(cards))
    sizes = cards if on_gpu else [node.memory_bytes for node in nodes]
    room = Room(on_gpu, max(sizes, default=0) or None)
    return await looked_up(plan_of, wanted, settings, room)
