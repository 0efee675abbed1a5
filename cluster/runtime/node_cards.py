"""Which cards a node has, and which of them torch can use."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import ray
from ray.exceptions import RayError
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import environment
from cluster.cards import Card, is_same_card
from cluster.runtime import accelerators, nvml, visible_cards
from cluster.runtime.actor_calls import answer_of
from cluster.runtime.place import settings_here
from cluster.settings import Settings

log = logging.getLogger("cluster.node_cards")


class NodeCards(NamedTuple):
    """The cards of one node."""

    #: Memory of the smallest card that torch can use.
    bytes: int | None
    #: The names by which a process is given them; empty where all of the node's can be used, by their numbers.
    names: tuple[str, ...]
    #: Torch's name for this kind of device, such as cuda.
    device: str
    #: How many torch can use; None if that is not known.
    usable: int | None
    #: Name, number in the world and bytes of each that torch can use, in the order of `names`.
    facts: tuple[tuple[str, str, int], ...] = ()

    def seen_by(self, driver: Sequence[Card] | None) -> tuple[Card, ...]:
        """What torch says of each, and what the driver says of it now."""
        cards = [Card(name, uuid, size) for name, uuid, size in self.facts]
        if not driver:
            return tuple(cards)
        if not cards:
            # Torch may be one that can use none of them.
            return tuple(_named(name, driver) for name in self.names) or tuple(driver)
        if len(cards) == len(driver) == 1:
            return (replace(driver[0], total_bytes=cards[0].total_bytes),)
        # The driver counts in another order than torch, so one whose number in the world is not known is nobody's.
        matching = [[card for card in driver if is_same_card(card.uuid, of_torch.uuid)] for of_torch in cards]
        return tuple(
            replace(same[0], total_bytes=of_torch.total_bytes) if same else of_torch
            for of_torch, same in zip(cards, matching, strict=True)
        )


def _named(name: str, driver: Sequence[Card]) -> Card:
    """The card of that name, which is its number or its uuid; one of which nothing is known where there is none."""
    return next(
        (card for number, card in enumerate(driver) if name == str(number) or is_same_card(card.uuid, name)), Card()
    )


NO_CARDS = NodeCards(None, (), "cpu", 0)
#: Torch gave no answer, so that only what Ray counts is known.
UNKNOWN_CARDS = NodeCards(None, (), "cuda", None)
#: How long importing torch and trying every card may take.
CARDS_S = 60.0


@ray.remote(num_cpus=0, max_retries=1)  # type: ignore[untyped-decorator]
def cards_here() -> NodeCards:
    """Asks torch in a separate process, since torch holds some memory of each card until its process ends."""
    names = visible_cards.names()
    chosen = {name: os.environ[name] for name in visible_cards.VARIABLES if os.environ.get(name)}
    command = [*environment.ISOLATED, accelerators.__file__]
    built = environment.for_python(**chosen)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CARDS_S, check=True, env=built)
        answer = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        log.warning("torch does not say which cards it can use: %s", error)
        return UNKNOWN_CARDS._replace(names=names)
    usable = {int(number): size for number, size in answer["sizes"].items()}
    facts = {int(number): (*words, usable[int(number)]) for number, words in answer["identities"].items()}
    if any(name.startswith("MIG-") for name in names):
        usable, facts = cut_cards(names, usable, facts, nvml.cards() or ())
    order = tuple(facts[number] for number in sorted(facts))
    return NodeCards(
        min(usable.values(), default=None), usable_first(names, usable), answer["device"], len(usable), order
    )


def cut_cards(
    names: Sequence[str], usable: dict[int, int], facts: dict[int, tuple[str, str, int]], driver: Sequence[Card]
) -> tuple[dict[int, int], dict[int, tuple[str, str, int]]]:
    """A process can use one slice only, so torch has tried the first: the others are cut from cards of the same driver,
    which says how large each is."""
    slices = {card.uuid: card for card in driver}
    cut = {number: slices[name] for number, name in enumerate(names) if name in slices}
    if not usable or not cut:
        return usable, facts
    totals = {number: card.total_bytes for number, card in cut.items() if card.total_bytes}
    return totals, {number: (cut[number].name, cut[number].uuid, size) for number, size in totals.items()}


async def cards_of_node(node_id: str) -> NodeCards:
    cards = await asyncio.to_thread(kept_cards, node_id)
    if cards is None:
        where = NodeAffinitySchedulingStrategy(node_id, soft=False)
        cards = await answer_of(cards_here.options(scheduling_strategy=where).remote(), CARDS_S + 10)
        await asyncio.to_thread(keep_cards, node_id, cards)
    return cards


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def read_there(settings: Settings) -> tuple[Card, ...] | None:
    """How full the cards of a machine are, and of whose processes, in the order of the driver."""
    return nvml.cards(str(settings_here(settings).home))


class DriverReading:
    """A process that asks the driver of a node. Of this node too: a driver may hang, and a thread cannot be ended."""

    def __init__(self, settings: Settings, node_id: str) -> None:
        where = NodeAffinitySchedulingStrategy(node_id, soft=False)
        self._call = read_there.options(scheduling_strategy=where).remote(settings)

    async def answer(self, timeout_s: float) -> Sequence[Card] | None:
        """None where there is no driver."""
        cards: Sequence[Card] | None = await answer_of(self._call, timeout_s)
        return cards

    async def ended(self) -> None:
        """Kills it, and waits until it is gone."""
        ray.cancel(self._call, force=True)
        with suppress(RayError):
            await self._call


def kept_cards(node_id: str) -> NodeCards | None:
    """What an earlier supervisor found out, so that a restarted one need not wait for torch. The id and the cards of a
    node do not change while it runs."""
    kept = internal_kv._internal_kv_get(f"cluster:cards:{node_id}")
    try:
        size, names, device, usable, *facts = json.loads(kept or "")
    except ValueError:
        return None
    if not facts:
        return None  # of an earlier version, which did not say which cards they are
    rows = tuple((name, uuid, total) for name, uuid, total in facts[0])
    return NodeCards(size, tuple(names), device, usable, rows)


def keep_cards(node_id: str, cards: NodeCards) -> None:
    if cards.usable is not None:
        internal_kv._internal_kv_put(f"cluster:cards:{node_id}", json.dumps(cards))


def usable_first(names: tuple[str, ...], usable: Collection[int]) -> tuple[str, ...]:
    """The names of the cards, usable ones first: a node with three usable cards uses the first three names."""
    every = names or tuple(map(str, range(max(usable, default=-1) + 1)))
    working = [name for number, name in enumerate(every) if number in usable]
    return (*working, *(name for name in every if name not in working))
