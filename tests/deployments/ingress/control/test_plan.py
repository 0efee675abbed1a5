from __future__ import annotations

import asyncio
import threading

import pytest

from cluster import errors
from cluster.control.fitting import Fit
from cluster.launch import Needs
from cluster.weights.inventory import _answers, asking_once
from deployments.ingress.control.plan import MOST_LOOKUPS, Rung, looked_up, sentence_of
from tests.make import GIB


def test_lookups_share_what_was_asked_once_and_are_bounded() -> None:
    async def scene() -> None:
        with asking_once():
            assert await looked_up(_answers.get) is _answers.get() is not None
        held = threading.Event()
        waiting = [asyncio.ensure_future(looked_up(held.wait, 10)) for _ in range(MOST_LOOKUPS)]
        await asyncio.sleep(0)
        with pytest.raises(errors.Overloaded):
            await looked_up(held.wait, 10)
        # Work in other threads goes on meanwhile.
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 5) == "done"
        held.set()
        assert all(await asyncio.gather(*waiting))
        assert await looked_up(lambda: 1) == 1

    asyncio.run(scene())


def rung(gib: int, fits: bool, **changes: object) -> Rung:
    return {"changes": dict(changes), "claim_bytes": 0, "card_bytes": gib * GIB, "fits": fits}


ON_CARD = Needs(memory_bytes=2 * GIB, card_bytes=37 * GIB)
LADDER = [
    rung(30, False, vae_tiling=True),
    rung(20, True, gguf_quantization="Q4_0"),
    rung(8, True, cpu_offload="group"),
]


@pytest.mark.parametrize(
    ("fit", "ladder", "sentence"),
    [
        (Fit(ON_CARD, True, room_bytes=80 * GIB), [], "m needs 37.0 GiB, and a card has 80.0 GiB for it."),
        (Fit(Needs(memory_bytes=GIB), room_bytes=3 * GIB), [], "m needs 1.0 GiB, and main memory has 3.0 GiB for it."),
        (Fit(ON_CARD, True), [], "m needs 37.0 GiB."),
        (
            Fit(ON_CARD, True, "too large", room_bytes=24 * GIB),
            LADDER,
            "m needs 37.0 GiB, and a card has 24.0 GiB for it; with gguf_quantization=Q4_0 it needs 20.0 GiB.",
        ),
        (
            Fit(ON_CARD, True, "too large", room_bytes=2 * GIB),
            LADDER[:1],
            "m needs 37.0 GiB, a card has 2.0 GiB for it, and no option makes it fit: take a smaller model.",
        ),
        # There is room enough, and it is something else that is missing.
        (Fit(ON_CARD, True, "b: draining", room_bytes=80 * GIB), LADDER, "m needs 37.0 GiB."),
    ],
)
def test_one_sentence_says_what_is_needed_what_there_is_and_what_would_help(
    fit: Fit, ladder: list[Rung], sentence: str
) -> None:
    assert sentence_of("m", fit, ladder) == sentence
