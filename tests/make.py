"""Small values for tests, with everything a test does not care about filled in."""

from __future__ import annotations

from typing import Any

from cluster.catalog.entry import Entry, Source
from cluster.launch import LaunchSpec, Wanted
from cluster.status import Node

GIB = 2**30


def make_node(
    id: str = "n0", *, gpus: int = 0, cpus: float = 8, memory_gib: float = 16, card_gib: float | None = None
) -> Node:
    card_bytes = int(card_gib * GIB) if card_gib else None
    return Node(id=id, ip=id, cpus=cpus, memory_bytes=int(memory_gib * GIB), gpus=gpus, card_bytes=card_bytes)


def make_wanted(
    uid: str = "m",
    *,
    replica: int = 1,
    claim_gib: float = 1,
    generation: int = 1,
    options: dict[str, Any] | None = None,
    **fields: Any,
) -> Wanted:
    source = Source(hub="local", id="/nowhere")
    fields.setdefault("n_gpu", None)
    return Wanted(
        uid=uid,
        generation=generation,
        spec=LaunchSpec(model_name=uid, model_type="test", replica=replica, options=options or {}, **fields),
        entry=Entry(name=uid, type="test", family="test", sources=(source,)),
        source=source,
        family="tests.families:Echo",
        abilities=("infer",),
        claim_bytes=int(claim_gib * GIB),
    )
