"""Looks up what a launch means: the model it names, its source, and how much memory it would take where."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NotRequired, TypeVar, TypeVarTuple

from typing_extensions import TypedDict

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.control.fitting import Fit
from cluster.launch import LaunchSpec, Wanted
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from cluster.value import JsonObject
from cluster.weights.memory import MemoryPlan
from cluster.worker.planning import plan_of
from deployments import catalog_with, resolve
from deployments.ingress.xinference import own_type
from deployments.smaller import Variant, as_options, smaller

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")

#: Launches that are looked up at once, and those that wait for it.
MOST_LOOKUPS = 256
_threads = ThreadPoolExecutor(4, "lookup")
_places = threading.BoundedSemaphore(MOST_LOOKUPS)


class Rung(TypedDict):
    """A smaller launch: what to change, and what it would claim then."""

    changes: JsonObject
    claim_bytes: int
    card_bytes: int
    fits: bool


class Plan(TypedDict):
    """How a launch would use memory, and what would make it smaller."""

    components: list[JsonObject]
    activation_bytes: int
    fixed_bytes: int
    spare_bytes: int
    #: Of the card, or of main memory without one.
    peak_bytes: int
    advice: str


class FitBody(TypedDict):
    """Whether a launch would fit, or why not; what it would claim, and where."""

    fits: bool
    reason: str
    nodes: list[str]
    #: Models that would go to sleep for it, or give a replica back.
    gives_way: NotRequired[list[str]]
    #: Of main memory, for each replica.
    claim_bytes: int
    #: Of its card, for each replica.
    card_bytes: int
    #: The most that a replica could claim now, of a card where it would get one.
    room_bytes: int | None
    #: What such launches were measured to take: the claim is never less.
    measured: NotRequired[JsonObject]
    plan: NotRequired[Plan]
    #: Where it does not fit: smaller launches, the least harmful change first.
    ladder: NotRequired[list[Rung]]


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


async def fit_of(wanted: Wanted, supervisor: SupervisorClient, settings: Settings) -> FitBody:
    """What a dry run answers: the claim that the launch would make, on the node that it would be placed on."""
    fit = await supervisor.could_launch(wanted)
    ladder = await _ladder(wanted, fit, supervisor, settings) if fit.reason else []
    plan = fit.plan or await looked_up(_own_plan, wanted, settings, fit.on_card)
    body: FitBody = {
        "fits": not fit.reason,
        "reason": fit.reason,
        "nodes": list(fit.nodes),
        "claim_bytes": fit.needs.memory_bytes,
        "card_bytes": fit.needs.card_bytes,
        "room_bytes": fit.room_bytes,
    }
    if fit.gives_way:
        body["gives_way"] = list(fit.gives_way)
    if fit.peak is not None:
        body["measured"] = {**fit.peak.needs.model_dump(), "at": fit.peak.measured}
    if plan is not None:
        body["plan"] = _plan_body(plan, sentence_of(wanted.uid, fit, ladder))
    if ladder:
        body["ladder"] = ladder
    return body


async def _ladder(wanted: Wanted, fit: Fit, supervisor: SupervisorClient, settings: Settings) -> list[Rung]:
    catalog = await current_catalog(supervisor, settings)
    variants = await looked_up(smaller, wanted, catalog, settings, fit.on_card)
    fits = await supervisor.would_fit([variant.wanted for variant in variants])
    return [_rung(variant, its_fit) for variant, its_fit in zip(variants, fits, strict=True)]


def _own_plan(wanted: Wanted, settings: Settings, on_card: bool) -> MemoryPlan | None:
    """By the weights on this machine, for which the launch was resolved."""
    return plan_of(wanted, settings, on_card=on_card)


def _rung(variant: Variant, fit: Fit) -> Rung:
    return {
        "changes": variant.changes,
        "claim_bytes": fit.needs.memory_bytes,
        "card_bytes": fit.needs.card_bytes,
        "fits": not fit.reason,
    }


def _plan_body(plan: MemoryPlan, advice: str) -> Plan:
    return {
        "components": [
            {
                "component": part.slot,
                "class": part.kind,
                "dtype": part.dtype,
                "quantization": part.quantization,
                "bytes": part.bytes,
                "lives_on": part.lives_on,
            }
            for part in plan.parts
        ],
        "activation_bytes": plan.activation_bytes,
        "fixed_bytes": plan.fixed_bytes,
        "spare_bytes": plan.spare_bytes,
        "peak_bytes": plan.peak_bytes,
        "advice": advice,
    }


def sentence_of(uid: str, fit: Fit, ladder: Sequence[Rung]) -> str:
    """What it needs beside what there is, and if it does not fit, the first change with which it does."""
    needed = fit.needs.card_bytes if fit.on_card else fit.needs.memory_bytes
    needs = f"{uid} needs {gibibytes(needed)}"
    if fit.room_bytes is None or (fit.reason and needed <= fit.room_bytes):
        return f"{needs}."
    where = "a card" if fit.on_card else "main memory"
    room = f"{where} has {gibibytes(fit.room_bytes)} for it"
    if fit.gives_way:
        return f"{needs}, and {room} once other models sleep."
    if not fit.reason:
        return f"{needs}, and {room}."
    first = next((rung for rung in ladder if rung["fits"]), None)
    if first is None:
        return f"{needs}, {room}, and no option makes it fit: take a smaller model."
    less = gibibytes(first["card_bytes"] or first["claim_bytes"])
    return f"{needs}, and {room}; with {as_options(first['changes'])} it needs {less}."


def gibibytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
