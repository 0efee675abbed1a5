"""What can be told of a fleet: routes, statuses, and what is claimed on each node. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.control.canary import CanaryLimits, figures_of, next_of
from cluster.control.fleet import Fleet
from cluster.control.lifecycle import ALIVE, HOLDS_CLAIM, SERVES, WorkerRecord
from cluster.control.platform import Lease
from cluster.control.reconcile import Waiting
from cluster.control.rescaling import is_served, scale_status
from cluster.errors import ClusterError, DoesNotFit
from cluster.facts import SentFacts
from cluster.launch import Wanted
from cluster.routes import ModelName, ModelRoutes, NameKind, Route, ServedModel, WorkerAddress
from cluster.status import CanaryStatus, Claim, ModelState, ModelStatus, Node, WorkerState, WorkerStatus

S = WorkerState


def routes_of(fleet: Fleet) -> dict[str, ModelRoutes]:
    return {uid: model_routes_of(fleet, wanted) for uid, wanted in fleet.wanted.items()}


def model_routes_of(fleet: Fleet, wanted: Wanted) -> ModelRoutes:
    """Where ingresses may send work. A worker that does not answer a probe is used only when no other is left."""
    uid = wanted.uid
    serving = [] if fleet.resting.rests(uid) else [w for w in fleet.of(uid) if w.state in SERVES]
    usable = [w for w in serving if w.state == S.READY] or serving
    state, reason = state_of(fleet, wanted)
    canary = fleet.canaries.on_trial.get(uid)
    stable = fleet.canaries.serving(wanted)
    return ModelRoutes(
        uid=uid,
        abilities=stable.abilities,
        workers=tuple(_route(w, wanted.spec.request_limits) for w in usable),
        state=state,
        reason=reason,
        launched=_launched(stable, serving),
        facts=serving[0].report.facts if serving else fleet.resting.facts.get(uid, SentFacts()),
        names=names_of(wanted),
        recovering=uid in fleet.served and uid not in fleet.unreadable,
        waking=uid in fleet.resting.woken and not _has_no_room(fleet, uid),
        wake_s=fleet.resting.wake_s(uid),
        sleep_s=fleet.resting.limits_of(uid).sleep_s,
        canary=tuple(str(w) for w in usable if canary and w.name.generation == canary.generation),
        canary_share=canary.percent / 100 if canary else 0.0,
    )


def _has_no_room(fleet: Fleet, uid: str) -> bool:
    """Nobody can give way to it, so that waiting is in vain."""
    return uid in fleet.waiting and fleet.waiting[uid].code == DoesNotFit.code()


def names_of(wanted: Wanted) -> tuple[ModelName, ...]:
    """What a model answers to besides its uid, each name by its best kind."""
    entry, source = wanted.entry, wanted.source
    aliases = {alias.name.lower(): alias.weight for alias in wanted.spec.aliases}
    kinds = {name.lower(): NameKind.HUB for name in (source.id, *entry.hub_ids_of(source.size), *entry.aliases)}
    kinds |= {entry.name.lower(): NameKind.ENTRY, **dict.fromkeys(aliases, NameKind.ALIAS)}
    kinds.pop(wanted.uid.lower(), None)
    return tuple(ModelName(name, kind, aliases.get(name)) for name, kind in kinds.items())


def _route(worker: WorkerRecord, limit: int | None) -> Route:
    return Route(str(worker.name), limit, WorkerAddress(worker.node, worker.report.socket))


def state_of(fleet: Fleet, wanted: Wanted) -> tuple[ModelState, str]:
    """The state of a model, and why it is not READY."""
    if wanted.uid in fleet.resting.asleep:
        return ModelState.ASLEEP, fleet.resting.story(wanted.uid)
    if wanted.uid in fleet.resting.dozing:
        return ModelState.DOZING, fleet.resting.story(wanted.uid)
    workers = fleet.of(wanted.uid)
    wanted = fleet.canaries.serving(wanted)
    current = [w for w in workers if w.name.generation == wanted.generation]
    ready = sum(w.state in SERVES for w in current)
    if wanted.uid in fleet.unreadable:
        serves = any(w.state in SERVES for w in workers)
        return (ModelState.DEGRADED if serves else ModelState.WAITING), fleet.unreadable[wanted.uid]
    failed = [w for w in current if w.state == S.FAILED]
    if ready >= wanted.least:
        return ModelState.READY, ""
    if failed:
        serving = any(w.state in SERVES for w in workers)
        return (ModelState.DEGRADED if serving else ModelState.FAILED), failed[0].reason
    reason = fleet.waiting[wanted.uid].reason if wanted.uid in fleet.waiting else ""
    if any(w.state in SERVES for w in workers):
        return ModelState.DEGRADED, reason
    if any(w.state in ALIVE for w in current) or not reason:
        return ModelState.LOADING, reason
    return ModelState.WAITING, reason


def status_of(fleet: Fleet, wanted: Wanted) -> ModelStatus:
    state, reason = state_of(fleet, wanted)
    workers, serving = fleet.of(wanted.uid), fleet.canaries.serving(wanted)
    current = [w for w in workers if w.name.generation == serving.generation and w.state in ALIVE]
    failed = next((w for w in workers if w.state == S.FAILED and w.name.generation == serving.generation), None)
    # What a load would need besides, or a new version on trial, is no error of a model that serves.
    is_well = is_served(fleet, wanted) or (serving is not wanted and state == ModelState.READY)
    waiting = Waiting("") if is_well else fleet.waiting.get(wanted.uid, Waiting(""))
    fractions = [1.0 if w.state == S.READY else w.report.progress.fraction for w in current]
    return ModelStatus(
        uid=wanted.uid,
        state=state,
        reason=reason,
        error_code=_code_of(failed.report.error) if failed else waiting.code,
        log_tail=failed.report.log_tail if failed else (),
        replica=serving.replica,
        ready=sum(w.state in SERVES for w in current),
        restarts=sum(count for (uid, _), count in fleet.restarts.items() if uid == wanted.uid),
        generation=wanted.generation,
        stage=next(
            (w.report.progress.stage for w in current if w.state != S.READY), "pending" if not current else "ready"
        ),
        progress=1.0 if state == ModelState.READY else sum(fractions) / serving.replica,
        created=wanted.created,
        wanted=wanted,
        workers=tuple(_worker_status(fleet, w) for w in workers),
        wake_s=fleet.resting.wake_s(wanted.uid),
        scale=scale_status(fleet, wanted),
        canary=_canary_status(fleet, wanted.uid),
        about=next((w.report.facts.listed for w in current if w.state == S.READY), {}),
    )


def _canary_status(fleet: Fleet, uid: str) -> CanaryStatus | None:
    canary = fleet.canaries.on_trial.get(uid)
    if canary is None:
        return None
    new, old = fleet.canaries.counted(uid)
    limits = CanaryLimits(fleet.settings.canary_s, fleet.settings.canary_requests)
    return CanaryStatus(
        next=next_of(canary, new, limits, uid in fleet.canaries.since),
        new=figures_of(new),
        old=figures_of(old),
        generation=canary.generation,
        old_generation=canary.before.generation,
        percent=canary.percent,
        why=fleet.canaries.why.get(uid, ""),
    )


def _worker_status(fleet: Fleet, worker: WorkerRecord) -> WorkerStatus:
    report = worker.report
    node = fleet.nodes.get(worker.node)
    return WorkerStatus(
        id=str(worker.name),
        index=worker.name.index,
        generation=worker.name.generation,
        state=worker.state,
        node=node.ip if node else worker.node,
        address=f"{report.node_ip}:{report.pid}" if report.pid else "",
        pid=report.pid,
        cards=report.cards or tuple(card for card, _ in worker.claim.cards),
        claim_bytes=worker.claim.memory_bytes,
        card_bytes=worker.claim.card_bytes,
        stage=report.progress.stage,
        progress=1.0 if worker.state == S.READY else report.progress.fraction,
        done_bytes=report.progress.done_bytes,
        total_bytes=report.progress.total_bytes,
        files=report.progress.files,
        reason=worker.reason,
        error_code=_code_of(report.error),
        restarts=fleet.restarts.get((worker.name.uid, worker.name.index), 0),
        created=worker.created,
    )


def _launched(wanted: Wanted, serving: Sequence[WorkerRecord]) -> ServedModel:
    entry, source = wanted.entry, wanted.source
    return ServedModel(
        type=entry.type,
        name=entry.name,
        engine=wanted.spec.model_engine or entry.family.replace("-", "_"),
        format=source.format,
        family=entry.family,
        hub=source.hub,
        revision=source.revision,
        quantization=wanted.spec.quantization or source.quantizations[0],
        size=source.size,
        languages=entry.languages,
        max_tokens=entry.max_tokens,
        dimensions=entry.facts.get("dimensions"),
        controlnet=entry.facts.get("controlnet"),
        created=int(wanted.created),
        replica=wanted.replica,
        bounds=None if wanted.spec.bounds is None else wanted.spec.bounds.model_dump(),
        address=f"{serving[0].report.node_ip}:{serving[0].report.pid}" if serving else "",
        cards=tuple(card for worker in serving for card in worker.report.cards),
    )


def leases_of(fleet: Fleet) -> dict[str, Lease]:
    """What each worker has of cards now, by its name."""
    workers = [worker for worker in fleet.workers.values() if worker.state in HOLDS_CLAIM and worker.claim.cards]
    return {str(worker): Lease(worker.node, round(worker.claim.gpus, 4)) for worker in workers}


def usage_of(fleet: Fleet) -> list[tuple[Node, Claim, int]]:
    """Every node, what is claimed on it, and by how many workers."""
    rows = []
    for node in fleet.open_nodes():
        workers = [w for w in fleet.workers.on(node.id) if w.state in HOLDS_CLAIM]
        cards = tuple(card for w in workers for card in w.claim.cards)
        claim = Claim(
            sum(w.claim.memory_bytes for w in workers),
            cards,
            sum(w.claim.cpus for w in workers),
            sum(w.claim.card_bytes for w in workers),
        )
        rows.append((node, claim, len(workers)))
    return rows


def _code_of(error: Exception | None) -> str:
    if error is None:
        return ""
    return error.code() if isinstance(error, ClusterError) else "load_failed"
