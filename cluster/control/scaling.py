"""How many replicas a model has that follows its load. Pure: time is passed in.

Up within seconds and at once by as many as are needed; down one by one, and only after the load has been low for long.
What is needed follows from the work in hand, which callers who wait for their answers bring to four replicas as to one;
rates would show less the longer they wait. What is made use of is not given back, even where requests could wait a
little: nobody knows whether callers would then send fewer of them, or the queue would grow until the replica had to be
started again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pydantic import ValidationError

from cluster import errors
from cluster.launch import LaunchSpec, ReplicaBounds
from cluster.status import Load
from cluster.value import Value

#: More work than the present replicas do in time, for so long, brings others, unless it was little on average over the
#: time that is remembered.
UP_S = 1.5
SEEN_S = 3.0
#: A need that exceeds the replicas there are by less than this part is no need.
TOLERANCE = 0.1
#: Replicas that are left are to be used no more than this.
FULL = 0.8
#: The time that the load has to be low is looked at in so many parts; after one replica is given back, the next one
#: may follow after one part.
STRETCHES = 4
#: A model that gave a replica back to another one takes none for so long.
YIELDED_S = 30.0
#: A replica with this part of the requests that it may have at once refuses some of them.
NEARLY_FULL = 0.9


#: Fields of a launch that say between how many replicas it follows its load.
Bounds = Mapping[str, int | float]


class Scale(Value):
    """What is stored of a model that follows its load: the number of replicas that it has brought about."""

    replica: int


class Moment(NamedTuple):
    """What all READY replicas of a model have to do."""

    at: float
    #: How long one of them alone would compute for what all of them have, and what one computes at once.
    work_s: float = 0.0
    running_s: float = 0.0
    requests: float = 0.0
    #: How many of them it would take if each were used entirely.
    used: float = 0.0
    #: How long requests wait.
    queue_s: float = 0.0
    #: Requests are refused for their number.
    is_full: bool = False


class Stretch(NamedTuple):
    """A part of the time in which the load has to be low, and how many replicas would have been enough all along."""

    since: float
    enough: int


@dataclass(frozen=True)
class Past:
    """What is remembered of a model from one decision to the next."""

    #: Of the last seconds, since the replicas that serve were last others.
    moments: tuple[Moment, ...] = ()
    serving: int = 0
    #: Since it last got more: as far back as the load has to be low.
    stretches: tuple[Stretch, ...] = ()
    #: When one was last given back.
    fewer_at: float = float("-inf")
    #: Until then it gets no more.
    yields_until: float = float("-inf")


class Decision(NamedTuple):
    replica: int
    #: Empty where nothing changes.
    why: str
    past: Past


def moment_of(loads: Collection[Load], request_limit: int | None, now: float) -> Moment:
    busy = [load for load in loads if load.running_s > 0]
    limit = math.inf if request_limit is None else max(NEARLY_FULL * request_limit, 0.5)
    return Moment(
        now,
        sum(load.waiting_s + load.running_s for load in loads),
        sum(load.running_s for load in busy) / len(busy) if busy else 0.0,
        sum(load.requests for load in loads),
        sum(load.used for load in loads),
        sum(load.waiting_s for load in loads) / len(loads) if loads else 0.0,
        any(load.refuses for load in loads) or (bool(loads) and all(load.requests >= limit for load in loads)),
    )


def decide(replica: int, serving: int, bounds: ReplicaBounds, moment: Moment, past: Past, low_s: float) -> Decision:
    """How many replicas a model that has `replica` of them, of which so many are READY, is to have from now on."""
    now = moment.at
    if replica != bounds.nearest(replica):
        return Decision(bounds.nearest(replica), "its bounds have changed", Past())
    if not serving:
        # Nothing is known of its load; those that it had may all have been lost.
        return Decision(replica, "", Past(yields_until=past.yields_until))
    moments = past.moments if serving == past.serving else ()
    older = [each for each in moments if each.at > now - SEEN_S] or list(moments[-1:])
    stretches = _stretches_after(past.stretches, now, _enough(moment, serving, bounds), low_s)
    past = replace(past, moments=(*older, moment), serving=serving, stretches=stretches)
    if serving >= replica and now >= past.yields_until:
        more, why = _more(past.moments, replica, bounds)
        if more > replica:
            return Decision(more, why, replace(past, moments=(), stretches=()))
    enough = max(bounds.least, *(stretch.enough for stretch in stretches))
    is_long = now - stretches[0].since >= low_s and now - past.fewer_at >= low_s / STRETCHES
    if enough < replica and is_long:
        why = f"{enough} would have been enough for {low_s:g} s"
        return Decision(replica - 1, why, replace(past, moments=(), fewer_at=now))
    return Decision(replica, "", past)


def _more(moments: Sequence[Moment], replica: int, bounds: ReplicaBounds) -> tuple[int, str]:
    """So many that requests wait no longer than they should, where the replicas there are have been too few for a
    while; no more than there are requests."""
    high = [each for each in moments if each.is_full or _parts(each, bounds) > replica * (1 + TOLERANCE)]
    if not high or high[-1] is not moments[-1] or moments[-1].at - high[0].at < UP_S:
        return replica, ""
    # What is refused is not among the work in hand.
    at_least = replica + 1 if all(each.is_full for each in high) else 0
    if not at_least and _mean([_parts(each, bounds) for each in moments]) <= replica * (1 + TOLERANCE):
        return replica, ""
    needed = min(math.ceil(_mean([_parts(each, bounds) for each in high])), math.ceil(moments[-1].requests))
    waited = _mean([each.queue_s for each in high])
    why = f"requests waited {waited:.1f} s, target {bounds.target_queue_s:g} s"
    return min(max(needed, at_least), bounds.max), "requests were refused" if at_least else why


def _parts(moment: Moment, bounds: ReplicaBounds) -> float:
    """The work, in what one replica may have of it."""
    return moment.work_s / (bounds.target_queue_s + moment.running_s)


def _enough(moment: Moment, serving: int, bounds: ReplicaBounds) -> int:
    """So many would do. Where each could have a request of its own nobody would wait, however much they are used."""
    used = min(math.ceil(moment.used / FULL), math.ceil(moment.requests))
    is_short = moment.is_full or moment.queue_s > bounds.target_queue_s / 2
    return max(used, serving) if is_short else used


def _stretches_after(stretches: tuple[Stretch, ...], now: float, enough: int, low_s: float) -> tuple[Stretch, ...]:
    """A few of them instead of every moment; no further back than is looked at."""
    if stretches and now - stretches[-1].since < low_s / STRETCHES:
        stretches = (*stretches[:-1], Stretch(stretches[-1].since, max(stretches[-1].enough, enough)))
    else:
        stretches = (*stretches, Stretch(now, enough))
    while len(stretches) > 1 and stretches[1].since <= now - low_s:
        stretches = stretches[1:]
    return stretches


def _mean(numbers: Collection[float]) -> float:
    return sum(numbers) / len(numbers)


def spec_with(uid: str, spec: LaunchSpec, replica: int | None, bounds: Bounds) -> LaunchSpec:
    """The launch with another number of replicas, or other bounds for it: without a number the nearest in these."""
    if replica is not None and replica < 1:
        raise errors.BadOption(f"replica must be at least 1, not {replica}; terminate {uid} to stop it.", "replica")
    changed = spec.model_copy(update=dict(bounds))
    try:
        limits = changed.bounds
        if replica is None:
            replica = spec.replica if limits is None else limits.nearest(spec.replica)
        elif limits is not None and limits.nearest(replica) != replica:
            text = f"{uid} has {limits.least} to {limits.max} replicas, not {replica}: change its bounds with it."
            raise errors.BadOption(text, "replica")
        return LaunchSpec.model_validate({**changed.model_dump(), "replica": replica})
    except ValidationError as error:
        problem = error.errors()[0]
        param = str(problem["loc"][0]) if problem["loc"] else "max_replica"
        raise errors.BadOption(f"{uid}: {problem['msg'].removeprefix('Value error, ')}", param) from None


@dataclass
class Scales:
    """Of all models that follow their load."""

    #: Models to look at: their load has changed, or they have more replicas than they must.
    watched: set[str] = field(default_factory=set)
    #: What was last changed, and why.
    why: dict[str, str] = field(default_factory=dict)
    past: dict[str, Past] = field(default_factory=dict)

    def forget(self, uid: str) -> None:
        self.watched.discard(uid)
        self.why.pop(uid, None)
        self.past.pop(uid, None)

    def give_way(self, uid: str, now: float) -> None:
        """It has given a replica to another model."""
        self.past[uid] = Past(yields_until=now + YIELDED_S)
