"""What people want: models launched, scaled, declared and terminated. Written down before anything is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from cluster import errors
from cluster.control.canary import Canary, Ruling
from cluster.control.changes import Change, difference, differences, is_same_launch
from cluster.control.fitting import Fit, could_place, fit_of, placements_of
from cluster.control.fleet import Fleet
from cluster.control.growing import may_wait_for_cards
from cluster.control.making_room import who_would_leave
from cluster.control.placement import NoRoom, Placement
from cluster.control.platform import Platform, Weighed
from cluster.control.publishing import Publisher
from cluster.control.records import Records
from cluster.control.rescaling import follow, note, numbers_of
from cluster.control.resting import Rest
from cluster.control.scaling import Bounds, Scale, spec_with
from cluster.control.sleeping import put_to_sleep, wake
from cluster.control.store import Row
from cluster.control.trying import end_trial, trial_after, trial_of
from cluster.control.views import state_of
from cluster.launch import Wanted
from cluster.status import ModelState, ModelStatus, ScaleNumbers

#: Nodes whose disks a launch is looked up on.
MOST_LOOKS = 8
#: Why a model sleeps that was launched so.
UNUSED = "not used yet"
#: An autoscaler that has not asked for so long is not there any more.
AUTOSCALER_S = 30.0


class WantedModels:
    """Changes what is wanted, one change at a time. A change that cannot be written down is not made."""

    def __init__(
        self,
        fleet: Fleet,
        platform: Platform,
        records: Records,
        publisher: Publisher,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        wake: asyncio.Event,
    ) -> None:
        """`wake` begins the next tick at once."""
        self._fleet = fleet
        self._platform = platform
        self._records = records
        self._publisher = publisher
        self._clock = clock
        self._wall_clock = wall_clock
        self._wake = wake
        #: Until then an autoscaler is taken to be there.
        self._nodes_expected_until = float("-inf")

    def expect_nodes(self) -> None:
        """An autoscaler has asked how many cards are wanted: launches may wait for the nodes that it adds."""
        self._nodes_expected_until = self._clock() + AUTOSCALER_S

    async def launch(self, wanted: Wanted, uid_given: bool, disk: str) -> ModelStatus:
        """An equal launch is the same launch; another one under the same uid is refused. `disk`: the node by whose
        weights it was planned."""
        before = self._fleet.wanted.get(wanted.uid)
        if before is None or not is_same_launch(before, wanted):
            wanted = (await self._as_placed(wanted, disk)).wanted
        return await self._records.together(self._check_launch(wanted, uid_given))

    async def could_launch(self, wanted: Wanted, disk: str) -> Fit:
        """Whether the launch would fit now, and what it would claim. Raises what it would end with where its weights
        are not to be had."""
        weighed = await self._as_placed(wanted, disk)
        placements = placements_of(self._fleet, weighed.wanted)
        await asyncio.gather(*(self._platform.look_for(node, wanted.source) for node in _nodes_of(placements)))
        fit = fit_of(self._fleet, weighed.wanted, placements)
        if fit.reason and (leaving := who_would_leave(self._fleet, weighed.wanted)):
            fit = replace(fit, reason="", gives_way=leaving)
        return replace(fit, plan=weighed.on_card if fit.on_card else weighed.without_card)

    def would_fit(self, variants: Sequence[Wanted]) -> list[Fit]:
        """Of each by itself whether it would fit now."""
        return [fit_of(self._fleet, wanted, placements_of(self._fleet, wanted)) for wanted in variants]

    async def _as_placed(self, wanted: Wanted, disk: str) -> Weighed:
        """The launch by the weights on the disks of the nodes where it would be placed; `disk` is the one by which it
        was planned."""
        nodes = [node for node in _nodes_of(placements_of(self._fleet, wanted)) if node != disk]
        by_node = await asyncio.gather(*(self._platform.weigh(node, wanted) for node in nodes))
        return max(by_node, key=_size, default=Weighed(wanted))

    async def terminate(self, uid: str) -> None:
        await self._records.alone(self._terminate(uid))

    async def cancel(self, uid: str) -> None:
        """Ends a launch that is not READY yet."""
        await self._records.alone(self._cancel(uid))

    async def scale(self, uid: str, replica: int | None, bounds: Bounds) -> ModelStatus:
        return await self._records.alone(self._scale(uid, replica, bounds))

    def follow_load(self, now: float) -> None:
        """Changes the number of replicas of models for which the load decides it."""
        for change in follow(self._fleet, now):
            note(self._records, change)

    def scale_of(self, uid: str) -> ScaleNumbers:
        return numbers_of(self._fleet, self._refuse_unknown(uid), self._clock())

    async def restart(self, uid: str, why: str) -> ModelStatus:
        """New processes for the same launch. They take the place of the old ones as those of an update do, so that no
        request fails for it."""
        return await self._records.alone(self._restart(uid, why))

    async def apply(self, declared: Sequence[Wanted], prune: bool, dry_run: bool) -> list[Change]:
        """Makes what is wanted equal to a declared list; only what an earlier list declared is ever removed."""
        return await self._records.alone(self._apply(declared, prune, dry_run))

    # ------------------------------------------------------------------------------------ each change

    async def _check_launch(self, wanted: Wanted, uid_given: bool) -> Coroutine[Any, Any, ModelStatus]:
        uid = wanted.uid
        if self._fleet.accepted.keys() & {uid, *(alias.name for alias in wanted.spec.aliases)}:
            # Whether it is the same depends on how that launch ends.
            await self._records.all_written()
        before = self._fleet.wanted.get(uid)
        self._refuse_unreadable(uid)
        self._refuse_taken(wanted)
        # A launch that failed keeps its name for the next try only, whatever that one changes.
        if before is not None and state_of(self._fleet, before)[0] == ModelState.FAILED:
            pass
        elif before is not None and is_same_launch(before, wanted):
            return self._as_it_is(uid)
        elif before is not None:
            if uid_given:
                raise errors.Conflict(
                    f"Model uid {uid} is taken by another launch ({difference(before, wanted)}); "
                    "terminate it or choose another model_uid.",
                    "model_uid",
                )
            uid = f"{uid[:91]}-{self._fleet.new_suffix()[:8]}"
        wanted = await self._numbered(wanted, uid)
        self._refuse_without_room(wanted)
        # Its room is taken from now on: the next launch is checked while this one is written.
        self._fleet.accepted[uid] = wanted
        return self._launch(wanted)

    async def _launch(self, wanted: Wanted) -> ModelStatus:
        try:
            await self._want(wanted, f"Launch model {wanted.entry.name}, {wanted.replica} replica(s)")
        finally:
            del self._fleet.accepted[wanted.uid]
        return self._status(wanted.uid)

    async def _as_it_is(self, uid: str) -> ModelStatus:
        return self._status(uid)

    async def _terminate(self, uid: str) -> None:
        self._refuse_unknown(uid)
        await self._unwant(uid, "Terminate model")
        self._publisher.publish()

    async def _cancel(self, uid: str) -> None:
        status = await self._publisher.status(uid)
        if self._publisher.was_ready(status):
            raise errors.Conflict(f"Model {uid} is not launching any more, it is {status.state}; terminate it instead.")
        await self._unwant(uid, "Launch cancelled")
        self._publisher.publish()

    async def _scale(self, uid: str, replica: int | None, bounds: Bounds) -> ModelStatus:
        before = self._refuse_unknown(uid)
        self._refuse_unreadable(uid)
        if before.spec.gpu_idx is not None or before.spec.replica_config is not None:
            raise errors.BadRequest(f"{uid} is pinned to cards; launch it again with the places it should have.")
        after = before.model_copy(update={"spec": spec_with(uid, before.spec, replica, bounds)})
        if after.replica > before.replica:
            self._refuse_without_room(after)
        limits = after.spec.bounds
        within = "" if limits is None else f", {limits.min} to {limits.max} as the load needs"
        self._fleet.scales.forget(uid)
        await self._want(after, f"Scale from {before.replica} to {after.replica} replica(s){within}")
        if limits is not None:
            self._records.put_later("scale", uid, Scale(replica=after.replica).model_dump(mode="json"))
            if replica is not None and wake(self._fleet, uid, self._clock()):
                self._records.put_later("rest", uid, self._fleet.resting.stored(uid).model_dump(mode="json"))
                self._publisher.publish()
        return self._status(uid)

    async def _restart(self, uid: str, why: str) -> ModelStatus:
        before = self._refuse_unknown(uid)
        self._refuse_unreadable(uid)
        if uid in self._fleet.resting.asleep:
            raise errors.Conflict(
                f"{uid} sleeps, so there is no process of it to restart; its next request starts new ones.", "model_uid"
            )
        after = (await self._numbered(before, uid)).model_copy(update={"created": before.created})
        on_trial = self._fleet.canaries.on_trial.get(uid)
        trial = on_trial and on_trial.model_copy(update={"generation": after.generation})
        await self._want(after, f"Restart model{why and f': {why}'}", trial)
        return self._status(uid)

    async def _apply(self, declared: Sequence[Wanted], prune: bool, dry_run: bool) -> list[Change]:
        changes = differences(self._fleet.wanted, declared, prune)
        if not dry_run:
            # Begun in their order, so that what they write is few writes.
            ends = await asyncio.gather(*map(self._carry_out, changes), return_exceptions=True)
            self._publisher.publish()
            for failure in filter(None, ends):
                raise failure
        return changes

    async def _carry_out(self, change: Change) -> None:
        before, after = change.before, change.after
        if after is not None and await self._ended_trial(change.uid, after):
            return
        is_unreadable = change.uid in self._fleet.unreadable
        if change.change == "terminate":
            await self._unwant(change.uid, "Terminate model: no longer declared")
        elif is_unreadable and change.change == "same":
            return
        elif is_unreadable and after is not None:
            # A version for which it is declared otherwise takes the place of what runs, once it is READY.
            await self._want(_declared(await self._numbered(after, change.uid)), "Update model: declared")
        elif after is not None and change.change in ("scale", "rename", "adjust") and before is not None:
            changed = _declared(before.model_copy(update={"spec": after.spec}))
            await self._want(changed, f"{change.change.capitalize()}: declared")
        elif change.change == "same" and before is not None:
            if not before.declared:
                await self._want(_declared(before), "Declared as it is")
        elif after is not None:
            wanted = _declared(await self._numbered(after, change.uid))
            trial = trial_of(self._fleet, wanted)
            how = f", with {trial.percent:g} % of the requests at first" if trial else ""
            await self._want(wanted, f"{change.change.capitalize()} model: declared{how}", trial)

    async def _ended_trial(self, uid: str, after: Wanted) -> bool:
        """Whether a trial was ended by declaring the old version, or the new one without a canary."""
        on_trial, wanted = self._fleet.canaries.on_trial.get(uid), self._fleet.wanted.get(uid)
        if on_trial is None or wanted is None:
            return False
        if is_same_launch(on_trial.before, after):
            await end_trial(self._fleet, self._records, uid, Ruling("return", "the old version is declared again"))
        elif is_same_launch(wanted, after) and not after.spec.canary:
            await end_trial(self._fleet, self._records, uid, Ruling("go on", "it is declared without a canary"))
        else:
            return False
        self._wake.set()
        return True

    # ------------------------------------------------------------------------------------ what all have in common

    def _refuse_unknown(self, uid: str) -> Wanted:
        wanted = self._fleet.wanted.get(uid)
        if wanted is None:
            raise errors.UnknownUid(f"Model not found in the model list, uid: {uid}", "model_uid")
        return wanted

    def _refuse_unreadable(self, uid: str) -> None:
        if uid in self._fleet.unreadable:
            raise errors.Conflict(f"{uid} cannot be changed. {self._fleet.unreadable[uid]}", "model_uid")

    def _refuse_without_room(self, wanted: Wanted) -> None:
        """Unless a node may be added that has room, or other models give way."""
        if wanted.spec.asleep:
            return
        no_room = could_place(self._fleet, wanted)
        is_node_expected = self._clock() < self._nodes_expected_until and may_wait_for_cards(wanted)
        if no_room is not None and not is_node_expected and not who_would_leave(self._fleet, wanted):
            raise no_room.error()

    def _refuse_taken(self, wanted: Wanted) -> None:
        """A uid comes before an alias, so an alias that is one would never be heard."""
        for alias in wanted.spec.aliases:
            if alias.name in self._fleet.wanted and alias.name != wanted.uid:
                raise errors.Conflict(
                    f"Alias {alias.name} is the uid of another model; terminate that or choose another alias.",
                    "aliases",
                )

    async def _numbered(self, wanted: Wanted, uid: str) -> Wanted:
        highest = max((other.generation for other in self._fleet.wanted.values()), default=0)
        generation = await self._records.next_number("generation", highest + 1)
        return wanted.model_copy(update={"uid": uid, "generation": generation, "created": self._wall_clock()})

    async def _want(self, wanted: Wanted, text: str, trial: Canary | None = None) -> None:
        """One write: a new generation is as lasting as the model that has it."""
        rows: list[Row] = [("wish", wanted.uid, wanted.model_dump(mode="json"))]
        trial = trial or trial_after(self._fleet, wanted)
        if trial is not None:
            rows.append(("canary", wanted.uid, trial.model_dump(mode="json")))
        begins_asleep = wanted.spec.asleep and wanted.uid not in self._fleet.wanted
        if begins_asleep:
            rows.append(("rest", wanted.uid, Rest(is_asleep=True, reason=UNUSED).model_dump(mode="json")))
        await self._records.put_all([*rows, *self._records.number_row("generation")])
        self._fleet.want(wanted)
        if trial is not None:
            self._fleet.canaries.begin(wanted.uid, trial)
        if begins_asleep:
            put_to_sleep(self._fleet, wanted.uid, UNUSED)
        self._records.tell(wanted.uid, "INFO", text)
        self._publisher.publish()
        self._wake.set()

    async def _unwant(self, uid: str, text: str) -> None:
        await self._records.delete("wish", uid, "ready", "rest", "scale", "canary")
        self._fleet.unwant(uid)
        self._records.tell(uid, "INFO", text)
        self._wake.set()

    def _status(self, uid: str) -> ModelStatus:
        return self._publisher.statuses.value[uid]


def _nodes_of(placements: list[Placement] | NoRoom) -> list[str]:
    """Each once, and not too many to ask."""
    if isinstance(placements, NoRoom):
        return []
    return list(dict.fromkeys(placement.node for placement in placements))[:MOST_LOOKS]


def _size(weighed: Weighed) -> tuple[int, int]:
    return weighed.wanted.needs(on_card=True).card_bytes, weighed.wanted.claim_bytes


def _declared(wanted: Wanted) -> Wanted:
    return wanted.model_copy(update={"declared": True})
