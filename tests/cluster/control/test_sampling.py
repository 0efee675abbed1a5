from __future__ import annotations

from cluster.metrics import joined
from tests.cluster.control.scenes import (
    Scene,
    play,
)


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


def test_an_ingress_is_shown_the_pages_of_the_others() -> None:
    async def scene(s: Scene) -> None:
        await s.supervisor.metrics("i0", b"# HELP a_total A.\n# TYPE a_total counter\na_total 1.0\n")
        pages = await s.supervisor.metrics("i1", b"")
        assert b"\na_total 1.0\n" in joined(pages, {})
        assert b"a_total" not in joined(await s.supervisor.metrics("i0", b""), {})

    play(scene)
