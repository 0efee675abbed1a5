"""Which cards a node has, and which of them torch can use."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Collection
from typing import NamedTuple

import ray
from ray.experimental import internal_kv

from cluster import environment
from cluster.runtime import accelerators

log = logging.getLogger("cluster.node_cards")


class NodeCards(NamedTuple):
    """The cards of one node."""

    #: Memory of the smallest card that torch can use.
    bytes: int | None
    #: Their names in the node's CUDA_VISIBLE_DEVICES; empty where that is not set, so that the node may use all.
    names: tuple[str, ...]
    #: Torch's name for this kind of device, such as cuda.
    device: str
    #: How many torch can use; None if that is not known.
    usable: int | None


NO_CARDS = NodeCards(None, (), "cpu", 0)
#: Torch gave no answer, so that only what Ray counts is known.
UNKNOWN_CARDS = NodeCards(None, (), "cuda", None)
#: How long importing torch and trying every card may take.
CARDS_S = 60.0
#: The variables that limit which cards a process can use.
CARD_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "ONEAPI_DEVICE_SELECTOR",
)


@ray.remote(num_cpus=0, max_retries=1)  # type: ignore[untyped-decorator]
def cards_here() -> NodeCards:
    """Asks torch in a separate process, since torch holds some memory of each card until its process ends."""
    names = tuple(filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")))
    chosen = {name: os.environ[name] for name in CARD_VARIABLES if os.environ.get(name)}
    command = [*environment.ISOLATED, accelerators.__file__]
    built = environment.for_python(**chosen)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CARDS_S, check=True, env=built)
        answer = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        log.warning("torch does not say which cards it can use: %s", error)
        return UNKNOWN_CARDS._replace(names=names)
    usable = {int(number): size for number, size in answer["sizes"].items()}
    return NodeCards(min(usable.values(), default=None), usable_first(names, usable), answer["device"], len(usable))


def kept_cards(node_id: str) -> NodeCards | None:
    """What an earlier supervisor found out, so that a restarted one need not wait for torch. The id and the cards of a
    node do not change while it runs."""
    kept = internal_kv._internal_kv_get(f"cluster:cards:{node_id}")
    try:
        size, names, device, usable = json.loads(kept or "")
    except ValueError:
        return None
    return NodeCards(size, tuple(names), device, usable)


def keep_cards(node_id: str, cards: NodeCards) -> None:
    if cards.usable is not None:
        internal_kv._internal_kv_put(f"cluster:cards:{node_id}", json.dumps(cards))


def usable_first(names: tuple[str, ...], usable: Collection[int]) -> tuple[str, ...]:
    """The names of the cards, usable ones first: a node with three usable cards uses the first three names."""
    every = names or tuple(map(str, range(max(usable, default=-1) + 1)))
    working = [name for number, name in enumerate(every) if number in usable]
    return (*working, *(name for name in every if name not in working))
