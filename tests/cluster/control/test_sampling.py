from __future__ import annotations

from dataclasses import replace

from cluster.cards import Card
from cluster.control.fleet_metrics import page_of
from cluster.metrics import joined
from cluster.status import Claim
from tests.cluster.control.scenes import (
    Scene,
    play,
)
from tests.make import make_node


def test_the_fleet_is_a_page() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.ticks()
        (page,) = await s.supervisor.metrics("i0", b"")
        text = page.decode()
        assert 'cluster_replicas_wanted{model="m"} 1.0' in text
        assert 'cluster_model_state{model="m",state="READY"} 1.0' in text
        # One label, one meaning: what a worker counts and what is known of it can be joined.
        assert f'cluster_worker_state{{model="m",replica="{s.world.started[0]}",state="READY"}} 1.0' in text
        assert 'cluster_node_claimed_bytes{node="n0"} 1073741824.0' in text

    play(scene)


def test_cards_are_told_as_far_as_they_are_known() -> None:
    cards = (Card("X", "GPU-1", 100, 60, 0.25, foreign_bytes=20), Card("Y", "", 50), Card())
    node = replace(make_node("a", gpus=3), cards=cards)
    text = page_of([], [(node, Claim(0, ((0, 0.3), (0, 0.2), (2, 1.0))), 2)], 1.0).decode()
    rows = [line for line in text.splitlines() if line.startswith("cluster_card_")]
    assert rows == [
        'cluster_card_bytes{card="0",kind="total",node="a"} 100.0',
        'cluster_card_bytes{card="0",kind="used",node="a"} 60.0',
        'cluster_card_bytes{card="0",kind="claimed",node="a"} 50.0',
        'cluster_card_bytes{card="0",kind="foreign",node="a"} 20.0',
        'cluster_card_bytes{card="1",kind="total",node="a"} 50.0',
        'cluster_card_bytes{card="1",kind="claimed",node="a"} 0.0',
        'cluster_card_utilisation{card="0",node="a"} 0.25',
    ]


def test_an_ingress_is_shown_the_pages_of_the_others() -> None:
    async def scene(s: Scene) -> None:
        await s.supervisor.metrics("i0", b"# HELP a_total A.\n# TYPE a_total counter\na_total 1.0\n")
        pages = await s.supervisor.metrics("i1", b"")
        assert b"\na_total 1.0\n" in joined(pages, {})
        assert b"a_total" not in joined(await s.supervisor.metrics("i0", b""), {})

    play(scene)
