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
    """Of one node."""

    #: Memory of the smallest that can be used.
    bytes: int | None
    #: How they are told apart in CUDA_VISIBLE_DEVICES, where the node itself may use only some of the machine's.
    names: tuple[str, ...]
    #: Torch's word for their kind.
    device: str
    #: How many torch can use; None where nobody knows.
    usable: int | None


NO_CARDS = NodeCards(None, (), "cpu", 0)
#: As Ray counts them.
UNKNOWN_CARDS = NodeCards(None, (), "cuda", None)
#: Longest that torch may take to be imported and to try every card.
CARDS_S = 60.0
CARD_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "ONEAPI_DEVICE_SELECTOR",
)


@ray.remote(num_cpus=0, max_retries=1)  # type: ignore[untyped-decorator]
def cards_here() -> NodeCards:
    """Asks torch in a process of its own, which gives back what torch takes of each card."""
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
    """What an earlier supervisor learned, so that one that comes back waits for no torch. A node has the same id, and
    the same cards, for as long as it lives."""
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
    """Cards are counted from the first, so that a broken one must be the last."""
    every = names or tuple(map(str, range(max(usable, default=-1) + 1)))
    working = [name for number, name in enumerate(every) if number in usable]
    return (*working, *(name for name in every if name not in working))
